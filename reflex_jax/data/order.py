"""HOST: the order of the questions of one phase: shuffled anew in every pass, none twice in a batch.

The order is endless and a pure function of the seed, so any batch of it can be asked for at any time. Batches are cut from
it end to end; the one that spans two passes is kept free of repetitions by changing places at the head of the later pass.
"""

from __future__ import annotations

import bisect
import hashlib
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

_KEPT_PASSES = 8  # threads ask for steps near each other, not one after the other


def stream_generator(seed: int, stream: str, number: int) -> np.random.Generator:
    """Random numbers of a named stream: a hash of all three, so that neighbouring seeds share nothing."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{number}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


class _Seam(NamedTuple):
    """Where a pass begins inside a batch: that batch has the last `tail` places of `previous`, and `head` of this pass."""

    previous: int
    tail: int
    head: int


class ShuffledPasses:
    """Batches of indices below `count`: every pass over them holds each once, every batch each at most once.

    A batch with more places than `count` holds each as often as any other, or once more.
    """

    def __init__(self, count: int, start_of: Callable[[int], int], *, batch_rate: float, seed: int, stream: str):
        """Describes the order; nothing is drawn yet.

        Args:
          count: of the questions.
          start_of: number of a batch -> its first place in the order; it rises by `batch_rate`, rounded down or up.
          batch_rate: places of a batch, on average.
          seed: of the run.
          stream: name of this order among those of the run.
        """
        self._count, self._start_of, self._batch_rate = count, start_of, batch_rate
        self._seed, self._stream = seed, stream
        # then a pass has enough places between its two seams, and none of them reaches into the other
        self._is_long = count >= 2 * int(np.ceil(batch_rate)) - 1
        self._laid: dict[int, Int[np.ndarray, "count"]] = {}
        self._lock = threading.Lock()

    def batch(self, number: int) -> Int[np.ndarray, "n"]:
        """The indices of a batch."""
        places = np.arange(self._start_of(number), self._start_of(number + 1))
        with self._lock:
            orders = {int(p): self._order(int(p)) for p in np.unique(places // self._count)}
        return np.array([orders[int(place) // self._count][place % self._count] for place in places], np.int64)

    def _order(self, number: int) -> Int[np.ndarray, "count"]:
        """A pass. Where passes are short its seam depends on the pass before, and so on: those are laid first."""
        waiting: list[tuple[int, _Seam]] = []
        while number not in self._laid and (seam := self._seam(number)) is not None:
            waiting.append((number, seam))
            number = seam.previous
            if self._is_long:
                break  # the tail of that pass is as it was shuffled
        order = self._laid[number] if number in self._laid else self._shuffled(number)
        for later, seam in reversed(waiting):
            order = _change_places(self._shuffled(later), seam.head, avoid=order[-seam.tail :])
            self._laid[later] = order
            while len(self._laid) > _KEPT_PASSES:
                del self._laid[next(iter(self._laid))]
        return order

    def _shuffled(self, number: int) -> Int[np.ndarray, "count"]:
        return stream_generator(self._seed, self._stream, number).permutation(self._count)

    def _seam(self, number: int) -> _Seam | None:
        """None where there is no choice: the pass begins with a batch, or lies within one."""
        first = number * self._count
        batch = bisect.bisect_right(range(int(first / self._batch_rate) + 3), first, key=self._start_of) - 1
        taken, left = first - self._start_of(batch), self._start_of(batch + 1) - first
        if taken % self._count == 0 or left >= self._count:
            return None
        return _Seam(previous=number - 1 - taken // self._count, tail=taken % self._count, head=left)


class WeightedPasses:
    """Batches of indices below the number of all questions, of which each group takes its share of the places.

    Every group is shuffled and passed over by itself; a batch holds a question twice only where a group has fewer than its
    places in it.
    """

    def __init__(
        self,
        groups: Sequence[Int[np.ndarray, "n"]],
        shares: Sequence[float],
        start_of: Callable[[int], int],
        *,
        batch_rate: float,
        seed: int,
        stream: str,
    ):
        """Describes the order; nothing is drawn yet.

        Args:
          groups: the indices of each group, disjoint, none empty.
          shares: of the places, for each group; they add up to 1.
          start_of: number of a batch -> its first place in the order.
          batch_rate: places of a batch, on average.
          seed: of the run.
          stream: name of this order among those of the run.
        """
        self._groups, self._start_of = groups, start_of
        # of the places that the groups before it leave, each takes this part: so counts of places only grow
        left = [sum(shares[k:]) for k in range(len(shares))]
        self._parts = [share / rest for share, rest in zip(shares[:-1], left[:-1], strict=True)] + [1.0]
        self._passes = [
            ShuffledPasses(
                len(group), partial(self._begin, number), batch_rate=batch_rate * shares[number], seed=seed,
                stream=f"{stream} group {number}",
            )
            for number, group in enumerate(groups)
        ]  # fmt: skip

    def batch(self, number: int) -> Int[np.ndarray, "n"]:
        """The indices of a batch, group after group."""
        return np.concatenate(
            [group[order.batch(number)] for group, order in zip(self._groups, self._passes, strict=True)]
        )

    def _begin(self, group: int, batch: int) -> int:
        """How many places of a group lie before a batch."""
        places = self._start_of(batch)
        for part in self._parts[:group]:
            places -= int(places * part + 1e-9)
        return int(places * self._parts[group] + 1e-9)


def _change_places(
    order: Int[np.ndarray, "count"], head: int, *, avoid: Int[np.ndarray, "n"]
) -> Int[np.ndarray, "count"]:
    """Swaps what should not stand among the first `head` with the nearest later ones that may, as far as there are any."""
    is_avoided = np.isin(order, avoid)
    leaving, coming = np.flatnonzero(is_avoided[:head]), head + np.flatnonzero(~is_avoided[head:])
    pairs = min(len(leaving), len(coming))
    leaving, coming = leaving[:pairs], coming[:pairs]
    order[leaving], order[coming] = order[coming], order[leaving]
    return order
