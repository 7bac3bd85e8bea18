"""Packed rows against whole padded sequences: log-probs, gradients, pictures, in one round and in several."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reflex_jax.data.images import prompt_inputs_from_huggingface
from reflex_jax.grpo.objective import TokenMetrics
from reflex_jax.models.qwen_vl import HowToCompute, encode_images
from reflex_jax.step.rounds import RowReader, Sequences
from reflex_jax.step.rows import RowPlan, count_tokens, lay_out_rows
from tests.laid_out import sequences_in_rows
from tests.models.test_shared_group import repeated_log_probs
from tests.tiny_policy import (
    ALLOWED,
    CONFIG,
    CONFIGS,
    IMAGE,
    PAD,
    odd_completions,
    odd_prompts,
    tiny_params,
    with_a_gradient,
)

GROUP, STEPS, TEMPERATURE = 3, 7, 0.7
LENGTHS = np.array([[7, 1, 4], [2, 0, 5]])  # one completion of the second prompt has no token
TOLERANCE = 1e-4  # of the largest number of a leaf, see tests/models/test_shared_group.py


@pytest.fixture(scope="module")
def params():
    return tiny_params()


def prompts_twice():
    """Four prompts: two with a picture, padded on the left, two without, in turns."""
    return jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), odd_prompts())


def completions():
    tokens = np.concatenate([odd_completions(), odd_completions(seed=5)])
    return tokens, np.arange(STEPS) < np.concatenate([LENGTHS, LENGTHS[::-1]])[..., None]


WEIGHTS = np.random.default_rng(2).normal(size=(4, GROUP, STEPS)).astype(np.float32)


def weighted(log_probs, entropies, is_here):
    _, mask = completions()
    kept = jnp.where(mask & is_here, log_probs, 0.0)
    metrics = TokenMetrics({"log_prob": kept.sum(), "entropy": jnp.where(mask & is_here, entropies, 0).sum()}, {},
                           jnp.sum(mask & is_here).astype(jnp.float32))  # fmt: skip
    return (WEIGHTS * kept).sum(), jax.lax.stop_gradient(metrics)


@pytest.fixture(scope="module")
def expected(params):
    prompts, (tokens, mask) = prompts_twice(), completions()

    def loss(params):
        log_probs = repeated_log_probs(params, prompts, tokens)
        value, metrics = weighted(log_probs, jnp.zeros(mask.shape), mask)
        return value, (jnp.where(mask, log_probs, 0), metrics)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


def lay_out(rows: int, length: int):
    prompts, (_, mask) = prompts_twice(), completions()
    plan = RowPlan(
        prompts=4, minibatches=1, ways=1, rows=rows, prompt_tokens=prompts.tokens.shape[1], completion_tokens=STEPS,
        group=GROUP, windows=prompts.vision.image_ids.shape[1], lengths=(length,),
    )  # fmt: skip
    layout = lay_out_rows(count_tokens(prompts, mask), plan)
    return jax.tree.map(lambda leaf: np.array(leaf[0]), layout)


# (rows at one time, slots of a row): a prompt in each row at once; one row at a time, with room for one prompt or for two
@pytest.mark.parametrize(
    ("rows", "length", "rounds", "remat"), [(4, 30, 1, False), (1, 50, 2, True), (1, 28, 4, False)]
)
def test_packed_rows_have_values_and_gradients_of_the_padded_path(params, expected, rows, length, rounds, remat):
    layout = lay_out(rows, length)
    assert layout.rounds == rounds
    prompts, (tokens, _) = prompts_twice(), completions()
    sequences = Sequences(prompts, tokens, layout)
    how = HowToCompute(remat=remat, log_prob_chunk=13 * rows if remat else 512)
    reader = RowReader(CONFIG, ALLOWED, TEMPERATURE, how, ways=1)

    @jax.jit
    def both(params):
        features = reader.features(params, sequences)
        return reader.log_probs(params, sequences, features), reader.gradients(params, {}, sequences, weighted)

    log_probs, (loss, metrics, gradients) = both(params)
    (expected_loss, (expected_log_probs, expected_metrics)), expected_gradients = expected
    np.testing.assert_allclose(log_probs, expected_log_probs, atol=2e-5)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    np.testing.assert_allclose(metrics.sums["log_prob"], expected_metrics.sums["log_prob"], rtol=1e-5)
    assert metrics.count == expected_metrics.count and metrics.sums["entropy"] > 1
    errors = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(b).max()), gradients, expected_gradients
    )  # fmt: skip
    assert max(jax.tree.leaves(errors)) < TOLERANCE, errors
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradients["vision"]))


def test_levels_are_normalised_in_every_round(params):
    random = np.random.default_rng(7)
    prompts, (tokens, _) = prompts_twice(), completions()
    vision = dataclasses.replace(
        prompts.vision,
        patches=random.integers(0, 256, (*prompts.vision.image_ids.shape, 588), dtype=np.uint8),
        normalisation=np.tile(random.normal(size=(2, 3)).astype(np.float32) / 128, (4, 1, 1)),
    )
    sequences = Sequences(dataclasses.replace(prompts, vision=vision), tokens, lay_out(1, 50))
    assert 1 < sequences.layout.window_rounds < len(vision.image_ids)
    reader = RowReader(CONFIG, ALLOWED, TEMPERATURE, HowToCompute(), ways=1)
    found, expected = (
        np.asarray(jax.jit(look)(params))
        for look in (lambda p: reader.features(p, sequences), lambda p: encode_images(p, vision, CONFIG))
    )
    is_read = vision.image_ids.reshape(4, found.shape[1], -1).any(-1)
    assert is_read.any()
    np.testing.assert_allclose(found[is_read], expected[is_read], atol=1e-5)


def pictures_of_three_sizes(config):
    """Three prompts, each with a picture: of four attention windows, of one, and of a part of one (of tiles one too)."""
    random = np.random.default_rng(8)
    if config.vision.tile_size:
        return tiles_of_three_sizes(config, random)
    grids = np.array([(1, 8, 8), (1, 4, 4), (1, 2, 4)])
    rows = [[*random.integers(0, 80, 2), *[IMAGE] * (h * w // 4), *random.integers(0, 80, 3)] for _, h, w in grids]
    length = max(map(len, rows))
    ids = np.array([[PAD] * (length - len(row)) + row for row in rows])
    pixels = random.normal(size=(int(grids.prod(1).sum()), config.vision.patch_width)).astype(np.float32)
    return prompt_inputs_from_huggingface(ids, (ids != PAD).astype(np.int64), pixels, grids, config)


def tiles_of_three_sizes(config, random):
    vision, counts = config.vision, (4, 1, 1)
    rows = [[*random.integers(0, 80, 2), *[IMAGE] * (4 * n), *random.integers(0, 80, 3)] for n in counts]
    length = max(map(len, rows))
    ids = np.array([[PAD] * (length - len(row)) + row for row in rows])
    pixels = random.normal(size=(3, 4, 3, vision.tile_size, vision.tile_size)).astype(np.float32)
    pixels *= (np.arange(4) < np.array(counts)[:, None])[..., None, None, None]
    return prompt_inputs_from_huggingface(ids, (ids != PAD).astype(np.int64), pixels, None, config)


@pytest.mark.parametrize(
    "family", ["qwen2_5_vl", *(pytest.param(f, marks=pytest.mark.slow) for f in ("qwen3_vl", "smolvlm"))]
)
def test_small_pictures_share_the_place_of_a_large_one(family):
    """Two pictures and empty places in one round see each other neither forward nor backward.

    Qwen3-VL's have places of their own in a table, and features for two layers.
    """
    config = CONFIGS[family]
    params = tiny_params(config=config)
    prompts, tokens = pictures_of_three_sizes(config), odd_completions()[[0, 1, 0]]
    weights = WEIGHTS[:3]

    def loss_of(log_probs, entropies, is_here):
        kept = jnp.where(is_here, log_probs, 0.0)
        return (weights * kept).sum(), TokenMetrics({}, {}, is_here.sum().astype(jnp.float32))

    found = {}
    for rows in (1, 3):  # in rounds; each picture by itself, all at once
        sequences = sequences_in_rows(prompts, tokens, rows=rows)
        reader = RowReader(config, ALLOWED, TEMPERATURE, HowToCompute(), ways=1)

        @jax.jit
        def look(params, sequences=sequences, reader=reader):
            return reader.features(params, sequences), reader.gradients(params, {}, sequences, loss_of)[2]

        found[rows] = look(params)
        assert sequences.layout.window_rounds == {1: 2, 3: 1}[rows]
    is_read = prompts.vision.image_ids.reshape(3, found[1][0].shape[1], -1).any(-1)
    assert 0 < is_read.sum() < is_read.size
    np.testing.assert_allclose(found[1][0][is_read], found[3][0][is_read], atol=1e-5)
    gradients = [with_a_gradient(found[rows][1], config) for rows in (1, 3)]
    errors = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(b).max()), *gradients)
    assert max(jax.tree.leaves(errors)) < TOLERANCE, errors


def test_a_tower_that_does_not_train_is_looked_through_once(params, expected):
    prompts, (tokens, _) = prompts_twice(), completions()
    sequences = Sequences(prompts, tokens, lay_out(1, 50))
    reader = RowReader(CONFIG, ALLOWED, TEMPERATURE, HowToCompute(), ways=1)
    fixed, trained = {"vision": params["vision"]}, {k: v for k, v in params.items() if k != "vision"}
    read = jax.jit(lambda trained, seen: reader.gradients(trained, fixed, sequences, weighted, seen))
    _, _, gradients = read(trained, reader.features(params, sequences))
    wanted = {name: part for name, part in expected[1].items() if name != "vision"}
    errors = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(b).max()), gradients, wanted)
    assert max(jax.tree.leaves(errors)) < TOLERANCE, errors


def test_rounds_that_are_not_used_are_not_computed(params):
    """Two of the four rounds are: the others would count tokens again."""
    prompts, (tokens, _) = prompts_twice(), completions()
    layout = lay_out(1, 50)
    for leaf in (layout.source, layout.predicted, layout.predicting, layout.most_predicted):
        leaf[2:] = leaf[0]
    sequences = Sequences(dataclasses.replace(prompts, vision=None), tokens, layout)
    without_vision = {name: part for name, part in params.items() if name != "vision"}

    def count_of(*, every_round: bool):
        reader = RowReader(CONFIG, ALLOWED, TEMPERATURE, HowToCompute(), ways=1, every_round=every_round)
        return jax.jit(lambda p: reader.gradients(p, {}, sequences, weighted)[1].count)(without_vision)

    assert float(count_of(every_round=False)) == completions()[1].sum() < float(count_of(every_round=True))
