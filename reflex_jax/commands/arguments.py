"""Arguments: no shortened flags, one line for what is wrong, numbers that are refused in words."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any, NoReturn

from reflex_jax.config import ConfigError


class Parser(argparse.ArgumentParser):
    """Takes no shortened flags, and says what is wrong with the arguments in one line, without the usage."""

    def __init__(self, **settings: Any):
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Ends the command with code 2."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help.\n")


def whole_number(text: str) -> int:
    """The type of an argument that counts."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number; got {text[:80]!r}") from None


def seed_number(text: str) -> int:
    """The type of a seed: a whole number from 0 on."""
    number = whole_number(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected a seed of at least 0; got {number}")
    return number


def gigabytes(text: str) -> float:
    """The type of an argument that is a size in GB, at least one byte."""
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not (math.isfinite(size) and size * 1e9 >= 1):
        raise argparse.ArgumentTypeError(f"expected a number of GB above 0; got {text[:80]!r}")
    return size


def refuse_overrides(overrides: Sequence[str]) -> None:
    """Refuses what stands behind the arguments of a command that reads no settings.

    Raises:
      ConfigError: something does.
    """
    if overrides:
        raise ConfigError(f"{', '.join(overrides)}: expected no settings; this command reads what is on disk.")
