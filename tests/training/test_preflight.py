"""What is checked before step 0, and what a stalled step leaves behind."""

import json
import time

import jax
import pytest

from reflex_jax.config import ConfigError, MeshConfig, load_config
from reflex_jax.sharding import make_mesh
from reflex_jax.training import preflight
from reflex_jax.training.watchdog import Watchdog

MESH = MeshConfig(data=2, fsdp=2, tensor=2)
GIB = 2**30


def test_alike_processes_pass():
    preflight.check_processes(load_config(None), make_mesh(MESH))


def test_every_difference_between_hosts_is_named(monkeypatch):
    facts = preflight._facts(load_config(None))
    other = facts | {"name": "process 1 on node7", "jax": "0.9.0", "devices": "7 x cpu", "free_memory": 0}
    monkeypatch.setattr(preflight, "gather", lambda value: [value, other])
    with pytest.raises(ConfigError) as caught:
        preflight.check_processes(load_config(None), make_mesh(MESH))
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 3 and all(line.startswith("process 1 on node7: ") for line in lines)
    assert "jax is 0.9.0" in lines[1] and "7 x cpu" in lines[0] and "0.0 GiB are free" in lines[2]


def test_paths_may_differ_between_hosts_but_mathematics_may_not():
    digest = preflight._digest
    base = load_config(None)
    assert digest(base) == digest(load_config(None, ["data.cache=/elsewhere", "logging.progress=false"]))
    assert digest(base) != digest(load_config(None, ["grpo.clip_low=0.1"]))


def test_memory_that_is_too_small_is_refused_before_loading_with_numbers(monkeypatch):
    config, mesh = load_config(None, ["policy.path=phantom"]), make_mesh(MESH)
    preflight.check_memory(config, mesh)
    monkeypatch.setattr(preflight, "_free_memory", lambda: GIB // 100)
    with pytest.raises(ConfigError, match=r"need 0\.\d GiB, 0\.0 GiB are free.*mesh\.fsdp"):
        preflight.check_memory(config, mesh)


def test_cutting_the_weights_lowers_what_a_device_must_hold():
    config = load_config(None, ["policy.path=phantom"])
    whole = preflight._resident_bytes(config, make_mesh(MeshConfig(data=8)))
    cut = preflight._resident_bytes(config, make_mesh(MeshConfig(data=1, fsdp=8)))
    assert whole / 8 < cut < whole / 3  # norms and biases stay whole
    frozen = load_config(None, ["policy.path=phantom", "policy.trainable=language"])
    assert preflight._resident_bytes(frozen, make_mesh(MeshConfig(data=8))) < whole


def test_a_stalled_step_is_reported_once_with_all_stacks(tmp_path, capfd):
    watchdog = Watchdog(tmp_path, process=jax.process_index(), stall_seconds=0.2)
    watchdog.beat(6)
    (tmp_path / "heartbeats" / "process-1.json").write_text('{"step": ')  # of a machine that died while it wrote
    time.sleep(0.6)
    watchdog.close()
    error = capfd.readouterr().err
    assert error.count("step 7 has run for") == 1 and "ended step 6" in error
    assert "process-1.json cannot be read" in error
    stacks = (tmp_path / "heartbeats" / "process-0.stacks.txt").read_text()
    assert "test_preflight.py" in stacks  # where this thread stands
    assert json.loads((tmp_path / "heartbeats" / "process-0.json").read_text())["step"] == 6


def test_steps_in_time_say_nothing(tmp_path, capfd):
    watchdog = Watchdog(tmp_path, process=0, stall_seconds=1.0)
    for step in range(5):
        watchdog.beat(step)
        time.sleep(0.02)
    watchdog.close()
    assert capfd.readouterr().err == ""
