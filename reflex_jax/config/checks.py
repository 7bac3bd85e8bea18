"""How a section refuses values that cannot be run: one line, by the name of its key."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any


class ConfigError(ValueError):
    """A configuration that cannot be run; the message says what was expected, what came and what to do."""


def check(condition: bool, message: str) -> None:
    """Refuses a value with a message.

    Raises:
      ConfigError: the condition does not hold.
    """
    if not condition:
        raise ConfigError(message)


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuses a value that is none of the choices, and names the nearest.

    Raises:
      ConfigError: it is none.
    """
    check(
        value in choices,
        f"{key}: expected one of {', '.join(choices)}; got {value[:80]!r}.{nearest_name(value, choices)}",
    )


def check_patterns(key: str, text: str) -> None:
    """Refuses comma-separated patterns of which one cannot be read, or of which there is none.

    Raises:
      ConfigError: so it is.
    """
    for pattern in patterns_of(text):
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"{key}: {pattern[:80]!r} is no regular expression ({error}).") from error
    check(bool(patterns_of(text)), f"{key}: expected at least one pattern; got {text[:80]!r}.")


def patterns_of(text: str) -> tuple[str, ...]:
    """The patterns of `policy.trainable` and `policy.lora.targets`: comma-separated, blanks around them left out."""
    return tuple(pattern.strip() for pattern in text.split(",") if pattern.strip())


def nearest_name(word: str, choices: Any) -> str:
    """Returns " Did you mean ...?" for a misspelt choice, "" where none is near."""
    close = difflib.get_close_matches(word[:80], list(choices), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def user_path(text: str | Path) -> Path:
    """The place a user named by a setting or an argument; "~" is the home folder here as in a shell."""
    return Path(os.path.expanduser(text))
