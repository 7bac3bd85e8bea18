"""HOST: answers.jsonl -> scores.jsonl: what each answer scores, a line each, resumed by the same command.

A score belongs to the texts, the matcher and the encoder it was made with, by a hash: what changed is scored anew, and the lines
of before stay without being read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.config import ConfigError, nearest_name
from reflex_jax.evaluation.conventions import CONVENTIONS
from reflex_jax.evaluation.generate import ANSWER_KEYS, WHAT, Row
from reflex_jax.evaluation.line_files import LineFile, read_rows, whole_lines
from reflex_jax.evaluation.manifest import digest_of, read_manifest
from reflex_jax.evaluation.metrics import MATCHER_VERSION, AnswerScores, Asked, is_parsed, measure, measure_samples
from reflex_jax.judge.text_encoder import load_text_encoder
from reflex_jax.rewards.text_encoder import TextEncoder, layer_problems
from reflex_jax.run.identity import checkpoint_fingerprint
from reflex_jax.text.verdicts import without_thinking

SCORES = "scores.jsonl"
_AT_ONCE = 256  # answers between two writes: what a crash can cost


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How answers are scored beside this package's own metrics."""

    conventions: tuple[str, ...] = ()  # of `conventions.CONVENTIONS`
    encoder: TextEncoder | None = None  # of BERTScore
    encoder_identity: str = ""  # its name and layer, by content
    layer: int | None = None  # whose states it compares; None: the last

    def __post_init__(self) -> None:
        """Refuses conventions that nobody has published."""
        unknown = [name for name in self.conventions if name not in CONVENTIONS]
        if unknown:
            hints = "".join(nearest_name(name, CONVENTIONS) for name in unknown[:1])
            raise ConfigError(
                f"--convention: expected some of {', '.join(CONVENTIONS)}; got {', '.join(unknown)}.{hints}"
            )


@dataclasses.dataclass(frozen=True)
class Scored:
    """The answers of a pass and what they score."""

    rows: dict[str, Row]  # id -> line of answers.jsonl
    scores: dict[str, AnswerScores]  # id -> "kind/metric" -> value
    parsed: dict[str, bool]  # id -> whether the answer says what the question asks for; of samples: whether one does


def open_encoder(scoring: Scoring, directory: Path) -> Scoring:
    """The same with the encoder of BERTScore.

    Raises:
      ConfigError: there is no BERT in the directory, or it has no such layer.
    """
    place = resolve_checkpoint(directory, "encoder", setting="--bertscore")
    encoder = load_text_encoder(place, setting="--bertscore")
    if problems := layer_problems(scoring.layer) + encoder.problems(layer=scoring.layer):
        raise ConfigError(f"--bertscore-{'; '.join(problems)}.")
    identity = f"{checkpoint_fingerprint(place)} layer {scoring.layer}"
    return dataclasses.replace(scoring, encoder=encoder, encoder_identity=identity)


def score_folder(folder: Path, scoring: Scoring) -> dict[str, Scored]:
    """Scores all answers of a folder that have no score yet; returns all of them, by the name of their pass.

    Args:
      folder: of `generate_answers`.
      scoring: what to compute.
    Raises:
      ConfigError: there are no answers, a line is none, or the scores cannot be written.
    """
    names = [*read_manifest(folder).get("passes", {})]
    answers = {name: rows for name in names if (rows := read_answers(folder, name))}
    if not answers:
        raise ConfigError(
            f"--stage score: expected answers in {folder}; there are none. Run the command without --stage first."
        )
    file = LineFile(folder / SCORES)
    with file.owned() as lines:
        keys = ("pass", "id", "key", "scores", "parsed")
        known = {row["key"]: row for row in read_rows(file.path, lines, keys=keys, what="a score of `reflex evaluate`")}
        found = {}
        for name, rows in answers.items():
            keyed = {row["id"]: _key(name, row, scoring) for row in rows}
            for part in _parts([row for row in rows if keyed[row["id"]] not in known], _AT_ONCE):
                scored = [
                    {"pass": name, "id": row["id"], "key": keyed[row["id"]], **values}
                    for row, values in zip(part, _score(part, scoring), strict=True)
                ]
                file.add(scored)
                known |= {row["key"]: row for row in scored}
            lines_of = {row["id"]: known[keyed[row["id"]]] for row in rows}
            found[name] = Scored(
                {row["id"]: row for row in rows},
                {i: line["scores"] for i, line in lines_of.items()},
                {i: line["parsed"] for i, line in lines_of.items()},
            )
    return found


def read_answers(folder: Path, name: str) -> list[Row]:
    """The answers of a pass, in the order of their lines; none where there is no such file.

    Raises:
      ConfigError: the file cannot be read, or a line is no answer.
    """
    path = folder / f"{name}.jsonl"
    rows = read_rows(path, whole_lines(path), keys=ANSWER_KEYS, what=WHAT)
    for row in rows:
        if not all(isinstance(row[key], str) for key in ("id", "question", "truth", "answer_type")):
            raise ConfigError(
                f"{path}: expected {WHAT}; {str(row['id'])[:60]!r} has no question, truth or answer_type."
            )
    return rows


def measure_texts(texts: Sequence[tuple[Asked, str | None, str]], scoring: Scoring) -> list[AnswerScores]:
    """What some answers score, by "kind/metric", those of conventions as "convention:kind/metric".

    Args:
      texts: (question, content of the answer block, what a convention is given).
      scoring: what to compute.
    """
    scores = [measure(asked, answer) for asked, answer, _ in texts]
    for name in scoring.conventions:
        for score, (asked, _, said) in zip(scores, texts, strict=True):
            score |= {f"{name}:{key}": value for key, value in CONVENTIONS[name].score(asked, said).items()}
    if scoring.encoder is not None:
        for place, value in _bertscores(texts, scoring.encoder, scoring.layer).items():
            scores[place]["open/bertscore"] = value
    return scores


def said_of(row: Mapping[str, Any]) -> str:
    """What a convention is given of a line: the answer, else what stands behind the thought."""
    return without_thinking(row["prediction"]) if row["answer"] is None else row["answer"]


def _score(rows: Sequence[Row], scoring: Scoring) -> list[dict[str, Any]]:
    asked = [Asked.of_row(row) for row in rows]
    if "samples" in rows[0]:
        return [
            {"scores": measure_samples(a, row["answers"]), "parsed": any(is_parsed(a, said) for said in row["answers"])}
            for a, row in zip(asked, rows, strict=True)
        ]
    texts = [(a, row["answer"], said_of(row)) for a, row in zip(asked, rows, strict=True)]
    scores = measure_texts(texts, scoring)
    return [{"scores": s, "parsed": is_parsed(a, answer)} for s, (a, answer, _) in zip(scores, texts, strict=True)]


def _bertscores(
    texts: Sequence[tuple[Asked, str | None, str]], encoder: TextEncoder, layer: int | None
) -> dict[int, float]:
    """By place, of the open questions: the best over the truths; no answer is 0."""
    places = [place for place, (asked, _, _) in enumerate(texts) if asked.kind == "open"]
    pairs = [(texts[place][1] or "", truth, place) for place in places for truth in texts[place][0].truths]
    found = dict.fromkeys(places, 0.0)
    scores = encoder.greedy_f1([pair[:2] for pair in pairs], layer=layer) if pairs else []
    for (said, _, place), score in zip(pairs, scores, strict=True):
        found[place] = max(found[place], score if said.strip() else 0.0)
    return found


def _key(name: str, row: Row, scoring: Scoring) -> str:
    said = {name: row.get(name) for name in ("answer", "prediction", "answers", "samples")}
    made_with = [MATCHER_VERSION, list(scoring.conventions), scoring.encoder_identity]
    return digest_of([name, row["id"], dataclasses.astuple(Asked.of_row(row)), said, made_with])


def _parts(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
