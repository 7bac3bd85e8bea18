"""The vision tower as the config.json of each family describes it: sizes, and the flags that tell the towers apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from reflex_jax.models.config_fields import MOST_LAYERS, Fields, is_token
from reflex_jax.models.qwen_vision import ACTIVATIONS, EPSILON

_THETA = 10_000.0  # of `rope.image_rotation`
# Patches a side of a tile at which the float32 fractions by which transformers looks up positions put some patch a cell off.
# Here each patch has its own cell, so such towers, none of them published, are refused; larger ones are not checked.
OFF_THEIR_CELLS = frozenset({19, 25, 29, 31, 38, 40, 41, 43, 47, 49, 50, 54, 55, 58, 59, 61, 62})
MOST_CELLS = 64  # a side
_WINDOW_FEATURES = 16  # of towers without windows of their own: as many slots as a window of Qwen2.5-VL


def _windowed(vision: Fields, text: Fields, root: Fields) -> dict[str, Any]:
    """Qwen2.5-VL: square windows, RMS norms and gated feed-forward blocks."""
    depth = vision.size("depth", most=MOST_LAYERS)
    patch, merge = vision.size("patch_size", 14), vision.size("spatial_merge_size", 2)
    window = vision.size("window_size", 112)
    if patch and merge and window and window % (patch * merge):
        vision.wrong("window_size", f"a multiple of patch_size x spatial_merge_size, {patch * merge}")
    layers = vision.ids("fullatt_block_indexes", below=depth)
    vision.only("hidden_act", "silu")
    return {
        "width": vision.size("hidden_size"),
        "depth": depth,
        "heads": vision.size("num_heads"),
        "hidden": vision.size("intermediate_size"),
        "output_width": _output_width(vision, text, "out_hidden_size"),
        "full_attention_layers": layers and tuple(sorted(layers)),
        "window_size": window,
        "patch_size": patch,
        "merge_size": merge,
    }


def _plain(vision: Fields, text: Fields, root: Fields) -> dict[str, Any]:
    """Qwen2-VL: each layer reads the whole image; layer norms and a feed-forward block of two products.

    What a published file leaves out has the default of transformers; its `hidden_size` is that of the decoder.
    """
    depth, ratio = vision.size("depth", 32, most=MOST_LAYERS), vision.size("mlp_ratio", 4)
    width = vision.size("embed_dim", 1280)
    return {
        "width": width,
        "depth": depth,
        "heads": vision.size("num_heads", 16),
        "hidden": width * ratio if width and ratio else None,
        "output_width": _output_width(vision, text, "hidden_size"),
        "patch_size": vision.size("patch_size", 14),
        "merge_size": vision.size("spatial_merge_size", 2),
        **_reads_whole_images(depth, _activation(vision, "quick_gelu")),
    }


def _plain_with_positions(vision: Fields, text: Fields, root: Fields) -> dict[str, Any]:
    """Qwen3-VL: as Qwen2-VL, with learned positions and features of some layers for the decoder's first ones."""
    depth, cells = vision.size("depth", 27, most=MOST_LAYERS), vision.size("num_position_embeddings", 2304)
    side = math.isqrt(cells) if cells else 0
    if cells and side**2 != cells:
        vision.wrong("num_position_embeddings", "the square of a whole number")
    layers: tuple[int, ...] = (8, 16, 24)
    if vision.get("deepstack_visual_indexes") is not None:
        layers = vision.ids("deepstack_visual_indexes", below=depth) or ()
    layers_of_decoder = text.get("num_hidden_layers")
    if list(layers) != sorted(layers) or (is_token(layers_of_decoder, None) and len(layers) > layers_of_decoder):
        vision.wrong("deepstack_visual_indexes", "ascending numbers, no more than the decoder has layers")
    return {
        "width": vision.size("hidden_size", 1152),
        "depth": depth,
        "heads": vision.size("num_heads", 16),
        "hidden": vision.size("intermediate_size", 4304),
        "output_width": _output_width(vision, text, "out_hidden_size"),
        "patch_size": vision.size("patch_size", 16),
        "merge_size": vision.size("spatial_merge_size", 2),
        **_reads_whole_images(depth, _activation(vision, "gelu_pytorch_tanh")),
        "has_patch_bias": True,
        "position_side": side,
        "deepstack_layers": layers,
    }


def _tiled(vision: Fields, text: Fields, root: Fields) -> dict[str, Any]:
    """SmolVLM: a SigLIP tower over tiles of `image_size` pixels; each patch has a learned position and none is turned."""
    depth, tile = vision.size("num_hidden_layers", 12, most=MOST_LAYERS), vision.size("image_size", 224)
    patch, merge = vision.size("patch_size", 32), root.size("scale_factor", 2)
    side = tile // patch if tile and patch else None  # what is left of a tile beside whole patches is not read
    if side is not None and merge and (side == 0 or side % merge):
        vision.wrong("image_size", f"as many whole patches of {patch} pixels a side as scale_factor {merge} divides")
    elif side in OFF_THEIR_CELLS or (side or 0) > MOST_CELLS:
        vision.wrong(
            "image_size", f"patches a side of which there are at most {MOST_CELLS}, and not {side}: see OFF_THEIR_CELLS"
        )
    vision.only("layer_norm_eps", EPSILON)
    return {
        "width": vision.size("hidden_size", 1152),
        "depth": depth,
        "heads": vision.size("num_attention_heads", 16),
        "hidden": vision.size("intermediate_size", 3072),
        "output_width": text.get("hidden_size"),
        "patch_size": patch,
        "merge_size": merge,
        "temporal_patch_size": 1,
        **_reads_whole_images(depth, _activation(vision, "gelu_pytorch_tanh")),
        "window_features": (side // merge) ** 2 if side and merge else None,
        "has_patch_bias": True,
        "position_side": side,
        "has_own_cells": True,
        "has_rotation": False,
        "is_merged_linearly": True,
        "tile_size": tile,
    }


class _Tower(NamedTuple):
    """How the tower of a family is read."""

    read: Callable[[Fields, Fields, Fields], dict[str, Any]]
    width: str  # the key of its width
    heads: str = "num_heads"  # the key of their number


FAMILIES = {
    "qwen2_vl": _Tower(_plain, "embed_dim"),
    "qwen2_5_vl": _Tower(_windowed, "hidden_size"),
    "qwen3_vl": _Tower(_plain_with_positions, "hidden_size"),
    "smolvlm": _Tower(_tiled, "hidden_size", "num_attention_heads"),
}


def vision_values(family: str, vision: Fields, text: Fields, root: Fields) -> dict[str, Any]:
    """What `QwenVisionConfig` is made of; problems are noted in the fields.

    Args:
      family: `model_type` of the file.
      vision: its section `vision_config`.
      text: what it says of the decoder.
      root: the file.
    """
    tower = FAMILIES[family]
    values = tower.read(vision, text, root)
    width, heads = values["width"], values["heads"]
    # half of a head's pairs of numbers turn with the row, half with the column
    if width and heads and (width % heads or (values.get("has_rotation", True) and (width // heads) % 4)):
        more = " that leaves heads of a multiple of 4" if values.get("has_rotation", True) else ""
        vision.wrong(tower.heads, f"a divisor of {tower.width} {width}{more}")
    for key in ("in_channels", "in_chans", "num_channels"):
        vision.only(key, 3)
    rope = vision.section("rope_parameters", is_needed=False)
    rope.only("rope_theta", _THETA)
    rope.only("partial_rotary_factor", 1.0)
    if rope.get("rope_type") not in ("axial", "default", None):
        rope.wrong("rope_type", "'axial'")
    return {"temporal_patch_size": vision.size("temporal_patch_size", 2), **values}


def _output_width(vision: Fields, text: Fields, key: str) -> Any:
    """The decoder's width, which the tower's file names once more."""
    width = text.get("hidden_size")
    if is_token(width, None) and vision.size(key) not in (width, None):
        vision.wrong(key, f"hidden_size {width} of the decoder")
    return width


def _activation(vision: Fields, default: str) -> str:
    """Of a feed-forward block of two products."""
    name = vision.get("hidden_act")
    if name is not None and name not in tuple(ACTIVATIONS):
        vision.wrong("hidden_act", " or ".join(map(repr, ACTIVATIONS)))
    return name or default


def _reads_whole_images(depth: int | None, activation: str) -> dict[str, Any]:
    """What towers without windows of their own have in common."""
    return {
        "full_attention_layers": tuple(range(depth or 0)),
        "window_features": _WINDOW_FEATURES,
        "norm": "layer",
        "feed_forward": activation,
    }
