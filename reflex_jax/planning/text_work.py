"""What the text encoders of the rewards compute in a step, by formula: no program of a step holds it, and texts vary.

Counted is the most: every completion says something else, as long as a completion and as the encoder reads. The answers of a
group are often the same few, each encoded once, and what is true is kept for the next look at its question.
"""

from __future__ import annotations

from dataclasses import dataclass

from reflex_jax.config import Config
from reflex_jax.models.bert import BertConfig
from reflex_jax.rewards.components import REWARDS
from reflex_jax.step.encoders import encoder_sizes


@dataclass(frozen=True)
class TextWork:
    """What one encoder computes on the first device of a process, at most."""

    encoder: str
    texts: int
    tokens: int  # of each
    flops: float


def text_work(config: Config, processes: int) -> list[TextWork]:
    """The work of each encoder of a run, whose prompts are dealt out to so many processes.

    Raises:
      ConfigError: the size of an encoder is neither on disk nor published.
    """
    found = []
    said = -(-config.grpo.prompts_per_step // processes) * (config.grpo.group_size + 1)  # the truth beside a group
    for name, sizes in encoder_sizes(config).items():
        ways = {
            tuple(component.options.get(key) for key in ("pooling", "layer"))
            for reward, component in config.rewards.components.items()
            if reward in REWARDS and REWARDS[reward].needs == "text_encoders" and component.options["encoder"] == name
        }  # a text is encoded once for each
        tokens = min(sizes.context_length, config.rollout.max_new_tokens)
        found.append(TextWork(name, said * len(ways), tokens, said * len(ways) * flops_of_text(sizes, tokens)))
    return found


def flops_of_text(sizes: BertConfig, tokens: int) -> float:
    """Of the matrix products of one text: 2 for each number of a layer's kernels and token, 4 T^2 D of its attention."""
    kernels = 4 * sizes.width**2 + 2 * sizes.width * sizes.hidden
    return sizes.depth * (2.0 * tokens * kernels + 4.0 * tokens**2 * sizes.width)
