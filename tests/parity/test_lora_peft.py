"""Adapters against Hugging Face's peft on the same weights: logits, gradients, and directories both ways.

Everything is float32 on both sides; 1e-5 of the largest number leaves room for the order of sums only.
"""

import functools
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from reflex_jax.checkpoints.huggingface import load_policy_params
from reflex_jax.checkpoints.peft import read_adapter, save_adapter
from reflex_jax.checkpoints.qwen_tensors import abstract_policy_params
from reflex_jax.config import ConfigError, LoraConfig
from reflex_jax.data.images import prompt_inputs_from_huggingface
from reflex_jax.models.lora import merge_adapters, whole_policy
from reflex_jax.models.qwen_config import MODEL_TYPES
from reflex_jax.models.qwen_vl import prompt_logits, read_qwen_config
from reflex_jax.step.trained import adapted_layers, linear_layers
from tests.parity import qwen_reference as reference
from tests.tiny_directories import change_json

TOLERANCE = 1e-5
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# the default of the package, and one of layers whose names both towers have; alpha / r is not a power of two
CASES = {
    "attention": (LoraConfig(rank=4, alpha=7.0), ["q_proj", "k_proj", "v_proj", "o_proj"]),
    # the default in the other families, which name their towers otherwise
    "qwen2_vl": (LoraConfig(rank=4, alpha=7.0), ["q_proj", "k_proj", "v_proj", "o_proj"]),
    "qwen3_vl": (LoraConfig(rank=4, alpha=7.0), ["q_proj", "k_proj", "v_proj", "o_proj"]),
    # whose tower has layers of the same names, the default of the package's targets is the decoder's alone
    "smolvlm": (
        LoraConfig(rank=4, alpha=7.0, targets="layers/(q|k|v|o),vision/(layers/(q|fc2)|merger/proj)"),
        r".*text_model\.layers\.\d+\.self_attn\.[qkvo]_proj|.*encoder\.layers\.\d+\.(self_attn\.q_proj|mlp\.fc2)"
        r"|.*connector\.modality_projection\.proj",
    ),
    "feed_forward": (
        LoraConfig(rank=4, alpha=7.0, scaling="rslora", targets="layers/(o|up),vision/(layers/(gate|o)|merger/fc2)"),
        r".*layers\.\d+\.(self_attn\.o_proj|mlp\.up_proj)|.*blocks\.\d+\.(mlp\.gate_proj|attn\.proj)|.*merger\.mlp\.2",
    ),
}


@pytest.fixture(scope="module")
def case_of(tmp_path_factory):
    """Makes each case when it is first asked for."""

    def make(name):
        family = name if name in MODEL_TYPES else "qwen2_5_vl"
        return make_case(tmp_path_factory.mktemp(name), *CASES[name], family)

    return functools.cache(make)


@pytest.fixture(params=[pytest.param(c, marks=pytest.mark.slow if c in MODEL_TYPES else ()) for c in CASES])
def case(request, case_of):
    """Each of the cases."""
    return case_of(request.param)


@pytest.fixture
def attention(case_of):
    """The first of them."""
    return case_of("attention")


def make_case(folder, lora, targets, family):
    """A torch model in peft's wrapper with B away from zero, and what it saved."""
    import torch
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    base = reference.write_checkpoint(folder / "base", family=family)
    torch.manual_seed(1)
    model = get_peft_model(
        reference.load_torch(base),
        PeftConfig(r=lora.rank, lora_alpha=lora.alpha, use_rslora=lora.scaling == "rslora", target_modules=targets),
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder / "adapter")
    config = read_qwen_config(base)
    shapes = abstract_policy_params(config)
    return SimpleNamespace(
        base=base, adapter=folder / "adapter", model=model, config=config, lora=lora, linear=linear_layers(shapes),
        layers=adapted_layers(shapes, lora),
    )  # fmt: skip


def read(case, directory=None, lora=None):
    return read_adapter(directory or case.adapter, case.config, case.layers, case.linear, lora or case.lora)


@pytest.mark.parametrize(
    "name",
    [
        "attention",
        *(pytest.param(c, marks=pytest.mark.slow) for c in ("feed_forward", "qwen2_vl", "qwen3_vl", "smolvlm")),
    ],
)  # compiles both towers
def test_logits_and_gradients_are_those_of_peft(case_of, name):
    """Of a loss that weighs every logit of a real token: kernels, embeddings and adapters end in the same numbers."""
    import torch

    case = case_of(name)
    inputs = reference.batch_of(case.config, padding="left")
    prompts = prompt_inputs_from_huggingface(**inputs, config=case.config)
    params, adapters = load_policy_params(case.base, case.config), read(case)
    is_token = (inputs["attention_mask"][..., None] == 1).astype(np.float32)
    shape = (*inputs["input_ids"].shape, reference.VOCABULARY)
    weights = np.random.default_rng(0).normal(size=shape).astype(np.float32) * is_token

    @jax.jit
    def loss_and_gradients(adapters, params):
        def loss(adapters):
            whole = whole_policy(adapters, params, lora_scale=case.lora.scale)
            logits = prompt_logits(whole, prompts, case.config)
            return (logits * weights).sum(), logits

        return jax.value_and_grad(loss, has_aux=True)(adapters)

    (_, logits), gradients = loss_and_gradients(adapters, params)
    expected = case.model(**reference.torch_inputs(inputs), use_cache=False).logits
    case.model.zero_grad()
    (expected * torch.from_numpy(weights)).sum().backward()
    assert reference.relative_error(logits * is_token, expected.detach().numpy() * is_token) < TOLERANCE

    merged = jax.jit(merge_adapters)(whole_policy(adapters, params, lora_scale=case.lora.scale))
    read_prompts = jax.jit(prompt_logits, static_argnums=2)
    apart = read_prompts(merged, prompts, case.config)
    assert reference.relative_error(apart * is_token, logits * is_token) < TOLERANCE
    assert reference.relative_error(logits, read_prompts(params, prompts, case.config)) > 1e-2  # adapters do something

    torch_gradients = {
        name.replace(".default", ""): parameter.grad.numpy()
        for name, parameter in case.model.named_parameters()
        if parameter.grad is not None
    }
    save_file({name: gradient for name, gradient in torch_gradients.items()}, case.base / WEIGHTS)
    shutil.copyfile(case.adapter / CONFIG, case.base / CONFIG)
    theirs = flatten_dict(read(case, case.base), sep="/")
    for path, ours in flatten_dict(gradients, sep="/").items():
        assert reference.relative_error(ours, theirs[path]) < 3 * TOLERANCE, path


def test_what_peft_saved_is_saved_again_to_the_byte(case, tmp_path):
    adapters = read(case)
    save_adapter(adapters, case.config, tmp_path / "out", lora=case.lora, linear=case.linear, base=str(case.base))
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (case.adapter / WEIGHTS).read_bytes()
    again = read(case, tmp_path / "out")
    assert jax.tree.structure(again) == jax.tree.structure(adapters)
    save_adapter(again, case.config, tmp_path / "again", lora=case.lora, linear=case.linear, base=str(case.base))
    for name in (CONFIG, WEIGHTS):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_peft_loads_what_is_exported_and_computes_the_same(case, tmp_path):
    import torch
    from peft import PeftModel

    save_adapter(read(case), case.config, tmp_path / "out", lora=case.lora, linear=case.linear, base=str(case.base))
    loaded = PeftModel.from_pretrained(reference.load_torch(case.base), tmp_path / "out").eval()
    inputs = reference.torch_inputs(reference.batch_of(case.config, padding="left"))
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, case.model(**inputs).logits)
    kinds = {name for name, _ in loaded.named_modules() if name.endswith("lora_A")}
    assert kinds == {name for name, _ in case.model.named_modules() if name.endswith("lora_A")}


def changed(case, directory, tensors=None, **settings):
    """A copy of the adapter with other settings or tensors."""
    shutil.copytree(case.adapter, directory)
    change_json(directory / CONFIG, **settings)
    if tensors is not None:
        save_file(tensors, directory / WEIGHTS)
    return directory


def refusal(case, directory, lora=None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(case, directory, lora)
    lines = str(caught.value).splitlines()
    assert all(line.startswith("policy.lora.path: ") for line in lines)
    return lines


def test_what_is_not_supported_is_refused_all_at_once(attention, tmp_path):
    settings = {
        "use_dora": True, "modules_to_save": ["lm_head"], "rank_pattern": {"q_proj": 2}, "bias": "all",
        "init_lora_weights": "pissa", "layers_to_transform": [1], "a_field_of_tomorrow": 1, "peft_type": "IA3",
    }  # fmt: skip
    lines = refusal(attention, changed(attention, tmp_path / "odd", r=2, **settings), LoraConfig(rank=4, alpha=8.0))
    assert sorted(line.split("=")[0].split(": ")[1] for line in lines if "is not supported" in line) == sorted(settings)
    others = [line for line in lines if "is not supported" not in line]
    assert others[0].endswith("Set policy.lora.rank=2.") and others[1].endswith("Set policy.lora.alpha=7.")


def test_other_tensors_are_refused_with_the_targets_that_fit(attention, tmp_path):
    tensors = load_file(attention.adapter / WEIGHTS)
    some = {name: tensor for name, tensor in tensors.items() if "q_proj" in name or "v_proj" in name}
    some |= {"base_model.model.lm_head.lora_A.weight": np.zeros((4, 64), np.float32)}
    (line,) = refusal(attention, changed(attention, tmp_path / "some", some))
    assert "missing: 12 of model.layers.*" in line and "extra: lm_head.lora_A.weight" in line
    assert line.endswith("Its adapters are of layers/q, layers/v: policy.lora.targets=layers/q,layers/v.")
    name = next(iter(tensors))
    (line,) = refusal(
        attention, changed(attention, tmp_path / "shape", {**tensors, name: np.zeros((4, 5), np.float32)})
    )
    assert "misshaped" in line and "[4, 5]" in line
    broken = {**tensors, name: np.full_like(tensors[name], np.nan)}
    assert "NaN or infinite: layers/k/lora_a" in refusal(attention, changed(attention, tmp_path / "nan", broken))[0]


def test_what_is_no_adapter_is_refused_in_one_line(attention, tmp_path):
    assert "adapter_config.json and adapter_model.safetensors" in refusal(attention, tmp_path / "nowhere")[0]
    (tmp_path / "empty").mkdir()
    assert CONFIG in refusal(attention, tmp_path / "empty")[0]
    pickled = changed(attention, tmp_path / "pickled")
    (pickled / WEIGHTS).rename(pickled / "adapter_model.bin")
    assert "save the adapter as safetensors" in refusal(attention, pickled)[0]
    cut = changed(attention, tmp_path / "cut")
    (cut / WEIGHTS).write_bytes((cut / WEIGHTS).read_bytes()[:100])
    assert "is damaged" in refusal(attention, cut)[0]


def test_layers_that_are_one_in_torch_cannot_be_exported_apart(attention, tmp_path):
    adapters = unflatten_dict(
        {f"vision/layers/q/lora_{m}": jnp.zeros((4, *shape)) for m, shape in (("a", (32, 4)), ("b", (4, 32)))}, sep="/"
    )
    with pytest.raises(ConfigError, match="--layout peft: vision/layers/q are one layer in torch"):
        save_adapter(
            adapters, attention.config, tmp_path / "out", lora=attention.lora, linear=attention.linear, base="b"
        )
    assert not (tmp_path / "out").exists()
