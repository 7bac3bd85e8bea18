"""A step of the other families: what one device computes, eight compute."""

import chex
import jax
import numpy as np
import pytest

from reflex_jax.config import MeshConfig
from reflex_jax.models.biomedclip import init_judge_params
from reflex_jax.models.qwen_vl import init_policy_params
from reflex_jax.records import Draws
from reflex_jax.sharding import batch_sharding, make_mesh, replicated
from reflex_jax.step.program import build_program
from tests.laid_out import laid_out
from tests.step.conftest import JUDGE, POLICIES, POLICY, TinyWorld, tiny_shapes

FAMILIES = [family for family, policy in POLICIES.items() if policy is not POLICY]


def world_of(family: str) -> TinyWorld:
    """Random weights of a family, wide enough that attention is not flat."""
    policy = POLICIES[family]
    params = jax.tree.map(lambda x: x * 4 if x.ndim > 1 else x, init_policy_params(policy, jax.random.key(0)))
    return TinyWorld(params, init_judge_params(JUDGE, jax.random.key(1)), policy)


def step_on(world: TinyWorld, shape: tuple[int, int, int] | None):
    """Samples and updates once; returns greedy tokens, the new parameters and the metrics."""
    mesh = shape and make_mesh(MeshConfig(data=shape[0], fsdp=shape[1], tensor=shape[2]))
    shapes = tiny_shapes(mesh, world.policy)
    config = world.config("rollout.temperature=0", "memory.remat=true")
    program = build_program(config, shapes)
    params = jax.device_put(world.policy_params, shapes.policy_shardings(world.policy_params))
    judge = jax.device_put(world.judge_params, replicated(shapes.mesh))
    state, frozen = program.start(params, judge, with_reference=True)
    batch = laid_out(world.batch(), config, shapes.mesh)
    draws = Draws(jax.random.key(0), jax.device_put(np.arange(8, dtype=np.int32), batch_sharding(shapes.mesh)))
    rollout = jax.device_get(program.sample(program.gather(state.params, frozen.fixed), batch.prompts, draws))
    state, _, metrics = program.train_step(state, frozen, batch)
    return rollout.tokens, jax.device_get(state.params), jax.device_get(metrics)


@pytest.mark.slow  # compiles a step and its sampling twice for each family
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_of_every_family_is_the_same_on_eight_devices(family):
    world = world_of(family)
    before = jax.device_get(world.policy_params)
    tokens, params, metrics = step_on(world, None)
    mesh_tokens, mesh_params, mesh_metrics = step_on(world, (2, 2, 2))
    np.testing.assert_array_equal(tokens, mesh_tokens)
    chex.assert_trees_all_close(params, mesh_params, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(metrics, mesh_metrics, rtol=1e-3, atol=1e-4)
    moved = jax.tree.map(lambda old, new: float(np.abs(old - new).max()), before["vision"], params["vision"])
    assert min(jax.tree.leaves(moved)) > 0, moved
