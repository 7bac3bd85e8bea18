"""What is checked before step 0, and what a stalled step leaves behind."""

import itertools
import json
import re
import time

import jax
import pytest

from reflex_jax.config import ConfigError, MeshConfig
from reflex_jax.config_reader import load_config
from reflex_jax.data.images import count_windows, smart_resize
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.models.published import published_policy
from reflex_jax.planning.device_memory import GIB, HostMemory
from reflex_jax.sharding import make_mesh
from reflex_jax.step.shapes import smallest_prompt
from reflex_jax.training import preflight
from reflex_jax.training.objectives import Grpo
from reflex_jax.training.watchdog import Watchdog

MESH = MeshConfig(data=2, fsdp=2, tensor=2)


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


def test_a_step_that_has_no_room_is_refused_before_loading_with_terms_and_settings(monkeypatch):
    config = load_config(None, ["grpo.prompts_per_step=32", "memory.remat=false", "rollout.max_new_tokens=64"])
    mesh = make_mesh(MESH)
    preflight.check_memory(Grpo(config), mesh)
    _, needed = preflight._estimate(Grpo(config), mesh, None).of()
    monkeypatch.setattr(preflight, "device_memory", lambda device: needed - 1)
    with pytest.raises(ConfigError) as caught:
        preflight.check_memory(Grpo(config), mesh)
    message = str(caught.value)
    assert re.search(
        r"needs at least 0\.\d\d GiB of each device, and JAX may take 0\.\d\d\. In update: .* \(GiB\): ", message
    )
    assert (
        "saved by the decoder" in message and "Set memory.microbatch_prompts=16 (0." in message
    )  # the largest that fits
    monkeypatch.setattr(preflight, "device_memory", lambda device: needed)
    preflight.check_memory(Grpo(config), mesh)  # to the byte
    monkeypatch.setattr(preflight, "device_memory", lambda device: 1)
    with pytest.raises(
        ConfigError,
        match=r"Not enough: memory.microbatch_prompts=4 .*memory\.remat=true.*memory\.rollout_prompts=4.*mesh\.fsdp",
    ):
        preflight.check_memory(Grpo(config), mesh)
    monkeypatch.setattr(preflight, "device_memory", lambda device: None)
    preflight.check_memory(Grpo(config), mesh)  # nothing is known, nothing is refused


def test_caches_that_have_no_room_are_sampled_a_few_prompts_at_a_time(monkeypatch):
    """2,560 completions of 4,096 tokens on eight cards, an encoder of 1.24 GiB; what is not the largest is not advised."""
    config = load_config("configs/medix_r1_8b.yaml", ["data.root=unread", "memory.rollout_prompts=0"])
    monkeypatch.setattr(preflight, "device_memory", lambda device: 79.6 * 0.92 * GIB)
    monkeypatch.setattr(preflight, "resolve_checkpoint", lambda path, name: path)
    with pytest.raises(ConfigError) as caught:
        preflight.check_memory(Grpo(config), make_mesh(config.mesh))
    assert "keys and values of the completions" in str(caught.value)
    assert re.search(r"Set memory\.rollout_prompts=64 \(57\.74\)\.$", str(caught.value))


def test_a_state_that_waits_on_the_host_needs_room_there(monkeypatch):
    config = load_config(None, ["memory.offload=optimizer+masters"])
    mesh = make_mesh(MESH)
    monkeypatch.setattr(preflight, "device_memory", lambda device: None)
    preflight.check_memory(Grpo(config), mesh)
    needed = preflight._estimate(Grpo(config), mesh, None).on_host * len(jax.devices())
    monkeypatch.setattr(preflight, "host_memory", lambda: HostMemory(total=2 * needed, free=needed - 1))
    with pytest.raises(ConfigError, match=r"memory.offload=optimizer\+masters: .* GiB of memory free, and the state"):
        preflight.check_memory(Grpo(config), mesh)


def test_a_3b_policy_does_not_start_on_one_card_of_80_gigabytes(monkeypatch):
    """Weights, moments and the reference are 49 GiB; the update takes 98.8, and sampling 87.6 (TPU compiler)."""
    config = load_config(
        "configs/reflex_med_3b.yaml", ["data.root=unread", "mesh.fsdp=1", "memory.microbatch_prompts=1"]
    )
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    monkeypatch.setattr(preflight, "device_memory", lambda device: 79.6 * 0.92 * GIB)
    monkeypatch.setattr(preflight, "resolve_checkpoint", lambda path, name: path)
    with pytest.raises(
        ConfigError, match=r"moments 27\.97.*Set optimizer\.moments_dtype=bfloat16 \(.*other numbers, the same"
    ):
        preflight.check_memory(Grpo(config), mesh)  # the prompts are not known yet
    monkeypatch.setattr(preflight, "device_memory", lambda device: 90 * GIB)
    preflight.check_memory(
        Grpo(config), mesh, PromptSizes(prompt_tokens=2048, windows=91)
    )  # an H200 has room while sampling


@pytest.mark.parametrize(("low", "high"), [(3136, 1003520), (262144, 1048576), (250000, 262144), (262144, 262144)])
def test_no_picture_is_smaller_than_the_smallest_one(low, high):
    config = load_config(None, [f"data.min_pixels={low}", f"data.max_pixels={high}"])
    vision = published_policy("Qwen2.5-VL-3B-Instruct").vision
    smallest = smallest_prompt(config.data, vision)
    for height, width in itertools.product((20, 300, 512, 1000, 4000), repeat=2):
        if max(height, width) <= 200 * min(height, width):
            rows, columns = smart_resize(height, width, min_pixels=low, max_pixels=high)
            assert smallest.prompt_tokens <= 1 + rows * columns // 28**2
            assert smallest.windows <= count_windows((1, rows // 14, columns // 14), vision)


def test_longer_prompts_need_more_than_the_smallest_ones():
    config, mesh = load_config(None), make_mesh(MESH)
    needs = [
        preflight._estimate(Grpo(config), mesh, sizes).of()[1]
        for sizes in (None, PromptSizes(200, 8), PromptSizes(400, 8), PromptSizes(400, 16))
    ]
    assert needs == sorted(needs) and len(set(needs)) == 4


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
