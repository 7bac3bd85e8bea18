"""Qwen2.5-VL checkpoints in the Hugging Face layout, into our parameter tree and back.

Every tensor of the checkpoint has one place in the tree and every leaf of the tree comes from the checkpoint, or the
load fails and names all that are missing, extra or misshaped. Two spellings of the same names exist and both are read:
the hub's (`model.`, `visual.`) and that of transformers 5 (`model.language_model.`, `model.visual.`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from reflex_jax.config import ConfigError
from reflex_jax.models.qwen_vl import QwenVLConfig, init_policy_params

Params = dict[str, Any]
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

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
    "o/kernel": "attn.proj.weight",
    "o/bias": "attn.proj.bias",
    "norm2/scale": "norm2.weight",
    "gate/kernel": "mlp.gate_proj.weight",
    "gate/bias": "mlp.gate_proj.bias",
    "up/kernel": "mlp.up_proj.weight",
    "up/bias": "mlp.up_proj.bias",
    "down/kernel": "mlp.down_proj.weight",
    "down/bias": "mlp.down_proj.bias",
}
_SINGLE = {
    "embed/embedding": "model.embed_tokens.weight",
    "final_norm/scale": "model.norm.weight",
    "head/kernel": "lm_head.weight",
    "vision/patch_embed/kernel": "visual.patch_embed.proj.weight",
    "vision/merger/norm/scale": "visual.merger.ln_q.weight",
    "vision/merger/fc1/kernel": "visual.merger.mlp.0.weight",
    "vision/merger/fc1/bias": "visual.merger.mlp.0.bias",
    "vision/merger/fc2/kernel": "visual.merger.mlp.2.weight",
    "vision/merger/fc2/bias": "visual.merger.mlp.2.bias",
}


@dataclass(frozen=True)
class _Source:
    """Where one leaf comes from: one tensor, or one for each layer; `part` of a fused tensor's first axis."""

    names: tuple[str, ...]
    tensor_shape: tuple[int, ...]  # of each tensor
    is_stacked: bool
    is_transposed: bool
    part: int | None = None  # 0, 1, 2: queries, keys, values of a fused tensor


def load_policy_params(directory: str | Path, config: QwenVLConfig, dtype: Any = jnp.float32) -> Params:
    """Loads model.safetensors, or the shards its index names.

    Args:
      directory: of the checkpoint.
      config: of `read_qwen_config`.
      dtype: of the returned arrays.

    Raises:
      ConfigError: a file is missing, or tensors are missing, extra or misshaped (all are listed).
    """
    tensors = _open_tensors(Path(directory))
    sources = _sources(config)
    _check_tensors(tensors, sources, config, Path(directory))
    leaves = {path: jnp.asarray(_leaf(source, tensors), dtype) for path, source in sources.items()}
    return _nested(leaves)


def save_policy_params(params: Params, config: QwenVLConfig, directory: str | Path) -> None:
    """Writes model.safetensors with the hub's names; the inverse of `load_policy_params`."""
    flat = {_path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    tensors: dict[str, np.ndarray] = {}
    fused: dict[str, dict[int, np.ndarray]] = {}
    for path, source in _sources(config).items():
        rows = flat[path] if source.is_stacked else flat[path][None]
        for name, row in zip(source.names, rows, strict=True):
            row = np.ascontiguousarray(row.T if source.is_transposed else row)
            if source.part is None:
                tensors[name] = row.reshape(source.tensor_shape)
            else:
                fused.setdefault(name, {})[source.part] = row
    tensors |= {name: np.concatenate([parts[i] for i in range(3)]) for name, parts in fused.items()}
    Path(directory).mkdir(parents=True, exist_ok=True)
    save_file(tensors, Path(directory) / SINGLE_FILE, metadata={"format": "pt"})


def _sources(config: QwenVLConfig) -> dict[str, _Source]:
    """For every leaf of the tree, the tensors it is made of and their shapes."""
    abstract = jax.eval_shape(lambda: init_policy_params(config, jax.random.key(0)))
    vision = config.vision
    patch_shape = (vision.width, vision.channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    sources: dict[str, _Source] = {}
    for tree_path, leaf in jax.tree_util.tree_leaves_with_path(abstract):
        path = _path_name(tree_path)
        is_transposed = path.endswith("/kernel")
        if path in _SINGLE:
            shape = leaf.shape[::-1] if is_transposed else leaf.shape
            shape = patch_shape if path == "vision/patch_embed/kernel" else shape
            sources[path] = _Source((_SINGLE[path],), shape, is_stacked=False, is_transposed=is_transposed)
            continue
        shape, layers = leaf.shape[1:], leaf.shape[0]
        shape = shape[::-1] if is_transposed else shape
        template, part = _layer_tensor(path)
        shape = shape if part is None else (3 * shape[0], *shape[1:])  # the hub fuses the three on the first axis
        sources[path] = _Source(
            tuple(template.format(layer) for layer in range(layers)),
            shape,
            is_stacked=True,
            is_transposed=is_transposed,
            part=part,
        )
    return sources


def _layer_tensor(path: str) -> tuple[str, int | None]:
    """Name of a layer's tensor with {} for the layer, and the part of it if it is fused."""
    if path.startswith("layers/"):
        return "model.layers.{}." + _TEXT_LAYER[path.removeprefix("layers/")], None
    leaf = path.removeprefix("vision/layers/")
    if leaf in _VISION_LAYER:
        return "visual.blocks.{}." + _VISION_LAYER[leaf], None
    projection, kind = leaf.split("/")
    return "visual.blocks.{}.attn.qkv." + {"kernel": "weight", "bias": "bias"}[kind], "qkv".index(projection)


def _leaf(source: _Source, tensors: dict[str, _Tensor]) -> np.ndarray:
    rows = []
    for name in source.names:
        row = tensors[name].read()
        if source.part is not None:
            row = np.split(row, 3)[source.part]
        row = row.reshape(row.shape[0], -1) if row.ndim > 2 else row
        rows.append(row.T if source.is_transposed else row)
    return np.stack(rows) if source.is_stacked else rows[0]


@dataclass(frozen=True)
class _Tensor:
    """A tensor on disk."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def _open_tensors(directory: Path) -> dict[str, _Tensor]:
    """All tensors of the checkpoint under the hub's names; nothing is read yet."""
    tensors: dict[str, _Tensor] = {}
    for file in _files(directory):
        opened = safe_open(file, framework="numpy")
        for name in opened.keys():
            shape = tuple(opened.get_slice(name).get_shape())
            tensors[_hub_name(name)] = _Tensor(shape, lambda opened=opened, name=name: opened.get_tensor(name))
    return tensors


def _files(directory: Path) -> Iterator[Path]:
    if (directory / INDEX_FILE).is_file():
        names = sorted(set(json.loads((directory / INDEX_FILE).read_text())["weight_map"].values()))
    else:
        names = [SINGLE_FILE]
    absent = [name for name in names if not (directory / name).is_file()]
    if absent:
        raise ConfigError(
            f"policy.path: expected {', '.join(absent)} in {directory}; not found. Download the checkpoint whole."
        )
    return (directory / name for name in names)


def _hub_name(name: str) -> str:
    for newer, hub in (("model.language_model.", "model."), ("model.visual.", "visual.")):
        if name.startswith(newer):
            return hub + name.removeprefix(newer)
    return name


def _check_tensors(
    tensors: dict[str, _Tensor], sources: dict[str, _Source], config: QwenVLConfig, directory: Path
) -> None:
    expected = {name: source.tensor_shape for source in sources.values() for name in source.names}
    extra = sorted(tensors.keys() - expected.keys())
    head, embedding = _SINGLE["head/kernel"], _SINGLE["embed/embedding"]
    if config.text.is_tied and head in extra and embedding in tensors:
        # some exporters write the tied head out; it is redundant only if it really is the embedding
        if np.array_equal(tensors[head].read(), tensors[embedding].read()):
            extra.remove(head)
    problems = [f"missing {name} {list(shape)}" for name, shape in sorted(expected.items()) if name not in tensors]
    problems += [f"extra {name} {list(tensors[name].shape)}" for name in extra]
    problems += [
        f"misshaped {name}: expected {list(shape)}, got {list(tensors[name].shape)}"
        for name, shape in sorted(expected.items())
        if name in tensors and tensors[name].shape != shape
    ]
    if problems:
        raise ConfigError(
            f"policy.path: the tensors in {directory} do not fit its config.json:\n  " + "\n  ".join(problems)
        )


def _path_name(path: Any) -> str:
    return "/".join(key.key for key in path)


def _nested(leaves: dict[str, Any]) -> Params:
    tree: Params = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree
