"""BERT (post-LN), as the judge's text tower and as a text encoder of its own: embeddings, layers, hidden states.

Like the judge's image tower it loops over a list of per-layer parameters. Which tokens count is the caller's to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float, Int

from reflex_jax.models.clip_attention import attention_probabilities, mix_values
from reflex_jax.models.layers import LayerNorm, apply
from reflex_jax.trees import Array, Params

# Hugging Face's `hidden_act`; the three in the middle are one approximation with a tanh under three names
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_new": partial(nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(nn.gelu, approximate=True),
    "gelu_fast": partial(nn.gelu, approximate=True),
    "relu": nn.relu,
    "silu": nn.silu,
    "swish": nn.silu,
}


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Sizes of a BERT; hashable, so it can be a static argument of a jitted function."""

    vocabulary: int
    width: int
    depth: int
    heads: int
    hidden: int  # of the MLP
    positions: int  # longest text the position table knows
    types: int  # rows of the token type table
    pad_token_id: int
    context_length: int  # tokens of the longest text, [CLS] and [SEP] included; longer ones are cut
    epsilon: float = 1e-12  # of the layer norms
    activation: str = "gelu"  # of the MLP, one of `ACTIVATIONS`


class BertEmbedding(nn.Module):
    """Word, position and type embeddings, normalised."""

    config: BertConfig

    @nn.compact
    def __call__(self, ids: Int[Array, "B T"], token_types: Int[Array, "B T"] | None = None) -> Float[Array, "B T D"]:
        """Returns one row per token; without types all tokens are of type 0."""
        config, small = self.config, nn.initializers.normal(0.02)
        words = self.param("words", small, (config.vocabulary, config.width))
        positions = self.param("positions", small, (config.positions, config.width))
        types = self.param("types", small, (config.types, config.width))
        of_type = types[0] if token_types is None else types[token_types]
        return _layer_norm(config, "norm")(words[ids] + positions[: ids.shape[1]] + of_type)


class BertLayer(nn.Module):
    """One post-LN transformer layer."""

    config: BertConfig

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
        hidden = ACTIVATIONS[config.activation](nn.Dense(config.hidden, name="up")(rows))
        return _layer_norm(config, "norm2")(rows + nn.Dense(config.width, name="down")(hidden))


def bert_hidden_states(
    params: Params,
    ids: Int[Array, "B T"],
    is_valid: Bool[Array, "B T"],
    config: BertConfig,
    *,
    token_types: Int[Array, "B T"] | None = None,
    layers: int | None = None,
) -> list[Float[Array, "B T D"]]:
    """What the embedding and each layer say of every token: `layers` + 1 arrays, the embedding's first.

    Rows of tokens that are not valid hold numbers without a meaning, and change nothing in the others.

    Args:
      params: {"embed", "layers": [...]}.
      ids: texts as [CLS] ... [SEP], filled up to one length; T at most `config.positions`.
      is_valid: False for padding.
      config: sizes.
      token_types: rows of the type table; None: all 0.
      layers: how many are computed; None: all.
    """
    states = [apply(BertEmbedding(config), params["embed"], ids, token_types)]
    for layer_params in params["layers"][:layers]:
        states.append(apply(BertLayer(config), layer_params, states[-1], is_valid, False))
    return states


def bert_cls(
    params: Params, ids: Int[Array, "B T"], is_valid: Bool[Array, "B T"], config: BertConfig
) -> Float[Array, "B D"]:
    """The [CLS] row after the last layer, which computes no other.

    Args: as of `bert_hidden_states`.
    """
    *before, last = params["layers"]
    x = apply(BertEmbedding(config), params["embed"], ids)
    for layer_params in before:
        x = apply(BertLayer(config), layer_params, x, is_valid, False)
    return apply(BertLayer(config), last, x, is_valid, True)[:, 0]


def init_bert_params(config: BertConfig, key: jax.Array) -> Params:
    """Random parameters in the layout of `bert_hidden_states`."""
    embed_key, *layer_keys = jax.random.split(key, 1 + config.depth)
    return bert_params_of(config, embed_key, layer_keys)


def bert_params_of(config: BertConfig, embed_key: jax.Array, layer_keys: list[jax.Array]) -> Params:
    """Random parameters from a key for the embedding and one for each layer."""
    ids = jnp.zeros((1, 2), jnp.int32)
    x = jnp.zeros((1, 2, config.width))
    return {
        "embed": BertEmbedding(config).init(embed_key, ids)["params"],
        "layers": [BertLayer(config).init(layer_key, x, ids == 0, False)["params"] for layer_key in layer_keys],
    }


def _layer_norm(config: BertConfig, name: str) -> LayerNorm:
    # The fast variance, E[x^2] - E[x]^2, cancels digits that parity with the original needs.
    return LayerNorm(epsilon=config.epsilon, use_fast_variance=False, name=name)
