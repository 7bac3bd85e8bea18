"""HOST: the table of all rewards that ship: one line each, under the name a configuration calls it by.

A reward is a function of one of four kinds. Its options are its keyword-only parameters; it sees neither a configuration
nor a model.

- row: `(answered, *, ...) -> float | None` of one completion in words, see `answered`;
- batch: `(rows, *, ...) -> [float | None | Failed, ...]`, of all completions of a step at once;
- chat: `(rows, ask, *, ...) -> ` the same, where `ask` puts conversations to the language model of the section `endpoint`;
- device: `(evidence, *, ...) -> [P, G]` of what the judge found, inside the compiled step. A NaN there is a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reflex_jax.rewards.answer import answer_score, check_options
from reflex_jax.rewards.answered import Answered, Result, score_batch, score_rows
from reflex_jax.rewards.format import check_partial, format_score
from reflex_jax.rewards.length import check_length, check_overlong, length_score, overlong_score
from reflex_jax.rewards.letter import check_with_text, letter_score
from reflex_jax.rewards.llm_judge import Ask, check_reply_options, judge_answers
from reflex_jax.rewards.options import Option, read_options
from reflex_jax.rewards.provenance import check_thresholds, provenance_reward
from reflex_jax.rewards.visual_fidelity import check_iou_threshold, visual_fidelity_reward


@dataclass(frozen=True)
class Reward:
    """A reward of the table."""

    kind: Literal["row", "batch", "chat", "device"]
    function: Callable[..., Any]
    check: Callable[..., None] | None = None  # of the options: raises ValueError for values out of range

    @property
    def options(self) -> dict[str, Option]:
        """What can be set, see `read_options`."""
        return read_options(self.function, given=2 if self.kind == "chat" else 1)

    def score(self, rows: Sequence[Answered], options: Mapping[str, Any], ask: Ask | None = None) -> list[Result]:
        """Results of a host reward, one for each row; it does not raise.

        Args:
          rows: of a step.
          options: of the component.
          ask: what a chat reward asks with; the others need none.
        """
        if self.kind == "row":
            return score_rows(self.function, rows, options)
        function = (
            self.function if self.kind == "batch" else lambda rows, **options: self.function(rows, ask, **options)
        )
        return score_batch(function, rows, options)


REWARDS: dict[str, Reward] = {
    "answer": Reward("row", answer_score, check_options),
    "format": Reward("row", format_score, check_partial),
    "letter": Reward("row", letter_score, check_with_text),
    "length": Reward("row", length_score, check_length),
    "overlong": Reward("row", overlong_score, check_overlong),
    "llm_judge": Reward("chat", judge_answers, check_reply_options),
    "visual_fidelity": Reward("device", visual_fidelity_reward, check_iou_threshold),
    "provenance": Reward("device", provenance_reward, check_thresholds),
}


def is_of_device(name: str) -> bool:
    """Whether a component is computed from the judge's evidence; those of a user's own file never are."""
    return name in REWARDS and REWARDS[name].kind == "device"


def asks_endpoint(name: str) -> bool:
    """Whether a component is the verdict of a language model; those of a user's own file never are."""
    return name in REWARDS and REWARDS[name].kind == "chat"
