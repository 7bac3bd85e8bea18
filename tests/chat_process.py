"""Starts and ends the judge of `tests/chat_server.py`."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVER = Path(__file__).with_name("chat_server.py")


def start_judge(port: int = 0, *arguments: str) -> tuple[subprocess.Popen, int]:
    """A process that listens, and its port."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-E", str(SERVER), str(port), *arguments], stdout=subprocess.PIPE, text=True
    )
    return process, int(process.stdout.readline())


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()


@contextmanager
def judge(port: int = 0, *arguments: str) -> Iterator[int]:
    """The port of a judge that runs in the block."""
    process, port = start_judge(port, *arguments)
    try:
        yield port
    finally:
        end(process)
