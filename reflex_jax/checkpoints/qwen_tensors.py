"""Which tensors of a policy's checkpoint make which leaf of our tree: names, shapes and parts, no bytes.

The names are those of the family's checkpoints on the hub; other spellings are turned into them by `hub_name`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    "q_norm/scale": "self_attn.q_norm.weight",
    "k_norm/scale": "self_attn.k_norm.weight",
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
_SMOLVLM_VISION_LAYER = {
    "norm1/scale": "layer_norm1.weight",
    "norm1/bias": "layer_norm1.bias",
    **{f"{name}/{leaf}": f"self_attn.{name}_proj.{tensor}"
       for name in "qkv" for leaf, tensor in (("kernel", "weight"), ("bias", "bias"))},
    "o/kernel": "self_attn.out_proj.weight",
    "o/bias": "self_attn.out_proj.bias",
    "norm2/scale": "layer_norm2.weight",
    "norm2/bias": "layer_norm2.bias",
}  # fmt: skip
_QWEN3_VISION_LAYER = {
    "fc1/kernel": "mlp.linear_fc1.weight",
    "fc1/bias": "mlp.linear_fc1.bias",
    "fc2/kernel": "mlp.linear_fc2.weight",
    "fc2/bias": "mlp.linear_fc2.bias",
}
_QWEN3_MERGER = {
    "norm/scale": "norm.weight",
    "norm/bias": "norm.bias",
    "fc1/kernel": "linear_fc1.weight",
    "fc1/bias": "linear_fc1.bias",
    "fc2/kernel": "linear_fc2.weight",
    "fc2/bias": "linear_fc2.bias",
}
# Wrappers leave their names in what they hold: data parallel and DeepSpeed, PEFT; torch.compile and FSDP, at any depth.
_OUTER_WRAPPERS = ("module.", "base_model.model.")
_INNER_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# Prefixes of transformers 5, and of Qwen3-VL everywhere; twice `model.` came from some of its versions, none from a model
# without its head.
_QWEN_SPELLINGS = {
    "model.language_model.model.": "model.",
    "model.language_model.": "model.",
    "language_model.model.": "model.",
    "language_model.": "model.",
    "model.visual.": "visual.",
}
# With and without the head; a policy's own prefixes stand for themselves.
_SMOLVLM_SPELLINGS = {
    "model.text_model.": "model.",
    "text_model.": "model.",
    "model.vision_model.": "visual.",
    "vision_model.": "visual.",
    "model.connector.": "connector.",
}
HEAD = _SINGLE["head/kernel"]


@dataclass(frozen=True)
class _Names:
    """How the checkpoints of a family spell what stands above as `model.` and `visual.`, and what they name otherwise."""

    decoder: str = "model."
    tower: str = "visual."
    connector: str = "connector."
    blocks: str = "blocks"  # the layers of the tower
    modules: Mapping[str, str] = field(default_factory=dict)  # prefixes that are others in transformers 5
    spellings: Mapping[str, str] = field(
        default_factory=lambda: _QWEN_SPELLINGS
    )  # of others, in that of the table above
    is_patch_flat: bool = False  # the kernel of the patches has no axis for frames
    single: Mapping[str, str] = field(default_factory=dict)
    vision_layer: Mapping[str, str] = field(default_factory=dict)
    deepstack: Mapping[str, str] = field(default_factory=dict)

    def spelled(self, name: str) -> str:
        own_of = {"model.": self.decoder, "visual.": self.tower, "connector.": self.connector}
        for prefix, own in own_of.items():
            if name.startswith(prefix):
                return own + name.removeprefix(prefix)
        return name


_QWEN2_NAMES = _Names(modules={"model.": "model.language_model.", "visual.": "model.visual."})
_NAMES = {
    "qwen2_vl": _QWEN2_NAMES,
    "qwen2_5_vl": _QWEN2_NAMES,
    "qwen3_vl": _Names(
        decoder="model.language_model.",
        tower="model.visual.",
        single={
            "vision/patch_embed/bias": "visual.patch_embed.proj.bias",
            "vision/positions/embedding": "visual.pos_embed.weight",
            **{f"vision/merger/{leaf}": f"visual.merger.{name}" for leaf, name in _QWEN3_MERGER.items()},
        },
        vision_layer=_QWEN3_VISION_LAYER,
        deepstack=_QWEN3_MERGER,
    ),
    "smolvlm": _Names(
        decoder="model.text_model.",
        tower="model.vision_model.",
        connector="model.connector.",
        blocks="encoder.layers",
        spellings=_SMOLVLM_SPELLINGS,
        is_patch_flat=True,
        single={
            "vision/patch_embed/kernel": "visual.embeddings.patch_embedding.weight",
            "vision/patch_embed/bias": "visual.embeddings.patch_embedding.bias",
            "vision/positions/embedding": "visual.embeddings.position_embedding.weight",
            "vision/merger/norm/scale": "visual.post_layernorm.weight",
            "vision/merger/norm/bias": "visual.post_layernorm.bias",
            "vision/merger/proj/kernel": "connector.modality_projection.proj.weight",
        },
        vision_layer=_SMOLVLM_VISION_LAYER,
    ),
}


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
    """Our tree with shapes in the place of arrays; each caller's own."""
    return jax.tree.map(lambda leaf: leaf, _policy_shapes(config))


@functools.lru_cache(maxsize=8)  # a start asks a dozen times, and drawing a policy is traced each time
def _policy_shapes(config: QwenVLConfig) -> dict[str, Any]:
    return jax.eval_shape(lambda: init_policy_params(config, jax.random.key(0)))


@functools.lru_cache(maxsize=8)
def leaf_sources(config: QwenVLConfig) -> dict[str, Source]:
    """For every leaf of the tree, by its path, the tensors it is made of and their shapes."""
    vision, names = config.vision, _NAMES[config.family]
    singles = {**_SINGLE, **names.single}
    frames = () if names.is_patch_flat else (vision.temporal_patch_size,)
    patch_shape = (vision.width, vision.channels, *frames, vision.patch_size, vision.patch_size)
    sources: dict[str, Source] = {}
    for tree_path, leaf in jax.tree_util.tree_leaves_with_path(abstract_policy_params(config)):
        path = path_name(tree_path)
        is_transposed = path.endswith("/kernel")
        if path in singles:
            shape = leaf.shape[::-1] if is_transposed else leaf.shape
            shape = patch_shape if path == "vision/patch_embed/kernel" else shape
            sources[path] = Source(
                (names.spelled(singles[path]),), leaf.shape, shape, is_stacked=False, is_transposed=is_transposed
            )
            continue
        layers, *shape = leaf.shape
        shape = shape[::-1] if is_transposed else shape
        template, part = _layer_tensor(path, names)
        shape = shape if part is None else (3 * shape[0], *shape[1:])  # the hub fuses the three on the first axis
        sources[path] = Source(
            tuple(names.spelled(template.format(layer)) for layer in range(layers)),
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


def hub_name(name: str, family: str = "qwen2_5_vl") -> str:
    """Returns the hub's spelling of a tensor's name, whoever wrote it and whatever the model was wrapped in.

    Args:
      name: as a file has it.
      family: `model_type` of the checkpoint.
    """
    for wrapper in _INNER_WRAPPERS:
        name = name.replace(wrapper, "")
    while found := next((wrapper for wrapper in _OUTER_WRAPPERS if name.startswith(wrapper)), None):
        name = name.removeprefix(found)
    for spelling, hub in _NAMES[family].spellings.items():
        if name.startswith(spelling):
            name = hub + name.removeprefix(spelling)
            break
    return _NAMES[family].spelled(name)


def module_name(module: str, family: str) -> str:
    """A module of the hub's files as transformers 5 names it; the files of some families do so already."""
    for prefix, own in _NAMES[family].modules.items():
        if module.startswith(prefix):
            return own + module.removeprefix(prefix)
    return module


def _layer_tensor(path: str, names: _Names) -> tuple[str, int | None]:
    """Name of a layer's tensor with {} for the layer, and the part of it if it is fused."""
    if path.startswith("layers/"):
        return "model.layers.{}." + _TEXT_LAYER[path.removeprefix("layers/")], None
    if path.startswith("vision/deepstack/"):
        return "visual.deepstack_merger_list.{}." + names.deepstack[path.removeprefix("vision/deepstack/")], None
    leaf = path.removeprefix("vision/layers/")
    of_layer = {**_VISION_LAYER, **names.vision_layer}
    if leaf in of_layer:
        return f"visual.{names.blocks}.{{}}." + of_layer[leaf], None
    projection, kind = leaf.split("/")
    return "visual.blocks.{}.attn.qkv." + {"kernel": "weight", "bias": "bias"}[kind], "qkv".index(projection)
