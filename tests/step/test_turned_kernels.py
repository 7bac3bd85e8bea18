"""Kernels that sampling reads as [out, in] on a CPU: the same policy in another order of its numbers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reflex_jax.config import MeshConfig
from reflex_jax.models import layers, qwen_vl
from reflex_jax.models.layers import turn_back, turn_kernels
from reflex_jax.records import Draws
from reflex_jax.run.weights import weights_fingerprint
from reflex_jax.sharding import make_mesh
from reflex_jax.step import program as program_module
from reflex_jax.step.program import build_program
from tests.step.conftest import POLICY, TinyWorld, tiny_shapes

KERNELS = ("down", "gate", "k", "o", "q", "up", "v")


def of_kernels(weights, name: str) -> list[str]:
    """Which layers of the decoder hold a leaf of that name."""
    return sorted(layer for layer in weights["layers"][0] if name in weights["layers"][0][layer])


def gathered(world: TinyWorld, monkeypatch, *, least: int, platform: str = "cpu"):
    """The weights to sample with, where kernels of `least` bytes count as large; and the program."""
    monkeypatch.setattr(layers, "_LARGE_KERNEL", least)
    monkeypatch.setattr(program_module, "platform_of", lambda mesh: platform)
    shapes = tiny_shapes(None, POLICY)
    program = build_program(TinyWorld.config("policy.dtype=float32"), shapes)
    return program.gather(world.policy_params, {}), program


def test_a_cpu_samples_from_turned_kernels_and_nothing_else_does(tiny_world, monkeypatch):
    plain, _ = gathered(tiny_world, monkeypatch, least=2 << 20)
    assert of_kernels(plain, "kernel") == list(KERNELS) and not of_kernels(plain, "turned")
    turned, program = gathered(tiny_world, monkeypatch, least=1)
    assert of_kernels(turned, "turned") == list(KERNELS) and not of_kernels(turned, "kernel")
    np.testing.assert_array_equal(turned["layers"][1]["up"]["turned"], plain["layers"][1]["up"]["kernel"].T)
    chex.assert_trees_all_equal(turned["vision"], plain["vision"])  # reads many rows at one time
    chex.assert_trees_all_equal(turn_back(turned), plain)
    batch = tiny_world.batch()
    draws = Draws(jax.random.key(0), jnp.arange(8))
    rollouts = [jax.eval_shape(program.sample, weights, batch.prompts, draws) for weights in (plain, turned)]
    chex.assert_trees_all_equal(*rollouts)
    for platform in ("gpu", "tpu"):
        elsewhere, _ = gathered(tiny_world, monkeypatch, least=1, platform=platform)
        assert of_kernels(elsewhere, "kernel") == list(KERNELS)


def test_turned_kernels_are_cut_over_devices_as_they_were(monkeypatch):
    shapes, specs = tiny_shapes(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)), POLICY), []
    for least in (2 << 20, 1):
        monkeypatch.setattr(layers, "_LARGE_KERNEL", least)
        config = TinyWorld.config("policy.dtype=float32", "memory.rollout_weights=sharded")
        layer = build_program(config, shapes).gather.weights["layers"][0]
        specs.append([tuple(layer[name]["turned" if least == 1 else "kernel"].sharding.spec) for name in KERNELS])
    plain, turned = specs
    assert plain[0] == ("tensor", "fsdp") and plain[1] == ("fsdp", "tensor")  # down, gate
    assert [axes[::-1] for axes in turned] == plain


def test_turned_kernels_read_prompts_as_others_do(tiny_world, monkeypatch):
    monkeypatch.setattr(layers, "_LARGE_KERNEL", 1)
    plain = qwen_vl.layers_apart(tiny_world.policy_params)
    turned = {**plain, "layers": turn_kernels(plain["layers"])}
    assert of_kernels(turned, "turned") == list(KERNELS)
    prompts = tiny_world.batch().prompts
    read = jax.jit(lambda params: qwen_vl.prefill(params, prompts, POLICY))
    chex.assert_trees_all_close(read(turned), read(plain), rtol=1e-5, atol=1e-5)


def test_the_fingerprint_is_of_weights_as_they_are_stored(tiny_world, monkeypatch):
    monkeypatch.setattr(layers, "_LARGE_KERNEL", 1)
    mesh = tiny_shapes(None, POLICY).mesh
    plain = qwen_vl.layers_apart(tiny_world.policy_params)
    turned = {**plain, "layers": turn_kernels(plain["layers"])}
    assert weights_fingerprint(turned, mesh) == weights_fingerprint(plain, mesh)
    turned["layers"][0]["q"]["turned"] = turned["layers"][0]["q"]["turned"].at[0, 1].add(1e-3)
    assert weights_fingerprint(turned, mesh) != weights_fingerprint(plain, mesh)


@pytest.mark.parametrize(
    ("shape", "dtype", "is_turned"),
    [((1024, 512), "float32", True), ((1024, 508), "float32", False), ((2048, 1024), "bfloat16", False)],
)
def test_large_kernels_of_float32_are_turned(shape, dtype, is_turned):
    layer = {"kernel": jax.ShapeDtypeStruct(shape, dtype), "bias": jax.ShapeDtypeStruct(shape[1:], dtype)}
    found = jax.eval_shape(turn_kernels, [{"up": layer, "norm": {"scale": layer["bias"]}}])[0]
    assert sorted(found["up"]) == ["bias", "turned" if is_turned else "kernel"] and sorted(found["norm"]) == ["scale"]
    assert jax.eval_shape(turn_back, found)["up"] == layer
