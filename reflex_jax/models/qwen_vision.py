"""The vision towers: patches in windows, layers that read their window or the whole image, a merger; flags tell families apart.

Patches arrive sorted into windows (`reflex_jax.data.images`), so window attention is a mask over one axis and nothing
here depends on the size of an image. Empty slots are computed and never read. Qwen2.5-VL reads square windows and the
whole image in a few layers; Qwen2-VL reads the whole image in all of them; Qwen3-VL does so too, learns positions beside
turning them, and hands what some of its layers see to the first layers of the decoder. SmolVLM (a SigLIP tower) reads square
tiles of a picture one by one, each of them a window and an image of its own; its positions are learned alone, and one product
merges its patches.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Int

from reflex_jax.models import attention
from reflex_jax.models.attention_choice import XLA, AttentionChoice
from reflex_jax.models.layers import (
    LayerNorm,
    RMSNorm,
    apply,
    checkpointed,
    dense,
    for_rows,
    gated_feed_forward,
    look_up,
    product_precision,
    rows_product,
    widened,
)
from reflex_jax.models.patches import normalised_patches
from reflex_jax.models.rope import Rotation, image_rotation, rotate, rotate_exactly
from reflex_jax.records import VisionInputs
from reflex_jax.sharding import constrain_batch
from reflex_jax.trees import Array, Params

EPSILON = 1e-6  # of every norm of the tower; not part of the checkpoint's configuration
ImageAttention = Callable[[Array, Array, Array, Array], Array]
# of a feed-forward block of two products, by the names of transformers
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_pytorch_tanh": partial(nn.gelu, approximate=True),
}
GATED = "gated silu"  # the feed-forward block of three products


@dataclass(frozen=True, kw_only=True)
class QwenVisionConfig:
    """Sizes of the vision tower."""

    width: int
    depth: int
    heads: int
    hidden: int  # of the feed-forward block
    output_width: int  # of the decoder
    full_attention_layers: tuple[int, ...]  # the others read their own window only
    window_size: int = 112  # pixels per side of a square window
    # merged features of a window where windows are runs in reading order, which cut no picture into squares; 0: squares
    window_features: int = 0
    patch_size: int = 14  # pixels
    merge_size: int = 2  # patches per side that make one feature
    temporal_patch_size: int = 2  # frames in one patch; a still image is repeated
    channels: int = 3
    norm: str = "rms"  # or "layer", with a bias
    feed_forward: str = GATED  # or one of ACTIVATIONS
    has_patch_bias: bool = False
    position_side: int = 0  # rows and columns of a table of learned positions; 0: none
    has_own_cells: bool = False  # a patch reads the cell of its row and column; else it lies between cells
    has_rotation: bool = True  # queries and keys turn with the row and column of their patch
    is_merged_linearly: bool = False  # one product without a bias merges patches, not a perceptron of two
    tile_size: int = 0  # pixels per side of the tiles a picture is cut into, each a window of one image; 0: not cut
    deepstack_layers: tuple[int, ...] = ()  # ascending: behind them a merger of its own makes features for the decoder

    @property
    def patch_width(self) -> int:
        """Numbers in one flattened patch."""
        return self.channels * self.temporal_patch_size * self.patch_size**2

    @property
    def still_width(self) -> int:
        """Numbers in one flattened patch of a still picture, whose frames are equal."""
        return self.channels * self.patch_size**2

    @property
    def patches_per_window(self) -> int:
        """U, the slots of one attention window."""
        if self.window_features:
            return self.window_features * self.patches_per_feature
        return (self.window_size // self.patch_size) ** 2

    @property
    def has_places(self) -> bool:
        """Whether the host must say where each patch lies between the cells of the table."""
        return bool(self.position_side) and not self.has_own_cells

    @property
    def patches_read(self) -> int | None:
        """How many patches a layer that reads the whole image reads at most; None: all of a row's images."""
        return self.patches_per_window if self.tile_size else None

    @property
    def hidden_products(self) -> int:
        """How many products of a feed-forward block are `hidden` wide."""
        return 2 if self.feed_forward == GATED else 1

    @property
    def patches_per_feature(self) -> int:
        """How many consecutive slots make one merged feature."""
        return self.merge_size**2


def _normed(x: Float[Array, "*rows D"], config: QwenVisionConfig, name: str) -> Float[Array, "*rows D"]:
    """The norm of the tower's family. Called inside a module, whose parameters it declares."""
    if config.norm == "rms":
        return RMSNorm(EPSILON, name=name)(x)
    # the fast variance, E[x^2] - E[x]^2, loses digits of rows that lie far from 0
    return LayerNorm(epsilon=EPSILON, use_fast_variance=False, name=name)(x)


def _fed_forward(x: Float[Array, "*rows D"], config: QwenVisionConfig) -> Float[Array, "*rows D"]:
    """The feed-forward block of the tower's family. Called inside a module, whose parameters it declares."""
    if config.feed_forward == GATED:
        return gated_feed_forward(x, hidden=config.hidden, use_bias=True)
    wide = ACTIVATIONS[config.feed_forward](dense(config.hidden, "fc1", use_bias=True)(x))
    return dense(config.width, "fc2", use_bias=True)(wide)


class VisionLayer(nn.Module):
    """One pre-norm block: attention, then a feed-forward block."""

    config: QwenVisionConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "P W U D"], rotation: Rotation | None, image_ids: Int[Array, "P W U"],
        attend: ImageAttention,
    ) -> Float[Array, "P W U D"]:  # fmt: skip
        """Applies the block; `attend` is `window_attention`, `image_attention` or `tile_attention`."""
        width, heads = self.config.width, self.config.heads
        normed = _normed(x, self.config, "norm1")
        queries, keys, values = (
            dense(width, name, use_bias=True)(normed).reshape(*x.shape[:-1], heads, width // heads) for name in "qkv"
        )
        if rotation is not None:
            queries, keys = rotate_exactly(queries, rotation), rotate(keys, rotation)
        mixed = attend(queries, keys, values, image_ids)
        x = x + dense(width, "o", use_bias=True)(mixed.reshape(x.shape))
        return x + _fed_forward(_normed(x, self.config, "norm2"), self.config)


class PatchMerger(nn.Module):
    """Norm, then the patches of a feature (2x2, say) through a two-layer perceptron with exact GELU, or one product."""

    config: QwenVisionConfig
    norms_features: bool = False  # the norm is over a feature whole, not over each of its patches

    @nn.compact
    def __call__(self, x: Float[Array, "P W U D"]) -> Float[Array, "P F out"]:
        """Merges consecutive slots, row by row of a square of patches, into one feature."""
        wide = self.config.width * self.config.patches_per_feature
        if not self.norms_features:
            x = _normed(x, self.config, "norm")
        x = x.reshape(x.shape[0], -1, wide)
        if self.norms_features:
            x = _normed(x, self.config, "norm")
        if self.config.is_merged_linearly:
            return dense(self.config.output_width, "proj", use_bias=False)(x)
        x = nn.gelu(dense(wide, "fc1", use_bias=True)(x), approximate=False)
        return dense(self.config.output_width, "fc2", use_bias=True)(x)


def encode_patches(
    params: Params,
    vision: VisionInputs,
    config: QwenVisionConfig,
    *,
    remat: bool,
    implementation: AttentionChoice = XLA,
    wide_sums: bool = False,
) -> Float[Array, "P F wide"]:
    """Runs the tower.

    Args:
      params: subtree "vision" of the policy.
      vision: patches in windows.
      config: sizes.
      remat: recompute each layer in the backward pass; False: all of it but attention in blocks.
      implementation: what computes the layers that read a whole image.
      wide_sums: gradients are added up in float32, see `layers.widened`.

    Returns:
      One feature for each `patches_per_feature` slots, in slot order; features of empty slots hold numbers nobody may
      read. Those of the layers of deepstack lie behind the last one's, on the last axis.
    """
    dtype, layers = params["patch_embed"]["kernel"].dtype, params["layers"]
    ends = widened({name: part for name, part in params.items() if name != "layers"}, wide=wide_sums)
    x = _embedded(ends, vision, config, dtype)
    rotation = _rotation(vision.coordinates, config)
    layer = VisionLayer(config)

    def apply_layer(attend: ImageAttention, x: Array, layer_params: Params) -> tuple[Array, None]:
        layer_params = widened(layer_params, wide=wide_sums)
        return apply(layer, layer_params, constrain_batch(x), rotation, vision.image_ids, attend), None

    kinds = _period_of_kinds(config)
    whole = attention.tile_attention if config.tile_size else attention.image_attention
    read_image = partial(whole, implementation=implementation)
    seen: list[Array] = []  # behind each layer of deepstack

    def apply_period(x: Array, layers: Params) -> tuple[Array, None]:
        for is_full, start, stop in _runs_of_equal_layers(kinds, config.deepstack_layers):
            attend = read_image if is_full else attention.window_attention
            # products would lie there all through the passes of the decoder; to compute them again is 2 % of an update by count
            step = checkpointed(partial(apply_layer, attend), remat=remat, keeps_products=False)
            run = jax.tree.map(operator.itemgetter(slice(start, stop)), layers)
            x, _ = jax.lax.scan(step, x, run)
            if stop - 1 in config.deepstack_layers:
                seen.append(x)
        return x, None

    if len(kinds) == config.depth:
        x, _ = apply_period(x, layers)
    else:  # a scan of scans: one compiled copy of the period instead of one for each repeat
        periods = jax.tree.map(lambda leaf: leaf.reshape(-1, len(kinds), *leaf.shape[1:]), layers)
        x, _ = jax.lax.scan(apply_period, x, periods)
    features = [apply(PatchMerger(config), ends["merger"], x)]
    for number, x in enumerate(seen):
        merger = jax.tree.map(operator.itemgetter(number), ends["deepstack"])
        features.append(apply(PatchMerger(config, norms_features=True), merger, x))
    return features[0] if len(features) == 1 else jnp.concatenate(features, axis=-1)


def _embedded(params: Params, vision: VisionInputs, config: QwenVisionConfig, dtype: Any) -> Float[Array, "P W U D"]:
    """Patches, and where they lie if the tower learns positions, in a dtype for rows."""
    pixels = normalised_patches(vision, frames=config.temporal_patch_size)
    kernel = params["patch_embed"]["kernel"]
    if kernel.dtype == dtype:
        x = jnp.matmul(pixels.astype(dtype), kernel, precision=product_precision(dtype))
    else:  # widened; above JAX would round each device's part of its gradient
        x = rows_product(pixels.astype(dtype), kernel)
    if config.has_patch_bias:
        x = x + for_rows(params["patch_embed"]["bias"], x)
    if not config.position_side:
        return x
    table = params["positions"]["embedding"]
    if config.has_own_cells:
        cells = vision.coordinates[..., 0] * config.position_side + vision.coordinates[..., 1]
        return x + look_up(table, cells, dtype)
    if vision.places is None:
        raise ValueError("vision.places: expected the places of patches, which this tower learns; got None.")
    return x + learned_positions(table, vision.places, side=config.position_side).astype(dtype)


def _rotation(coordinates: Int[Array, "P W U 2"], config: QwenVisionConfig) -> Rotation | None:
    """What queries and keys turn by; None: they do not."""
    return image_rotation(coordinates, head_width=config.width // config.heads) if config.has_rotation else None


def learned_positions(
    table: Float[Array, "cells D"], places: Float[Array, "P W U 2"], *, side: int
) -> Float[Array, "P W U D"]:
    """Reads a square table between its rows and columns, bilinearly and in float32; in the dtype of the table.

    Args:
      table: row by row.
      places: (row, column), from 0 to side - 1.
      side: rows, and columns.
    """
    first = jnp.floor(places)
    share = places - first
    low = first.astype(jnp.int32)
    whole = jnp.zeros((*places.shape[:-1], table.shape[-1]), jnp.float32)
    for down, right in itertools.product((0, 1), repeat=2):
        row, column = (jnp.minimum(low[..., axis] + step, side - 1) for axis, step in ((0, down), (1, right)))
        weight = jnp.prod(jnp.abs(1 - jnp.array([down, right], jnp.float32) - share), axis=-1, keepdims=True)
        whole += weight * table[row * side + column].astype(jnp.float32)
    return whole.astype(table.dtype)


def init_vision_params(config: QwenVisionConfig, key: jax.Array) -> Params:
    """Draws random parameters: normal kernels of standard deviation 0.02, zero biases, unit scales."""
    layer_key, merger_key, patch_key = jax.random.split(key, 3)
    deepstack_key, place_key = jax.random.split(jax.random.fold_in(key, 1))
    x = jnp.zeros((1, 1, config.patches_per_window, config.width))
    image_ids = jnp.ones(x.shape[:-1], jnp.int32)
    rotation = _rotation(jnp.zeros((*x.shape[:-1], 2), jnp.int32), config)

    def init_layer(key: jax.Array) -> Params:
        return VisionLayer(config).init(key, x, rotation, image_ids, attention.window_attention)["params"]

    def init_deepstack(key: jax.Array) -> Params:
        return PatchMerger(config, norms_features=True).init(key, x)["params"]

    params: Params = {
        "patch_embed": {"kernel": 0.02 * jax.random.normal(patch_key, (config.patch_width, config.width))},
        "layers": jax.vmap(init_layer)(jax.random.split(layer_key, config.depth)),
        "merger": PatchMerger(config).init(merger_key, x)["params"],
    }
    if config.has_patch_bias:
        params["patch_embed"]["bias"] = jnp.zeros(config.width)
    if config.position_side:
        shape = (config.position_side**2, config.width)
        params["positions"] = {"embedding": 0.02 * jax.random.normal(place_key, shape)}
    if config.deepstack_layers:
        params["deepstack"] = jax.vmap(init_deepstack)(jax.random.split(deepstack_key, len(config.deepstack_layers)))
    return params


def _period_of_kinds(config: QwenVisionConfig) -> tuple[bool, ...]:
    """Which layers read the whole image, as the shortest pattern that repeats (seven windowed ones and a full one).

    Layers that are all of one kind are one scan as they are.
    """
    kinds = tuple(index in config.full_attention_layers for index in range(config.depth))
    if len(set(kinds)) == 1:
        return kinds
    lengths = (n for n in range(1, config.depth + 1) if config.depth % n == 0)
    return next(kinds[:n] for n in lengths if kinds[:n] * (config.depth // n) == kinds)


def _runs_of_equal_layers(kinds: tuple[bool, ...], ends: tuple[int, ...]) -> list[tuple[bool, int, int]]:
    """Consecutive layers of one kind, as (reads the whole image, first, last + 1); a run ends behind each of `ends`."""
    groups = itertools.groupby(range(len(kinds)), lambda index: (kinds[index], sum(end < index for end in ends)))
    runs = [(is_full, list(indices)) for (is_full, _), indices in groups]
    return [(is_full, indices[0], indices[-1] + 1) for is_full, indices in runs]
