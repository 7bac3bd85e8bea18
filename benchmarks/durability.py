"""What saving costs: how long the main thread waits for a checkpoint, against the steps between two of them.

    python benchmarks/durability.py CHECKPOINTS --policy small --step-seconds 24.7

Builds the training state of a policy (masters and two moments, 12 bytes a parameter), saves it as a run does, and prints the
seconds `save` blocks, the seconds until the checkpoint is whole on disk (written beside the next steps), and the share of
the time between two checkpoints at the default `training.save_every`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import jax

from reflex_jax.config import TrainingConfig
from reflex_jax.config_reader import load_config
from reflex_jax.run.checkpoint import RunCheckpoints
from reflex_jax.sharding import make_mesh
from reflex_jax.step.models import load_models, load_params
from reflex_jax.step.program import build_program


def main() -> None:
    """Parses the command line, saves, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", type=Path, help="made by make_checkpoints.py")
    parser.add_argument("--policy", default="small", choices=("tiny", "small"))
    parser.add_argument(
        "--step-seconds", type=float, required=True, help="of this policy, as benchmarks/step.py printed"
    )
    parser.add_argument("--saves", type=int, default=5)
    arguments = parser.parse_args()
    config = load_config(
        None,
        [
            f"policy.path={arguments.checkpoints}/qwen-{arguments.policy}",
        ],
    )
    models = load_models(config, make_mesh(config.mesh), with_judge=False)
    state, _ = build_program(config, models.shapes).start(load_params(models), with_reference=False)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    blocked, written = [], []
    with tempfile.TemporaryDirectory() as directory:
        checkpoints = RunCheckpoints(Path(directory), keep=2)
        for step in range(1, arguments.saves + 1):
            started = time.perf_counter()
            checkpoints.save(state, step, {"step": step}, {})
            blocked.append(time.perf_counter() - started)
            checkpoints.wait()
            written.append(time.perf_counter() - started)
        checkpoints.close()
    between = TrainingConfig.save_every * arguments.step_seconds
    print(
        f"{arguments.policy}: state of {size / 1e9:.2f} GB; save blocks {statistics.median(blocked):.2f} s (all "
        f"{[round(b, 2) for b in blocked]}), whole on disk after {statistics.median(written):.2f} s; "
        f"{100 * statistics.median(blocked) / between:.2f} % of the {between:.0f} s between two checkpoints"
    )


if __name__ == "__main__":
    main()
