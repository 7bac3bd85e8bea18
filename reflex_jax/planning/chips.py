"""Peaks of one device, from its maker's data sheet: what a program's counted work is divided by."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import Any

import jax

from reflex_jax.config import ConfigError
from reflex_jax.planning.device_memory import GIB, GPU_SHARE, device_memory, host_memory


@dataclass(frozen=True)
class Chip:
    """One device as JAX counts them."""

    name: str
    flops: float  # per second, dense bfloat16 products
    memory_bytes: float  # that programs may use, a little less than is built in
    memory_bandwidth: float  # bytes per second
    link_bandwidth: float  # bytes per second one device can send to the others, all links together, one way


# TPU: cloud.google.com/tpu/docs; memory as the TPU compiler reports it. GPU: NVIDIA's data sheets (SXM), without sparsity;
# memory as the driver reports it, what JAX takes of it. Where the device itself says how much that is, it is asked.
TPU_CHIPS = {
    "v5e": Chip("TPU v5e", 197e12, 15.75 * GIB, 819e9, 200e9),
    "v5p": Chip("TPU v5p", 459e12, 95.74 * GIB, 2765e9, 600e9),
    "v6e": Chip("TPU v6e", 918e12, 31.25 * GIB, 1640e9, 448e9),
}
_GPUS = {
    "H200": Chip("NVIDIA H200", 989e12, GPU_SHARE * 140 * GIB, 4800e9, 450e9),
    "H100": Chip("NVIDIA H100", 989e12, GPU_SHARE * 79.6 * GIB, 3350e9, 450e9),
    "A100": Chip("NVIDIA A100", 312e12, GPU_SHARE * 79.6 * GIB, 2039e9, 300e9),
}
_TPU_KINDS = {"TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e"}  # device_kind of JAX


def local_chip(device: Any) -> Chip:
    """Peaks of a device of this machine.

    Raises:
      ConfigError: neither a CPU nor a known accelerator.
    """
    if device.platform == "cpu":
        return _cpu()
    kind = device.device_kind
    chip = TPU_CHIPS.get(_TPU_KINDS.get(kind, "")) or next((c for name, c in _GPUS.items() if name in kind), None)
    if chip is None:
        known = ", ".join([*_GPUS, *_TPU_KINDS])
        raise ConfigError(f"plan: the peaks of {kind!r} are not known; known are {known}. Add it to planning/chips.py.")
    return replace(chip, memory_bytes=device_memory(device) or chip.memory_bytes)


def _cpu() -> Chip:
    """This machine shared by its devices; nobody prints a processor's peaks, so these are rough ones of a server's cores."""
    host = host_memory()
    total = host.total if host else math.inf
    devices = jax.local_device_count()
    return Chip("CPU", 80e9 * (os.cpu_count() or 1) / devices, total / devices, 20e9 / devices, 10e9 / devices)
