"""Which tensors of a policy's checkpoint make which leaf of our tree: names, shapes and parts, no bytes.

The names are the hub's (`model.`, `visual.`); other spellings are turned into them by `hub_name`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax

from reflex_jax.models.qwen_vl import QwenVLConfig, init_policy_params
from reflex_jax.sharding import path_name

# leaf of one layer -> tensor of that layer
_TEXT_LAYER = {
    "input_norm/scale": "input_layernorm.weight",
    "q/kernel": "self_attn.q_proj.weight",
    "q/bias": "self_attn.q_proj.bias",
    "k/kernel": "self_attn.k_proj.weight",
    "k/bias": "self_attn.k_proj.bias",
    "v/kernel": "self_attn.v_proj.weight",
    "v/bias": "self_attn.v_proj.bias",
    "o/kernel": "self_attn.o_proj.weight",
    "post_norm/scale": "post_attention_layernorm.weight",
    "gate/kernel": "mlp.gate_proj.weight",
    "up/kernel": "mlp.up_proj.weight",
    "down/kernel": "mlp.down_proj.weight",
}
_VISION_LAYER = {
    "norm1/scale": "norm1.weight",
    "norm1/bias": "norm1.bias",
    "o/kernel": "attn.proj.weight",
    "o/bias": "attn.proj.bias",
    "norm2/scale": "norm2.weight",
    "norm2/bias": "norm2.bias",
    "gate/kernel": "mlp.gate_proj.weight",
    "gate/bias": "mlp.gate_proj.bias",
    "up/kernel": "mlp.up_proj.weight",
    "up/bias": "mlp.up_proj.bias",
    "down/kernel": "mlp.down_proj.weight",
    "down/bias": "mlp.down_proj.bias",
    "fc1/kernel": "mlp.fc1.weight",
    "fc1/bias": "mlp.fc1.bias",
    "fc2/kernel": "mlp.fc2.weight",
    "fc2/bias": "mlp.fc2.bias",
}
_SINGLE = {
    "embed/embedding": "model.embed_tokens.weight",
    "final_norm/scale": "model.norm.weight",
    "head/kernel": "lm_head.weight",
    "vision/patch_embed/kernel": "visual.patch_embed.proj.weight",
    "vision/merger/norm/scale": "visual.merger.ln_q.weight",
    "vision/merger/norm/bias": "visual.merger.ln_q.bias",
    "vision/merger/fc1/kernel": "visual.merger.mlp.0.weight",
    "vision/merger/fc1/bias": "visual.merger.mlp.0.bias",
    "vision/merger/fc2/kernel": "visual.merger.mlp.2.weight",
    "vision/merger/fc2/bias": "visual.merger.mlp.2.bias",
}
# Wrappers leave their names in what they hold: data parallel and DeepSpeed, PEFT; torch.compile and FSDP, at any depth.
_OUTER_WRAPPERS = ("module.", "base_model.model.")
_INNER_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# Prefixes of transformers 5; twice `model.` came from some of its versions, none from a model without its head.
_SPELLINGS = {
    "model.language_model.model.": "model.",
    "model.language_model.": "model.",
    "language_model.model.": "model.",
    "language_model.": "model.",
    "model.visual.": "visual.",
}
HEAD, EMBEDDING = _SINGLE["head/kernel"], _SINGLE["embed/embedding"]


@dataclass(frozen=True)
class Source:
    """Where one leaf comes from: one tensor, or one for each layer; `part` of a fused tensor's first axis."""

    names: tuple[str, ...]
    shape: tuple[int, ...]  # of the leaf
    tensor_shape: tuple[int, ...]  # of each tensor
    is_stacked: bool
    is_transposed: bool
    part: int | None = None  # 0, 1, 2: queries, keys, values of a fused tensor


@dataclass(frozen=True)
class Piece:
    """What a tensor, or a third of a fused one, is made of: a leaf, or one layer of it."""

    path: str
    layer: int | None
    is_transposed: bool


def abstract_policy_params(config: QwenVLConfig) -> dict[str, Any]:
    """Our tree with shapes in the place of arrays."""
    return jax.eval_shape(lambda: init_policy_params(config, jax.random.key(0)))


@functools.lru_cache(maxsize=8)
def leaf_sources(config: QwenVLConfig) -> dict[str, Source]:
    """For every leaf of the tree, by its path, the tensors it is made of and their shapes."""
    vision = config.vision
    patch_shape = (vision.width, vision.channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    sources: dict[str, Source] = {}
    for tree_path, leaf in jax.tree_util.tree_leaves_with_path(abstract_policy_params(config)):
        path = path_name(tree_path)
        is_transposed = path.endswith("/kernel")
        if path in _SINGLE:
            shape = leaf.shape[::-1] if is_transposed else leaf.shape
            shape = patch_shape if path == "vision/patch_embed/kernel" else shape
            sources[path] = Source((_SINGLE[path],), leaf.shape, shape, is_stacked=False, is_transposed=is_transposed)
            continue
        layers, *shape = leaf.shape
        shape = shape[::-1] if is_transposed else shape
        template, part = _layer_tensor(path)
        shape = shape if part is None else (3 * shape[0], *shape[1:])  # the hub fuses the three on the first axis
        sources[path] = Source(
            tuple(template.format(layer) for layer in range(layers)),
            leaf.shape,
            tuple(shape),
            is_stacked=True,
            is_transposed=is_transposed,
            part=part,
        )
    return sources


def tensor_pieces(sources: dict[str, Source]) -> dict[str, list[Piece]]:
    """The other way round: for every tensor its one piece, or the three of a fused one in their order."""
    parts: dict[str, dict[int, Piece]] = {}
    for path, source in sources.items():
        for layer, name in enumerate(source.names):
            piece = Piece(path, layer if source.is_stacked else None, source.is_transposed)
            parts.setdefault(name, {})[source.part or 0] = piece
    return {name: [pieces[part] for part in sorted(pieces)] for name, pieces in parts.items()}


def hub_name(name: str) -> str:
    """Returns the hub's spelling of a tensor's name, whoever wrote it and whatever the model was wrapped in."""
    for wrapper in _INNER_WRAPPERS:
        name = name.replace(wrapper, "")
    while found := next((wrapper for wrapper in _OUTER_WRAPPERS if name.startswith(wrapper)), None):
        name = name.removeprefix(found)
    for spelling, hub in _SPELLINGS.items():
        if name.startswith(spelling):
            return hub + name.removeprefix(spelling)
    return name


def _layer_tensor(path: str) -> tuple[str, int | None]:
    """Name of a layer's tensor with {} for the layer, and the part of it if it is fused."""
    if path.startswith("layers/"):
        return "model.layers.{}." + _TEXT_LAYER[path.removeprefix("layers/")], None
    leaf = path.removeprefix("vision/layers/")
    if leaf in _VISION_LAYER:
        return "visual.blocks.{}." + _VISION_LAYER[leaf], None
    projection, kind = leaf.split("/")
    return "visual.blocks.{}.attn.qkv." + {"kernel": "weight", "bias": "bias"}[kind], "qkv".index(projection)
