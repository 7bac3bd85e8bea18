"""Weights to sample with: what needs no change is the array of the policy itself, what does is new."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reflex_jax.config import MeshConfig
from reflex_jax.models import layers
from reflex_jax.sharding import make_mesh
from reflex_jax.step.program import build_program
from reflex_jax.step.trained import split_trainable
from tests.step.conftest import POLICY, TinyWorld, tiny_shapes

AS_ARE = {"embed", "final_norm", "head", "vision"}


def parts_handed_on(world: TinyWorld, *overrides: str, mesh=None) -> set[str]:
    """Parts of the weights whose arrays are those of the policy; those of the others are checked by value."""
    config, shapes = TinyWorld.config(*overrides), tiny_shapes(mesh, POLICY)
    params = jax.device_put(world.policy_params, shapes.policy_shardings(world.policy_params))
    trained, fixed = split_trainable(params, config.policy)
    fixed = jax.tree.map(lambda x: x.astype(config.policy.dtype), fixed)
    gather = build_program(config, shapes).gather
    weights = gather(trained, fixed)
    assert set(weights) == AS_ARE | {"layers"}
    jax.tree.map(assert_is_as_planned, weights, gather.weights)
    handed_on = set()
    for name in AS_ARE:
        mine = jax.tree.leaves([tree[name] for tree in (trained, fixed) if name in tree])
        same = {a is b for a, b in zip(jax.tree.leaves(weights[name]), mine, strict=True)} if mine else {False}
        handed_on |= {name} if same == {True} else set()
        for got, stored in zip(jax.tree.leaves(weights[name]), jax.tree.leaves(params[name]), strict=True):
            assert got.dtype == config.policy.dtype
            np.testing.assert_array_equal(got, stored.astype(config.policy.dtype))
    return handed_on


def assert_is_as_planned(got, planned) -> None:
    assert (got.shape, got.dtype) == (planned.shape, planned.dtype)
    assert got.sharding.is_equivalent_to(planned.sharding, got.ndim)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["policy.dtype=float32"], AS_ARE),
        (["policy.dtype=bfloat16"], set()),  # of float32 masters
        (["policy.dtype=bfloat16", "policy.trainable=language"], {"vision"}),  # which is stored in bfloat16
    ],
)
def test_parts_in_the_dtype_of_sampling_exist_once(overrides, expected, tiny_world):
    assert parts_handed_on(tiny_world, *overrides) == expected


@pytest.mark.parametrize("least", [1, 2 << 20])
def test_parts_that_are_cut_over_fsdp_are_gathered(least, tiny_world, monkeypatch):
    """Also where kernels, cut over `tensor`, are turned."""
    monkeypatch.setattr(layers, "_LARGE_KERNEL", least)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    gathered = ["policy.dtype=float32", "memory.rollout_weights=gathered"]
    assert "embed" not in parts_handed_on(tiny_world, *gathered, mesh=mesh)
    assert parts_handed_on(tiny_world, "policy.dtype=float32", "memory.rollout_weights=sharded", mesh=mesh) == AS_ARE


@pytest.mark.parametrize("in_one_tree", [False, True])
def test_an_adapted_part_is_merged(in_one_tree, tiny_world):
    shapes = tiny_shapes(None, POLICY)
    params = jax.device_put(tiny_world.policy_params, shapes.policy_shardings(tiny_world.policy_params))
    pair = {"lora_a": jnp.ones((POLICY.text.width, 2)), "lora_b": jnp.ones((2, POLICY.text.vocabulary))}
    trees = ({}, params | {"head": params["head"] | pair}) if in_one_tree else ({"head": pair}, params)
    weights = build_program(TinyWorld.config("policy.dtype=float32"), shapes).gather(*trees)
    np.testing.assert_allclose(weights["head"]["kernel"], params["head"]["kernel"] + 2, rtol=1e-6)
    assert weights["embed"]["embedding"] is params["embed"]["embedding"]
