"""Where the policy looks while it answers: which tokens ask, whose picture, and how grids are held against each other."""

import math

import jax
import numpy as np
import pytest

from reflex_jax.audit.policy_attention import (
    PictureAttention,
    onto_grid,
    overlap_with_judge,
    picture_attention,
    read_again,
)
from reflex_jax.config_reader import load_config
from reflex_jax.data.sources import load_examples
from reflex_jax.models.qwen_vl import layers_apart
from reflex_jax.sharding import make_mesh
from reflex_jax.step.models import load_models, load_params

COMPLETION = "<think>the nodule is on the left</think><answer>yes</answer>"
WHOLE = (0.0, 0.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def run():
    config = load_config("configs/phantom.yaml", ["data.size=8", "mesh.fsdp=1", "mesh.data=1"])
    models = load_models(config, make_mesh(config.mesh, jax.devices()[:1]), with_judge=False)
    return models, layers_apart(load_params(models)), load_examples(config.data, "train", seed=0)


def read(models, example, completion=COMPLETION):
    return read_again(
        models.processor, example.load_images(), example.question, completion, example_id=example.id
    )  # fmt: skip


def test_the_tokens_before_those_of_the_answer_ask(run):
    models, _, examples = run
    tokenizer = models.processor.tokenizer
    reading = read(models, examples[0])
    predicted = np.flatnonzero(reading.is_asking) + 1
    assert tokenizer.decode(reading.encoded.ids[predicted]).strip() == "yes"
    without = read(models, examples[0], "yes it is")
    prompt = len(models.processor.encode(examples[0].load_images(), examples[0].question).ids)
    np.testing.assert_array_equal(np.flatnonzero(without.is_asking), np.arange(prompt - 1, len(without.is_asking) - 1))


def test_the_tokens_of_the_second_picture_follow_those_of_the_first(run):
    models, _, examples = run
    images = [examples[0].load_images()[0], examples[1].load_images()[0].resize((224, 112))]
    first, second = (read_again(models.processor, images, "same?", "yes", picture=number) for number in (0, 1))
    token = models.processor.config.image_token_id
    for reading in (first, second):
        assert (reading.encoded.ids[reading.picture] == token).all()
        assert math.prod(reading.grid) == reading.picture.stop - reading.picture.start
    assert first.picture.stop <= second.picture.start
    assert second.grid[1] == 2 * second.grid[0]


def test_a_row_says_the_same_alone_and_beside_a_longer_one(run):
    models, weights, examples = run
    long = COMPLETION.replace("nodule", "nodule " * 40)
    readings = [read(models, examples[0]), read(models, examples[1], long)]
    together = picture_attention(models, weights, readings)
    for reading, found in zip(readings, together, strict=True):
        (alone,) = picture_attention(models, weights, [reading])
        np.testing.assert_allclose(found.weights, alone.weights, rtol=1e-4, atol=1e-8)
        assert found.weights.shape == reading.grid
        assert 0 < found.share < 1 and 0 < found.entropy < 1
    assert not np.allclose(together[0].weights, together[1].weights)


def test_an_empty_completion_is_refused(run):
    with pytest.raises(ValueError, match="expected a completion with a token"):
        read(run[0], run[2][0], "")


def test_entropy_is_one_of_an_even_map_and_zero_of_a_point():
    assert PictureAttention(np.full((4, 4), 0.01, np.float32)).entropy == pytest.approx(1)
    point = np.zeros((4, 4), np.float32)
    point[1, 2] = 0.3
    assert PictureAttention(point).entropy == pytest.approx(0, abs=1e-6)
    assert PictureAttention(np.zeros((4, 4), np.float32)).share == 0
    # two cells of four, half each: log 2 / log 4
    assert PictureAttention(np.asarray([[0.2, 0.2], [0, 0]], np.float32)).entropy == pytest.approx(0.5)


def test_what_cells_hold_is_divided_by_area():
    weights = np.asarray([[1.0, 2.0], [3.0, 4.0]], np.float32)
    np.testing.assert_allclose(onto_grid(weights, (4, 4), WHOLE), np.kron(weights / 4, np.ones((2, 2))), rtol=1e-6)
    # three columns over two: the middle one takes a third of each
    np.testing.assert_allclose(onto_grid(weights, (2, 3), WHOLE)[0], [2 / 3, 1 / 3 + 2 / 3, 4 / 3], rtol=1e-6)
    # the right half alone, and a grid that is twice as wide as the picture
    np.testing.assert_allclose(onto_grid(weights, (2, 1), (0.5, 0, 1, 1))[:, 0], [2, 4], rtol=1e-6)
    np.testing.assert_allclose(onto_grid(weights, (1, 4), (-0.5, 0, 1.5, 1))[0], [0, 4, 6, 0], rtol=1e-6)


def test_overlap_counts_what_lies_inside_the_mask_of_the_judge():
    weights = np.asarray([[0.1, 0.2], [0.0, 0.1]], np.float32)
    mask = np.asarray([[False, True], [False, False]])
    found = overlap_with_judge(PictureAttention(weights), mask, WHOLE, quantile=0.75)
    assert found.inside == pytest.approx(0.5)
    assert (found.area, found.iou) == (0.25, 1.0)
