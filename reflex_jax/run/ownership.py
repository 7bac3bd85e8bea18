"""One process at a time runs in a run directory: a lock of the operating system, which dies with its owner."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from reflex_jax.config import ConfigError

LOCK_FILE = "run.lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def sole_owner(directory: Path) -> Iterator[None]:
    """Keeps every other process out of a run directory while the block runs.

    The kernel gives the lock back when its owner ends, killed or not, so none is ever left behind. Of a run of several
    processes the first holds it. On NFS it holds between machines too, as long as the mount has locks; without them one
    line says that a second process would not be noticed.

    Raises:
      ConfigError: another process has it (host, process and since when), or the directory is not writable.
    """
    path = directory / LOCK_FILE
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigError(f"run.dir: {directory} is not writable ({error.strerror}). Name another place.") from error
    try:
        _lock(descriptor, directory, fcntl.LOCK_EX)
        try:
            _write_owner(descriptor)
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def refuse_second_owner(directory: Path) -> None:
    """Looks, before devices and memory are asked for that the first one has, whether a run directory is owned.

    Raises:
      ConfigError: by another process (host, process and since when).
    """
    try:
        descriptor = os.open(directory / LOCK_FILE, os.O_RDONLY)
    except (OSError, ValueError):  # no run there, or no place for one, which `open_run_directory` says
        return
    try:
        # shared: the processes of one run look at the same time
        _lock(descriptor, directory, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: Path, kind: int) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            f"{directory}: this run is under way, {_read_owner(descriptor)}. Wait for it or stop it; set run.name for "
            "another run."
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise ConfigError(f"{directory / LOCK_FILE} cannot be locked ({error.strerror}).") from error
        print(f"{directory}: its file system has no locks; do not start this run twice.", file=sys.stderr, flush=True)


def _write_owner(descriptor: int) -> None:
    owner = {
        "host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }  # fmt: skip
    os.ftruncate(descriptor, 0)  # what a killed owner left
    with contextlib.suppress(OSError):  # a full disk: the lock holds without its label
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)


def _read_owner(descriptor: int) -> str:
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return f"in process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError, TypeError):  # it has just begun, or could not write its label
        return "in another process"
