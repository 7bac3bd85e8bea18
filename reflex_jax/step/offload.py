"""Where the training state lies: on the devices, or (`memory.offload`) parts of it in the memory of their host.

What is offloaded comes to the device inside the compiled step, a layer at a time (`layerwise.py`), as the same numbers.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import AbstractMesh

from reflex_jax.config import ConfigError, MemoryConfig
from reflex_jax.models.lora import KERNEL, LORA_A, LORA_B
from reflex_jax.sharding import AnyMesh, path_name, platform_of
from reflex_jax.step.shapes import Shapes
from reflex_jax.step.state import TrainState
from reflex_jax.trees import Shardings, tree_of

HOST = "pinned_host"  # JAX's name for host memory that devices read and write
_MATRICES = tuple(f"/{name}" for name in (KERNEL, "embedding", LORA_A, LORA_B))


def state_shardings(state: TrainState, shapes: Shapes, memory: MemoryConfig) -> Shardings:
    """The place of every array of a training state.

    Args:
      state: the state, or its shapes.
      shapes: of the run.
      memory: says what waits on the host.
    Raises:
      ConfigError: the mesh does not fit the model, its devices have no host memory that programs reach, or nothing of the
        state would wait there.
    """
    places = shapes.policy_shardings(state)
    if memory.offload == "none":
        return places
    _check_host_memory(shapes.mesh, memory.offload)

    with_masters = memory.offload == "optimizer+masters"
    places = tree_of(
        TrainState,
        step=places.step,
        params=_on_host(places.params) if with_masters else places.params,
        optimizer_state=_on_host(places.optimizer_state),
    )
    if not any(place.memory_kind == HOST for place in jax.tree.leaves(places)):
        raise ConfigError(
            f"memory.offload={memory.offload}: expected matrices that can wait on the host; the state has none there "
            "(optimizer.name=sgd has no moments). Set memory.offload=none, or optimizer+masters."
        )
    return places


def say_of_offload(mesh: AnyMesh, memory: MemoryConfig) -> str:
    """What has to be said where a state waits in vain; "" elsewhere."""
    if memory.offload == "none" or platform_of(mesh) != "cpu":
        return ""
    return f"memory.offload={memory.offload}: saves nothing on a CPU, whose memory is that of its host; set memory.offload=none"


def _on_host(places: Shardings) -> Shardings:
    """Places of the matrices on the host; what lies beside them is few bytes, and a TPU cuts no bfloat16 vectors there."""

    def place(path: Any, place: Any) -> Any:
        return place.with_memory_kind(HOST) if path_name(path).endswith(_MATRICES) else place

    return jax.tree_util.tree_map_with_path(place, places)


def is_on_host(leaf: Any) -> bool:
    """Whether an array, or the shape of one, lies in the host's memory; one without a place lies where it is read."""
    return leaf.sharding is not None and leaf.sharding.memory_kind == HOST


def _check_host_memory(mesh: AnyMesh, offload: str) -> None:
    if isinstance(mesh, AbstractMesh):  # of devices that are not here
        return
    # only this process's devices list their memories
    listed = [(d.device_kind, {m.kind for m in d.addressable_memories()}) for d in mesh.devices.flat]
    without = sorted({device for device, kinds in listed if kinds and HOST not in kinds})
    if without:
        raise ConfigError(
            f"memory.offload={offload}: expected devices whose programs reach the host's memory (JAX's {HOST}); "
            f"{', '.join(without)} do not. Set memory.offload=none."
        )
