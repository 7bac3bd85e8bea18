"""What is freed stays with the allocator of the launch scripts until it is told to give it back."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from reflex_jax import freed_memory
from reflex_jax.run.logs import CompilationCounter
from reflex_jax.training import trainer
from tests.unchecked import types_unchecked

LOOK = """
import ctypes, re, sys
from reflex_jax.freed_memory import give_back_freed_memory

def held():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024

before = held()
count, mib = map(int, sys.argv[1:])
blocks = [bytearray(mib * 2**20) for _ in range(count)]
for block in blocks:
    ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(block)), 1, len(block))
del blocks, block
kept = held() - before
give_back_freed_memory()
print(kept, held() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is given back")
@pytest.mark.parametrize(
    ("allocator", "blocks", "mib", "is_kept"),
    [("mimalloc", 200, 1, True), ("system", 200, 1, True), ("mimalloc", 1, 1100, False)],
)
def test_what_is_freed_is_kept_up_to_a_gib_until_it_is_to_be_given_back(allocator, blocks, mib, is_kept, repository):
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD" and not k.startswith("MIMALLOC")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "REFLEX_ALLOCATOR": allocator, "REFLEX_COMMAND": "reflex",
        # glibc keeps blocks as large as these only where it is told to
        "MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**34),
    }  # fmt: skip
    found = subprocess.run(
        ["bash", "-c", 'source launch/environment.sh "" && exec python -c "$@"', "", LOOK, str(blocks), str(mib)],
        env=environment, cwd=repository, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    kept, held = map(int, found.stdout.split())
    assert (kept > 150) == is_kept and held < 50  # MiB, of at least 200


@pytest.mark.parametrize(("largest_kept", "before_others"), [(2**30, []), (2**10, ["given back"])])
def test_memory_goes_back_around_each_compilation_and_before_what_needs_much(monkeypatch, largest_kept, before_others):
    happened = []
    monkeypatch.setattr(freed_memory, "give_back_freed_memory", lambda: happened.append("given back"))
    monkeypatch.setattr(freed_memory, "_LARGEST_KEPT", largest_kept)
    counter = CompilationCounter()
    # the sorted rows are temporary: 4 kB and more
    add = freed_memory.RoomToCompile(jax.jit(lambda state, rows: state + jnp.sort(rows["x"])[-1], donate_argnums=0))
    for length in (1000, 1000, 2000, 1000):
        state, rows = jnp.zeros(3), {"x": jnp.arange(float(length)), "most": 3}
        counter.read()
        assert add(state, rows).tolist() == [length - 1] * 3
        happened.append(counter.read())
    first = ["given back", "given back", 1]
    assert happened == [*first, *before_others, 0, *first, *before_others, 0]


def test_a_function_that_is_only_traced_compiles_nothing():
    counter = CompilationCounter()
    add = freed_memory.RoomToCompile(jax.jit(lambda x: 2 * x))
    assert jax.eval_shape(add, jax.ShapeDtypeStruct((4,), "float32")).shape == (4,)
    assert counter.read() == 0


@pytest.mark.parametrize("compilations", [0, 2])
def test_a_step_that_compiled_gives_back_and_no_other(monkeypatch, compilations):
    given = []
    monkeypatch.setattr(trainer, "give_back_freed_memory", lambda: given.append(True))
    with types_unchecked():
        found = trainer._with_times({"tokens": 6.0}, {"time/a": 2.0}, SimpleNamespace(read=lambda: compilations))
    assert found["compilations"] == compilations and len(given) == bool(compilations)
