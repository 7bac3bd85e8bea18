"""Checkpoints of a run: the only module that knows orbax.

One checkpoint holds the state (parameters, optimiser, step) and a few facts in JSON: which data, reference policy and judge
the run belongs to, its seed, its phases as laid out, and metrics. Saving runs beside the next steps; a checkpoint appears
under its name only when it is whole.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from reflex_jax.config import ConfigError
from reflex_jax.step.state import TrainState
from reflex_jax.stops import not_written


class RunCheckpoints:
    """Saves and restores the state of a run under `directory`/checkpoints, from all its processes."""

    def __init__(self, directory: Path, *, keep: int, best_metric: str | None = None, is_owner: bool = True):
        """Opens the folder.

        Args:
          directory: the run directory, the same for all processes.
          keep: how many of the latest checkpoints stay.
          best_metric: the checkpoint with the highest value of this metric stays too.
          is_owner: the run itself: the folder is made, and what a killed save left in it is removed. False: it is only
            read, and a run that saves there is not disturbed.
        Raises:
          ConfigError: the folder cannot be made or read.
        """
        # every failure of orbax reaches its caller as an exception; what its threads log on top are tracebacks of the same
        logging.getLogger("absl").addFilter(_is_not_orbax)
        self._path = (directory / "checkpoints").absolute()
        policies: list[checkpoint_managers.PreservationPolicy] = [checkpoint_managers.LatestN(keep)]
        self._best_metric, self._is_owner = best_metric, is_owner
        self._values: dict[int, float | None] = {}  # of that metric, by step; None: its facts cannot be read
        if best_metric:
            policies.append(_Best(self._values))
        self._saved: int | None = None  # the newest step that was handed to orbax
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies), create=is_owner,
            cleanup_tmp_directories=is_owner, read_only=not is_owner,
        )  # fmt: skip
        try:
            self._manager = ocp.CheckpointManager(self._path, options=options)
        except OSError as error:
            raise ConfigError(
                f"{self._path}: expected the checkpoints of the run; the folder cannot be used ({error})."
            ) from error
        if best_metric:
            for step in self.steps():
                self._values[step] = None
                with suppress(ConfigError):
                    self._values[step] = _value(self.read_facts(step).get("metrics"), best_metric)

    def steps(self) -> list[int]:
        """All complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, step: int, facts: dict[str, Any], metrics: Mapping[str, float | str]) -> None:
        """Starts to save the state after `step` steps; a step that is saved already is left as it is.

        Raises:
          RunStopped: this save could not start, or the one before it failed; the older checkpoints stand.
        """
        if step in (self._saved, self.latest_step()):
            return
        self.wait()  # for the one before, so that its failure is not taken for this one's
        numbers = {k: v for k, v in metrics.items() if isinstance(v, (int, float)) and math.isfinite(v)}
        self._values[step] = _value(numbers, self._best_metric)
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), facts=ocp.args.JsonSave({**facts, "metrics": numbers})
                ),
            )
        except (OSError, ValueError) as error:
            raise not_written(f"the checkpoint of step {step}", self._path, error) from error
        self._saved = step

    def restore(self, like: TrainState, step: int | None = None) -> tuple[TrainState, dict[str, Any]]:
        """Restores a checkpoint, whatever mesh and processes wrote it.

        Args:
          like: arrays of the shapes and shardings wanted.
          step: which; None: the newest.
        Raises:
          ConfigError: there is none, not that one, or it cannot be read.
        """
        step = self.find_step(step)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        restored = self._read(step, state=ocp.args.StandardRestore(abstract), facts=ocp.args.JsonRestore())
        return restored["state"], restored["facts"]

    def read_facts(self, step: int) -> dict[str, Any]:
        """The facts of a complete checkpoint alone.

        Raises:
          ConfigError: they cannot be read.
        """
        return self._read(step, facts=ocp.args.JsonRestore())["facts"]

    def find_step(self, step: int | None = None) -> int:
        """Returns the newest complete checkpoint's step, or `step` if it has one.

        Raises:
          ConfigError: there is none; the message lists those there.
        """
        found = self.steps()
        if not found:
            raise ConfigError(f"no checkpoint in {self._path}; train first.")
        if step is not None and step not in found:
            raise ConfigError(f"no checkpoint of step {step} in {self._path}; it holds {', '.join(map(str, found))}.")
        return found[-1] if step is None else step

    def restore_params(self, like: Any, step: int) -> Any:
        """Restores the trained parameters alone, without the optimiser's moments, which are twice as large.

        Args:
          like: tree of `jax.ShapeDtypeStruct` with shardings.
          step: of `find_step`.
        Raises:
          ConfigError: it cannot be read.
        """
        part = {"params": like}
        arguments = ocp.args.PyTreeRestore(
            item=part, restore_args=ocp.checkpoint_utils.construct_restore_args(part), partial_restore=True
        )
        return self._read(step, state=arguments)["state"]["params"]

    def _read(self, step: int, **items: Any) -> Any:
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
            if "facts" in items and not isinstance(restored["facts"], dict):
                raise ValueError("its facts are no JSON object")
            return restored
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            RuntimeError,
        ) as error:  # what damaged files make readers raise
            older = [s for s in self.steps() if s < step]
            if not self._is_owner:
                way_out = "run the command again if the run is under way, which replaces its checkpoints"
            else:
                way_out = f"remove that folder to go on from step {older[-1]}" if older else "start a new run"
            raise ConfigError(
                f"{self._path / str(step)}: this checkpoint cannot be read; nothing was changed. Restore the folder from a "
                f"copy, or {way_out}. ({type(error).__name__}: {(str(error).strip() or '?').splitlines()[0][:300]})"
            ) from error

    def wait(self) -> None:
        """Returns when everything handed to `save` is on disk.

        Raises:
          RunStopped: it could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise not_written(f"the checkpoint of step {self._saved}", self._path, error) from error

    def close(self) -> None:
        """Waits, then lets go of the folder."""
        try:
            self.wait()
        finally:
            self._manager.close()


class _Best(checkpoint_managers.PreservationPolicy):
    """Keeps the checkpoint with the highest value, the latest of equal ones; one without a value is the lowest.

    One whose value cannot be read stays too: it may be the best, and its state may be whole.

    Orbax has such a policy, but knows no metrics of checkpoints that an earlier process saved, unless it writes and reads them in
    files of its own, and then ranks whatever these hold.
    """

    def __init__(self, values: Mapping[int, float | None]) -> None:
        self._values = values

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """For each checkpoint, whether it stays."""
        del context
        values = {info.step: self._values.get(info.step, -math.inf) for info in checkpoints}
        ranked = [(value, step) for step, value in values.items() if value is not None]
        best = max(ranked, default=(None, None))[1]
        return [step == best or value is None for step, value in values.items()]


def _value(metrics: Any, name: str | None) -> float:
    """Of a metric in what a checkpoint says; lowest where it is no finite number."""
    found = metrics.get(name) if isinstance(metrics, dict) else None
    return found if isinstance(found, int | float) and abs(found) < math.inf else -math.inf


def _is_not_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in Path(record.pathname).parts
