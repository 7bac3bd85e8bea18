"""Advantages of a group, as properties."""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reflex_jax.grpo.advantages import component_advantages, group_advantages, token_advantages
from tests.unchecked import types_unchecked

P, G = 3, 6
GROUP_RULES = ("sample_std", "population_std", "none", "leave_one_out")
RULES = (*GROUP_RULES, "batch_std", "batch")

# eighths: what float32 adds and subtracts without rounding
reward_arrays = hnp.arrays(np.float32, (P, G), elements=st.integers(0, 32).map(lambda n: n / 8))
valid_arrays = hnp.arrays(bool, (P, G))
rules = st.sampled_from(RULES)
compiled = jax.jit(group_advantages, static_argnames=("normalise", "epsilon"))
compiled_alone = jax.jit(
    lambda rewards, is_valid, normalise: component_advantages(
        {"only": rewards}, {"only": 1.0}, is_valid, normalise=normalise
    ),
    static_argnames="normalise",
)


def advantages_of(rewards, is_valid=None, **options):
    is_valid = np.ones((P, G), bool) if is_valid is None else is_valid
    return tuple(np.asarray(a) for a in compiled(rewards, is_valid, **options))


def in_float64(rewards, is_valid, rule):
    """Each rule written out, one completion at a time."""
    expected, groups = np.zeros((P, G)), [rewards[p, is_valid[p]].astype(np.float64) for p in range(P)]
    pooled = np.concatenate(groups)
    around_means = np.concatenate([group - group.mean() if group.size else group for group in groups])
    for p, g in np.argwhere(is_valid):
        own, reward = groups[p], float(rewards[p, g])
        if rule == "batch":
            expected[p, g] = (reward - pooled.mean()) / (pooled.std() + 1e-6) if np.ptp(pooled) else 0.0
        elif np.ptp(own):
            expected[p, g] = {
                "sample_std": (reward - own.mean()) / (own.std(ddof=1) + 1e-6),
                "population_std": (reward - own.mean()) / (own.std() + 1e-6),
                "none": reward - own.mean(),
                "leave_one_out": reward - (own.sum() - reward) / (own.size - 1),
                "batch_std": (reward - own.mean()) / (around_means.std() + 1e-6),
            }[rule]
    return expected, [group.size < 2 or not np.ptp(group) for group in groups]


@given(reward_arrays, valid_arrays, rules)
def test_equals_a_loop_in_float64(rewards, is_valid, rule):
    advantages, is_zero_variance = advantages_of(rewards, is_valid, normalise=rule)
    expected, is_flat = in_float64(rewards, is_valid, rule)
    np.testing.assert_array_equal(is_zero_variance, is_flat)
    np.testing.assert_allclose(advantages, expected, rtol=1e-4, atol=1e-5)
    assert (advantages[expected == 0] == 0).all() or rule == "batch"


def test_each_rule_by_hand():
    """Two groups, rewards 0 0 3 and 1 1 1; a failed row in the second."""
    rewards = np.float32([[0, 0, 3], [1, 1, np.nan]])
    is_valid = np.isfinite(rewards)
    by_hand = {
        "sample_std": [-1 / 3**0.5, -1 / 3**0.5, 2 / 3**0.5],  # std of 0 0 3 with n - 1: sqrt(3)
        "population_std": [-1 / 2**0.5, -1 / 2**0.5, 2**0.5],  # with n: sqrt(2)
        "none": [-1, -1, 2],
        "leave_one_out": [-1.5, -1.5, 3],  # the others' means: 1.5, 1.5, 0
        "batch_std": [-1 / 1.2**0.5, -1 / 1.2**0.5, 2 / 1.2**0.5],  # (1 + 1 + 4 + 0 + 0) / 5
        "batch": [-1 / 1.2**0.5, -1 / 1.2**0.5, 2 / 1.2**0.5],  # the mean of 0 0 3 1 1 is 1
    }
    for rule, expected in by_hand.items():
        advantages, is_flat = compiled(rewards, is_valid, normalise=rule)
        np.testing.assert_allclose(advantages, [expected, [0, 0, 0]], rtol=1e-5, atol=1e-6, err_msg=rule)
        np.testing.assert_array_equal(is_flat, [False, True])
    # by the rule `batch` a group of equal rewards has a signal all the same: it is worse than another
    advantages, is_flat = compiled(np.float32([[0, 0], [2, 2]]), np.ones((2, 2), bool), normalise="batch")
    np.testing.assert_allclose(advantages, [[-1, -1], [1, 1]], rtol=1e-5)
    assert is_flat.all()


@given(reward_arrays, valid_arrays, rules)
def test_sum_to_zero_and_invalid_rows_get_exactly_zero(rewards, is_valid, rule):
    advantages, _ = advantages_of(rewards, is_valid, normalise=rule)
    np.testing.assert_allclose(advantages.sum(axis=None if rule == "batch" else 1), 0, atol=1e-4)
    assert (advantages[~is_valid] == 0).all()


@given(reward_arrays, valid_arrays, rules)
def test_failed_rows_may_hold_anything(rewards, is_valid, rule):
    broken = np.where(is_valid, rewards, np.resize(np.float32([np.nan, np.inf, -np.inf]), (P, G)))
    for whole, other in zip(
        advantages_of(rewards, is_valid, normalise=rule), advantages_of(broken, is_valid, normalise=rule), strict=True
    ):
        np.testing.assert_array_equal(whole, other)


@given(reward_arrays, st.integers(-16, 16), rules)
def test_a_constant_added_to_all_rewards_changes_nothing(rewards, shift, rule):
    advantages, is_zero = advantages_of(rewards, normalise=rule)
    shifted, is_zero_shifted = advantages_of(rewards + np.float32(shift / 4), normalise=rule)
    np.testing.assert_array_equal(is_zero, is_zero_shifted)
    np.testing.assert_allclose(advantages, shifted, rtol=1e-4, atol=1e-5)


@given(reward_arrays, valid_arrays, st.permutations(range(G)), rules)
def test_permutation_inside_a_group_permutes_the_advantages(rewards, is_valid, order, rule):
    advantages, is_zero = advantages_of(rewards, is_valid, normalise=rule)
    permuted, is_zero_permuted = advantages_of(rewards[:, order], is_valid[:, order], normalise=rule)
    np.testing.assert_array_equal(is_zero, is_zero_permuted)
    np.testing.assert_allclose(advantages[:, order], permuted, rtol=1e-5, atol=1e-6)


@given(reward_arrays, reward_arrays, valid_arrays, st.sampled_from(GROUP_RULES))
def test_other_groups_do_not_matter(rewards, others, is_valid, rule):
    replaced = np.concatenate([rewards[:1], others[1:]])
    first, _ = advantages_of(rewards, is_valid, normalise=rule)
    second, _ = advantages_of(replaced, is_valid, normalise=rule)
    np.testing.assert_array_equal(first[0], second[0])


@pytest.mark.parametrize("rule", RULES)
def test_equal_rewards_give_exactly_zero_with_finite_gradients(rule):
    """Six float32 rewards of 2.3 have a standard deviation of 2.6e-7, which would give advantages of 0.19."""
    rewards, is_valid = np.full((P, G), 2.3, np.float32), np.ones((P, G), bool)
    is_valid[1, 1:] = is_valid[2] = False
    advantages, is_zero = advantages_of(rewards, is_valid, normalise=rule)
    assert (advantages == 0).all() and is_zero.all()
    gradient = jax.jit(jax.grad(lambda r: group_advantages(r, is_valid, normalise=rule)[0][0, 0]))(rewards)
    assert np.isfinite(gradient).all()
    broken = rewards.copy()
    broken[1, 3] = np.nan
    gradient = jax.jit(jax.grad(lambda r: group_advantages(r, is_valid, normalise=rule)[0].sum()))(broken)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("rule", RULES)
def test_jit_equals_eager_and_batch_equals_loop(rule):
    rewards = jax.random.normal(jax.random.key(0), (P, G))
    is_valid = jax.random.bernoulli(jax.random.key(1), 0.8, (P, G))
    eager, _ = group_advantages(rewards, is_valid, normalise=rule)
    np.testing.assert_allclose(eager, advantages_of(rewards, is_valid, normalise=rule)[0], atol=1e-6)
    for p in range(P if rule in GROUP_RULES else 0):
        alone, _ = compiled(rewards[p : p + 1], is_valid[p : p + 1], normalise=rule)
        np.testing.assert_allclose(eager[p], alone[0], atol=1e-6)


def test_epsilon_is_added_to_the_standard_deviation():
    rewards = np.float32([[0, 1]])
    advantages, _ = compiled(rewards, np.ones((1, 2), bool), normalise="population_std", epsilon=0.5)
    np.testing.assert_allclose(advantages, [[-0.5, 0.5]])


def test_unknown_rule_is_named():
    with (
        types_unchecked(),
        pytest.raises(ValueError, match="normalise: expected one of sample_std, .*, batch; got 'zscore'"),
    ):
        group_advantages(np.zeros((1, 2)), np.ones((1, 2), bool), normalise="zscore")


# --- each component by itself

# Three groups. a: 0 0 3 | 1 1 - | 2 2 2 and b: 1 0 0.5 | 0 1 - | 1 1 1, the third row of the second group failed.
A = np.float32([[0, 0, 3], [1, 1, np.nan], [2, 2, 2]])
B = np.float32([[1, 0, 0.5], [0, 1, np.nan], [1, 1, 1]])
IS_VALID = np.isfinite(A)
# population_std. a: deviations -1 -1 2 over sqrt(2); flat; flat. b: 0.5 -0.5 0 over sqrt(1/6); -0.5 0.5 over 0.5; flat.
OF_A = np.array([[-1, -1, 2], [0, 0, 0], [0, 0, 0]]) / 2**0.5
OF_B = np.array([[0.5 * 6**0.5, -0.5 * 6**0.5, 0], [-1, 1, 0], [0, 0, 0]])


def by_component(weights, normalise="population_std", components=None, is_valid=IS_VALID, **options):
    given = {"a": A, "b": B} if components is None else components
    function = partial(component_advantages, weights=weights, normalise=normalise, **options)
    advantages, is_flat = jax.jit(function)(given, is_valid=is_valid)
    return np.asarray(advantages), np.asarray(is_flat)


def test_components_are_standardised_each_and_then_weighted_by_hand():
    advantages, is_flat = by_component({"a": 1.0, "b": 2.0})
    np.testing.assert_allclose(advantages, OF_A + 2 * OF_B, rtol=1e-5, atol=1e-6)
    assert (advantages[~IS_VALID] == 0).all() and (advantages[2] == 0).all()
    np.testing.assert_array_equal(is_flat, [False, False, True])


def test_a_component_without_weight_is_neither_summed_nor_looked_at():
    advantages, is_flat = by_component({"a": 1.0, "b": 0.0})
    np.testing.assert_allclose(advantages, OF_A, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(is_flat, [False, True, True])


def test_over_the_batch_the_sum_is_divided_by_its_spread_by_hand():
    """Of the 8 valid sums the mean is 0 and the mean square their sum of squares / 8."""
    sums = OF_A + 2 * OF_B
    advantages, is_flat = by_component({"a": 1.0, "b": 2.0}, over_batch=True)
    np.testing.assert_allclose(advantages, sums / ((sums**2).sum() / 8) ** 0.5, rtol=1e-5, atol=1e-6)
    assert (advantages[2] == 0).all() and is_flat[2]
    flat, _ = by_component({"a": 1.0, "b": 1.0}, components={"a": np.ones((2, 3)), "b": np.ones((2, 3))},
                           is_valid=np.ones((2, 3), bool), over_batch=True)  # fmt: skip
    assert (flat == 0).all()
    noise = {"a": np.float32([[2.3, 0.1, 0.7]]), "b": -np.float32([[2.3, 0.1, 0.7]]) * np.float32(3) - np.float32(0.3)}
    cancelled, _ = by_component({"a": 1.0, "b": 1.0}, components=noise, is_valid=np.ones((1, 3), bool), over_batch=True)
    assert (cancelled == 0).all()


def test_mixtures_that_a_sum_confounds_stay_apart():
    """Two completions: the second is better in one reward, or in both. As a sum both groups get -0.71 and 0.71."""
    is_valid = np.ones((2, 2), bool)
    rewards = {"a": np.float32([[0, 1], [0, 1]]), "b": np.float32([[0, 0], [0, 1]])}
    summed, _ = compiled(rewards["a"] + rewards["b"], is_valid)
    apart, _ = by_component({"a": 1.0, "b": 1.0}, "sample_std", rewards, is_valid)
    half = 0.5**0.5
    np.testing.assert_allclose(summed, [[-half, half], [-half, half]], rtol=1e-5)
    np.testing.assert_allclose(apart, [[-half, half], [-2 * half, 2 * half]], rtol=1e-5)


@given(reward_arrays, valid_arrays, rules)
def test_one_component_by_itself_is_the_rule(rewards, is_valid, rule):
    ours = compiled_alone(rewards, is_valid, normalise=rule)
    for mine, theirs in zip(ours, advantages_of(rewards, is_valid, normalise=rule), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-7)


def test_gradients_through_flat_and_failed_components_are_numbers():
    def first(a):
        return component_advantages({"a": a, "b": B}, {"a": 1.0, "b": 1.0}, IS_VALID, over_batch=True)[0][0, 0]

    gradient = jax.jit(jax.grad(first))
    assert np.isfinite(np.asarray(gradient(np.where(IS_VALID, A, 0.0)))).all()
    assert np.isfinite(np.asarray(gradient(np.full_like(A, 2.3)))).all()


# --- an advantage for each token

LC = 4
PENALTIES = np.random.default_rng(3).normal(size=(P, G, LC)).astype(np.float32)
compiled_tokens = jax.jit(token_advantages, static_argnames="epsilon")


def test_a_token_has_what_follows_it_standardised_over_all_tokens_by_hand():
    """Rewards 1 and 0. The first completion pays 0.5 and gets 0.25 back, the second pays 0.25.

    Returns: 1 - (0.5 - 0.25) = 3/4, then 1 + 1/4 = 5/4; 0 - 1/4 = -1/4. Their mean is 7/12, the distances from it 2, 8 and
    -10 twelfths, the variance (4 + 64 + 100) / 144 / 3 = 14/36, so the advantages are 1, 4 and -5 over the root of 14.
    """
    mask = np.array([[[True, True], [True, False]]])
    penalties = np.float32([[[0.5, -0.25], [0.25, np.nan]]])
    advantages = compiled_tokens(np.float32([[1, 0]]), penalties, mask)
    np.testing.assert_allclose(advantages, np.array([[[1, 4], [-5, 0]]]) / 14**0.5, rtol=1e-5)
    assert np.asarray(advantages)[0, 1, 1] == 0


@given(reward_arrays, hnp.arrays(np.int32, (P, G), elements=st.integers(0, LC)))
def test_advantages_of_tokens_equal_a_loop_in_float64(rewards, lengths):
    mask = np.arange(LC) < lengths[..., None]
    returns = {
        (p, g, t): float(rewards[p, g]) - PENALTIES[p, g, t : lengths[p, g]].astype(np.float64).sum()
        for p, g, t in np.argwhere(mask)
    }
    values, expected = np.array(list(returns.values())), np.zeros((P, G, LC))
    for place, value in returns.items():
        expected[place] = (value - values.mean()) / (values.std() + 1e-6) if np.ptp(values) > 1e-5 else 0.0
    poisoned = np.where(mask.any(-1), rewards, np.nan)  # a failed row has no token in the mask
    np.testing.assert_allclose(compiled_tokens(poisoned, PENALTIES, mask), expected, rtol=1e-4, atol=1e-4)


def test_without_penalties_a_long_completion_counts_as_often_as_it_has_tokens():
    """Rewards 1 (three tokens) and 0 (one): mean 3/4, variance 3/16. By completions both would be 1 away from the mean."""
    mask = np.array([[[True] * 3, [True, False, False]]])
    advantages = compiled_tokens(np.float32([[1, 0]]), np.zeros(mask.shape, np.float32), mask)
    np.testing.assert_allclose(advantages, np.array([[[1, 1, 1], [-3, 0, 0]]]) / 3**0.5, rtol=1e-5)


def test_tokens_of_equal_returns_have_exactly_none():
    ones = np.ones((P, G, LC), bool)
    assert not np.any(compiled_tokens(np.full((P, G), 2.3, np.float32), np.zeros(ones.shape, np.float32), ones))
    assert not np.any(compiled_tokens(np.full((P, G), np.nan, np.float32), PENALTIES, ~ones))
