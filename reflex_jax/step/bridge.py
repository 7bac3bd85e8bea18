"""The seam: the only place where strings meet arrays.

Sampled tokens go in; out come the statements the judge reads (paper Eq. 1) and the rewards that are string operations
(Eq. 9: answer and format). It runs once per step, on the host, between `generate` and `train_step`. Whatever raises here
marks its rows as failed, see `row_failures`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from reflex_jax.chat.client import ChatClient, ChatCounts
from reflex_jax.config import Component
from reflex_jax.data.examples import Example
from reflex_jax.judge.batch import StatementTokenizer, pack_statements
from reflex_jax.records import HostScores, JudgeInputs
from reflex_jax.rewards.answer_metrics import ANSWER_METRICS, answer_metrics
from reflex_jax.rewards.answered import Answered, Result
from reflex_jax.rewards.components import REWARDS, is_of_device
from reflex_jax.rewards.user_file import UserRewards
from reflex_jax.statements.operator import decl
from reflex_jax.step.row_failures import Failure, FailureReporter, RowFailures
from reflex_jax.text.completion import ParsedCompletion, parse_completion

JUDGE_METRICS = (
    "judge/cut_statement_rate",
)  # of the statements that the judge reads; there is no such number without one
_UNREAD = ParsedCompletion(thought=None, answer=None, is_well_formed=False)  # a completion that could not be decoded
_MOST_KEPT = 8192  # statements
_LONGEST_KEPT = 1024  # characters of an answer whose statement is kept
OPEN_CORRECT_AT = 0.5  # an open answer counts as correct from this R_ans on


@dataclass(frozen=True)
class BridgedRollout:
    """A rollout in words and what the device needs of it."""

    completions: list[list[str]]  # [P][G] decoded text
    answers: list[list[str | None]]  # [P][G] content of the answer block; None: no single block
    statements: list[list[str | None]]  # [P][G] t1 = decl(q, a)
    anchors: list[str]  # [P] t2 = decl(q, a*)
    judge: JudgeInputs | None  # None: no component asks the judge
    scores: HostScores
    failures: list[list[Failure | None]]  # [P][G] why a row has no reward; None: it has one


class HostBridge:
    """Turns sampled tokens into statements and string rewards.

    Args:
      decode: token ids of one completion -> text without special tokens.
      components: of the reward; those of the device are left to the compiled step.
      statement_tokenizer: the judge's; None: nothing is prepared for a judge.
      max_statement_tokens: T, static.
      centered: also encode the question-only statement of each prompt.
      user_rewards: where components that do not ship are computed.
      parse: completion -> its parts; benchmarks with random weights replace it to give the judge a full load.
      resources: what rewards need beside the rows, by the names of `rewards.components.Reward.needs`; chat: the client.
    """

    def __init__(
        self,
        *,
        decode: Callable[[Int[np.ndarray, "L"]], str],
        components: Mapping[str, Component],
        statement_tokenizer: StatementTokenizer | None,
        max_statement_tokens: int,
        centered: bool,
        user_rewards: UserRewards | None = None,
        parse: Callable[[str], ParsedCompletion] = parse_completion,
        resources: Mapping[str, Any] = MappingProxyType({}),
    ):
        self._decode = decode
        self._components = {name: c for name, c in components.items() if not is_of_device(name)}
        # an answer is right or wrong by the rule of this component, also where it is not among those that pay
        self._answer = components.get("answer", Component())
        self._statement_tokenizer = statement_tokenizer
        self._max_statement_tokens = max_statement_tokens
        self._centered = centered
        self._user_rewards, self._parse = user_rewards, parse
        self._chat: ChatClient | None = resources.get("chat")
        self._resources = {**resources, "chat": self._chat.ask} if self._chat else resources
        self._reporter = FailureReporter()
        # the answers of a group are often the same few, and so they are at the next look at the question
        self._declare = lru_cache(_MOST_KEPT)(lambda *asked: decl(*asked))
        self._encode = lru_cache(_MOST_KEPT)(self._encode_statement)

    def __call__(
        self,
        examples: Sequence[Example],
        tokens: Int[np.ndarray, "P G Lc"],
        mask: Bool[np.ndarray, "P G Lc"],
        judge_pixels: UInt8[np.ndarray, "P H W 3"] | UInt8[np.ndarray, "P K H W 3"] | None,
    ) -> BridgedRollout:
        """Scores the strings of P groups and prepares what the judge reads; without one, nobody looks at the pixels."""
        lengths = mask.sum(-1)
        failures = RowFailures(*lengths.shape)
        completions = failures.of_rows(
            "completion", lambda p, g: self._decode(tokens[p, g, : lengths[p, g]]), otherwise=""
        )
        parsed = failures.of_rows("completion", lambda p, g: self._parse(completions[p][g]), otherwise=_UNREAD)
        answers = [[parts.answer for parts in row] for row in parsed]

        def declare(example: Example, answer: str | None) -> str | None:
            if answer is None:
                return None
            state = self._declare if len(answer) <= _LONGEST_KEPT else decl
            return state(example.question, answer, example.options)

        statements = failures.of_rows("statement", lambda p, g: declare(examples[p], answers[p][g]))
        anchors = failures.of_prompts("anchor", lambda p: declare(examples[p], examples[p].answer), otherwise="")
        judge, of_judge = None, {}
        if self._statement_tokenizer is not None:
            judge, is_cut = self._pack(failures, examples, statements, anchors, judge_pixels)
            of_judge = dict(zip(JUDGE_METRICS, [is_cut], strict=True))
        scores = self._score(
            failures,
            lambda p, g: Answered(
                completion=completions[p][g], answer=answers[p][g], parsed=parsed[p][g], tokens=int(lengths[p, g]),
                statement=statements[p][g], anchor=anchors[p], **_facts(examples[p]),
            ),
        )  # fmt: skip
        scores = dataclasses.replace(scores, metrics=scores.metrics | of_judge)
        self._reporter.tell(failures)
        return BridgedRollout(completions, answers, statements, anchors, judge, scores, failures.first)

    def take_chat_counts(self) -> ChatCounts | None:
        """What became of the questions to a language model since the last look; None: no component asks one."""
        return self._chat.take_counts() if self._chat else None

    def close(self) -> None:
        """Ends the process of a user's own rewards and the connections to a language model, where there are some."""
        for held in (self._user_rewards, self._chat):
            if held is not None:
                held.close()

    def _pack(
        self,
        failures: RowFailures,
        examples: Sequence[Example],
        statements: list[list[str | None]],
        anchors: list[str],
        judge_pixels: UInt8[np.ndarray, "P H W 3"] | UInt8[np.ndarray, "P K H W 3"] | None,
    ) -> tuple[JudgeInputs, Float[np.ndarray, "P G"]]:
        """What the judge reads, and of which completions it reads a statement only in part."""
        tokenizer, limit, encode = self._statement_tokenizer, self._max_statement_tokens, self._encode
        if judge_pixels is None or tokenizer is None:
            raise ValueError("judge_pixels: expected the pictures as the judge sees them; got None.")

        def fit(ids: tuple[int, ...] | None) -> tuple[int, ...] | None:
            return ids if ids is None or len(ids) <= limit else (*ids[: limit - 1], ids[-1])

        questions = None
        if self._centered:
            questions = failures.of_prompts("anchor", lambda p: fit(encode(examples[p].question)), otherwise=())
        rows = failures.of_rows("statement", lambda p, g: encode(statements[p][g]))
        is_cut = [[ids is not None and len(ids) > limit for ids in row] for row in rows]
        packed = pack_statements(
            judge_pixels,
            [[fit(ids) for ids in row] for row in rows],
            failures.of_prompts("anchor", lambda p: fit(encode(anchors[p])), otherwise=()),
            max_statement_tokens=limit,
            pad_token_id=tokenizer.pad_token_id,
            questions=questions,
            # an axis for several pictures: it looks at all that a question has
            picture_counts=[len(example.images) for example in examples] if judge_pixels.ndim == 5 else None,
        )
        return packed, np.asarray(is_cut, np.float32)

    def _encode_statement(self, text: str | None) -> tuple[int, ...] | None:
        if text is None or self._statement_tokenizer is None:
            return None
        return self._statement_tokenizer(text, self._max_statement_tokens + 1)

    def _score(self, failures: RowFailures, answered: Callable[[int, int], Answered]) -> HostScores:
        def own_rewards() -> UserRewards:
            if self._user_rewards is None:
                raise ValueError("user_rewards: expected one, for components that do not ship; got None.")
            return self._user_rewards

        def results_of(name: str, options: Mapping[str, Any]) -> Callable[[list[tuple[int, int]]], Sequence[Result]]:
            if name in REWARDS:
                score = partial(REWARDS[name].score, resources=self._resources)
            else:
                score = partial(own_rewards().score, name)
            return lambda rows: score([answered(p, g) for p, g in rows], options)

        everywhere = np.ones_like(failures.is_valid)
        answer, _ = failures.of_component("answer", results_of("answer", self._answer.options), everywhere)
        is_correct = answer >= OPEN_CORRECT_AT
        rows_of = {"always": everywhere, "right": is_correct, "wrong": ~is_correct}
        scores, applies = {}, {}
        for name, component in self._components.items():
            rows = rows_of[component.when]
            if name == "answer":
                scores[name], applies[name] = np.where(rows, answer, np.float32(0)), rows
            else:
                scores[name], applies[name] = failures.of_component(name, results_of(name, component.options), rows)
        measured = failures.of_rows("answer", lambda p, g: answer_metrics(answered(p, g)), otherwise={})
        metrics = {
            name: np.asarray([[found.get(name, np.nan) for found in group] for group in measured], np.float32)
            for name in ANSWER_METRICS
        }
        is_valid = failures.is_valid
        # a failed row has no reward: NaN would be seen where a zero would pass for one
        components = {name: np.where(is_valid, values, np.float32(np.nan)) for name, values in scores.items()}
        is_correct &= is_valid
        return HostScores(
            components=components, applies=applies, is_correct=is_correct, is_valid=is_valid, metrics=metrics
        )


def _facts(example: Example) -> dict[str, Any]:
    """What a reward may know of a question."""
    known = {
        "id": example.id, "modality": example.modality, "organ": example.organ, "target": example.target,
        "paraphrases": example.paraphrases or None, "category": example.category, "reasoning": example.reasoning,
        "source": example.source or None,
    }  # fmt: skip
    return {
        "question": example.question, "truth": example.answer, "answer_type": example.answer_type,
        "options": example.options, "accepted": example.accepted, "image_id": example.image_id,
        "metadata": MappingProxyType({key: value for key, value in known.items() if value is not None}),
        "open_image": example.images[0].load if example.images else None,
    }  # fmt: skip
