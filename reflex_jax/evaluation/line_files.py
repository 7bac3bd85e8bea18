"""HOST: files of one JSON object a line to which lines are only added, by one process at a time.

A process that is killed leaves whole lines and perhaps one that was cut off; the next owner takes that one away, so what it
said is done again. Lines are never changed.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reflex_jax.config import ConfigError


class LineFile:
    """One such file."""

    def __init__(self, path: Path, *, setting: str = "--to"):
        """Touches nothing.

        Args:
          path: of the file.
          setting: what named it, which begins messages.
        """
        self.path, self._setting = path, setting
        self._file: Any = None

    @contextmanager
    def owned(self) -> Iterator[list[bytes]]:
        """The whole lines that are there; in the block this process alone may add to them.

        Raises:
          ConfigError: another process has it, or it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        except OSError as error:
            raise self._refusal(error) from error
        with self._file:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    f"{self._setting}: another process writes {self.path}. Wait for it, or name another."
                ) from error
            yield self._read()

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Writes lines, whole or not at all as far as the disk allows.

        Raises:
          ConfigError: the disk is full or fails.
        """
        text = "".join(json.dumps(row) + "\n" for row in rows)
        try:
            self._file.write(text.encode())
            self._file.flush()
        except OSError as error:
            raise self._refusal(error) from error

    def _read(self) -> list[bytes]:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self._file.truncate(len(whole))
        return whole.split(b"\n")[:-1]

    def _refusal(self, error: OSError) -> ConfigError:
        return ConfigError(f"{self._setting}: {self.path} cannot be written ({error.strerror}). Name another.")


def read_rows(path: Path, lines: Sequence[bytes], *, keys: Sequence[str], what: str) -> list[dict[str, Any]]:
    """The objects of whole lines.

    Args:
      path: where they stand, for messages.
      lines: of `LineFile.owned`, or of a file that is only read.
      keys: that each of them has.
      what: they are, for messages: "an answer of `reflex evaluate`".
    Raises:
      ConfigError: a line is something else.
    """
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or any(key not in row for key in keys):
            raise ConfigError(
                f"{path}, line {number}: expected {what}; got {line[:60]!r}. Name another place, or remove that line."
            )
        rows.append(row)
    return rows


def whole_lines(path: Path) -> list[bytes]:
    """The whole lines of a file that is only read; none where there is no such file.

    Raises:
      ConfigError: it cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    return content[: content.rfind(b"\n") + 1].split(b"\n")[:-1]
