"""The samples of the page: recorded completions with what the judge found, as plain JSON that a browser filters and draws.

They come from a run's evidence (docs/evidence.md), or from its samples.jsonl where no evidence was recorded, which has no
masks. Of more than the page holds, whole groups are taken at even distances, so that early and late steps are both there.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reflex_jax.config import ConfigError
from reflex_jax.evidence.reader import EVIDENCE_FILE, Recorded, read_evidence
from reflex_jax.evidence.records import TRAINING, Answer, Score, Statement
from reflex_jax.run.logs import SAMPLES_FILE
from reflex_jax.text.visible import visible_text

LONGEST_SHOWN = 4000  # characters of one text on the page; the files of the run have all of it
_REWARD = "reward/"


@dataclass
class Samples:
    """What the page's script reads; groups and answers are lists of plain JSON."""

    groups: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    pictures: dict[str, str] = field(default_factory=dict)  # digest or id -> data: address
    recorded: int = 0  # answers that the files hold
    origin: str = ""  # name of the file they come from

    def add(self, other: Samples) -> None:
        """Puts those of another run behind."""
        first = len(self.groups)
        self.groups += other.groups
        self.answers += [{**answer, "group": answer["group"] + first} for answer in other.answers]
        self.pictures |= other.pictures
        self.recorded += other.recorded


def read_groups(directory: Path, most: int) -> tuple[list[Recorded], int]:
    """Recorded groups with at most `most` answers, at even distances, and how many answers there are.

    Raises:
      ConfigError: a line is not what was written there.
    """
    if not (directory / EVIDENCE_FILE).is_file():
        return [], 0
    sizes = [len(recorded.group.answers) for recorded in read_evidence(directory)]
    wanted = set(spread(sizes, most))
    # a second reading, so that no more than what is shown is in memory
    chosen = [recorded for place, recorded in enumerate(read_evidence(directory)) if place in wanted]
    return chosen, sum(sizes)


def spread(sizes: Sequence[int], most: int) -> list[int]:
    """Which groups to take so that at most `most` answers come together: evenly spread, the last always, at least one."""
    total = sum(sizes)
    if total <= most:
        return list(range(len(sizes)))
    share = most / total
    chosen: list[int] = []
    taken, due = 0, 0.0
    for place in reversed(range(len(sizes))):
        if taken <= due and (not chosen or taken + sizes[place] <= most):
            chosen.append(place)
            taken += sizes[place]
        due += share * sizes[place]
    return chosen[::-1]


def samples_of_evidence(run: str, directory: Path, groups: Iterable[Recorded], *, recorded: int) -> Samples:
    """The page's samples of recorded groups.

    Args:
      run: its name on the page.
      directory: of the run, for the command that computes an answer again.
      groups: of `read_groups`.
      recorded: answers that the file holds.
    """
    samples = Samples(recorded=recorded, origin=EVIDENCE_FILE)
    for place, (_, batch, group) in enumerate(groups):
        grid = batch.grid
        anchor = group.statements[0] if group.statements else None
        samples.groups.append(
            {
                "run": run,
                "step": batch.step,
                "set": "training" if batch.set == TRAINING else f"held-out, {batch.sampling}",
                "phase": batch.phase,
                "source": group.source or None,
                "id": _shown(group.id),
                "question": _shown(group.question),
                "answer": _shown(group.answer),
                "type": group.answer_type,
                "options": None if group.options is None else [_shown(option) for option in group.options],
                "modality": group.modality,
                "organ": group.organ,
                "category": group.category,
                "picture": group.picture or group.picture_id or None,
                "anchor": _shown(group.anchor),
                "mask": anchor.mask if anchor else None,
                "map": _map_of(anchor, grid),
            }
        )
        for answer in group.answers:
            found = group.statement_of(answer)
            shown = _answer(answer, found, grid)
            replay = f"reflex replay {shlex.quote(str(directory))} --answer {answer.id}"
            samples.answers.append({**shown, "group": place, "replay": replay})
    return samples


def samples_of_log(run: str, directory: Path, most: int) -> Samples:
    """The page's samples of a run without evidence, from samples.jsonl: neighbouring lines of one question are a group.

    Raises:
      ConfigError: a line of it is no JSON.
    """
    path = directory / SAMPLES_FILE
    groups = _logged_groups(path)
    samples = Samples(recorded=sum(map(len, groups)), origin=SAMPLES_FILE)
    for place, number in enumerate(spread([len(group) for group in groups], most)):
        rows, first = groups[number], groups[number][0]
        samples.groups.append(
            {
                "run": run, "step": first["step"], "set": "training", "phase": None, "source": None,
                "id": _shown(first["id"]), "question": _shown(first["question"]), "answer": _shown(first["true_answer"]),
                "type": None, "options": None, "modality": None, "organ": None, "category": None, "picture": None,
                "anchor": _shown(first["anchor_statement"]), "mask": None, "map": None,
            }
        )  # fmt: skip
        for row_number, row in enumerate(rows):
            samples.answers.append(
                {**_logged_answer(row), "group": place, "id": f"{row['step']}/{number}/{row_number}"}
            )
    return samples


def _answer(answer: Answer, found: Statement | None, grid: tuple[int, int]) -> dict[str, Any]:
    outcome = "failed" if not answer.is_valid else "right" if answer.is_correct else "wrong"
    return {
        "id": answer.id,
        "outcome": outcome,
        "failure": answer.failure and _shown(answer.failure),
        "completion": _shown(answer.completion),
        "cut": len(answer.completion) if len(answer.completion) > LONGEST_SHOWN else None,
        "parsed": None if answer.parsed_answer is None else _shown(answer.parsed_answer),
        "statement": None if answer.statement is None else _shown(answer.statement),
        "tokens": len(answer.token_ids),
        "mask": found.mask if found else None,
        "map": _map_of(found, grid),
        "iou": answer.iou,
        "chance": answer.chance_corrected_iou,
        "stt": answer.text_text_similarity,
        "sit": answer.image_text_similarity,
        "loop": answer.loop_tightness,
        "tied": answer.tied_fraction,
        "degenerate": answer.is_degenerate,
        "reward": answer.reward,
        "advantage": answer.advantage,
        "components": {name: _score(score) for name, score in answer.components.items()},
    }


def _score(score: Score) -> dict[str, Any]:
    return {"score": score.score, "applies": score.applies, "margins": dict(score.margins)}


def _map_of(statement: Statement | None, grid: tuple[int, int]) -> list[float] | None:
    """A saliency map, rounded to what a picture shows."""
    values = statement.saliency_map(grid) if statement else None
    return None if values is None else [float(f"{value:.4g}") for value in values.ravel()]


def _logged_groups(path: Path) -> list[list[dict[str, Any]]]:
    groups: list[list[dict[str, Any]]] = []
    if not path.is_file():
        return groups
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                key = (row["step"], row["id"])
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ConfigError(f"{path}, line {number}: expected a sample of a run; got {line[:80]!r}.") from error
            if groups and (groups[-1][0]["step"], groups[-1][0]["id"]) == key:
                groups[-1].append(row)
            else:
                groups.append([row])
    return groups


def _logged_answer(row: dict[str, Any]) -> dict[str, Any]:
    scores = {key.removeprefix(_REWARD): value for key, value in row.items() if key.startswith(_REWARD)}
    failed = row.get("failure") is not None
    right = scores.get("answer")  # open answers count as right from 0.5 on
    return {
        "outcome": "failed" if failed else "right" if right is not None and right >= 0.5 else "wrong",
        "failure": _shown(row["failure"]) if failed else None,
        "completion": _shown(row["completion"]),
        "cut": len(row["completion"]) if len(row["completion"]) > LONGEST_SHOWN else None,
        "parsed": None if row["parsed_answer"] is None else _shown(row["parsed_answer"]),
        "statement": None if row["statement"] is None else _shown(row["statement"]),
        "tokens": row["tokens"],
        "mask": None, "map": None,
        "iou": row.get("iou"), "chance": None, "stt": row.get("text_text_similarity"),
        "sit": row.get("image_text_similarity"), "loop": None, "tied": None, "degenerate": row.get("is_degenerate"),
        "reward": row["reward"], "advantage": row["advantage"],
        "components": {
            name: {"score": 0.0 if value is None else value, "applies": value is not None, "margins": {}}
            for name, value in scores.items()
        },
        "replay": "Train with evidence.every=N to record what computing a reward again needs.",
    }  # fmt: skip


def _shown(text: str) -> str:
    return visible_text(text, LONGEST_SHOWN)
