"""Where the findings of an audit lie: one page for people and one file for programs, written whole or not at all."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reflex_jax.config import ConfigError


def make_folder(directory: Path) -> None:
    """Makes the folder of the findings, before anything is computed for it.

    Raises:
      ConfigError: it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise _not_writable(directory, error) from error


def write_findings(directory: Path, name: str, values: Mapping[str, Any], page: str) -> None:
    """Writes NAME.json and NAME.md into a folder of `make_folder`.

    Raises:
      ConfigError: the folder cannot be written.
    """
    text = json.dumps(_plain(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        for ending, content in (("json", text), ("md", page)):
            part = directory / f"{name}.{ending}.part"
            part.write_text(content, encoding="utf-8")
            part.replace(directory / f"{name}.{ending}")
    except OSError as error:
        raise _not_writable(directory, error) from error


def _not_writable(directory: Path, error: OSError) -> ConfigError:
    return ConfigError(f"--to: {str(directory)!r} cannot be written ({error.strerror}). Name another folder.")


def _plain(value: Any) -> Any:
    """As JSON has it: what is no number is null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
