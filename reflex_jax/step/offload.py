"""Where the training state lies: on the devices, or (`memory.offload`) parts of it in the memory of their host.

What is offloaded comes to the device inside the compiled step, a layer at a time (`layerwise.py`), in the same numbers.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import AbstractMesh

from reflex_jax.config import ConfigError, MemoryConfig
from reflex_jax.sharding import AnyMesh
from reflex_jax.step.shapes import Shapes
from reflex_jax.step.state import TrainState
from reflex_jax.trees import Shardings, tree_of

HOST = "pinned_host"  # JAX's name for host memory that devices read and write


def state_shardings(state: TrainState, shapes: Shapes, memory: MemoryConfig) -> Shardings:
    """The place of every array of a training state.

    Args:
      state: the state, or its shapes.
      shapes: of the run.
      memory: says what waits on the host.
    Raises:
      ConfigError: the mesh does not fit the model, or its devices have no host memory that programs reach.
    """
    places = shapes.policy_shardings(state)
    if memory.offload == "none":
        return places
    _check_host_memory(shapes.mesh, memory.offload)

    def wait_on_host(places: Any, arrays: Any) -> Any:
        # counts and keys are few bytes, read at every update
        return jax.tree.map(lambda p, x: p.with_memory_kind(HOST) if x.ndim > 1 else p, places, arrays)

    with_masters = memory.offload == "optimizer+masters"
    return tree_of(
        TrainState,
        step=places.step,
        params=wait_on_host(places.params, state.params) if with_masters else places.params,
        optimizer_state=wait_on_host(places.optimizer_state, state.optimizer_state),
    )


def is_on_host(leaf: Any) -> bool:
    """Whether an array, or the shape of one, lies in the host's memory."""
    return leaf.sharding.memory_kind == HOST


def _check_host_memory(mesh: AnyMesh, offload: str) -> None:
    if isinstance(mesh, AbstractMesh):  # of devices that are not here
        return
    without = sorted(
        {d.device_kind for d in mesh.devices.flat if HOST not in {m.kind for m in d.addressable_memories()}}
    )
    if without:
        raise ConfigError(
            f"memory.offload={offload}: expected devices whose programs reach the host's memory (JAX's {HOST}); "
            f"{', '.join(without)} do not. Set memory.offload=none."
        )
