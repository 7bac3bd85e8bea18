"""Evidence of an evaluation, in its folder: what the recorded answers were scored by, a chain of its own.

A batch is recorded before its answers are written, and one that is recorded is not recorded again: killed at any moment and
started by the same command, the chain becomes that of an evaluation nobody stopped. Numbers of batches and groups count what
is there, so what is added later, more questions or another set, has names of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from reflex_jax.config import Config
from reflex_jax.data.examples import Example
from reflex_jax.data.holdout import choose_by_id
from reflex_jax.evaluation.line_files import LineFile
from reflex_jax.evidence.groups import ScoredBatch
from reflex_jax.evidence.log import open_log_beside
from reflex_jax.evidence.reader import EVIDENCE_FILE, read_evidence
from reflex_jax.evidence.recorder import EvidenceRecorder, Occasion
from reflex_jax.evidence.records import EVALUATION
from reflex_jax.processes import gather, is_first, refused_together
from reflex_jax.step.shapes import Shapes

_Ids = dict[str, list[list[str]]]  # how a look is called ("3/greedy") -> the ids of each of its recorded batches


class Recording:
    """The evidence of one folder; all processes call it alike."""

    def __init__(self, recorder: EvidenceRecorder, *, step: int, questions: int, found: _Ids):
        """Takes up a chain.

        Args:
          recorder: writes it.
          step: of the policy; 0: it learned nothing in the run, or there is no run.
          questions: of each look that are recorded; 0: all.
          found: what is recorded.
        """
        self._recorder, self._step, self._questions, self._found = recorder, step, questions, found

    def due(self, sampling: str, chosen: Sequence[Example]) -> frozenset[str]:
        """Ids of the questions that are to be recorded and are not; which ones depends on their ids alone."""
        wanted = choose_by_id(chosen, self._questions or None)
        known = {i for ids in self._batches(sampling) for i in ids}
        return frozenset(example.id for example in wanted) - known

    def add(self, sampling: str, batch: ScoredBatch, chosen: Mapping[int, str]) -> None:
        """Records some questions of a batch.

        Args:
          sampling: of the look.
          batch: as it was scored.
          chosen: place in the batch -> id.
        Raises:
          RunStopped: the disk takes no more.
        """
        before = self._batches(sampling)
        occasion = Occasion(self._step, EVALUATION, sampling, batches=len(before), groups=sum(map(len, before)))
        self._recorder.record(occasion, [batch], sources=np.array([*chosen]))
        before.append([*chosen.values()])

    def _batches(self, sampling: str) -> list[list[str]]:
        return self._found.setdefault(Occasion(self._step, EVALUATION, sampling).name, [])


@contextmanager
def open_recording(
    config: Config, shapes: Shapes, folder: Path, *, identity: Mapping[str, str], step: int
) -> Iterator[Recording | None]:
    """The evidence of a folder, taken up where it ends and owned in the block; None: `evidence.every` is 0.

    Args:
      config: it is asked with.
      shapes: of the run.
      folder: of the answers; it is there.
      identity: fingerprints of what it is asked and scored by.
      step: of the policy.
    Raises:
      ConfigError: another process writes it, or its lines are not as they were written.
    """
    if not config.evidence.every:
        yield None
        return
    with ExitStack() as stack:
        with refused_together():
            if is_first():
                stack.enter_context(LineFile(folder / EVIDENCE_FILE).owned())
            log = stack.enter_context(open_log_beside(folder, step=step, is_writing=is_first()))
            found = _ids_of(folder) if is_first() else {}
        (found, *_) = gather(found)
        recorder = EvidenceRecorder(config, shapes, log, identity=identity)
        yield Recording(recorder, step=step, questions=config.evidence.groups, found=found)


def _ids_of(folder: Path) -> _Ids:
    """What a chain holds, checked line by line."""
    found: dict[str, dict[int, list[str]]] = {}
    for _, batch, group in read_evidence(folder):
        found.setdefault(batch.name, {}).setdefault(batch.draw, []).append(group.id)
    return {name: [*batches.values()] for name, batches in found.items()}
