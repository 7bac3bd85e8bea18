"""HOST: replies that are kept on disk, in one SQLite file; what was asked once is not paid for again.

Keys are hashes of all that a reply depends on, so the file holds replies and no prompts, and neither address nor key of an
endpoint. Processes of one host share it: SQLite locks it, and a process that dies leaves it whole. It belongs on a local
disk, for network file systems do not lock reliably.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_VERSION = 1  # of what a key is made of
_APPLICATION = 0x5245464C  # "REFL": the file is one of these
_LOCK_SECONDS = 10.0
_MOST_VARIABLES = 500  # of one statement


def reply_key(*facts: Any) -> bytes:
    """SHA-256 of what a reply depends on; facts are JSON."""
    text = json.dumps([_VERSION, *facts], sort_keys=True)
    return hashlib.sha256(text.encode()).digest()


class ReplyCache:
    """Replies by key. A fault while it is used is told once, and the run goes on without it."""

    def __init__(self, path: Path):
        """Opens or makes the file.

        Raises:
          OSError: it cannot be.
          ValueError: there is a file, and it is something else.
        """
        self._path, self._is_broken = path, False
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # replies are written in the thread that receives them; SQLite itself takes turns
            self._connection = sqlite3.connect(
                path, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._prepare()
        except sqlite3.OperationalError as error:
            raise OSError(f"{error}") from error
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{error}") from error

    def _prepare(self) -> None:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != _APPLICATION:
            raise sqlite3.DatabaseError("a database of something else")
        # the log is appended to, so a reply costs no wait for the disk, and a crash takes at most the last of them
        self._connection.execute("PRAGMA journal_mode=WAL").fetchone()
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute(f"PRAGMA application_id={_APPLICATION}")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS replies (key BLOB PRIMARY KEY, reply TEXT NOT NULL) WITHOUT ROWID"
        )

    def find(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """The replies that are there."""
        found: dict[bytes, str] = {}
        for start in range(0, len(keys), _MOST_VARIABLES):
            part = keys[start : start + _MOST_VARIABLES]
            marks = ",".join("?" * len(part))
            found |= dict(self._run(f"SELECT key, reply FROM replies WHERE key IN ({marks})", part))
        return found

    def keep(self, key: bytes, reply: str) -> None:
        """Keeps a reply; one that is there stays."""
        self._run("INSERT OR IGNORE INTO replies VALUES (?, ?)", (key, reply))

    def size(self) -> tuple[int, int]:
        """How many replies there are, and bytes on disk."""
        count = next(iter(self._run("SELECT count(*) FROM replies", ())), (0,))[0]
        parts = [self._path.with_name(self._path.name + ending) for ending in ("", "-wal")]
        return count, sum(part.stat().st_size for part in parts if part.exists())

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def _run(self, statement: str, values: Sequence[Any]) -> list[Any]:
        if self._is_broken:
            return []
        try:
            return self._connection.execute(statement, values).fetchall()
        except (sqlite3.Error, UnicodeError) as error:
            self._is_broken = True
            print(
                f"\nendpoint.cache: {self._path} cannot be used any more ({error}); the run goes on without it.",
                file=sys.stderr, flush=True,
            )  # fmt: skip
            return []
