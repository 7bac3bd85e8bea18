"""Groups of several draws become one batch: those with a spread first, in the order they were drawn."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reflex_jax.config import MeshConfig
from reflex_jax.config_reader import load_config
from reflex_jax.records import HostScores, PromptInputs, Rollout, TrainBatch
from reflex_jax.sharding import batch_sharding, make_mesh
from reflex_jax.step.keep_groups import choose_groups, drawn_groups, group_facts, keep_groups
from reflex_jax.step.score import Scored
from tests.judge_evidence import evidence_of

NO, YES = False, True


@pytest.mark.parametrize(
    ("kept", "fresh", "chosen"),
    [
        (
            [YES, NO, YES, NO],
            [NO, YES, NO, NO],
            [0, 2, 5, 1],
        ),  # one place is left, filled by the first without a spread
        ([YES, NO, YES, NO], [YES, YES, YES, NO], [0, 2, 4, 5]),  # what is drawn beyond P is dropped
        ([NO, NO], [NO, NO], [0, 1]),
        ([YES, YES], [YES, YES], [0, 1]),
        ([NO, NO], [YES, YES], [2, 3]),
    ],
)
def test_groups_with_a_spread_stay_in_the_order_they_were_drawn(kept, fresh, chosen):
    assert choose_groups(np.array(kept), np.array(fresh)).tolist() == chosen


def groups(rewards, *, first: int, valid=None):
    """P groups whose arrays all tell which prompt they are of: its number, from `first` on."""
    rewards = jnp.asarray(rewards, jnp.float32)
    prompts, group = rewards.shape
    number = first + jnp.arange(prompts)

    def each(*tail, dtype=jnp.int32):
        return jnp.broadcast_to(number.reshape(-1, *(1 for _ in tail)), (prompts, *tail)).astype(dtype)

    is_valid = jnp.ones(rewards.shape, bool) if valid is None else jnp.asarray(valid)
    scores = HostScores(
        components={"answer": rewards}, applies={"answer": is_valid}, is_correct=rewards > 0, is_valid=is_valid,
        metrics={"accuracy": rewards},
    )  # fmt: skip
    batch = TrainBatch(
        prompts=PromptInputs(
            tokens=each(6), is_valid=each(6) >= 0, positions=each(3, 6), feature_index=each(6), vision=None
        ),
        rollout=Rollout(tokens=each(group, 5), log_probs=each(group, 5, dtype=jnp.float32), mask=each(group, 5) >= 0),
        judge=None,
        scores=scores,
    )
    spread = jnp.where(is_valid, rewards, -jnp.inf).max(1) > jnp.where(is_valid, rewards, jnp.inf).min(1)
    return drawn_groups(
        batch,
        Scored(
            components={"answer": rewards}, applies={"answer": is_valid}, rewards=rewards, advantages=rewards,
            is_zero_variance=~spread, is_valid=is_valid, evidence=evidence_of(iou=each(group, dtype=jnp.float32)),
            loop_tightness=None,
        ),
    )  # fmt: skip


FLAT, APART = [1.0, 1.0], [0.0, 2.0]


def config_of(advantage, normalise="sum"):
    return load_config(
        None, ["rewards.components={answer: 1}", f"grpo.advantage={advantage}", f"rewards.normalise={normalise}"]
    )


def test_every_array_of_the_batch_comes_from_the_chosen_groups():
    kept, fresh = groups([FLAT, APART], first=0), groups([[0.0, 4.0], FLAT], first=2)
    both = keep_groups(kept, fresh, jnp.array([1, 2]), config=config_of("none"))
    chex.assert_trees_all_equal(both.batch, groups([APART, [0.0, 4.0]], first=1).batch)
    assert both.scored.evidence.iou.tolist() == [[1, 1], [2, 2]] and both.scored.evidence.saliency is None
    # rewards less the mean of their group, 1 and 2
    assert both.scored.advantages.tolist() == [[-1, 1], [-2, 2]]


def test_advantages_that_compare_groups_are_those_of_the_new_batch():
    kept, fresh = groups([FLAT, APART], first=0), groups([[0.0, 4.0], FLAT], first=2)
    both = keep_groups(kept, fresh, jnp.array([1, 2]), config=config_of("batch"))
    # rewards 0, 2, 0, 4: mean 1.5, standard deviation sqrt((2.25 + 0.25 + 2.25 + 6.25) / 4) = 1.6583
    expected = np.array([[-1.5, 0.5], [-1.5, 2.5]]) / 1.658312
    np.testing.assert_allclose(both.scored.advantages, expected, rtol=1e-5)


def test_facts_leave_failed_rows_out():
    drawn = groups([[1.0, np.nan], [0.0, 2.0]], first=0, valid=[[True, False], [True, True]])
    facts = group_facts(drawn.scored)
    assert facts.has_spread.tolist() == [False, True] and int(facts.failed_rows) == 1
    assert float(facts.reward) == 1.0  # of 1, 0 and 2


def test_groups_that_are_cut_over_devices_are_chosen_like_whole_ones():
    kept, fresh = groups([FLAT, APART] * 4, first=0), groups([APART, APART] * 4, first=8)
    has_spread = [~np.asarray(drawn.scored.is_zero_variance) for drawn in (kept, fresh)]
    chosen = jnp.asarray(choose_groups(*has_spread))
    expected = keep_groups(kept, fresh, chosen, config=config_of("sample_std"))
    sharding = batch_sharding(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    placed = jax.device_put((kept, fresh), sharding)
    got = jax.jit(lambda *args: keep_groups(*args, config=config_of("sample_std")), out_shardings=sharding)(
        *placed, chosen
    )
    assert {leaf.sharding for leaf in jax.tree.leaves(got)} == {sharding}
    chex.assert_trees_all_equal(jax.device_get(got), jax.device_get(expected))


def test_components_standardised_by_themselves_are_so_in_the_new_batch_too():
    """Spread 2 and 4: standardised to -1 and 1 in each group; over the batch the same, as their mean square is 1."""
    kept, fresh = groups([FLAT, APART], first=0), groups([[0.0, 4.0], FLAT], first=2)
    for normalise in ("component", "component_batch"):
        config = config_of("population_std", normalise)
        both = keep_groups(kept, fresh, jnp.array([1, 2]), config=config)
        np.testing.assert_allclose(both.scored.advantages, [[-1, 1], [-1, 1]], rtol=1e-5)
        filled = keep_groups(kept, fresh, jnp.array([0, 2]), config=config).scored
        size = 1 if normalise == "component" else 2**0.5  # one group of two has a spread
        np.testing.assert_allclose(filled.advantages, [[0, 0], [-size, size]], rtol=1e-5)
        assert filled.is_zero_variance.tolist() == [True, False]
