"""Rows (a prompt, then G completions) against the repeated path (G whole sequences), values and gradients.

The tolerance covers the order of float32 sums only; a completion that saw another one, a shifted position or a padding
key moves the numbers by more than a percent.
"""

import dataclasses
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reflex_jax.models.attention_choice import AttentionChoice
from reflex_jax.models.qwen_vl import init_policy_params, prompt_logits
from reflex_jax.records import PromptInputs
from tests.laid_out import log_probs_in_rows, sequences_in_rows
from tests.tiny_policy import ALLOWED, CONFIG, CONFIGS, odd_completions, odd_prompts, tiny_params, with_a_gradient

TOLERANCE = 1e-4  # of the largest number of a leaf; the sums cancel, 4e-5 was seen
TEMPERATURE = 0.7


def repeated_prompts(prompts: PromptInputs, tokens: np.ndarray) -> PromptInputs:
    """Every completion behind its own copy of prompt and image, [P * G, Lp + Lc]."""
    group_size, steps = tokens.shape[1:]
    copies = jax.tree.map(lambda leaf: jnp.repeat(leaf, group_size, axis=0), prompts)
    rows = tokens.reshape(-1, steps)
    next_position = jnp.where(copies.is_valid[:, None], copies.positions, -1).max((1, 2)) + 1
    own = jnp.broadcast_to((next_position[:, None] + jnp.arange(steps))[:, None], (len(rows), 3, steps))
    return dataclasses.replace(
        copies,
        tokens=jnp.concatenate([copies.tokens, rows], axis=1),
        is_valid=jnp.concatenate([copies.is_valid, jnp.ones(rows.shape, bool)], axis=1),
        positions=jnp.concatenate([copies.positions, own], axis=2),
        feature_index=jnp.concatenate([copies.feature_index, jnp.full(rows.shape, -1)], axis=1),
    )


def repeated_log_probs(params, prompts: PromptInputs, tokens: np.ndarray, config=CONFIG) -> jax.Array:
    """The oracle: G whole sequences per prompt, full logits, log_softmax."""
    whole = repeated_prompts(prompts, tokens)
    length, steps = prompts.tokens.shape[1], tokens.shape[2]
    logits = jnp.where(ALLOWED, prompt_logits(params, whole, config) / TEMPERATURE, -jnp.inf)
    last = jnp.where(whole.is_valid[:, :length], jnp.arange(length), 0).max(1)
    rows = jnp.concatenate([last[:, None], jnp.broadcast_to(length + jnp.arange(steps - 1), (len(last), steps - 1))], 1)
    log_probs = jax.nn.log_softmax(jnp.take_along_axis(logits, rows[..., None], axis=1))
    chosen = jnp.take_along_axis(log_probs, whole.tokens[:, length:, None], axis=-1)
    return chosen.reshape(tokens.shape)


of_rows = partial(log_probs_in_rows, config=CONFIG, allowed=ALLOWED, temperature=TEMPERATURE)
jitted = jax.jit(of_rows)


def shared(params, prompts: PromptInputs, tokens: np.ndarray, **options):
    return of_rows(params, sequences_in_rows(prompts, tokens), **options)


def shared_log_probs(params, prompts: PromptInputs, tokens: np.ndarray):
    return jitted(params, sequences_in_rows(prompts, tokens))


def gradients_of(log_probs_of, params):
    """Log-probs, and the gradients of a sum of them with random weights."""
    weights = np.random.default_rng(2).normal(size=odd_completions().shape)

    def loss(params):
        log_probs = log_probs_of(params)
        return (weights * log_probs).sum(), log_probs

    (_, log_probs), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return log_probs, gradients


@pytest.fixture(scope="module")
def params():
    return tiny_params()


@pytest.fixture(scope="module")
def expected(params):
    return gradients_of(lambda p: repeated_log_probs(p, odd_prompts(), odd_completions()), params)


@pytest.mark.parametrize(
    ("padding", "options"),
    [("left", {}), ("right", {"remat": True, "log_prob_chunk": 13})],
    ids=["plain", "remat_and_chunks"],
)
def test_shared_path_has_values_and_gradients_of_repeated_path(params, expected, padding, options):
    prompts = odd_prompts(padding=padding)
    got = gradients_of(lambda p: shared(p, prompts, odd_completions(), **options)[0], params)
    errors = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(b).max()), got, expected)
    assert max(jax.tree.leaves(errors)) < TOLERANCE, errors
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(got[1]["vision"]))


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(f, marks=pytest.mark.slow if f in ("qwen2_vl", "smolvlm") else ())
        for f in CONFIGS
        if f != CONFIG.family
    ],
)
def test_shared_path_of_every_family_has_values_and_gradients_of_its_repeated_path(family):
    """In blocks, with layers computed again and logits in chunks, against scores in memory and nothing shared."""
    config, tokens = CONFIGS[family], odd_completions()
    params, prompts = tiny_params(config=config), odd_prompts(padding="right", config=config)
    sequences = jax.device_put(sequences_in_rows(prompts, tokens))
    how = {"attention": AttentionChoice("blocked"), "remat": True, "log_prob_chunk": 13}
    got = gradients_of(
        lambda p: log_probs_in_rows(p, sequences, config, allowed=ALLOWED, temperature=TEMPERATURE, **how)[0], params
    )
    expected = gradients_of(lambda p: repeated_log_probs(p, prompts, tokens, config), params)
    got, expected = ((log_probs, with_a_gradient(tree, config)) for log_probs, tree in (got, expected))
    errors = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(b).max()), got, expected)
    assert max(jax.tree.leaves(errors)) < TOLERANCE, errors
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(got[1]))


def test_padding_side_and_amount_change_nothing(params):
    tokens = odd_completions()
    left, _ = shared_log_probs(params, odd_prompts(padding="left"), tokens)
    right, _ = shared_log_probs(params, odd_prompts(padding="right"), tokens)
    np.testing.assert_allclose(left, right, rtol=0, atol=2e-5)


def test_prompts_of_a_batch_without_images_need_no_vision_inputs(params):
    prompts, tokens = odd_prompts(), odd_completions()
    with_empty_windows = jax.tree.map(lambda leaf: leaf[1:], prompts)
    without = dataclasses.replace(with_empty_windows, vision=None)
    expected, _ = shared_log_probs(params, with_empty_windows, tokens[1:])
    got, _ = shared_log_probs(params, without, tokens[1:])
    np.testing.assert_array_equal(got, expected)


def test_tokens_change_nothing_before_them_and_nothing_in_other_completions(params):
    prompts, tokens = odd_prompts(), odd_completions()
    changed = tokens.copy()
    changed[:, 1, 4:] = (changed[:, 1, 4:] + 7) % 90
    before, after = (shared_log_probs(params, prompts, each)[0] for each in (tokens, changed))
    np.testing.assert_array_equal(before[:, [0, 2]], after[:, [0, 2]])
    np.testing.assert_array_equal(before[:, 1, :4], after[:, 1, :4])
    assert (before[:, 1, 5:] != after[:, 1, 5:]).all()


def test_permuting_a_group_permutes_its_log_probs(params):
    prompts, tokens = odd_prompts(), odd_completions()
    log_probs, entropies = shared_log_probs(params, prompts, tokens)
    permuted = shared_log_probs(params, prompts, tokens[:, [2, 0, 1]])
    chex.assert_trees_all_close((log_probs[:, [2, 0, 1]], entropies[:, [2, 0, 1]]), permuted, atol=1e-5)


def test_entropy_is_that_of_the_allowed_vocabulary_and_carries_no_gradient(params):
    prompts, tokens = odd_prompts(), odd_completions(group_size=1, steps=1)
    _, entropies = shared_log_probs(params, prompts, tokens)
    logits = jax.jit(partial(prompt_logits, config=CONFIG))(params, prompts)[:, -1] / TEMPERATURE
    p = jax.nn.softmax(jnp.where(ALLOWED, logits, -jnp.inf))
    np.testing.assert_allclose(entropies[:, 0, 0], -(p * jnp.log(jnp.where(ALLOWED, p, 1))).sum(-1), rtol=1e-4)
    gradients = jax.jit(jax.grad(lambda p: shared(p, prompts, tokens)[1].sum()))(params)
    assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(gradients))


def test_temperature_zero_counts_as_one(params):
    prompts, tokens = odd_prompts(), odd_completions()
    greedy, plain = (
        jax.jit(partial(of_rows, temperature=temperature))(params, sequences_in_rows(prompts, tokens))[0]
        for temperature in (0.0, 1.0)
    )
    np.testing.assert_array_equal(greedy, plain)


def test_jit_equals_eager(params):
    prompts, tokens = odd_prompts(), odd_completions()
    eager = shared(params, prompts, tokens)
    chex.assert_trees_all_close(eager, shared_log_probs(params, prompts, tokens), atol=1e-5)


def test_half_precision_gradients_are_finite(params):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    loss = lambda params: shared(params, odd_prompts(), odd_completions())[0].sum()  # noqa: E731
    gradients = jax.jit(jax.grad(loss))(half)
    chex.assert_tree_all_finite(gradients)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(gradients))


def test_half_precision_parameters_give_float32_log_probs_near_the_exact_ones(params):
    prompts, tokens = odd_prompts(), odd_completions()
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    exact, _ = shared_log_probs(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half), prompts, tokens)
    got, entropies = shared_log_probs(half, prompts, tokens)
    assert got.dtype == entropies.dtype == jnp.float32
    # about 2**-8 per rounding over a handful of layers; statistics in half precision give several times as much
    assert float(jnp.abs(got - exact).mean()) < 0.05 * float(jnp.abs(exact).mean())


def test_random_parameters_have_the_shapes_of_the_model():
    params = jax.jit(partial(init_policy_params, CONFIG, dtype=jnp.bfloat16))(jax.random.key(0))
    chex.assert_shape(params["layers"]["k"]["kernel"], (2, 32, 16))
    chex.assert_shape(params["vision"]["patch_embed"]["kernel"], (1176, 16))
    assert "head" not in params
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(params))
    assert 0.015 < float(params["layers"]["gate"]["kernel"].astype(jnp.float32).std()) < 0.025
