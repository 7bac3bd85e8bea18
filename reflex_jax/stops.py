"""Ways a run ends before its last step; the command line turns each into one line and its exit code."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SAVE_FAILED, PROCESS_LOST, NOT_FINITE, PREEMPTED = 1, 3, 4, 75  # 75: "try again later" (EX_TEMPFAIL)
# what was audited does not do what it is there for, or is not what was recorded; no error of input
AUDIT_FAILED = NOT_AS_RECORDED = 6


class RunStopped(Exception):
    """A run ended early; the message says where it stands and what to do."""

    def __init__(self, code: int, message: str):
        """Keeps the exit code of the command beside the message."""
        super().__init__(message)
        self.code = code


def not_written(what: str, path: object, error: Exception) -> RunStopped:
    """The stop of a run whose disk is full, gone or read-only.

    Args:
      what: could not be written, with its step.
      path: the file or folder.
      error: of the writer; its first line is shown, a long one by its two ends.
    """
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if len(reason) > 300:
        reason = f"{reason[:120]} ... {reason[-160:]}"
    return RunStopped(
        SAVE_FAILED,
        f"{what} could not be written to {path}; the checkpoints before it stand. Make room or mend the disk, then run the "
        f"same command again. ({reason})",
    )


class StopRequest:
    """Remembers that somebody asked the run to stop (SIGTERM, or one Ctrl-C); a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.name: str | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals over inside the block; outside the main thread, where nobody can, it does nothing."""
        try:
            before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self.name = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
