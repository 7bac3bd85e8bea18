"""Attention of the judge's two towers, with the probabilities in the open.

Fused attention kernels never hand out the probabilities, and `attention_gradient` saliency needs both them and their
gradient. Heads come first, so that both products are plain batched matrix products.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from reflex_jax.trees import Array


def attention_probabilities(
    queries: Float[Array, "B T D"],
    keys: Float[Array, "B S D"],
    *,
    heads: int,
    is_read: Bool[Array, "B T S"] | Bool[Array, "B 1 S"] | None = None,
) -> Float[Array, "B N T S"]:
    """softmax(q k / sqrt(H)) for every head, in float32 whatever the dtype of the inputs.

    Args:
      queries: rows that look.
      keys: rows that are looked at.
      heads: N; the width D is N * H.
      is_read: False for what a row does not look at, which gets probability 0 (a row that looks at nothing gets a flat
        distribution).
    """
    queries, keys = _split_heads(queries, heads), _split_heads(keys, heads)
    scores = jnp.matmul(queries, keys.swapaxes(-1, -2), preferred_element_type=jnp.float32)
    scores = scores * queries.shape[-1] ** -0.5  # after the product: bfloat16 would round the scaled queries once more
    if is_read is not None:
        scores = jnp.where(is_read[:, None], scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1)


def mix_values(probabilities: Float[Array, "B N T S"], values: Float[Array, "B S D"]) -> Float[Array, "B T D"]:
    """The values averaged with the probabilities of each head, heads side by side again."""
    mixed = probabilities.astype(values.dtype) @ _split_heads(values, probabilities.shape[1])
    return mixed.swapaxes(1, 2).reshape(*mixed.shape[:1], mixed.shape[2], values.shape[-1])  # [B,N,T,H] -> [B,T,N*H]


def _split_heads(rows: Float[Array, "B T D"], heads: int) -> Float[Array, "B N T H"]:
    return rows.reshape(*rows.shape[:2], heads, rows.shape[2] // heads).swapaxes(1, 2)
