"""HOST: everything that is known of each question of an evaluation, in one place: scores, floors, probes, samples, verdicts."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from reflex_jax.config import ConfigError
from reflex_jax.evaluation.answer_files import read_verdicts
from reflex_jax.evaluation.generate import Row
from reflex_jax.evaluation.line_files import whole_lines
from reflex_jax.evaluation.metrics import Asked, measure
from reflex_jax.evaluation.score import Scored
from reflex_jax.text.normalise import LETTERS

Values = dict[str, dict[str, float]]  # "kind/metric" -> id -> value
_CONSTANTS = 3  # truths that are tried as constant answers: the most frequent ones


@dataclasses.dataclass(frozen=True)
class Collected:
    """An evaluation by question."""

    rows: dict[str, Row]  # id -> line of the answers that are scored
    values: Values
    parsed: dict[str, bool]  # id -> whether the answer says what its question asks for
    floors: dict[str, Values]  # blank, question_only: what other answers to the same questions score
    main: str  # the pass that is scored

    @property
    def asked(self) -> dict[str, Asked]:
        """Id -> question."""
        return {i: Asked.of_row(row) for i, row in self.rows.items()}


def collect(
    passes: Mapping[str, Scored], baseline: Mapping[str, str] | None = None, verdicts: Path | None = None
) -> Collected:
    """Brings what was scored together, one number a question.

    Args:
      passes: of `score_folder`.
      baseline: id -> what is answered without a look at pictures and policy (`dataset_card.floors`).
      verdicts: file of `reflex judge` over the answers that are scored.
    Raises:
      ConfigError: the verdicts cannot be read or belong to other answers.
    """
    greedy = [name for name in passes if name.startswith("answers")]
    main = "answers" if "answers" in passes else [*greedy, *passes][0]
    scored = passes[main]
    asked = {i: Asked.of_row(row) for i, row in scored.rows.items()}
    values = _by_metric(scored.scores)
    for name, other in passes.items():
        if name.startswith("samples") and name.removeprefix("samples") == main.removeprefix("answers"):
            values |= _by_metric({i: score for i, score in other.scores.items() if i in asked})
        elif main == "answers" and name in greedy and name != main:
            values |= _beside_probe(name.removeprefix("answers."), scored, other, asked)
    if verdicts is not None:
        values |= _of_verdicts(verdicts, asked)
    floors = {}
    if main == "answers" and "answers.blank" in passes:
        floors["blank"] = _by_metric(passes["answers.blank"].scores)
    if baseline is not None:
        floors["question_only"] = _by_metric({i: measure(asked[i], baseline[i]) for i in asked if i in baseline})
    return Collected(scored.rows, values, scored.parsed, floors, main)


def constant_scores(asked: Sequence[Asked], known: dict[tuple[str, Asked], dict[str, float]]) -> dict[str, float]:
    """What the best constant answer scores in each metric: one of the most frequent truths, or a letter.

    Args:
      asked: questions of one kind.
      known: what was found before, by answer and question; added to.
    """
    frequent = Counter(one.truth for one in asked).most_common(_CONSTANTS)
    letters = LETTERS[: max((len(one.options or ()) for one in asked), default=0)]
    best: dict[str, float] = {}
    for answer in dict.fromkeys([truth for truth, _ in frequent] + [*letters]):
        sums: Counter[str] = Counter()
        for one in asked:
            if (answer, one) not in known:
                known[answer, one] = measure(one, answer)
            sums.update(known[answer, one])
        for name, total in sums.items():
            best[name] = max(best.get(name, 0.0), total / len(asked))
    return best


def _by_metric(scores: Mapping[str, Mapping[str, float]]) -> Values:
    values: Values = {}
    for i, score in scores.items():
        for name, value in score.items():
            values.setdefault(name, {})[i] = value
    return values


def _beside_probe(probe: str, real: Scored, other: Scored, asked: Mapping[str, Asked]) -> Values:
    """What the answers owe to the picture: right before it less right before another one, and whether the answer changes."""
    values: Values = {}
    for i, one in asked.items():
        if i not in other.rows or not real.rows[i].get("has_picture"):
            continue
        reliance = real.scores[i][one.exact] - other.scores[i][one.exact]
        said = [one.key(scored.rows[i]["answer"]) for scored in (real, other)]
        values.setdefault(f"{one.kind}/reliance ({probe})", {})[i] = reliance
        values.setdefault(f"{one.kind}/sensitivity ({probe})", {})[i] = float(said[0] != said[1])
    return values


def _of_verdicts(path: Path, asked: Mapping[str, Asked]) -> Values:
    """The marks of a language model, of the answers that have any."""
    if not path.is_file():
        raise ConfigError(f"--verdicts: {path}: expected the file that `reflex judge` wrote; there is none.")
    lines = whole_lines(path)
    keys = read_verdicts(path, lines)
    values: Values = {}
    for i, key in _keys_by_id(lines).items():
        if i not in asked:
            raise ConfigError(f"--verdicts: {path}: {i!r} is no question of these answers; judge their answers.jsonl.")
        for name, value in (keys[key].scores or {}).items():
            values.setdefault(f"{asked[i].kind}/judge {name}", {})[i] = value
    return values


def _keys_by_id(lines: Sequence[bytes]) -> dict[str, str]:
    """The key of the latest verdict on each answer: of answers that changed since there is a later one."""
    found = {}
    for line in lines:
        row = json.loads(line)
        found[str(row["id"])] = row["key"]
    return found
