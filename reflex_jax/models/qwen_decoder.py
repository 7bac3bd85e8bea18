"""The language decoder of the families: one layer as a Linen module, the stack above it as plain scans.

The layer does not know what it attends to: prefill, the update of a whole group and decoding hand it different pure
functions. Axis letters as in `reflex_jax.records`; K key heads, H head width, L layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float, Int

from reflex_jax.models import attention
from reflex_jax.models.attention_choice import AttentionChoice
from reflex_jax.models.layers import RMSNorm, apply, checkpointed, dense, gated_feed_forward, widened
from reflex_jax.models.rope import Rotation, multimodal_rotation, rotate, rotate_exactly
from reflex_jax.records import PackedRows
from reflex_jax.sharding import constrain_batch
from reflex_jax.trees import Array, Params

Attend = Callable[[Array, Array, Array], tuple[Array, Any]]


@dataclass(frozen=True, kw_only=True)
class QwenTextConfig:
    """Sizes of the decoder."""

    vocabulary: int  # rows of the embedding, more than the tokenizer has
    width: int
    layers: int
    heads: int
    key_heads: int
    hidden: int  # of the feed-forward block
    epsilon: float
    rope_theta: float
    rope_sections: tuple[
        int, ...
    ]  # frequencies that turn with time, height, width; of one number: with the place in the text
    is_tied: bool  # the head is the embedding, transposed
    own_head_width: int | None = None  # None: the width, shared by the heads
    has_qkv_bias: bool = True
    has_head_norms: bool = False  # queries and keys are normed, head by head, before they turn
    is_interleaved: bool = False  # the frequencies of M-RoPE, see `rope.axes_of_frequencies`

    @property
    def head_width(self) -> int:
        """H."""
        return self.own_head_width or self.width // self.heads

    @property
    def query_width(self) -> int:
        """N * H."""
        return self.heads * self.head_width


class Embedded(NamedTuple):
    """What the decoder reads of its rows."""

    x: Float[Array, "*rows D"]
    # what is added to the hidden states behind each of the first n layers, 0 at text; None: nothing
    added: Float[Array, "n *rows D"] | None = None


class DecoderLayer(nn.Module):
    """One pre-norm block with grouped-query attention."""

    config: QwenTextConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "*rows D"], rotation: Rotation, attend: Attend
    ) -> tuple[Float[Array, "*rows D"], Any]:
        """Applies the block to rows in any arrangement.

        Args:
          x: hidden states.
          rotation: of each row.
          attend: maps rotated queries [*rows, N, H] in float32, rotated keys and values [*rows, K, H] to the mixed values
            [*rows, N, H] and whatever the caller wants to keep (a cache).

        Returns:
          The new hidden states, and what `attend` kept.
        """
        config, rows = self.config, x.shape[:-1]
        normed = RMSNorm(config.epsilon, name="input_norm")(x)
        sizes = {"q": config.heads, "k": config.key_heads, "v": config.key_heads}
        queries, keys, values = (
            dense(heads * config.head_width, name, use_bias=config.has_qkv_bias)(normed).reshape(
                *rows, heads, config.head_width
            )
            for name, heads in sizes.items()
        )
        if config.has_head_norms:
            queries = RMSNorm(config.epsilon, name="q_norm")(queries)
            keys = RMSNorm(config.epsilon, name="k_norm")(keys)
        mixed, kept = attend(rotate_exactly(queries, rotation), rotate(keys, rotation), values)
        x = x + dense(config.width, "o", use_bias=False)(mixed.reshape(*rows, config.query_width))
        normed = RMSNorm(config.epsilon, name="post_norm")(x)
        return x + gated_feed_forward(normed, hidden=config.hidden, use_bias=False), kept


def text_rotation(positions: Int[Array, "*rows 3"], config: QwenTextConfig) -> Rotation:
    """Rotation of decoder rows at M-RoPE positions."""
    return multimodal_rotation(
        positions, head_width=config.head_width, sections=config.rope_sections, theta=config.rope_theta,
        is_interleaved=config.is_interleaved,
    )  # fmt: skip


def prompt_stack(
    layers: Params | list[Params],
    embedded: Embedded,
    positions: Int[Array, "P 3 Lp"],
    is_valid: Bool[Array, "P Lp"],
    config: QwenTextConfig,
    *,
    implementation: AttentionChoice,
    remat: bool,
    keep_cache: bool,
) -> tuple[Float[Array, "P Lp D"], Any]:
    """Runs all layers over prompts: stacked ones as a scan, a list of layers one after the other.

    Returns:
      The last hidden states (not normed) and, if `keep_cache`, keys [P, K, H, Lp] and values [P, K, Lp, H] of each layer:
      stacked [L, ...] or a list, as the layers are.
    """
    rotation = text_rotation(positions.swapaxes(1, 2), config)

    def attend(queries: Array, keys: Array, values: Array) -> tuple[Array, tuple[Array, Array] | None]:
        mixed = attention.prompt_attention(queries, keys, values, is_valid, implementation=implementation)
        return mixed, (keys.transpose(0, 2, 3, 1), values.swapaxes(1, 2)) if keep_cache else None

    return _run_layers(layers, embedded, rotation, attend, config, remat)


def row_stack(
    layers: Params,
    embedded: Embedded,
    rows: PackedRows,
    config: QwenTextConfig,
    *,
    implementation: AttentionChoice,
    remat: bool,
    wide_sums: bool = False,
) -> Float[Array, "B T D"]:
    """Runs all layers over rows in which prompts and their completions lie end to end; `wide_sums` as in `layers.widened`."""

    def attend(queries: Array, keys: Array, values: Array) -> tuple[Array, None]:
        mixed = attention.row_attention(
            queries, keys, values, rows.segments, rows.roots, implementation=implementation
        )  # fmt: skip
        return mixed, None

    rotation = text_rotation(rows.positions, config)
    return _run_layers(layers, embedded, rotation, attend, config, remat, wide_sums=wide_sums)[0]


def weights_of_layers(
    layers: Params | list[Params],
    embedded: Embedded,
    positions: Int[Array, "P 3 Lp"],
    is_valid: Bool[Array, "P Lp"],
    is_asking: Bool[Array, "P Lp"],
    config: QwenTextConfig,
) -> Float[Array, "L P Lp"]:
    """What `attention.weights_of_tokens` says of each layer."""

    def attend(queries: Array, keys: Array, values: Array) -> tuple[Array, Array]:
        weights = attention.weights_of_tokens(queries, keys, is_valid, is_asking)
        return attention.prompt_attention(queries, keys, values, is_valid), weights

    rotation = text_rotation(positions.swapaxes(1, 2), config)
    kept = _run_layers(layers, embedded, rotation, attend, config, remat=False)[1]
    return jnp.stack(kept) if isinstance(kept, list) else kept


def init_decoder_layers(config: QwenTextConfig, key: jax.Array) -> Params:
    """Draws random layers, stacked [L, ...]: normal kernels of standard deviation 0.02, zero biases, unit scales."""
    x = jnp.zeros((1, config.width))
    rotation = text_rotation(jnp.zeros((1, 3), jnp.int32), config)

    def init_layer(key: jax.Array) -> Params:
        return DecoderLayer(config).init(key, x, rotation, lambda queries, keys, values: (queries, None))["params"]

    return jax.vmap(init_layer)(jax.random.split(key, config.layers))


def split_features(
    features: Float[Array, "P Lp wide"], is_image: Bool[Array, "P Lp"], embedded: Float[Array, "P Lp D"]
) -> Embedded:
    """Puts vision features in the place of the embedded image tokens; what they bring for the first layers is set apart.

    Args:
      features: of each token, those of text without a meaning: D numbers for the embedding, and D more for each layer of
        deepstack (Meng et al. 2024), behind which they are added.
      is_image: which tokens stand for features.
      embedded: all tokens.
    """
    is_image, parts = is_image[..., None], features.shape[-1] // embedded.shape[-1]
    if parts == 1:
        return Embedded(jnp.where(is_image, features, embedded))
    x, *further = jnp.split(features, parts, axis=-1)
    added = jnp.stack([jnp.where(is_image, part, jnp.zeros_like(part)) for part in further])
    return Embedded(jnp.where(is_image, x, embedded), added)


def _run_layers(
    layers: Params | list[Params],
    embedded: Embedded,
    rotation: Rotation,
    attend: Attend,
    config: QwenTextConfig,
    remat: bool,
    *,
    wide_sums: bool = False,
) -> tuple[Array, Any]:
    x, added = embedded

    def step(x: Array, layer_params: Params) -> tuple[Array, Any]:
        layer_params = widened(layer_params, wide=wide_sums)
        return apply(DecoderLayer(config), layer_params, constrain_batch(x), rotation, attend)

    if isinstance(layers, dict):
        if added is None:
            return jax.lax.scan(checkpointed(step, remat=remat), x, layers)

        def step_and_add(x: Array, numbered: tuple[Params, Array]) -> tuple[Array, Any]:
            layer_params, number = numbered
            x, kept = step(x, layer_params)
            last = len(added) - 1
            # most layers add 0s: two scans would each hold a copy of their part of the weights
            more = jax.lax.dynamic_index_in_dim(added, jnp.minimum(number, last), keepdims=False)
            return x + jnp.where(number <= last, more, jnp.zeros_like(more)), kept

        return jax.lax.scan(checkpointed(step_and_add, remat=remat), x, (layers, jnp.arange(config.layers)))
    kept = []
    for number, layer_params in enumerate(layers):  # nothing is learnt this way, so nothing is recomputed
        x, of_layer = step(x, layer_params)
        if added is not None and number < len(added):
            x = x + added[number]
        kept.append(of_layer)
    return x, kept
