"""How much of a device JAX takes, what is counted with, and what a host has. No GPU is needed: jaxlib says what it would take."""

import os
from dataclasses import dataclass

import jax
import pytest
from jaxlib.xla_client import generate_pjrt_gpu_plugin_options

from reflex_jax.commands.start import prepare
from reflex_jax.planning.chips import local_chip
from reflex_jax.planning.device_memory import GIB, HostMemory, claim_gpu_memory, device_memory, free_memory, host_memory

FRACTIONS = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


@pytest.mark.parametrize(
    ("said", "fraction"),
    [({}, 0.92), ({FRACTIONS[0]: ""}, 0.92), ({FRACTIONS[0]: ".6"}, 0.6), ({FRACTIONS[1]: "0.5"}, 0.5)],
)
def test_a_gpu_is_claimed_unless_the_user_has_said_how_much(monkeypatch, said, fraction):
    for name in FRACTIONS:
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    environment = dict(os.environ)
    claim_gpu_memory(environment)
    for name in FRACTIONS:
        monkeypatch.setenv(name, environment.get(name, ""))
    assert generate_pjrt_gpu_plugin_options()["memory_fraction"] == fraction


def test_every_command_claims_the_gpus_before_it_asks_for_devices(monkeypatch):
    for name in FRACTIONS:
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("reflex_jax.processes.start_processes", lambda: seen.append(dict(os.environ)))
    seen: list[dict[str, str]] = []
    prepare()
    assert seen[0]["XLA_CLIENT_MEM_FRACTION"] == "0.92"


@dataclass
class FakeGpu:
    """A card of which JAX has its part."""

    platform: str = "gpu"
    device_kind: str = "NVIDIA H100 80GB HBM3"
    bytes_limit: float | None = 73 * GIB

    def memory_stats(self):
        return {"bytes_limit": self.bytes_limit, "bytes_in_use": 3 * GIB} if self.bytes_limit else None


def test_what_jax_may_take_counts_and_not_the_card(monkeypatch):
    assert device_memory(FakeGpu()) == 73 * GIB
    assert device_memory(FakeGpu(bytes_limit=None)) is None
    assert local_chip(FakeGpu(bytes_limit=60 * GIB)).memory_bytes == 60 * GIB
    assert local_chip(FakeGpu(bytes_limit=None)).memory_bytes == pytest.approx(73.2 * GIB, rel=1e-3)
    monkeypatch.setattr(jax, "local_devices", lambda: [FakeGpu(), FakeGpu(bytes_limit=50 * GIB)])
    assert free_memory() == 47 * GIB


def test_devices_of_a_cpu_share_its_memory():
    host, device = host_memory(), jax.devices()[0]
    assert 0 < host.free <= host.total
    assert 0 < device_memory(device) <= host.total / 8 * 1.01
    assert local_chip(device).memory_bytes == pytest.approx(host.total / 8)


@pytest.mark.parametrize("version", ["machine", "two", "two in a container", "one"])
def test_the_memory_of_a_host_is_that_of_its_tightest_cgroup(tmp_path, version):
    def write(path: str, text: object) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{text}\n")

    write("proc/meminfo", "MemTotal:       1000 kB\nMemFree: 10 kB\nMemAvailable:    700 kB")
    assert host_memory(tmp_path / "elsewhere") is None
    if version == "machine":
        assert host_memory(tmp_path) == HostMemory(1000 * 1024, 700 * 1024)
        return
    if version == "one":
        write("proc/self/cgroup", "3:cpu:/a\n2:memory:/a/b\n0::/")
        top, names = (
            "sys/fs/cgroup/memory/a/b",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        )
    else:
        write("proc/self/cgroup", "0::/a/b")
        # the limit may be on a cgroup above; a container sees its own as the top one
        top = "sys/fs/cgroup/a" if version == "two" else "sys/fs/cgroup"
        names = ("memory.max", "memory.current", "inactive_file")
        write("sys/fs/cgroup/a/b/memory.max", "max")
    write(f"{top}/{names[0]}", 400 * 1024)
    write(f"{top}/{names[1]}", 300 * 1024)
    write(f"{top}/memory.stat", f"anon 5\n{names[2]} {50 * 1024}")
    assert host_memory(tmp_path) == HostMemory(400 * 1024, 150 * 1024)
