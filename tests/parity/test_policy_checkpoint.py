"""Loading of Hugging Face checkpoints: both spellings, shards, and everything that does not fit listed at once."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from reflex_jax.checkpoints import safetensors_reader
from reflex_jax.checkpoints.huggingface import load_policy_params, save_policy_params
from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.checkpoints.policy import policy_shardings, save_policy
from reflex_jax.checkpoints.qwen_tensors import abstract_policy_params
from reflex_jax.config import ConfigError, MeshConfig
from reflex_jax.models.published import published_policy
from reflex_jax.models.qwen_config import MODEL_TYPES
from reflex_jax.models.qwen_vl import init_policy_params, read_qwen_config
from reflex_jax.sharding import make_mesh
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


def test_what_transformers_saves_is_read_alike_in_each_of_its_ways(tied, tmp_path):
    """Sharded; again in one file, which leaves the index behind; its own names; without the head; out of a wrapper."""
    import torch

    model, config = reference.load_torch(tied), read_qwen_config(tied)
    expected = load_policy_params(tied, config)
    model.save_pretrained(tmp_path / "again", max_shard_size="100KB")
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 3
    assert_same(load_policy_params(tmp_path / "again", read_qwen_config(tmp_path / "again")), expected)
    with torch.no_grad():
        model.lm_head.weight[0] += 1  # the tied embedding too
    model.save_pretrained(tmp_path / "again")
    files = {path.name for path in (tmp_path / "again").iterdir() if "safetensors" in path.name}
    assert files == {"model.safetensors", "model.safetensors.index.json"}
    got = load_policy_params(tmp_path / "again", config)
    assert_same(got["embed"]["embedding"], model.lm_head.weight.detach().numpy())
    model.save_pretrained(tmp_path / "names", save_original_format=False)
    model.model.save_pretrained(tmp_path / "headless")
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "wrapped", state_dict=wrapped)
    prefixes = {"names": "model.language_model.", "headless": "language_model.", "wrapped": "module._orig_mod."}
    for name, first in prefixes.items():
        assert min(load_file(tmp_path / name / "model.safetensors")).startswith(first)
        assert_same(load_policy_params(tmp_path / name, read_qwen_config(tmp_path / name)), got)


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


def assert_same_bytes(left, right):
    """Two checkpoints, tensor by tensor; -0 and 0 differ, and so do two dtypes."""
    left, right = ({k: v for f in d.glob("*.safetensors") for k, v in load_file(f).items()} for d in (left, right))
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert (tensor.dtype, tensor.shape) == (right[name].dtype, right[name].shape), name
        assert tensor.tobytes() == right[name].tobytes(), name


@pytest.fixture(params=["tied", "untied", "phantom"])
def source(request, tmp_path):
    """Checkpoints to come back from memory as they were, with numbers that rounding or flushing to 0 would change."""
    if request.param == "phantom":
        return resolve_checkpoint("phantom", "policy")
    directory = reference.write_checkpoint(tmp_path / "source", is_tied=request.param == "tied")
    tensors = load_file(directory / "model.safetensors")
    for number, name in enumerate(sorted(tensors)):
        dtype = (jnp.bfloat16, np.float16, np.float32)[number % 3]
        tensors[name].flat[:3] = -0.0, float(jnp.finfo(dtype).smallest_subnormal), float(jnp.finfo(dtype).max)
        tensors[name] = tensors[name].astype(dtype)
    save_file(tensors, directory / "model.safetensors")
    return directory


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_what_transformers_saves_of_a_family_comes_back_with_its_names_byte_for_byte(tmp_path, family):
    """Its own save_pretrained is the source, its own from_pretrained reads what we write: nothing missing, nothing extra."""
    model = reference.load_torch(reference.write_checkpoint(tmp_path / "written", family=family))
    model.save_pretrained(tmp_path / "source")
    config = read_qwen_config(tmp_path / "source")
    assert config.family == family
    shardings = policy_shardings(config, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    params = load_policy_params(tmp_path / "source", config, jnp.float32, shardings)
    save_policy(tmp_path / "source", config, params, tmp_path / "copy")
    assert_same_bytes(tmp_path / "source", tmp_path / "copy")
    _, report = type(model).from_pretrained(tmp_path / "copy", output_loading_info=True)
    assert not any(report.values()), report


@pytest.mark.parametrize("mesh", [None, MeshConfig(data=2, fsdp=2, tensor=2)], ids=["one device", "mesh"])
@pytest.mark.parametrize("shard_bytes", [10**9, 20_000])
def test_what_was_loaded_is_saved_byte_for_byte(source, tmp_path, mesh, shard_bytes):
    config = read_qwen_config(source)
    shardings = policy_shardings(config, make_mesh(mesh)) if mesh else None
    params = load_policy_params(source, config, jnp.float32, shardings)
    save_policy(source, config, params, tmp_path / "copy", shard_bytes=shard_bytes)
    assert_same_bytes(source, tmp_path / "copy")
    for file in source.iterdir():
        if not file.name.endswith(".safetensors"):
            assert (tmp_path / "copy" / file.name).read_bytes() == file.read_bytes()
    index = tmp_path / "copy" / "model.safetensors.index.json"
    assert index.exists() == (shard_bytes == 20_000)
    assert_same(load_policy_params(tmp_path / "copy", config), params)


def test_shards_hold_as_much_as_they_may(tied, tmp_path):
    config = read_qwen_config(tied)
    save_policy_params(load_policy_params(tied, config), config, tmp_path, shard_bytes=60_000)
    files = sorted(tmp_path.glob("*.safetensors"))
    tensors = {file: [t.nbytes for t in load_file(file).values()] for file in files}
    assert len(files) > 3 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert all(sum(sizes) <= 60_000 or len(sizes) == 1 for sizes in tensors.values())
    total = json.loads((tmp_path / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
    assert total == sum(sum(sizes) for sizes in tensors.values())


def test_another_dtype_is_named_in_the_configuration(source, tmp_path):
    config = read_qwen_config(source)
    save_policy(source, config, load_policy_params(source, config), tmp_path / "copy", dtype="float32")
    tensors = load_file(tmp_path / "copy/model.safetensors")
    assert {tensor.dtype.name for tensor in tensors.values()} == {"float32"}
    for name, tensor in load_file(source / "model.safetensors").items():
        np.testing.assert_array_equal(tensor.astype(np.float32), tensors[name])
    raw, expected = (json.loads((d / "config.json").read_text()) for d in (tmp_path / "copy", source))
    assert {**raw, "torch_dtype": None} == {**expected, "torch_dtype": None}
    assert raw.get("torch_dtype", "float32") == "float32"


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_mesh_holds_what_one_device_holds(tied, shape, dtype):
    config = read_qwen_config(tied)
    shardings = policy_shardings(config, make_mesh(MeshConfig(data=shape[0], fsdp=shape[1], tensor=shape[2])))
    spread = load_policy_params(tied, config, dtype, shardings)
    assert jax.tree.map(lambda leaf: leaf.sharding, spread) == shardings
    assert {leaf.dtype for leaf in jax.tree.leaves(spread)} == {jnp.dtype(dtype)}
    alone = load_policy_params(tied, config, "float32")
    # cast by XLA here, by numpy there
    assert_same(spread, jax.tree.map(lambda leaf: np.asarray(leaf.astype(dtype)), alone))


def test_every_number_is_read_once_however_many_devices_hold_it(tied, monkeypatch):
    read = []

    class Counted:
        """A file that writes down how many numbers were taken from it."""

        def __init__(self, *arguments, **options):
            self._file = safe_open(*arguments, **options)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return self._file.__exit__(*_)

        def keys(self):
            return self._file.keys()

        def get_slice(self, name):
            self._slice = self._file.get_slice(name)
            return self

        def get_shape(self):
            return self._slice.get_shape()

        def get_dtype(self):
            return self._slice.get_dtype()

        def __getitem__(self, index):
            part = self._slice[index]
            read.append(part.size)
            return part

    config = read_qwen_config(tied)
    expected = sum(tensor.size for tensor in load_file(tied / "model.safetensors").values())
    monkeypatch.setattr(safetensors_reader, "safe_open", Counted)
    for mesh in (MeshConfig(data=8), MeshConfig(data=1, fsdp=8), MeshConfig(data=2, fsdp=2, tensor=2)):
        read.clear()
        load_policy_params(tied, config, "float32", policy_shardings(config, make_mesh(mesh)))
        assert sum(read) == expected


def test_all_missing_extra_misshaped_and_integer_tensors_are_listed(tied, changed):
    tensors = load_file(tied / "model.safetensors")
    del tensors["model.layers.1.self_attn.k_proj.bias"], tensors["visual.merger.ln_q.weight"]
    tensors["model.layers.3.input_layernorm.weight"] = np.ones(64, np.float32)
    tensors["visual.blocks.0.attn.qkv.weight"] = np.ones((95, 32), np.float32)
    tensors["model.norm.weight"] = np.ones(63, np.float32)
    tensors["model.layers.0.mlp.up_proj.weight"] = np.ones((96, 64), np.int8)
    with pytest.raises(ConfigError) as caught:
        load_policy_params(changed(tensors=tensors), read_qwen_config(tied))
    assert str(caught.value).split("config.json. ")[1].split(" | ") == [
        "missing: model.layers.1.self_attn.k_proj.bias; visual.merger.ln_q.weight",
        "extra: model.layers.3.input_layernorm.weight",
        "misshaped: model.norm.weight: expected [64], got [63]; visual.blocks.0.attn.qkv.weight: expected [96, 32], got [95, 32]",
        "no floats: model.layers.0.mlp.up_proj.weight (I8).",
    ]


def test_a_damaged_file_is_named(tied, changed):
    directory = changed()
    whole = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ConfigError, match=r"model\.safetensors is damaged .* Download it again"):
        load_policy_params(directory, read_qwen_config(tied))


def test_a_head_beside_a_tied_embedding_is_accepted_only_if_it_is_the_embedding(tied, changed):
    tensors = load_file(tied / "model.safetensors")
    config = read_qwen_config(tied)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    assert_same(load_policy_params(changed(tensors=tensors), config), load_policy_params(tied, config))
    tensors["lm_head.weight"][0, 0] += 1
    with pytest.raises(ConfigError, match=r"extra: lm_head\.weight"):
        load_policy_params(changed(tensors=tensors), config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llava"}, "expected model_type qwen2_vl or qwen2_5_vl.*; got 'llava'"),
        ({"hidden_act": "gelu"}, "hidden_act: expected 'silu', got 'gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window: expected False, got True"),
        ({"rope_scaling": {"type": "yarn", "mrope_section": [2, 3, 3]}}, "type: expected 'mrope' or 'default'"),
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
    with pytest.raises(ConfigError, match="num_hidden_layers: expected .* got nothing"):
        read_qwen_config(tmp_path)


def test_the_qwen2_vl_configuration_of_the_hub_is_understood_but_for_its_quantised_weights(data_root, tmp_path):
    """Of the AWQ variant, whose tower leaves out all that is as transformers' defaults."""
    source = data_root / "tokenizers" / "qwen2-vl-2b-instruct-awq"
    with pytest.raises(ConfigError, match="quantization_config: expected none"):
        read_qwen_config(source)
    raw = json.loads((source / "config.json").read_text())
    del raw["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    (tmp_path / "generation_config.json").write_bytes((source / "generation_config.json").read_bytes())
    config = read_qwen_config(tmp_path)
    assert config == published_policy("Qwen2-VL-2B-Instruct")
    shapes = jax.eval_shape(lambda: init_policy_params(config, jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 2_208_985_600  # of its card: 2B


def test_the_qwen3_vl_configuration_of_the_hub_is_understood(data_root, tmp_path):
    config = read_qwen_config(data_root / "tokenizers" / "qwen3-vl-4b-instruct")
    assert config == published_policy("Qwen3-VL-4B-Instruct")
    assert (config.text.head_width, config.text.query_width, config.text.width) == (128, 4096, 2560)
    raw = json.loads((data_root / "tokenizers" / "qwen3-vl-4b-instruct" / "config.json").read_text())
    flat = {**raw, **raw["text_config"], "model_type": "qwen3_vl", "quantization_config": {"quant_method": "fp8"}}
    del flat["text_config"]  # transformers would read a model of its default sizes
    (tmp_path / "config.json").write_text(json.dumps(flat))
    with pytest.raises(ConfigError, match=r"text_config: expected an object.*; quantization_config: expected none"):
        read_qwen_config(tmp_path)
    raw["text_config"] |= {"attention_bias": True, "rope_scaling": {"mrope_interleaved": False}}
    raw["vision_config"] |= {"deepstack_visual_indexes": [11, 5], "num_position_embeddings": 2300, "hidden_act": "relu"}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ConfigError) as caught:
        read_qwen_config(tmp_path)
    for problem in (
        "attention_bias: expected False, got True", "mrope_interleaved: expected True, got False",
        "deepstack_visual_indexes: expected ascending numbers", "num_position_embeddings: expected the square of",
        "hidden_act: expected 'quick_gelu' or 'gelu' or 'gelu_pytorch_tanh', got 'relu'",
    ):  # fmt: skip
        assert problem in str(caught.value)


def test_the_7b_configuration_of_the_hub_is_understood(data_root):
    config = read_qwen_config(data_root / "tokenizers" / "qwen2.5-vl-7b-instruct")
    assert config.eos_token_ids == (151645, 151643)
    assert config.pad_token_id == 151643
    assert (config.text.rope_sections, config.text.head_width, config.text.is_tied) == ((16, 24, 24), 128, False)
    assert (config.vision.full_attention_layers, config.vision.patches_per_window) == ((7, 15, 23, 31), 64)
    shapes = jax.eval_shape(lambda: init_policy_params(config, jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 8_292_166_656


def smolvlm2(directory, *, text=(), vision=(), **root):
    """Writes the published config.json of the 500M model, or another, without what transformers does not read."""
    of_text = {
        "architectures": ["VLlama3ForCausalLM"], "head_dim": 64, "hidden_size": 960, "intermediate_size": 2560,
        "is_llama_config": True, "max_position_embeddings": 8192, "model_type": "llama", "num_attention_heads": 15,
        "num_hidden_layers": 32, "num_key_value_heads": 5, "pad_token_id": 2, "pixel_shuffle_factor": 4,
        "qk_layer_norms": False, "rms_norm_eps": 1e-5, "rope_interleaved": False, "rope_theta": 100000,
        "torch_dtype": "bfloat16", "use_resampler": False, "vocab_size": 49280,
    }  # fmt: skip
    of_vision = {
        "hidden_size": 768, "image_size": 512, "max_image_size": {"longest_edge": 512}, "model_type": "smolvlm_vision",
        "num_attention_heads": 12, "patch_size": 16, "size": {"longest_edge": 2048}, "tie_word_embeddings": False,
    }  # fmt: skip
    raw = {
        "architectures": ["SmolVLMForConditionalGeneration"], "image_token_id": 49190, "model_type": "smolvlm",
        "pad_token_id": 128002, "scale_factor": 4, "tie_word_embeddings": False, "vocab_size": 49280,
        "text_config": {**of_text, **dict(text)}, "vision_config": {**of_vision, **dict(vision)}, **root,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(raw))
    ends = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 49279, "pad_token_id": 2}
    (directory / "generation_config.json").write_text(json.dumps(ends))
    return directory


def test_the_smolvlm2_configurations_of_the_hub_are_understood(tmp_path):
    config = read_qwen_config(smolvlm2(tmp_path))
    assert config == published_policy("SmolVLM2-500M-Video-Instruct")
    assert (config.text.head_width, config.text.rope_sections, config.vision.patches_per_window) == (64, (32,), 1024)
    assert (config.eos_token_ids, config.pad_token_id) == ((49279,), 2)
    small = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_hidden_layers": 30}
    assert read_qwen_config(smolvlm2(tmp_path, text={**small, "num_key_value_heads": 3})) == published_policy(
        "SmolVLM2-256M-Video-Instruct"
    )
    large = {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_hidden_layers": 24}
    tower = {"hidden_size": 1152, "image_size": 384, "intermediate_size": 4304, "num_attention_heads": 16}
    read = read_qwen_config(
        smolvlm2(
            tmp_path, scale_factor=3, text={**large, "num_key_value_heads": 32, "rope_theta": 130000},
            vision={**tower, "num_hidden_layers": 27, "patch_size": 14},
        )
    )  # fmt: skip
    assert read == published_policy("SmolVLM2-2.2B-Instruct")
    assert (read.vision.position_side, read.vision.window_features) == (27, 81)


def test_what_smolvlm_leaves_out_has_the_defaults_of_transformers(tmp_path):
    import transformers

    smolvlm2(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["text_config"]["tie_word_embeddings"] = True  # which ties nothing
    for key in ("num_key_value_heads", "rope_theta", "head_dim", "model_type"):
        del raw["text_config"][key]
    (tmp_path / "config.json").write_text(json.dumps({**raw, "vision_config": {"patch_size": 28}}))
    config = read_qwen_config(tmp_path)
    theirs = transformers.SmolVLMConfig.from_pretrained(tmp_path)
    text, vision = theirs.text_config, theirs.vision_config
    assert config.text.is_tied == theirs.tie_word_embeddings is False
    assert (config.text.key_heads, config.text.rope_theta) == (
        text.num_key_value_heads,
        text.rope_parameters["rope_theta"],
    )
    assert config.text.head_width == text.head_dim and config.vision.merge_size == theirs.scale_factor
    assert (config.vision.width, config.vision.depth, config.vision.heads, config.vision.hidden, config.vision.tile_size) == (
        vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads, vision.intermediate_size, vision.image_size,
    )  # fmt: skip
    assert (config.vision.feed_forward, config.vision.position_side) == (vision.hidden_act, 224 // 28)


REFUSED_OF_SMOLVLM = [
    ({"model_type": "smollm3"}, {}, {}, "text_config.model_type: expected 'llama', got 'smollm3'"),
    ({"attention_bias": True}, {}, {}, "text_config.attention_bias: expected False, got True"),
    ({"mlp_bias": True}, {}, {}, "text_config.mlp_bias: expected False, got True"),
    ({"rope_scaling": {"rope_type": "llama3"}}, {}, {}, "rope_scaling.rope_type: expected 'default', got 'llama3'"),
    ({"head_dim": 32}, {}, {}, "text_config.head_dim: expected 64, got 32"),
    ({"num_attention_heads": 960}, {}, {}, "a divisor of hidden_size 960 that leaves heads of an even width"),
    ({"hidden_act": "gelu"}, {}, {}, "text_config.hidden_act: expected 'silu'"),
    (
        {},
        {"image_size": 500},
        {},
        "image_size: expected as many whole patches of 16 pixels a side as scale_factor 4 divides",
    ),
    ({}, {"patch_size": 1024}, {}, "vision_config.image_size: expected as many whole patches"),
    (
        {},
        {"image_size": 640},
        {},
        "vision_config.image_size: expected patches a side of which there are at most 64, and not 40",
    ),
    ({}, {"patch_size": 7}, {}, "vision_config.image_size: expected as many whole patches"),  # 73 of them
    (
        {},
        {"patch_size": 4},
        {},
        "vision_config.image_size: expected patches a side of which there are at most 64, and not 128",
    ),
    ({}, {"image_size": [512, 512]}, {}, "vision_config.image_size: expected a whole number"),
    ({}, {"num_attention_heads": 7}, {}, "vision_config.num_attention_heads: expected a divisor of hidden_size 768,"),
    ({}, {"layer_norm_eps": 1e-5}, {}, "vision_config.layer_norm_eps: expected 1e-06, got 1e-05"),
    ({}, {"num_channels": 1}, {}, "vision_config.num_channels: expected 3, got 1"),
    ({}, {"hidden_act": "relu"}, {}, "vision_config.hidden_act: expected 'quick_gelu' or"),
    ({}, {}, {"scale_factor": 0}, "scale_factor: expected a whole number from 1"),
    ({}, {}, {"text_config": None}, "text_config: expected an object {...}, got null"),
    (
        {},
        {},
        {"image_token_id": 49279},
        "token ids: expected different ones, got image_token_id 49279, eos_token_id (49279,)",
    ),
]


@pytest.mark.parametrize(("text", "vision", "root", "words"), REFUSED_OF_SMOLVLM, ids=lambda part: str(part)[:40])
def test_a_smolvlm_this_code_does_not_compute_is_refused_by_name(tmp_path, text, vision, root, words):
    with pytest.raises(ConfigError) as caught:
        read_qwen_config(smolvlm2(tmp_path, text=text, vision=vision, **root))
    assert words in str(caught.value)


@pytest.mark.slow  # writes a torch model
def test_smolvlm_is_read_without_its_head_and_out_of_a_wrapper(tmp_path):
    """Names of a tied model saved without the head, and of one that was wrapped."""
    source = reference.write_checkpoint(tmp_path / "source", family="smolvlm")
    model, config = reference.load_torch(source), read_qwen_config(source)
    expected = load_policy_params(source, config)
    model.model.save_pretrained(tmp_path / "headless")
    names = load_file(tmp_path / "headless" / "model.safetensors").keys()
    assert "text_model.norm.weight" in names and "connector.modality_projection.proj.weight" in names
    assert_same(load_policy_params(tmp_path / "headless", config), expected)
    tensors = {f"module._orig_mod.{n}": tensor for n, tensor in load_file(source / "model.safetensors").items()}
    save_file(tensors, tmp_path / "headless" / "model.safetensors")
    assert_same(load_policy_params(tmp_path / "headless", config), expected)


def test_shapes_of_a_policy_are_each_callers_own():
    """They are derived once; who takes a part out of the tree takes it from nobody else."""
    config = published_policy("Qwen2-VL-2B-Instruct")
    mine = abstract_policy_params(config)
    del mine["layers"]["q"], mine["vision"]
    assert {"q", "k"} <= abstract_policy_params(config)["layers"].keys() and "vision" in abstract_policy_params(config)
