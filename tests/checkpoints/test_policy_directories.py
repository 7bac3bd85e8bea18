"""Policy directories as people save, wrap, copy and break them: read as transformers reads them, or refused in a line."""

import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import reflex_jax as rx
from reflex_jax.checkpoints.huggingface import load_policy_params
from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.checkpoints.policy import save_policy
from reflex_jax.config import ConfigError
from reflex_jax.models.qwen_vl import read_qwen_config
from reflex_jax.text.chat_template import TEMPLATE_FOLDER
from tests.tiny_directories import change_json, write_tiny_policy

LONGEST_MESSAGE = 2000  # characters
LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1\nsize 3\n"
)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_policy(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def params(tiny):
    return load_policy_params(tiny, read_qwen_config(tiny))


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy to change."""
    return shutil.copytree(tiny, tmp_path / "copy")


def read(directory):
    """What every run does first."""
    directory = resolve_checkpoint(directory, "policy")
    return load_policy_params(directory, read_qwen_config(directory))


def refusal(directory) -> str:
    with pytest.raises(ConfigError) as refused:
        read(directory)
    message = str(refused.value)
    assert "\n" not in message and len(message) < LONGEST_MESSAGE and message.startswith("policy.path: ")
    return message


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def rename(directory, change) -> None:
    tensors = load_file(directory / WEIGHTS)
    save_file({change(name): tensor for name, tensor in tensors.items()}, directory / WEIGHTS)


def cut(directory, count=2) -> list[str]:
    """Spreads the weights over several files with an index; returns their names."""
    tensors, weight_map = load_file(directory / WEIGHTS), {}
    (directory / WEIGHTS).unlink()
    for number in range(count):
        part = {name: tensors[name] for name in sorted(tensors)[number::count]}
        file = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        save_file(part, directory / file)
        weight_map |= dict.fromkeys(part, file)
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return sorted(set(weight_map.values()))


# --- which file


def test_further_chat_templates_are_saved_with_the_policy(copy, params, tmp_path):
    """Without them another template might win in the copy."""
    (copy / TEMPLATE_FOLDER).mkdir()
    (copy / TEMPLATE_FOLDER / "tools.jinja").write_text("{{ messages }}")
    for place in (tmp_path / "new", tmp_path / "there"):
        if place.name == "there":
            place.mkdir()
        save_policy(copy, read_qwen_config(copy), params, place)
        assert (place / TEMPLATE_FOLDER / "tools.jinja").read_text() == "{{ messages }}"


def test_the_single_file_wins_over_an_index_and_a_line_says_so_once(copy, params, capsys):
    old = load_file(copy / WEIGHTS)
    cut(copy)
    for file in copy.glob("*.safetensors"):
        save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file)
    save_file(old, copy / WEIGHTS)
    assert_same(read(copy), params)
    assert_same(read(copy), params)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and str(copy) in lines[0] and f"{WEIGHTS} is read" in lines[0]


def test_the_single_file_is_read_beside_an_index_that_is_broken(copy, params):
    (copy / INDEX).write_text("not json")
    assert_same(read(copy), params)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"metadata": {}}, 'expected "weight_map"'),
        ({"weight_map": ["model-00001-of-00002.safetensors"]}, 'expected "weight_map"'),
        ({"weight_map": {}}, 'expected "weight_map"'),
        ({"weight_map": None}, 'expected "weight_map"'),
        ({"weight_map": {"a": 3, "b": None}}, 'expected "weight_map"'),
        ({"weight_map": {"a": ["x.safetensors"]}}, 'expected "weight_map"'),
        ([], "expected a JSON object"),
        ({"weight_map": {"a": "../secret.safetensors"}}, "files of its own directory"),
        ({"weight_map": {"a": "/etc/secret.safetensors"}}, "files of its own directory"),
        ({"weight_map": {"a": "x/../../secret.safetensors"}}, "files of its own directory"),
        ({"weight_map": {"a": "C:\\secret.safetensors"}}, "files of its own directory"),
        ({"weight_map": {"a": "..\\secret.safetensors"}}, "files of its own directory"),
        ({"weight_map": {"a": "x\0y"}}, "files of its own directory"),
        ({"weight_map": {"a": "x" * 5000}}, "(1 are not there)"),
    ],
)
def test_an_index_that_is_none_is_refused(copy, index, words):
    cut(copy)
    (copy / INDEX).write_text(json.dumps(index))
    assert words in refusal(copy)


def test_an_index_cannot_name_a_file_outside_even_if_it_holds_the_right_tensors(copy, tmp_path):
    names = cut(copy)
    (copy / names[0]).rename(tmp_path / names[0])
    index = json.loads((copy / INDEX).read_text())
    index["weight_map"] = {k: f"../{v}" if v == names[0] else v for k, v in index["weight_map"].items()}
    (copy / INDEX).write_text(json.dumps(index))
    assert f"../{names[0]}" in refusal(copy)


def test_shards_in_a_folder_and_shards_that_are_links_are_read(copy, tmp_path, params):
    names = cut(copy)
    (copy / "parts").mkdir()
    (copy / names[0]).rename(copy / "parts" / names[0])
    (copy / names[1]).rename(tmp_path / "blob")
    (copy / names[1]).symlink_to("../blob")  # as in the hub's cache
    text = (copy / INDEX).read_text()
    (copy / INDEX).write_text(text.replace(f'"{names[0]}"', f'"parts/{names[0]}"'))
    assert_same(read(copy), params)


def test_missing_shards_are_counted(copy):
    for name in cut(copy, count=6)[1:]:
        (copy / name).unlink()
    message = refusal(copy)
    assert "names 6 files" in message and "(5 are not there)" in message
    assert "model-00002-of-00006" in message and "model-00006" not in message


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"{}", b"\xff" * 100, LFS_POINTER, b"whole[:-4]"], ids=repr)
@pytest.mark.parametrize("is_cut", [False, True])
def test_what_is_no_safetensors_file_is_named(copy, content, is_cut):
    file = copy / (cut(copy)[1] if is_cut else WEIGHTS)
    file.write_bytes(file.read_bytes()[:-4] if content == b"whole[:-4]" else content)
    message = refusal(copy)
    assert str(file) in message
    assert ("Git LFS pointer" in message) == (content == LFS_POINTER)
    assert ("is damaged" in message) == (content != LFS_POINTER)


def test_a_folder_and_a_broken_link_in_place_of_the_weights_are_no_weights(copy):
    (copy / WEIGHTS).unlink()
    (copy / WEIGHTS).mkdir()
    assert f"expected {WEIGHTS}" in refusal(copy)
    (copy / WEIGHTS).rmdir()
    (copy / WEIGHTS).symlink_to("gone")
    assert f"expected {WEIGHTS}" in refusal(copy)


def test_weights_in_another_format_are_named(copy):
    (copy / WEIGHTS).rename(copy / "pytorch_model.bin")
    message = refusal(copy)
    assert "found pytorch_model.bin" in message and "save_pretrained" in message


# --- names


@pytest.mark.parametrize(
    "prefix",
    [
        "module.", "_orig_mod.", "base_model.model.", "_fsdp_wrapped_module.", "module._orig_mod.", "_orig_mod.module.",
        "module.base_model.model.", "base_model.model.module.", "module.module.",
    ],
)  # fmt: skip
def test_the_names_of_wrappers_are_taken_off(copy, params, prefix):
    def change(name):
        if len(prefix) % 2:  # about half of them around the names of transformers 5
            is_vision = name.startswith("visual.")
            name = f"model.{name}" if is_vision else name.replace("model.", "model.language_model.", 1)
        return prefix + name

    rename(copy, change)
    assert_same(read(copy), params)


@pytest.mark.parametrize(
    "spelling",
    [
        lambda name: name.replace("model.", "model.language_model.model.", 1),
        lambda name: name.replace("model.", "language_model.", 1),  # of the model without its head
        lambda name: name.replace("model.", "language_model.model.", 1),
        lambda name: name.replace("model.layers.0.", "model.layers.0._fsdp_wrapped_module."),
        lambda name: name.replace("model.layers.1.", "model.layers.1._checkpoint_wrapped_module._orig_mod."),
    ],
)
def test_other_spellings_are_understood(copy, params, spelling):
    rename(copy, lambda name: name if name.startswith("visual.") else spelling(name))
    assert_same(read(copy), params)


@pytest.mark.parametrize("prefix", ["policy.", "actor.net.", "student.model."])
def test_an_unknown_prefix_is_named_and_not_guessed(copy, prefix):
    rename(copy, lambda name: prefix + name)
    message = refusal(copy)
    assert f"Every name begins with '{prefix}'" in message
    assert "missing: " in message and "extra: " in message


def test_a_refused_checkpoint_names_the_pattern(copy):
    change_json(copy / "config.json", num_hidden_layers=40)
    message = refusal(copy)
    assert "missing: 456 of model.layers.* (model.layers.10.input_layernorm.weight; " in message
    assert message.count("model.layers") == 4


def test_names_with_odd_characters_stay_in_one_short_line(copy):
    rename(copy, lambda name: name + "\nINJECTED\x1b[2J" + "x" * 3000)
    assert "\x1b" not in refusal(copy)


@pytest.mark.parametrize("is_cut", [False, True])
def test_two_tensors_under_one_name_are_refused(copy, is_cut):
    name = "model.layers.0.mlp.up_proj.weight"
    tensors = load_file(copy / WEIGHTS)
    if is_cut:
        last = cut(copy)[-1]
        other = name if name not in load_file(copy / last) else "model.layers.0.mlp.gate_proj.weight"
        save_file({**load_file(copy / last), other: tensors[other] + 1}, copy / last)
        name = other
    else:
        save_file({**tensors, f"module.{name}": tensors[name] + 1}, copy / WEIGHTS)
    message = refusal(copy)
    assert "1 tensors are there twice" in message and message.count(name) == 2


def test_adapters_are_to_be_merged_first(copy, tmp_path):
    rename(copy, lambda name: name.replace("q_proj.weight", "q_proj.base_layer.weight"))
    assert "merge_and_unload" in refusal(copy)
    (copy / "adapter_config.json").write_text("{}")
    message = refusal(copy)
    assert "adapter_config.json" in message and "merge_and_unload" in message
    for name in ("config.json", WEIGHTS):  # as peft saves one alone
        (copy / name).unlink()
    assert "merge_and_unload" in refusal(copy)


# --- numbers


@pytest.mark.parametrize("code", ["F8_E4M3", "F8_E5M2", "I8", "BOOL"])
def test_tensors_that_are_no_floats_are_refused(copy, code):
    name = "model.layers.1.mlp.up_proj.weight"
    tensors = load_file(copy / WEIGHTS)
    save_file({**tensors, name: np.zeros((8, 16), np.int8)}, copy / WEIGHTS)
    whole = (copy / WEIGHTS).read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    header[name]["dtype"] = code
    encoded = json.dumps(header).encode()
    (copy / WEIGHTS).write_bytes(len(encoded).to_bytes(8, "little") + encoded + whole[8 + size :])
    assert f"no floats: {name} ({code})" in refusal(copy)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_every_float_dtype_is_read(copy, params, dtype):
    save_file({name: tensor.astype(dtype) for name, tensor in load_file(copy / WEIGHTS).items()}, copy / WEIGHTS)
    expected = jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype).astype(np.float32), params)
    assert_same(read(copy), expected)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (np.float16, np.nan),
        (jnp.bfloat16, np.inf),
        (jnp.bfloat16, np.nan),
        (np.float32, -np.inf),
        (np.float64, -np.nan),
    ],
)
def test_numbers_that_are_not_finite_are_counted(copy, dtype, value):
    name = "visual.blocks.0.attn.qkv.weight"  # three leaves come from it
    tensors = {key: tensor.astype(dtype) for key, tensor in load_file(copy / WEIGHTS).items()}
    tensors[name][0, :3] = tensors[name][-1, -1] = value
    save_file(tensors, copy / WEIGHTS)
    assert f"4 numbers in 1 tensors are not finite in float32: {name} (4)" in refusal(copy)


def test_numbers_beyond_the_dtype_in_memory_are_counted(copy):
    tensors = {key: tensor.astype(np.float64) for key, tensor in load_file(copy / WEIGHTS).items()}
    for name in sorted(tensors)[:5]:
        tensors[name].flat[0] = -1e200
    save_file(tensors, copy / WEIGHTS)
    message = refusal(copy)
    assert "5 numbers in 5 tensors are not finite in float32" in message and message.count("(1)") == 3


def test_the_largest_numbers_are_finite(copy):
    largest = float(jnp.finfo(jnp.bfloat16).max)
    save_file({name: np.full_like(t, -largest) for name, t in load_file(copy / WEIGHTS).items()}, copy / WEIGHTS)
    config = read_qwen_config(copy)
    assert float(load_policy_params(copy, config, "bfloat16")["final_norm"]["scale"][0]) == -largest


# --- heads


def test_a_head_is_tied_as_the_configuration_says(tmp_path):
    untied = write_tiny_policy(tmp_path / "untied", is_tied=False)
    assert "head" in read(untied)
    change_json(untied / "config.json", tie_word_embeddings=True)
    assert "set tie_word_embeddings to false" in refusal(untied)
    tensors = load_file(untied / WEIGHTS)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, untied / WEIGHTS)
    assert "head" not in read(untied)
    del tensors["lm_head.weight"]
    save_file(tensors, untied / WEIGHTS)
    assert "head" not in read(untied)
    change_json(untied / "config.json", tie_word_embeddings=False)
    message = refusal(untied)
    assert "missing: lm_head.weight." in message and "Set tie_word_embeddings to true" in message


# --- config.json

REFUSED_SETTINGS = [
    ({"hidden_size": 0}, "hidden_size: expected a whole number from 1"),
    ({"hidden_size": -16}, "hidden_size: expected a whole number from 1"),
    ({"hidden_size": 16.0}, "hidden_size: expected a whole number from 1"),
    ({"hidden_size": "16"}, "got '16'"),
    ({"hidden_size": True}, "got True"),
    ({"hidden_size": [16]}, "got [16]"),
    ({"hidden_size": None}, "got null"),
    ({"hidden_size": ...}, "hidden_size: expected a whole number from 1 to 16777216, got nothing"),
    ({"vocab_size": 10**30}, "vocab_size: expected a whole number from 1 to 16777216"),
    ({"num_hidden_layers": 10**6}, "num_hidden_layers: expected a whole number from 1 to 1024"),
    ({"num_attention_heads": 3}, "num_attention_heads: expected a divisor of hidden_size 16, got 3"),
    ({"num_key_value_heads": 3}, "num_key_value_heads: expected a divisor of num_attention_heads 2, got 3"),
    ({"num_key_value_heads": ...}, "num_key_value_heads: expected a whole number"),  # transformers takes 8
    ({"head_dim": 16}, "head_dim: expected 8, got 16"),
    ({"rms_norm_eps": 0}, "rms_norm_eps: expected a number above 0, got 0"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps: expected a number above 0, got nan"),
    ({"rope_theta": "1e6"}, "rope_theta: expected a number above 0"),
    ({"rope_theta": float("inf")}, "rope_theta: expected a number above 0"),
    ({"hidden_act": "gelu"}, "hidden_act: expected 'silu', got 'gelu'"),
    ({"hidden_act": ["silu"]}, "hidden_act: expected 'silu'"),
    ({"use_sliding_window": True}, "use_sliding_window: expected False, got True"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types: expected 'full_attention' alone"),
    ({"tie_word_embeddings": "false"}, "tie_word_embeddings: expected true or false, got 'false'"),
    ({"quantization_config": {"quant_method": "awq"}}, "quantization_config: expected none"),
    ({"transformers_weights": "old.safetensors"}, "transformers_weights: expected 'model.safetensors'"),
    ({"text_config": []}, "text_config: expected an object"),
    ({"text_config": {"hidden_size": "16"}}, "hidden_size: expected a whole number"),
    ({"rope_scaling": "mrope"}, "rope_scaling: expected an object"),
    ({"rope_scaling": {"type": "yarn", "mrope_section": [1, 2, 1]}}, "rope_scaling.type: expected 'mrope' or"),
    ({"rope_scaling": {"rope_type": "yarn", "type": "mrope", "mrope_section": [1, 2, 1]}}, "rope_scaling.rope_type"),
    ({"rope_scaling": ..., "rope_parameters": {"rope_type": "linear", "mrope_section": [1, 2, 1]}}, "rope_parameters.rope_type"),
    ({"rope_scaling": {"type": "mrope", "mrope_section": [2, 2]}}, "three numbers that add up to 4, got [2, 2]"),
    ({"rope_scaling": {"type": "mrope", "mrope_section": 4}}, "three numbers that add up to 4, got 4"),
    ({"rope_scaling": {"type": "mrope", "mrope_section": [5, -2, 1]}}, "three numbers that add up to 4"),
    ({"rope_scaling": {"type": "mrope"}}, "three numbers that add up to 4, got nothing"),
    ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 2, 1], "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ({"model_type": "llava"}, "expected model_type qwen2_vl or qwen2_5_vl or qwen3_vl or smolvlm; got 'llava'"),
    ({"model_type": "qwen3_vl_moe"}, "Mixtures of experts are not computed; take a dense model of the family."),
    ({"model_type": ...}, "expected model_type qwen2_vl or qwen2_5_vl or qwen3_vl or smolvlm; got null"),
    ({"model_type": ["qwen2_5_vl"]}, "expected model_type qwen2_vl or qwen2_5_vl or qwen3_vl or smolvlm; got ['qwen2_5_vl']"),
    ({"vision_config": ...}, "vision_config: expected an object {...}, got nothing"),
    ({"vision_config": {}}, "vision_config.depth: expected a whole number from 1 to 1024, got nothing"),
    ({"vision_config": "qwen"}, "vision_config: expected an object {...}, got 'qwen'"),
    ({"image_token_id": 1024}, "image_token_id: expected a token id from 0 to 1023, got 1024"),
    ({"video_token_id": -1}, "video_token_id: expected a token id from 0 to 1023, got -1"),
    ({"vision_start_token_id": "987"}, "vision_start_token_id: expected a token id"),
    ({"vision_end_token_id": ...}, "vision_end_token_id: expected a token id from 0 to 1023, got nothing"),
    ({"vision_end_token_id": 990}, "token ids: expected different ones"),
    ({"image_token_id": 980}, "token ids: expected different ones"),  # which ends a completion
    ({"vocab_size": 900}, "image_token_id: expected a token id from 0 to 899, got 990"),
]  # fmt: skip
REFUSED_VISION = [
    ({"num_heads": 3}, "vision_config.num_heads: expected a divisor of hidden_size 16"),
    ({"num_heads": 8}, "heads of a multiple of 4"),
    ({"depth": 0}, "vision_config.depth: expected a whole number from 1"),
    ({"out_hidden_size": 32}, "vision_config.out_hidden_size: expected hidden_size 16 of the decoder, got 32"),
    ({"fullatt_block_indexes": [2]}, "a list of different numbers from 0 to 1, got [2]"),
    ({"fullatt_block_indexes": [-1]}, "vision_config.fullatt_block_indexes"),
    ({"fullatt_block_indexes": [1, 1]}, "vision_config.fullatt_block_indexes"),
    ({"fullatt_block_indexes": 1}, "vision_config.fullatt_block_indexes"),
    ({"fullatt_block_indexes": [True]}, "vision_config.fullatt_block_indexes"),
    ({"patch_size": [14, 14]}, "vision_config.patch_size: expected a whole number"),
    ({"window_size": 100}, "window_size: expected a multiple of patch_size x spatial_merge_size, 28, got 100"),
    ({"in_channels": 1}, "vision_config.in_channels: expected 3, got 1"),
    ({"hidden_act": "quick_gelu"}, "vision_config.hidden_act: expected 'silu'"),
    ({"rope_parameters": {"rope_theta": 1e6}}, "vision_config.rope_parameters.rope_theta: expected 10000.0"),
]


@pytest.mark.parametrize(("change", "words"), REFUSED_SETTINGS)
def test_a_setting_this_code_does_not_compute_is_named(copy, change, words):
    change_json(copy / "config.json", **change)
    assert words in refusal(copy)


@pytest.mark.parametrize(("change", "words"), REFUSED_VISION)
def test_a_setting_of_the_vision_tower_this_code_does_not_compute_is_named(copy, change, words):
    vision = json.loads((copy / "config.json").read_text())["vision_config"]
    change_json(copy / "config.json", vision_config={**vision, **change})
    assert words in refusal(copy)


def test_all_problems_are_listed_at_once_and_each_once(copy):
    change_json(copy / "config.json", hidden_size=None, hidden_act="gelu", tie_word_embeddings=1, image_token_id=5000)
    (copy / "generation_config.json").write_text('{"eos_token_id": "end"}')
    message = refusal(copy)
    for word in (
        "hidden_size",
        "hidden_act",
        "tie_word_embeddings",
        "image_token_id",
        "generation_config.json: eos_token_id",
    ):
        assert message.count(f"{word}:") == 1, message
    change_json(
        copy / "config.json",
        **{key: "?" for key in json.loads((copy / "config.json").read_text()) if key != "model_type"},
    )
    assert "and " in refusal(copy) and "more." in refusal(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"num_key_value_heads": 1, "head_dim": 8, "layer_types": ["full_attention"] * 2},
        {"text_config": None, "quantization_config": None, "head_dim": None, "bos_token_id": None},
        {
            "rope_scaling": ..., "rope_theta": ...,
            "rope_parameters": {"rope_type": "default", "type": "mrope", "mrope_section": [1, 2, 1], "rope_theta": 1e4},
        },
        {"rope_scaling": {"type": "mrope", "mrope_section": [1, 2, 1]}, "rope_parameters": {"rope_type": "yarn"}},
    ],
)  # fmt: skip
def test_what_says_the_same_in_other_words_is_read_alike(tiny, copy, change):
    change_json(copy / "config.json", **change)
    assert read_qwen_config(copy) == read_qwen_config(tiny)


def test_no_number_of_key_heads_means_as_many_as_queries(copy):
    change_json(copy / "config.json", num_key_value_heads=None)
    assert read_qwen_config(copy).text.key_heads == 2


# --- the end of a completion, and padding


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": 5}, 7, (5,)),
        ({"eos_token_id": [5, 6, 5]}, 7, (5, 6)),
        ({"eos_token_id": None}, 7, (7,)),
        ({"eos_token_id": []}, [7, 8], (7, 8)),
        ({}, 7, (7,)),
        (None, [7, 8], (7, 8)),
        ({"eos_token_id": 0}, None, (0,)),
    ],
)
def test_what_ends_a_completion_comes_from_either_file(copy, generation, config, expected):
    change_json(copy / "config.json", eos_token_id=config)
    (copy / "generation_config.json").unlink()
    if generation is not None:
        (copy / "generation_config.json").write_text(json.dumps(generation))
    read = read_qwen_config(copy)
    assert read.eos_token_ids == expected
    assert read.pad_token_id == expected[0]  # as transformers pads where nothing else is said


@pytest.mark.parametrize(
    ("eos", "words"),
    [
        (None, "got nothing"),
        ([], "none could end"),
        (1024, "expected a token id from 0 to 1023, or a list of such, got 1024"),
        ([980, 1024], "got [980, 1024]"),
        ([980, None], "got [980, None]"),
        (-1, "got -1"),
        (True, "got True"),
        ("980", "got '980'"),
        (980.0, "got 980.0"),
        ({"a": 1}, "got {'a': 1}"),
    ],
)
def test_a_completion_that_could_never_end_is_refused(copy, eos, words):
    change_json(copy / "config.json", eos_token_id=...)
    change_json(copy / "generation_config.json", eos_token_id=... if eos is None else eos)
    message = refusal(copy)
    assert words in message and "eos_token_id" in message and "generation_config.json" in message


@pytest.mark.parametrize(
    ("generation", "config", "expected"), [(None, None, 980), (..., 3, 3), (4, 3, 4), (None, 0, 0), (0, None, 0)]
)
def test_null_is_no_padding(copy, generation, config, expected):
    change_json(copy / "config.json", pad_token_id=config)
    change_json(copy / "generation_config.json", pad_token_id=generation)
    assert read_qwen_config(copy).pad_token_id == expected


@pytest.mark.parametrize("key", ["pad_token_id", "bos_token_id"])
@pytest.mark.parametrize("value", [1024, -1, "3", [3]])
def test_other_ids_beyond_the_vocabulary_are_refused(copy, key, value):
    change_json(copy / "generation_config.json", **{key: value})
    assert f"generation_config.json: {key}: expected a token id from 0 to 1023 or null" in refusal(copy)


def test_a_generation_config_that_is_none_is_refused_and_one_that_is_absent_is_not(copy):
    (copy / "generation_config.json").write_bytes(LFS_POINTER)
    assert "generation_config.json is a Git LFS pointer" in refusal(copy)
    (copy / "generation_config.json").unlink()
    (copy / "generation_config.json").symlink_to("gone")
    assert "generation_config.json" in refusal(copy)
    (copy / "generation_config.json").unlink()
    assert read_qwen_config(copy).eos_token_ids == (980,)


def test_a_tokenizer_with_more_entries_than_the_embedding_is_refused(copy):
    change_json(copy / "config.json", vocab_size=991, video_token_id=1)  # as many as up to the image token
    tensors = load_file(copy / WEIGHTS)
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:991].copy()
    save_file(tensors, copy / WEIGHTS)
    with pytest.raises(
        ConfigError, match=r"ids of the tokenizer go up to 9\d\d: \d tokens have no row.*resize_token_embeddings"
    ):
        rx.load_policy(copy)


# --- where a checkpoint lies


def hub_cache(tiny, directory, reference: str | None = "0123abcd"):
    """The layout of huggingface_hub: blobs, a snapshot of links to them, a reference."""
    snapshot = directory / "snapshots" / "0123abcd"
    (directory / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(tiny.iterdir())):
        shutil.copyfile(file, directory / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    (directory / "refs").mkdir()
    if reference is not None:
        (directory / "refs" / "main").write_text(reference)
    return directory


def test_the_root_of_a_hub_cache_is_its_main_snapshot(tiny, tmp_path, params):
    cache = hub_cache(tiny, tmp_path / "models--Qwen--Qwen2.5-VL-3B-Instruct")
    (cache / "snapshots" / "ffff").mkdir()  # another revision
    from huggingface_hub import snapshot_download

    expected = snapshot_download("Qwen/Qwen2.5-VL-3B-Instruct", cache_dir=tmp_path, local_files_only=True)
    assert str(resolve_checkpoint(cache, "policy")) == expected
    assert_same(read(cache), params)


@pytest.mark.parametrize("reference", [None, "", "gone", "../../../etc", "\udcff"])
def test_a_hub_cache_without_its_main_snapshot_names_those_that_are_there(tiny, tmp_path, reference):
    cache = hub_cache(tiny, tmp_path / "models--a--b", None)
    if reference is not None:
        (cache / "refs" / "main").write_bytes(reference.encode(errors="surrogateescape"))
    message = refusal(cache)
    assert "refs/main" in message and str(cache / "snapshots" / "0123abcd") in message


def test_what_is_no_checkpoint_is_refused_by_what_it_is(copy, tmp_path):
    assert "is a file, not its directory" in refusal(copy / "config.json")
    assert "is no directory" in refusal(tmp_path / "nowhere")
    assert "is no directory" in refusal("x" * 1000)  # longer than a name may be
    (copy / "config.json").unlink()
    assert "expected the file config.json" in refusal(copy)
    (copy / "config.json").symlink_to("gone")
    assert "a link to nothing" in refusal(copy)
    assert "policy.path" in refusal("~nobody-of-that-name/x")
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0)
        assert "cannot be read" in refusal(tmp_path / "closed")
