"""Which tokens are drawn, how often, and what their log-probs say."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex_jax.models.qwen_vl import token_log_probs
from reflex_jax.step.sampling import allowed_tokens, sample_tokens

VOCABULARY = 300  # not a multiple of the block of 128
RANDOM = np.random.default_rng(0)
LOGITS = (2 * RANDOM.normal(size=VOCABULARY)).astype(np.float32)
ALLOWED = np.arange(VOCABULARY) % 7 != 0


def draw(uniforms: np.ndarray, *, logits=LOGITS, allowed=ALLOWED, **options) -> tuple[np.ndarray, np.ndarray]:
    """One row of logits, many uniforms."""
    options = {"temperature": 1.0, **options}
    rows = jnp.broadcast_to(jnp.asarray(logits), (1, len(uniforms), len(logits)))
    sample = jax.jit(partial(sample_tokens, allowed=allowed, **options))
    tokens, log_probs = sample(rows, jnp.asarray(uniforms, jnp.float32)[None])
    return np.asarray(tokens[0]), np.asarray(log_probs[0])


@jax.jit
def draw_any(logits, allowed, uniforms):
    """Logits and vocabulary as arguments, so that many examples share one compilation."""
    rows = jnp.broadcast_to(logits, (1, len(uniforms), VOCABULARY))
    return sample_tokens(rows, uniforms.astype(jnp.float32)[None], allowed=allowed, temperature=1.0)


def probabilities(temperature: float) -> np.ndarray:
    weights = np.where(ALLOWED, np.exp(LOGITS.astype(np.float64) / temperature), 0)
    return weights / weights.sum()


def test_evenly_spread_uniforms_reproduce_the_distribution():
    """The inverse CDF maps the middles of n equal steps to counts that are off by one at most."""
    count = 5000
    tokens, _ = draw((np.arange(count) + 0.5) / count, temperature=0.8)
    expected = probabilities(0.8) * count
    assert np.abs(np.bincount(tokens, minlength=VOCABULARY) - expected).max() <= 1.5


def test_random_uniforms_pass_a_chi_square_test():
    count = 10000
    uniforms = np.asarray(jax.random.uniform(jax.random.key(1), (count,)))
    tokens, _ = draw(uniforms)
    expected = probabilities(1.0) * count
    is_frequent = expected > 5
    observed = np.bincount(tokens, minlength=VOCABULARY)
    statistic = ((observed - expected)[is_frequent] ** 2 / expected[is_frequent]).sum()
    freedom = is_frequent.sum() - 1
    assert abs(statistic - freedom) < 4 * np.sqrt(2 * freedom)


@given(uniform=st.floats(0, 1, exclude_max=True, width=32), seed=st.integers(0, 1000))
def test_a_banned_token_is_never_drawn(uniform, seed):
    """Also at the edges of [0, 1), with nearly all of the weight in one place and whole blocks banned."""
    random = np.random.default_rng(seed)
    logits = (30 * random.normal(size=VOCABULARY)).astype(np.float32)
    allowed = np.zeros(VOCABULARY, bool)
    allowed[random.integers(0, VOCABULARY, 3)] = True
    tokens, log_probs = draw_any(logits, allowed, np.array([uniform, 0.0, 1 - 2.0**-24]))
    assert allowed[np.asarray(tokens)].all()
    assert np.isfinite(log_probs).all()


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_log_probs_are_the_trainers(temperature):
    tokens, log_probs = draw(RANDOM.random(64), temperature=temperature, top_k=20, top_p=0.9)
    rows = jnp.broadcast_to(jnp.asarray(LOGITS), (64, VOCABULARY))
    expected, _ = token_log_probs(rows, jnp.asarray(tokens), allowed=ALLOWED, temperature=temperature or 1.0)
    np.testing.assert_allclose(log_probs, expected, atol=2e-6)


def test_temperature_zero_takes_the_first_of_the_most_likely_allowed_tokens():
    logits = LOGITS.copy()
    logits[[14, 40, 41]] = 50.0  # 14 is banned
    tokens, _ = draw(np.array([0.0, 0.9]), logits=logits, temperature=0.0)
    assert tokens.tolist() == [40, 40]


@pytest.mark.parametrize("top_k", [1, 5, 400])
def test_top_k_keeps_the_k_most_likely(top_k):
    tokens, _ = draw((np.arange(2000) + 0.5) / 2000, top_k=top_k)
    best = np.argsort(-np.where(ALLOWED, LOGITS, -np.inf))[:top_k]
    assert set(tokens) <= set(best[ALLOWED[best]])
    assert top_k == 400 or set(tokens) == set(best)


@pytest.mark.parametrize("top_p", [1e-6, 0.5, 0.95])
def test_top_p_keeps_the_fewest_tokens_that_hold_the_share(top_p):
    tokens, _ = draw((np.arange(2000) + 0.5) / 2000, top_p=top_p)
    order = np.argsort(-probabilities(1.0))
    count = int((np.cumsum(probabilities(1.0)[order]) < top_p).sum()) + 1
    assert set(tokens) == set(order[:count])


def test_top_p_looks_at_what_top_k_left():
    tokens, _ = draw((np.arange(2000) + 0.5) / 2000, top_k=10, top_p=0.6)
    kept = np.sort(probabilities(1.0))[::-1][:10]
    count = int((np.cumsum(kept / kept.sum()) < 0.6).sum()) + 1
    assert len(set(tokens)) == count


def test_allowed_tokens_are_text_and_eos():
    allowed = allowed_tokens(12, tokenizer_length=10, banned_ids=[7, 8, 9, 11], eos_ids=[9])
    assert np.flatnonzero(allowed).tolist() == [0, 1, 2, 3, 4, 5, 6, 9]
    with pytest.raises(ValueError, match="at least one id below 12; got \\[12\\]"):
        allowed_tokens(12, tokenizer_length=10, banned_ids=[], eos_ids=[12])
