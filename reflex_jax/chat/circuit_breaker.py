"""HOST: an endpoint that keeps failing is left alone for a while, and then tried by one row before all others."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio


class CircuitOpen(Exception):
    """The endpoint is not asked now."""


class CircuitBreaker:
    """Counts rows that failed one after another; belongs to one event loop.

    Closed: all rows go. After `most_failures` in a row it is open: none goes for `cool_down` seconds. Then one row goes
    while the others wait for how it ends: it closes the circuit, or opens it anew.
    """

    def __init__(self, *, most_failures: int, cool_down: float, clock: Callable[[], float] = time.monotonic):
        self._most, self._cool_down, self._clock = most_failures, cool_down, clock
        self._in_a_row, self._open_until = 0, 0.0
        self._probe: anyio.Event | None = None

    async def admit(self) -> None:
        """Lets a row go; each that was let go has to say how it ended.

        Raises:
          CircuitOpen: it may not.
        """
        while self._in_a_row >= self._most:
            left = self._open_until - self._clock()
            if left > 0:
                raise CircuitOpen(
                    f"{self._in_a_row} rows in a row had failed (endpoint.breaker_failures); it is asked again in {left:.0f} s"
                )
            if self._probe is None:
                self._probe = anyio.Event()
                return
            await self._probe.wait()

    def note(self, *, is_answered: bool) -> None:
        """Says how a row ended that was let go."""
        self._in_a_row = 0 if is_answered else self._in_a_row + 1
        if self._in_a_row >= self._most:
            self._open_until = self._clock() + self._cool_down
        if self._probe is not None:
            self._probe.set()
            self._probe = None
