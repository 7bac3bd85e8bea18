"""Prints what one device needs for the recipes, by how their state is stored and where it waits, and where that fits.

    python benchmarks/memory_table.py [key=value ...]

By the estimate of `reflex_jax.planning.memory`, from shapes alone: no device, no weights, a minute. Every cell is the least that
any mesh of the machine needs with activations recomputed and the smallest microbatch; weights stay cut while sampling only
where whole ones have no room. A cell that fits has room for what compilers take beyond the estimate too.
"""

import itertools
import sys
from dataclasses import dataclass

from jax.sharding import AbstractMesh, AxisType

from reflex_jax.config import Config
from reflex_jax.config_reader import load_config
from reflex_jax.planning.chips import TPU_CHIPS
from reflex_jax.planning.device_memory import GIB, GPU_SHARE
from reflex_jax.planning.frugal import with_settings
from reflex_jax.planning.memory import COMPILERS_SHARE, MemoryEstimate, estimate_memory
from reflex_jax.sharding import MESH_AXES
from reflex_jax.step.abstract_run import abstract_run
from reflex_jax.step.shapes import named_shapes, policy_sizes

MODELS = ("3b", "7b")
STATES = {
    "float32": (),
    "float32, moments wait": (("memory.offload", "optimizer"),),
    "float32, all waits": (("memory.offload", "optimizer+masters"),),
    "moments bfloat16": (("optimizer.moments_dtype", "bfloat16"),),
    "all bfloat16": (("optimizer.moments_dtype", "bfloat16"), ("policy.master_dtype", "bfloat16")),
    "all bfloat16, all waits": (
        ("optimizer.moments_dtype", "bfloat16"), ("policy.master_dtype", "bfloat16"),
        ("memory.offload", "optimizer+masters"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """So many devices of one kind."""

    name: str
    devices: int
    memory: float  # bytes that programs may use on each


MACHINES = (
    Machine("1 x 80 GB", 1, GPU_SHARE * 79.6 * GIB),
    Machine("8 x 80 GB", 8, GPU_SHARE * 79.6 * GIB),
    Machine("v5e:4x4", 16, TPU_CHIPS["v5e"].memory_bytes),
    Machine("v6e:4x4", 16, TPU_CHIPS["v6e"].memory_bytes),
)


def main() -> None:
    """Prints the table as Markdown."""
    overrides = ["data.root=unread", *sys.argv[1:]]
    print(
        "| model, what trains, its state | " + " | ".join(f"{m.name} ({m.memory / GIB:.1f})" for m in MACHINES) + " |"
    )
    print("|---|" + "---|" * len(MACHINES))
    for model, trainable, state in itertools.product(MODELS, ("all", "language"), STATES):
        config = load_config(f"configs/reflex_med_{model}.yaml", [*overrides, f"policy.trainable={trainable}"])
        config = with_settings(config, *STATES[state])
        cells = (_cell(config, machine) for machine in MACHINES)
        print(f"| {model} {trainable}, {state} | " + " | ".join(cells) + " |", flush=True)


def _cell(config: Config, machine: Machine) -> str:
    """Most bytes in use at one time on the mesh that needs least, and what of it is there all the time."""
    best = min((_estimate(config, mesh) for mesh in _meshes(config, machine.devices)), key=_needed)
    needed = _needed(best)
    fits = "**fits**" if needed <= machine.memory else "-"
    waiting = f" + {best.on_host / GIB:.0f} on the host" if best.on_host else ""
    return f"{best.of()[1] / GIB:.1f} ({best.resident_bytes / GIB:.1f}){waiting} {fits}"


def _needed(estimate: MemoryEstimate) -> float:
    """Bytes with what compilers take beyond the estimate."""
    shared = [share * estimate.of(function)[1] for function, share in COMPILERS_SHARE.items()]
    return max(*shared, estimate.of()[1])


def _meshes(config: Config, devices: int) -> list[tuple[int, int, int]]:
    """(data, fsdp, tensor) of all devices, with one copy of the weights."""
    heads, prompts = policy_sizes(config).text.heads, config.grpo.minibatch_prompts
    return [
        (1, devices // tensor, tensor)
        for tensor in (1, 2, 4)
        if devices % tensor == 0 and heads % tensor == 0 and prompts % (devices // tensor) == 0
    ]


def _estimate(config: Config, mesh: tuple[int, int, int]) -> MemoryEstimate:
    data, fsdp, tensor = mesh
    config = with_settings(config, ("memory.remat", True), ("memory.microbatch_prompts", data * fsdp))
    config = with_settings(config, *zip(("mesh.data", "mesh.fsdp", "mesh.tensor"), mesh, strict=True))
    shapes = named_shapes(config, AbstractMesh(mesh, MESH_AXES, axis_types=(AxisType.Auto,) * 3))
    whole, cut = (
        estimate_memory(abstract_run(with_settings(config, ("memory.rollout_weights", weights)), shapes))
        for weights in ("gathered", "sharded")
    )
    return min(whole, cut, key=_needed)


if __name__ == "__main__":
    main()
