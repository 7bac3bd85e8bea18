"""Where every parameter lies, and that a rollout does not depend on it."""

import dataclasses
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from reflex_jax.config import ConfigError, MeshConfig
from reflex_jax.models.partitioning import policy_table
from reflex_jax.models.qwen_config import MODEL_TYPES
from reflex_jax.models.qwen_vl import init_policy_params
from reflex_jax.records import Draws
from reflex_jax.sharding import (
    ROLLOUT_RULES,
    UPDATE_RULES,
    batch_rows,
    batch_sharding,
    make_mesh,
    parameter_shardings,
    path_name,
)
from reflex_jax.step.generate import generate
from reflex_jax.step.program import build_program
from reflex_jax.step.sampling import Sampling, Vocabulary
from reflex_jax.step.shapes import Shapes
from reflex_jax.step.state import init_state, make_optimizer
from tests.step.conftest import ALLOWED, POLICIES, POLICY, TinyWorld

FOLDER = Path(__file__).parent
GOLDEN = {family: FOLDER / f"partitioning.{family}.golden.txt" for family in MODEL_TYPES}
SHAPES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)]  # data, fsdp, tensor; 8 heads, 2 key/value heads


def mesh_of(shape):
    return make_mesh(MeshConfig(data=shape[0], fsdp=shape[1], tensor=shape[2]))


def specs(policy, shape, rules) -> dict[str, str]:
    mesh = mesh_of(shape)
    abstract = jax.eval_shape(lambda: init_policy_params(policy, jax.random.key(0)))
    tree = parameter_shardings(abstract, policy_table(policy, mesh), mesh, rules)
    return {path_name(path): ",".join(str(axis or "-") for axis in s.spec) or "whole"
            for path, s in jax.tree_util.tree_leaves_with_path(tree)}  # fmt: skip


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_every_parameter_lies_where_the_golden_file_says(family):
    policy = POLICIES[family]
    columns = [
        specs(policy, shape, rules) for shape in ((2, 2, 2), (1, 1, 8)) for rules in (UPDATE_RULES, ROLLOUT_RULES)
    ]
    lines = ["parameter | update (2,2,2) | rollout (2,2,2) | update (1,1,8) | rollout (1,1,8)"]
    lines += [" | ".join([name, *(column[name] for column in columns)]) for name in sorted(columns[0])]
    assert "\n".join(lines) + "\n" == GOLDEN[family].read_text(), (
        "a parameter moved; if that is meant, write the file anew"
    )


def test_the_optimiser_is_cut_like_the_parameters():
    mesh = mesh_of((2, 2, 2))
    params = jax.eval_shape(lambda: init_policy_params(POLICY, jax.random.key(0)))
    optimizer = make_optimizer(TinyWorld.config("optimizer.name=adamw").optimizer, 1)
    state = jax.eval_shape(lambda p: init_state(p, optimizer), params)
    table = policy_table(POLICY, mesh)
    places = parameter_shardings(state, table, mesh)
    expected = jax.tree.leaves(places.params)
    moments = [leaf for leaf in jax.tree.leaves(places.optimizer_state) if leaf.spec != PartitionSpec()]
    assert [m.spec for m in moments] == 2 * [s.spec for s in expected if s.spec != PartitionSpec()]


@pytest.mark.parametrize(
    "shape", [pytest.param(shape, marks=[pytest.mark.slow] if shape != (2, 2, 2) else []) for shape in SHAPES]
)  # each axis alone is slow: (2, 2, 2) has them all
def test_every_mesh_samples_the_same_tokens(tiny_world, shape):
    prompts, key, ids = tiny_world.batch().prompts, jax.random.key(3), np.arange(8, dtype=np.int32)

    def sample(params, prompts, key, ids):
        vocabulary = Vocabulary(ALLOWED, eos_ids=(1, 7, 9), pad_id=0)
        # rows that few are left of are gathered: each device its own
        sampling = Sampling(group_size=4, max_new_tokens=8, temperature=1.0, cache_step=8)
        return generate(params, prompts, Draws(key, ids), POLICY, vocabulary, sampling)

    alone = jax.jit(sample)(tiny_world.policy_params, prompts, key, ids)
    assert 0.3 < float(alone.mask.mean()) < 1
    mesh = mesh_of(shape)
    table = policy_table(POLICY, mesh)
    cut = jax.device_put(tiny_world.policy_params, parameter_shardings(tiny_world.policy_params, table, mesh))
    rows = batch_rows(mesh, 8)
    for rules in (ROLLOUT_RULES, UPDATE_RULES):  # gathered, and left as the update has them
        weights = jax.jit(
            lambda tree: tree, out_shardings=parameter_shardings(tiny_world.policy_params, table, mesh, rules)
        )(cut)
        spread = jax.jit(sample, out_shardings=batch_sharding(mesh))(
            weights, *rows.place((prompts,)), key, rows.place(ids)
        )
        np.testing.assert_array_equal(alone.tokens, spread.tokens)
        chex.assert_trees_all_close(jax.device_get(alone), jax.device_get(spread), atol=1e-5)


def test_layers_apart_lie_as_they_did_in_the_stack(tiny_world):
    """What sampling reads is gathered over fsdp and cut over tensor, layer by layer."""
    mesh = mesh_of((2, 2, 2))
    shapes = Shapes(mesh, POLICY, None, Vocabulary(ALLOWED, eos_ids=(1,), pad_id=0))
    stacked = jax.device_put(tiny_world.policy_params, shapes.policy_shardings(tiny_world.policy_params))
    config = TinyWorld.config("memory.rollout_weights=gathered", "policy.dtype=float32")
    apart = build_program(config, shapes).gather(stacked, {})
    places = shapes.policy_shardings(stacked, ROLLOUT_RULES)
    assert PartitionSpec(None, None, "tensor") == places["layers"]["q"]["kernel"].spec
    for index, layer in enumerate(apart.pop("layers")):
        for leaf, whole, place in zip(*map(jax.tree.leaves, (layer, stacked["layers"], places["layers"])), strict=True):
            np.testing.assert_array_equal(leaf, whole[index])
            expected = NamedSharding(mesh, PartitionSpec(*place.spec[1:]))
            assert leaf.sharding.is_equivalent_to(expected, leaf.ndim)
    places.pop("layers")
    for leaf, place in zip(jax.tree.leaves(apart), jax.tree.leaves(places), strict=True):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim)


def test_axes_that_do_not_divide_are_all_refused_with_path_and_numbers():
    mesh = mesh_of((1, 8, 1))
    odd = {"layers": {"up": {"kernel": np.zeros((2, 12, 16))}}, "embed": {"embedding": np.zeros((64, 20))}}
    with pytest.raises(ConfigError) as caught:
        parameter_shardings(odd, policy_table(POLICY, mesh), mesh)
    message = str(caught.value)
    assert (
        "layers/up/kernel" in message and "12" in message and "embed/embedding" in message and "mesh.fsdp=8" in message
    )
    with pytest.raises(ConfigError, match="divisor of the 6 attention heads; got 8"):
        policy_table(dataclasses.replace(POLICY, text=dataclasses.replace(POLICY.text, heads=6)), mesh_of((1, 1, 8)))
