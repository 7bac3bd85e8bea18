"""The image processor against Hugging Face's PIL one, and the layout of patches in windows."""

import math
from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reflex_jax.data.image_settings import ImageSettings
from reflex_jax.data.images import (
    count_windows,
    feature_index,
    layout_vision,
    merged_feature_order,
    mrope_positions,
    patchify,
    prompt_inputs_from_huggingface,
    smart_resize,
)
from reflex_jax.models.qwen_vision import encode_patches, init_vision_params
from tests.levels import normalise_levels
from tests.tiny_policy import CONFIG, IMAGE, PAD

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZES = ((28, 28), (113, 57), (300, 41), (64, 500), (223, 224), (9, 700))
even = st.integers(1, 13).map(lambda n: 2 * n)
grids = st.tuples(st.just(1), even, even)


@given(height=st.integers(1, 3000), width=st.integers(1, 3000))
def test_resized_sides_divide_and_stay_within_the_limits(height, width):
    limits = {"min_pixels": 56 * 56, "max_pixels": 512 * 512}
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(ValueError, match="at most 200"):
            smart_resize(height, width, **limits)
        return
    new_height, new_width = smart_resize(height, width, **limits)
    assert new_height % 28 == new_width % 28 == 0
    assert new_height * new_width >= 56 * 56
    # a side of one unit cannot shrink further, so a very long image may stay above the limit
    assert new_height * new_width <= 512 * 512 or min(new_height, new_width) == 28


@given(height=st.integers(1, 2000), width=st.integers(1, 2000), limit=st.integers(28 * 28, 10**6))
def test_resize_rule_is_that_of_transformers(height, width, limit):
    reference = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    if max(height, width) > 200 * min(height, width):
        return
    expected = reference.smart_resize(height, width, factor=28, min_pixels=3136, max_pixels=max(3136, limit))
    assert smart_resize(height, width, min_pixels=3136, max_pixels=max(3136, limit)) == expected


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_patches_are_those_of_transformers_to_the_bit(size):
    reference = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    processor = reference.Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=200 * 200)
    expected = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")
    levels, grid = patchify(image, min_pixels=3136, max_pixels=200 * 200)
    assert grid == tuple(expected["image_grid_thw"][0])
    assert levels.dtype == np.uint8
    as_they_are = np.stack([np.ones(3), np.zeros(3)]).astype(np.float32)
    np.testing.assert_array_equal(normalise_levels(levels, as_they_are), expected["pixel_values"])
    # one product and one sum in place of a product, a difference and a quotient: the last bit of numbers up to 3
    settings = ImageSettings(MEAN, STD, min_pixels=3136, max_pixels=200 * 200)
    expected = processor(image, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(normalise_levels(levels, settings.normalisation), expected, rtol=0, atol=5e-7)


def test_levels_and_normalised_pixels_make_the_same_features():
    config = CONFIG.vision
    random = np.random.default_rng(0)
    settings = ImageSettings(MEAN, STD, min_pixels=3136, max_pixels=200 * 200)
    images = [Image.fromarray(random.integers(0, 256, (side, 84, 3), dtype=np.uint8)) for side in (56, 113)]
    patched = [patchify(image, min_pixels=3136, max_pixels=200 * 200) for image in images]
    as_pixels = [(normalise_levels(levels, settings.normalisation), grid) for levels, grid in patched]
    rows, windows = [[patched[0]], [], [patched[1], patched[0]]], 7
    levels = layout_vision(rows, config, windows, settings.normalisation)
    pixels = layout_vision([[as_pixels[0]], [], [as_pixels[1], as_pixels[0]]], config, windows)
    assert 7.9 < pixels.patches.nbytes / levels.patches.nbytes < 8.1
    params = jax.jit(lambda key: init_vision_params(config, key))(jax.random.key(0))
    encode = jax.jit(partial(encode_patches, config=config, remat=False))
    features = [np.asarray(encode(params, vision)) for vision in (levels, pixels)]
    is_read = levels.image_ids.reshape(3, -1, config.patches_per_feature).any(
        -1
    )  # the others hold numbers nobody reads
    assert is_read.sum() == 2 * 6 + 12 + 2 * 0
    np.testing.assert_allclose(features[0][is_read], features[1][is_read], rtol=1e-5, atol=1e-6)


def test_an_image_that_is_not_rgb_is_refused():
    with pytest.raises(ValueError, match="expected an RGB image; got mode 'L'"):
        patchify(Image.new("L", (30, 30)), min_pixels=3136, max_pixels=10**6)


@given(row=st.lists(grids, min_size=0, max_size=3))
def test_every_patch_has_one_slot_beside_its_neighbours(row):
    """Each patch carries its own number, so that a patch lost, doubled or moved shows."""
    config = CONFIG.vision
    images, start = [], 1
    for grid in row:
        count = math.prod(grid)
        images.append((np.repeat(np.arange(start, start + count, dtype=np.float32)[:, None], 1176, axis=1), grid))
        start += count
    windows = sum(count_windows(grid, config) for grid in row) + 1
    vision = layout_vision([images], config, windows)
    numbers, ids = vision.patches[0, ..., 0], vision.image_ids[0]
    assert sorted(numbers[ids > 0]) == list(range(1, start))
    assert (numbers[ids == 0] == 0).all()
    units = numbers.reshape(-1, config.patches_per_feature)
    order = merged_feature_order(row, config)
    np.testing.assert_array_equal(units[order].reshape(-1), np.arange(1, start))  # reading order comes back
    for window in range(windows):
        is_filled = ids[window] > 0
        if is_filled.any():
            assert len(set(ids[window][is_filled])) == 1  # a window never holds two images
            places = vision.coordinates[0, window][is_filled]
            side = config.window_size // config.patch_size
            assert (np.ptp(places, axis=0) < side).all()
            assert len({tuple(place // side) for place in places}) == 1


def test_images_that_need_too_many_windows_are_all_listed():
    config = CONFIG.vision  # windows of 4 x 4 patches
    image = (np.zeros((8 * 6, 1176), np.float32), (1, 8, 6))
    with pytest.raises(ValueError, match="at most 3 windows a row; row 0 needs 4, row 2 needs 8"):
        layout_vision([[image], [], [image, image]], config, 3)


def test_text_counts_on_behind_the_longer_side_of_an_image():
    tokens = np.array([PAD, 1, 2, *[IMAGE] * 6, 3, 4, PAD])
    is_valid = tokens != PAD
    positions = mrope_positions(tokens, is_valid, [(1, 4, 6)], CONFIG)
    np.testing.assert_array_equal(positions, [
        [0, 0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 0],
        [0, 0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 0],
        [0, 0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 0]])  # fmt: skip
    index = feature_index(tokens, is_valid, [(1, 4, 6)], CONFIG)
    np.testing.assert_array_equal(index, [-1, -1, -1, 0, 1, 4, 2, 3, 6, -1, -1, -1])


@pytest.mark.parametrize("count", [5, 7])
def test_image_tokens_that_do_not_match_the_images_are_refused(count):
    tokens = np.array([[1, *[IMAGE] * count, 2]])
    with pytest.raises(ValueError, match=f"expected 6 image tokens .* got {count}"):
        prompt_inputs_from_huggingface(tokens, None, np.zeros((24, 1176), np.float32), np.array([[1, 4, 6]]), CONFIG)


def test_images_without_tokens_patches_without_grids_and_videos_are_refused():
    text = np.array([[1, 2, 3]])
    patches = np.zeros((24, 1176), np.float32)
    with pytest.raises(ValueError, match="1 images have no tokens"):
        prompt_inputs_from_huggingface(text, None, patches, np.array([[1, 4, 6]]), CONFIG)
    with pytest.raises(ValueError, match="expected as many patches as the grids hold, 0; got 24"):
        prompt_inputs_from_huggingface(text, None, patches, None, CONFIG)
    with pytest.raises(ValueError, match="expected still images"):
        count_windows((2, 4, 6), CONFIG.vision)


def test_a_batch_without_images_has_no_vision_inputs():
    prompts = prompt_inputs_from_huggingface(np.array([[1, 2, 3]]), None, None, None, CONFIG)
    assert prompts.vision is None
    assert prompts.is_valid.all()
    np.testing.assert_array_equal(prompts.positions[0], np.tile(np.arange(3), (3, 1)))
