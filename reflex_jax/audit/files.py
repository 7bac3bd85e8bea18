"""Where the findings of an audit lie: one page for people and one file for programs, written whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reflex_jax.config import ConfigError


def write_findings(directory: Path, name: str, values: Mapping[str, Any], page: str) -> None:
    """Writes NAME.json and NAME.md.

    Raises:
      ConfigError: the folder cannot be written.
    """
    text = json.dumps(_plain(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for ending, content in (("json", text), ("md", page)):
            part = directory / f"{name}.{ending}.part"
            part.write_text(content, encoding="utf-8")
            part.replace(directory / f"{name}.{ending}")
    except OSError as error:
        raise ConfigError(f"--to: {str(directory)!r} cannot be written ({error}). Name another folder.") from error


def _plain(value: Any) -> Any:
    """As JSON has it: what is no number is null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
