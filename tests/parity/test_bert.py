"""Our BERT beside transformers' BertModel: every layer, whatever the lengths, types, activation and epsilon."""

import json
import shutil

import jax
import numpy as np
import pytest

from reflex_jax.checkpoints.bert import load_bert_params
from reflex_jax.config import ConfigError
from reflex_jax.models.bert import bert_cls, bert_hidden_states
from reflex_jax.models.bert_config import read_bert_config
from reflex_jax.text.tokenizer import load_bert_tokenizer
from tests.parity.bert_reference import POSITIONS, write_bert

torch = pytest.importorskip("torch")

hidden_states = jax.jit(bert_hidden_states, static_argnames="config")  # op by op, every shape would be compiled apart
SETTING = "rewards.components.bertscore.encoder"
TOLERANCE = {"rtol": 0, "atol": 1e-5}  # float32, hidden states of size 1: what two orders of summation differ in


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """(directory, torch model, sizes, parameters)."""
    directory = tmp_path_factory.mktemp("bert")
    model = write_bert(directory)
    config = read_bert_config(directory, setting=SETTING)
    return directory, model, config, load_bert_params(directory, config, setting=SETTING)


def inputs(config, lengths, seed=0):
    """Random ids and types of texts with so many tokens, padded to the longest."""
    random = np.random.default_rng(seed)
    is_valid = np.arange(max(lengths)) < np.array(lengths)[:, None]
    ids = np.where(is_valid, random.integers(5, config.vocabulary, is_valid.shape), config.pad_token_id)
    return ids.astype(np.int32), is_valid, random.integers(0, 2, ids.shape).astype(np.int32)


def theirs(model, ids, is_valid, types=None):
    with torch.no_grad():
        given = [torch.tensor(x).long() for x in (ids, is_valid)]
        types = None if types is None else torch.tensor(types).long()
        found = model(given[0], attention_mask=given[1], token_type_ids=types, output_hidden_states=True)
    return [state.numpy() for state in found.hidden_states]


def compare(model, config, params, lengths, *, with_types=False):
    ids, is_valid, types = inputs(config, lengths)
    types = types if with_types else None
    ours = hidden_states(params, ids, is_valid, config, token_types=types)
    expected = theirs(model, ids, is_valid, types)
    assert len(ours) == len(expected) == config.depth + 1
    for mine, right in zip(ours, expected, strict=True):
        np.testing.assert_allclose(np.asarray(mine)[is_valid], right[is_valid], **TOLERANCE)


@pytest.mark.parametrize("lengths", [(3,), (2, 17, 9), (POSITIONS, 1)])
def test_hidden_states_of_every_layer_are_those_of_transformers(bert, lengths):
    _, model, config, params = bert
    compare(model, config, params, lengths)


def test_token_types_choose_their_row(bert):
    _, model, config, params = bert
    compare(model, config, params, (5, 12), with_types=True)


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh", "gelu_fast", "relu", "silu"])
def test_activation_and_epsilon_are_those_of_the_directory(tmp_path, activation):
    model = write_bert(tmp_path, hidden_act=activation, layer_norm_eps=0.1, num_hidden_layers=1)
    config = read_bert_config(tmp_path, setting=SETTING)
    assert (config.activation, config.epsilon) == (activation, 0.1)
    compare(model, config, load_bert_params(tmp_path, config, setting=SETTING), (4, 7))


def test_the_first_row_alone_is_that_of_all_rows(bert):
    _, _, config, params = bert
    ids, is_valid, _ = inputs(config, (6, 11))
    states = hidden_states(params, ids, is_valid, config)
    cls = jax.jit(bert_cls, static_argnames="config")(params, ids, is_valid, config)
    np.testing.assert_allclose(cls, states[-1][:, 0], **TOLERANCE)
    assert len(jax.eval_shape(lambda: bert_hidden_states(params, ids, is_valid, config, layers=1))) == 2


def test_more_padding_changes_nothing(bert):
    _, _, config, params = bert
    ids, is_valid, _ = inputs(config, (6, 11))
    more = [np.pad(x, ((0, 0), (0, 9))) for x in (ids, is_valid)]
    short, long = (hidden_states(params, *given, config)[-1] for given in ((ids, is_valid), more))
    np.testing.assert_allclose(np.asarray(long)[:, :11][is_valid], np.asarray(short)[is_valid], **TOLERANCE)


# --- directories


@pytest.fixture
def copy(bert, tmp_path):
    return shutil.copytree(bert[0], tmp_path / "bert")


def load(directory):
    return load_bert_params(directory, read_bert_config(directory, setting=SETTING), setting=SETTING)


def tensors_of(directory):
    from safetensors.numpy import load_file

    return load_file(directory / "model.safetensors")


def save(directory, tensors):
    from safetensors.numpy import save_file

    save_file(tensors, directory / "model.safetensors")


def test_names_of_models_with_a_head_and_of_old_files_are_read(copy, bert):
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {}
    for name, tensor in tensors_of(copy).items():
        for new, was in old.items():
            name = name.replace(new, was)
        renamed[f"bert.{name}"] = tensor
    buffers = {
        "cls.predictions.bias": np.zeros(3, np.float32),
        "bert.embeddings.position_ids": np.arange(POSITIONS)[None],
    }
    save(copy, renamed | buffers)
    jax.tree.map(np.testing.assert_array_equal, load(copy), bert[3])


@pytest.mark.slow  # torch is imported in a second process; a judge's pickled file is converted in every run
def test_a_pickled_file_is_converted(copy, bert, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.save({n: torch.tensor(t) for n, t in tensors_of(copy).items()}, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    jax.tree.map(np.testing.assert_array_equal, load(copy), bert[3])
    (copy / "pytorch_model.bin").write_bytes(b"no pickle")
    with pytest.raises(ConfigError, match=rf"^{SETTING}: .*pytorch_model.bin could not be converted"):
        load(copy)


def test_every_tensor_that_does_not_fit_is_in_one_line(copy):
    tensors = tensors_of(copy)
    del tensors["encoder.layer.0.output.dense.bias"]
    tensors["encoder.layer.3.output.dense.bias"] = np.zeros(32, np.float32)
    tensors["embeddings.LayerNorm.bias"] = np.zeros(31, np.float32)
    tensors["encoder.layer.1.output.dense.bias"] = np.zeros(32, np.int32)
    tensors["encoder.layer.2.output.dense.bias"] = np.full(32, np.nan, np.float32)
    save(copy, tensors)
    with pytest.raises(ConfigError) as raised:
        load(copy)
    line = str(raised.value)
    assert line.startswith(f"{SETTING}: the tensors in {copy} do not fit") and "\n" not in line
    for part in (
        "missing: encoder.layer.0.output.dense.bias", "extra: encoder.layer.3.output.dense.bias",
        "misshaped: embeddings.LayerNorm.bias: expected [32], got [31]", "no floats: encoder.layer.1.output.dense.bias (I32)",
        "NaN or infinite: encoder.layer.2.output.dense.bias",
    ):  # fmt: skip
        assert part in line, line


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"model_type": "roberta"}, ["model_type: expected 'bert'; got 'roberta'"]),
        ({"model_type": None}, ["model_type: expected 'bert'; got None"]),
        (
            {"hidden_act": "quick_gelu", "position_embedding_type": "relative_key", "is_decoder": True},
            ["hidden_act: expected 'gelu' or", "position_embedding_type: expected 'absolute'", "is_decoder"],
        ),
        ({"hidden_size": "32", "layer_norm_eps": -1}, ["hidden_size: expected a whole number", "layer_norm_eps"]),
        ({"num_attention_heads": 5}, ["expected num_attention_heads to divide hidden_size"]),
    ],
)
def test_another_kind_of_model_is_refused_by_name(copy, values, told):
    written = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(written | values))
    with pytest.raises(ConfigError) as raised:
        read_bert_config(copy, setting=SETTING)
    line = str(raised.value)
    assert line.startswith(f"{SETTING}: {copy}: ") and "\n" not in line and all(part in line for part in told), line


def test_a_config_without_a_kind_or_sizes_is_refused(copy):
    (copy / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="model_type: expected 'bert'; got none"):
        read_bert_config(copy, setting=SETTING)
    (copy / "config.json").write_text('{"model_type": "bert", "vocab_size": 9}')
    with pytest.raises(ConfigError, match="missing hidden_size, num_hidden_layers, num_attention_heads, intermediate"):
        read_bert_config(copy, setting=SETTING)


def test_a_directory_without_weights_or_tokenizer_is_refused_under_its_setting(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=rf"^{SETTING}: expected model.safetensors or .* in .*; not found"):
        load(copy)
    (copy / "vocab.txt").unlink()
    with pytest.raises(ConfigError, match=rf"^{SETTING}: expected tokenizer_config.json and one of"):
        load_bert_tokenizer(copy, setting=SETTING)
