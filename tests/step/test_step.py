"""The training step: what it may depend on, and what gets a gradient."""

import dataclasses
import functools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reflex_jax.config import MeshConfig
from reflex_jax.grpo.advantages import group_advantages
from reflex_jax.models.biomedclip import init_judge_params
from reflex_jax.records import TrainBatch
from reflex_jax.sharding import make_mesh, replicated
from reflex_jax.step import update as step_module
from reflex_jax.step.program import build_program
from reflex_jax.step.score import score_rollout
from tests.laid_out import laid_out, log_probs_in_rows, sequences_in_rows
from tests.step.conftest import GROUP, JUDGE, TinyWorld, tiny_shapes
from tests.unchecked import types_unchecked

SMALL_STEP = ("policy.dtype=bfloat16", "optimizer.name=adamw", "optimizer.learning_rate=1e-6")


@functools.cache
def program_of(*overrides: str, shape: tuple[int, int, int] | None = None):
    """One program per configuration and mesh, shared by the tests: compiling is what they cost."""
    mesh = shape and make_mesh(MeshConfig(data=shape[0], fsdp=shape[1], tensor=shape[2]))
    return build_program(TinyWorld.config(*overrides), tiny_shapes(mesh))


def start(world, *overrides: str, shape: tuple[int, int, int] | None = None):
    """The program, the state, and what the step only reads: a reference that is not the policy among it."""
    program = program_of(*overrides, shape=shape)
    shapes, whole = program.shapes, replicated(program.shapes.mesh)
    place = shapes.policy_shardings(world.policy_params)
    params = jax.device_put(jax.tree.map(np.array, world.policy_params), place)  # a copy: the step donates it
    state, frozen = program.start(params, jax.device_put(world.judge_params, whole), with_reference=False)
    moved = jax.tree.map(lambda x: jax.device_put(np.asarray(x) * np.asarray(1.02, x.dtype), x.sharding), state.params)
    return program, state, dataclasses.replace(frozen, reference=moved)


def distance(a, b) -> float:
    """Of two arrays, at the place where it is largest."""
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())


def packed(world, program) -> TrainBatch:
    """The batch of the tests, laid out in rows for one device."""
    return laid_out(world.batch(), world.config(), program.shapes.mesh)


def run(world, batch: TrainBatch, *overrides: str, shape: tuple[int, int, int] | None = None):
    """Runs one step; returns (state, scored, metrics)."""
    program, state, frozen = start(world, *overrides, shape=shape)
    return program.train_step(state, frozen, laid_out(batch, world.config(*overrides), program.shapes.mesh))


def test_rewards_vary_in_the_tiny_world(tiny_world):
    """Else the equalities below would compare zeros."""
    _, scored, metrics = run(tiny_world, tiny_world.batch())
    assert np.std(scored.rewards) > 0.1 and float(metrics["grad_norm"]) > 1e-3
    assert 0 < float(metrics["reward/visual_fidelity"]) < 1 and 0 < float(metrics["reward/provenance"]) < 1


def test_microbatches_remat_and_chunks_change_nothing(tiny_world):
    batch = tiny_world.batch()
    whole = run(tiny_world, batch)
    frugal = run(tiny_world, batch, "memory.microbatch_prompts=2", "memory.remat=true", "memory.log_prob_chunk=40")
    chex.assert_trees_all_close(whole[0].params, frugal[0].params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(whole[2], frugal[2], rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_equal(whole[1].components, frugal[1].components)


@pytest.mark.slow  # compiles two judges
def test_a_microbatch_bounds_what_the_judge_needs():
    """Maps rolled out from the first block: slopes of every attention, for every statement."""
    world = abstract_world()
    needs = {}
    for size in (0, 1):
        program = program_of("judge.saliency_block=0", f"memory.microbatch_prompts={size}")
        compiled = program.score.lower(world.judge_params, world.batch().judge, world.batch().scores).compile()
        needs[size] = compiled.memory_analysis().temp_size_in_bytes
    assert needs[1] < 0.4 * needs[0]  # of eight prompts


def abstract_world() -> TinyWorld:
    """Shapes are enough to compile."""
    return TinyWorld({}, jax.eval_shape(lambda: init_judge_params(JUDGE, jax.random.key(0))))


@pytest.mark.slow  # five hundred ops compiled one by one; each part is held to it by its own tests (judge, grpo, rewards)
def test_rewards_are_the_same_jitted_and_eager(tiny_world):
    batch = tiny_world.batch(prompts=2)

    def score(judge):
        return score_rollout(judge, batch.judge, batch.scores, tiny_world.config(), JUDGE)

    jitted = jax.jit(score)(tiny_world.judge_params)
    with jax.disable_jit(), types_unchecked():  # jitted, each has been seen once; here it would be seen at every step
        eager = score(tiny_world.judge_params)
    chex.assert_trees_all_equal(jitted.components, eager.components)
    chex.assert_trees_all_close(jitted, eager, rtol=1e-5, atol=1e-6)


def test_minibatches_and_epochs_are_updates_in_turn_against_the_old_policy(tiny_world):
    batch = tiny_world.batch()
    once = run(tiny_world, batch)
    state, _, metrics = run(tiny_world, batch, "grpo.minibatches=2", "grpo.epochs=2")
    assert float(metrics["ratio_max"]) > 1.0  # later updates have moved away from the policy that sampled
    assert float(once[2]["ratio_max"]) == 1.0
    np.testing.assert_allclose(
        metrics["logprob_gap_max"], once[2]["logprob_gap_max"], rtol=1e-5
    )  # before the first update
    moved = jax.tree.map(distance, state.params, once[0].params)
    assert max(jax.tree.leaves(moved)) > 1e-4


@pytest.mark.slow  # compiles updates of its own; the estimates of KL are held in tests/grpo
def test_a_kl_term_in_the_reward_is_taken_off_before_the_advantages(tiny_world):
    """The update is that of a reward without the term, with the advantages of R - beta * sum of log(policy / reference)."""
    batch, rule = tiny_world.batch(), "leave_one_out"
    keys = ("grpo.kl_coefficient=0.5", "grpo.kl_in=reward", "grpo.kl_estimator=k1", f"grpo.advantage={rule}")
    program, state, frozen = start(tiny_world, *keys)
    shapes, rollout = program.shapes, batch.rollout
    rows = sequences_in_rows(batch.prompts, rollout.tokens, rollout.mask)
    log_probs = [
        log_probs_in_rows(params, rows, shapes.policy, allowed=shapes.vocabulary.allowed, temperature=1.0)[0]
        for params in (tiny_world.policy_params, frozen.reference)
    ]
    kl = np.where(rollout.mask, log_probs[0] - log_probs[1], 0).sum(-1)
    assert np.abs(kl).max() > 0.05
    placed = laid_out(batch, tiny_world.config(*keys), shapes.mesh)
    scored = program.score(frozen.judge, placed.judge, placed.scores)
    state, metrics = program.update(state, frozen, placed, scored)
    np.testing.assert_allclose(float(metrics["kl_penalty"]), 0.5 * kl.mean(), rtol=1e-3, atol=1e-5)
    assert float(metrics["ratio_max"]) == 1.0

    plain, other, frozen = start(tiny_world, "grpo.kl_coefficient=0")
    advantages, _ = group_advantages(scored.rewards - 0.5 * kl, scored.is_valid, normalise=rule)
    other, _ = plain.update(other, frozen, placed, dataclasses.replace(scored, advantages=advantages))
    chex.assert_trees_all_close(state.params, other.params, rtol=1e-4, atol=1e-5)
    unpenalised = start(tiny_world, "grpo.kl_coefficient=0")[1]
    unpenalised, _ = plain.update(unpenalised, frozen, placed, scored)
    apart = jax.tree.map(distance, state.params, unpenalised.params)
    assert max(jax.tree.leaves(apart)) > 1e-3


def test_what_tokens_cost_is_taken_off_over_the_whole_batch_whatever_is_learned_from_at_one_time():
    """Two minibatches of one prompt are one batch of two, and a row that failed is in no statistic."""
    costs = np.random.default_rng(0).normal(size=(2, 1, 3, 4)).astype(np.float32)
    mask = np.arange(4) < np.array([[[4, 2, 1]], [[3, 0, 4]]])[..., None]
    rewards = np.float32([[[1, 0, 3]], [[2, np.nan, 0]]])
    apart = types.SimpleNamespace(
        prompts=None, rollout=None, mask=mask, rewards=rewards, advantages=None, is_valid=np.isfinite(rewards)
    )
    together = types.SimpleNamespace(
        **{name: None if x is None else x.reshape(1, 2, *x.shape[2:]) for name, x in vars(apart).items()}
    )
    for kl_in, rule in (("token_reward", "batch"), ("reward", "batch"), ("reward", "sample_std")):
        grpo = TinyWorld.config(f"grpo.kl_in={kl_in}", f"grpo.advantage={rule}").grpo
        with types_unchecked():
            found = step_module._penalised(apart, costs, grpo).advantages
            whole = step_module._penalised(together, costs.reshape(1, 2, 3, 4), grpo).advantages
        assert found.shape == (mask.shape if kl_in == "token_reward" else rewards.shape)
        np.testing.assert_array_equal(found[:, 0], whole[0])
        assert not np.any(found[1, 0, 1]) and np.std(found) > 0.5


@pytest.mark.slow  # compiles updates of its own; its parts are held above and in tests/grpo
def test_reinforce_pp_pays_each_token_for_what_follows_it(tiny_world):
    """One update of plain gradient descent, with advantages and gradient computed apart from the step."""
    batch, keys = tiny_world.batch(), ("grpo.preset=reinforce_pp", "grpo.kl_coefficient=0.5")
    program, _, frozen = start(tiny_world, *keys)
    shapes, rollout = program.shapes, batch.rollout
    rows = sequences_in_rows(batch.prompts, rollout.tokens, rollout.mask)

    def log_probs(params):
        return log_probs_in_rows(params, rows, shapes.policy, allowed=shapes.vocabulary.allowed, temperature=1.0)[0]

    own, others = (np.float64(jax.jit(log_probs)(params)) for params in (tiny_world.policy_params, frozen.reference))
    state, scored, metrics = run(tiny_world, batch, *keys)
    rewards = np.float64(scored.rewards)
    returns = np.zeros(rollout.mask.shape)
    for p, g, t in np.argwhere(rollout.mask):
        length = rollout.mask[p, g].sum()
        returns[p, g, t] = rewards[p, g] - 0.5 * (own - others)[p, g, t:length].sum()
    tokens = returns[rollout.mask]
    advantages = np.where(rollout.mask, (returns - tokens.mean()) / tokens.std(), 0).astype(np.float32)
    gradient = jax.jit(
        jax.grad(lambda params: -(advantages * log_probs(params)).sum() / np.float32(rollout.mask.sum()))
    )
    expected = jax.tree.map(lambda x, g: x - 0.5 * g, tiny_world.policy_params, gradient(tiny_world.policy_params))
    chex.assert_trees_all_close(state.params["layers"], expected["layers"], rtol=1e-4, atol=2e-5)
    spent = 0.5 * np.where(rollout.mask, own - others, 0).sum(-1).mean()
    np.testing.assert_allclose(float(metrics["kl_penalty"]), spent, rtol=1e-3, atol=1e-5)

    def farthest(other):
        return max(jax.tree.leaves(jax.tree.map(distance, state.params, other.params)))

    frugal, _, _ = run(tiny_world, batch, *keys, "memory.microbatch_prompts=2", "memory.log_prob_chunk=40")
    chex.assert_trees_all_close(state.params, frugal.params, rtol=1e-5, atol=2e-6)
    spread, _, _ = run(tiny_world, batch, *keys, shape=(2, 2, 2))
    chex.assert_trees_all_close(jax.device_get(state.params), jax.device_get(spread.params), rtol=1e-4, atol=5e-6)
    of_completions, _, _ = run(tiny_world, batch, *keys, "grpo.kl_in=reward")
    assert farthest(of_completions) > 1e-3  # each token pays for what went before it too
    unpaid, _, metrics = run(tiny_world, batch, *keys, "grpo.kl_coefficient=0")
    assert farthest(unpaid) > 1e-3 and "kl_penalty" not in metrics
    often, _, metrics = run(tiny_world, batch, *keys, "grpo.minibatches=2", "grpo.epochs=2")
    assert float(metrics["ratio_max"]) > 1 and farthest(often) > 1e-3
    chex.assert_tree_all_finite(often.params)


def test_metrics_of_several_updates_are_means_and_maxima():
    """A mean of maxima would hide the one update in which a ratio ran away."""

    def update(state, value):
        return state + 1, {"loss": value, "ratio_max": value, "logprob_gap_max": value + state}

    _, metrics = step_module._repeat_updates(update, jnp.float32(0), jnp.array([1.0, 6.0, 2.0]), epochs=2)
    assert {name: float(value) for name, value in metrics.items()} == {
        "loss": 3.0, "ratio_max": 6.0, "logprob_gap_max": 1.0,
    }  # fmt: skip


def test_an_invalid_row_leaves_every_number(tiny_world):
    batch = tiny_world.batch()
    is_valid = np.ones((8, 4), bool)
    is_valid[2, 1] = False
    batch = dataclasses.replace(batch, scores=dataclasses.replace(batch.scores, is_valid=is_valid))
    poisoned = batch.scores.components | {"answer": np.where(is_valid, batch.scores.components["answer"], np.nan)}
    other_tokens = np.where(is_valid[..., None], batch.rollout.tokens, 7).astype(np.int32)
    changed = dataclasses.replace(
        batch,
        scores=dataclasses.replace(batch.scores, components=poisoned),
        rollout=dataclasses.replace(batch.rollout, tokens=other_tokens),
    )
    kept, altered = run(tiny_world, batch), run(tiny_world, changed)
    chex.assert_tree_all_finite(altered[0].params)
    chex.assert_trees_all_close(kept[0].params, altered[0].params, rtol=1e-6, atol=1e-7)
    for name, value in kept[2].items():
        np.testing.assert_allclose(value, altered[2][name], rtol=1e-6, atol=1e-7, err_msg=name)


def test_a_group_without_a_valid_row_leaves_every_number(tiny_world):
    batch = tiny_world.batch()
    is_valid = np.ones((8, 4), bool)
    is_valid[2] = False
    components = {name: np.where(is_valid, v, np.nan) for name, v in batch.scores.components.items()}
    batch = dataclasses.replace(
        batch, scores=dataclasses.replace(batch.scores, is_valid=is_valid, components=components)
    )
    state, scored, metrics = run(tiny_world, batch)
    chex.assert_tree_all_finite((state.params, scored.advantages, metrics))
    assert not np.any(scored.advantages[2]) and np.any(scored.advantages)
    assert metrics["failed_rows"] == 4 and metrics["skipped"] == 0
    with_spread = ~np.asarray(scored.is_zero_variance)[np.arange(8) != 2]
    np.testing.assert_allclose(metrics["frac_zero_std"], 1 - with_spread.mean(), rtol=1e-6)


def test_a_step_without_a_valid_row_changes_nothing_and_has_no_reward(tiny_world):
    batch = tiny_world.batch()
    components = {name: np.full_like(values, np.nan) for name, values in batch.scores.components.items()}
    scores = dataclasses.replace(batch.scores, is_valid=np.zeros((8, 4), bool), components=components)
    state, scored, metrics = run(tiny_world, dataclasses.replace(batch, scores=scores), *SMALL_STEP)
    chex.assert_trees_all_equal(state.params, tiny_world.policy_params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.optimizer_state))  # Adam has not counted a step
    assert not np.any(scored.advantages)
    assert metrics["skipped"] == 1 and metrics["failed_rows"] == 32 and metrics["loss"] == 0
    for name in ("reward/total", "reward/provenance", "accuracy", "frac_zero_std", "completion_length"):
        assert np.isnan(metrics[name]), name  # a zero would pass for a reward


def test_the_judge_gets_no_gradient(tiny_world):
    """Of nothing that it finds: rewards alone would have none anyway, for they are thresholds."""
    config, batch = tiny_world.config(), tiny_world.batch()

    def total(judge):
        found = jax.tree.leaves(score_rollout(judge, batch.judge, batch.scores, config, JUDGE))
        return sum(leaf.sum() for leaf in found if jnp.issubdtype(leaf.dtype, jnp.floating))

    gradients = jax.jit(jax.grad(total))(tiny_world.judge_params)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_a_frozen_vision_tower_does_not_move(tiny_world):
    program, before, frozen = start(tiny_world, "policy.trainable=language")
    frozen = dataclasses.replace(frozen, reference=jax.tree.map(jnp.copy, before.params))
    state, _, metrics = program.train_step(before, frozen, packed(tiny_world, program))
    assert "vision" not in state.params
    assert metrics["kl_max"] < 1e-10 < metrics["grad_norm"]  # the reference looks through the tower of the policy
    everything, _, _ = run(tiny_world, tiny_world.batch())
    moved = jax.tree.map(distance, everything.params["vision"], tiny_world.policy_params["vision"])
    assert max(jax.tree.leaves(moved)) > 0


def test_the_two_halves_make_the_step(tiny_world):
    """`score` and `update` apart end like `train_step`, which is their fusion."""
    batch = tiny_world.batch()
    state, scored, metrics = run(tiny_world, batch)
    program, before, frozen = start(tiny_world)
    apart = program.score(frozen.judge, batch.judge, batch.scores)
    chex.assert_trees_all_equal(jax.device_get(apart.components), jax.device_get(scored.components))
    after, metrics_apart = program.update(
        before, frozen, laid_out(batch, tiny_world.config(), program.shapes.mesh), apart
    )
    chex.assert_trees_all_close(state.params, after.params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(metrics, metrics_apart, rtol=1e-5, atol=1e-6)


def test_one_compilation_serves_every_batch(tiny_world):
    for seed in range(3):
        run(tiny_world, tiny_world.batch(seed=seed))
    assert program_of(shape=None).train_step.jitted._cache_size() == 1


def test_float32_masters_move_under_bfloat16_compute(tiny_world):
    before = tiny_world.policy_params["layers"]["q"]["kernel"]
    state, _, metrics = run(tiny_world, tiny_world.batch(), *SMALL_STEP)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))
    after = state.params["layers"]["q"]["kernel"]
    assert float((after != before).mean()) > 0.9  # a bfloat16 parameter would not move by 1e-6
    np.testing.assert_allclose(metrics["loss"], run(tiny_world, tiny_world.batch())[2]["loss"], atol=0.05)


@pytest.mark.slow  # compiles two updates of its own; the rounding is held in tests/step/test_narrow.py
def test_bfloat16_masters_and_moments_see_the_same_gradient_and_move(tiny_world):
    program, before, frozen = start(tiny_world, *SMALL_STEP)
    batch = packed(tiny_world, program)
    _, _, wide = program.train_step(before, frozen, batch)
    program, before, _ = start(
        tiny_world, *SMALL_STEP, "policy.master_dtype=bfloat16", "optimizer.moments_dtype=bfloat16"
    )
    arrays = [leaf for leaf in jax.tree.leaves((before.params, before.optimizer_state)) if leaf.size > 2]
    assert all(leaf.dtype == jnp.bfloat16 for leaf in arrays)
    initial = jax.tree.map(lambda x: np.asarray(x).astype(np.float32), before.params)
    state, _, metrics = program.train_step(before, frozen, batch)
    for name in ("loss", "grad_norm", "skipped"):  # weights are rounded to the nearest as the products read them anyhow
        np.testing.assert_allclose(metrics[name], wide[name], rtol=1e-6, err_msg=name)
    changed = jax.tree.map(lambda new, old: np.mean(np.asarray(new).astype(np.float32) != old), state.params, initial)
    assert 0 < changed["layers"]["up"]["kernel"] < 0.05  # a thousandth of a place: few move, by a whole one
    chex.assert_trees_all_equal_shapes_and_dtypes(state, before)
    invalid = dataclasses.replace(batch.scores, is_valid=np.zeros((8, GROUP), bool))
    kept = jax.tree.map(np.asarray, state)
    state, _, metrics = program.train_step(state, frozen, dataclasses.replace(batch, scores=invalid))
    assert metrics["skipped"] == 1
    chex.assert_trees_all_equal((state.params, state.optimizer_state), (kept.params, kept.optimizer_state))


# each axis alone is slow; the last two hold what the first two do, and the cut heads
ONE_AXIS = [
    pytest.param((8, 1, 1), marks=pytest.mark.slow),
    pytest.param((1, 8, 1), marks=pytest.mark.slow),
    pytest.param((1, 1, 8), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("shape", [*ONE_AXIS, (2, 2, 2)])
def test_every_mesh_gives_the_step_of_one_device(tiny_world, shape):
    batch = tiny_world.batch()
    alone, spread = run(tiny_world, batch), run(tiny_world, batch, shape=shape)
    chex.assert_trees_all_equal(jax.device_get(alone[1].components), jax.device_get(spread[1].components))
    chex.assert_trees_all_close(jax.device_get(alone[0].params), jax.device_get(spread[0].params), rtol=1e-4, atol=2e-6)
    for name in ("loss", "grad_norm", "kl", "reward/total"):
        np.testing.assert_allclose(alone[2][name], spread[2][name], rtol=1e-5, atol=1e-6, err_msg=name)
