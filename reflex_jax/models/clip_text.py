"""Text tower of the judge: BERT (post-LN) that answers with its [CLS] token, and an MLP projection.

Like the image tower it loops over a list of per-layer parameters, and its last layer computes the [CLS] row only.
Padding is what equals the pad id, wherever it stands, as in the original.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float, Int

from reflex_jax.models.clip_attention import attention_probabilities, mix_values
from reflex_jax.models.layers import LayerNorm, apply
from reflex_jax.trees import Array, Params


@dataclass(frozen=True, kw_only=True)
class TextTowerConfig:
    """Sizes of the text tower (Hugging Face's BertConfig)."""

    vocabulary: int
    width: int
    depth: int
    heads: int
    hidden: int  # of the MLP
    positions: int  # longest statement the position table knows
    types: int  # rows of the token type table; statements are all of type 0
    pad_token_id: int
    context_length: int  # tokens of the longest statement, [CLS] and [SEP] included; longer ones are cut
    epsilon: float = 1e-12  # of the layer norms


class TextEmbedding(nn.Module):
    """Word, position and type embeddings, normalised."""

    config: TextTowerConfig

    @nn.compact
    def __call__(self, ids: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Returns one row per token."""
        config, small = self.config, nn.initializers.normal(0.02)
        words = self.param("words", small, (config.vocabulary, config.width))
        positions = self.param("positions", small, (config.positions, config.width))
        types = self.param("types", small, (config.types, config.width))
        return _layer_norm(config, "norm")(words[ids] + positions[: ids.shape[1]] + types[0])


class TextLayer(nn.Module):
    """One post-LN transformer layer."""

    config: TextTowerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], is_valid: Bool[Array, "B T"], cls_only: bool) -> Float[Array, "B Q D"]:
        """Returns the rows after the layer; where `cls_only` the [CLS] row alone."""
        config = self.config
        rows = x[:, :1] if cls_only else x
        q = nn.Dense(config.width, name="q")(rows)
        k = nn.Dense(config.width, name="k")(x)
        v = nn.Dense(config.width, name="v")(x)
        attention = attention_probabilities(q, k, heads=config.heads, is_valid=is_valid)
        mixed = nn.Dense(config.width, name="o")(mix_values(attention, v))
        rows = _layer_norm(config, "norm1")(rows + mixed)
        hidden = nn.gelu(nn.Dense(config.hidden, name="up")(rows), approximate=False)
        return _layer_norm(config, "norm2")(rows + nn.Dense(config.width, name="down")(hidden))


class TextProjection(nn.Module):
    """Linear, GELU, linear, without biases; the hidden width lies half way."""

    config: TextTowerConfig
    embed_dim: int

    @nn.compact
    def __call__(self, cls: Float[Array, "B D"]) -> Float[Array, "B E"]:
        """Returns embeddings, not normalised."""
        hidden = nn.Dense((self.config.width + self.embed_dim) // 2, use_bias=False, name="up")(cls)
        return nn.Dense(self.embed_dim, use_bias=False, name="down")(nn.gelu(hidden, approximate=False))


def run_text_tower(params: Params, ids: Int[Array, "B T"], config: TextTowerConfig) -> Float[Array, "B E"]:
    """Statement embeddings, float32, not normalised.

    Args:
      params: {"embed", "layers": [...], "projection"}.
      ids: statements as [CLS] ... [SEP], filled up with the pad id; T at most `config.positions`.
      config: sizes.
    """
    is_valid = ids != config.pad_token_id
    x = apply(TextEmbedding(config), params["embed"], ids)
    layer = TextLayer(config)
    for index, layer_params in enumerate(params["layers"]):
        x = apply(layer, layer_params, x, is_valid, index == config.depth - 1)
    projection = TextProjection(config, params["projection"]["down"]["kernel"].shape[1])
    return apply(projection, params["projection"], x[:, 0]).astype(jnp.float32)


def init_text_params(config: TextTowerConfig, embed_dim: int, key: jax.Array) -> Params:
    """Random parameters in the layout of `run_text_tower`."""
    embed_key, projection_key, *layer_keys = jax.random.split(key, 2 + config.depth)
    ids = jnp.zeros((1, 2), jnp.int32)
    x = jnp.zeros((1, 2, config.width))
    layer = TextLayer(config)
    return {
        "embed": TextEmbedding(config).init(embed_key, ids)["params"],
        "layers": [layer.init(layer_key, x, ids == 0, False)["params"] for layer_key in layer_keys],
        "projection": TextProjection(config, embed_dim).init(projection_key, x[:, 0])["params"],
    }


def _layer_norm(config: TextTowerConfig, name: str) -> LayerNorm:
    # The fast variance, E[x^2] - E[x]^2, cancels digits that parity with the original needs.
    return LayerNorm(epsilon=config.epsilon, use_fast_variance=False, name=name)
