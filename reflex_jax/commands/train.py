"""`reflex train` and `reflex sft`: GRPO with the rewards of a configuration; the supervised phase."""

from __future__ import annotations

import argparse
import math
from typing import Any

from reflex_jax.commands.start import prepare
from reflex_jax.config import RewardsConfig
from reflex_jax.config_reader import load_config
from reflex_jax.run.ownership import refuse_second_owner


def add(commands: Any) -> None:
    """Words of both commands."""
    for name, run, text in (
        ("train", run_train, "GRPO with the rewards of a configuration; resumes an existing run"),
        ("sft", run_sft, "the supervised phase: imitate target completions"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("config", help="YAML file, e.g. configs/phantom.yaml")
        command.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="e.g. grpo.group_size=4")
        command.set_defaults(run=run)


def run_train(options: argparse.Namespace) -> int:
    """Trains until the configured steps are done, and says where everything lies."""
    config = load_config(options.config, options.overrides)
    refuse_second_owner(config.run.directory)  # before a device is asked for, which the owner may hold
    prepare()
    from reflex_jax.processes import is_first
    from reflex_jax.rewards.components import asks_endpoint
    from reflex_jax.training.loop import train

    weights = config.rewards.weights
    off = [name for name in RewardsConfig().components | weights if not weights.get(name)]
    if off and is_first():
        kept = ", ".join(f"{weight:g} x {name}" for name, weight in weights.items() if weight)
        print(f"reward: {kept}; without {', '.join(off)}", flush=True)
    result = train(config)
    if not is_first():
        return 0
    reward = result.metrics.get("reward/total")
    outcome = f"{result.steps} steps" + (
        f", reward {reward:.2f}." if reward is not None and math.isfinite(reward) else "."
    )
    print(f"\nDone: {outcome}" if result.new_steps else f"\nNothing left to do, the run is complete: {outcome}")
    print(f"  metrics   {result.directory}/metrics.jsonl   (tensorboard --logdir {result.directory})")
    print(f"  samples   {result.directory}/samples.jsonl   question, completion, statements, every score")
    own = f" 'rewards.files=[{', '.join(config.rewards.files)}]'" if config.rewards.files else ""
    own += f" endpoint.url={config.endpoint.url}" if any(map(asks_endpoint, weights)) else ""
    print(f"  evaluate  reflex evaluate {result.directory}{own}")
    return 0


def run_sft(options: argparse.Namespace) -> int:
    """Imitates until the configured steps are done."""
    config = load_config(options.config, options.overrides)
    refuse_second_owner(config.run.directory)
    prepare()
    from reflex_jax.processes import is_first
    from reflex_jax.training.loop import imitate
    from reflex_jax.training.objectives import supervised_policy

    result = imitate(config)
    if is_first():
        outcome = f"Done: {result.steps} steps." if result.new_steps else "Nothing left to do, the run is complete."
        print(f"\n{outcome} Start GRPO from it: reflex train CONFIG policy.path={supervised_policy(config)}")
    return 0
