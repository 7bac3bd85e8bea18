"""Sampled groups: their log-probs, their ends, and what a completion depends on."""

import dataclasses
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reflex_jax.models.qwen_vl import init_policy_params, layers_apart
from reflex_jax.records import Draws, PromptInputs
from reflex_jax.step.generate import cache_stages, generate
from reflex_jax.step.open_rows import gathered_sizes
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


def test_room_for_longer_prompts_and_more_pictures_changes_nothing(params, sample):
    """The same prompts on a larger rung: more padding on the left, an empty window more."""
    prompts = odd_prompts()

    def wider(leaf, value, axis):
        return np.pad(leaf, [((8, 0) if axis == i > 0 else (0, 0)) for i in range(leaf.ndim)], constant_values=value)

    roomy = PromptInputs(
        tokens=wider(prompts.tokens, PAD, 1),
        is_valid=wider(prompts.is_valid, False, 1),
        positions=wider(prompts.positions, 0, 2),
        feature_index=wider(prompts.feature_index, -1, 1),
        vision=jax.tree.map(lambda x: np.pad(x, [(0, 0), (0, 1), *[(0, 0)] * (x.ndim - 2)]), prompts.vision),
    )
    chex.clear_trace_counter()
    rollout = sampler(max_new_tokens=3)(params, roomy, jax.random.key(0), jnp.arange(2))
    tight = sample(jax.random.key(0), prompts, [0, 1])
    np.testing.assert_array_equal(rollout.tokens, tight.tokens[:, :, :3])
    np.testing.assert_allclose(rollout.log_probs, tight.log_probs[:, :, :3], atol=2e-5)


def test_a_rollout_of_one_token_is_the_start_of_a_longer_one(params, sample):
    one = sampler(max_new_tokens=1)(params, odd_prompts(), jax.random.key(0), jnp.arange(2))
    assert one.mask.all()
    longer = sample(jax.random.key(0), odd_prompts(), [0, 1])
    np.testing.assert_array_equal(longer.tokens[:, :, :1], one.tokens)


@pytest.mark.parametrize(
    ("longest", "stages"),
    [
        (1, (1,)), (128, (128,)), (191, (191,)), (192, (128, 192)), (256, (128, 256)), (300, (128, 300)), (384, (128, 256, 384)),
        (1024, (384, 768, 1024)), (4096, (1408, 2816, 4096)),
    ],
)  # fmt: skip
def test_caches_grow_in_few_even_steps_to_the_longest_completion(longest, stages):
    assert cache_stages(Sampling(group_size=1, max_new_tokens=longest, temperature=1.0)) == stages


def test_caches_that_grow_give_the_tokens_of_one_that_does_not(params, sample):
    """In stages of 4, 8 and 10 slots, and over one row once it alone is open. Sums may round otherwise, in the last bit."""
    assert cache_stages(Sampling(group_size=GROUP, max_new_tokens=STEPS, temperature=1.0, cache_step=4)) == (4, 8, 10)
    chex.clear_trace_counter()
    assert gathered_sizes(2, GROUP, 1) == (1,)
    grown, longest, last = sampler(cache_step=4), [], []
    for seed in (5, 66, 127):
        inputs = jax.random.key(seed), odd_prompts(), jnp.arange(2)
        expected, rollout = sample(*inputs), grown(params, inputs[1], inputs[0], inputs[2])
        np.testing.assert_array_equal(rollout.tokens, expected.tokens)
        np.testing.assert_array_equal(rollout.mask, expected.mask)
        np.testing.assert_allclose(rollout.log_probs, expected.log_probs, atol=1e-5)
        lengths = np.sort(np.asarray(rollout.mask).sum(-1).ravel())
        longest.append(lengths[-1])
        last.append(lengths[-1] - lengths[-2])
    assert longest == [10, 10, 6] and last == [0, 7, 0]  # at the limit, one of them long alone, early


def test_one_stage_is_a_setting(params):
    """Then the program has one loop that samples: with stages of 4 and rows to gather it has four."""

    def loops(**options):
        prompts = jax.tree.map(lambda x: x, dataclasses.replace(odd_prompts(), vision=None))
        chex.clear_trace_counter()
        lowered = sampler(cache_step=4, **options).lower(params, prompts, jax.random.key(0), jnp.arange(2))
        return lowered.as_text().count("stablehlo.while")

    assert loops() - loops(in_stages=False) == 3


def test_the_decoder_exists_once_while_it_samples():
    """Of stacked layers the compiled rollout makes a second copy, as large as they are; of layers apart it makes none."""
    wide = dataclasses.replace(CONFIG, text=dataclasses.replace(CONFIG.text, hidden=16384))
    params = jax.eval_shape(lambda: init_policy_params(wide, jax.random.key(0)))
    layers = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params["layers"]))
    prompts = jax.tree.map(lambda x: x[1:], dataclasses.replace(odd_prompts(), vision=None))
    vocabulary, sampling = Vocabulary(ALLOWED, EOS_IDS, PAD), Sampling(group_size=1, max_new_tokens=3, temperature=0.0)

    def sample(params):
        return generate(params, prompts, Draws(jax.random.key(0), jnp.arange(1)), wide, vocabulary, sampling)

    memory = jax.jit(sample).lower(jax.eval_shape(layers_apart, params)).compile().memory_analysis()
    assert layers > 1e7 and memory.temp_size_in_bytes < 0.4 * layers
