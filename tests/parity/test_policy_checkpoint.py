"""Loading of Hugging Face checkpoints: both spellings, shards, and everything that does not fit listed at once."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from reflex_jax.checkpoints.huggingface import load_policy_params, save_policy_params
from reflex_jax.config import ConfigError
from reflex_jax.models.qwen_vl import init_policy_params, read_qwen_config
from tests.parity import qwen_reference as reference


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    return reference.write_checkpoint(tmp_path_factory.mktemp("tied"))


@pytest.fixture
def changed(tied, tmp_path):
    """Writes a copy of the checkpoint with other tensors, or another config.json."""

    def write(*, tensors=None, **config):
        tensors = load_file(tied / "model.safetensors") if tensors is None else tensors
        save_file(tensors, tmp_path / "model.safetensors")
        raw = {**json.loads((tied / "config.json").read_text()), **config}
        (tmp_path / "config.json").write_text(json.dumps(raw))
        return tmp_path

    return write


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_checkpoint_saved_by_transformers_5_is_read_alike(tied, tmp_path):
    """Nested text_config, `model.language_model.` names."""
    reference.load_torch(tied).save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert "text_config" in raw
    config = read_qwen_config(tmp_path)
    assert config.text == read_qwen_config(tied).text
    assert config.vision == read_qwen_config(tied).vision
    assert_same(load_policy_params(tmp_path, config), load_policy_params(tied, config))


def test_names_of_transformers_5_are_read_alike(tied, changed):
    tensors = {
        name.replace("visual.", "model.visual.")
        if name.startswith("visual.")
        else name.replace("model.", "model.language_model.", 1): tensor
        for name, tensor in load_file(tied / "model.safetensors").items()
    }
    config = read_qwen_config(tied)
    assert_same(load_policy_params(changed(tensors=tensors), config), load_policy_params(tied, config))


def test_shards_named_by_an_index_are_read_alike(tied, tmp_path):
    tensors = load_file(tied / "model.safetensors")
    names, weight_map = sorted(tensors), {}
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in part}, tmp_path / f"part-{number}.safetensors")
        weight_map |= dict.fromkeys(part, f"part-{number}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = read_qwen_config(tied)
    assert_same(load_policy_params(tmp_path, config), load_policy_params(tied, config))
    (tmp_path / "part-1.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"expected part-1\.safetensors"):
        load_policy_params(tmp_path, config)


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_saving_is_the_inverse_of_loading(tmp_path, is_tied):
    source = reference.write_checkpoint(tmp_path / "source", is_tied=is_tied)
    config = read_qwen_config(source)
    save_policy_params(load_policy_params(source, config), config, tmp_path / "copy")
    assert_same(load_file(tmp_path / "copy/model.safetensors"), load_file(source / "model.safetensors"))


def test_all_missing_extra_and_misshaped_tensors_are_listed(tied, changed):
    tensors = load_file(tied / "model.safetensors")
    del tensors["model.layers.1.self_attn.k_proj.bias"], tensors["visual.merger.ln_q.weight"]
    tensors["model.layers.3.input_layernorm.weight"] = np.ones(64, np.float32)
    tensors["visual.blocks.0.attn.qkv.weight"] = np.ones((95, 32), np.float32)
    tensors["model.norm.weight"] = np.ones(63, np.float32)
    with pytest.raises(ConfigError) as caught:
        load_policy_params(changed(tensors=tensors), read_qwen_config(tied))
    assert str(caught.value).splitlines()[1:] == [
        "  missing model.layers.1.self_attn.k_proj.bias [32]",
        "  missing visual.merger.ln_q.weight [32]",
        "  extra model.layers.3.input_layernorm.weight [64]",
        "  misshaped model.norm.weight: expected [64], got [63]",
        "  misshaped visual.blocks.0.attn.qkv.weight: expected [96, 32], got [95, 32]",
    ]


def test_a_head_beside_a_tied_embedding_is_accepted_only_if_it_is_the_embedding(tied, changed):
    tensors = load_file(tied / "model.safetensors")
    config = read_qwen_config(tied)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    assert_same(load_policy_params(changed(tensors=tensors), config), load_policy_params(tied, config))
    tensors["lm_head.weight"][0, 0] += 1
    with pytest.raises(ConfigError, match=r"extra lm_head\.weight"):
        load_policy_params(changed(tensors=tensors), config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen3_vl"}, "expected model_type qwen2_5_vl; got 'qwen3_vl'"),
        ({"hidden_act": "gelu"}, "hidden_act: expected 'silu', got 'gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window: expected False, got True"),
        ({"rope_scaling": {"type": "yarn", "mrope_section": [2, 3, 3]}}, "rope type: expected 'mrope', got 'yarn'"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 4]}}, "three numbers that add up to 8"),
    ],
)
def test_a_model_this_code_does_not_compute_is_refused_by_name(changed, change, message):
    with pytest.raises(ConfigError, match=message):
        read_qwen_config(changed(**change))


def test_an_incomplete_config_is_refused_by_name(tied, tmp_path):
    raw = json.loads((tied / "config.json").read_text())
    del raw["num_hidden_layers"]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match="expected the key 'num_hidden_layers'"):
        read_qwen_config(tmp_path)


def test_the_7b_configuration_of_the_hub_is_understood(data_root):
    config = read_qwen_config(data_root / "tokenizers" / "qwen2.5-vl-7b-instruct")
    assert config.eos_token_ids == (151645, 151643)
    assert config.pad_token_id == 151643
    assert (config.text.rope_sections, config.text.head_width, config.text.is_tied) == ((16, 24, 24), 128, False)
    assert (config.vision.full_attention_layers, config.vision.patches_per_window) == ((7, 15, 23, 31), 64)
    shapes = jax.eval_shape(lambda: init_policy_params(config, jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 8_292_166_656
