"""What a run holds from its first step to its last: which parts, how often, and in which dtype."""

import functools
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reflex_jax.config import Config, ConfigError, MemoryConfig
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.planning.frugal import waiting_settings
from reflex_jax.sharding import path_name
from reflex_jax.step import offload as offload_module
from reflex_jax.step.abstract_run import abstract_run
from reflex_jax.step.offload import is_on_host, say_of_offload
from reflex_jax.step.program import build_program
from reflex_jax.step.state import reference_policy
from tests.laid_out import laid_out
from tests.step.conftest import TinyWorld, tiny_shapes
from tests.unchecked import types_unchecked


def program_config(offload: str) -> Config:
    """Of a run with Adam whose state waits where `memory.offload` says."""
    return TinyWorld.config("optimizer.name=adamw", "optimizer.learning_rate=1e-3", f"memory.offload={offload}")


@functools.cache
def program_of(offload: str):
    """One program for each place, shared by the tests."""
    return build_program(program_config(offload), tiny_shapes())


def start(world: TinyWorld, *overrides: str, with_reference: bool = False):
    """State and frozen parameters as a run of these settings begins."""
    program = build_program(world.config(*overrides), tiny_shapes())
    return program.start(jax.tree.map(jnp.copy, world.policy_params), with_reference=with_reference)


@pytest.mark.parametrize("trainable", ["all", "language"])
def test_a_reference_shares_what_never_trains(tiny_world, trainable):
    state, frozen = start(tiny_world, f"policy.trainable={trainable}", with_reference=True)
    assert frozen.reference.keys() == state.params.keys()
    assert ("vision" in frozen.reference) == (trainable == "all")
    whole = reference_policy(frozen)
    chex.assert_trees_all_equal(whole, tiny_world.policy_params)
    for name, part in frozen.fixed.items():
        assert whole[name] is part


def test_without_a_reference_nothing_is_copied(tiny_world):
    _, frozen = start(tiny_world)
    assert frozen.reference is None and reference_policy(frozen) is None
    assert frozen.fixed == {}


@pytest.mark.parametrize("offload", ["none", "optimizer", "optimizer+masters"])
def test_what_is_offloaded_waits_on_the_host_and_is_sampled_with_from_there(tiny_world, offload):
    program = program_of(offload)
    state, frozen = program.start(jax.tree.map(jnp.copy, tiny_world.policy_params), with_reference=True)
    for part, is_there in ((state.optimizer_state, offload != "none"), (state.params, offload == "optimizer+masters")):
        for path, leaf in jax.tree_util.tree_leaves_with_path(part):
            is_matrix = path_name(path).rpartition("/")[2] in ("kernel", "embedding")
            assert is_on_host(leaf) == (is_there and is_matrix), path_name(path)
    weights = program.gather(state.params, frozen.fixed)
    assert not any(is_on_host(leaf) for leaf in jax.tree.leaves((weights, frozen)))
    weights["layers"] = jax.tree.map(lambda *layers: jnp.stack(layers), *weights["layers"])
    chex.assert_trees_all_equal(weights, tiny_world.policy_params)
    planned = abstract_run(program_config(offload), program.shapes, PromptSizes(10, 1)).state
    assert jax.tree.map(is_on_host, planned) == jax.tree.map(is_on_host, state)


@pytest.mark.slow  # compiles three steps
def test_a_step_with_an_offloaded_state_ends_where_any_other_does(tiny_world):
    """But for the last bits: an update by itself is the same to the bit (test_layerwise.py), here it is fused with others."""
    ends = []
    for offload in ("none", "optimizer", "optimizer+masters"):
        program = program_of(offload)
        state, frozen = program.start(
            jax.tree.map(jnp.copy, tiny_world.policy_params), tiny_world.judge_params, with_reference=True
        )
        for seed in (0, 1):
            batch = laid_out(tiny_world.batch(seed=seed), program_config(offload), program.shapes.mesh)
            state, _, metrics = program.train_step(state, frozen, batch)
        assert program.train_step.jitted._cache_size() == 1
        # the gradient of a bias of keys is 0 but for rounding (no softmax sees it), which Adam makes a whole step of
        numbers = {
            path_name(path): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get((state, metrics)))
        }
        ends.append({name: leaf for name, leaf in numbers.items() if not name.endswith("/k/bias")})
        assert 0 < len(numbers) - len(ends[-1]) < 10
    for end in ends[1:]:
        chex.assert_trees_all_close(end, ends[0], rtol=1e-4, atol=1e-6)


def test_only_the_devices_of_this_process_say_what_memories_they_have():
    """Those of other processes of a pod list none, and are of the same kind."""

    def device(*kinds: str) -> SimpleNamespace:
        memories = [SimpleNamespace(kind=kind) for kind in kinds]
        return SimpleNamespace(device_kind="TPU v5", addressable_memories=lambda: memories)

    def check(*devices: SimpleNamespace) -> None:
        with types_unchecked():
            offload_module._check_host_memory(SimpleNamespace(devices=np.array(devices)), "optimizer")

    check(device("device", "pinned_host"), device())
    with pytest.raises(ConfigError, match="TPU v5 do not"):
        check(device("device"), device())


def test_offloading_is_refused_by_name_where_no_program_reaches_the_host(monkeypatch):
    monkeypatch.setattr(offload_module, "HOST", "a memory nobody has")
    with pytest.raises(ConfigError, match=r"memory.offload=optimizer: .* cpu do not. Set memory.offload=none"):
        build_program(program_config("optimizer"), tiny_shapes())


def test_offloading_what_does_not_exist_is_refused_and_what_saves_nothing_is_said():
    with pytest.raises(ConfigError, match=r"memory.offload=optimizer: expected matrices .*sgd has no moments"):
        build_program(TinyWorld.config("memory.offload=optimizer"), tiny_shapes())
    mesh = tiny_shapes().mesh
    assert say_of_offload(mesh, MemoryConfig()) == ""
    assert "memory.offload=optimizer: saves nothing on a CPU" in say_of_offload(mesh, MemoryConfig(offload="optimizer"))
    for name, advised in (("sgd", ["optimizer+masters"]), ("adamw", ["optimizer", "optimizer+masters"])):
        settings = waiting_settings(TinyWorld.config(f"optimizer.name={name}"), "gpu")
        assert [value for _, value in settings] == advised
