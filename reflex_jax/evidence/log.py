"""Writes the evidence of a run: appended, chained, cut back to the checkpoint when the run goes on.

Every process holds the chain, the first one writes it. Lines are flushed to the operating system at the end of their step,
before its checkpoint starts, whose facts hold the head; the head beside the file is replaced after them. What has no
checkpoints, an evaluation, goes on from the head beside the file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from reflex_jax.config import Config, ConfigError
from reflex_jax.evidence.chain import GENESIS, Head, canonical, extend, read_lines
from reflex_jax.evidence.reader import EVIDENCE_FILE, HEAD_FILE, read_head
from reflex_jax.processes import is_first, refused_together
from reflex_jax.stops import not_written


class EvidenceLog:
    """The chain of one run."""

    def __init__(self, directory: Path, *, head: Head, step: int, is_writing: bool, holder: str | None = None):
        """Cuts what is there back to a head; the rest is kept as `evidence.orphan-STEP.jsonl`.

        Args:
          directory: of the run.
          head: of the restored checkpoint; of a run that begins, an empty one.
          step: of that checkpoint, 0 for none.
          is_writing: whether this process writes.
          holder: what the head was read from, for messages; None: that checkpoint.
        Raises:
          ConfigError: the file ends before the head or holds another line there, or it cannot be written.
        """
        self.directory, self._file, self.head = directory, None, head
        if not is_writing:
            return
        path = directory / EVIDENCE_FILE
        try:
            _cut(path, head, step, holder or f"the checkpoint of step {step}")
            self._file = path.open("ab", buffering=0)  # no buffer, so that nothing is left to fail when it is closed
            self._write_head()
        except OSError as error:
            raise ConfigError(f"{error.filename or path}: cannot be written ({error.strerror}).") from error

    def append(self, step: int, records: Sequence[dict[str, Any]]) -> None:
        """Writes a line for each record; `step` is for the message.

        Raises:
          RunStopped: the disk takes no more.
        """
        lines = []
        for record in records:
            self.head, line = extend(self.head, record)
            lines.append(line)
        if self._file is None:
            return
        try:
            rest = memoryview(b"".join(lines))
            while rest:
                rest = rest[self._file.write(rest) :]
            self._write_head()
        except OSError as error:
            raise not_written(f"the evidence of step {step}", self.directory, error) from error

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _write_head(self) -> None:
        path = self.directory / HEAD_FILE
        part = path.with_name(path.name + ".part")
        part.write_bytes(canonical(self.head.as_json()) + b"\n")
        os.replace(part, path)  # whole or not at all


@contextmanager
def open_log(config: Config, facts: dict[str, Any], *, step: int) -> Iterator[EvidenceLog]:
    """The chain of a run, taken up where its checkpoint left it; of a run that records nothing it stays as it is.

    All processes call it.

    Args:
      config: of the run.
      facts: of the restored checkpoint; {}: there is none.
      step: of that checkpoint.
    Raises:
      ConfigError: as `head_of` and `EvidenceLog`.
    """
    directory, is_writing = config.run.directory, config.evidence.every > 0 and is_first()
    with refused_together():
        log = EvidenceLog(directory, head=head_of(facts, directory), step=step, is_writing=is_writing)
    try:
        yield log
    finally:
        log.close()


@contextmanager
def open_log_beside(directory: Path, *, step: int, is_writing: bool) -> Iterator[EvidenceLog]:
    """The chain of a folder without checkpoints, taken up at the head beside it.

    Args:
      directory: that is there.
      step: of the policy, for names and messages.
      is_writing: whether this process writes; the others know no head.
    Raises:
      ConfigError: there are lines and no head that says where they end, or as `EvidenceLog`.
    """
    path = directory / EVIDENCE_FILE
    head = read_head(directory) if is_writing else Head()
    if head is None:
        if (directory / HEAD_FILE).exists() or (path.exists() and path.stat().st_size):
            raise ConfigError(
                f"{path}: expected {HEAD_FILE} beside it, which says where its lines end; it is missing or not as it was "
                "written. Restore it from a copy, or remove both to record anew."
            )
        head = Head()
    with closing(EvidenceLog(directory, head=head, step=step, is_writing=is_writing, holder=HEAD_FILE)) as log:
        yield log


def head_of(facts: dict[str, Any], directory: Path) -> Head:
    """The head that the facts of a checkpoint hold; an empty one where its run recorded nothing by then.

    Raises:
      ConfigError: what they hold is none.
    """
    if "evidence" not in facts:
        return Head()
    head = Head.of(facts["evidence"])
    if head is None:
        raise ConfigError(
            f"{directory}: the checkpoint's facts hold no head of the evidence: {facts['evidence']!r}. Restore the folder from a "
            "copy, or remove that checkpoint to go on from the one before."
        )
    return head


def _cut(path: Path, head: Head, step: int, holder: str) -> None:
    """Keeps the lines of a head; moves the others into a file of their own."""
    if not path.exists():
        if head.count:
            raise _not_the_head(path, head, holder, "it is not there")
        return
    end, found, count = 0, GENESIS, 0
    with path.open("rb") as file:
        for line in file if head.count else ():
            end, count = end + len(line), count + 1
            if count == head.count:
                # its own hash stands for all before it; `reflex replay` holds each line against it
                found = next(read_lines([line])).hash
                break
        if count < head.count:
            raise _not_the_head(path, head, holder, f"it has {count} lines")
        if found != head.hash:
            raise _not_the_head(path, head, holder, f"its line {count} has another hash")
        file.seek(end)
        if not file.read(1):
            return
        file.seek(end)
        with _orphan(path, step).open("wb") as rest:
            shutil.copyfileobj(file, rest)
            rest.flush()
            os.fsync(rest.fileno())
    os.truncate(path, end)  # the tail is safe by now


def _orphan(path: Path, step: int) -> Path:
    """A name that is free for the tail behind a step."""
    names = (
        path.with_name(f"evidence.orphan-{step}{again}.jsonl") for again in ("", *(f"-{n}" for n in range(2, 9999)))
    )
    return next(name for name in names if not name.exists())


def _not_the_head(path: Path, head: Head, holder: str, what: str) -> ConfigError:
    return ConfigError(
        f"{path}: expected the {head.count} lines that {holder} knows the end of; {what}. Restore the file "
        "from a copy, or set evidence.every=0 to go on without evidence."
    )
