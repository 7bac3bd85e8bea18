"""Policies in the Hugging Face layout, into our parameter tree and back.

Every tensor of the checkpoint has one place in the tree and every leaf of the tree comes from the checkpoint, or the
load fails and names all that are missing, extra or misshaped. Two spellings of the same names exist and both are read,
`model.`, `visual.` and `model.language_model.`, `model.visual.`; written is the one of the family on the hub.

Neither direction ever holds the model on the host: loading fills one shard of one leaf after the other from the bytes
that belong to it, saving fetches one layer of one leaf after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from reflex_jax.checkpoints.qwen_tensors import Piece, Source, hub_name, leaf_sources, tensor_pieces
from reflex_jax.checkpoints.safetensors_reader import Bounds, Tensor, open_tensors
from reflex_jax.checkpoints.safetensors_writer import FLOATS, SHARD_BYTES, TensorSpec, write_tensors
from reflex_jax.checkpoints.tensor_fit import check_fit
from reflex_jax.config import ConfigError
from reflex_jax.models.qwen_vl import QwenVLConfig
from reflex_jax.sharding import local_indices, path_name
from reflex_jax.trees import Params, Shardings

# by bytes: all bits of a float but the sign
_MAGNITUDE_BITS: dict[int, np.unsignedinteger] = {
    2: np.uint16(2**15 - 1),
    4: np.uint32(2**31 - 1),
    8: np.uint64(2**63 - 1),
}


def load_policy_params(
    directory: str | Path, config: QwenVLConfig, dtype: Any = jnp.float32, shardings: Shardings = None
) -> Params:
    """Loads model.safetensors or, where it is absent, the shards its index names.

    With shardings, each process reads what its own devices hold and no more; a block that several devices hold is read
    once. The host holds one block at a time.

    Args:
      directory: of the checkpoint.
      config: of `read_qwen_config`.
      dtype: of the returned arrays.
      shardings: one for each leaf, in a tree like the parameters'; None: all lie on the default device.

    Raises:
      ConfigError: a file is missing or damaged, tensors are missing, extra, misshaped or no floats, or hold NaN or
        infinity (a process tells of those that it reads).
    """
    directory, dtype = Path(directory), jnp.dtype(dtype)
    tensors = open_tensors(directory, partial(hub_name, family=config.family))
    sources = leaf_sources(config)
    check_fit(tensors, sources, config, directory=directory)
    places = {path_name(path): sharding for path, sharding in jax.tree_util.tree_leaves_with_path(shardings)}
    not_finite: Counter[str] = Counter()
    leaves = {
        path: _load_leaf(source, tensors, dtype, places.get(path), not_finite) for path, source in sources.items()
    }
    if not_finite:
        worst = "; ".join(f"{name} ({count})" for name, count in not_finite.most_common(3))
        raise ConfigError(
            f"policy.path: {directory}: {not_finite.total()} numbers in {len(not_finite)} tensors are not finite "
            f"in {dtype.name}: {worst}{'; ...' if len(not_finite) > 3 else ''}. Take a checkpoint from before they broke."
        )
    return _nested(leaves)


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


def tensor_dtypes(directory: str | Path, config: QwenVLConfig) -> dict[str, np.dtype]:
    """Dtype of every float tensor of a checkpoint, under the hub's names; only headers are read."""
    tensors = open_tensors(Path(directory), partial(hub_name, family=config.family))
    return {name: FLOATS[tensor.code] for name, tensor in tensors.items() if tensor.code in FLOATS}


def _load_leaf(
    source: Source,
    tensors: dict[str, Tensor],
    dtype: np.dtype,
    sharding: Sharding | None,
    not_finite: Counter[str],
) -> jax.Array:
    """Makes one leaf, block by block. (`jax.make_array_from_callback` would hold all blocks of the leaf on the host.)"""
    if sharding is None:
        return jnp.asarray(_read_block(source, tensors, tuple((0, size) for size in source.shape), dtype, not_finite))
    devices: dict[Bounds, list[jax.Device]] = {}
    for device, index in local_indices(sharding, source.shape).items():
        bounds = tuple(s.indices(size)[:2] for s, size in zip(index, source.shape, strict=True))
        devices.setdefault(bounds, []).append(device)
    shards: list[jax.Array] = []
    for bounds, holders in devices.items():
        block = _read_block(source, tensors, bounds, dtype, not_finite)
        shards += jax.block_until_ready([jax.device_put(block, device) for device in holders])
    return jax.make_array_from_single_device_arrays(source.shape, sharding, shards, dtype=dtype)


def _read_block(
    source: Source, tensors: dict[str, Tensor], bounds: Bounds, dtype: np.dtype, not_finite: Counter[str]
) -> np.ndarray:
    """Reads a block of a leaf into one new array, layer by layer, cast on the way; counts what is not finite then."""
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
            if broken := _count_not_finite(part, dtype):
                not_finite[tensors[name].name] += broken
            else:
                target[where] = part
    return block


def _count_not_finite(part: np.ndarray, dtype: np.dtype) -> int:
    """How many numbers are NaN or infinite, or become so in `dtype`."""
    if not part.size:
        return 0
    # Magnitudes have the order of their bits, NaN above infinity: the largest tells, several times faster than isfinite.
    mask = _MAGNITUDE_BITS[part.dtype.itemsize]
    largest = (part.view(mask.dtype) & mask).max(keepdims=True).view(part.dtype)
    with np.errstate(all="ignore"):
        if np.isfinite(largest.astype(dtype)).all():
            return 0
        return int((~np.isfinite(part.astype(dtype))).sum())


def _fetch(leaf: Any, piece: Piece) -> np.ndarray:
    """Brings one layer of a leaf to the host, in the tensor's order of axes."""
    # always an array of its own: np.asarray leaves the host's copy in the array it was given
    row = leaf.copy() if piece.layer is None else leaf[piece.layer]
    if isinstance(row, jax.Array) and not row.is_fully_addressable:
        row = multihost_utils.process_allgather(row, tiled=True)
    row = np.asarray(row)
    return row.T if piece.is_transposed else row


def _nested(leaves: dict[str, Any]) -> Params:
    tree: Params = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree
