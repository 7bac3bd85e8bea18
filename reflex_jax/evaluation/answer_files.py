"""HOST: files of predictions that a language model judges, and the file of its verdicts, to which lines are only added.

A verdict belongs to the text it was given for, by a hash: predictions that changed, or another judge, are judged anew, and
the lines of before stay without being read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reflex_jax.config import ConfigError, nearest_name
from reflex_jax.data.examples import RowError, list_offenders
from reflex_jax.data.json_lines import lines_of_file, parse_object
from reflex_jax.evaluation.judge_protocols import TEMPLATES, PredictedAnswer
from reflex_jax.evaluation.line_files import LineFile

_TEXTS = ("question", "truth", "prediction")
_KEYS = ("id", *_TEXTS, "template", "task", "answer_type", "options")


@dataclass
class Verdicts:
    """What is known of one prediction."""

    scores: dict[str, float] | None = None
    failures: list[str] = field(default_factory=list)  # kinds, of the runs in which it failed


def read_answers(path: Path, template: str | None) -> list[PredictedAnswer]:
    """Predictions of a JSON Lines file, in order.

    A line has id, question, truth, prediction and, where none is given for all, template; it may have task, answer_type
    (closed, open) and options.

    Args:
      path: the file.
      template: for lines that name none.
    Raises:
      ConfigError: it cannot be read, has no line, or lines that cannot be used, all of them named.
    """
    answers, problems, seen = [], [], set()
    for number, line in lines_of_file(path):
        try:
            answer = _read_answer(parse_object(line), template)
            if answer.id in seen:
                raise RowError(f"id {answer.id!r} stands in an earlier line too")
            seen.add(answer.id)
            answers.append(answer)
        except RowError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        raise ConfigError(f"{path}: {len(problems)} lines cannot be judged: {list_offenders(problems)}.")
    if not answers:
        raise ConfigError(f"{path}: expected one JSON object a line; there is none.")
    return answers


def _read_answer(row: dict[str, Any], template: str | None) -> PredictedAnswer:
    row = {"template": template} | row
    identity = row.get("id")
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise RowError(f"expected id, a text or a whole number; got {identity!r:.40}")
    wrong = [name for name in _TEXTS if not isinstance(row.get(name), str)]
    if wrong:
        raise RowError(f"expected a text for {', '.join(wrong)}")
    if row["template"] not in TEMPLATES:
        given = row["template"]
        advice = " (--template names one for such lines)" if given is None else nearest_name(str(given), TEMPLATES)
        raise RowError(f"template: expected one of {', '.join(TEMPLATES)}; got {given!r:.40}{advice}")
    options = row.get("options") or ()
    if not isinstance(options, list | tuple) or not all(isinstance(option, str) for option in options):
        raise RowError("options: expected a list of texts")
    if len(options) > 26:
        raise RowError(f"options: expected at most 26; got {len(options)}")
    task, answer_type = row.get("task", "all"), row.get("answer_type")
    if not isinstance(task, str) or not task.isprintable() or not task:
        raise RowError(f"task: expected a name; got {task!r:.40}")
    if answer_type not in (None, "closed", "open"):
        raise RowError(f"answer_type: expected closed or open; got {answer_type!r:.40}")
    given = {name: row[name] for name in (*_TEXTS, "template")}
    return PredictedAnswer(id=str(identity), task=task, answer_type=answer_type, options=tuple(options), **given)


def answer_key(answer: PredictedAnswer, judge: dict[str, Any]) -> str:
    """Hash of what a verdict depends on: texts, template and judge."""
    facts = {name: value for name, value in asdict(answer).items() if name not in ("task", "answer_type")}
    return hashlib.sha256(json.dumps([facts, judge], sort_keys=True).encode()).hexdigest()


class VerdictFile:
    """Verdicts on disk, one line each; a line that a crash cut off is taken away."""

    def __init__(self, path: Path):
        self._lines = LineFile(path)

    @contextmanager
    def owned(self) -> Iterator[dict[str, Verdicts]]:
        """What is known by key; in the block this process alone may add to it.

        Raises:
          ConfigError: another process has it, it cannot be written, or a line in its middle is no verdict.
        """
        with self._lines.owned() as lines:
            yield read_verdicts(self._lines.path, lines)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Writes lines, whole or not at all as far as the disk allows."""
        self._lines.add(rows)


def read_verdicts(path: Path, lines: Sequence[bytes]) -> dict[str, Verdicts]:
    """What the lines of a file of verdicts say, by key.

    Raises:
      ConfigError: a line is no verdict.
    """
    found: dict[str, Verdicts] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            known = found.setdefault(row["key"], Verdicts())
            if row.get("failure") is None:
                known.scores = {str(name): float(value) for name, value in row["scores"].items()}
            else:
                known.failures.append(str(row["failure"]).partition(":")[0])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"--to: {path}, line {number}: expected a verdict of `reflex judge`; got {line[:60]!r}. Name another "
                "file, or remove that line."
            ) from error
    return found
