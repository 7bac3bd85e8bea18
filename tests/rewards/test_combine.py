"""Eq. 9: the weighted sum of components."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reflex_jax.rewards.combine import combine_rewards

NAMES = ("answer", "format", "visual_fidelity", "provenance")
GRID = {"answer": (0.0, 1.0), "format": (0.0, 1.0), "visual_fidelity": (0.0, 1.0), "provenance": (0.0, 0.5, 1.0)}
ONES = dict.fromkeys(NAMES, 1.0)

grid_components = st.fixed_dictionaries(
    {name: hnp.arrays(np.float32, (2, 3), elements=st.sampled_from(GRID[name])) for name in NAMES}
)


@given(grid_components)
def test_total_lies_on_the_grid_of_its_components(components):
    totals = np.asarray(combine_rewards(components, ONES))
    reachable = {sum(values) for values in itertools.product(*GRID.values())}
    assert set(totals.ravel().tolist()) <= reachable
    assert totals.min() >= 0 and totals.max() <= 4
    np.testing.assert_array_equal(totals, sum(components[name] for name in NAMES))


@given(grid_components, st.permutations(NAMES))
def test_order_of_the_names_does_not_matter(components, order):
    weights = {"answer": 0.1, "format": 0.2, "visual_fidelity": 0.3, "provenance": 0.7}
    shuffled = combine_rewards({n: components[n] for n in order}, {n: weights[n] for n in reversed(order)})
    np.testing.assert_array_equal(combine_rewards(components, weights), shuffled)


def test_weights_scale_and_zero_leaves_out():
    components = {"answer": np.float32([[1, 2]]), "format": np.float32([[np.nan, 1]])}
    np.testing.assert_array_equal(combine_rewards(components, {"answer": 2.0, "format": 0.0}), [[2, 4]])


def test_jit_equals_eager():
    components = {name: np.asarray(jax.random.uniform(jax.random.key(i), (4, 5))) for i, name in enumerate(NAMES)}
    compiled = jax.jit(lambda c: combine_rewards(c, ONES))
    np.testing.assert_array_equal(combine_rewards(components, ONES), compiled(components))


def test_names_must_match():
    components = {"answer": np.zeros((1, 2), np.float32), "format": np.zeros((1, 2), np.float32)}
    with pytest.raises(ValueError, match=r"without a weight: \['format'\]; without a component: \['lenght'\]"):
        combine_rewards(components, {"answer": 1.0, "lenght": 1.0})
    with pytest.raises(ValueError, match="expected one weight per component"):
        combine_rewards({}, {})
