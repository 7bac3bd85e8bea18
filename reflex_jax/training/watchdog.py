"""A heartbeat for every process of a run, and a stack dump when a step stalls."""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
from pathlib import Path

from reflex_jax.config import ConfigError
from reflex_jax.processes import host_name
from reflex_jax.stops import not_written

HEARTBEAT_FOLDER = "heartbeats"


class Watchdog:
    """Notes every step in `heartbeats/process-K.json`; when none ends for too long, says so and dumps all stacks.

    The dump goes to stderr and to `heartbeats/process-K.stacks.txt`. A stalled run is not ended: a slow file system may
    recover, and only the user knows.
    """

    def __init__(self, directory: Path, *, process: int, stall_seconds: float):
        """Starts watching.

        Args:
          directory: the run directory.
          process: number of this process.
          stall_seconds: a step longer than this is reported, once; 0: never.
        Raises:
          ConfigError: the directory is not writable.
        """
        self._folder, self._process, self._limit = directory / HEARTBEAT_FOLDER, process, stall_seconds
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self._folder} cannot be made ({error.strerror}).") from error
        self._step, self._since, self._is_reported = 0, time.monotonic(), False
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if stall_seconds:
            self._thread.start()

    def beat(self, step: int) -> None:
        """Says that this process has ended a step.

        Raises:
          RunStopped: the disk takes no more.
        """
        self._step, self._since, self._is_reported = step, time.monotonic(), False
        path = self._folder / f"process-{self._process}.json"
        part = path.with_suffix(".part")
        beat = json.dumps({"step": step, "time": time.time(), "process": host_name(), "pid": os.getpid()})
        try:
            part.write_text(beat)
            part.replace(path)
        except OSError as error:
            raise not_written(f"the heartbeat of step {step}", path, error) from error

    def close(self) -> None:
        """Stops watching."""
        self._is_closed.set()

    def _watch(self) -> None:
        while not self._is_closed.wait(min(self._limit / 4, 5.0)):
            silent = time.monotonic() - self._since
            if silent > self._limit and not self._is_reported:
                self._is_reported = True
                self._report(silent)

    def _report(self, silent: float) -> None:
        path = self._folder / f"process-{self._process}.stacks.txt"
        print(
            f"{host_name()}: step {self._step + 1} has run for {silent:.0f} s (training.stall_seconds={self._limit:g}). "
            f"Last heard: {self._last_heard()}. Stacks of all threads: {path}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        try:
            with path.open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            sys.stderr.write(path.read_text())
        except OSError as error:  # the disk may be what the step waits for
            print(f"{path} cannot be written ({error.strerror})", file=sys.stderr)
        sys.stderr.flush()

    def _last_heard(self) -> str:
        return "; ".join(_read_beat(path) for path in sorted(self._folder.glob("process-*.json")))


def _read_beat(path: Path) -> str:
    try:
        beat = json.loads(path.read_text())
        return f"{beat['process']} ended step {beat['step']} {time.time() - beat['time']:.0f} s ago"
    except (OSError, ValueError, KeyError, TypeError):  # of a machine that died while it wrote
        return f"{path.name} cannot be read"
