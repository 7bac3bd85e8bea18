"""`reflex evaluate`: a run, or any policy, on held-out questions: answers, scores, a table."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

from reflex_jax.commands.arguments import seed_number, whole_number
from reflex_jax.commands.start import prepare
from reflex_jax.config import Config, ConfigError, user_path

STAGES = ("generate", "score")


def add(commands: Any) -> None:
    """Words of the command."""
    command = commands.add_parser(
        "evaluate", help="answers of a run or of a policy to held-out questions, and their scores"
    )
    command.add_argument("directory", help="run directory, e.g. runs/phantom, or a policy as transformers saves it")
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="e.g. training.evaluation_questions=0 (all)"
    )
    command.add_argument(
        "--config", metavar="FILE", help="of a policy without a run: how it is asked; default: the defaults"
    )
    command.add_argument("--sets", metavar="A,B", help="labels of some of data.sources; default: all")
    command.add_argument("--split", help="default: data.evaluation_split")
    command.add_argument(
        "--to", metavar="DIR", help="folder of the answers; default: in the run, named after split and step"
    )
    command.add_argument("--stage", help="generate (ask alone) or score (what is there); default: both")
    command.add_argument(
        "--samples", type=whole_number, help="drawn for each question; default: grpo.group_size of a run, 0 else"
    )
    command.add_argument("--probe", metavar="A,B", help="pictures seen: real (default), blank, shuffled, other_patient")
    command.add_argument("--blank-image", action="store_true", help="the same as --probe blank")
    command.add_argument("--initial", action="store_true", help="the policy the run started from")
    command.add_argument("--step", type=whole_number, help="of the run; default: its newest checkpoint")
    command.add_argument(
        "--no-rewards", action="store_true", help="load no judge and compute no rewards; no samples unless asked"
    )
    command.add_argument("--convention", metavar="A,B", default="", help="published ways to count, beside our own")
    command.add_argument("--bertscore", metavar="DIR", help="BERT that compares open answers, as transformers saves it")
    command.add_argument(
        "--bertscore-layer", type=whole_number, metavar="N", help="whose states it compares; default: the last"
    )
    command.add_argument("--verdicts", metavar="FILE", help="of `reflex judge` over answers.jsonl, into the table")
    command.add_argument("--seed", type=seed_number, default=0, help="of the intervals (default 0)")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Asks and scores; prints the metrics, the floors beside them, the table, and what the data card says."""
    config, is_run = _read(options)
    stages = _stages(options)
    probes = _probes(options)
    sampled = 0 if options.no_rewards or not is_run else config.grpo.group_size
    samples = sampled if options.samples is None else options.samples
    if samples < 0 or samples == 1:
        raise ConfigError(f"--samples: expected 0 for none, or at least 2; got {samples}. One is the greedy answer.")
    prepare()
    from reflex_jax.data.probes import PROBES
    from reflex_jax.dataset_card.beside import beside_scores
    from reflex_jax.evaluation.collect import collect
    from reflex_jax.evaluation.evaluate import (
        Answerer,
        evaluation_folder,
        generate_answers,
        pinned,
        with_sets,
        without_rewards,
    )
    from reflex_jax.evaluation.generate import Pass
    from reflex_jax.evaluation.manifest import read_manifest
    from reflex_jax.evaluation.score import score_folder
    from reflex_jax.evaluation.tables import make_table, shortened, write_table
    from reflex_jax.processes import is_first

    if unknown := [name for name in probes if name not in PROBES]:
        raise ConfigError(f"--probe: expected some of {', '.join(PROBES)}; got {', '.join(unknown)}.")
    config = with_sets(config, _names("--sets", options.sets) if options.sets is not None else ())
    config = without_rewards(config) if options.no_rewards else config
    answerer = pinned(Answerer(config=config, is_run=is_run, initial=options.initial, step=options.step))
    folder = user_path(options.to) if options.to else evaluation_folder(answerer)
    scoring = _scoring(options)  # refuses before anything is asked
    metrics: dict[str, float] = {}
    if "generate" in stages:
        passes = [Pass(probe) for probe in probes] + ([Pass(probes[0], samples)] if samples else [])
        metrics = generate_answers(answerer, passes, folder)
    if not is_first():
        return 0
    scored = score_folder(folder, scoring) if "score" in stages else {}
    beside = beside_scores(config)
    for name, value in (metrics | beside.floors).items():
        print(f"{name:40s} {value:8.4f}")
    for line in beside.lines:
        print(f"data: {line}")
    if scored:
        verdicts = user_path(options.verdicts) if options.verdicts else None
        collected = collect(scored, beside.answers or None, verdicts)
        cells = make_table(collected, seed=options.seed)
        about, conventions = read_manifest(folder)["about"], scoring.conventions
        text = write_table(folder, cells, collected, about, seed=options.seed, conventions=conventions)
        print(shortened(text))
        print(f"{folder}/table.md has sets, modalities and types of questions apart.")
    else:
        print(f"{folder} holds the answers.")
    if "generate" in stages and config.evidence.every:
        _tell_evidence(folder)
    return 0


def _tell_evidence(folder: Path) -> None:
    """Prints where the evidence of a folder ends, to be kept elsewhere: nothing in the folder vouches for it."""
    from reflex_jax.evidence.reader import EVIDENCE_FILE, read_head

    if (head := read_head(folder)) is not None:
        print(
            f"{folder}/{EVIDENCE_FILE} has {head.count} lines and ends with {head.hash}; `reflex replay` checks them."
        )


def _read(options: argparse.Namespace) -> tuple[Config, bool]:
    """The configuration, and whether it is that of a run."""
    from reflex_jax.config_reader import load_config
    from reflex_jax.run.directory import CONFIG_FILE, load_run_config

    overrides = list(options.overrides)
    if options.split is not None:
        overrides.append(f"data.evaluation_split={options.split}")
    place = user_path(options.directory)
    marks = ("config.json", "adapter_config.json", "snapshots")
    looks_like_policy = options.directory == "phantom" or any(os.path.exists(place / mark) for mark in marks)
    is_run = not options.directory or os.path.isfile(place / CONFIG_FILE) or not (looks_like_policy or options.config)
    if not is_run:
        of_run = [
            name for name, given in (("--initial", options.initial), ("--step", options.step is not None)) if given
        ]
        if of_run:
            raise ConfigError(f"{', '.join(of_run)}: {options.directory} is a policy and no run; leave it out.")
        if not options.to:
            raise ConfigError(f"--to: expected a folder for the answers of {options.directory}, which is no run.")
        # without a recipe there is no judge that could be meant
        plain = [] if options.config else ["rewards.components={answer: 1, format: 1}"]
        config = load_config(options.config, [*plain, f"policy.path={options.directory}", *overrides])
    else:
        if options.config is not None:
            raise ConfigError(
                f"--config: {options.directory} is a run, which has its own; set single keys by key=value."
            )
        config = load_run_config(options.directory, overrides, runs_rewards=not options.no_rewards)
    named = [text for text in overrides if text.startswith("evidence.")]
    if options.no_rewards and config.evidence.every and named:  # what the run says by itself is left aside
        raise ConfigError(f"{', '.join(named)}: without rewards there is no evidence of any; leave --no-rewards out.")
    if options.split is not None:  # of every source, whatever it is called in the run
        sources = tuple(dataclasses.replace(source, evaluation_split=None) for source in config.data.sources)
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, sources=sources))
    return config, is_run


def _probes(options: argparse.Namespace) -> tuple[str, ...]:
    if options.blank_image and options.probe is not None:
        raise ConfigError(
            f"--blank-image: it is --probe blank, and --probe {options.probe} is given too; leave one out."
        )
    return _names("--probe", options.probe or ("blank" if options.blank_image else "real"))


def _stages(options: argparse.Namespace) -> tuple[str, ...]:
    if options.stage is not None and options.stage not in STAGES:
        raise ConfigError(f"--stage: expected one of {', '.join(STAGES)}, or none for both; got {options.stage!r}.")
    return STAGES if options.stage is None else (options.stage,)


def _names(setting: str, text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ConfigError(f"{setting}: expected at least one name; got {text!r}.")
    return names


def _scoring(options: argparse.Namespace) -> Any:
    from reflex_jax.evaluation.score import Scoring, open_encoder

    conventions = _names("--convention", options.convention) if options.convention else ()
    if options.bertscore is None:
        if options.bertscore_layer is not None:
            raise ConfigError("--bertscore-layer: expected --bertscore DIR beside it; there is none.")
        return Scoring(conventions=conventions)
    return open_encoder(Scoring(conventions=conventions, layer=options.bertscore_layer), user_path(options.bertscore))
