"""The seam: the only place where strings meet arrays.

Sampled tokens go in; out come the statements the judge reads (paper Eq. 1) and the rewards that are string operations
(answer and format, Eq. 9). It runs once per step, on the host, between `generate` and `train_step`. Whatever raises here
marks its rows as failed, see `row_failures`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt8

from reflex_jax.data.examples import Example
from reflex_jax.judge.batch import StatementTokenizer, pack_statements
from reflex_jax.records import HostScores, JudgeInputs
from reflex_jax.rewards.answer import answer_reward
from reflex_jax.rewards.format import format_reward
from reflex_jax.statements.operator import decl
from reflex_jax.step.row_failures import Failure, FailureReporter, RowFailures, finite
from reflex_jax.text.completion import parse_completion

OPEN_CORRECT_AT = 0.5  # an open answer counts as correct, in metrics only, from this R_ans on


@dataclass(frozen=True)
class BridgedRollout:
    """A rollout in words and what the device needs of it."""

    completions: list[list[str]]  # [P][G] decoded text
    answers: list[list[str | None]]  # [P][G] content of the answer block; None: no single block
    statements: list[list[str | None]]  # [P][G] t1 = decl(q, a)
    anchors: list[str]  # [P] t2 = decl(q, a*)
    judge: JudgeInputs
    scores: HostScores
    failures: list[list[Failure | None]]  # [P][G] why a row has no reward; None: it has one


class HostBridge:
    """Turns sampled tokens into statements and string rewards.

    Args:
      decode: token ids of one completion -> text without special tokens.
      statement_tokenizer: the judge's.
      open_answer_parts: weights of the parts of the open answer reward.
      max_statement_tokens: T, static.
      centered: also encode the question-only statement of each prompt.
      answer_of: completion -> its answer, None where there is not exactly one; benchmarks with random weights replace it
        to give the judge a full load.
    """

    def __init__(
        self,
        *,
        decode: Callable[[Int[np.ndarray, "L"]], str],
        statement_tokenizer: StatementTokenizer,
        open_answer_parts: dict[str, float],
        max_statement_tokens: int,
        centered: bool,
        answer_of: Callable[[str], str | None] = lambda text: parse_completion(text).answer,
    ):
        self._decode = decode
        self._statement_tokenizer = statement_tokenizer
        self._open_answer_parts = open_answer_parts
        self._max_statement_tokens = max_statement_tokens
        self._centered = centered
        self._answer_of = answer_of
        self._reporter = FailureReporter()

    def __call__(
        self,
        examples: Sequence[Example],
        tokens: Int[np.ndarray, "P G Lc"],
        mask: Bool[np.ndarray, "P G Lc"],
        judge_pixels: UInt8[np.ndarray, "P H W 3"] | None,
    ) -> BridgedRollout:
        """Scores the strings of P groups and prepares what the judge reads."""
        lengths = mask.sum(-1)
        failures = RowFailures(*lengths.shape)
        completions = failures.of_rows(
            "completion", lambda p, g: self._decode(tokens[p, g, : lengths[p, g]]), otherwise=""
        )
        answers = failures.of_rows("completion", lambda p, g: self._answer_of(completions[p][g]))

        def declare(example: Example, answer: str | None) -> str | None:
            return None if answer is None else decl(example.question, answer, example.options)

        statements = failures.of_rows("statement", lambda p, g: declare(examples[p], answers[p][g]))
        anchors = failures.of_prompts("anchor", lambda p: declare(examples[p], examples[p].answer), otherwise="")
        judge = self._pack(failures, examples, statements, anchors, judge_pixels)
        scores = self._score(failures, examples, completions, answers)
        self._reporter.tell(failures)
        return BridgedRollout(completions, answers, statements, anchors, judge, scores, failures.first)

    def _pack(
        self,
        failures: RowFailures,
        examples: Sequence[Example],
        statements: list[list[str | None]],
        anchors: list[str],
        judge_pixels: UInt8[np.ndarray, "P H W 3"] | None,
    ) -> JudgeInputs:
        if judge_pixels is None:
            raise ValueError("judge_pixels: expected the pictures as the judge sees them; got None.")

        def encode(text: str | None) -> tuple[int, ...] | None:
            return None if text is None else self._statement_tokenizer(text, self._max_statement_tokens)

        questions = None
        if self._centered:
            questions = failures.of_prompts("anchor", lambda p: encode(examples[p].question), otherwise=())
        return pack_statements(
            judge_pixels,
            failures.of_rows("statement", lambda p, g: encode(statements[p][g])),
            failures.of_prompts("anchor", lambda p: encode(anchors[p]), otherwise=()),
            max_statement_tokens=self._max_statement_tokens,
            pad_token_id=self._statement_tokenizer.pad_token_id,
            questions=questions,
        )

    def _score(
        self,
        failures: RowFailures,
        examples: Sequence[Example],
        completions: list[list[str]],
        answers: list[list[str | None]],
    ) -> HostScores:
        def score_answer(example: Example, answer: str | None) -> float:
            kind, options, parts = example.answer_type, example.options, self._open_answer_parts
            return finite(answer_reward(answer, example.answer, answer_type=kind, options=options, parts=parts))

        scores = {
            "answer": failures.of_rows(
                "answer", lambda p, g: score_answer(examples[p], answers[p][g]), otherwise=np.nan
            ),
            "format": failures.of_rows(
                "format", lambda p, g: finite(format_reward(completions[p][g])), otherwise=np.nan
            ),
        }
        is_valid = np.array([[failure is None for failure in row] for row in failures.first], bool)
        # a failed row has no reward: NaN would be seen where a zero would pass for one
        components = {
            name: np.where(is_valid, np.asarray(values, np.float32), np.float32(np.nan))
            for name, values in scores.items()
        }
        is_correct = is_valid & (components["answer"] >= OPEN_CORRECT_AT)
        return HostScores(components=components, is_correct=is_correct, is_valid=is_valid)
