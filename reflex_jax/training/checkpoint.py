"""Checkpoints of a run: the only module that knows orbax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from reflex_jax.config import ConfigError
from reflex_jax.training.state import TrainState


class RunCheckpoints:
    """Saves and restores the state of a run under `directory`/checkpoints, asynchronously and atomically."""

    def __init__(self, directory: Path, *, keep: int):
        """Opens (and makes) the folder.

        Args:
          directory: the run directory.
          keep: how many of the latest checkpoints stay.
        """
        self._path = (directory / "checkpoints").absolute()
        self._manager = ocp.CheckpointManager(
            self._path, options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        )

    def latest_step(self) -> int | None:
        """The newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, step: int, facts: dict[str, Any]) -> None:
        """Starts to save the state after `step` steps, with a few JSON facts beside it."""
        self._manager.save(
            step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), facts=ocp.args.JsonSave(facts))
        )

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Restores the newest checkpoint into arrays with the shapes and shardings of `like`.

        Raises:
          ConfigError: there is none.
        """
        step = self.latest_step()
        if step is None:
            raise ConfigError(f"no checkpoint in {self._path}; train first.")
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), facts=ocp.args.JsonRestore())
        )
        return restored["state"], restored["facts"]

    def find_step(self, step: int | None = None) -> int:
        """Returns the newest complete checkpoint's step, or `step` if it has one.

        Raises:
          ConfigError: there is none; the message lists those there.
        """
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise ConfigError(f"no checkpoint in {self._path}; train first.")
        if step is not None and step not in steps:
            raise ConfigError(f"no checkpoint of step {step} in {self._path}; it holds {', '.join(map(str, steps))}.")
        return steps[-1] if step is None else step

    def restore_params(self, like: Any, step: int) -> Any:
        """Restores the trained parameters alone, without the optimiser's moments, which are twice as large.

        Args:
          like: tree of `jax.ShapeDtypeStruct` with shardings.
          step: of `find_step`.
        """
        part = {"params": like}
        arguments = ocp.args.PyTreeRestore(
            item=part, restore_args=ocp.checkpoint_utils.construct_restore_args(part), partial_restore=True
        )
        return self._manager.restore(step, args=ocp.args.Composite(state=arguments))["state"]["params"]

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()
