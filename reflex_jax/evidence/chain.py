"""Lines that hang on each other: each is hashed with the hash of the line before, so nothing in a file can change alone.

A line is `{"hash":...,"line":...,"previous":...,"record":...}`, JSON of one spelling (`canonical`), and its hash is the SHA-256
of the same object without `hash`. The number of lines and the hash of the last one, the head, are kept outside the file: who
rewrites a file and all its hashes still has to change the head, which every checkpoint of the run holds a copy of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

GENESIS = "0" * 64  # the hash before the first line
_KEYS = {"hash", "line", "previous", "record"}


@dataclass(frozen=True)
class Head:
    """How far a chain goes."""

    count: int = 0  # lines
    hash: str = GENESIS  # of the last one

    @classmethod
    def of(cls, value: Any) -> Head | None:
        """The head that JSON describes; None: it describes none."""
        if not isinstance(value, dict) or value.keys() != {"count", "hash"}:
            return None
        count, digest = value["count"], value["hash"]
        is_hash = isinstance(digest, str) and len(digest) == 64 and set(digest) <= set("0123456789abcdef")
        return cls(count, digest) if type(count) is int and count >= 0 and is_hash else None

    def as_json(self) -> dict[str, Any]:
        """As checkpoints and `evidence.head.json` hold it."""
        return {"count": self.count, "hash": self.hash}


@dataclass(frozen=True)
class Fault:
    """What is wrong with a line of a chain, or with its head."""

    line: int  # counted from 1; 0: the head
    what: str

    def __str__(self) -> str:
        """One line."""
        return f"line {self.line}: {self.what}" if self.line else f"head: {self.what}"


class Line(NamedTuple):
    """A line that was read, with what is wrong with it."""

    number: int  # its place in the file, from 1
    record: dict[str, Any] | None  # None: it holds none
    hash: str  # of what it holds
    faults: tuple[Fault, ...]


def canonical(value: Any) -> bytes:
    """JSON of one spelling: sorted keys, no blanks, ASCII; a lone surrogate, which UTF-8 cannot hold, is an escape in it.

    Raises:
      ValueError: a number is not finite, which JSON has no word for.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def extend(head: Head, record: dict[str, Any]) -> tuple[Head, bytes]:
    """The next line, with its line feed, and the head with it."""
    body = {"line": head.count + 1, "previous": head.hash, "record": record}
    digest = hashlib.sha256(canonical(body)).hexdigest()
    return Head(head.count + 1, digest), canonical({**body, "hash": digest}) + b"\n"


def read_lines(raw: Iterable[bytes]) -> Iterator[Line]:
    """Reads a chain from its first line on, whatever has become of it.

    Args:
      raw: its lines, each with its line feed, as a file opened for bytes gives them.
    """
    expected, previous, was_whole = 1, GENESIS, True
    for number, line in enumerate(raw, 1):
        body, complaint = _parse(line)
        if body is None:
            yield Line(number, None, "", (Fault(number, complaint),))
            expected, was_whole = expected + 1, False
            continue
        faults = []
        stored = body.pop("hash")
        digest = hashlib.sha256(canonical(body)).hexdigest()
        if digest != stored:
            complaint = "what it holds is not what its hash was made of: its content or its hash was changed"
        elif canonical({**body, "hash": stored}) + b"\n" != line:
            complaint = (
                "it is cut off: its line feed is missing"
                if not line.endswith(b"\n")
                else "its bytes were changed, though not what they say: every value has one spelling here"
            )
        if complaint:
            faults.append(Fault(number, complaint))
        elif body["line"] != expected:
            faults.append(Fault(number, _misplaced(body["line"], expected)))
        elif was_whole and body["previous"] != previous:
            faults.append(Fault(number, "it does not follow the line before, which is another one than was there"))
        # a line that moved is told once; what follows is held against it
        expected = (expected if complaint or type(body["line"]) is not int else body["line"]) + 1
        previous, was_whole = digest, not complaint
        yield Line(number, body["record"], digest, tuple(faults))


def _parse(line: bytes) -> tuple[dict[str, Any] | None, str]:
    """What a line holds; None, and why, where it is no line of a chain."""
    try:
        body = json.loads(line.decode("ascii"), parse_constant=_refuse_constant)
        canonical(body)
    except (ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        return None, f"it is no JSON: it was changed or cut off ({reason})"
    if not isinstance(body, dict) or body.keys() != _KEYS or not isinstance(body["record"], dict):
        return None, f"it is no line of evidence: expected an object with the keys {', '.join(sorted(_KEYS))}"
    return body, ""


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _misplaced(says: Any, expected: int) -> str:
    if type(says) is int and says > expected:
        missing = f"line {expected} is" if says == expected + 1 else f"lines {expected} to {says - 1} are"
        return f"it is line {says} of the chain: {missing} missing before it, or stands elsewhere"
    return f"it is line {says} of the chain, expected line {expected}: lines are repeated or in another order"


def find_faults(path: Path, end: Head | None, known: dict[str, Head]) -> list[Fault]:
    """Everything that is wrong with a chain on disk.

    Args:
      path: of the file; one that is not there has no lines.
      end: where it should end; None: nobody says.
      known: who holds a head of it -> that head, which may be of a time when it was shorter.
    """
    faults: list[Fault] = []
    hashes: list[str] = [GENESIS]
    for line in lines_of(path):
        faults += line.faults
        hashes.append(line.hash)
    count = len(hashes) - 1
    for who, head in [*([] if end is None else [("the head", end)]), *known.items()]:
        if head.count > count:
            lost = f"line {count + 1} is" if head.count == count + 1 else f"lines {count + 1} to {head.count} are"
            faults.append(Fault(count + 1, f"{lost} missing at the end: {who} counts {head.count}"))
        elif hashes[head.count] != head.hash and not any(fault.line == head.count for fault in faults):
            faults.append(
                Fault(head.count, f"it is not the line that {who} holds the hash of: one of both was changed")
            )
    if end is not None and count > end.count:
        told = (
            f"it stands behind the head, which counts {end.count}: added by hand, or left by a run that was killed (the same "
            "command cuts it off) or is writing now"
        )
        faults.append(Fault(end.count + 1, told))
    return faults


def lines_of(path: Path) -> Iterator[Line]:
    """The lines of a chain on disk."""
    if not path.exists():
        return
    with path.open("rb") as file:
        yield from read_lines(file)
