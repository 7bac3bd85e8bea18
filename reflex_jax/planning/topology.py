"""The devices a plan compiles for: a TPU slice by name, without having one, or those of this machine."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from dataclasses import dataclass
from typing import Any

import jax

from reflex_jax.config import ConfigError
from reflex_jax.planning.chips import TPU_CHIPS, Chip, local_chip

# slices one can rent, in chips; larger ones work too
SLICES = {
    "v5e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    "v6e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
}


@dataclass(frozen=True)
class Topology:
    """Devices of one kind."""

    name: str  # "v5p:4x4x4", or "this machine"
    chip: Chip
    devices: list[Any]

    def larger(self) -> list[str]:
        """Names of the slices of the same kind with more chips, ascending; none for this machine."""
        generation = self.name.partition(":")[0]
        return [f"{generation}:{s}" for s in SLICES.get(generation, ()) if _chips(s) > len(self.devices)]


def find_topology(name: str | None) -> Topology:
    """Describes a TPU slice to the compiler.

    Args:
      name: generation and layout in chips, e.g. "v5p:4x4x4"; None: the devices of this machine.
    Raises:
      ConfigError: no such slice, or the TPU compiler (extra `tpu`) is not installed.
    """
    if name is None:
        return Topology("this machine", local_chip(jax.devices()[0]), jax.devices())
    generation, _, layout = name.partition(":")
    if generation not in SLICES or not layout:
        known = " ".join(f"{kind}:{size}" for kind, sizes in SLICES.items() for size in sizes)
        raise ConfigError(f"--topology: expected one of {known}; got {name!r}.")
    layouts = " ".join(SLICES[generation])
    sides = SLICES[generation][0].count("x") + 1
    if not re.fullmatch(f"[1-9][0-9]*(x[1-9][0-9]*){{{sides - 1}}}", layout, re.ASCII):
        raise ConfigError(f"--topology: a slice of {generation} has {sides} sides, e.g. {layouts}; got {name!r}.")
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            f"--topology {name}: the TPU compiler is not installed; pip install 'reflex_jax[tpu]' (it needs no TPU)."
        )
    # the compiler looks for the TPU it runs on; there is none and no metadata server to ask, so it is told any
    silence = {
        "SKIP_MDS_QUERY": "1",
        "WORKER_HOSTNAMES": "localhost",
        "ACCELERATOR_TYPE": "v5p-8",
        "MIN_LOG_LEVEL": "4",
    }
    for key, value in {**silence, "STDERR_LOG_LEVEL": "4"}.items():
        os.environ.setdefault(f"TPU_{key}", value)
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # two plans at a time
    from jax.experimental import topologies

    try:
        devices = list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError, NotImplementedError) as error:
        raise ConfigError(
            f"--topology {name}: the TPU compiler refuses: {str(error).splitlines()[0][:200]}. Layouts it knows: {layouts}."
        ) from error
    return Topology(name, TPU_CHIPS[generation], devices)


def _chips(layout: str) -> int:
    return math.prod(int(side) for side in layout.split("x"))
