"""For tests of the package's own refusals: the type checks of the tests would refuse first."""

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping


@contextmanager
def types_unchecked() -> Iterator[None]:
    """Lets values of the wrong type or shape into the package, as they are let in outside of the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
