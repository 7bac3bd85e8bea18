"""Judge weights in open_clip's file layout <-> our parameters: every tensor is used, none is missing, none is extra.

Only safetensors is read in this process. A pickled `open_clip_pytorch_model.bin` is converted once by a child process
(`checkpoints/bin_conversion.py`), which is the only place that needs torch.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from reflex_jax.checkpoints.bin_conversion import converted_bin
from reflex_jax.config import ConfigError
from reflex_jax.models.biomedclip import BiomedClipConfig, init_judge_params

Params = dict[str, Any]

SAFETENSORS_NAME = "open_clip_model.safetensors"
BIN_NAME = "open_clip_pytorch_model.bin"

# In the files, but no weights of the judge: the temperature of the contrastive loss, and a buffer that counts 0, 1, 2.
_NOT_WEIGHTS = ("logit_scale", "text.transformer.embeddings.position_ids")
_INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # open_clip's own start value

_BLOCK_NAMES = {"o": "attn.proj", "norm1": "norm1", "norm2": "norm2", "up": "mlp.fc1", "down": "mlp.fc2"}
_LAYER_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}
_TEXT_EMBEDDINGS = {"words": "word_embeddings", "positions": "position_embeddings", "types": "token_type_embeddings"}


def load_judge_params(directory: str | Path, config: BiomedClipConfig, dtype: Any = jnp.float32) -> Params:
    """Loads a judge's parameters from an open_clip directory.

    Raises:
      ConfigError: there is no weight file, it cannot be read, or its tensors are not exactly those of `config`; all
        that are missing, extra or misshaped are listed.
    """
    path = _weight_file(Path(directory))
    expected = expected_tensors(config)
    try:
        with safe_open(path, framework="np") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _check_tensors(path, expected, found)
            tensors = {name: file.get_tensor(name) for name in expected}
    except SafetensorError as error:
        raise ConfigError(f"judge: {path} cannot be read, it may be truncated ({error}). Download it again.") from None
    return _from_torch(tensors, _abstract_params(config), dtype)


def expected_tensors(config: BiomedClipConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a judge of this configuration has in open_clip's layout."""
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), _abstract_params(config))
    return {name: tensor.shape for name, tensor in _to_torch(zeros, config).items()}


def save_judge_params(params: Params, config: BiomedClipConfig, directory: str | Path) -> None:
    """Writes the parameters under open_clip's names; the configuration and tokenizer files are the caller's.

    The file also carries open_clip's initial `logit_scale`, which it insists on and no part of this package reads.
    """
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in _to_torch(jax.device_get(params), config).items()}
    tensors["logit_scale"] = np.array(_INITIAL_LOGIT_SCALE, np.float32)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / SAFETENSORS_NAME, metadata={"format": "pt"})


def _abstract_params(config: BiomedClipConfig) -> Params:
    return jax.eval_shape(lambda key: init_judge_params(config, key), jax.random.key(0))


def _weight_file(directory: Path) -> Path:
    if (directory / SAFETENSORS_NAME).is_file():
        return directory / SAFETENSORS_NAME
    if (directory / BIN_NAME).is_file():
        return converted_bin(directory / BIN_NAME)
    raise ConfigError(f"judge: expected {SAFETENSORS_NAME} or {BIN_NAME} in {directory}; found neither.")


def _check_tensors(path: Path, expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> None:
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys() - set(_NOT_WEIGHTS))
    misshaped = [
        f"{name}: expected {list(expected[name])}, got {list(found[name])}"
        for name in sorted(expected.keys() & found.keys())
        if expected[name] != found[name]
    ]
    problems = [
        f"{label}: {'; '.join(names)}"
        for label, names in (("missing", missing), ("extra", extra), ("misshaped", misshaped))
        if names
    ]
    if problems:
        raise ConfigError(f"judge: {path} does not fit its configuration. {' | '.join(problems)}.")


def _torch_name(path: tuple[Any, ...]) -> tuple[str, int | None]:
    """Name of the tensor that holds the parameter at `path`, and which third of it (timm fuses q, k and v)."""
    tower, part, *rest = [str(getattr(key, "key", getattr(key, "idx", None))) for key in path]
    suffix = "weight" if rest[-1] in ("kernel", "scale") else rest[-1]
    if tower == "vision":
        if part == "embed":
            return "visual.trunk." + {"cls": "cls_token", "positions": "pos_embed"}.get(
                rest[0], f"patch_embed.proj.{suffix}"
            ), None
        if part == "head":
            return ("visual.trunk.norm." if rest[0] == "norm" else "visual.head.proj.") + suffix, None
        block = f"visual.trunk.blocks.{rest[0]}."
        if rest[1] in ("q", "k", "v"):
            return f"{block}attn.qkv.{suffix}", "qkv".index(rest[1])
        return f"{block}{_BLOCK_NAMES[rest[1]]}.{suffix}", None
    if part == "embed":
        name = f"{_TEXT_EMBEDDINGS[rest[0]]}.weight" if rest[0] in _TEXT_EMBEDDINGS else f"LayerNorm.{suffix}"
        return f"text.transformer.embeddings.{name}", None
    if part == "projection":
        return f"text.proj.{0 if rest[0] == 'up' else 2}.weight", None
    return f"text.transformer.encoder.layer.{rest[0]}.{_LAYER_NAMES[rest[1]]}.{suffix}", None


def _to_torch(params: Params, config: BiomedClipConfig) -> dict[str, np.ndarray]:
    thirds: dict[str, dict[int, np.ndarray]] = {}
    tensors: dict[str, np.ndarray] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name, third = _torch_name(path)
        tensor = np.asarray(leaf).T if path[-1].key == "kernel" else np.asarray(leaf)
        if name.endswith("patch_embed.proj.weight"):  # [D, y x c] -> [D, c, y, x]
            size = config.vision.patch_size
            tensor = tensor.reshape(-1, size, size, 3).transpose(0, 3, 1, 2)
        elif name == "visual.trunk.cls_token":
            tensor = tensor[None, None]
        elif name == "visual.trunk.pos_embed":
            tensor = tensor[None]
        if third is None:
            tensors[name] = tensor
        else:
            thirds.setdefault(name, {})[third] = tensor
    return tensors | {name: np.concatenate([parts[i] for i in range(3)]) for name, parts in thirds.items()}


def _from_torch(tensors: dict[str, np.ndarray], abstract: Params, dtype: Any) -> Params:
    def parameter(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name, third = _torch_name(path)
        tensor = tensors[name] if third is None else np.split(tensors[name], 3)[third]
        if tensor.ndim == 4:  # [D, c, y, x] -> [D, y x c]
            tensor = tensor.transpose(0, 2, 3, 1).reshape(tensor.shape[0], -1)
        if path[-1].key == "kernel":
            tensor = tensor.T
        return jnp.asarray(np.ascontiguousarray(tensor.reshape(leaf.shape)), dtype)

    return jax.tree_util.tree_map_with_path(parameter, abstract)
