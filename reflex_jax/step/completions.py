"""Sampling from questions and pictures, for notebooks and scripts."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image

from reflex_jax.checkpoints.policy import Policy
from reflex_jax.data.images import count_windows
from reflex_jax.records import Draws, Rollout
from reflex_jax.step import generate as sampler
from reflex_jax.step.sampling import Sampling, Vocabulary, allowed_tokens
from reflex_jax.text.tokenizer import decode


def generate(
    policy: Policy,
    prompts: Sequence[str],
    images: Sequence[Image.Image | Sequence[Image.Image] | None],
    group_size: int,
    key: jax.Array,
    *,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Rollout:
    """Samples `group_size` completions for every question about its picture.

    Args:
      policy: of `load_policy`; its prompt template surrounds the question.
      prompts: P questions.
      images: for each question its picture, RGB, or several in the order of their marks; None for one about text alone.
      group_size: G.
      key: of `jax.random.key(seed)`; equal keys give equal completions.
      max_new_tokens: Lc.
      temperature: 0 is greedy.
      top_k, top_p: 0 and 1 are off.
    Raises:
      ValueError: the numbers of questions and pictures differ.
    """
    processor = policy.processor
    rows = [[i] if isinstance(i, Image.Image) else i or [] for i in images]
    encoded = [processor.encode(row, question) for question, row in zip(prompts, rows, strict=True)]
    windows = max(sum(count_windows(grid, policy.config.vision) for _, grid in e.images) for e in encoded)
    inputs = processor.collate(encoded, prompt_tokens=max(len(e.ids) for e in encoded), windows=windows)
    config = policy.config
    allowed = allowed_tokens(
        config.text.vocabulary,
        tokenizer_length=len(processor.tokenizer),
        banned_ids=policy.special_ids,
        eos_ids=config.eos_token_ids,
    )
    vocabulary = Vocabulary(allowed, config.eos_token_ids, processor.pad_id)
    sampling = Sampling(
        group_size=group_size, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p
    )
    sample = jax.jit(
        lambda params, inputs, draws: sampler.generate(params, inputs, draws, config, vocabulary, sampling)
    )
    return sample(policy.params, inputs, Draws(key, np.arange(len(encoded), dtype=np.int32)))


def completion_texts(policy: Policy, rollout: Rollout) -> list[list[str]]:
    """Decodes a rollout: [P][G] strings without special tokens."""
    tokens, lengths = np.asarray(rollout.tokens), np.asarray(rollout.mask).sum(-1)
    return [
        [decode(policy.processor.tokenizer, row[:length]) for row, length in zip(group, counts, strict=True)]
        for group, counts in zip(tokens, lengths, strict=True)
    ]
