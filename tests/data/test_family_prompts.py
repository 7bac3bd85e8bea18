"""The published processors of each family beside Hugging Face's: tokens, pixels, grids and positions, on odd sizes."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from reflex_jax.data.image_settings import read_image_settings
from reflex_jax.data.images import patchify, prompt_inputs_from_huggingface
from reflex_jax.data.prompts import load_processor
from reflex_jax.models.qwen_config import read_qwen_config
from tests.levels import normalise_levels

# folder of the official files
PUBLISHED = {"qwen2_vl": "qwen2-vl-2b-instruct-awq", "qwen3_vl": "qwen3-vl-4b-instruct"}
LIMITS = {"min_pixels": 3136, "max_pixels": 64 * 28 * 28}
SIZES = ((300, 200), (57, 401), (33, 40), (640, 90))  # width, height
IMAGE_PAD = "<|image_pad|>"


def image_of(size, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture(scope="module", params=list(PUBLISHED))
def directory(request, data_root, tmp_path_factory):
    """The official files with the vocabulary, which the families share and which is stored once."""
    tokenizers = data_root / "tokenizers"
    copy = tmp_path_factory.mktemp(request.param) / "policy"
    shutil.copytree(tokenizers / PUBLISHED[request.param], copy)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tokenizers / "qwen2.5-vl-7b-instruct" / name, copy)
    config = {**json.loads((copy / "config.json").read_text()), "quantization_config": None}
    (copy / "config.json").chmod(0o644)
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.fixture(scope="module")
def processor(directory):
    # the task's own <think> is a token of Qwen3-VL, which no user's text may become: other ids than transformers'
    return load_processor(directory, prompt="bare", **LIMITS)


@pytest.fixture(scope="module")
def oracle(directory):
    """transformers' image processor that needs no torch, with the run's own limits."""
    transformers = pytest.importorskip("transformers")
    found = transformers.Qwen2VLImageProcessorPil.from_pretrained(directory)
    found.size = {"shortest_edge": LIMITS["min_pixels"], "longest_edge": LIMITS["max_pixels"]}
    return found


def test_pixels_and_grids_of_published_settings_are_those_of_transformers(directory, oracle):
    vision = read_qwen_config(directory).vision
    settings = read_image_settings(directory, vision, **LIMITS)
    for size in SIZES:
        expected = oracle(image_of(size), return_tensors="np")
        levels, grid = patchify(image_of(size), **LIMITS, patch=vision.patch_size, merge=vision.merge_size)
        assert grid == tuple(expected["image_grid_thw"][0])
        patches = normalise_levels(levels, settings.normalisation)
        np.testing.assert_allclose(patches, expected["pixel_values"], atol=1e-6)


@pytest.mark.slow  # builds a tokenizer of 151,643 words for each family
def test_tokens_of_published_templates_are_those_of_transformers(processor):
    """One rendered text, each mark of a picture repeated for its tokens, then tokenised."""
    text = "Größe? {question}"
    for sizes in ([], [(120, 90)], [(120, 90), (60, 300), (90, 90)]):
        encoded = processor.encode([image_of(size) for size in sizes], text)
        content = [{"type": "image"}] * len(sizes) + [{"type": "text", "text": text}]
        rendered = processor.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        first, *rest = rendered.split(IMAGE_PAD)
        counts = [rows * columns // 4 for _, (_, rows, columns) in encoded.images]
        expanded = first + "".join(IMAGE_PAD * count + part for count, part in zip(counts, rest, strict=True))
        np.testing.assert_array_equal(encoded.ids, processor.tokenizer(expanded, add_special_tokens=False).input_ids)


@pytest.mark.slow  # the same tokenizers
def test_collated_prompts_of_a_family_are_the_layout_of_transformers_arrays(processor):
    images = [[image_of((300, 120))], [], [image_of((60, 200), seed=1), image_of((60, 60), seed=2)]]
    prompts = [processor.encode(row, "Is it?" * (2 * i + 1)) for i, row in enumerate(images)]
    ours = processor.collate(prompts, prompt_tokens=max(len(p.ids) for p in prompts) + 3, windows=9)
    normalisation = processor.images.normalisation
    pixel_values = np.concatenate([normalise_levels(levels, normalisation) for p in prompts for levels, _ in p.images])
    grids = np.array([grid for p in prompts for _, grid in p.images])
    theirs = prompt_inputs_from_huggingface(
        ours.tokens, ours.is_valid.astype(int), pixel_values, grids, processor.config
    )
    for name in ("tokens", "is_valid", "positions", "feature_index"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    ids = ours.vision.image_ids
    assert ids.shape[:2] == (3, 9) and not ids[1].any()
    for row, prompt in enumerate(prompts):  # every merged feature of a picture is read exactly once
        used = ours.feature_index[row][ours.feature_index[row] >= 0]
        slots = processor.config.vision.patches_per_feature
        assert len(set(used)) == len(used) == sum(int(np.prod(grid)) // slots for _, grid in prompt.images)
        assert set(used) == set(np.flatnonzero(ids[row].reshape(-1, slots).all(axis=1)))
