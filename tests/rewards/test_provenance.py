"""Eq. 6-8: provenance reward and loop tightness."""

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reflex_jax.rewards.provenance import loop_tightness, provenance_reward
from tests.judge_evidence import evidence_of

cosines = hnp.arrays(np.float32, (2, 3), elements=st.floats(-1, 1, width=32, allow_subnormal=False))
statements = hnp.arrays(bool, (2, 3))
THRESHOLDS = {"text_threshold": 0.8, "image_threshold": 0.5}


def similarities(text_text, image_text, has_statement=None):
    text_text, image_text = np.float32(text_text), np.float32(image_text)
    has_statement = np.ones(text_text.shape, bool) if has_statement is None else has_statement
    return evidence_of(text_text_similarity=text_text, image_text_similarity=image_text, has_statement=has_statement)


def test_thresholds_are_strict_and_those_of_the_paper():
    evidence = similarities([[0.8, 0.81, 0.8, 0.81]], [[0.5, 0.5, 0.51, 0.51]])
    np.testing.assert_array_equal(provenance_reward(evidence, **THRESHOLDS), [[0, 0.5, 0.5, 1]])
    np.testing.assert_array_equal(provenance_reward(evidence), provenance_reward(evidence, **THRESHOLDS))
    np.testing.assert_array_equal(loop_tightness(evidence), loop_tightness(evidence, **THRESHOLDS))


def test_a_similarity_that_is_no_number_is_no_zero():
    evidence = similarities([[np.nan, 1, np.nan]], [[1, np.nan, np.nan]], np.array([[True, True, False]]))
    np.testing.assert_array_equal(provenance_reward(evidence), [[np.nan, np.nan, 0]])


@given(cosines, cosines, statements)
def test_reward_and_tightness_tell_the_same(text_text, image_text, has_statement):
    evidence = similarities(text_text, image_text, has_statement)
    reward = np.asarray(provenance_reward(evidence, **THRESHOLDS))
    tightness = np.asarray(loop_tightness(evidence, **THRESHOLDS))
    assert set(reward.ravel()) <= {0.0, 0.5, 1.0}
    assert (tightness >= 0).all()
    np.testing.assert_array_equal(tightness > 0, reward == 1)
    margins = np.minimum(text_text.astype(float) - 0.8, image_text.astype(float) - 0.5)
    np.testing.assert_allclose(tightness, np.where(has_statement, np.maximum(margins, 0), 0), atol=1e-6)
    lowest = {"text_threshold": -1.0, "image_threshold": -1.0}  # which zeros pass
    assert not np.asarray(provenance_reward(evidence, **lowest))[~has_statement].any()


@given(cosines, cosines)
def test_jit_equals_eager_and_batch_equals_loop(text_text, image_text):
    for function, compiled in ((provenance_reward, _reward), (loop_tightness, _tightness)):
        whole = np.asarray(function(similarities(text_text, image_text), **THRESHOLDS))
        np.testing.assert_array_equal(whole, compiled(similarities(text_text, image_text), **THRESHOLDS))
        for p, g in np.ndindex(2, 3):
            cell = similarities(text_text[p : p + 1, g : g + 1], image_text[p : p + 1, g : g + 1])
            assert whole[p, g] == function(cell, **THRESHOLDS)


_reward = jax.jit(provenance_reward, static_argnames=("text_threshold", "image_threshold"))
_tightness = jax.jit(loop_tightness, static_argnames=("text_threshold", "image_threshold"))
