"""BERT weights in Hugging Face's layout -> our parameters: every tensor of the encoder is used, none is missing or extra.

Names may begin with "bert.", as models with a head save them, and the norms of old files are called gamma and beta. Heads (a
pooler, a classifier, the masked language model's) are left aside: no hidden state passes through them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reflex_jax.checkpoints.bin_conversion import converted_bin
from reflex_jax.checkpoints.safetensors_reader import Tensor, open_tensors
from reflex_jax.checkpoints.safetensors_writer import FLOATS, INDEX_FILE, SINGLE_FILE
from reflex_jax.checkpoints.tensor_report import describe_tensors
from reflex_jax.config import ConfigError
from reflex_jax.models.bert import BertConfig, init_bert_params
from reflex_jax.trees import Params

PICKLED_FILE = "pytorch_model.bin"
WEIGHT_FILES = (SINGLE_FILE, INDEX_FILE, PICKLED_FILE)

_PARTS = ("embeddings.", "encoder.")
_NOT_WEIGHTS = ("embeddings.position_ids", "embeddings.token_type_ids")  # buffers that count 0, 1, 2 and 0, 0, 0
_OLD_SUFFIXES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_EMBEDDINGS = {"words": "word_embeddings", "positions": "position_embeddings", "types": "token_type_embeddings"}
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


def bert_tensor_name(part: str, *rest: str) -> str:
    """Name of the tensor that holds a parameter: ("embed", "norm", "scale"), ("layers", "0", "q", "kernel")."""
    suffix = "weight" if rest[-1] in ("kernel", "scale") else rest[-1]
    if part == "embed":
        name = f"{_EMBEDDINGS[rest[0]]}.weight" if rest[0] in _EMBEDDINGS else f"LayerNorm.{suffix}"
        return f"embeddings.{name}"
    return f"encoder.layer.{rest[0]}.{_LAYER_NAMES[rest[1]]}.{suffix}"


def load_bert_params(directory: str | Path, config: BertConfig, *, setting: str) -> Params:
    """Loads a BERT's parameters from model.safetensors, its shards, or a pickled pytorch_model.bin; float32.

    Args:
      directory: of the checkpoint.
      config: of `read_bert_config`.
      setting: the key that led to it, which begins messages.
    Raises:
      ConfigError: there is no weight file, it cannot be read, or its tensors are not exactly those of `config`: missing,
        extra, misshaped, no floats, or not finite; all kinds at once.
    """
    directory = Path(directory)
    tensors = _open(directory, setting)
    abstract = _abstract_params(config)
    expected = _expected(config)
    found = {name for name in tensors if name.startswith(_PARTS) and name not in _NOT_WEIGHTS}
    both = expected.keys() & found
    read = {name: _read(tensors[name]) for name in both if tensors[name].code in FLOATS}
    problems = describe_tensors(
        expected.keys() - found,
        found - expected.keys(),
        {name: (expected[name], tensors[name].shape) for name in both if tensors[name].shape != expected[name]},
        wrong_dtypes={name: tensors[name].code for name in both if tensors[name].code not in FLOATS},
        not_finite=[name for name, tensor in read.items() if not np.isfinite(tensor).all()],
    )
    if problems:
        raise ConfigError(f"{setting}: the tensors in {directory} do not fit its config.json. {problems}.")

    def parameter(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        tensor = read[bert_tensor_name(*path_words(path))]
        return jnp.asarray(np.ascontiguousarray(tensor.T if path[-1].key == "kernel" else tensor))

    return jax.tree_util.tree_map_with_path(parameter, abstract)


def path_words(path: tuple[Any, ...]) -> list[str]:
    """A path of JAX in words."""
    return [str(getattr(key, "key", getattr(key, "idx", None))) for key in path]


def _open(directory: Path, setting: str) -> Mapping[str, Tensor]:
    pickled = directory / PICKLED_FILE
    has_safetensors = any((directory / name).is_file() for name in (SINGLE_FILE, INDEX_FILE))
    files = None if has_safetensors or not pickled.is_file() else [converted_bin(pickled, setting=setting)]
    return open_tensors(directory, _plain_name, setting=setting, files=files)


def _plain_name(name: str) -> str:
    name = name.removeprefix("bert.")
    for old, new in _OLD_SUFFIXES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _read(tensor: Tensor) -> np.ndarray:
    """All of it as float32; a float64 beyond its range becomes infinite."""
    bounds = tuple((0, size) for size in tensor.shape)
    with np.errstate(over="ignore"):
        return np.concatenate([part for _, part in tensor.blocks(bounds)]).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _abstract_params(config: BertConfig) -> Params:
    return jax.eval_shape(lambda key: init_bert_params(config, key), jax.random.key(0))


def _expected(config: BertConfig) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(_abstract_params(config))
    return {
        bert_tensor_name(*path_words(path)): leaf.shape[::-1] if path[-1].key == "kernel" else leaf.shape
        for path, leaf in leaves
    }
