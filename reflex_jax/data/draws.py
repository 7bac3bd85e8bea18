"""HOST: batches drawn as a step asks for them, for steps that leave questions out (DAPO's dynamic sampling).

The curriculum decides which phase a step belongs to; inside of a phase its batches are drawn one after the other, however
many a step takes. So beside its step a run resumes by one more number, how many batches of the phase are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic

import grain

from reflex_jax.data.examples import Example
from reflex_jax.data.pipeline import Prepared, TrainingBatches

_MOST_BATCHES = 2**31 - 1  # of a phase: its order of questions is endless


class Draws(Generic[Prepared]):
    """The draws of every step: an iterator over steps, each of which is an endless iterator over prepared batches."""

    def __init__(
        self,
        batches: TrainingBatches,
        prepare: Callable[[list[Example]], Prepared],
        *,
        first_step: int,
        cursor: dict[str, Any] | None = None,
        threads: int = 2,
    ):
        """Draws nothing yet.

        Args:
          batches: the curriculum.
          prepare: pure function of a batch, computed ahead of time in threads.
          first_step: where a resumed run goes on, counted from 0.
          cursor: of the run that is resumed; None: nothing is drawn yet.
          threads: how many batches are prepared at one time, or wait prepared.
        """
        self._batches, self._prepare, self._first_step, self._threads = batches, prepare, first_step, threads
        self._phase, self._drawn = (int(cursor["phase"]), int(cursor["drawn"])) if cursor else (0, 0)
        self._iterator: Iterator[Prepared] | None = None

    @property
    def cursor(self) -> dict[str, int]:
        """The phase of the last draw, counted from 0, and how many of its batches are drawn; a checkpoint carries it."""
        return {"phase": self._phase, "drawn": self._drawn}

    def __iter__(self) -> Iterator[Iterator[Prepared]]:
        """Yields the draws of every step from the first one on; those of a step end with it."""
        for step in range(self._first_step, len(self._batches)):
            phase = self._batches.phase_of(step)
            if phase != self._phase:
                self._phase, self._drawn, self._iterator = phase, 0, None
            yield self._of_phase()

    def _of_phase(self) -> Iterator[Prepared]:
        while True:
            if self._iterator is None:
                self._iterator = self._ahead(self._phase, self._drawn)
            batch = next(self._iterator)
            self._drawn += 1
            yield batch

    def _ahead(self, phase: int, number: int) -> Iterator[Prepared]:
        """Batches of a phase from this number on."""
        batches, prepare = self._batches, self._prepare
        dataset = grain.MapDataset.range(_MOST_BATCHES).map(lambda n: prepare(batches.of_phase(phase, int(n))))
        options = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=self._threads)
        iterator = iter(dataset.to_iter_dataset(options))
        grain.experimental.set_next_index(iterator, number)
        return iterator
