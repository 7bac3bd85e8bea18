"""Every setting of a policy's image processor is honoured as transformers does, or refused by its name."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from reflex_jax.config import ConfigError
from reflex_jax.data.image_settings import read_image_settings
from reflex_jax.data.images import patchify
from reflex_jax.models.qwen_vision import QwenVisionConfig
from tests.levels import normalise_levels

LIMITS = {"min_pixels": 3136, "max_pixels": 20000}
WRITTEN = {"image_mean": [0.3, 0.4, 0.5], "image_std": [0.2, 0.25, 0.3]}

VISION = QwenVisionConfig(
    width=96, depth=1, heads=4, hidden=64, output_width=32, full_attention_layers=(0,), window_size=112, patch_size=14,
    merge_size=2, temporal_patch_size=2, channels=3,
)  # fmt: skip


def write(directory, *, nested=False, **values):
    settings = {key: value for key, value in (WRITTEN | values).items() if value != "absent"}
    name = "processor_config.json" if nested else "preprocessor_config.json"
    (directory / name).write_text(json.dumps({"image_processor": settings} if nested else settings))


def read(directory):
    return read_image_settings(directory, VISION, **LIMITS)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"image_mean": 0.5, "image_std": 0.25},
        {"image_mean": "absent", "image_std": "absent"},
        {"do_rescale": False, "image_mean": [120, 110, 100], "image_std": 60},
        {"rescale_factor": 1 / 127.5, "image_mean": 1, "image_std": 1},
        {"do_normalize": False},
        {"do_normalize": False, "do_rescale": False},
        {"do_convert_rgb": False, "image_processor_type": "Qwen2VLImageProcessorFast", "resample": 3},
        {"min_pixels": 4, "max_pixels": 8, "size": {"shortest_edge": 16, "longest_edge": 32}},  # the run's own count
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_pictures_equal_those_of_transformers(tmp_path, values, nested):
    transformers = pytest.importorskip("transformers")
    write(tmp_path, nested=nested, **values)
    settings = read(tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8))
    levels, grid = patchify(image, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
    ours = normalise_levels(levels, settings.normalisation)
    oracle = transformers.Qwen2VLImageProcessorPil.from_pretrained(tmp_path, local_files_only=True)
    oracle.size = {"shortest_edge": LIMITS["min_pixels"], "longest_edge": LIMITS["max_pixels"]}
    theirs = oracle(image, return_tensors="np")
    assert grid == tuple(theirs["image_grid_thw"][0])
    np.testing.assert_allclose(ours, theirs["pixel_values"], rtol=1e-5, atol=1e-5)


def test_the_section_of_processor_config_counts_where_both_files_lie(tmp_path):
    write(tmp_path)
    assert read(tmp_path).mean == (0.3, 0.4, 0.5)
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "Qwen2_5_VLProcessor"}))
    assert read(tmp_path).mean == (0.3, 0.4, 0.5)  # as older versions write it, without the section
    write(tmp_path, nested=True, image_mean=0.5)
    assert read(tmp_path).mean == (0.5, 0.5, 0.5)


REFUSALS = [
    ({"do_resize": False}, "do_resize: expected true (pictures are resized to whole patches); got False"),
    ({"do_rescale": "no"}, "do_rescale: expected true or false; got 'no'"),
    ({"do_rescale": None}, "do_rescale: expected true or false; got None"),  # to transformers it means false
    ({"image_mean": None}, "image_mean: expected a number or three, of red, green and blue; got None"),
    ({"do_normalize": 0}, "do_normalize: expected true or false; got 0"),
    ({"resample": 2}, "resample: expected 3 (bicubic); got 2"),
    ({"rescale_factor": "1/255"}, "rescale_factor: expected a number; got '1/255'"),
    ({"rescale_factor": float("nan")}, "rescale_factor: expected a number; got nan"),
    ({"image_mean": [0.5, 0.5]}, "image_mean: expected a number or three, of red, green and blue; got [0.5, 0.5]"),
    ({"image_mean": [0.5, "x", 0.5]}, "image_mean: expected a number or three"),
    ({"image_mean": True}, "image_mean: expected a number or three"),
    ({"image_mean": [0.5] * 10_000}, "image_mean: expected a number or three"),
    ({"image_std": 1e-320}, "image_std: expected numbers other than 0; got"),
    ({"image_std": [0.5, 0.0, 0.5]}, "image_std: expected numbers other than 0; got [0.5, 0.0, 0.5]"),
    ({"image_std": 1e39}, "image_std: expected a number or three"),
    ({"patch_size": 16}, "patch_size: expected 14 (as vision_config in config.json); got 16"),
    ({"patch_size": True}, "patch_size: expected 14 (as vision_config in config.json); got True"),
    ({"temporal_patch_size": 1}, "temporal_patch_size: expected 2 (as vision_config in config.json); got 1"),
    ({"merge_size": 4}, "merge_size: expected 2 (as spatial_merge_size in config.json); got 4"),
    ({"image_processor_type": "CLIPImageProcessor"}, "image_processor_type: expected Qwen2VLImageProcessor; got 'CLIP"),
]


@pytest.mark.parametrize("values, fault", REFUSALS)
def test_a_setting_that_is_not_computed_is_refused_by_name(tmp_path, values, fault):
    for nested in (False, True):
        write(tmp_path, nested=nested, **values)
        with pytest.raises(ConfigError, match=re.escape(fault)) as refused:
            read(tmp_path)
        message = str(refused.value)
        assert message.startswith("policy.path: ") and "\n" not in message and len(message) < 500
        assert ("processor_config.json: image_processor" if nested else "preprocessor_config.json") in message


def test_an_absent_size_counts_as_transformers_default(tmp_path):
    """It would cut patches of 14 pixels, whatever the model reads."""
    write(tmp_path)
    wide = QwenVisionConfig(**{**vars(VISION), "patch_size": 16, "window_size": 128})
    with pytest.raises(ConfigError, match=r"patch_size: expected 16 \(as .*\); got 14 by default"):
        read_image_settings(tmp_path, wide, **LIMITS)


def test_all_faults_are_named_at_once(tmp_path):
    write(tmp_path, do_resize=False, image_mean=[1], merge_size=3)
    with pytest.raises(ConfigError, match="do_resize: .*; merge_size: .*; image_mean: "):
        read(tmp_path)


@pytest.mark.parametrize("content", ["[]", "", "{", '"x"', "\ufeff{}", "version https://git-lfs.github.com/spec/v1\n"])
def test_a_file_that_is_no_object_is_refused_by_name(tmp_path, content):
    for name in ("preprocessor_config.json", "processor_config.json"):
        (tmp_path / name).write_text(content)
        with pytest.raises(ConfigError, match=name):
            read(tmp_path)
    (tmp_path / "processor_config.json").write_text('{"image_processor": "Qwen2VLImageProcessor"}')
    with pytest.raises(ConfigError, match="image_processor: expected an object"):
        read(tmp_path)


def test_a_directory_without_settings_says_how_to_write_them(tmp_path):
    with pytest.raises(ConfigError, match="preprocessor_config.json.*both are missing.*save_pretrained"):
        read(tmp_path)
