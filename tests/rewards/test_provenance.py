"""Eq. 6-8: provenance reward and loop tightness."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reflex_jax.rewards.provenance import loop_tightness, provenance_reward

cosines = hnp.arrays(np.float32, (2, 3), elements=st.floats(-1, 1, width=32, allow_subnormal=False))
THRESHOLDS = {"text_threshold": 0.8, "image_threshold": 0.5}


def test_thresholds_are_strict():
    text_text = np.array([0.8, 0.81, 0.8, 0.81, np.nan], np.float32)
    image_text = np.array([0.5, 0.5, 0.51, 0.51, np.nan], np.float32)
    np.testing.assert_array_equal(provenance_reward(text_text, image_text, **THRESHOLDS), [0, 0.5, 0.5, 1, 0])


@given(cosines, cosines)
def test_reward_and_tightness_tell_the_same(text_text, image_text):
    reward = np.asarray(provenance_reward(text_text, image_text, **THRESHOLDS))
    tightness = np.asarray(loop_tightness(text_text, image_text, **THRESHOLDS))
    assert set(reward.ravel()) <= {0.0, 0.5, 1.0}
    assert (tightness >= 0).all()
    np.testing.assert_array_equal(tightness > 0, reward == 1)
    margins = np.minimum(text_text.astype(float) - 0.8, image_text.astype(float) - 0.5)
    np.testing.assert_allclose(tightness, np.maximum(margins, 0), atol=1e-6)


@given(cosines, cosines)
def test_jit_equals_eager_and_batch_equals_loop(text_text, image_text):
    for function, compiled in ((provenance_reward, _reward), (loop_tightness, _tightness)):
        whole = np.asarray(function(text_text, image_text, **THRESHOLDS))
        np.testing.assert_array_equal(whole, compiled(text_text, image_text, **THRESHOLDS))
        for p, g in np.ndindex(2, 3):
            assert whole[p, g] == function(jnp.asarray(text_text[p, g]), jnp.asarray(image_text[p, g]), **THRESHOLDS)


_reward = jax.jit(provenance_reward, static_argnames=("text_threshold", "image_threshold"))
_tightness = jax.jit(loop_tightness, static_argnames=("text_threshold", "image_threshold"))
