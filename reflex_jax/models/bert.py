"""BERT (post-LN), as the judge's text tower and as a text encoder of its own: embeddings, layers, hidden states.

Like the judge's image tower it loops over a list of per-layer parameters. Which tokens count is the caller's to say. Texts are
rows of one length, filled up, or lie end to end in one row (`packed_cls`), where nothing is computed that nobody wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

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


# queries, keys, values, all of width D -> mixed values, like the queries
Attend = Callable[[Array, Array, Array], Array]


class PackedTexts(NamedTuple):
    """Texts as [CLS] ... [SEP] that lie end to end, and which of them are asked for."""

    ids: Int[Array, "T"]  # what is the pad id is read by nobody
    texts: Int[Array, "T"]  # a number for each text, at each of its tokens
    places: Int[Array, "T"]  # of a token in its text
    cls: Int[Array, "M"]  # where the texts begin that are asked for


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
    def __call__(
        self,
        ids: Int[Array, "B T"],
        token_types: Int[Array, "B T"] | None = None,
        places: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Returns one row per token; without types all tokens are of type 0, without places each row is one text."""
        config, small = self.config, nn.initializers.normal(0.02)
        words = self.param("words", small, (config.vocabulary, config.width))
        positions = self.param("positions", small, (config.positions, config.width))
        types = self.param("types", small, (config.types, config.width))
        of_place = positions[: ids.shape[1]] if places is None else positions[places]
        of_type = types[0] if token_types is None else types[token_types]
        return _layer_norm(config, "norm")(words[ids] + of_place + of_type)


class BertLayer(nn.Module):
    """One post-LN transformer layer."""

    config: BertConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], attend: Attend, asking: Callable[[Array], Array] | None = None
    ) -> Float[Array, "B Q D"]:
        """Returns the rows after the layer; with `asking` only those it picks."""
        config = self.config
        rows = x if asking is None else asking(x)
        q = nn.Dense(config.width, name="q")(rows)
        k = nn.Dense(config.width, name="k")(x)
        v = nn.Dense(config.width, name="v")(x)
        mixed = nn.Dense(config.width, name="o")(attend(q, k, v))
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
    attend = partial(_attend, is_read=is_valid[:, None], config=config)
    states = [apply(BertEmbedding(config), params["embed"], ids, token_types)]
    for layer_params in params["layers"][:layers]:
        states.append(apply(BertLayer(config), layer_params, states[-1], attend))
    return states


def bert_cls(
    params: Params, ids: Int[Array, "B T"], is_valid: Bool[Array, "B T"], config: BertConfig
) -> Float[Array, "B D"]:
    """The [CLS] row after the last layer, which computes no other.

    Args: as of `bert_hidden_states`.
    """
    attend = partial(_attend, is_read=is_valid[:, None], config=config)
    x = apply(BertEmbedding(config), params["embed"], ids)
    return _cls_rows(params, x, config, attend, attend, lambda x: x[:, :1])[:, 0]


def packed_cls(
    params: Params,
    packed: PackedTexts,
    config: BertConfig,
    *,
    longest: int,
) -> Float[Array, "M D"]:
    """The same of texts that lie end to end.

    Args:
      params: {"embed", "layers": [...]}.
      packed: the texts.
      config: sizes.
      longest: tokens of a text, at most.
    """
    ids, texts, places, cls = packed
    is_token, count = ids != config.pad_token_id, len(ids)
    # a text lies within two blocks as long as the longest, so each block asks itself and its neighbours
    block = longest if count % longest == 0 and count > 3 * longest else count

    def with_neighbours(x: Array) -> Array:
        """[T, ...] -> [T / block, 3 * block, ...]; of one block itself."""
        if block == count:
            return x[None]
        cut = jnp.pad(x, [(block, block)] + [(0, 0)] * (x.ndim - 1)).reshape(-1, block, *x.shape[1:])
        return jnp.concatenate([cut[:-2], cut[1:-1], cut[2:]], axis=1)

    def reads(asking: Array, asked: Array, is_asked: Array) -> Array:
        return (asking[..., :, None] == asked[..., None, :]) & is_asked[..., None, :]

    of_blocks = reads(texts.reshape(-1, block), with_neighbours(texts), with_neighbours(is_token))
    of_cls = reads(texts[cls][None], texts[None], is_token[None])

    def attend(q: Array, k: Array, v: Array) -> Array:
        q = q.reshape(-1, block, q.shape[-1])
        mixed = _attend(q, with_neighbours(k[0]), with_neighbours(v[0]), is_read=of_blocks, config=config)
        return mixed.reshape(1, count, -1)

    x = apply(BertEmbedding(config), params["embed"], ids[None], None, places[None])
    ask = partial(_attend, is_read=of_cls, config=config)
    return _cls_rows(params, x, config, attend, ask, lambda x: x[:, cls])[0]


def _attend(
    q: Float[Array, "B Q D"],
    k: Float[Array, "B T D"],
    v: Float[Array, "B T D"],
    *,
    is_read: Bool[Array, "B Q T"] | Bool[Array, "B 1 T"],
    config: BertConfig,
) -> Float[Array, "B Q D"]:
    return mix_values(attention_probabilities(q, k, heads=config.heads, is_read=is_read), v)


def _cls_rows(
    params: Params,
    x: Float[Array, "B T D"],
    config: BertConfig,
    attend: Attend,
    ask: Attend,
    asking: Callable[[Array], Array],
) -> Float[Array, "B Q D"]:
    """All layers over embedded tokens; the last one, with an attention of its own, of the rows that ask."""
    *before, last = params["layers"]
    for layer_params in before:
        x = apply(BertLayer(config), layer_params, x, attend)
    return apply(BertLayer(config), last, x, ask, asking)


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
        "layers": [BertLayer(config).init(layer_key, x, lambda q, k, v: q)["params"] for layer_key in layer_keys],
    }


def _layer_norm(config: BertConfig, name: str) -> LayerNorm:
    # The fast variance, E[x^2] - E[x]^2, cancels digits that parity with the original needs.
    return LayerNorm(epsilon=config.epsilon, use_fast_variance=False, name=name)
