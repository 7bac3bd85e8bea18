"""Memory that was freed goes back to the system at the few moments when it will not be asked for again."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import jax
import numpy as np

# mimalloc is asked first, because a process that has it has glibc's too
_FUNCTIONS = (("mi_collect", True), ("malloc_trim", 0))


def give_back_freed_memory() -> None:
    """Gives back what the allocator keeps of freed memory, where it is known how: on Linux.

    A step asks for the same gigabytes again and again, so the launch scripts have the allocator keep what is freed. What reading
    weights and compiling leave behind, and the temporaries of a shorter row, are asked for once.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    for name, argument in _FUNCTIONS:
        function = getattr(library, name, None)
        if function is not None:
            function(argument)
            return


class RoomToCompile:
    """A jitted function around whose compilations freed memory goes back.

    Compiling takes memory of its own, beside what other functions left, and leaves some of it beside the temporaries of the
    function's first run.
    """

    def __init__(self, function: Any, *, keeps_place: bool = False) -> None:
        """Wraps a function of `jax.jit`, not called before.

        Args:
          function: of `jax.jit`.
          keeps_place: for a function of one CPU with the largest temporaries of a step: their place in memory is held between
            calls. Left to the allocator, small blocks settle there, and in every other run a call takes a second place beside
            the first. The allocator need not put them there again: this makes it seldom, not impossible.
        """
        self.jitted = function
        self._compiled: set[tuple[Any, ...]] = set()  # shapes and dtypes of inputs
        self._keeps_place = keeps_place
        self._bytes = 0  # of temporaries, of the inputs that have most
        self._place: np.ndarray | None = None  # never written: a block where they were, and will be

    def __call__(self, *inputs: Any) -> Any:
        """Calls it, and waits for it where it keeps its place; where it is traced, nothing is compiled."""
        leaves = jax.tree.leaves(inputs)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return self.jitted(*inputs)
        kinds = tuple(jax.typeof(leaf) for leaf in leaves)
        if kinds not in self._compiled:
            self._place = None
            give_back_freed_memory()
            compiled = self.lower(*inputs).compile()  # which the call finds
            give_back_freed_memory()
            self._compiled.add(kinds)
            if self._keeps_place:
                self._bytes = max(self._bytes, compiled.memory_analysis().temp_size_in_bytes)
        if not self._keeps_place:
            return self.jitted(*inputs)
        self._place = None
        outputs = jax.block_until_ready(self.jitted(*inputs))
        self._place = np.empty(self._bytes, np.uint8)
        return outputs

    def lower(self, *inputs: Any) -> Any:
        """What would compile for these, as of a function of `jax.jit`."""
        return self.jitted.lower(*inputs)
