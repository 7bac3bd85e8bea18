"""The supervised step: its loss, and that how it is computed changes nothing."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reflex_jax.config import MeshConfig
from reflex_jax.sharding import make_mesh
from reflex_jax.step.imitate import SftBatch
from reflex_jax.step.program import build_program
from tests.laid_out import laid_out, log_probs_in_rows, sequences_in_rows
from tests.step.conftest import ALLOWED, POLICY, TinyWorld, tiny_shapes


def targets(world: TinyWorld) -> SftBatch:
    """Eight prompts and one completion for each, the answer (every third token) with more weight."""
    batch = world.batch()
    tokens, mask = batch.rollout.tokens[:, :1], batch.rollout.mask[:, :1]
    weights = np.where(mask, np.where(np.arange(mask.shape[-1]) % 3 == 2, 6.0, 1.0), 0.0)
    return SftBatch(prompts=batch.prompts, tokens=tokens, weights=weights.astype(np.float32))


def imitate(world: TinyWorld, batch: SftBatch, *overrides: str, shape: tuple[int, int, int] | None = None):
    """One step on one device or on a mesh: (state, metrics)."""
    mesh = shape and make_mesh(MeshConfig(data=shape[0], fsdp=shape[1], tensor=shape[2]))
    program = build_program(world.config("sft.batch_size=8", *overrides), tiny_shapes(mesh))
    place = program.shapes.policy_shardings(world.policy_params)
    params = jax.device_put(jax.tree.map(jnp.copy, world.policy_params), place)
    state, frozen = program.start(params, with_reference=False)
    assert frozen.reference is None and frozen.judge is None
    config = world.config("sft.batch_size=8", *overrides)
    return program.imitate(state, frozen, laid_out(batch, config, program.shapes.mesh))


@pytest.fixture(scope="module")
def whole(tiny_world):
    return imitate(tiny_world, targets(tiny_world))


def test_the_loss_is_the_weighted_mean_over_the_whole_batch(tiny_world, whole):
    batch, (_, metrics) = targets(tiny_world), whole
    read = jax.jit(partial(log_probs_in_rows, config=POLICY, allowed=ALLOWED, temperature=1.0))
    log_probs, _ = read(tiny_world.policy_params, sequences_in_rows(batch.prompts, batch.tokens))
    expected = -(batch.weights * np.asarray(log_probs)).sum() / batch.weights.sum()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    counted = batch.weights > 0
    np.testing.assert_allclose(metrics["log_prob_per_token"], np.asarray(log_probs)[counted].mean(), rtol=1e-5)
    assert int(metrics["tokens"]) == counted.sum() and metrics["skipped"] == 0


@pytest.mark.parametrize(
    ("overrides", "shape"),
    [
        (["memory.microbatch_prompts=2", "memory.remat=true", "memory.log_prob_chunk=40"], None),
        (["memory.microbatch_prompts=4"], (2, 2, 2)),
    ],
)
def test_microbatches_remat_chunks_and_meshes_change_nothing(tiny_world, whole, overrides, shape):
    state, metrics = imitate(tiny_world, targets(tiny_world), *overrides, shape=shape)
    chex.assert_trees_all_close(jax.device_get(state.params), jax.device_get(whole[0].params), rtol=1e-4, atol=2e-6)
    chex.assert_trees_all_close(jax.device_get(metrics), jax.device_get(whole[1]), rtol=1e-4, atol=1e-5)
