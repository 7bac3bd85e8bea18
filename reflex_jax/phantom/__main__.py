"""Rebuilds the judge and the policy that ship with the package: `python -m reflex_jax.phantom`.

Both are made from nothing but the phantom world and a seed. Without `--judge` or `--policy` both are rebuilt, in this
order; the files replace those in `--output`. The last lines printed are the judge's fitness on unseen phantoms.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.judge.evidence import load_judge
from reflex_jax.phantom.fitness import judge_fitness
from reflex_jax.phantom.judge import JudgeRecipe, StatementCache, train_judge, write_judge_directory
from reflex_jax.phantom.policy import warm_start, write_policy_directory

_FITNESS_WORLD = 1_000_003  # pictures that no split of any sensible seed shows


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and rebuilds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--judge", action="store_true", help="rebuild the judge")
    parser.add_argument("--policy", action="store_true", help="rebuild the policy")
    parser.add_argument("--output", type=Path, default=None, help="default: where the package keeps them")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    output = chosen.output or resolve_checkpoint("phantom", "judge").parent
    if chosen.judge or not chosen.policy:
        rebuild_judge(output / "judge", chosen.seed)
    if chosen.policy or not chosen.judge:
        rebuild_policy(output / "policy", chosen.seed)


def rebuild_judge(directory: Path, seed: int) -> None:
    """Trains the judge and prints what it is worth."""
    started = time.monotonic()

    def report(step: int, losses: dict[str, float]) -> None:
        print(f"judge step {step}: {_listed(losses)} ({time.monotonic() - started:.0f} s)", flush=True)

    write_judge_directory(directory)
    train_judge(directory, JudgeRecipe(), seed=seed, report=report)
    judge = load_judge(directory)
    fitness = judge_fitness(judge.params, judge.config, StatementCache(directory), world=_FITNESS_WORLD)
    print(f"judge fitness: {_listed(fitness)}")


def rebuild_policy(directory: Path, seed: int) -> None:
    """Warms the policy up by the supervised phase."""
    write_policy_directory(directory)
    with tempfile.TemporaryDirectory() as work:
        warm_start(directory, Path(work), seed=seed)


def _listed(numbers: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in numbers.items())


if __name__ == "__main__":
    main()
