"""Sizes of a judge out of an open_clip directory, and what is refused."""

import json

import pytest

from reflex_jax.config import ConfigError
from reflex_jax.judge.evidence import load_judge
from reflex_jax.models.biomedclip import read_judge_config
from tests.parity.judge_reference import write_judge_directory


@pytest.fixture
def directory(tmp_path):
    return write_judge_directory(tmp_path)


def change(directory, section, **values):
    path = directory / "open_clip_config.json"
    written = json.loads(path.read_text())
    target = written["model_cfg"][section] if section else written["model_cfg"]
    for key, value in values.items():
        if value is None:
            target.pop(key)
        else:
            target[key] = value
    path.write_text(json.dumps(written))


def test_the_published_configuration_is_vit_b_16_with_bert_base(data_root):
    config = read_judge_config(data_root / "tokenizers" / "biomedclip")
    vision, text = config.vision, config.text
    assert (vision.image_size, vision.patch_size, vision.width, vision.depth, vision.heads, vision.hidden) == (
        224, 16, 768, 12, 12, 3072,
    )  # fmt: skip
    assert (text.width, text.depth, text.heads, text.hidden, text.context_length) == (768, 12, 12, 3072, 256)
    assert config.embed_dim == 512 and vision.grid_size == 14


def test_numbers_win_over_the_name_and_the_name_fills_in(directory):
    change(directory, "vision_cfg", timm_model_name="vit_tiny_patch16_224.augreg_in21k", heads=None)
    config = read_judge_config(directory)
    assert (config.vision.heads, config.vision.width) == (3, 48)


def test_bert_sizes_come_from_the_known_name_where_config_json_is_absent(directory):
    (directory / "config.json").unlink()
    change(directory, "text_cfg", hf_model_name="microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract")
    assert read_judge_config(directory).text.width == 768


def test_every_missing_size_and_unknown_kind_is_named_at_once(directory):
    change(directory, "vision_cfg", timm_model_name="resnet50", width=None, heads=None, timm_pool="avg")
    change(directory, "text_cfg", hf_proj_type="linear", hf_pooler_type="mean_pooler")
    change(directory, None, embed_dim=None)
    with pytest.raises(ConfigError) as error:
        read_judge_config(directory)
    for part in ("vision_cfg.width", "vision_cfg.heads", "'resnet50'", "timm_pool", "hf_proj_type", "hf_pooler_type",
                 "model_cfg.embed_dim"):  # fmt: skip
        assert part in str(error.value), part


@pytest.mark.parametrize(("name", "content", "message"), [
    ("open_clip_config.json", "{", "is no JSON"),
    ("open_clip_config.json", "[]", "expected a JSON object"),
    ("config.json", '{"model_type": "xlm-roberta"}', "model_type: expected 'bert'; got 'xlm-roberta'"),
])  # fmt: skip
def test_files_that_say_something_else_are_refused(directory, name, content, message):
    (directory / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_judge_config(directory)


def test_a_directory_without_a_judge_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match="expected .*open_clip_config.json"):
        load_judge(tmp_path)
