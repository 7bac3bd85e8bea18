"""Sampled groups: their log-probs, their ends, and what a completion depends on."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reflex_jax.records import Draws
from reflex_jax.step.generate import generate
from reflex_jax.step.sampling import Sampling, Vocabulary
from tests.laid_out import log_probs_in_rows, sequences_in_rows
from tests.tiny_policy import ALLOWED, CONFIG, PAD, odd_prompts, tiny_params

STEPS, GROUP = 10, 4
EOS_IDS = tuple(range(80, 92))  # many, so that completions of all lengths occur


def sampler(**options):
    defaults = {"group_size": GROUP, "max_new_tokens": STEPS, "temperature": 0.8}
    prefill_prompts = options.pop("prefill_prompts", 0)
    vocabulary = Vocabulary(options.pop("allowed", ALLOWED), options.pop("eos_ids", EOS_IDS), PAD)
    sampling = Sampling(**{**defaults, **options})

    @jax.jit
    @chex.assert_max_traces(n=1)
    def sample(params, prompts, key, prompt_ids):
        draws = Draws(key, prompt_ids)
        return generate(params, prompts, draws, CONFIG, vocabulary, sampling, prefill_prompts=prefill_prompts)

    return sample


@pytest.fixture(scope="module")
def params():
    return tiny_params()


@pytest.fixture(scope="module")
def sample(params):
    """Compiled once for the whole module: new values never trace again."""
    function = sampler()
    return lambda key, prompts, ids: function(params, prompts, key, jnp.asarray(ids))


def test_log_probs_of_the_sampler_are_the_trainers(params, sample):
    prompts = odd_prompts()
    rollout = sample(jax.random.key(0), prompts, [0, 1])
    sequences = sequences_in_rows(prompts, np.asarray(rollout.tokens), np.asarray(rollout.mask))
    log_probs, _ = jax.jit(partial(log_probs_in_rows, config=CONFIG, allowed=ALLOWED, temperature=0.8))(
        params, sequences
    )  # fmt: skip
    assert 0.2 < float(rollout.mask.mean()) < 0.95
    np.testing.assert_allclose(rollout.log_probs, jnp.where(rollout.mask, log_probs, 0), atol=2e-5)


def test_mask_ends_with_the_first_eos_of_any_kind(sample):
    rollout = sample(jax.random.key(1), odd_prompts(), [0, 1])
    tokens, mask = np.asarray(rollout.tokens), np.asarray(rollout.mask)
    is_eos = np.isin(tokens, EOS_IDS) & mask
    np.testing.assert_array_equal(mask, np.cumsum(is_eos, -1) - is_eos == 0)
    assert (tokens[~mask] == PAD).all()
    assert (np.asarray(rollout.log_probs)[~mask] == 0).all()
    assert ALLOWED[tokens[mask]].all()
    assert len(set(tokens[is_eos])) > 1


def test_a_completion_depends_on_its_prompt_number_and_place_only(sample):
    prompts = odd_prompts()
    together = sample(jax.random.key(2), prompts, [5, 9])
    swapped = sample(jax.random.key(2), jax.tree.map(lambda leaf: leaf[::-1], prompts), [9, 5])
    np.testing.assert_array_equal(together.tokens, swapped.tokens[::-1])
    other_numbers = sample(jax.random.key(2), prompts, [6, 9])
    assert (together.tokens[0] != other_numbers.tokens[0]).any()
    np.testing.assert_array_equal(together.tokens[1], other_numbers.tokens[1])
    assert len({tuple(row) for row in np.asarray(together.tokens[0])}) > 1  # the group differs inside


def test_reading_prompts_a_few_at_a_time_changes_nothing(params):
    """Six prompts, two of them at a time: each completion stays with its prompt."""
    prompts = jax.tree.map(lambda x: jnp.concatenate([x, x[::-1], x]), odd_prompts())
    key, ids = jax.random.key(3), jnp.arange(6)
    chex.clear_trace_counter()
    whole = sampler()(params, prompts, key, ids)
    chex.clear_trace_counter()
    in_parts = sampler(prefill_prompts=2)(params, prompts, key, ids)
    np.testing.assert_array_equal(in_parts.tokens, whole.tokens)
    np.testing.assert_allclose(in_parts.log_probs, whole.log_probs, atol=1e-5)


def test_padding_side_of_the_prompt_changes_nothing(sample):
    left, right = (sample(jax.random.key(3), odd_prompts(padding=side), [0, 1]) for side in ("left", "right"))
    np.testing.assert_array_equal(left.tokens, right.tokens)
    chex.assert_trees_all_close(left.log_probs, right.log_probs, atol=2e-5)


def test_a_rollout_of_one_token_is_the_start_of_a_longer_one(params, sample):
    one = sampler(max_new_tokens=1)(params, odd_prompts(), jax.random.key(0), jnp.arange(2))
    assert one.mask.all()
    longer = sample(jax.random.key(0), odd_prompts(), [0, 1])
    np.testing.assert_array_equal(longer.tokens[:, :, :1], one.tokens)
