"""How much memory there is: what JAX may take on a device, and what is free on this host, cgroup limits included."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

GIB = 2**30
# JAX takes 75 % of a GPU by default and nothing beyond; the rest of the card is for CUDA, cuDNN and NCCL, some GiB at most
GPU_SHARE = 0.92
_CGROUP_FILES = (
    # limit, use, and in its statistics what may be dropped; of version 2, then of version 1
    ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def claim_gpu_memory(environment: MutableMapping[str, str] = os.environ) -> None:
    """Lets JAX take `GPU_SHARE` of each GPU, unless the user has said how much.

    JAX reads it when the first device is asked for, so entry points call this before. Of the variable's two names JAX
    refuses to see both.
    """
    if not any(environment.get(f"XLA_{name}MEM_FRACTION") for name in ("CLIENT_", "PYTHON_CLIENT_")):
        environment["XLA_CLIENT_MEM_FRACTION"] = str(GPU_SHARE)


@dataclass(frozen=True)
class HostMemory:
    """Bytes of a host, or of the container this process lives in."""

    total: int
    free: int  # without swapping


def host_memory(root: Path = Path("/")) -> HostMemory | None:
    """The machine's memory, or what the tightest cgroup around this process leaves of it; None: the system does not say."""
    try:
        lines = dict(line.split(":") for line in (root / "proc/meminfo").read_text().splitlines())
        total, free = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError, IndexError):
        return None
    for limit, used in _cgroup_limits(root):
        total, free = min(total, limit), min(free, max(0, limit - used))
    return HostMemory(total, free)


def device_memory(device: Any) -> int | None:
    """Bytes that JAX may take on a device in all; None: unknown. The devices of a CPU share what its host has left.

    On a GPU that is its part of the card (`XLA_CLIENT_MEM_FRACTION`), not the card.
    """
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    host = host_memory()
    return None if host is None else (host.free + _resident_set()) // jax.local_device_count()


def free_memory() -> int:
    """Bytes free on the fullest local device; on CPU those of the host. 0: unknown."""
    statistics = [device.memory_stats() for device in jax.local_devices()]
    if all(s and "bytes_limit" in s for s in statistics):
        return min(s["bytes_limit"] - s["bytes_in_use"] for s in statistics)
    host = host_memory()
    return host.free if host else 0


def _cgroup_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, use) of every cgroup around this process that has a limit."""
    try:
        memberships = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return
    for (mount, limit_name, use_name, droppable), is_second in zip(_CGROUP_FILES, (True, False), strict=True):
        own = [
            path
            for _, controllers, path in (m for m in memberships if len(m) == 3)
            if (controllers == "") == is_second and (is_second or "memory" in controllers.split(","))
        ]
        # in a container the path may be that of the host, and only the mount's top be there
        for path in {".", *own, *(str(parent) for p in own for parent in Path(p).parents)}:
            directory = root / mount / path.lstrip("/")
            try:
                limit = int((directory / limit_name).read_text())  # "max": no limit, no number
                used = int((directory / use_name).read_text())
                statistics = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):
                continue
            yield limit, max(0, used - int(statistics.get(droppable, 0)))


def _resident_set() -> int:
    """Bytes that this process itself holds."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        line = next(line for line in lines if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return 0
