"""The device mesh, and which axis of which array lies on which mesh axis.

Axes of the mesh: `data` (copies of the weights), `fsdp` (weights cut by their width), `tensor` (cut by heads and hidden
units). Prompts are cut over `data` and `fsdp` together. JAX's own partitioner (GSPMD) does the rest.

The policy's weights lie in one of two ways. The update cuts them over `fsdp` too, with their float32 masters and moments.
Sampling reads all of them for every token, so for it they are gathered over `fsdp` once per step, in the compute dtype.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import Int

from reflex_jax.config import ConfigError, MemoryConfig, MeshConfig
from reflex_jax.trees import Shardings

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

AnyMesh: TypeAlias = Mesh | AbstractMesh  # abstract: of devices that are not here, for shapes alone
# logical axis of a parameter -> mesh axis; None: never cut
Rules = Mapping[str | None, str | None]
UPDATE_RULES: Rules = {
    None: None,
    "layers": None,
    "embed": "fsdp",
    "hidden": "tensor",
    "heads": "tensor",
    "vocab": "tensor",
}
ROLLOUT_RULES: Rules = {**UPDATE_RULES, "embed": None}


def make_mesh(config: MeshConfig, devices: list[Any] | None = None) -> Mesh:
    """Builds the mesh (data, fsdp, tensor) over all devices.

    Raises:
      ConfigError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = [config.data, config.fsdp, config.tensor]
    known = math.prod(s for s in shape if s != -1)
    if -1 in shape and len(devices) % known == 0:
        shape[shape.index(-1)] = len(devices) // known
    if -1 in shape or math.prod(shape) != len(devices):
        sizes = f"data={config.data} fsdp={config.fsdp} tensor={config.tensor}"
        sizes += f" (preset {config.preset})" if config.preset else ""
        raise ConfigError(
            f"mesh: {sizes} needs {'a multiple of ' if -1 in shape else ''}{known if -1 in shape else math.prod(shape)} "
            f"devices, found {len(devices)}. Set mesh.data=-1 to absorb the rest, and fsdp x tensor to a divisor of it."
        )
    # neighbours in the mesh are neighbours in the machine's network, where it has one
    laid_out = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(laid_out, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def check_batch(mesh: AnyMesh, prompts: int, key: str) -> None:
    """Refuses a number of prompts that the data axes do not divide."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if prompts % ways:
        raise ConfigError(
            f"{key}: expected a multiple of the {ways} data-parallel devices (mesh data={mesh.shape['data']} x "
            f"fsdp={mesh.shape['fsdp']}); got {prompts}."
        )


def check_batches(mesh: AnyMesh, prompts: int, memory: MemoryConfig, key: str) -> None:
    """Refuses an update's prompts, or a microbatch of them, that do not divide.

    Args:
      mesh: of the run.
      prompts: of one optimiser update.
      memory: gives the microbatch.
      key: the setting that gives `prompts`.
    """
    check_batch(mesh, prompts, key)
    size = memory.microbatch_prompts
    if size and prompts % size:
        raise ConfigError(
            f"memory.microbatch_prompts: expected 0 or a divisor of the {prompts} prompts of an update ({key}); got {size}."
        )
    check_batch(mesh, size, "memory.microbatch_prompts")


def check_rollout(mesh: AnyMesh, prompts: int, memory: MemoryConfig) -> None:
    """Refuses a number of prompts that are sampled together which divides neither a step nor the devices."""
    size = memory.rollout_prompts
    if size and prompts % size:
        raise ConfigError(
            f"memory.rollout_prompts: expected 0 or a divisor of grpo.prompts_per_step={prompts}; got {size}."
        )
    check_batch(mesh, size, "memory.rollout_prompts")


def platform_of(mesh: AnyMesh) -> str:
    """Kind of the devices a program for this mesh runs on: cpu, gpu or tpu; cpu for a mesh without devices."""
    return "cpu" if isinstance(mesh, AbstractMesh) else str(mesh.devices.flat[0].platform)


def check_attention(mesh: AnyMesh, attention: str) -> None:
    """Refuses `memory.attention=fused` on devices no library has a kernel for."""
    platform = platform_of(mesh)
    if attention == "fused" and platform not in ("gpu", "tpu"):
        raise ConfigError(
            f"memory.attention=fused: expected TPUs or NVIDIA GPUs, which have a kernel for it; the devices here are of "
            f"kind {platform}. Set memory.attention=auto."
        )


def batch_sharding(mesh: AnyMesh) -> NamedSharding:
    """Sharding of an array whose first axis counts prompts."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: AnyMesh) -> NamedSharding:
    """Sharding of an array every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def constrain_batch(x: jax.Array) -> jax.Array:
    """Keeps the prompts of an activation, its first axis, cut over the data axes; the other axes are left to GSPMD.

    Both the batch and the width of the weights lie on `fsdp`. Left alone, GSPMD may cut an activation by its width and
    put all prompts on every device. Inside `jit` the mesh travels with the arguments; without one, or with prompts that
    do not divide over the data axes, nothing happens.
    """
    ways = data_ways(x)
    if ways == 1 or x.shape[0] % ways:
        return x
    free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
    mesh = jax.typeof(x).sharding.mesh
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(BATCH_AXES, *free)))


def data_ways(x: jax.Array) -> int:
    """How many devices share the prompts, by the mesh an array inside `jit` came with; 1 where there is none."""
    mesh = jax.typeof(x).sharding.mesh
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES) if set(BATCH_AXES) <= set(mesh.axis_names) else 1


def map_rows_and_heads(
    function: Callable[..., jax.Array], of_heads: Sequence[jax.Array], of_rows: Sequence[jax.Array | None]
) -> jax.Array:
    """Applies a function of whole rows and whole heads on every device to the rows and heads that lie there.

    For what GSPMD cannot cut, a kernel, or would cut badly, a loop. Rows are cut over the data axes and heads over
    `tensor`, where they divide; otherwise every device does all of them.

    Args:
      function: of all arrays, in their order; returns an array like the first.
      of_heads: [B, T, heads, H]; the numbers of heads may differ.
      of_rows: [B, T], or None.
    """
    mesh = jax.typeof(of_heads[0]).sharding.mesh
    if not set(MESH_AXES) <= set(mesh.axis_names) or mesh.size == 1:
        return function(*of_heads, *of_rows)
    rows = BATCH_AXES if of_heads[0].shape[0] % data_ways(of_heads[0]) == 0 else None
    heads = "tensor" if all(x.shape[2] % mesh.shape["tensor"] == 0 for x in of_heads) else None
    specs = (*(PartitionSpec(rows, None, heads) for _ in of_heads), *(PartitionSpec(rows) for _ in of_rows))
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=False)(*of_heads, *of_rows)


def map_rows(function: Callable[..., jax.Array], whole: Any, of_rows: Sequence[jax.Array]) -> jax.Array:
    """Applies a function of rows, with loops as long as they need, on every device to the rows that lie there.

    Args:
      function: of `whole` and the arrays of rows; returns an array of as many rows.
      whole: what every device holds whole.
      of_rows: arrays whose first axis counts rows. Where the data axes do not divide it every device does all of them.
    """
    mesh = jax.typeof(of_rows[0]).sharding.mesh
    if not set(MESH_AXES) <= set(mesh.axis_names) or mesh.size == 1:
        return function(whole, *of_rows)
    rows = PartitionSpec(BATCH_AXES if of_rows[0].shape[0] % data_ways(of_rows[0]) == 0 else None)
    specs = (PartitionSpec(), *(rows for _ in of_rows))
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=False)(whole, *of_rows)


def split_prompts(tree: Any, parts: int) -> Any:
    """Cuts the prompt axis [P, ...] into [parts, P / parts, ...]; prompt p goes to part p % parts.

    Striding keeps each device's share of the prompts on the device when the prompt axis is sharded.
    """
    return jax.tree.map(lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), tree)


def map_prompts(function: Callable[[Any], Any], tree: Any, at_once: int) -> Any:
    """Applies a function of prompts to a few of them at a time.

    Args:
      function: of a tree like `tree`; the first axis of each of its results counts prompts.
      tree: arrays whose first axis counts prompts.
      at_once: how many prompts, a divisor of theirs; 0: all.
    """
    prompts = jax.tree.leaves(tree)[0].shape[0]
    if at_once in (0, prompts):
        return function(tree)
    results = jax.lax.map(function, split_prompts(tree, prompts // at_once))
    # [parts, P / parts, ...] -> [P / parts, parts, ...]: the order `split_prompts` began with
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), results)


def to_global(tree: Any, shardings: Shardings) -> Any:
    """Puts host arrays, whole in every process, onto the devices; each takes its part.

    Args:
      tree: arrays.
      shardings: one sharding for all of them, or a tree of the same shape.
    """
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(place, tree, shardings)


@dataclass(frozen=True)
class BatchRows:
    """Which of the P prompts of a batch this process reads, decodes and scores."""

    sharding: NamedSharding  # of every array whose first axis counts prompts
    count: int  # P, over all processes
    local: Int[np.ndarray, "p"]  # numbers of this process's prompts, ascending

    def take(self, items: Any) -> list[Any]:
        """This process's part of P items."""
        return [items[row] for row in self.local]

    def place(self, tree: Any) -> Any:
        """Turns this process's rows `[p, ...]` into arrays `[P, ...]` over all devices."""
        if len(self.local) == self.count:
            return jax.device_put(tree, self.sharding)

        def place(leaf: Any) -> jax.Array:
            rows = np.asarray(leaf)
            return jax.make_array_from_callback(
                (self.count, *rows.shape[1:]),
                self.sharding,
                lambda index: rows[self._positions(index[0])],  # type: ignore[index]  # JAX asks for own parts alone
            )

        return jax.tree.map(place, tree)

    def fetch(self, tree: Any) -> Any:
        """Copies this process's rows of arrays `[P, ...]` to the host; the inverse of `place`."""
        if len(self.local) == self.count:
            return jax.device_get(tree)

        def fetch(leaf: jax.Array) -> np.ndarray:
            rows = np.empty((len(self.local), *leaf.shape[1:]), leaf.dtype)
            for shard in leaf.addressable_shards:
                rows[self._positions(shard.index[0])] = np.asarray(shard.data)
            return rows

        for leaf in jax.tree.leaves(tree):
            leaf.copy_to_host_async()
        return jax.tree.map(fetch, tree)

    def _positions(self, index: slice) -> np.ndarray:
        return np.searchsorted(self.local, np.arange(*index.indices(self.count)))


def local_indices(sharding: Sharding, shape: tuple[int, ...]) -> dict[jax.Device, tuple[slice, ...]]:
    """Which part of an array of this shape each device of this process holds."""
    indices = sharding.addressable_devices_indices_map(shape)
    return {device: index for device, index in indices.items() if index is not None}


def batch_rows(mesh: AnyMesh, count: int) -> BatchRows:
    """The rows of a batch of `count` prompts whose devices belong to this process.

    Where `tensor` spans processes several of them hold, and score, the same rows.
    """
    sharding = batch_sharding(mesh)
    parts = local_indices(sharding, (count,)).values()
    local = sorted({row for (part,) in parts for row in range(*part.indices(count))})
    return BatchRows(sharding, count, np.asarray(local))


def parameter_shardings(
    tree: Any, table: list[tuple[str, tuple[str | None, ...]]], mesh: AnyMesh, rules: Rules = UPDATE_RULES
) -> Shardings:
    """Resolves a table (path pattern -> logical axes) to one `NamedSharding` per leaf.

    Args:
      tree: parameters, or anything whose leaves have a shape and whose paths end like the parameters' (an optimiser state).
      table: first pattern that matches the end of the path wins; a leaf no pattern matches is replicated.
      mesh: the mesh of `make_mesh`.
      rules: `UPDATE_RULES` or `ROLLOUT_RULES`.
    Raises:
      ConfigError: axes that do not divide, all of them, with path and numbers.
    """
    problems: list[str] = []

    def resolve(path: Any, leaf: Any) -> NamedSharding:
        name = path_name(path)
        axes = next((a for pattern, a in table if re.search(pattern + "$", name) and len(a) == len(leaf.shape)), ())
        spec: list[str | None] = []
        for size, axis in zip(leaf.shape, axes, strict=False):
            mesh_axis = rules[axis]
            ways = mesh.shape[mesh_axis] if mesh_axis else 1
            if size % ways:
                problems.append(f"{name}: axis {axis!r} of {size} does not divide over mesh.{mesh_axis}={ways}")
            spec.append(mesh_axis if ways > 1 else None)
        return NamedSharding(mesh, PartitionSpec(*spec))

    shardings = jax.tree_util.tree_map_with_path(resolve, tree)
    if problems:
        raise ConfigError("mesh does not fit the model:\n" + "\n".join(problems))
    return shardings


def path_name(path: Any) -> str:
    """Returns a tree path as "layers/q/kernel"."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
