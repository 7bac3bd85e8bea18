"""Judge directories as people have them: wrapped, cast, damaged; each loads or is refused in one line."""

import json
import pickle
import re
import shutil
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from reflex_jax.checkpoints.bin_conversion import _convert
from reflex_jax.checkpoints.open_clip import load_judge_params
from reflex_jax.config import ConfigError
from reflex_jax.judge.evidence import load_judge
from reflex_jax.models.biomedclip import read_judge_config

PHANTOM = Path(__file__).resolve().parents[2] / "reflex_jax" / "assets" / "phantom" / "judge"
HOSTILE_MARK = Path("/tmp/never-made-by-a-judge")
WEIGHTS = "open_clip_model.safetensors"
WORDS = "text.transformer.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def tensors():
    return load_file(PHANTOM / WEIGHTS)


@pytest.fixture(scope="module")
def params():
    return load_judge_params(PHANTOM, read_judge_config(PHANTOM))


@pytest.fixture
def directory(tmp_path):
    return shutil.copytree(PHANTOM, tmp_path / "judge")


def change(path, *keys, **values):
    """Changes values of an object inside a JSON file; None removes the key."""
    written = json.loads(path.read_text())
    target = written
    for key in keys:
        target = target[key]
    target |= values
    path.write_text(json.dumps(written))


def refusal(directory, load=load_judge):
    with pytest.raises(ConfigError) as refused:
        load(directory)
    message = str(refused.value)
    assert message.startswith("judge.path: ") and "\n" not in message and len(message) < 1500
    return message


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_prefixes_of_training_wrappers_are_taken_off(directory, tensors, params, prefix):
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, directory / WEIGHTS)
    jax.tree.map(np.testing.assert_array_equal, load_judge(directory).params, params)


def test_a_prefix_that_is_not_known_is_named(directory, tensors):
    save_file({"clip.model." + name: tensor for name, tensor in tensors.items()}, directory / WEIGHTS)
    message = refusal(directory)
    assert "All of them are there behind 'clip.model.': save them without it" in message


def test_many_tensors_are_told_by_pattern_count_and_three_examples(directory, tensors):
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("visual.trunk.blocks")}
    save_file(kept | {f"decoder.{number}.weight": np.zeros(1, np.float32) for number in range(50)}, directory / WEIGHTS)
    message = refusal(directory)
    assert "missing: 36 of visual.trunk.blocks.* (visual.trunk.blocks.0.attn.proj.bias; " in message
    assert "extra: 50 of decoder.* (decoder.0.weight; decoder.1.weight; decoder.10.weight)" in message
    assert len(message) < 600


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_weights_in_other_float_types_are_read(directory, tensors, params, dtype):
    save_file({name: tensor.astype(dtype) for name, tensor in tensors.items()}, directory / WEIGHTS)
    for ours, theirs in zip(*map(jax.tree.leaves, (load_judge(directory).params, params)), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize(
    "dtype, name", [(np.int8, "I8"), (np.uint8, "U8"), (np.bool_, "BOOL"), (ml_dtypes.float8_e4m3fn, "F8_E4M3")]
)
def test_weights_that_are_no_floats_are_refused(directory, tensors, dtype, name):
    """As numbers they would load, without the scales that a quantised file keeps elsewhere."""
    rounded = {key: tensor if key == "logit_scale" else (tensor * 10).astype(dtype) for key, tensor in tensors.items()}
    save_file(rounded, directory / WEIGHTS)
    message = refusal(directory)
    assert re.search(rf"no floats: \d+ of .*\({name}\)", message)
    save_file(tensors | {WORDS: rounded[WORDS]}, directory / WEIGHTS)
    assert f"no floats: {WORDS} ({name})" in refusal(directory)


@pytest.mark.parametrize("value, dtype", [(np.nan, np.float32), (np.inf, np.float16), (1e300, np.float64)])
def test_weights_that_are_not_finite_are_refused_by_name(directory, tensors, value, dtype):
    broken = tensors[WORDS].astype(dtype)
    broken[3, 5] = value
    save_file(tensors | {WORDS: broken}, directory / WEIGHTS)
    assert f"NaN or infinite: {WORDS}" in refusal(directory)


def test_what_is_no_weight_of_the_towers_is_left_alone(directory, tensors, params):
    others = {
        "logit_bias": np.full(1, np.nan, np.float32),
        "text.transformer.embeddings.position_ids": np.zeros((1, 64), int),
    }
    save_file(tensors | others, directory / WEIGHTS)
    jax.tree.map(np.testing.assert_array_equal, load_judge(directory).params, params)


def test_weight_files_are_looked_for_in_open_clips_order(directory, tensors, params):
    (directory / WEIGHTS).rename(directory / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, load_judge(directory).params, params)
    save_file({"x": np.zeros(1)}, directory / "open_clip_pytorch_model.safetensors")
    assert "open_clip_pytorch_model.safetensors does not fit" in refusal(directory)
    for name in ("model.safetensors", "open_clip_pytorch_model.safetensors"):
        (directory / name).unlink()
    (directory / "epoch_30.pt").write_bytes(b"")
    message = refusal(directory)
    assert "expected one of open_clip_model.safetensors, " in message and "'epoch_30.pt'" in message


def test_a_git_lfs_pointer_is_called_by_its_name(directory):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (directory / WEIGHTS).write_bytes(pointer)
    assert f"{WEIGHTS} is a Git LFS pointer" in refusal(directory)
    (directory / WEIGHTS).rename(directory / "open_clip_pytorch_model.bin")
    assert "open_clip_pytorch_model.bin is a Git LFS pointer" in refusal(directory)


class Hostile:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (HOSTILE_MARK,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_is_no_dictionary_of_tensors_is_one_line(tmp_path):
    """In the converting process, whose words become the message."""
    torch = pytest.importorskip("torch")
    path, target = tmp_path / "pytorch_model.bin", tmp_path / "out.safetensors"
    torch.save({"a": Hostile()}, path)
    hostile = path.read_bytes()
    for content in (hostile, pickle.dumps(Hostile()), hostile[:200], b"PK\x03\x04" * 100, b"\x80\x02."):
        path.write_bytes(content)
        fault = _convert(str(path), str(target))
        assert "holds more than tensors, or is damaged" in fault and "\n" not in fault
    assert not HOSTILE_MARK.exists()
    for content, fault in (
        ({"epoch": 3, "name": "run", "model": {"a": torch.zeros(1)}}, "3 entries are none: epoch, name, model"),
        ([torch.zeros(1)], "expected a dictionary of tensors; got list"),
        ({}, "expected a dictionary of tensors; got dict"),
    ):
        torch.save(content, path)
        assert fault in _convert(str(path), str(target))
    assert not target.exists()


def test_an_unwritable_cache_says_how_to_name_another(directory, monkeypatch, tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (directory / WEIGHTS).rename(directory / "pytorch_model.bin")
    assert "cannot be written (Not a directory). Set XDG_CACHE_HOME" in refusal(directory)


@pytest.mark.parametrize("size", [[112, 112], [112]])
def test_an_image_size_may_be_a_list(directory, size):
    change(directory / "open_clip_config.json", "model_cfg", "vision_cfg", image_size=size)
    assert read_judge_config(directory) == read_judge_config(PHANTOM)


VISION, TEXT, PICTURES = ("model_cfg", "vision_cfg"), ("model_cfg", "text_cfg"), ("preprocess_cfg",)


@pytest.mark.parametrize(
    "keys, values, fault",
    [
        (
            VISION,
            {"image_size": [112, 224]},
            "vision_cfg.image_size: expected one size, or two equal ones; got [112, 224]",
        ),
        (VISION, {"image_size": "112"}, "vision_cfg.image_size: expected a whole number from 1"),
        (VISION, {"layers": 10**9}, "vision_cfg.layers: expected a whole number from 1 to 128; got 1000000000"),
        (VISION, {"width": 96.0}, "vision_cfg.width: expected a whole number"),
        (VISION, {"heads": True}, "vision_cfg.heads: expected a whole number"),
        (VISION, {"heads": 5}, "heads to divide width"),
        (VISION, {"mlp_ratio": "4"}, "vision_cfg.mlp_ratio: expected a number such as 4; got '4'"),
        (VISION, {"mlp_ratio": 1e-9}, "vision_cfg.mlp_ratio: expected a number such as 4; got 1e-09"),
        (VISION, {"timm_pool": "avg"}, "vision_cfg.timm_pool: expected '' or 'token'; got 'avg'"),
        (VISION, {"timm_proj": ["linear"]}, "vision_cfg.timm_proj: expected 'linear'; got ['linear']"),
        (TEXT, {"hf_pooler_type": "cls_pooler"}, "text_cfg.hf_pooler_type: expected 'cls_last_hidden_state_pooler'"),
        (TEXT, {"tokenizer_mode": "clips"}, "text_cfg.tokenizer_mode: expected ''; got 'clips'"),
        (TEXT, {"tokenizer_kwargs": {"strip_sep_token": True}}, "text_cfg.tokenizer_kwargs: expected {}; got"),
        (TEXT, {"context_length": "64"}, "text_cfg.context_length: expected a whole number"),
        (TEXT, {"context_length": 65}, "context_length to be at most max_position_embeddings"),
        (
            PICTURES,
            {"resize_mode": "stretch"},
            "resize_mode: expected 'shortest' or 'squash' or 'longest'; got 'stretch'",
        ),
        (PICTURES, {"interpolation": "nearest"}, "preprocess_cfg.interpolation: expected 'bicubic' or"),
        (PICTURES, {"mean": [0.5, 0.5]}, "preprocess_cfg.mean: expected a number other than 0, or three"),
        (PICTURES, {"mean": 0}, "preprocess_cfg.mean: expected a number other than 0"),  # open_clip reads its default
        (PICTURES, {"std": [0.5, 0, 0.5]}, "preprocess_cfg.std: expected a number other than 0"),
        (PICTURES, {"fill_color": 256}, "preprocess_cfg.fill_color: expected a level from 0 to 255"),
        (PICTURES, {"mode": "L"}, "preprocess_cfg.mode: expected 'RGB'; got 'L'"),
        ((), {"model_cfg": None}, "model_cfg: expected an object {...}; got None"),
        ((), {"preprocess_cfg": [1]}, "preprocess_cfg: expected an object {...}; got [1]"),
        (("model_cfg",), {"vision_cfg": 3, "text_cfg": "x"}, "vision_cfg: expected an object {...}; got 3; text_cfg: "),
        (("model_cfg",), {"embed_dim": -1}, "model_cfg.embed_dim: expected a whole number from 1"),
    ],
)
def test_a_value_that_means_nothing_is_refused_by_name(directory, keys, values, fault):
    change(directory / "open_clip_config.json", *keys, **values)
    assert fault in refusal(directory, read_judge_config)


@pytest.mark.parametrize(
    "values, fault",
    [
        ({"num_attention_heads": 5}, "num_attention_heads to divide hidden_size"),
        ({"hidden_size": None}, "config.json: hidden_size: expected a whole number"),
        ({"layer_norm_eps": "1e-12"}, "config.json: layer_norm_eps: expected a small number"),
        ({"pad_token_id": 403}, "config.json: pad_token_id: expected an id below vocab_size; got 403"),
        ({"hidden_act": "quick_gelu"}, "config.json: hidden_act: expected 'gelu' or"),
        ({"is_decoder": True}, "config.json: is_decoder: expected False; got True"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type: expected 'absolute'"),
    ],
)
def test_a_bert_of_another_kind_is_refused_by_name(directory, values, fault):
    change(directory / "config.json", **values)
    assert fault in refusal(directory, read_judge_config)


def test_a_bert_of_another_size_is_refused_by_its_weights(directory):
    change(directory / "config.json", num_hidden_layers=3, intermediate_size=128)
    message = refusal(directory)
    assert "missing: 16 of text.transformer.encoder.layer.2.* (" in message
    assert "misshaped: 6 of text.transformer.encoder.layer.* (" in message and "expected [128], got [256]" in message


def test_the_heads_of_a_named_model_are_not_for_choice(directory):
    """No shape of a weight shows them: with another count the same weights would give other numbers in silence."""
    path = directory / "open_clip_config.json"
    change(path, *VISION, timm_model_name="vit_base_patch16_224", width=768, heads=6)
    change(path, *TEXT, hf_model_name="microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract")
    change(directory / "config.json", hidden_size=768, num_attention_heads=6)
    message = refusal(directory, read_judge_config)
    assert "vision_cfg.heads: expected 12, as the named model has; got 6" in message
    assert "config.json: num_attention_heads: expected 12, as the named model has; got 6" in message


def test_a_tokenizer_of_another_model_is_refused(directory):
    vocabulary = (directory / "vocab.txt").read_text()
    (directory / "vocab.txt").write_text(vocabulary + "pneumothorax\neffusion\n")
    message = refusal(directory)
    assert "2 tokens have no row of the embedding, such as 'pneumothorax' (403), 'effusion' (404)" in message
    first, second, *others = vocabulary.splitlines()
    (directory / "vocab.txt").write_text("\n".join([second, first, *others]) + "\n")
    assert "expected the tokenizer's padding to be pad_token_id of config.json, 0; got 1" in refusal(directory)


def test_a_folder_in_place_of_a_file_is_one_line(directory):
    for name in ("config.json", "vocab.txt", "tokenizer_config.json"):
        (directory / name).unlink()
        (directory / name).mkdir()
        assert f"{name}; it cannot be read (Is a directory)" in refusal(directory)
        shutil.rmtree(directory / name)
        shutil.copy(PHANTOM / name, directory / name)
