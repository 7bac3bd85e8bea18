"""The judge's two towers, its files and its preprocessing against open_clip, in float32.

Tolerance: the largest error is at most 1e-4 of the largest reference value; measured errors are near 1e-6.
"""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from reflex_jax.checkpoints.open_clip import expected_tensors, load_judge_params, save_judge_params
from reflex_jax.config import ConfigError
from reflex_jax.judge.batch import StatementTokenizer, judge_pixels
from reflex_jax.models.biomedclip import encode_image, encode_text, normalise_pixels, read_judge_config
from tests.parity import judge_reference as reference

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

TOLERANCE = 1e-4
encode = jax.jit(encode_text, static_argnums=2)
STATEMENTS = [
    "there is a nodule in the left lung",
    "",
    "the image is a CT of the chest, no effusion is seen.",
    "nodule and cyst on the left side " * 60,  # 420 words: over 256 tokens
    "caf\u00e9 &amp;amp; x-ray  \n two\tspaces \u2019quoted\u2019",
]


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    directory = tmp_path_factory.mktemp("judge")
    model = reference.write_judge(directory)
    config = read_judge_config(directory)
    return directory, model, config, load_judge_params(directory, config)


def assert_close(ours, theirs):
    theirs = np.asarray(theirs)
    assert np.abs(np.asarray(ours) - theirs).max() <= TOLERANCE * np.abs(theirs).max()


def statement_rows(directory, tokens):
    tokenizer = StatementTokenizer(directory)
    rows = [tokenizer(text, tokens) for text in STATEMENTS]
    return np.stack([np.pad(row, (0, tokens - len(row)), constant_values=tokenizer.pad_token_id) for row in rows])


@pytest.mark.parametrize("batch", [1, 3])
def test_image_embeddings_equal_open_clips(judge, batch):
    _, model, config, params = judge
    pixels = np.random.default_rng(batch).normal(size=(batch, reference.IMAGE_SIZE, reference.IMAGE_SIZE, 3))
    pixels = pixels.astype(np.float32)
    with torch.no_grad():
        theirs = model.encode_image(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
    assert_close(jax.jit(encode_image, static_argnums=2)(params, pixels, config), theirs)


def test_statement_embeddings_equal_open_clips_also_when_empty_and_when_cut(judge):
    directory, model, config, params = judge
    ids = statement_rows(directory, reference.CONTEXT)
    assert (ids[1] != 0).sum() == 2 and (ids[3] != 0).all()  # [CLS] [SEP]; all 256 places taken
    with torch.no_grad():
        theirs = model.encode_text(torch.from_numpy(ids).long())
    assert_close(encode(params, ids, config), theirs)


def test_padding_does_not_change_a_statement(judge):
    directory, _, config, params = judge
    ids = statement_rows(directory, 64)[:3]
    assert_close(encode(params, ids[:, :40], config), encode(params, ids, config))


def test_statements_become_open_clips_token_ids(judge):
    directory, *_ = judge
    theirs = open_clip.tokenizer.HFTokenizer(str(directory), context_length=reference.CONTEXT)(STATEMENTS)
    np.testing.assert_array_equal(statement_rows(directory, reference.CONTEXT), theirs.numpy())


def test_the_published_tokenizer_gives_open_clips_token_ids(data_root):
    directory = data_root / "tokenizers" / "biomedclip"
    theirs = open_clip.tokenizer.HFTokenizer(str(directory), context_length=256)(STATEMENTS)
    np.testing.assert_array_equal(statement_rows(directory, 256), theirs.numpy())


def test_special_tokens_in_a_statement_are_words(judge):
    directory, *_ = judge
    ids = StatementTokenizer(directory)("there is [SEP] a [PAD] nodule", 64)
    assert 0 not in ids and ids.count(3) == 1 and ids[-1] == 3


SIZES = ((112, 112), (301, 200), (113, 400), (57, 57), (40, 91), (112, 225), (11, 300), (997, 31))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "preprocess",
    [
        None,
        {"resize_mode": None, "interpolation": None, "mean": None, "std": None},
        {"resize_mode": "squash", "mean": 0.5, "std": 0.25},
        {"resize_mode": "longest"},
        {"resize_mode": "longest", "fill_color": 200, "interpolation": "bilinear"},
        {"resize_mode": "shortest", "interpolation": "random", "mode": "RGB", "size": 64},
    ],
)  # fmt: skip
def test_pixels_equal_open_clips_preprocessing(tmp_path, preprocess, mode):
    """With whatever the judge's preprocess_cfg says, as open_clip merges and reads it."""
    directory = reference.write_judge_directory(tmp_path)
    written = json.loads((directory / "open_clip_config.json").read_text()) | {"preprocess_cfg": preprocess}
    (directory / "open_clip_config.json").write_text(json.dumps(written))
    config = read_judge_config(directory)
    merged = open_clip.transform.merge_preprocess_dict(open_clip.transform.PreprocessCfg(), preprocess)
    merged["size"] = reference.IMAGE_SIZE  # open_clip too takes it from the image tower
    transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**merged), is_train=False)
    for size in SIZES:
        noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
        image = Image.fromarray(noise).convert(mode)
        ours = normalise_pixels(jnp.asarray(judge_pixels(image, config)), config)
        theirs = transform(image).numpy().transpose(1, 2, 0)
        assert np.abs(np.asarray(ours) - theirs).max() < 1e-5, size  # a grey level is 0.015


@pytest.mark.parametrize("resize, resize_mode", [("crop", "shortest"), ("squash", "squash"), ("pad", "longest")])
def test_a_resize_that_is_asked_for_wins_over_the_judges_own(judge, resize, resize_mode):
    config = judge[2]
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (301, 200, 3), np.uint8))
    for own in ("shortest", "squash", "longest"):
        pixels = judge_pixels(image, replace(config, resize_mode=own), resize)
        np.testing.assert_array_equal(pixels, judge_pixels(image, replace(config, resize_mode=resize_mode)))


def test_an_unknown_resize_is_refused(judge):
    with pytest.raises(ValueError, match="checkpoint, crop, squash, pad; got 'stretch'"):
        judge_pixels(Image.new("RGB", (9, 9)), judge[2], "stretch")


def test_saving_and_loading_is_the_identity_and_open_clip_reads_the_file(judge, tmp_path):
    directory, model, config, params = judge
    save_judge_params(params, config, tmp_path)
    again = load_judge_params(tmp_path, config)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    from safetensors.torch import load_file

    other = reference.build_torch_model(directory)
    other.load_state_dict(load_file(tmp_path / "open_clip_model.safetensors"), strict=True)
    for (name, ours), theirs in zip(other.state_dict().items(), model.state_dict().values(), strict=True):
        assert name == "logit_scale" or torch.equal(ours, theirs), name


def test_the_real_judge_has_the_tensors_we_expect(data_root):
    directory = data_root / "tokenizers" / "biomedclip"
    written = json.loads((directory / "open_clip_config.json").read_text())["model_cfg"]
    text = {**written["text_cfg"], "hf_model_name": str(directory), "hf_model_pretrained": False}
    with torch.device("meta"):
        model = open_clip.CustomTextCLIP(written["embed_dim"], vision_cfg=written["vision_cfg"], text_cfg=text)
    theirs = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name != "logit_scale"}
    assert expected_tensors(read_judge_config(directory)) == theirs


def test_a_pickled_file_is_converted_once_into_the_cache(judge, tmp_path, monkeypatch):
    import torch

    _, model, config, params = judge
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = reference.write_judge_directory(tmp_path / "bin")
    state = {
        f"module.{name}": tensor for name, tensor in model.state_dict().items()
    }  # as open_clip's training saves it
    torch.save({"epoch": 3, "name": "run", "state_dict": state}, directory / "open_clip_pytorch_model.bin")
    jax.tree.map(np.testing.assert_array_equal, load_judge_params(directory, config), params)
    (converted,) = (tmp_path / "cache" / "reflex_jax" / "converted").iterdir()
    written = converted.stat().st_mtime_ns
    load_judge_params(directory, config)
    assert converted.stat().st_mtime_ns == written
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    load_judge_params(directory, config)  # found in the cache, no torch needed
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(ConfigError, match="torch is not installed. Install the extra `convert`"):
        load_judge_params(directory, config)


def test_a_pickle_that_is_no_checkpoint_is_refused_and_leaves_nothing(judge, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(b"not a pickle")
    with pytest.raises(ConfigError, match="could not be converted"):
        load_judge_params(tmp_path, judge[2])
    assert list((tmp_path / "cache" / "reflex_jax" / "converted").iterdir()) == []


def test_all_tensors_that_do_not_fit_are_listed(judge, tmp_path):
    from safetensors.numpy import load_file, save_file

    directory, _, config, _ = judge
    tensors = load_file(directory / "open_clip_model.safetensors")
    del tensors["visual.trunk.cls_token"]
    tensors["visual.trunk.fc_norm.weight"] = np.zeros(3, np.float32)
    tensors["text.proj.0.weight"] = np.zeros((2, 2), np.float32)
    tensors["text.transformer.embeddings.position_ids"] = np.zeros((1, 4), np.int64)  # a buffer of old files: ignored
    save_file(tensors, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(ConfigError) as error:
        load_judge_params(tmp_path, config)
    message = str(error.value)
    assert "missing: visual.trunk.cls_token" in message
    assert "extra: visual.trunk.fc_norm.weight" in message and "position_ids" not in message
    assert "misshaped: text.proj.0.weight: expected [28, 32], got [2, 2]" in message


def test_a_truncated_or_absent_weight_file_is_one_clear_line(judge, tmp_path):
    directory, _, config, _ = judge
    with pytest.raises(ConfigError, match="expected one of open_clip_model.safetensors, .*open_clip_pytorch_model.bin"):
        load_judge_params(tmp_path, config)
    whole = (directory / "open_clip_model.safetensors").read_bytes()
    (tmp_path / "open_clip_model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="cannot be read, it may be truncated"):
        load_judge_params(tmp_path, config)


def test_bfloat16_weights_give_float32_embeddings_near_the_exact_ones(judge):
    directory, _, config, params = judge
    ids = statement_rows(directory, 64)[:3]
    exact = np.asarray(encode(params, ids, config))
    rounded = encode(load_judge_params(directory, config, jnp.bfloat16), ids, config)
    assert rounded.dtype == jnp.float32
    cosines = (exact * rounded).sum(-1) / np.linalg.norm(exact, axis=-1) / np.linalg.norm(rounded, axis=-1)
    assert cosines.min() > 0.99
