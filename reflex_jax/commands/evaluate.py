"""`reflex evaluate`: the latest checkpoint of a run on held-out questions."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from reflex_jax.commands.start import prepare


def add(commands: Any) -> None:
    """Words of the command."""
    command = commands.add_parser("evaluate", help="score the latest checkpoint of a run on held-out questions")
    command.add_argument("directory", help="run directory, e.g. runs/phantom")
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="e.g. training.evaluation_questions=0 (all)"
    )
    command.add_argument("--split", help="default: the run's data.evaluation_split")
    command.add_argument("--blank-image", action="store_true", help="show the policy a grey picture instead")
    command.add_argument("--initial", action="store_true", help="score the policy the run started from")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the metrics, the floors beside them and what the data card says."""
    from reflex_jax.run.directory import load_run_config

    overrides = list(options.overrides)
    if options.split is not None:
        overrides.append(f"data.evaluation_split={options.split}")
    config = load_run_config(options.directory, overrides)
    if options.split is not None:  # of every source, whatever it is called in the run
        sources = tuple(dataclasses.replace(source, evaluation_split=None) for source in config.data.sources)
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, sources=sources))
    prepare()
    from reflex_jax.dataset_card.beside import beside_scores
    from reflex_jax.evaluation.evaluate import evaluate_run

    metrics = evaluate_run(config, blank_image=options.blank_image, initial=options.initial)
    floors, lines = beside_scores(config)
    for name, value in (metrics | floors).items():
        print(f"{name:40s} {value:8.4f}")
    for line in lines:
        print(f"data: {line}")
    return 0
