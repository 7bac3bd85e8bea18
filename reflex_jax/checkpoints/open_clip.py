"""Judge weights in open_clip's file layout <-> our parameters: every tensor is used, none is missing, none is extra.

Only safetensors is read in this process. A pickled `open_clip_pytorch_model.bin` is converted once by a child process
(`checkpoints/bin_conversion.py`), which is the only place that needs torch. Prefixes that training wrappers put before
every name are taken off, as open_clip does with `module.`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from reflex_jax.checkpoints.bert import bert_tensor_name, path_words
from reflex_jax.checkpoints.bin_conversion import converted_bin
from reflex_jax.checkpoints.safetensors_writer import FLOATS
from reflex_jax.checkpoints.tensor_report import describe_tensors
from reflex_jax.config import ConfigError
from reflex_jax.models.biomedclip import BiomedClipConfig, init_judge_params
from reflex_jax.trees import Array, Params

_SETTING = "judge.path"
_LFS_POINTER = b"version https://git-lfs"
SAFETENSORS_NAME = "open_clip_model.safetensors"
# The first of these that is there is read, in the order of open_clip.
WEIGHT_NAMES = (
    SAFETENSORS_NAME, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth", "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth",
)  # fmt: skip

_WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile, in either order
# In the files, but no weights of the judge: temperature and offset of the contrastive loss, a buffer that counts 0, 1, 2.
_NOT_WEIGHTS = ("logit_scale", "logit_bias", "text.transformer.embeddings.position_ids")
_INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # open_clip's own start value

_BLOCK_NAMES = {"o": "attn.proj", "norm1": "norm1", "norm2": "norm2", "up": "mlp.fc1", "down": "mlp.fc2"}


def load_judge_params(directory: str | Path, config: BiomedClipConfig, dtype: Any = jnp.float32) -> Params:
    """Loads a judge's parameters from an open_clip directory.

    Raises:
      ConfigError: there is no weight file, it cannot be read, or its tensors are not exactly those of `config`: missing,
        extra, misshaped, no floats, or not finite; all kinds at once.
    """
    path, source = _weight_file(Path(directory))
    try:
        with safe_open(path, framework="np") as file:
            tensors = _read_tensors(file, expected_tensors(config), source)
    except (SafetensorError, OSError) as error:
        again = "Download it again." if path == source else f"Remove {path}, the copy converted from it, and try again."
        raise ConfigError(f"{_SETTING}: {source} cannot be read, it may be truncated ({error}). {again}") from None
    return _from_torch(tensors, _abstract_params(config), dtype)


@functools.lru_cache(maxsize=4)
def expected_tensors(config: BiomedClipConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a judge of this configuration has in open_clip's layout."""
    tensors = jax.eval_shape(lambda params: _to_torch(params, config), _abstract_params(config))
    return {name: tensor.shape for name, tensor in tensors.items()}


def save_judge_params(params: Params, config: BiomedClipConfig, directory: str | Path) -> None:
    """Writes the parameters under open_clip's names; the configuration and tokenizer files are the caller's.

    The file also carries open_clip's initial `logit_scale`, which it insists on and no part of this package reads.
    """
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in _to_torch(jax.device_get(params), config).items()}
    tensors["logit_scale"] = np.array(_INITIAL_LOGIT_SCALE, np.float32)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / SAFETENSORS_NAME, metadata={"format": "pt"})


@functools.lru_cache(maxsize=4)
def _abstract_params(config: BiomedClipConfig) -> Params:
    return jax.eval_shape(lambda key: init_judge_params(config, key), jax.random.key(0))


def _weight_file(directory: Path) -> tuple[Path, Path]:
    """The safetensors file to read, and the file of the directory that it is or comes from."""
    source = next((directory / name for name in WEIGHT_NAMES if (directory / name).is_file()), None)
    if source is None:
        found = sorted(path.name for path in directory.glob("*"))[:12] if directory.is_dir() else "no such directory"
        raise ConfigError(
            f"{_SETTING}: expected one of {', '.join(WEIGHT_NAMES)} in {directory}; found {found}. Give the weight file "
            "one of these names."
        )
    with source.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise ConfigError(
                f"{_SETTING}: {source} is a Git LFS pointer, not the file itself. Run `git lfs pull` where it was cloned."
            )
    return (source if source.suffix == ".safetensors" else converted_bin(source)), source


def _read_tensors(file: Any, expected: dict[str, tuple[int, ...]], source: Path) -> dict[str, np.ndarray]:
    """Reads all tensors of the judge from an open file, which holds these and no others."""
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    stored = {name.removeprefix(_wrapper(slices)): name for name in slices}  # name of the weight -> name in the file
    found = {name: slices[key] for name, key in stored.items() if name not in _NOT_WEIGHTS}
    shapes = {name: tuple(tensor.get_shape()) for name, tensor in found.items()}
    problems = describe_tensors(
        expected.keys() - found.keys(),
        found.keys() - expected.keys(),
        {n: (expected[n], shape) for n, shape in shapes.items() if n in expected and shape != expected[n]},
        wrong_dtypes={n: t.get_dtype() for n, t in found.items() if n in expected and t.get_dtype() not in FLOATS},
    )
    if problems:
        hint = _unknown_prefix(expected, found)
        raise ConfigError(f"{_SETTING}: {source} does not fit its configuration. {problems}.{hint}")
    tensors = {name: file.get_tensor(stored[name]) for name in expected}
    # in float32, as the judge computes: a float64 beyond its range becomes infinite there
    with np.errstate(over="ignore"):
        not_finite = [name for name, tensor in tensors.items() if not np.isfinite(tensor.astype(np.float32)).all()]
    if not_finite:
        raise ConfigError(
            f"{_SETTING}: {source} holds numbers that are none. {describe_tensors(not_finite=not_finite)}. Take a "
            "checkpoint from before the training broke, or download it again."
        )
    return tensors


def _wrapper(names: Collection[str]) -> str:
    """What training wrappers put before every name."""
    prefix = ""
    while known := [w for w in _WRAPPERS if names and all(name.startswith(prefix + w) for name in names)]:
        prefix += known[0]
    return prefix


def _unknown_prefix(expected: Collection[str], found: Collection[str]) -> str:
    """Says so where all weights are there behind a prefix that is not known."""
    some = min(expected)
    prefixes = {name.removesuffix(some) for name in found if name.endswith(f".{some}")}
    whole = [prefix for prefix in sorted(prefixes) if all(prefix + name in found for name in expected)]
    return f" All of them are there behind {whole[0][:80]!r}: save them without it." if whole else ""


def _torch_name(path: tuple[Any, ...]) -> tuple[str, int | None]:
    """Name of the tensor that holds the parameter at `path`, and which third of it (timm fuses q, k and v)."""
    tower, part, *rest = path_words(path)
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
    if part == "projection":
        return f"text.proj.{0 if rest[0] == 'up' else 2}.weight", None
    return f"text.transformer.{bert_tensor_name(part, *rest)}", None


def _to_torch(params: Params, config: BiomedClipConfig) -> dict[str, Array]:
    thirds: dict[str, dict[int, Array]] = {}
    tensors: dict[str, Array] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name, third = _torch_name(path)
        tensor = leaf.T if path[-1].key == "kernel" else leaf
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
    return tensors | {name: jnp.concatenate([parts[i] for i in range(3)]) for name, parts in thirds.items()}


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
