"""Reads the evidence of a run: every group with its batch, checked line by line on the way."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from reflex_jax.config import ConfigError
from reflex_jax.evidence.chain import Fault, Head, canonical, find_faults, lines_of
from reflex_jax.evidence.records import BatchRecord, Group, from_json

EVIDENCE_FILE = "evidence.jsonl"
HEAD_FILE = "evidence.head.json"


class Recorded(NamedTuple):
    """A group of completions and where it stands."""

    line: int
    batch: BatchRecord
    group: Group


def read_evidence(directory: str | os.PathLike[str]) -> Iterator[Recorded]:
    """The recorded groups of a run, in the order they were scored.

    Args:
      directory: of the run.
    Raises:
      ConfigError: it has no evidence, or a line is not what was written there; lines before it have been given by then.
    """
    path = Path(directory) / EVIDENCE_FILE
    if not path.is_file():
        raise ConfigError(
            f"{path}: expected the evidence of a run; there is none. Train with evidence.every=N to record every N-th step, or "
            "evaluate with it."
        )
    batch: BatchRecord | None = None
    for line in lines_of(path):
        if line.faults or line.record is None:
            raise ConfigError(f"{path}, {line.faults[0]}")
        try:
            record = from_json(line.record)
            if isinstance(record, BatchRecord):
                batch = record
                continue
            if batch is None:
                raise ValueError("a group without a batch before it")
        except ValueError as error:
            raise ConfigError(f"{path}, line {line.number}: {error}.") from error
        yield Recorded(line.number, batch, record)


def read_head(directory: Path) -> Head | None:
    """The head beside a run's evidence; None: there is none, or it is not as it was written."""
    try:
        raw = (directory / HEAD_FILE).read_bytes()
        head = Head.of(json.loads(raw))
    except (OSError, ValueError, RecursionError):
        return None
    return head if head is not None and canonical(head.as_json()) + b"\n" == raw else None


def check_evidence(directory: str | os.PathLike[str], known: dict[str, Head]) -> list[Fault]:
    """Everything that is wrong with the evidence of a run, by line; [] where every byte is as it was written.

    Args:
      directory: of the run.
      known: heads that others hold, of checkpoints say, by who it is.
    """
    directory = Path(directory)
    path = directory / EVIDENCE_FILE
    head = read_head(directory)
    faults = find_faults(path, head, known)
    if head is None:
        told = "is not as it was written" if (directory / HEAD_FILE).exists() else "is missing"
        faults.insert(0, Fault(0, f"{HEAD_FILE} {told}, so nobody says where the lines end"))
    return faults
