"""Text tower of the judge: a BERT that answers with its [CLS] token, and an MLP projection.

Padding is what equals the pad id, wherever it stands, as in the original.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Int

from reflex_jax.models.bert import BertConfig, PackedTexts, bert_cls, bert_params_of, packed_cls
from reflex_jax.models.layers import apply
from reflex_jax.trees import Array, Params


class TextProjection(nn.Module):
    """Linear, GELU, linear, without biases; the hidden width lies half way."""

    config: BertConfig
    embed_dim: int

    @nn.compact
    def __call__(self, cls: Float[Array, "B D"]) -> Float[Array, "B E"]:
        """Returns embeddings, not normalised."""
        hidden = nn.Dense((self.config.width + self.embed_dim) // 2, use_bias=False, name="up")(cls)
        return nn.Dense(self.embed_dim, use_bias=False, name="down")(nn.gelu(hidden, approximate=False))


def run_text_tower(params: Params, ids: Int[Array, "B T"], config: BertConfig) -> Float[Array, "B E"]:
    """Statement embeddings, float32, not normalised.

    Args:
      params: {"embed", "layers": [...], "projection"}.
      ids: statements as [CLS] ... [SEP], filled up with the pad id; T at most `config.positions`.
      config: sizes.
    """
    return _projected(params, bert_cls(params, ids, ids != config.pad_token_id, config), config)


def run_packed_text_tower(
    params: Params,
    packed: PackedTexts,
    config: BertConfig,
    *,
    longest: int,
) -> Float[Array, "M E"]:
    """The same of statements that lie end to end; arguments as of `bert.packed_cls`."""
    return _projected(params, packed_cls(params, packed, config, longest=longest), config)


def _projected(params: Params, cls: Float[Array, "B D"], config: BertConfig) -> Float[Array, "B E"]:
    projection = TextProjection(config, params["projection"]["down"]["kernel"].shape[1])
    return apply(projection, params["projection"], cls).astype(jnp.float32)


def init_text_params(config: BertConfig, embed_dim: int, key: jax.Array) -> Params:
    """Random parameters in the layout of `run_text_tower`."""
    embed_key, projection_key, *layer_keys = jax.random.split(key, 2 + config.depth)
    projection = TextProjection(config, embed_dim).init(projection_key, jnp.zeros((1, config.width)))["params"]
    return {**bert_params_of(config, embed_key, layer_keys), "projection": projection}
