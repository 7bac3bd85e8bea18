"""The clipped objective with its KL term: values against float64 loops, gradients against algebra, invariances."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from reflex_jax.grpo.advantages import group_advantages
from reflex_jax.grpo.objective import (
    LOG_RATIO_BOUND,
    Objective,
    clipped_surrogate,
    kl_values,
    loss_denominator,
    policy_loss_terms,
    reduce_metrics,
)
from tests.unchecked import types_unchecked

P, G, LC = 4, 3, 5
AGGREGATIONS = ("sequence", "token", "constant")
DEFAULTS = {
    "clip_low": 0.2,
    "clip_high": 0.28,
    "kl_coefficient": 0.05,
    "kl_estimator": "k3",
    "ratio": "old",
    "aggregation": "sequence",
}

log_prob_arrays = hnp.arrays(np.float32, (P, G, LC), elements=st.floats(-2, -0.125, width=32, allow_subnormal=False))
advantage_arrays = hnp.arrays(np.float32, (P, G), elements=st.floats(-2, 2, width=32, allow_subnormal=False))
length_arrays = hnp.arrays(np.int32, (P, G), elements=st.integers(0, LC))
_compiled_terms = jax.jit(policy_loss_terms, static_argnames="objective")
_compiled_gradient = jax.jit(jax.grad(policy_loss_terms, has_aux=True), static_argnames="objective")
_compiled_both = jax.jit(jax.value_and_grad(policy_loss_terms, has_aux=True), static_argnames="objective")
reduced_metrics = jax.jit(reduce_metrics)
surrogate_and_slope = jax.jit(
    jax.value_and_grad(clipped_surrogate), static_argnames=("clip_low", "clip_high", "dual_clip")
)
k3_and_slope = jax.jit(jax.value_and_grad(kl_values), static_argnames=("estimator", "clamp"))
compiled_kl = jax.jit(kl_values, static_argnames=("estimator", "clamp"))


def loss_terms(*arrays, denominator, **options):
    return policy_loss_terms(*arrays, objective=Objective(**options), denominator=denominator)


def compiled_terms(*arrays, denominator, **options):
    return _compiled_terms(*arrays, objective=Objective(**options), denominator=denominator)


def compiled_gradient(*arrays, denominator, **options):
    return _compiled_gradient(*arrays, objective=Objective(**options), denominator=denominator)


def compiled_both(*arrays, denominator, **options):
    return _compiled_both(*arrays, objective=Objective(**options), denominator=denominator)


def mask_of(lengths):
    return np.arange(LC) < lengths[..., None]


def batch(seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    log_probs, old, reference = (-jax.random.exponential(key, (P, G, LC)) for key in keys[:3])
    old, reference = log_probs + 0.3 * (old + 1), log_probs + 0.3 * (reference + 1)
    lengths = np.array([[5, 1, 3], [2, 5, 4], [1, 1, 1], [5, 5, 0]])
    return log_probs, old, reference, jax.random.normal(keys[3], (P, G)), mask_of(lengths)


def loss_in_float64(log_probs, old, reference, advantages, mask, denominator, options):
    """Eq. 10, one completion and one token at a time."""
    total = 0.0
    for p, g in np.ndindex(P, G):
        tokens, places = [], np.flatnonzero(mask[p, g])
        behaviour = old if options["ratio"] == "old" else reference
        log_ratios = np.float64(log_probs[p, g]) - np.float64(behaviour[p, g])
        for t in places:
            is_of_token = options.get("ratio_level", "token") == "token"
            ratio = np.exp(log_ratios[t] if is_of_token else log_ratios[places].mean())
            clipped = min(max(ratio, 1 - options["clip_low"]), 1 + options["clip_high"])
            surrogate = min(ratio * advantages[p, g], clipped * advantages[p, g])
            d = np.float64(reference[p, g, t]) - np.float64(log_probs[p, g, t])
            kl = d**2 / 2 if options["kl_estimator"] == "k2" else np.exp(d) - 1 - d
            tokens.append(surrogate - options["kl_coefficient"] * kl)
        if tokens:
            total -= np.mean(tokens) if options["aggregation"] == "sequence" else np.sum(tokens)
    return total / denominator


# --- the KL estimators, on a policy small enough to enumerate


toy_logits = hnp.arrays(np.float32, 5, elements=st.floats(-2, 2, width=32, allow_subnormal=False))


def toy_expectation(logits, reference_logits, estimator):
    """E over the policy's own actions of the estimate; the sampling has no gradient, as in training."""
    log_probs = jax.nn.log_softmax(logits)
    values = kl_values(log_probs, jax.nn.log_softmax(reference_logits), estimator=estimator)
    return jnp.sum(jax.lax.stop_gradient(jnp.exp(log_probs)) * values)


def exact_kl(logits, other_logits):
    log_probs = jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(log_probs) * (log_probs - jax.nn.log_softmax(other_logits)))


toy_value_and_gradient = jax.jit(jax.value_and_grad(toy_expectation), static_argnums=2)
exact_value_and_gradient = jax.jit(jax.value_and_grad(exact_kl))
exact_reverse_gradient = jax.jit(jax.grad(lambda logits, reference: exact_kl(reference, logits)))


@given(toy_logits, toy_logits)
def test_kl_estimators_on_an_enumerable_policy(logits, reference):
    kl, forward_gradient = exact_value_and_gradient(logits, reference)
    reverse_gradient = exact_reverse_gradient(logits, reference)
    results = {name: toy_value_and_gradient(logits, reference, name) for name in ("k1", "k2", "k3", "k3+")}
    for unbiased in ("k1", "k3", "k3+"):
        np.testing.assert_allclose(results[unbiased][0], kl, atol=2e-6)
    expected_gradients = {
        "k1": np.zeros(5),
        "k2": forward_gradient,
        "k3": reverse_gradient,
        "k3+": forward_gradient,
    }
    for name, expected in expected_gradients.items():
        np.testing.assert_allclose(results[name][1], expected, atol=1e-5, err_msg=name)


def test_k2_is_biased_as_a_value_and_k3_differs_from_k2_as_a_gradient():
    """Guards the test above against a policy on which everything agrees."""
    logits, reference = jnp.array([1.0, 0, -1, 0.5, 2]), jnp.array([-1.0, 1, 0, 2, 0])
    kl, gradient = exact_value_and_gradient(logits, reference)
    assert abs(toy_value_and_gradient(logits, reference, "k2")[0] - kl) > 0.05
    assert np.abs(toy_value_and_gradient(logits, reference, "k3")[1] - gradient).max() > 0.05


@given(log_prob_arrays, log_prob_arrays)
def test_k2_and_k3_are_never_negative_and_k3_plus_has_the_value_of_k3(log_probs, reference):
    values = {name: np.asarray(compiled_kl(log_probs, reference, estimator=name)) for name in ("k2", "k3", "k3+")}
    assert (values["k2"] >= 0).all() and (values["k3"] >= -1e-7).all()
    np.testing.assert_array_equal(values["k3"], values["k3+"])
    assert (np.asarray(compiled_kl(log_probs, log_probs, estimator="k3")) == 0).all()


# --- values and gradients of the whole objective


@pytest.mark.parametrize(
    "ratio, level, estimator, aggregation",
    [
        ("old", "token", "k2", "token"),
        ("old", "sequence", "k3", "sequence"),
        ("old", "token", "k3+", "constant"),
        ("ref", "token", "k2", "sequence"),
        ("ref", "sequence", "k3", "token"),
    ],
)
def test_loss_equals_a_loop_in_float64(ratio, level, estimator, aggregation):
    options = DEFAULTS | {"ratio": ratio, "ratio_level": level, "kl_estimator": estimator, "aggregation": aggregation}
    arrays = batch()
    loss, _ = compiled_terms(*arrays, **options, denominator=jnp.float32(7.0))
    np.testing.assert_allclose(loss, loss_in_float64(*arrays, 7.0, options), rtol=1e-5)


@settings(max_examples=25)
@given(
    log_prob_arrays,
    log_prob_arrays,
    log_prob_arrays,
    advantage_arrays,
    length_arrays,
    st.sampled_from(AGGREGATIONS),
    st.sampled_from(("token", "sequence")),
)
def test_loss_equals_a_loop_in_float64_anywhere(log_probs, old, reference, advantages, lengths, aggregation, level):
    options = DEFAULTS | {"aggregation": aggregation, "ratio_level": level}
    arrays = (log_probs, old, reference, advantages, mask_of(lengths))
    denominator = loss_denominator(arrays[-1], np.ones((P, G), bool), aggregation=aggregation)
    loss, metrics = compiled_terms(*arrays, **options, denominator=denominator)
    np.testing.assert_allclose(loss, loss_in_float64(*arrays, float(denominator), options), rtol=1e-4, atol=1e-5)
    gradient, _ = compiled_gradient(*arrays, **options, denominator=denominator)
    assert np.isfinite(gradient).all() and (np.asarray(gradient)[~arrays[-1]] == 0).all()
    assert all(np.isfinite(value) for value in reduced_metrics(metrics).values())


def test_on_policy_gradient_is_the_policy_gradient():
    """Before the policy moves every ratio is 1, and the gradient of each token is -A / (length * completions)."""
    log_probs, _, _, advantages, mask = batch()
    options = DEFAULTS | {"kl_coefficient": 0.0}
    denominator = loss_denominator(mask, np.ones((P, G), bool), aggregation="sequence")
    gradient, metrics = compiled_gradient(log_probs, None, None, advantages, mask, **options, denominator=denominator)
    lengths = np.maximum(mask.sum(-1, keepdims=True), 1)
    np.testing.assert_allclose(gradient, mask * -np.asarray(advantages)[..., None] / lengths / (P * G), rtol=1e-5)
    same, _ = compiled_gradient(log_probs, log_probs, None, advantages, mask, **options, denominator=denominator)
    np.testing.assert_array_equal(gradient, same)
    reduced = reduced_metrics(metrics)
    assert set(reduced) == {"ratio", "ratio_max", "clip_fraction"}
    assert reduced["ratio"] == 1 and reduced["ratio_max"] == 1 and reduced["clip_fraction"] == 0


def test_the_ratio_of_a_sequence_by_hand():
    """GSPO (arXiv:2507.18071, Eq. 5 to 7): ratios 2, 1/2 and 4 of three tokens have the geometric mean 4^(1/3)."""
    log_probs = jnp.log(jnp.array([[[2.0, 0.5, 4.0, 9.0], [1.0, 1.0, 1.0, 1.0]]]))
    old, mask = jnp.zeros_like(log_probs), jnp.array([[[True, True, True, False], [True, False, False, False]]])
    options = DEFAULTS | {"kl_coefficient": 0.0, "ratio_level": "sequence", "clip_low": 0.5, "clip_high": 1.0}
    arrays = (log_probs, old, None, jnp.array([[3.0, -1.0]]), mask)
    (loss, metrics), gradient = compiled_both(*arrays, **options, denominator=jnp.float32(2))
    ratio = 4 ** (1 / 3)
    np.testing.assert_allclose(loss, -(3 * ratio - 1) / 2, rtol=1e-6)
    # Eq. 10 of GSPO: the gradient of each token is A s / |o|
    np.testing.assert_allclose(gradient[0, 0], [-3 * ratio / 3 / 2] * 3 + [0], rtol=1e-6)
    np.testing.assert_allclose(gradient[0, 1], [1 / 2, 0, 0, 0], rtol=1e-6)
    assert float(reduced_metrics(metrics)["ratio_max"]) == pytest.approx(ratio)
    # GSPO-token (Eq. 13 and 14), written out: sg[s] pi / sg[pi] for each token has the same gradient

    def gspo_token(log_probs):
        each = ratio * jnp.exp(log_probs - jax.lax.stop_gradient(log_probs))
        return -jnp.where(mask[0, 0], each * 3.0, 0.0)[0, 0].sum() / 3 / 2

    np.testing.assert_allclose(jax.jit(jax.grad(gspo_token))(log_probs)[0, 0], gradient[0, 0], rtol=1e-6)
    by_token, _ = compiled_gradient(*arrays, **(options | {"ratio_level": "token"}), denominator=jnp.float32(2))
    # by tokens the ratio of 4 is cut off, and 2 is not 4^(1/3)
    assert np.abs(np.asarray(by_token) - gradient).max() > 0.1


def test_a_constant_denominator_pays_each_token_alike_however_long_the_completion():
    """Dr. GRPO (arXiv:2503.20783): no 1 / |o|, so a token of a long wrong answer costs as much as one of a short one."""
    log_probs, _, _, _, mask = batch()
    advantages, is_valid = -jnp.ones((P, G)), np.ones((P, G), bool)
    gradients = {}
    for aggregation, denominator in (("constant", P * G * LC), ("sequence", P * G)):
        options = DEFAULTS | {"kl_coefficient": 0.0, "aggregation": aggregation}
        assert float(loss_denominator(mask, is_valid, aggregation=aggregation)) == denominator
        gradients[aggregation], _ = compiled_gradient(
            log_probs, None, None, advantages, mask, **options, denominator=jnp.float32(denominator)
        )
    np.testing.assert_allclose(gradients["constant"], mask / (P * G * LC), rtol=1e-6)
    lengths = np.maximum(mask.sum(-1, keepdims=True), 1)
    np.testing.assert_allclose(gradients["sequence"], mask / lengths / (P * G), rtol=1e-6)


@pytest.mark.parametrize(
    "ratio, advantage, slope",
    [(1.5, 1, 0), (1.5, -1, -1), (0.5, 1, 1), (0.5, -1, 0), (1.1, 1, 1), (0.9, -1, -1), (1.25, 1, 1), (1.3, 1, 0)],
)
def test_clip_stops_tokens_that_moved_as_far_as_the_advantage_asks(ratio, advantage, slope):
    clips = {"clip_low": 0.2, "clip_high": 0.28}
    assert float(surrogate_and_slope(np.float32(ratio), np.float32(advantage), **clips)[1]) == slope


def test_clip_fraction_counts_the_stopped_tokens():
    log_probs = jnp.log(jnp.array([[[1.5, 1.1, 0.5, 0.9]], [[1.5, 1.1, 0.5, 0.9]]]))
    mask = jnp.array([[[True] * 4], [[True, True, True, False]]])
    _, metrics = compiled_terms(
        log_probs, jnp.zeros_like(log_probs), None, jnp.array([[1.0], [-1.0]]), mask,
        **(DEFAULTS | {"kl_coefficient": 0.0}), denominator=jnp.float32(1.0),
    )  # fmt: skip
    reduced = reduced_metrics(metrics)
    assert float(reduced["clip_fraction"]) == pytest.approx(2 / 7)
    assert float(reduced["ratio_max"]) == pytest.approx(1.5)


def test_ratio_to_the_reference_ignores_the_old_policy():
    log_probs, old, reference, advantages, mask = batch()
    options = DEFAULTS | {"ratio": "ref"}
    loss, _ = compiled_terms(log_probs, None, reference, advantages, mask, **options, denominator=jnp.float32(1))
    other, _ = compiled_terms(log_probs, old, reference, advantages, mask, **options, denominator=jnp.float32(1))
    relabelled, _ = compiled_terms(
        log_probs, reference, reference, advantages, mask, **DEFAULTS, denominator=jnp.float32(1)
    )
    assert loss == other == relabelled


def test_kl_term_alone_and_its_metrics():
    log_probs, old, reference, _, mask = batch()
    zero = jnp.zeros((P, G))
    losses = {}
    for estimator in ("k2", "k3", "k3+"):
        options = DEFAULTS | {"kl_estimator": estimator, "aggregation": "token", "kl_coefficient": 0.5}
        losses[estimator], metrics = compiled_terms(
            log_probs, old, reference, zero, mask, **options, denominator=jnp.float32(mask.sum())
        )
        reduced = reduced_metrics(metrics)
        for name, key in (("k3", "kl"), ("k1", "kl_k1")):
            expected = np.asarray(compiled_kl(log_probs, reference, estimator=name))[mask].mean()
            np.testing.assert_allclose(reduced[key], expected, rtol=1e-5)
    np.testing.assert_allclose(losses["k3"], 0.5 * reduced["kl"], rtol=1e-5)
    assert losses["k3"] == losses["k3+"] != losses["k2"]


def test_kl_coefficient_zero_keeps_the_metrics_and_leaves_the_loss():
    log_probs, old, reference, advantages, mask = batch()
    options = DEFAULTS | {"kl_coefficient": 0.0}
    with_reference, metrics = compiled_terms(
        log_probs, old, reference, advantages, mask, **options, denominator=jnp.float32(1)
    )
    without, _ = compiled_terms(log_probs, old, None, advantages, mask, **options, denominator=jnp.float32(1))
    assert with_reference == without
    assert {"kl", "kl_max", "kl_k1"} <= set(reduced_metrics(metrics))


def test_only_the_policy_has_a_gradient():
    log_probs, old, reference, advantages, mask = batch()

    def loss(arrays):
        return loss_terms(log_probs, *arrays, mask, **DEFAULTS, denominator=jnp.float32(1))[0]

    for gradient in jax.jit(jax.grad(loss))((old, reference, advantages)):
        assert (np.asarray(gradient) == 0).all()


# --- bounds: no token makes a loss that is not a number, or drowns the others


def one_token(log_ratio, advantage, **changes):
    """Loss, gradient and metrics of a single token whose policy and old policy (or reference) differ by `log_ratio`."""
    log_probs, other = jnp.full((1, 1, 1), -1.0), jnp.full((1, 1, 1), -1.0 - log_ratio)
    reference = other if changes.get("kl_coefficient") else None
    arrays = (log_probs, None if reference is not None else other, reference, jnp.full((1, 1), float(advantage)))
    options = DEFAULTS | {"kl_coefficient": 0.0} | changes
    (loss, metrics), gradient = compiled_both(*arrays, np.ones((1, 1, 1), bool), **options, denominator=jnp.float32(1))
    return float(loss), float(gradient.sum()), {k: float(v) for k, v in reduced_metrics(metrics).items()}


@pytest.mark.parametrize("log_ratio", [-200.0, -30.0, 30.0, 90.0, 1e30])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_a_ratio_beyond_all_bounds_is_a_number_without_gradient(log_ratio, advantage):
    """Without the bound a ratio of e^90 is infinite, and its gradient with the clip's 0 is not a number."""
    loss, gradient, metrics = one_token(log_ratio, advantage)
    assert np.isfinite(loss) and gradient == 0
    assert metrics["ratio_max"] <= np.exp(LOG_RATIO_BOUND) * 1.0001


def test_inside_the_bound_a_ratio_against_the_advantage_costs_what_equation_10_says():
    loss, gradient, _ = one_token(3.0, -1.0)
    np.testing.assert_allclose([loss, gradient], np.exp(3.0), rtol=1e-5)


@pytest.mark.parametrize(
    "ratio, advantage, value, slope, is_clipped",
    [
        (5.0, -2.0, -6.0, 0.0, True),  # worth 3 A, not 5 A
        (2.9, -2.0, -5.8, -2.0, False),
        (0.5, -2.0, -1.6, 0.0, True),  # the ordinary clip
        (5.0, 2.0, 2.56, 0.0, True),  # a positive advantage has its bound already
        (0.5, 2.0, 1.0, 2.0, False),
    ],
)
def test_dual_clip_bounds_the_cost_of_a_negative_advantage(ratio, advantage, value, slope, is_clipped):
    """By hand: max(min(r A, clip(r, 0.8, 1.28) A), 3 A) for A < 0."""
    clips = {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 3.0}
    value_and_slope = surrogate_and_slope(np.float32(ratio), np.float32(advantage), **clips)
    np.testing.assert_allclose(value_and_slope, (value, slope), rtol=1e-6)
    loss, gradient, metrics = one_token(np.log(ratio), advantage, dual_clip=3.0)
    np.testing.assert_allclose((loss, gradient), (-value, -slope * ratio), rtol=1e-5)
    assert metrics["clip_fraction"] == is_clipped


def test_dual_clip_changes_the_gradient_and_is_off_by_default():
    assert one_token(2.0, -1.0)[1] == pytest.approx(np.exp(2.0), rel=1e-5)
    assert one_token(2.0, -1.0, dual_clip=3.0)[1] == 0


@pytest.mark.parametrize("difference", [-90.0, -3.0, 0.0, 4.999, 5.0, 6.0, 10.0, 15.0, 90.0])
def test_k3_is_exponential_up_to_its_clamp_and_its_tangent_beyond(difference):
    """By hand, in float64. Unclamped, the gradient at 10 is 150 times, at 15 22,000 times that at 5."""
    value, slope = k3_and_slope(np.float32(-1.0 - difference), np.float32(-1.0), estimator="k3", clamp=5.0)
    edge = min(difference, 5.0)
    expected = np.exp(edge) - 1 - edge + (np.exp(edge) - 1) * (difference - edge)
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    np.testing.assert_allclose(slope, -(np.exp(edge) - 1), rtol=2e-5)
    if difference <= 5:
        assert value == k3_and_slope(np.float32(-1.0 - difference), np.float32(-1.0), estimator="k3", clamp=0.0)[0]


def test_the_loss_and_its_metrics_use_the_clamped_k3():
    loss, gradient, metrics = one_token(-10.0, 0.0, kl_coefficient=0.01, kl_clamp=5.0)
    by_hand = np.exp(5.0) - 6 + (np.exp(5.0) - 1) * 5
    np.testing.assert_allclose(loss, 0.01 * by_hand, rtol=1e-5)
    np.testing.assert_allclose(gradient, -0.01 * (np.exp(5.0) - 1), rtol=1e-5)
    assert metrics["kl"] == metrics["kl_max"] == pytest.approx(by_hand, rel=1e-5)
    assert abs(one_token(-10.0, 0.0, kl_coefficient=0.01)[1]) > 200  # without: more than 200 tokens of advantage 1
    assert np.isfinite(one_token(-1e30, 0.0, kl_coefficient=0.01, kl_clamp=5.0)[0])


def test_the_largest_kl_is_that_of_a_counted_token():
    log_probs = jnp.log(jnp.array([[[0.5, 0.25, 0.001]]]))
    reference = jnp.log(jnp.full((1, 1, 3), 0.5))
    mask = jnp.array([[[True, True, False]]])
    _, metrics = compiled_terms(
        log_probs, log_probs, reference, jnp.ones((1, 1)), mask, **DEFAULTS, denominator=jnp.float32(1)
    )
    assert float(reduced_metrics(metrics)["kl_max"]) == pytest.approx(1 - np.log(2))


# --- invariances


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_padding_does_not_matter_whatever_it_holds(aggregation):
    options = DEFAULTS | {"aggregation": aggregation}
    *token_arrays, advantages, mask = batch()
    denominator = loss_denominator(mask, np.ones((P, G), bool), aggregation=aggregation)
    garbage = itertools.cycle((np.nan, np.inf, -np.inf, 1e30))
    padded = [
        np.pad(np.where(mask, a, next(garbage)), ((0, 0), (0, 0), (0, 7)), constant_values=next(garbage))
        for a in token_arrays
    ]
    padded_mask = np.pad(mask, ((0, 0), (0, 0), (0, 7)))
    if aggregation != "constant":  # which is divided by the places for tokens
        assert loss_denominator(padded_mask, np.ones((P, G), bool), aggregation=aggregation) == denominator
    loss, metrics = compiled_terms(*token_arrays, advantages, mask, **options, denominator=denominator)
    other, other_metrics = compiled_terms(*padded, advantages, padded_mask, **options, denominator=denominator)
    np.testing.assert_allclose(loss, other, rtol=1e-6)
    for name, value in reduced_metrics(metrics).items():
        np.testing.assert_allclose(value, reduced_metrics(other_metrics)[name], rtol=1e-6, err_msg=name)
    gradient, _ = compiled_gradient(*token_arrays, advantages, mask, **options, denominator=denominator)
    other_gradient, _ = compiled_gradient(*padded, advantages, padded_mask, **options, denominator=denominator)
    np.testing.assert_allclose(gradient, other_gradient[..., :LC], rtol=1e-6)
    assert (np.asarray(other_gradient[..., LC:]) == 0).all()


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("prompts", [1, 2])
def test_microbatches_add_up(aggregation, prompts):
    """Losses, gradients and metrics of a scan over microbatches equal those of the whole minibatch."""
    options = DEFAULTS | {"aggregation": aggregation}
    *arrays, mask = batch()
    denominator = loss_denominator(mask, np.ones((P, G), bool), aggregation=aggregation)
    loss, metrics = compiled_terms(*arrays, mask, **options, denominator=denominator)
    gradient, _ = compiled_gradient(*arrays, mask, **options, denominator=denominator)

    def body(total, microbatch):
        (part, part_metrics), part_gradient = jax.value_and_grad(
            lambda *a: loss_terms(*a, **options, denominator=denominator), has_aux=True
        )(*microbatch)
        return total + part, (part_metrics, part_gradient)

    split = [jnp.reshape(a, (P // prompts, prompts, *a.shape[1:])) for a in (*arrays, mask)]
    total, (stacked, gradients) = jax.lax.scan(body, jnp.float32(0), split)
    np.testing.assert_allclose(total, loss, rtol=1e-5)
    np.testing.assert_allclose(gradients.reshape(P, G, LC), gradient, rtol=1e-5, atol=1e-8)
    for name, value in reduced_metrics(metrics).items():
        np.testing.assert_allclose(value, reduced_metrics(stacked)[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("shape", [(8, 1), (2, 4)])
def test_mesh_shape_does_not_matter(shape):
    mesh = jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    prompt_axes = PartitionSpec(("data", "fsdp"))
    arrays = [jnp.concatenate([a, b]) for a, b in zip(batch(0), batch(1), strict=True)]
    is_valid = jnp.ones((2 * P, G), bool)

    def loss_and_gradient(*arrays, is_valid):
        denominator = loss_denominator(arrays[-1], is_valid, aggregation="token")
        options = DEFAULTS | {"aggregation": "token"}
        return jax.value_and_grad(
            lambda *a: loss_terms(*a, **options, denominator=denominator)[0]
        )(*arrays)  # fmt: skip

    loss, gradient = jax.jit(loss_and_gradient)(*arrays, is_valid=is_valid)
    sharded = [jax.device_put(a, NamedSharding(mesh, prompt_axes)) for a in arrays]
    other, other_gradient = jax.jit(loss_and_gradient)(*sharded, is_valid=is_valid)
    np.testing.assert_allclose(loss, other, rtol=1e-5)
    np.testing.assert_allclose(gradient, other_gradient, rtol=1e-5, atol=1e-8)


def test_an_advantage_for_each_token_is_heeded_token_by_token():
    """At a ratio of 1 the gradient of a token is its own advantage over the denominator, negated; a shared one is broadcast."""
    log_probs, _, _, advantages, mask = batch()
    of_tokens = jax.random.normal(jax.random.key(9), (P, G, LC))
    options = DEFAULTS | {"kl_coefficient": 0.0, "aggregation": "token"}
    gradient, _ = compiled_gradient(log_probs, None, None, of_tokens, mask, **options, denominator=jnp.float32(12))
    np.testing.assert_allclose(gradient, np.where(mask, -of_tokens / 12, 0), rtol=1e-5, atol=1e-8)
    shared = jnp.broadcast_to(advantages[..., None], mask.shape)
    arrays = batch()
    for aggregation in AGGREGATIONS:
        options = DEFAULTS | {"aggregation": aggregation}
        once, _ = compiled_gradient(*arrays, **options, denominator=jnp.float32(12))
        each, _ = compiled_gradient(*arrays[:3], shared, mask, **options, denominator=jnp.float32(12))
        np.testing.assert_array_equal(once, each)
    with pytest.raises(ValueError, match='ratio_level: expected "token" where each token has an advantage'):
        loss_terms(*arrays[:3], shared, mask, **DEFAULTS, ratio_level="sequence", denominator=jnp.float32(12))


def test_order_of_completions_and_groups_does_not_matter():
    arrays = batch()
    loss, _ = compiled_terms(*arrays, **DEFAULTS, denominator=jnp.float32(12))
    shuffled = [a[jnp.array([2, 0, 3, 1])][:, jnp.array([1, 2, 0])] for a in map(jnp.asarray, arrays)]
    other, _ = compiled_terms(*shuffled, **DEFAULTS, denominator=jnp.float32(12))
    np.testing.assert_allclose(loss, other, rtol=1e-5)


def test_failed_rows_count_nowhere_and_groups_without_variance_count():
    """A failed row is as if it had never been sampled; a group of equal rewards stays in the denominator."""
    log_probs, old, reference, _, mask = batch()
    mask = mask | (np.arange(LC) == 0)  # every completion has a token
    rewards = np.float32([[1, 0, 3], [2, 2, 2], [1, 1, 4], [0, 1, np.nan]])
    is_valid = np.isfinite(rewards)
    counted = mask & is_valid[..., None]
    for aggregation, expected in (("sequence", 11), ("token", counted.sum())):
        options = DEFAULTS | {"aggregation": aggregation}
        denominator = loss_denominator(counted, is_valid, aggregation=aggregation)
        assert float(denominator) == expected == float(loss_denominator(mask, is_valid, aggregation=aggregation))
        advantages, is_zero = group_advantages(rewards, is_valid)
        np.testing.assert_array_equal(is_zero, [False, True, False, False])
        loss, _ = compiled_terms(log_probs, old, reference, advantages, counted, **options, denominator=denominator)
        by_hand = loss_in_float64(log_probs, old, reference, np.asarray(advantages), counted, expected, options)
        np.testing.assert_allclose(loss, by_hand, rtol=1e-5)
        options["kl_coefficient"] = 0.0
        gradient, _ = compiled_gradient(log_probs, old, None, advantages, counted, **options, denominator=denominator)
        assert (np.asarray(gradient)[1] == 0).all() and (np.asarray(gradient)[3, 2] == 0).all()


def test_a_batch_where_everything_failed_has_loss_zero_and_gradient_zero():
    arrays = batch()[:-1]
    mask, is_valid = np.zeros((P, G, LC), bool), np.zeros((P, G), bool)
    for aggregation in AGGREGATIONS:
        denominator = loss_denominator(mask, is_valid, aggregation=aggregation)
        options = DEFAULTS | {"aggregation": aggregation}
        loss, metrics = compiled_terms(*arrays, mask, **options, denominator=denominator)
        gradient, _ = compiled_gradient(*arrays, mask, **options, denominator=denominator)
        assert float(denominator) == 1 and float(loss) == 0 and (np.asarray(gradient) == 0).all()
        assert all(float(value) == 0 for value in reduced_metrics(metrics).values())


def test_jit_equals_eager_and_low_precision_is_widened():
    arrays = batch()
    eager, metrics = loss_terms(*arrays, **DEFAULTS, denominator=jnp.float32(12))
    compiled, compiled_metrics = compiled_terms(*arrays, **DEFAULTS, denominator=jnp.float32(12))
    np.testing.assert_allclose(eager, compiled, rtol=1e-5)
    for name, value in reduced_metrics(metrics).items():
        np.testing.assert_allclose(value, reduced_metrics(compiled_metrics)[name], rtol=1e-5)
    low = [a.astype(jnp.bfloat16) for a in arrays[:3]]
    wide = [a.astype(jnp.float32) for a in low]
    first, _ = loss_terms(*low, *arrays[3:], **DEFAULTS, denominator=jnp.float32(12))
    second, _ = loss_terms(*wide, *arrays[3:], **DEFAULTS, denominator=jnp.float32(12))
    assert first.dtype == jnp.float32 and first == second


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kl_estimator": "k1"}, "k1 has no gradient on average"),
        ({"kl_estimator": "k4"}, "kl_estimator: expected k2, k3 or k3"),
        ({"ratio": "new"}, "ratio: expected old or ref; got 'new'"),
        ({"aggregation": "mean"}, "aggregation: expected sequence, token or constant; got 'mean'"),
        ({"ratio_level": "word"}, "ratio_level: expected token or sequence; got 'word'"),
        ({"dual_clip": 0.9}, "dual_clip: expected more than 1, or 0 for none; got 0.9"),
        ({"dual_clip": float("nan")}, "dual_clip: expected more than 1"),
        ({"kl_clamp": -1.0}, "kl_clamp: expected more than 0, or 0 for none; got -1.0"),
    ],
)
def test_wrong_choices_are_named(changes, message):
    with types_unchecked(), pytest.raises(ValueError, match=message):
        loss_terms(*batch(), **(DEFAULTS | changes), denominator=jnp.float32(1))


def test_an_absent_reference_is_named():
    log_probs, old, _, advantages, mask = batch()
    for changes in ({}, {"kl_coefficient": 0.0, "ratio": "ref"}):
        with pytest.raises(ValueError, match="reference_log_probs: expected an array"):
            loss_terms(log_probs, old, None, advantages, mask, **(DEFAULTS | changes), denominator=jnp.float32(1))
    with types_unchecked(), pytest.raises(ValueError, match="estimator: expected k1, k2, k3 or k3"):
        kl_values(log_probs, old, estimator="k4")
    with types_unchecked(), pytest.raises(ValueError, match="aggregation: expected sequence, token or constant"):
        loss_denominator(mask, mask.any(-1), aggregation="mean")
