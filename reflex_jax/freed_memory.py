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


class BeforeCompiling:
    """Gives freed memory back before a function compiles: compiling takes memory of its own, beside what other functions left."""

    def __init__(self) -> None:
        """Nothing has compiled yet."""
        self._shapes: set[tuple[tuple[int, ...], ...]] = set()

    def __call__(self, inputs: Any) -> None:
        """To be told the arrays whose shapes decide whether the function compiles, before each of its calls."""
        shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(inputs))
        if shapes not in self._shapes:
            self._shapes.add(shapes)
            give_back_freed_memory()
