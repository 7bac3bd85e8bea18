"""HOST: the table of all rewards that ship: one line each, under the name a configuration calls it by.

A reward is a function of one of three kinds. Its options are its keyword-only parameters; it sees neither a configuration
nor a model. One that reads the answer may have the gate of `validity`, the option `valid_only`, before it.

- row: `(answered, *, ...) -> float | None` of one completion in words, see `answered`;
- batch: `(rows, *, ...) -> [float | None | Failed, ...]`, of all completions of a step at once; where the table says what it
  `needs`, that comes second, `(rows, resource, *, ...)`: the run opens it at its start and hands it in by that name;
- device: `(evidence, *, ...) -> [P, G]` of what the judge found, inside the compiled step. A NaN there is a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

from reflex_jax.rewards.answer import answer_score, check_options
from reflex_jax.rewards.answered import Answered, Result, score_batch, score_rows
from reflex_jax.rewards.bertscore import bertscore_scores, check_bertscore
from reflex_jax.rewards.embedding_similarity import check_embedding, embedding_similarity_scores
from reflex_jax.rewards.format import check_partial, format_score
from reflex_jax.rewards.length import check_length, check_overlong, length_score, overlong_score
from reflex_jax.rewards.letter import check_with_text, letter_score
from reflex_jax.rewards.llm_judge import check_reply_options, judge_answers
from reflex_jax.rewards.modality import modality_score
from reflex_jax.rewards.options import Option, read_options
from reflex_jax.rewards.provenance import check_thresholds, provenance_margins, provenance_reward
from reflex_jax.rewards.reasoning import check_reasoning, reasoning_scores
from reflex_jax.rewards.validity import is_valid_answer
from reflex_jax.rewards.visual_fidelity import check_iou_threshold, visual_fidelity_margins, visual_fidelity_reward

_GATE = {"valid_only": Option("bool", False)}


@dataclass(frozen=True)
class Reward:
    """A reward of the table."""

    kind: Literal["row", "batch", "device"]
    function: Callable[..., Any]
    check: Callable[..., None] | None = None  # of the options: raises ValueError for values out of range
    # chat: `rewards.llm_judge.Ask`, of the section `endpoint` | text_encoders: `rewards.text_encoder.TextEncoders`, those that
    # the option `encoder` names
    needs: Literal["chat", "text_encoders"] | None = None
    margins: Callable[..., Mapping[str, Any]] | None = None  # (evidence, **options): value minus threshold, by name
    has_gate: bool = False  # whether its option `valid_only` pays nothing for what `validity.is_valid_answer` refuses

    @property
    def options(self) -> dict[str, Option]:
        """What can be set, see `read_options`."""
        options = read_options(self.function, given=1 if self.needs is None else 2)
        return options | _GATE if self.has_gate else options

    def check_options(self, **options: Any) -> None:
        """Refuses options that the reward cannot be computed with.

        Raises:
          ValueError: out of range.
        """
        if self.check is not None:
            self.check(**self._own(options))

    def score(
        self, rows: Sequence[Answered], options: Mapping[str, Any], resources: Mapping[str, Any] = MappingProxyType({})
    ) -> list[Result]:
        """Results of a host reward, one for each row; it does not raise."""
        own, passes = self._own(options), [True] * len(rows)
        if self.has_gate and options.get("valid_only"):
            passes = [is_valid_answer(row.answer) for row in rows]
        seen = [row for row, does_pass in zip(rows, passes, strict=True) if does_pass]
        if self.kind == "row":
            results = score_rows(self.function, seen, own)
        else:
            results = score_batch(partial(self._score_batch, resources), seen, own) if seen else []
        found = iter(results)
        return [next(found) if does_pass else 0.0 for does_pass in passes]

    def _own(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of the function itself."""
        return {name: value for name, value in options.items() if not (self.has_gate and name in _GATE)}

    def _score_batch(self, resources: Mapping[str, Any], rows: Sequence[Answered], **options: Any) -> Sequence[Result]:
        if self.needs is None:
            return self.function(rows, **options)
        if self.needs not in resources:
            raise ValueError(
                f"resources: expected {self.needs}, which the run opens; got {', '.join(resources) or 'none'}."
            )
        return self.function(rows, resources[self.needs], **options)


REWARDS: dict[str, Reward] = {
    "answer": Reward("row", answer_score, check_options, has_gate=True),
    "format": Reward("row", format_score, check_partial),
    "letter": Reward("row", letter_score, check_with_text),
    "length": Reward("row", length_score, check_length),
    "overlong": Reward("row", overlong_score, check_overlong),
    "llm_judge": Reward("batch", judge_answers, check_reply_options, needs="chat", has_gate=True),
    "modality": Reward("row", modality_score),
    "embedding_similarity": Reward(
        "batch", embedding_similarity_scores, check_embedding, needs="text_encoders", has_gate=True
    ),
    "bertscore": Reward("batch", bertscore_scores, check_bertscore, needs="text_encoders", has_gate=True),
    "reasoning": Reward("batch", reasoning_scores, check_reasoning, needs="text_encoders"),
    "visual_fidelity": Reward("device", visual_fidelity_reward, check_iou_threshold, margins=visual_fidelity_margins),
    "provenance": Reward("device", provenance_reward, check_thresholds, margins=provenance_margins),
}


def is_of_device(name: str) -> bool:
    """Whether a component is computed from the judge's evidence; those of a user's own file never are."""
    return name in REWARDS and REWARDS[name].kind == "device"


def asks_endpoint(name: str) -> bool:
    """Whether a component is the verdict of a language model; those of a user's own file never are."""
    return name in REWARDS and REWARDS[name].needs == "chat"
