"""The device mesh, and which axis of which array lies on which mesh axis.

Axes of the mesh: `data` (copies of the weights), `fsdp` (weights cut by their width), `tensor` (cut by heads and hidden
units). Prompts are cut over `data` and `fsdp` together. JAX's own partitioner (GSPMD) does the rest.
"""

from __future__ import annotations

import math
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from reflex_jax.config import ConfigError, MeshConfig

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

# logical axis of a parameter -> mesh axis; None: never cut
LOGICAL_RULES: dict[str | None, str | None] = {
    None: None,
    "layers": None,
    "embed": "fsdp",
    "hidden": "tensor",
    "heads": "tensor",
    "vocab": "tensor",
}


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
        raise ConfigError(
            f"mesh: {sizes} needs {'a multiple of ' if -1 in shape else ''}{known if -1 in shape else math.prod(shape)} "
            f"devices, found {len(devices)}. Set mesh.data=-1 to absorb the rest, and fsdp x tensor to a divisor of it."
        )
    return Mesh(np.asarray(devices).reshape(shape), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def check_batch(mesh: Mesh, prompts: int, key: str) -> None:
    """Refuses a number of prompts that the data axes do not divide."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if prompts % ways:
        raise ConfigError(
            f"{key}: expected a multiple of the {ways} data-parallel devices (mesh data={mesh.shape['data']} x "
            f"fsdp={mesh.shape['fsdp']}); got {prompts}."
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of an array whose first axis counts prompts."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of an array every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def parameter_shardings(tree: Any, table: list[tuple[str, tuple[str | None, ...]]], mesh: Mesh) -> Any:
    """Resolves a table (path pattern -> logical axes) to one `NamedSharding` per leaf.

    Args:
      tree: parameters, or anything whose leaves have a shape and whose paths end like the parameters' (an optimiser state).
      table: first pattern that matches the end of the path wins; a leaf no pattern matches is replicated.
      mesh: the mesh of `make_mesh`.
    Raises:
      ConfigError: axes that do not divide, all of them, with path and numbers.
    """
    problems: list[str] = []

    def resolve(path: Any, leaf: Any) -> NamedSharding:
        name = path_name(path)
        axes = next((a for pattern, a in table if re.search(pattern + "$", name) and len(a) == len(leaf.shape)), ())
        spec: list[str | None] = []
        for size, axis in zip(leaf.shape, axes, strict=False):
            mesh_axis = LOGICAL_RULES[axis]
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
