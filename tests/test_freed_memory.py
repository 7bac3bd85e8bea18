"""What is freed stays with the allocator of the launch scripts until it is told to give it back."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reflex_jax import freed_memory
from reflex_jax.config import MeshConfig
from reflex_jax.run.logs import CompilationCounter
from reflex_jax.sharding import make_mesh
from reflex_jax.step import program
from reflex_jax.training import trainer
from tests.step.conftest import POLICY, TinyWorld, tiny_shapes
from tests.unchecked import types_unchecked

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
@pytest.mark.parametrize("allocator", ["mimalloc", "system"])
def test_what_is_freed_is_kept_until_it_is_to_be_given_back(allocator, repository):
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD" and not k.startswith("MIMALLOC")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "REFLEX_ALLOCATOR": allocator, "REFLEX_COMMAND": "reflex",
        # glibc keeps blocks as large as these only where it is told to
        "MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**34),
    }  # fmt: skip
    found = subprocess.run(
        ["bash", "-c", 'source launch/environment.sh "" && exec python -c "$0"', LOOK],
        env=environment, cwd=repository, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    kept, held = map(int, found.stdout.split())
    assert kept > 150 and held < 50  # of 200 MiB


def test_memory_goes_back_around_each_compilation_alone(monkeypatch):
    counter, happened = CompilationCounter(), []
    monkeypatch.setattr(freed_memory, "give_back_freed_memory", lambda: happened.append(counter.read()))
    add = freed_memory.RoomToCompile(
        jax.jit(lambda state, rows: state + rows["x"].sum().astype("float32"), donate_argnums=0)
    )
    for length, dtype in ((4, "float32"), (4, "float32"), (8, "float32"), (8, "int32"), (4, "float32")):
        state, rows = jnp.zeros(3), {"x": jnp.ones(length, dtype), "most": 3}
        counter.read()
        total = add(state, rows)
        happened += ["called", counter.read()]
        assert total.tolist() == [length] * 3
    new = [0, 1, "called", 0]  # compilations before memory went back, between the two times, and in the call itself
    assert happened == [*new, "called", 0, *new, *new, "called", 0]


class Jitted:
    """What `RoomToCompile` asks of a function of `jax.jit`, which tells what happens."""

    def __init__(self, tell):
        self._tell = tell

    def lower(self, x):
        """What compiles it."""
        return SimpleNamespace(compile=lambda: self._tell("compiles") or self)

    def memory_analysis(self):
        """Of the shape compiled last."""
        return SimpleNamespace(temp_size_in_bytes=1600)

    def __call__(self, x):
        self._tell("runs")
        return 2 * x


def test_the_place_of_temporaries_is_kept_between_calls_and_free_in_them(monkeypatch):
    places = []

    def tell(what: str) -> None:
        places.append((what, None if function._place is None else function._place.nbytes))

    monkeypatch.setattr(freed_memory, "give_back_freed_memory", lambda: tell("gives back"))
    function = freed_memory.RoomToCompile(Jitted(tell), keeps_place=True)
    compiling = [("gives back", None), ("compiles", None), ("gives back", None)]
    assert function(np.ones(2)).tolist() == [2, 2] and places == [*compiling, ("runs", None)]
    tell("between")
    function(np.ones(2))
    tell("between")
    function(np.ones(3))
    assert places[4:] == [("between", 1600), ("runs", None), ("between", 1600), *compiling, ("runs", None)]
    function = freed_memory.RoomToCompile(Jitted(tell))
    function(np.ones(2))
    assert function._place is None


@pytest.mark.parametrize(("devices", "platform", "keeps"), [(1, "cpu", True), (8, "cpu", False), (1, "gpu", False)])
def test_the_updates_of_one_cpu_keep_their_place(devices, platform, keeps, monkeypatch):
    monkeypatch.setattr(program, "platform_of", lambda mesh: platform)
    mesh = make_mesh(MeshConfig(data=devices)) if devices > 1 else None
    built = program.build_program(TinyWorld.config(), tiny_shapes(mesh, POLICY))
    assert [f._keeps_place for f in (built.update, built.train_step, built.imitate)] == [keeps] * 3
    assert not built.score._keeps_place


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
