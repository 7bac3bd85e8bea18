"""HOST: `reflex judge`: a file of predictions before a language model, resumed by running it again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflex_jax.chat.check import check_endpoint
from reflex_jax.chat.client import ChatClient
from reflex_jax.chat.endpoint import Conversation, request_body
from reflex_jax.config import EndpointConfig
from reflex_jax.evaluation.answer_files import VerdictFile, Verdicts, answer_key, read_answers
from reflex_jax.evaluation.judge_protocols import JUDGE_ANEW, TEMPLATES, PredictedAnswer, Template
from reflex_jax.rewards.answered import Failed
from reflex_jax.rewards.llm_judge import Ask

MOST_FAILURES = 3  # of one prediction, in as many runs of the command, after which it is left as failed
# The endpoint's own troubles: they say nothing of a prediction and do not count.
_PASSING = ("Unreachable", "ConnectionBroken", "ServerFault", "TooManyRequests", "CertificateRefused", "CircuitOpen")


@dataclass(frozen=True)
class Judged:
    """What the judge said of one prediction, round by round."""

    rounds: list[dict[str, float]]  # field -> mark
    replies: list[str]


@dataclass(frozen=True)
class JudgedFile:
    """How far the verdicts on a file are."""

    metrics: dict[str, float]
    to_be_tried_again: int  # by the same command
    given_up: int  # predictions that failed too often
    found: str  # what the look at the endpoint said


def judge_file(path: Path, target: Path, endpoint: EndpointConfig, *, template: str | None) -> JudgedFile:
    """Judges the predictions of a file that have no verdict yet; returns the means of all that have one.

    Args:
      path: predictions, see `answer_files.read_answers`.
      target: verdicts; lines are added.
      endpoint: who judges.
      template: for lines that name none.
    Raises:
      ConfigError: a file or the endpoint cannot be used.
    """
    answers = read_answers(path, template)
    judge = {name: value for name, value in request_body(endpoint, ()).items() if name != "messages"}
    keys = {answer.id: answer_key(answer, judge) for answer in answers}
    verdicts = VerdictFile(target)
    with closing(ChatClient(endpoint)) as client, verdicts.owned() as known:
        found = ""
        missing = [a for a in answers if _is_missing(known.get(keys[a.id]))]
        if missing and endpoint.check:
            found = check_endpoint(client, endpoint)
        for part in _parts(missing, 4 * endpoint.concurrency):
            results = _judge(client.ask, TEMPLATES[part[0].template], part)
            rows = [_as_row(a, keys[a.id], result) for a, result in zip(part, results, strict=True)]
            verdicts.add(rows)
            for row, result in zip(rows, results, strict=True):
                _remember(known.setdefault(row["key"], Verdicts()), row, result)
            if all(isinstance(result, Failed) and result.error in _PASSING for result in results):
                break  # nobody is there; the rest would fail alike
    of_answer = {answer.id: known.get(keys[answer.id], Verdicts()) for answer in answers}
    without = [v for v in of_answer.values() if v.scores is None]
    again = sum(_is_missing(v) for v in without)
    return JudgedFile(summarise_verdicts(answers, of_answer), again, len(without) - again, found)


def _parts(answers: Sequence[PredictedAnswer], size: int) -> Iterator[list[PredictedAnswer]]:
    """Predictions of one template each, some at a time: what a crash can cost."""
    for name in TEMPLATES:
        chosen = [answer for answer in answers if answer.template == name]
        for start in range(0, len(chosen), size):
            yield chosen[start : start + size]


def _is_missing(verdicts: Verdicts | None) -> bool:
    if verdicts is None:
        return True
    own = sum(kind not in _PASSING for kind in verdicts.failures)
    return verdicts.scores is None and own < MOST_FAILURES


def _judge(ask: Ask, template: Template, answers: Sequence[PredictedAnswer]) -> list[Judged | Failed]:
    """All rounds of some predictions, or why there are not all of them; where nothing is predicted all marks are 0, unasked."""
    results: dict[int, Judged | Failed] = {}
    conversations: dict[int, Conversation] = {}
    for number, answer in enumerate(answers):
        results[number] = Judged([dict.fromkeys(template.marks, 0.0)] * template.rounds, [])
        if template.shown(answer):
            results[number], conversations[number] = Judged([], []), (("user", template.first_turn(answer)),)
    for _ in range(template.rounds):
        asked = {number: judged for number in conversations if isinstance(judged := results[number], Judged)}
        replies = ask([conversations[number] for number in asked], accepts=template.accepts, again=template.form)
        for (number, judged), reply in zip(asked.items(), replies, strict=True):
            if isinstance(reply, Failed):
                results[number] = reply
                continue
            judged.rounds.append(template.read(reply))
            judged.replies.append(reply)
            conversations[number] = (*conversations[number], ("assistant", reply), ("user", JUDGE_ANEW))
    return [*results.values()]


def _as_row(answer: PredictedAnswer, key: str, result: Judged | Failed) -> dict[str, Any]:
    row = {"id": answer.id, "template": answer.template, "key": key}
    if isinstance(result, Failed):
        return row | {"failure": str(result)}
    scores = TEMPLATES[answer.template].scores(result.rounds)
    return row | {"scores": scores, "rounds": result.rounds, "replies": result.replies}


def _remember(verdicts: Verdicts, row: dict[str, Any], result: Judged | Failed) -> None:
    if isinstance(result, Failed):
        verdicts.failures.append(result.error)
    else:
        verdicts.scores = row["scores"]


def summarise_verdicts(answers: Sequence[PredictedAnswer], verdicts: dict[str, Verdicts]) -> dict[str, float]:
    """Means of each mark: over all predictions, each task, their unweighted mean, closed and open questions apart.

    Predictions without a verdict are in none of them; `failed` counts them.
    """
    groups: dict[str, list[float]] = defaultdict(list)
    by_task: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    failed = 0
    for answer in answers:
        scores = verdicts[answer.id].scores
        failed += scores is None
        for name, value in (scores or {}).items():
            groups[f"{name}/sample_mean"].append(value)
            by_task[name][answer.task].append(value)
            if answer.answer_type is not None:
                groups[f"{name}/{answer.answer_type}"].append(value)
    means = {name: sum(values) / len(values) for name, values in groups.items()}
    for name, tasks in by_task.items():
        of_task = {task: sum(values) / len(values) for task, values in tasks.items()}
        means |= {f"{name}/task/{task}": value for task, value in of_task.items()}
        means[f"{name}/task_mean"] = sum(of_task.values()) / len(of_task)
    return means | {"judged": float(len(answers) - failed), "failed": float(failed)}
