"""Compiles the functions of a training step for a machine and adds up what they need there."""

from __future__ import annotations

import itertools
import re
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from reflex_jax.config import Config, ConfigError, MeshConfig
from reflex_jax.planning.chips import GIB, Chip
from reflex_jax.planning.frugal import (
    ROUNDED,
    fewer_at_once,
    rounded_settings,
    setting,
    sizes_at_once,
    waiting_settings,
    with_settings,
)
from reflex_jax.planning.hlo_costs import Costs, count_costs, largest_arrays
from reflex_jax.planning.memory import COMPILERS_SHARE, MemoryEstimate, estimate_memory
from reflex_jax.planning.topology import Topology, find_topology
from reflex_jax.sharding import check_batch, make_mesh
from reflex_jax.step.abstract_run import AbstractRun, abstract_run, bytes_on_device
from reflex_jax.step.score import needs_judge
from reflex_jax.step.shapes import named_shapes, policy_sizes

UPDATE = "update"
# a third of the time; on TPU v5p the same FLOPs and collectives, 1 % of the memory and 6 % of the bytes moved apart
_COMPILER_OPTIONS = {"exec_time_optimization_effort": -1.0}
_MOST_CANDIDATES = 2  # compiled in search of a remedy; each takes minutes
_TRIED = (
    "mesh.data", "mesh.fsdp", "mesh.tensor", "memory.remat", "memory.rollout_prompts", "memory.rollout_weights",
    "memory.microbatch_prompts", "memory.offload", *ROUNDED,
)  # fmt: skip


@dataclass(frozen=True)
class FunctionPlan:
    """Needs of one compiled function on one device."""

    name: str
    resident: int  # bytes that lie there all the time and are not among the arguments
    arguments: int
    temporary: int
    output: int  # beyond what overwrites arguments
    costs: Costs | None  # None: the compiler gave up for want of memory
    largest: tuple[str, ...]  # its largest intermediate arrays, with their sizes
    compile_seconds: float

    @property
    def total(self) -> int:
        """Bytes in use while the function runs."""
        return self.resident + self.arguments + self.temporary + self.output

    @property
    def known_costs(self) -> Costs:
        """What the compiler said.

        Raises:
          ValueError: it gave up.
        """
        if self.costs is None:
            raise ValueError(f"{self.name}: expected a compiled function; the compiler gave up for want of memory.")
        return self.costs

    def seconds(self, chip: Chip) -> dict[str, float]:
        """Shortest time by arithmetic, memory and network; the longest of the three is the floor."""
        costs = self.known_costs
        return {
            "arithmetic": costs.flops / chip.flops,
            "memory": costs.bytes / chip.memory_bandwidth,
            "network": sum(costs.collectives.values()) / chip.link_bandwidth,
        }


@dataclass(frozen=True)
class Plan:
    """What a run needs on a machine."""

    config: Config  # as planned
    changes: tuple[str, ...]  # settings that had to differ from the configuration for this machine
    topology: Topology
    run: AbstractRun
    resident: int  # bytes one device holds for the whole run
    estimate: MemoryEstimate  # what pre-flight goes by; never above what is compiled
    functions: tuple[FunctionPlan, ...]  # empty where what is resident does not fit already

    @property
    def fits(self) -> bool:
        """Whether every function has room."""
        room = self.topology.chip.memory_bytes
        return self.resident <= room and all(function.total <= room for function in self.functions)

    def too_large(self) -> list[str]:
        """Names of the functions that have no room."""
        return [f.name for f in self.functions if f.total > self.topology.chip.memory_bytes]


@dataclass(frozen=True)
class Remedy:
    """Settings with which a run that does not fit would."""

    plan: Plan
    overrides: tuple[str, ...] = field(default=())


def plan_run(config: Config, topology: Topology, *, only: Sequence[str] = ()) -> Plan:
    """Compiles a step for a machine, from shapes alone.

    Args:
      config: of the run; a mesh or microbatch that this number of devices cannot have is replaced, and said so.
      topology: of `find_topology`.
      only: names of functions; default: all.
    Raises:
      ConfigError: the model does not divide over any mesh of this machine, or its sizes are not known.
    """
    config, changes = adapt(config, topology)
    run = _run_on(config, topology)
    estimate = estimate_memory(run)
    resident = int(estimate.resident_bytes)
    functions: tuple[FunctionPlan, ...] = ()
    if resident <= topology.chip.memory_bytes:
        functions = _compile_all(run, topology, resident, only)
    return Plan(config, changes, topology, run, resident, estimate, functions)


def _run_on(config: Config, topology: Topology) -> AbstractRun:
    mesh = make_mesh(config.mesh, topology.devices)
    return abstract_run(config, named_shapes(config, mesh, with_judge=needs_judge(config)))


def largest_microbatch(plan: Plan) -> int:
    """Most prompts whose activations fit at one time; 0: not even one for each data-parallel device.

    Compiles the update again for some of the sizes, halving the range.
    """
    sizes = _microbatches(plan.config, plan.run.shapes.mesh)
    if plan.config.memory.microbatch_prompts in (0, sizes[-1]) and plan.fits:
        return sizes[-1]
    known = plan.config.memory.microbatch_prompts or sizes[-1]
    fitting = [size for size in sizes if size <= known and UPDATE not in plan.too_large()]
    unknown = [size for size in sizes if size > known] if fitting else [size for size in sizes if size < known]
    best = fitting[-1] if fitting else 0
    while unknown:
        middle = len(unknown) // 2
        tried = plan_run(_with_microbatch(plan.config, unknown[middle]), plan.topology, only=(UPDATE,))
        if tried.fits:
            best, unknown = unknown[middle], unknown[middle + 1 :]
        else:
            unknown = unknown[:middle]
    return best


def find_remedy(config: Config, plan: Plan) -> Remedy | None:
    """Looks for settings with which the run fits: first on this machine, then on the next larger ones of its kind.

    What is tried changes how a step is computed, not what: the smallest microbatch, recomputed activations, more devices
    for one prompt, fewer prompts sampled at one time, weights that stay cut while sampling, a state that waits on the host; and
    then, before a larger machine, a state in bfloat16 (`frugal.py`). The estimate picks the candidates, the compiler has the
    word; it is asked twice at most.
    """
    asked = 0
    for topology in itertools.chain([plan.topology], map(find_topology, plan.topology.larger())):
        for candidate in _frugal_settings(config, topology):
            if not _may_fit(candidate, topology):
                continue
            tried = plan_run(candidate, topology)
            if tried.fits:
                return Remedy(tried, _differences(config, candidate))
            asked += 1
            if asked == _MOST_CANDIDATES:
                return None
    return None


def _frugal_settings(config: Config, topology: Topology) -> Iterator[Config]:
    """How the step is computed with the least memory, cut over few devices for a prompt and over twice as many.

    Each samples with as many prompts at one time as have room; weights stay cut then only where whole ones have none, since
    every token would gather them.
    """
    try:
        config, _ = adapt(config, topology)
    except ConfigError:
        return  # no mesh of so many devices divides the batch
    shape = make_mesh(config.mesh, topology.devices).shape
    mesh = MeshConfig(data=1, fsdp=shape["data"] * shape["fsdp"], tensor=shape["tensor"])  # one copy of the weights
    config = replace(
        config, memory=replace(config.memory, remat=True), mesh=mesh if shape["data"] > 1 else config.mesh
    )  # fmt: skip
    heads = policy_sizes(config).text.heads
    settings = [config]
    if mesh.fsdp % 2 == 0 and heads % (2 * mesh.tensor) == 0:
        settings.append(replace(config, mesh=replace(mesh, fsdp=mesh.fsdp // 2, tensor=2 * mesh.tensor)))
    settings = [_with_microbatch(c, _microbatches(c, make_mesh(c.mesh, topology.devices))[0]) for c in settings]
    waiting = [(setting,) for setting in waiting_settings(config, topology.devices[0].platform)]
    rounded = rounded_settings(config)
    narrow = [tuple(rounded[: count + 1]) for count in range(len(rounded))]
    narrow += [(*rounded, *wait) for wait in waiting] if rounded else []
    for further in [(), *waiting, *narrow]:
        updated = [c for c in (with_settings(c, *further) for c in settings) if _may_update(c, topology)]
        with_room = [_with_room_to_sample(c, topology) for c in updated]
        yield from sorted(with_room, key=lambda c: c.memory.rollout_weights == "sharded")  # the others are faster


def _with_room_to_sample(config: Config, topology: Topology) -> Config:
    """As many prompts sampled at one time as have room, with whole weights before weights that stay cut over `fsdp`."""
    for weights in dict.fromkeys((config.memory.rollout_weights, "sharded")):
        config = with_settings(config, ("memory.rollout_weights", weights))
        run = _run_on(config, topology)
        shape = run.shapes.mesh.shape
        fewer = fewer_at_once(
            config.memory.rollout_prompts, config.grpo.prompts_per_step, shape["data"] * shape["fsdp"]
        )
        for prompts in (config.memory.rollout_prompts, *fewer):
            candidate = with_settings(config, ("memory.rollout_prompts", prompts))
            # with what the compiler usually takes beyond the estimate
            needed = COMPILERS_SHARE["generate"] * estimate_memory(replace(run, config=candidate)).of("generate")[1]
            if needed <= topology.chip.memory_bytes:
                return candidate
    return config


def _may_update(config: Config, topology: Topology) -> bool:
    """Whether the update may have room: by the estimate, with what the compiler usually takes beyond it."""
    needed = COMPILERS_SHARE["update"] * estimate_memory(_run_on(config, topology)).of("update")[1]
    return needed <= topology.chip.memory_bytes


def _may_fit(config: Config, topology: Topology) -> bool:
    """Whether a step whose update may have room is worth compiling, by the estimate."""
    return estimate_memory(_run_on(config, topology)).of()[1] <= topology.chip.memory_bytes


def adapt(config: Config, topology: Topology) -> tuple[Config, tuple[str, ...]]:
    """The configuration with a mesh of exactly these devices and a microbatch that divides over it.

    Raises:
      ConfigError: no mesh of this many devices divides the heads and the prompts.
    """
    count, changes = len(topology.devices), []
    prompts = config.grpo.minibatch_prompts
    try:
        check_batch(make_mesh(config.mesh, topology.devices), prompts, "grpo.prompts_per_step")
    except ConfigError:
        config = replace(config, mesh=_mesh_of(config, count, prompts))
        mesh = config.mesh
        changes.append(f"mesh.data={mesh.data} mesh.fsdp={mesh.fsdp} mesh.tensor={mesh.tensor}")
    sizes = _microbatches(config, make_mesh(config.mesh, topology.devices))
    asked = config.memory.microbatch_prompts
    if asked and asked not in sizes:
        nearest = next((size for size in sizes if size >= asked), sizes[-1])
        config = _with_microbatch(config, nearest)
        changes.append(f"memory.microbatch_prompts={nearest}")
    return config, tuple(changes)


def _mesh_of(config: Config, devices: int, prompts: int) -> MeshConfig:
    """All devices as fsdp x tensor, with the configuration's tensor or the next larger one that divides."""
    heads = policy_sizes(config).text.heads
    for tensor in (config.mesh.tensor, 1, 2, 4, 8, 16):
        if tensor >= 1 and devices % tensor == 0 and heads % tensor == 0 and prompts % (devices // tensor) == 0:
            return MeshConfig(data=1, fsdp=devices // tensor, tensor=tensor)
    raise ConfigError(
        f"mesh: {devices} devices as fsdp x tensor divide neither the {prompts} prompts of an update nor the {heads} "
        "heads; change grpo.prompts_per_step."
    )


def _microbatches(config: Config, mesh: Any) -> list[int]:
    """Microbatches that divide a minibatch and give every data-parallel device the same, ascending; the last is all."""
    return sizes_at_once(config.grpo.minibatch_prompts, mesh.shape["data"] * mesh.shape["fsdp"])


def _with_microbatch(config: Config, size: int) -> Config:
    prompts = config.grpo.minibatch_prompts
    return replace(config, memory=replace(config.memory, microbatch_prompts=0 if size == prompts else size))


def _differences(before: Config, after: Config) -> tuple[str, ...]:
    """Overrides that make one configuration of the other."""
    changed = [name for name in _TRIED if setting(before, name) != setting(after, name)]
    return tuple(f"{name}={setting(after, name)}".replace("=True", "=true") for name in changed)


def _compile_all(run: AbstractRun, topology: Topology, resident: int, only: Sequence[str]) -> tuple[FunctionPlan, ...]:
    """Compiles two functions at a time; the compiler leaves Python alone while it works."""
    functions = {name: call for name, call in run.functions().items() if not only or name in only}
    lowered = {name: function.lower(*arguments) for name, (function, arguments) in functions.items()}
    held = {name: resident - _shared_bytes(run, functions[name][1]) for name in functions}
    with ThreadPoolExecutor(2) as pool:
        plans = {
            name: pool.submit(_compile, name, lowered[name], functions[name][1], held[name])
            for name in sorted(lowered, key=lambda name: name != UPDATE)  # the longest first
        }
        results = tuple(plans[name].result() for name in functions)
    mesh = run.shapes.mesh.shape
    needs = ", ".join(f"{f.name} {f.total / GIB:.2g} GiB ({f.compile_seconds:.0f} s)" for f in results)
    place = f"{topology.name} as fsdp {mesh['fsdp']} x tensor {mesh['tensor']}"
    print(f"compiled for {place}: {needs}", file=sys.stderr, flush=True)
    return results


def _shared_bytes(run: AbstractRun, arguments: Any) -> int:
    """How much of what is resident is among the arguments, which the compiler counts."""
    ours = {id(leaf) for leaf in jax.tree.leaves(run.resident)}
    return bytes_on_device([leaf for leaf in jax.tree.leaves(arguments) if id(leaf) in ours])


def _compile(name: str, lowered: Any, arguments: Any, held: int) -> FunctionPlan:
    started = time.perf_counter()
    try:
        compiled = lowered.compile(compiler_options=_COMPILER_OPTIONS)
    except jax.errors.JaxRuntimeError as error:
        wanted = re.search(r"RESOURCE_EXHAUSTED.*?\(([\d.]+)([MG])\)", str(error), re.DOTALL)
        if not wanted:
            raise
        temporary = int(float(wanted[1]) * (GIB if wanted[2] == "G" else 2**20))
        seconds = time.perf_counter() - started
        return FunctionPlan(name, held, bytes_on_device(arguments), temporary, 0, None, (), seconds)
    memory, hlo = compiled.memory_analysis(), compiled.as_text()
    # the compiler drops what is not read, as the judge of an update; it lies there all the same
    unread = max(0, bytes_on_device(arguments) - memory.argument_size_in_bytes)
    return FunctionPlan(
        name=name,
        resident=held + unread,
        arguments=memory.argument_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        output=max(0, memory.output_size_in_bytes - memory.alias_size_in_bytes),
        costs=count_costs(hlo),
        largest=tuple(f"{size / GIB:.2f} GiB {shape} {origin}" for size, shape, origin in largest_arrays(hlo, 3)),
        compile_seconds=time.perf_counter() - started,
    )
