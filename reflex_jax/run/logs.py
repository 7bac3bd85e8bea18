"""What a run writes while it trains: metrics.jsonl, samples.jsonl, TensorBoard events, optionally Weights & Biases.

The JSON files are the record: one complete line per step (or sample), flushed before the step's checkpoint is written,
and cut back on resume, so that every step is there exactly once however often the run was interrupted. TensorBoard and
Weights & Biases are views of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from reflex_jax.config import ConfigError
from reflex_jax.stops import not_written

METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
NOT_FINITE = "not_finite"  # key of a row that names its values JSON has no number for

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class RunLogger:
    """Writes the metrics and samples of one run."""

    def __init__(
        self, directory: str | os.PathLike[str], *, tensorboard: bool, wandb_project: str | None, resume_step: int
    ):
        """Opens the files and removes what a continued run is about to write again.

        Args:
          directory: the run directory.
          tensorboard: also write TensorBoard events, under `tensorboard/`.
          wandb_project: also send the metrics to this Weights & Biases project.
          resume_step: the step of the restored checkpoint: rows above it are removed, those up to it stand. 0: nothing
            was restored, so all rows are removed.

        Raises:
          ConfigError: `wandb_project` is set and wandb is not installed, a row that must stand cannot be read, or the files
            cannot be written.
        """
        directory = Path(directory)
        self._directory, self._is_broken = directory, False
        # first, because it can be refused: the files of the run are not touched then
        self._wandb = _start_wandb(directory, wandb_project) if wandb_project else None
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._metrics = _JsonLines(directory / METRICS_FILE, resume_step)
            self._samples = _JsonLines(directory / SAMPLES_FILE, resume_step)
            self._tensorboard = _TensorBoard(directory / TENSORBOARD_FOLDER, resume_step) if tensorboard else None
        except OSError as error:
            raise ConfigError(f"{error.filename or directory}: cannot be written ({error.strerror}).") from error
        self._last_step: int | None = resume_step or None

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes one step: numbers and short strings (such as the phase) by name.

        A number that is not finite is written as null and named under `not_finite`. TensorBoard receives numbers only.

        Raises:
          ValueError: the step is not above the last one, or a metric is called `step` or `not_finite`.
          TypeError: a value is neither a number nor a string; all such names are listed.
          RunStopped: the disk takes no more.
        """
        if self._last_step is not None and step <= self._last_step:
            raise ValueError(f"metrics: expected a step above {self._last_step}, the last one written; got {step}.")
        values = {name: _plain(value) for name, value in metrics.items()}
        wrong = sorted(name for name, value in values.items() if not isinstance(value, (float, int, str)))
        if wrong:
            raise TypeError(f"metrics: expected numbers and strings; got something else for {', '.join(wrong)}.")
        with self._writing(f"the metrics of step {step}"):
            self._metrics.append(step, values)
            self._last_step = step
            if self._tensorboard is not None:
                self._tensorboard.add(
                    step, {n: v for n, v in values.items() if not isinstance(v, str) and math.isfinite(v)}
                )
        if self._wandb is not None:
            self._wandb.log(values, step=step)

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends the completions of one step to samples.jsonl, one line each.

        Raises:
          RunStopped: the disk takes no more.
        """
        with self._writing(f"the samples of step {step}"):
            for row in rows:
                self._samples.append(step, row)

    def close(self) -> None:
        """Finishes the files and the views."""
        self._metrics.close()
        self._samples.close()
        if self._tensorboard is not None and not self._is_broken:
            with self._writing("the TensorBoard events"):
                self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._is_broken = True
            raise not_written(what, self._directory, error) from error


class SilentLogger:
    """What the processes log that do not write: nothing."""

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Does nothing."""

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def open_logger(
    directory: Path, *, tensorboard: bool, wandb_project: str | None, resume_step: int, is_writing: bool
) -> RunLogger | SilentLogger:
    """The logger of one process of a run; see `RunLogger`."""
    if not is_writing:
        return SilentLogger()
    return RunLogger(directory, tensorboard=tensorboard, wandb_project=wandb_project, resume_step=resume_step)


def last_metrics(directory: Path) -> dict[str, Any]:
    """The last complete row of metrics.jsonl; {} where there is none."""
    path = directory / METRICS_FILE
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return json.loads(lines[-1]) if lines else {}


class CompilationCounter:
    """Counts the programs XLA was asked to compile, those answered from the persistent cache included.

    After the first steps of a run there should be none: every shape is static.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # programs may compile in several threads
        self._total = self._read = 0
        jax.monitoring.register_event_duration_secs_listener(self._count)

    @property
    def total(self) -> int:
        """Compilations since the start."""
        with self._lock:
            return self._total

    def read(self) -> int:
        """Compilations since the last call, or since the start."""
        with self._lock:
            new, self._read = self._total - self._read, self._total
        return new

    def close(self) -> None:
        """Stops counting."""
        jax.monitoring.unregister_event_duration_listener(self._count)

    def _count(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILE_EVENT:
            with self._lock:
                self._total += 1


class _JsonLines:
    """An append-only file of JSON objects that begin with their step."""

    def __init__(self, path: Path, resume_step: int):
        _keep_steps(path, resume_step)
        self._file = path.open("ab", buffering=0)  # no buffer, so that nothing is left to fail when it is closed

    def append(self, step: int, row: Mapping[str, Any]) -> None:
        reserved = sorted({"step", NOT_FINITE} & row.keys())
        if reserved:
            raise ValueError(f"{self._file.name}: {', '.join(reserved)} cannot be the name of a value.")
        not_finite: dict[str, str] = {}
        cleaned = {name: _finite(value, name, not_finite) for name, value in row.items()}
        if not_finite:
            cleaned[NOT_FINITE] = not_finite
        line = json.dumps({"step": int(step), **cleaned}, ensure_ascii=False, allow_nan=False)
        # a lone surrogate, which UTF-8 cannot hold, becomes the escape that JSON has for it
        rest = memoryview((line + "\n").encode("utf-8", errors="backslashreplace"))
        while rest:
            rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        self._file.close()


def _keep_steps(path: Path, resume_step: int) -> None:
    """Removes the rows above `resume_step` (0: all rows) and broken lines at the end, which a machine that died leaves.

    Raises:
      ConfigError: a broken line has rows behind it.
    """
    if not path.exists():
        return
    kept: list[bytes] = []
    if resume_step > 0:
        content = path.read_bytes()
        lines = [(number, line) for number, line in enumerate(content.split(b"\n"), 1)]
        torn = bool(lines.pop()[1])
        steps = [_step_of(line) for _, line in lines]
        while steps and steps[-1] is None:
            steps.pop()
        dropped = len(lines) - len(steps)
        if None in steps:
            number, line = lines[steps.index(None)]
            raise ConfigError(
                f"{path}, line {number}: expected a JSON object with a step; got {line[:80]!r}. Repair or remove the line to "
                "continue the run."
            )
        numbers = [step for step in steps if step is not None]
        kept = [line + b"\n" for (_, line), step in zip(lines, numbers, strict=False) if step <= resume_step]
        last = max((step for step in numbers if step <= resume_step), default=0)
        if dropped:
            print(
                f"{path}: broken lines removed at its end: {dropped}. The last whole one is of step {last}, the run goes on "
                f"after step {resume_step}.",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        if len(kept) == len(lines) and not torn:
            return
    # through a second file: an interruption here must not lose the rows that stand
    rewritten = path.with_name(path.name + ".rewritten")
    with rewritten.open("wb") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    rewritten.replace(path)


def _step_of(line: bytes) -> int | None:
    """The step of a row, None where the line is none."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if type(step) is int else None


def _plain(value: Any) -> Any:
    """A Python number for an array or numpy scalar without axes; anything else unchanged."""
    is_scalar = isinstance(value, (np.generic, np.ndarray, jax.Array)) and value.ndim == 0
    return value.item() if is_scalar else value


def _finite(value: Any, name: str, not_finite: dict[str, str]) -> Any:
    """The value with null for every number that is not finite; their places are noted in `not_finite`."""
    value = _plain(value)
    if isinstance(value, float) and not math.isfinite(value):
        not_finite[name] = str(value)
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item, f"{name}.{key}", not_finite) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item, f"{name}.{index}", not_finite) for index, item in enumerate(value)]
    return value


class _TensorBoard:
    """Event files, written in this thread: a writer's own thread would die of a full disk and let the run wait for it."""

    def __init__(self, directory: Path, resume_step: int):
        # tensorboardX imports torch where it is installed, for nothing we use: seconds and hundreds of megabytes
        is_kept_out = "torch" not in sys.modules
        if is_kept_out:
            sys.modules["torch"] = None  # type: ignore[assignment]  # makes `import torch` fail as if it were absent
        try:
            from tensorboardX import event_file_writer, summary
            from tensorboardX.proto import event_pb2
        finally:
            if is_kept_out:
                del sys.modules["torch"]
        self._events, self._scalar = event_pb2, summary.scalar
        directory.mkdir(parents=True, exist_ok=True)
        self._writer = event_file_writer.EventsWriter(str(directory / "events"), filename_suffix=f".{os.getpid()}")
        # TensorBoard hides the events an interrupted run wrote from here on
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(event_pb2.Event(step=resume_step + 1 if resume_step else 0, session_log=start))

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        values = [self._scalar(name, value).value[0] for name, value in numbers.items()]
        self._write(self._events.Event(step=step, summary={"value": values}))

    def close(self) -> None:
        self._writer.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
        self._writer.flush()


def _start_wandb(directory: Path, project: str) -> Any:
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"logging.wandb_project={project} needs the package wandb, which is not installed: "
            "pip install 'reflex_jax[wandb]', or set logging.wandb_project=null."
        ) from error
    # the same folder is the same run, so that a continued run continues its curves
    identity = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:16]
    return wandb.init(project=project, name=directory.name, id=identity, resume="allow", dir=str(directory))
