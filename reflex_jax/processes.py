"""Several processes as one run: how they start, what they agree on, what they tell each other.

The engine is `jax.distributed`. Everything here is short host data (settings, flags, text) between processes; arrays of
the run travel inside compiled functions. With one process every function is the identity and costs nothing.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from reflex_jax.config import ConfigError
from reflex_jax.stops import PROCESS_LOST, RunStopped

HEARTBEAT_SECONDS = 30  # a process silent for so long is lost, and JAX ends the others (exit code 134)
_START_SECONDS = 300  # how long the first processes wait for the last


def start_processes() -> None:
    """Joins the processes of a run; only entry points call it, before anything touches a device.

    Environment:
      REFLEX_PROCESSES: how many; "auto": JAX asks SLURM, the TPU slice, Kubernetes or Open MPI. Unset: one process.
      REFLEX_PROCESS_ID: which one this is, from 0.
      REFLEX_COORDINATOR: host:port of process 0, the same everywhere.

    Raises:
      ConfigError: the variables do not make sense, or the coordinator's port is taken.
      RunStopped: the others did not come.
    """
    count = os.environ.get("REFLEX_PROCESSES", "")
    if count in ("", "1"):
        return
    number, coordinator = os.environ.get("REFLEX_PROCESS_ID"), os.environ.get("REFLEX_COORDINATOR")
    if count != "auto" and not (count.isdigit() and (number or "").isdigit() and coordinator):
        raise ConfigError(
            "several processes: expected REFLEX_PROCESSES=n, REFLEX_PROCESS_ID=0..n-1 and REFLEX_COORDINATOR=host:port (or "
            f"REFLEX_PROCESSES=auto); got {count!r}, {number!r}, {coordinator!r}. launch/ has scripts that set them."
        )
    if count != "auto" and int(number or "") >= int(count):
        raise ConfigError(f"REFLEX_PROCESS_ID: expected 0 to {int(count) - 1}; got {number}.")
    if number == "0":
        _check_port(coordinator or "")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator,
            None if count == "auto" else int(count),
            None if count == "auto" else int(number or ""),
            # what the variables say counts, whatever scheduler they were set under
            cluster_detection_method=None if count == "auto" else "deactivate",
            initialization_timeout=_START_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise RunStopped(
            PROCESS_LOST,
            f"several processes: not all came together at {coordinator or 'the detected coordinator'} within {_START_SECONDS} s; "
            f"start all of them, and check that the port is open. ({_first_line(error)})",
        ) from error


def _check_port(coordinator: str) -> None:
    """Process 0 answers there, so it has to be free; the runtime would say so by a crash."""
    host, _, port = coordinator.rpartition(":")
    if not port.isdigit():
        raise ConfigError(f"REFLEX_COORDINATOR: expected host:port; got {coordinator!r}.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(port)))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"REFLEX_COORDINATOR: port {port} on {host} cannot be used ({error}); another run? Choose another port."
            ) from error


def is_first() -> bool:
    """Whether this process writes the files of the run."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """Returns what each process gave, in their order; values are JSON. All processes call it, at the same point."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int64(text.size))
    # a power of two: few different shapes, so few compilations
    padded = np.zeros(1 << int(lengths.max() - 1).bit_length(), np.uint8)
    padded[: text.size] = text
    texts = multihost_utils.process_allgather(padded)
    return [json.loads(row[:length].tobytes()) for row, length in zip(texts, lengths, strict=True)]


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.int32(flag)).any())


@contextmanager
def refused_together() -> Iterator[None]:
    """What one process refuses in this block all of them refuse, naming its host; else the others would wait for ever.

    The block may not hold a computation over all devices.

    Raises:
      ConfigError: any process raised one.
    """
    message = None
    try:
        yield
    except ConfigError as error:
        if jax.process_count() == 1:
            raise
        message = str(error)
    messages = gather(message)
    if not any(messages):
        return
    hosts = gather(host_name())
    if len(set(messages)) == 1:
        raise ConfigError(messages[0])
    raise ConfigError("\n".join(f"{host}: {text}" for host, text in zip(hosts, messages, strict=True) if text))


def host_name() -> str:
    """How messages name this process."""
    return f"process {jax.process_index()} on {socket.gethostname()}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
