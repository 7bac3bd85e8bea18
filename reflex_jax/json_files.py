"""The one reader of JSON and text files that others wrote (checkpoints, tokenizers); a fault names the file in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reflex_jax.config import ConfigError

LFS_POINTER = "version https://git-lfs.github.com/spec"
_KINDS = {list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}


def read_text(path: Path, *, setting: str) -> str:
    """Reads a text file, such as a chat template or a list of words.

    Args:
      path: of the file.
      setting: the key or flag that led to it, which begins the message.
    Raises:
      ConfigError: it is absent, unreadable, empty, a Git LFS pointer, or not UTF-8 (a byte order mark included, which
        would become a part of the text).
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{setting}: expected the file {path}; it cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{setting}: {path} is not UTF-8 text ({error.reason} at byte {error.start}). Copy it again."
        ) from error
    if text.startswith(LFS_POINTER):
        raise ConfigError(
            f"{setting}: {path} is a Git LFS pointer, not the file itself. Run `git lfs pull` where it was cloned."
        )
    if text.startswith("\ufeff"):
        raise ConfigError(f"{setting}: {path} begins with a byte order mark. Save it as UTF-8 without one.")
    if not text.strip():
        raise ConfigError(f"{setting}: {path} is empty. Copy it again.")
    return text


def read_json(path: Path, *, setting: str) -> Any:
    """Reads a JSON file of any content.

    Args:
      path: of the file.
      setting: the key or flag that led to it, which begins the message.
    Raises:
      ConfigError: as `read_text` (transformers too refuses a byte order mark), or it is no JSON.
    """
    text = read_text(path, setting=setting)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{setting}: {path} is no JSON ({_first_line(error)}). Copy it again.") from error


def read_json_object(path: Path, *, setting: str) -> dict[str, Any]:
    """Reads a JSON file that holds an object, `{"key": ...}`.

    Raises:
      ConfigError: as `read_json`, or it holds something else.
    """
    content = read_json(path, setting=setting)
    if not isinstance(content, dict):
        raise ConfigError(f"{setting}: {path}: expected a JSON object {{...}}; got {_KINDS[type(content)]}.")
    return content


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
