"""Before step 0: do all processes run the same thing, on devices that can hold it?"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import reflex_jax
from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.config import Config, ConfigError, config_to_dict
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.planning.device_memory import GIB, device_memory, free_memory, host_memory
from reflex_jax.planning.frugal import fewer_at_once, rounded_settings, said_of, waiting_settings, with_settings
from reflex_jax.planning.memory import MemoryEstimate, estimate_memory
from reflex_jax.processes import gather, host_name
from reflex_jax.sharding import batch_sharding, replicated
from reflex_jax.step.abstract_run import abstract_run
from reflex_jax.step.shapes import named_shapes, smallest_prompt
from reflex_jax.training.objectives import Objective

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_FREE_KEYS = ("data.root", "data.cache", "endpoint.url", "endpoint.cache", "logging")  # may differ from host to host
_LEAST_GAIN = 0.99  # of what a step needs, for a setting to be worth advising


def check_processes(config: Config, mesh: Mesh) -> None:
    """Compares the processes of a run, and lets all devices add up one number.

    Raises:
      ConfigError: versions, settings or devices differ, named by host; or the devices do not answer together.
    """
    facts = gather(_facts(config))
    complaints = []
    for key, expected in facts[0].items():
        if key in ("name", "free_memory"):
            continue
        complaints += [
            f"{other['name']}: {key} is {other[key]}, {facts[0]['name']} has {expected}"
            for other in facts[1:]
            if other[key] != expected
        ]
    most = max(fact["free_memory"] for fact in facts)
    complaints += [
        f"{fact['name']}: {fact['free_memory'] / 2**30:.1f} GiB are free, elsewhere {most / 2**30:.1f}; does another program run?"
        for fact in facts
        if fact["free_memory"] < 0.5 * most
    ]
    if complaints:
        raise ConfigError("the processes of this run are not alike; make them so:\n" + "\n".join(complaints))
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    ones = jax.make_array_from_callback((ways,), batch_sharding(mesh), lambda index: np.ones(ways, np.float32)[index])
    total = float(jax.jit(jnp.sum, out_shardings=replicated(mesh))(ones))
    if total != ways:
        raise ConfigError(
            f"{host_name()}: the devices add up {ways} ones to {total:g}; check their network and drivers."
        )


def check_memory(objective: Objective, mesh: Mesh, sizes: PromptSizes | None = None) -> None:
    """Refuses a run whose step the devices of this process cannot hold, by `planning.memory`.

    Args:
      objective: of the run.
      mesh: of the run.
      sizes: of its prompts; None: not known yet, the smallest that its settings allow.
    Raises:
      ConfigError: the mesh does not fit the model, or a device has less memory than the worst moment of a step needs.
    """
    # a missing directory is said first: the sizes of published models are known without one
    for name in ("policy", "judge") if objective.with_judge else ("policy",):
        resolve_checkpoint(getattr(objective.config, name).path, name)
    estimate = _estimate(objective, mesh, sizes)
    phase, needed = estimate.of()
    devices = jax.local_devices()
    _check_host_memory(objective.config, estimate.on_host * len(devices))
    limits = [limit for device in devices if (limit := device_memory(device))]
    if len(limits) < len(devices) or needed <= min(limits):
        return
    raise ConfigError(
        f"{host_name()}: a step needs at least {needed / GIB:.2f} GiB of each device, and JAX may take {min(limits) / GIB:.2f}. "
        f"In {phase} (GiB): {estimate.terms(phase)}. {_advice(objective, mesh, sizes, min(limits))}"
    )


def _check_host_memory(config: Config, needed: float) -> None:
    """Refuses a state that waits on a host which has no room for it."""
    host = host_memory()
    if host is not None and needed > host.free:
        raise ConfigError(
            f"memory.offload={config.memory.offload}: {host_name()} has {host.free / GIB:.2f} GiB of memory free, and the state "
            f"that waits there for its devices takes {needed / GIB:.2f}. Set memory.offload to less of it."
        )


def _estimate(objective: Objective, mesh: Mesh, sizes: PromptSizes | None) -> MemoryEstimate:
    config = objective.config
    shapes = named_shapes(config, mesh, with_judge=objective.with_judge)
    sizes = sizes or smallest_prompt(config.data, shapes.policy.vision)
    return estimate_memory(abstract_run(config, shapes, sizes, supervised=objective.is_supervised))


def _advice(objective: Objective, mesh: Mesh, sizes: PromptSizes | None, room: float) -> str:
    """Settings that change how a step is computed before one that rounds it: as few as fit, each with the GiB it leads to."""
    said = []
    _, needed = _estimate(objective, mesh, sizes).of()
    for name, values in _frugal_values(objective, mesh):
        before, needed_before = objective, needed
        for value in values:
            config = with_settings(objective.config, (name, value))
            objective = replace(cast(Any, objective), config=config)
            _, needed = _estimate(objective, mesh, sizes).of()
            if needed <= room:
                break
        if needed > _LEAST_GAIN * needed_before:  # of something that is not the largest
            objective, needed = before, needed_before
            continue
        said.append(f"{name}={str(value).lower()} ({needed / GIB:.2f})")
        if needed <= room:
            return f"Set {' and '.join(said)}.{said_of(said)}"
    tried = f"Not enough: {', '.join(said)}. " if said else ""
    less = "" if objective.config.policy.lora.rank else "policy.lora.rank=8, policy.trainable=language, "
    return tried + (
        f"Cut the weights over more devices (mesh.fsdp, mesh.tensor), or train and sample less: {less}"
        "policy.dtype=bfloat16, a smaller model, rollout.max_new_tokens, data.max_pixels, grpo.prompts_per_step."
    )


def _frugal_values(objective: Objective, mesh: Mesh) -> list[tuple[str, list[Any]]]:
    """("section.key", values that need less and less memory), without what is set already."""
    config = objective.config
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    memory, prompts = config.memory, objective.update_prompts
    microbatches = fewer_at_once(memory.microbatch_prompts, prompts, ways)
    frugal: list[tuple[str, list[Any]]] = [("memory.microbatch_prompts", microbatches)] if microbatches else []
    if not memory.remat:
        frugal.append(("memory.remat", [True]))
    if not objective.is_supervised:
        fewer = fewer_at_once(memory.rollout_prompts, config.grpo.prompts_per_step, ways)
        frugal += [("memory.rollout_prompts", fewer)] if fewer else []
    # read anew for every token then
    if not objective.is_supervised and memory.rollout_weights == "gathered" and mesh.shape["fsdp"] > 1:
        frugal.append(("memory.rollout_weights", ["sharded"]))
    if waiting := waiting_settings(config, mesh.devices.flat[0].platform):
        frugal.append((waiting[0][0], [value for _, value in waiting]))
    return frugal + [(name, [value]) for name, value in rounded_settings(config)]


def _facts(config: Config) -> dict[str, Any]:
    return {
        "name": host_name(),
        "devices": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
        "python": platform.python_version(),
        "reflex_jax": reflex_jax.__version__,  # of the files that run, installed or not
        **{package: _version(package) for package in _PACKAGES},
        "the configuration": _digest(config),
        "free_memory": free_memory(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # the package's files without their metadata
        return "unknown"


def _digest(config: Config) -> str:
    settings = config_to_dict(config)
    for key in _FREE_KEYS:
        section, _, name = key.partition(".")
        settings.pop(section) if not name else settings[section].pop(name)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
