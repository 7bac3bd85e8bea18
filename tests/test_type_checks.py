"""The checks that all other tests run under are there: of arguments, results and records, each call with axes of its own."""

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintViolation

from reflex_jax.grpo.objective import TokenMetrics, kl_values, loss_denominator
from reflex_jax.models import layers
from tests.unchecked import types_unchecked

ROWS = np.ones((2, 3), np.float32)


def test_an_axis_has_one_length_in_a_call_and_another_in_the_next():
    for width in (3, 4):
        assert kl_values(ROWS[:, :width], ROWS[:, :width], estimator="k1").shape == ROWS[:, :width].shape
    with pytest.raises(BeartypeCallHintViolation, match="reference_log_probs"):
        kl_values(ROWS, ROWS[:, :2], estimator="k1")


def test_dtypes_choices_and_records_are_held_to_what_is_annotated():
    with pytest.raises(BeartypeCallHintViolation, match="is_valid"):
        loss_denominator(np.ones((1, 2, 3), bool), ROWS, aggregation="token")
    with pytest.raises(BeartypeCallHintViolation, match="estimator"):
        kl_values(ROWS, ROWS, estimator="k9")
    with pytest.raises(BeartypeCallHintViolation, match="count"):
        TokenMetrics(sums={}, maxima={}, count=[1.0])


def test_a_result_is_held_to_the_axes_of_the_arguments(monkeypatch):
    assert layers.for_rows(ROWS[0], ROWS).shape == (2, 3)
    monkeypatch.setattr(layers.jnp, "broadcast_to", lambda vector, shape: vector)
    with pytest.raises(BeartypeCallHintViolation, match="return"):
        layers.for_rows(ROWS[0], ROWS)


def test_what_is_let_in_unchecked_reaches_the_packages_own_refusals():
    with types_unchecked(), pytest.raises(ValueError, match="estimator: expected"):
        kl_values(ROWS, ROWS, estimator="k9")
