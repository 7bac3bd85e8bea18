"""What is freed stays with the allocator of the launch scripts until it is told to give it back."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from reflex_jax.training import trainer
from tests.unchecked import types_unchecked

MIMALLOC = Path(sysconfig.get_path("platlib"), "cmeel.prefix/lib/libmimalloc.so.3")
LOOK = """
import ctypes, re
from reflex_jax.freed_memory import give_back_freed_memory

def held():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024

before = held()
blocks = [bytearray(2**20) for _ in range(200)]
for block in blocks:
    ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(block)), 1, len(block))
del blocks, block
kept = held() - before
give_back_freed_memory()
print(kept, held() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is given back")
@pytest.mark.parametrize("allocator", ["mimalloc", "the system's"])
def test_what_is_freed_is_kept_until_it_is_to_be_given_back(allocator, repository):
    if allocator == "mimalloc" and not MIMALLOC.is_file():
        pytest.skip(f"{MIMALLOC} is not there: pip install cmeel-mimalloc")
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    # glibc keeps blocks as large as these only where it is told to
    environment |= {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**34)}
    if allocator == "mimalloc":
        environment |= {"LD_PRELOAD": str(MIMALLOC), "MIMALLOC_PURGE_DELAY": "3600000", "PYTHONMALLOC": "malloc"}
    found = subprocess.run(
        [sys.executable, "-c", LOOK], env=environment, cwd=repository, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    kept, held = map(int, found.stdout.split())
    assert kept > 150 and held < 50  # of 200 MiB


@pytest.mark.parametrize("compilations", [0, 2])
def test_a_step_that_compiled_gives_back_and_no_other(monkeypatch, compilations):
    given = []
    monkeypatch.setattr(trainer, "give_back_freed_memory", lambda: given.append(True))
    with types_unchecked():
        found = trainer._with_times({"tokens": 6.0}, {"time/a": 2.0}, SimpleNamespace(read=lambda: compilations))
    assert found["compilations"] == compilations and len(given) == bool(compilations)
