"""Writes safetensors files tensor by tensor. The library's own writer wants all tensors of a file in memory at once."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9  # as transformers cuts its files
BLOCK_ROWS = 256  # copied at a time: a transposed block this size stays in the cache, which is 5 times faster
FLOATS: dict[str, np.dtype] = {
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype(jnp.bfloat16),
}
_CODES = {dtype: code for code, dtype in FLOATS.items()}


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of a tensor that is yet to be written."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        """Its size on disk."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_tensors(
    directory: Path,
    specs: Mapping[str, TensorSpec],
    tensor: Callable[[str], np.ndarray],
    *,
    shard_bytes: int = SHARD_BYTES,
    is_writer: bool = True,
) -> None:
    """Writes model.safetensors, or shards of at most `shard_bytes` (or one tensor) and their index.

    Args:
      directory: where to; it exists.
      specs: all tensors.
      tensor: gives one by name, in its shape and any float dtype; called once for each, in the order of the files.
      shard_bytes: size of the data in one file.
      is_writer: False calls `tensor` and writes nothing: for processes that only take part in gathering.
    Raises:
      OSError: the disk is full, or the like.
    """
    shards = _cut(specs, shard_bytes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = SINGLE_FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        tensors = (tensor(name) for name in names)
        if is_writer:
            write_file(directory / file, {name: specs[name] for name in names}, tensors)
        else:
            for _ in tensors:
                pass
    if is_writer and len(shards) > 1:
        total = sum(spec.bytes for spec in specs.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")


def _cut(specs: Mapping[str, TensorSpec], shard_bytes: int) -> list[list[str]]:
    """Names of each file. Wide dtypes come first, so that every tensor starts at a multiple of its item size."""
    shards: list[list[str]] = []
    room = 0
    for name in sorted(specs, key=lambda name: -specs[name].dtype.itemsize):
        if not shards or specs[name].bytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= specs[name].bytes
    return shards


def write_file(path: Path, specs: Mapping[str, TensorSpec], tensors: Iterator[np.ndarray]) -> None:
    """Writes one file: length of the header (8 bytes), header (JSON, padded to 8 bytes), the tensors behind one another.

    Args:
      path: of the file.
      specs: its tensors in their order, wide dtypes first.
      tensors: the same, in their shapes and any float dtype.
    Raises:
      OSError: the disk is full, or the like.
    """
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, spec in specs.items():
        start, end = end, end + spec.bytes
        header[name] = {"dtype": _CODES[spec.dtype], "shape": list(spec.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for (name, spec), tensor in zip(specs.items(), tensors, strict=True):
            if tensor.shape != spec.shape:
                raise ValueError(f"{name}: expected the shape {spec.shape}, got {tensor.shape}")
            for start in range(0, spec.shape[0], BLOCK_ROWS):
                block = np.ascontiguousarray(tensor[start : start + BLOCK_ROWS], spec.dtype)
                file.write(block.reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())  # a full disk may speak up only here
