"""Qwen2.5-VL checkpoints in the Hugging Face layout, into our parameter tree and back.

Every tensor of the checkpoint has one place in the tree and every leaf of the tree comes from the checkpoint, or the
load fails and names all that are missing, extra or misshaped. Two spellings of the same names exist and both are read:
the hub's (`model.`, `visual.`) and that of transformers 5 (`model.language_model.`, `model.visual.`).

Neither direction ever holds the model on the host: loading fills one shard of one leaf after the other from the bytes
that belong to it, saving fetches one layer of one leaf after the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding
from safetensors import SafetensorError, safe_open

from reflex_jax.checkpoints.qwen_tensors import EMBEDDING, HEAD, Piece, Source, hub_name, leaf_sources, tensor_pieces
from reflex_jax.checkpoints.safetensors_writer import (
    BLOCK_ROWS,
    FLOATS,
    INDEX_FILE,
    SHARD_BYTES,
    SINGLE_FILE,
    TensorSpec,
    write_tensors,
)
from reflex_jax.config import ConfigError
from reflex_jax.models.qwen_vl import QwenVLConfig
from reflex_jax.sharding import path_name

Params = dict[str, Any]
Bounds = tuple[tuple[int, int], ...]  # of a block: start and stop on each axis


def load_policy_params(
    directory: str | Path, config: QwenVLConfig, dtype: Any = jnp.float32, shardings: Any = None
) -> Params:
    """Loads model.safetensors, or the shards its index names.

    With shardings, each process reads what its own devices hold and no more; a block that several devices hold is read
    once. The host holds one block at a time.

    Args:
      directory: of the checkpoint.
      config: of `read_qwen_config`.
      dtype: of the returned arrays.
      shardings: one for each leaf, in a tree like the parameters'; None: all lie on the default device.

    Raises:
      ConfigError: a file is missing or damaged, or tensors are missing, extra, misshaped or no floats (all are listed).
    """
    tensors = _open_tensors(Path(directory))
    sources = leaf_sources(config)
    _check_tensors(tensors, sources, config, Path(directory))
    places = {path_name(path): sharding for path, sharding in jax.tree_util.tree_leaves_with_path(shardings)}
    return _nested(
        {path: _load_leaf(source, tensors, jnp.dtype(dtype), places.get(path)) for path, source in sources.items()}
    )


def save_policy_params(
    params: Params,
    config: QwenVLConfig,
    directory: str | Path,
    *,
    dtypes: Mapping[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes safetensors with the hub's names; the inverse of `load_policy_params`.

    With several processes all call it, process 0 writes.

    Args:
      params: arrays, sharded or not, of numpy or JAX.
      config: their sizes.
      directory: made if it is not there.
      dtypes: of the tensors on disk, by name; None: as the parameters.
      shard_bytes: size of one file; what is larger is cut into several with an index.
    Raises:
      OSError: the disk is full, or the like.
    """
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    sources = leaf_sources(config)
    pieces = tensor_pieces(sources)
    specs = {
        name: TensorSpec(
            sources[parts[0].path].tensor_shape, jnp.dtype(dtypes[name] if dtypes else leaves[parts[0].path].dtype)
        )
        for name, parts in pieces.items()
    }

    def tensor(name: str) -> np.ndarray:
        rows = [_fetch(leaves[piece.path], piece) for piece in pieces[name]]
        return (rows[0] if len(rows) == 1 else np.concatenate(rows)).reshape(specs[name].shape)

    is_writer = jax.process_index() == 0
    if is_writer:
        Path(directory).mkdir(parents=True, exist_ok=True)
    write_tensors(Path(directory), specs, tensor, shard_bytes=shard_bytes, is_writer=is_writer)


def tensor_dtypes(directory: str | Path) -> dict[str, np.dtype]:
    """Dtype of every float tensor of a checkpoint, under the hub's names; only headers are read."""
    tensors = _open_tensors(Path(directory))
    return {name: FLOATS[tensor.code] for name, tensor in tensors.items() if tensor.code in FLOATS}


@dataclass(frozen=True)
class _Tensor:
    """A tensor on disk. The file is open only while a block is read: pages that stay mapped would count as ours."""

    file: Path
    name: str  # in the file
    shape: tuple[int, ...]
    code: str  # safetensors' word for the dtype

    def blocks(self, bounds: Bounds) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields the part inside `bounds`, some rows at a time, with their place in it.

        Args:
          bounds: of the tensor's first axis, and of its second or of all others behind one another.
        """
        (first, last), *columns = bounds
        with safe_open(self.file, framework="numpy") as opened:
            data = opened.get_slice(self.name)
            for start in range(first, last, BLOCK_ROWS):
                stop = min(start + BLOCK_ROWS, last)
                if len(self.shape) > 2:
                    rows = data[start:stop].reshape(stop - start, -1)[:, slice(*columns[0])]
                else:
                    rows = data[tuple(slice(*b) for b in ((start, stop), *columns))]
                yield slice(start - first, stop - first), rows


def _load_leaf(source: Source, tensors: dict[str, _Tensor], dtype: np.dtype, sharding: Sharding | None) -> jax.Array:
    """Makes one leaf, block by block. (`jax.make_array_from_callback` would hold all blocks of the leaf on the host.)"""
    if sharding is None:
        return jnp.asarray(_read_block(source, tensors, tuple((0, size) for size in source.shape), dtype))
    devices: dict[Bounds, list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(source.shape).items():
        bounds = tuple(s.indices(size)[:2] for s, size in zip(index, source.shape, strict=True))
        devices.setdefault(bounds, []).append(device)
    shards: list[jax.Array] = []
    for bounds, holders in devices.items():
        block = _read_block(source, tensors, bounds, dtype)
        shards += jax.block_until_ready([jax.device_put(block, device) for device in holders])
    return jax.make_array_from_single_device_arrays(source.shape, sharding, shards, dtype=dtype)


def _read_block(source: Source, tensors: dict[str, _Tensor], bounds: Bounds, dtype: np.dtype) -> np.ndarray:
    """Reads a block of a leaf into one new array, layer by layer, cast on the way."""
    block = np.empty([stop - start for start, stop in bounds], dtype)
    rows = block if source.is_stacked else block[None]
    (first, last), *row_bounds = bounds if source.is_stacked else ((0, 1), *bounds)
    on_disk = row_bounds[::-1] if source.is_transposed else row_bounds
    if source.part is not None:
        offset = source.part * source.tensor_shape[0] // 3
        on_disk = [(on_disk[0][0] + offset, on_disk[0][1] + offset), *on_disk[1:]]
    for row, name in zip(rows, source.names[first:last], strict=True):
        target = row.T if source.is_transposed else row  # a view in the tensor's own order
        for where, part in tensors[name].blocks(tuple(on_disk)):
            target[where] = part
    return block


def _fetch(leaf: Any, piece: Piece) -> np.ndarray:
    """Brings one layer of a leaf to the host, in the tensor's order of axes."""
    # always an array of its own: np.asarray leaves the host's copy in the array it was given
    row = leaf.copy() if piece.layer is None else leaf[piece.layer]
    if isinstance(row, jax.Array) and not row.is_fully_addressable:
        row = multihost_utils.process_allgather(row, tiled=True)
    row = np.asarray(row)
    return row.T if piece.is_transposed else row


def _open_tensors(directory: Path) -> dict[str, _Tensor]:
    """All tensors of the checkpoint under the hub's names; only headers are read."""
    tensors: dict[str, _Tensor] = {}
    for file in _files(directory):
        try:
            with safe_open(file, framework="numpy") as opened:
                for name in opened.keys():  # noqa: SIM118
                    data = opened.get_slice(name)
                    tensors[hub_name(name)] = _Tensor(file, name, tuple(data.get_shape()), data.get_dtype())
        except SafetensorError as error:
            raise ConfigError(f"policy.path: {file} is damaged ({error}). Download it again.") from error
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


def _check_tensors(
    tensors: dict[str, _Tensor], sources: dict[str, Source], config: QwenVLConfig, directory: Path
) -> None:
    """Compares names, shapes and dtypes with what the configuration asks for, before any weight is read."""
    expected = {name: source.tensor_shape for source in sources.values() for name in source.names}
    extra = sorted(tensors.keys() - expected.keys())
    if config.text.is_tied and HEAD in extra and EMBEDDING in tensors and _are_equal(tensors[HEAD], tensors[EMBEDDING]):
        extra.remove(HEAD)  # some exporters write the tied head out; it is redundant only if it really is the embedding
    found = [(name, shape, tensors[name]) for name, shape in sorted(expected.items()) if name in tensors]
    problems = [f"missing {name} {list(shape)}" for name, shape in sorted(expected.items()) if name not in tensors]
    problems += [f"extra {name} {list(tensors[name].shape)}" for name in extra]
    problems += [
        f"misshaped {name}: expected {list(shape)}, got {list(tensor.shape)}"
        for name, shape, tensor in found
        if tensor.shape != shape
    ]
    problems += [
        f"no floats {name}: expected {', '.join(FLOATS)}, got {tensor.code}"
        for name, _, tensor in found
        if tensor.code not in FLOATS
    ]
    if problems:
        raise ConfigError(
            f"policy.path: the tensors in {directory} do not fit its config.json:\n  " + "\n  ".join(problems)
        )


def _are_equal(left: _Tensor, right: _Tensor) -> bool:
    if left.shape != right.shape or {left.code, right.code} - FLOATS.keys():
        return False
    bounds = tuple((0, size) for size in left.shape)
    pairs = zip(left.blocks(bounds), right.blocks(bounds), strict=True)
    return all(np.array_equal(a, b) for (_, a), (_, b) in pairs)


def _nested(leaves: dict[str, Any]) -> Params:
    tree: Params = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree
