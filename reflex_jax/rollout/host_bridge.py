"""The seam: the only place where strings meet arrays.

Sampled tokens go in; out come the statements the judge reads (paper Eq. 1) and the rewards that are string operations
(answer and format, Eq. 9). It runs once per step, on the host, between `generate` and `train_step`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt8

from reflex_jax.data.examples import Example
from reflex_jax.judge.batch import StatementTokenizer, prepare_judge_batch
from reflex_jax.records import HostScores, JudgeInputs
from reflex_jax.rewards.answer import answer_reward
from reflex_jax.rewards.format import format_reward
from reflex_jax.text.completion import parse_completion
from reflex_jax.text.declarative import decl

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
        decode: Callable[[Sequence[int]], str],
        statement_tokenizer: StatementTokenizer,
        open_answer_parts: dict[str, float],
        max_statement_tokens: int,
        centered: bool,
        answer_of: Callable[[str], str | None] = lambda text: parse_completion(text).answer,
    ):
        """See the class."""
        self._decode = decode
        self._statement_tokenizer = statement_tokenizer
        self._open_answer_parts = open_answer_parts
        self._max_statement_tokens = max_statement_tokens
        self._centered = centered
        self._answer_of = answer_of

    def __call__(
        self,
        examples: Sequence[Example],
        tokens: Int[np.ndarray, "P G Lc"],
        mask: Bool[np.ndarray, "P G Lc"],
        judge_pixels: UInt8[np.ndarray, "P H W 3"],
    ) -> BridgedRollout:
        """Scores the strings of P groups and prepares what the judge reads."""
        lengths = mask.sum(-1)
        completions = [
            [self._decode(row[:length]) for row, length in zip(group, counts, strict=True)]
            for group, counts in zip(tokens, lengths, strict=True)
        ]
        answers = [[self._answer_of(text) for text in group] for group in completions]
        statements = [
            [None if a is None else decl(e.question, a, e.options) for a in group]
            for e, group in zip(examples, answers, strict=True)
        ]
        anchors = [decl(e.question, e.answer, e.options) for e in examples]
        judge = prepare_judge_batch(
            judge_pixels,
            statements,
            anchors,
            self._statement_tokenizer,
            max_statement_tokens=self._max_statement_tokens,
            questions=[e.question for e in examples] if self._centered else None,
        )
        return BridgedRollout(
            completions, answers, statements, anchors, judge, self._score(examples, completions, answers)
        )

    def _score(
        self, examples: Sequence[Example], completions: list[list[str]], answers: list[list[str | None]]
    ) -> HostScores:
        formats = np.asarray([[format_reward(text) for text in group] for group in completions], np.float32)
        correctness = np.asarray(
            [
                [
                    answer_reward(
                        a, e.answer, answer_type=e.answer_type, options=e.options, parts=self._open_answer_parts
                    )
                    for a in group
                ]
                for e, group in zip(examples, answers, strict=True)
            ],
            np.float32,
        )
        return HostScores(
            components={"answer": correctness, "format": formats},
            is_correct=correctness >= OPEN_CORRECT_AT,
            is_valid=np.ones(correctness.shape, bool),
        )
