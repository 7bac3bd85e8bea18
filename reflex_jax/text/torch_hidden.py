"""HOST: a process that does not compute with torch has transformers find none, or it would import one: 0.2 GB and a second."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import cast

_is_wanted = False


def hide_torch_from_transformers() -> None:
    """To be called before anything that imports transformers, by a process that nobody else uses."""
    global _is_wanted
    _is_wanted = True


@contextmanager
def torch_as_wanted() -> Iterator[None]:
    """Around the first import of transformers, which asks once whether there is a torch and remembers the answer.

    From nobody else it is hidden: scipy, say, takes whatever stands in `sys.modules` for a module.
    """
    modules = cast(dict[str, ModuleType | None], sys.modules)
    if not _is_wanted or "torch" in modules or "transformers" in modules:
        yield
        return
    modules["torch"] = None
    try:
        yield
    finally:
        del modules["torch"]
