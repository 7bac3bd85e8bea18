"""What a run holds from its first step to its last: which parts, how often, and in which dtype."""

import chex
import jax
import jax.numpy as jnp
import pytest

from reflex_jax.step.program import build_program
from reflex_jax.step.state import reference_policy
from tests.step.conftest import TinyWorld, tiny_shapes


def start(world: TinyWorld, *overrides: str, with_reference: bool = False):
    """State and frozen parameters as a run of these settings begins."""
    program = build_program(world.config(*overrides), tiny_shapes())
    return program.start(jax.tree.map(jnp.copy, world.policy_params), with_reference=with_reference)


@pytest.mark.parametrize("trainable", ["all", "language"])
def test_a_reference_shares_what_never_trains(tiny_world, trainable):
    state, frozen = start(tiny_world, f"policy.trainable={trainable}", with_reference=True)
    assert frozen.reference.keys() == state.params.keys()
    assert ("vision" in frozen.reference) == (trainable == "all")
    whole = reference_policy(frozen)
    chex.assert_trees_all_equal(whole, tiny_world.policy_params)
    for name, part in frozen.fixed.items():
        assert whole[name] is part


def test_without_a_reference_nothing_is_copied(tiny_world):
    _, frozen = start(tiny_world)
    assert frozen.reference is None and reference_policy(frozen) is None
    assert frozen.fixed == {}
