"""The files of an evaluation held against its evidence: tables are made of the files, and rewards are proved of the evidence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from reflex_jax.evaluation.generate import ANSWER_KEYS, WHAT, Pass, Row
from reflex_jax.evaluation.line_files import read_rows, whole_lines
from reflex_jax.evidence.chain import Fault
from reflex_jax.evidence.reader import read_evidence
from reflex_jax.evidence.records import Group

_ROUNDING = 1e-5  # of the mean of a group's rewards, which a device computed


def unlike_their_evidence(folder: Path) -> Iterator[Fault]:
    """Recorded questions whose line in answers.jsonl, samples.jsonl and the like says something else, by line of the evidence.

    Raises:
      ConfigError: a file cannot be read, or holds no answers.
    """
    read: dict[Path, dict[str, Row]] = {}
    for line, batch, group in read_evidence(folder):
        path = Pass.of(batch.sampling).path(folder)
        if path not in read:
            rows = read_rows(path, whole_lines(path), keys=ANSWER_KEYS, what=WHAT)
            read[path] = {row["id"]: row for row in rows}
        row = read[path].get(group.id)
        if row is None:
            told = "it was taken out, or the evaluation was killed (the same command goes on)"
            yield Fault(line, f"{path.name} has no line of {group.id}: {told}")
        elif differing := [name for name, (then, now) in _pairs(group, row).items() if then != now]:
            yield Fault(line, f"{path.name} says another {', '.join(differing)} of {group.id} than is recorded here")


def _pairs(group: Group, row: Row) -> dict[str, tuple[Any, Any]]:
    """Name -> as recorded, and as the line says."""
    completions: list[Any] = [answer.completion for answer in group.answers]
    answers: list[Any] = [answer.parsed_answer for answer in group.answers]
    pairs: dict[str, tuple[Any, Any]]
    if "samples" in row:
        pairs = {"samples": (completions, row["samples"]), "answers": (answers, row.get("answers"))}
    else:
        pairs = {"prediction": (completions[0], row.get("prediction")), "answer": (answers[0], row.get("answer"))}
    rewards = [float(answer.reward) for answer in group.answers if answer.is_valid]
    mean = float(np.mean(rewards)) if rewards else None
    shown = row["eval"].get("reward/total") if isinstance(row["eval"], dict) else row["eval"]
    is_near = mean is not None and isinstance(shown, float) and abs(mean - shown) <= _ROUNDING * max(1.0, abs(mean))
    return pairs | {
        "question": (group.question, row["question"]), "truth": (group.answer, row["truth"]),
        "reward": (mean, mean if is_near else shown),
    }  # fmt: skip
