"""Memory that was freed goes back to the system at the few moments when it will not be asked for again."""

from __future__ import annotations

import ctypes
import sys

# of mimalloc, which is asked first because a process that has it has glibc's too; both free what is free at once
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
