"""HOST: what a reward of strings gets to see of one completion, and what may come back for it.

Three things may: a score; None, where the reward does not apply (the row then earns nothing from it and is not counted in
its metrics); or that it failed. A failure is never a score of 0: its row leaves the statistics of its group.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from reflex_jax.text.completion import ParsedCompletion, parse_completion

LARGEST_SCORE = 3e38  # what float32 holds


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One completion of one question, with everything that is known of the question."""

    question: str
    completion: str  # all that was sampled, without special tokens
    answer: str | None  # content of its answer block; None: there is not exactly one
    parsed: ParsedCompletion | None = None  # all parts of it, as the run reads them; None: as `parse_completion` does
    truth: str  # the dataset's answer
    accepted: tuple[str, ...] = ()  # other answers that are right as well
    answer_type: str  # closed | open
    options: tuple[str, ...] | None = None  # texts behind the letters A, B, ... of a multiple-choice question
    tokens: int = 0  # length of the completion, its end included
    statement: str | None = None  # decl(question, answer), None without an answer
    anchor: str | None = None  # decl(question, truth)
    image_id: str = ""  # equal ids: the same picture
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))  # what else the dataset says
    open_image: Callable[[], Any] | None = field(default=None, repr=False, compare=False)

    @property
    def parts(self) -> ParsedCompletion:
        """The completion's thought, preamble and format."""
        return parse_completion(self.completion) if self.parsed is None else self.parsed

    def load_image(self) -> Any:
        """The picture (PIL, RGB), read when it is asked for; None where the question has none."""
        return None if self.open_image is None else self.open_image()


@dataclass(frozen=True)
class Failed:
    """Why a row has no score."""

    error: str  # name of an exception
    message: str
    place: str = ""  # file and line that raised, where known

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        """Reads an exception that was caught."""
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        try:
            message = (str(error).strip().splitlines() or ["no message"])[0][:200]
        except Exception:  # an exception of somebody else's making
            message = "its message cannot be read"
        return cls(type(error).__name__, message, place)

    def __str__(self) -> str:
        """One line."""
        return f"{self.error}{f' at {self.place}' if self.place else ''}: {self.message}"


Result = float | None | Failed
RowReward = Callable[..., float | None]  # (answered, **options): raises where it fails
HostReward = Callable[..., Sequence[Result]]  # (rows, **options): one result for each row, in their order


def _score_row(reward: RowReward, row: Answered, options: Mapping[str, Any]) -> Result:
    return check_score(reward(row, **options))


def score_rows(reward: RowReward, rows: Sequence[Answered], options: Mapping[str, Any]) -> list[Result]:
    """One result for each row; whatever a row raises fails that row alone."""
    return [attempt(partial(_score_row, reward, row, options)) for row in rows]


def score_batch(reward: HostReward, rows: Sequence[Answered], options: Mapping[str, Any]) -> list[Result]:
    """One result for each row; what is raised, or a list of another length, fails them all."""

    def score() -> list[Any]:
        results = list(reward(rows, **options))
        if len(results) != len(rows):
            raise ValueError(f"expected {len(rows)} scores, one for each row; got {len(results)}")
        return results

    results = attempt(score)
    if isinstance(results, Failed):
        return [results] * len(rows)
    return [attempt(partial(check_score, result)) for result in results]


def reward(function: RowReward) -> RowReward:
    """Marks a function of a user's own file as a reward of one completion: `(answered, *, option=default) -> float | None`."""
    vars(function)["reward_kind"] = "row"  # the worker looks for it
    return function


def batch_reward(function: HostReward) -> HostReward:
    """Marks a function of a user's own file as a reward of all completions of a step: `(rows, *, ...) -> [score, ...]`."""
    vars(function)["reward_kind"] = "batch"
    return function


def check_score(value: Any) -> Result:
    """The score as a float; None and failures as they are.

    Raises:
      ValueError: it is neither a finite number nor one of these.
    """
    if value is None or isinstance(value, Failed):
        return value
    try:
        number = float("nan" if isinstance(value, (str, bytes)) else value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not abs(number) <= LARGEST_SCORE:
        raise ValueError(f"expected a finite reward or None; got {repr(value)[:80]}")
    return number


def attempt(compute: Callable[[], Any]) -> Any:
    """The result, or what was raised as a `Failed`; only Ctrl-C is no failure of a row."""
    try:
        return compute()
    except (Exception, SystemExit) as error:
        return Failed.of(error)
