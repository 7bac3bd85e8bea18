"""DEVICE: BERTScore (arXiv:1904.09675): each token is matched with the most similar one of the other text.

Without weights by document frequency and without rescaling. As in the package `bert-score`, [CLS] and [SEP] may be matched
with, and have no weight themselves. Padding is never matched with; there it counts as a similarity of 0, so that a score could
depend on what else is in a batch where every similarity is below 0.
"""

from __future__ import annotations

import chex
import jax.numpy as jnp
from jaxtyping import Float, Int

from reflex_jax.trees import Array


def greedy_f1(
    said: Float[Array, "B S D"],
    said_lengths: Int[Array, "B"],
    true: Float[Array, "B T D"],
    true_lengths: Int[Array, "B"],
) -> Float[Array, "B"]:
    """F1 of greedy matching: P over the tokens of what was said, R over those of what is true, 2 P R / (P + R).

    Args:
      said: unit rows of tokens, [CLS] first, [SEP] last, then padding.
      said_lengths: tokens with [CLS] and [SEP]; 2: nothing between them.
      true: the same of the reference.
      true_lengths: its tokens.

    Returns:
      At most 1; 0 where one of the texts is empty, and where P + R is 0.
    """
    chex.assert_equal_shape_suffix([said, true], 1)
    is_said, is_true = _is_token(said, said_lengths), _is_token(true, true_lengths)
    similarities = jnp.einsum("bsd,btd->bst", said, true, precision="highest")
    best_true = jnp.where(is_true[:, None], similarities, -jnp.inf).max(axis=2)
    best_said = jnp.where(is_said[:, :, None], similarities, -jnp.inf).max(axis=1)
    precision, recall = _mean(best_true, said_lengths), _mean(best_said, true_lengths)
    total = precision + recall
    is_scored = (said_lengths > 2) & (true_lengths > 2) & (total != 0)
    return jnp.where(is_scored, 2 * precision * recall / jnp.where(total == 0, 1.0, total), 0.0)


def _is_token(rows: Float[Array, "B T D"], lengths: Int[Array, "B"]) -> Array:
    return jnp.arange(rows.shape[1]) < lengths[:, None]


def _mean(values: Float[Array, "B T"], lengths: Int[Array, "B"]) -> Float[Array, "B"]:
    """Over the tokens between [CLS] and [SEP]."""
    places = jnp.arange(values.shape[1])
    is_word = (places >= 1) & (places < lengths[:, None] - 1)
    return jnp.where(is_word, values, 0.0).sum(axis=1) / jnp.maximum(lengths - 2, 1).astype(jnp.float32)
