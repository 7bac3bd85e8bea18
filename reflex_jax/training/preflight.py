"""Before step 0: do all processes run the same thing, on devices that can hold it?"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.checkpoints.qwen_tensors import abstract_policy_params
from reflex_jax.config import Config, ConfigError, config_to_dict
from reflex_jax.models.partitioning import policy_table
from reflex_jax.models.qwen_vl import read_qwen_config
from reflex_jax.processes import gather, host_name
from reflex_jax.sharding import batch_sharding, parameter_shardings, replicated
from reflex_jax.training.state import split_trainable

_PACKAGES = ("reflex_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_FREE_KEYS = ("data.root", "data.cache", "logging")  # may differ from host to host


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
        raise ConfigError(f"{host_name()}: the devices add up {ways} ones to {total:g}; check their network and drivers.")


def check_memory(config: Config, mesh: Mesh) -> None:
    """Refuses, before anything is read, weights and moments that the devices of this process cannot hold.

    Raises:
      ConfigError: the mesh does not fit the model, or less is free than stays there for the whole run.
    """
    needed = _resident_bytes(config, mesh)
    # fake CPU devices share one memory
    total = needed * (jax.local_device_count() if jax.default_backend() == "cpu" else 1)
    free = _free_memory()
    if free and total > free:
        raise ConfigError(
            f"{host_name()}: weights and optimiser need {total / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free. Raise "
            "mesh.fsdp or mesh.tensor, or set policy.trainable=language."
        )


def _resident_bytes(config: Config, mesh: Mesh) -> int:
    """Bytes on one device of masters, moments, fixed parameters and the reference."""
    policy = read_qwen_config(resolve_checkpoint(config.policy.path, "policy"))
    abstract = abstract_policy_params(policy)
    shardings = parameter_shardings(abstract, policy_table(policy, mesh), mesh)
    compute = jnp.dtype(config.policy.dtype).itemsize
    needs_reference = config.grpo.kl_coefficient > 0 or config.grpo.ratio == "ref"
    moments = 2 if config.optimizer.name == "adamw" else 0
    trained, _ = split_trainable(abstract, config.policy.trainable)
    total = 0
    for name, part in abstract.items():
        masters = 4 * (1 + moments) if name in trained else compute
        per_number = masters + (compute if needs_reference else 0)
        sizes = jax.tree.map(lambda leaf, sharding: math.prod(sharding.shard_shape(leaf.shape)), part, shardings[name])
        total += per_number * sum(jax.tree.leaves(sizes))
    return total


def _facts(config: Config) -> dict[str, Any]:
    return {
        "name": host_name(),
        "devices": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "the configuration": _digest(config),
        "free_memory": _free_memory(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree
        return "unknown"


def _digest(config: Config) -> str:
    settings = config_to_dict(config)
    for key in _FREE_KEYS:
        section, _, name = key.partition(".")
        settings.pop(section) if not name else settings[section].pop(name)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _free_memory() -> int:
    """Bytes free on the fullest local device; on CPU those of the machine. 0: unknown."""
    statistics = [device.memory_stats() for device in jax.local_devices()]
    if all(s and "bytes_limit" in s for s in statistics):
        return min(s["bytes_limit"] - s["bytes_in_use"] for s in statistics)
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return 0
