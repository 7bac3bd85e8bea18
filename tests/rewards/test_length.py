"""Rewards of a completion's length, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex_jax.config import ConfigError
from reflex_jax.config_reader import load_config
from reflex_jax.rewards.answered import Answered
from reflex_jax.rewards.length import length_score, overlong_score


def of(tokens):
    return Answered(question="q", completion="", answer=None, truth="yes", answer_type="closed", tokens=tokens)


@pytest.mark.parametrize(("tokens", "paid"), [(0, 0.0), (1, 0.001), (250, 0.25), (1000, 1.0), (4000, 1.0)])
def test_tokens_are_paid_up_to_a_bound(tokens, paid):
    assert length_score(of(tokens)) == pytest.approx(paid)
    assert length_score(of(tokens), per_token=0.01, most=0.5) == pytest.approx(min(tokens / 100, 0.5))


@pytest.mark.parametrize(
    ("tokens", "paid"), [(0, 0.0), (768, 0.0), (769, -1 / 256), (896, -0.5), (1024, -1.0), (1025, -1.0), (9000, -1.0)]
)
def test_too_many_tokens_cost_more_and_more_up_to_one(tokens, paid):
    """DAPO, Eq. 13, with L_max 1024 and L_cache 256."""
    assert overlong_score(of(tokens)) == pytest.approx(paid)


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(0, 5000))
def test_the_punishment_is_the_published_formula(limit, buffer, tokens):
    buffer = min(limit, buffer)
    if tokens <= limit - buffer:
        expected = 0.0
    else:
        expected = (limit - buffer - tokens) / buffer if tokens <= limit else -1.0
    assert overlong_score(of(tokens), limit=limit, buffer=buffer) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ("overlong={buffer: 300, limit: 200}", "overlong.limit, buffer: expected .* got limit=200, buffer=300"),
        (
            "overlong.limit=100",
            "overlong.limit, buffer: expected tokens with 0 < buffer <= limit; got limit=100, buffer=256",
        ),
        ("overlong={buffer: 0}", "got limit=1024, buffer=0"),
        ("length={per_token: 0}", "length.per_token: expected more than 0; got 0"),
        ("length={most: -1}", "length.most: expected more than 0"),
        ("format={partial: 1.0}", "format.partial: expected a number in"),
    ],
)
def test_options_out_of_range_are_refused_by_name(component, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, [f"rewards.components.{component}"])
