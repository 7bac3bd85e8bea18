"""Questions -> answers.jsonl: what a policy says to each held-out question, a line each, resumed by the same command.

Lines are added batch by batch; a batch of which some lines are there is asked again as a whole and the missing ones are
added, so what is resumed is what an uninterrupted run would have written, to the last bit: completions depend on the run's
seed, a number that follows from a question's id, and a completion's place in its group. Of several processes each asks its
part of a batch, and the first writes.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from reflex_jax.config import Config, ConfigError
from reflex_jax.data.examples import Example, list_offenders
from reflex_jax.data.holdout import picture_groups
from reflex_jax.evaluation.asking import Asked, Asker
from reflex_jax.evaluation.line_files import LineFile, read_rows
from reflex_jax.evaluation.recording import Recording
from reflex_jax.evaluation.validation import summarise
from reflex_jax.evidence.groups import ScoredBatch
from reflex_jax.processes import gather, is_first, refused_together
from reflex_jax.run.samples import all_rows
from reflex_jax.trees import Params

Row = dict[str, Any]
ANSWER_KEYS = ("id", "question", "truth", "answer_type", "eval")
WHAT = "an answer of `reflex evaluate`"


@dataclasses.dataclass(frozen=True)
class Pass:
    """One file of answers: which pictures the policy sees, and how many completions it gives."""

    probe: str = "real"  # a key of `data.probes.PROBES`
    samples: int = 0  # drawn for each question at `rollout.temperature`; 0: the greedy one

    @property
    def generator(self) -> str:
        """Whose completions these are, of `asking.GENERATORS`."""
        return "sampled" if self.samples else "greedy"

    @classmethod
    def of(cls, sampling: str) -> Pass:
        """The pass whose completions evidence names so, of however many samples."""
        generator, _, probe = sampling.partition(".")
        return cls(probe or "real", samples=int(generator == "sampled"))

    @property
    def sampling(self) -> str:
        """How evidence names its completions: the generator, and what the policy saw if it was not the picture."""
        return self.generator + ("" if self.probe == "real" else f".{self.probe}")

    @property
    def name(self) -> str:
        """Of the file, without its ending."""
        return ("samples" if self.samples else "answers") + ("" if self.probe == "real" else f".{self.probe}")

    def path(self, folder: Path) -> Path:
        """Where its lines stand."""
        return folder / f"{self.name}.jsonl"

    def identity(self, config: Config) -> dict[str, Any]:
        """What its completions depend on beside policy, prompt and question."""
        rollout = config.rollout
        drawn = {
            "samples": self.samples, "temperature": rollout.temperature, "top_k": rollout.top_k, "top_p": rollout.top_p,
            "seed": config.run.seed,
        }  # fmt: skip
        return {"probe": self.probe, "max_new_tokens": rollout.max_new_tokens} | (drawn if self.samples else {})


@dataclasses.dataclass(frozen=True, eq=False)
class Destination:
    """Where the lines of an evaluation go."""

    folder: Path
    groups: Mapping[str, str]  # id -> name of its group of pictures, see `name_groups`
    recording: Recording | None = None  # of evidence; None: none is recorded
    progress: bool = False  # shows a bar


def write_answers(
    asker: Asker, weights: Params, judge: Params | None, chosen: Sequence[Example], *, target: Pass, to: Destination
) -> list[Row]:
    """Asks what has no line yet, or no evidence; returns the lines of all `chosen`, in their order. All processes call it alike.

    Args:
      asker: of the pass.
      weights: of the program's `gather`.
      judge: its parameters.
      chosen: the questions.
      target: names the file and the generator.
      to: where the lines go.
    Raises:
      ConfigError: another process writes the file, it cannot be written, a line of it is no answer, or another answer than is
        given now, which evidence is to be recorded of.
    """
    file = LineFile(target.path(to.folder))
    due = to.recording.due(target.sampling, chosen) if to.recording else frozenset[str]()
    with ExitStack() as stack:
        with refused_together():
            lines = stack.enter_context(file.owned()) if is_first() else []
            found = {row["id"]: row for row in read_rows(file.path, lines, keys=ANSWER_KEYS, what=WHAT)}
        (done, *_) = gather([*found])
        known = set(done)
        bar = stack.enter_context(
            tqdm(
                total=len(chosen), initial=sum(e.id in known for e in chosen), unit="question", desc=target.name,
                disable=not (to.progress and is_first()),
            )
        )  # fmt: skip
        for start in range(0, len(chosen), asker.size):
            batch = chosen[start : start + asker.size]
            missing = {place for place, example in enumerate(batch) if example.id not in known}
            unrecorded = {place: example.id for place, example in enumerate(batch) if example.id in due}
            if not missing and not unrecorded:
                continue
            asked, scored = _ask(asker, weights, judge, batch, target=target, is_recorded=bool(unrecorded))
            rows = _rows(asker, asked, batch, to.groups, missing | unrecorded.keys(), is_sampled=target.samples > 0)
            with refused_together():
                _refuse_other_answers(file.path, found, rows)
            # before its answers: what is answered is recorded, whenever the command is killed
            if to.recording and scored is not None:
                to.recording.add(target.sampling, scored, unrecorded)
            rows = [row for row in rows if row["id"] not in known]
            with refused_together():
                if is_first():
                    file.add(rows)
            found |= {row["id"]: row for row in rows}
            bar.update(len(missing))
    # what the first process read the others have not seen
    (rows, *_) = gather([found[e.id] for e in chosen] if is_first() else [])
    return rows


def _ask(
    asker: Asker, weights: Params, judge: Params | None, batch: Sequence[Example], *, target: Pass, is_recorded: bool
) -> tuple[Asked, ScoredBatch | None]:
    """One batch; as it was scored only where that is recorded."""
    scored: list[ScoredBatch] = []
    asked = asker.ask(
        weights, judge, batch, [number_of(e.id) for e in batch], [target.generator],
        record=(lambda _, told: scored.append(told)) if is_recorded else None,
    )  # fmt: skip
    return asked[target.generator], scored[0] if scored else None


def _refuse_other_answers(path: Path, found: Mapping[str, Row], rows: Sequence[Row]) -> None:
    """Refuses to record evidence of what is said now beside lines that say something else."""
    says = ("prediction", "samples", "tokens")
    others = [
        row["id"]
        for row in rows
        if row["id"] in found and any(found[row["id"]].get(key) != row.get(key) for key in says)
    ]
    if others:
        raise ConfigError(
            f"--to: {path} has other answers to {list_offenders(others)} than are given now, on another machine or with other "
            "batches, so there is no evidence of them. Name another folder, or set evidence.every=0."
        )


def number_of(example_id: str) -> int:
    """The number of a question, from which its draws follow, in [0, 2^31): the same whatever else is asked."""
    return int.from_bytes(hashlib.blake2b(example_id.encode(), digest_size=4).digest()) & 0x7FFFFFFF


def name_groups(examples: Sequence[Example]) -> dict[str, str]:
    """Id -> name of the group of questions that share pictures.

    Raises:
      ConfigError: two questions have one id.
    """
    ids = [example.id for example in examples]
    if doubled := sorted({i for i, count in zip(*np.unique(ids, return_counts=True), strict=True) if count > 1}):
        raise ConfigError(f"data.sources: expected an id for each question; several have {list_offenders(doubled)}.")
    return dict(zip(ids, picture_groups(examples), strict=True))


def evaluation_metrics(rows: Mapping[str, Sequence[Row]]) -> dict[str, float]:
    """The means of what the reward of a run says, as `eval/GENERATOR/...`.

    Args:
      rows: generator -> its lines.
    """
    columns: dict[str, np.ndarray] = {}
    for generator, lines in rows.items():
        for name in dict.fromkeys(name for row in lines for name in row["eval"]):
            values = [row["eval"].get(name) for row in lines]
            dtype = bool if name == "is_scored" else np.float32
            columns[f"{generator}/{name}"] = np.array([np.nan if v is None else v for v in values], dtype)
    return summarise(columns)


def _rows(
    asker: Asker, asked: Asked, batch: Sequence[Example], groups: Mapping[str, str], places: set[int], *,
    is_sampled: bool,
) -> list[Row]:  # fmt: skip
    """Lines of a batch, of all processes."""
    own = [(p, int(place)) for p, place in enumerate(asker.places) if place in places]
    rows = []
    for p, place in own:
        said = asked.bridged.completions[p], asked.bridged.answers[p], asked.lengths[p].tolist()
        names = ("samples", "answers", "tokens") if is_sampled else ("prediction", "answer", "tokens")
        values = said if is_sampled else tuple(of_group[0] for of_group in said)
        failures = [str(failure) for failure in asked.bridged.failures[p] if failure]
        measured = {key: _plain(values[place]) for key, values in asked.columns.items()}
        rows.append(
            _facts(batch[place], groups)
            | dict(zip(names, values, strict=True))
            | {"failure": "; ".join(failures) or None, "eval": measured}
        )
    return all_rows(rows, [place for _, place in own])


def _facts(example: Example, groups: Mapping[str, str]) -> Row:
    """What scoring and a judge have to know of a question."""
    return {
        "id": example.id, "question": example.question, "truth": example.answer, "accepted": list(example.accepted),
        "options": list(example.options) if example.options else None, "answer_type": example.answer_type,
        "task": example.source or "all", "modality": example.modality, "category": example.category,
        "language": example.language, "pictures": groups[example.id], "has_picture": bool(example.images),
    }  # fmt: skip


def _plain(value: Any) -> bool | float | None:
    if value.dtype == bool:
        return bool(value)
    return float(value) if np.isfinite(value) else None
