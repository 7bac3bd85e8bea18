"""Each family of policies against transformers on the same weights: features, logits, log-probs, gradients.

Everything is float32 on both sides; the issue's bound of 1e-4 of the largest number leaves room for the order of sums
only (1e-6 is usual). The batches hold two aspect ratios, windows cut by the edge of the image, two images in a row, and
a row without one.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from reflex_jax.checkpoints.huggingface import load_policy_params
from reflex_jax.data.images import merged_feature_order, prompt_inputs_from_huggingface
from reflex_jax.models.qwen_config import MODEL_TYPES
from reflex_jax.models.qwen_vl import encode_images, prompt_attention_weights, prompt_logits, read_qwen_config
from reflex_jax.models.vision_config import MOST_CELLS, OFF_THEIR_CELLS
from tests.laid_out import log_probs_in_rows, sequences_in_rows
from tests.parity import qwen_reference as reference

TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3
TEMPERATURE = 0.8

# our leaf -> tensor of the torch model, how to bring the torch gradient into our layout; those that a family has
NAMED_TENSORS = {
    "embed/embedding": ("model.language_model.embed_tokens.weight", lambda g: g),
    "layers/q/bias": ("model.language_model.layers.1.self_attn.q_proj.bias", lambda g: g),
    "layers/k/kernel": ("model.language_model.layers.1.self_attn.k_proj.weight", lambda g: g.T),
    "layers/gate/kernel": ("model.language_model.layers.1.mlp.gate_proj.weight", lambda g: g.T),
    "layers/post_norm/scale": ("model.language_model.layers.1.post_attention_layernorm.weight", lambda g: g),
    "final_norm/scale": ("model.language_model.norm.weight", lambda g: g),
    "vision/patch_embed/kernel": ("model.visual.patch_embed.proj.weight", lambda g: g.reshape(len(g), -1).T),
    "vision/layers/v/kernel": ("model.visual.blocks.1.attn.qkv.weight", lambda g: np.split(g, 3)[2].T),
    "vision/layers/q/bias": ("model.visual.blocks.1.attn.qkv.bias", lambda g: np.split(g, 3)[0]),
    "vision/layers/down/kernel": ("model.visual.blocks.1.mlp.down_proj.weight", lambda g: g.T),
    "vision/layers/fc1/kernel": ("model.visual.blocks.1.mlp.fc1.weight", lambda g: g.T),
    "vision/deepstack/norm/scale": ("model.visual.deepstack_merger_list.1.norm.weight", lambda g: g),
    "vision/positions/embedding": ("model.visual.pos_embed.weight", lambda g: g),
    "layers/q_norm/scale": ("model.language_model.layers.1.self_attn.q_norm.weight", lambda g: g),
    "vision/layers/norm2/bias": ("model.visual.blocks.1.norm2.bias", lambda g: g),
    "vision/merger/fc1/bias": ("model.visual.merger.mlp.0.bias", lambda g: g),
    "vision/merger/norm/scale": ("model.visual.merger.ln_q.weight", lambda g: g),
    "head/kernel": ("lm_head.weight", lambda g: g.T),
}


# the same of a family that spells its parts otherwise
NAMED_TENSORS_OF_SMOLVLM = {
    "embed/embedding": ("model.text_model.embed_tokens.weight", lambda g: g),
    "layers/q/kernel": ("model.text_model.layers.1.self_attn.q_proj.weight", lambda g: g.T),
    "layers/v/kernel": ("model.text_model.layers.1.self_attn.v_proj.weight", lambda g: g.T),
    "layers/post_norm/scale": ("model.text_model.layers.1.post_attention_layernorm.weight", lambda g: g),
    "final_norm/scale": ("model.text_model.norm.weight", lambda g: g),
    "vision/patch_embed/kernel": (
        "model.vision_model.embeddings.patch_embedding.weight",
        lambda g: g.reshape(len(g), -1).T,
    ),
    "vision/positions/embedding": ("model.vision_model.embeddings.position_embedding.weight", lambda g: g),
    "vision/layers/q/bias": ("model.vision_model.encoder.layers.1.self_attn.q_proj.bias", lambda g: g),
    "vision/layers/fc2/kernel": ("model.vision_model.encoder.layers.1.mlp.fc2.weight", lambda g: g.T),
    "vision/merger/norm/bias": ("model.vision_model.post_layernorm.bias", lambda g: g),
    "vision/merger/proj/kernel": ("model.connector.modality_projection.proj.weight", lambda g: g.T),
    "head/kernel": ("lm_head.weight", lambda g: g.T),
}


CASES = ["tied", "untied", "qwen2_vl", "qwen3_vl"]
EVERY_POLICY = pytest.mark.parametrize("policy", [*CASES, "smolvlm"], indirect=True)
# whose logits are held in the quick set too
EVERY_POLICY_AND_SMOLVLM_SLOWLY = pytest.mark.parametrize(
    "policy", [*CASES, pytest.param("smolvlm", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture(scope="module")
def policy(request, tmp_path_factory):
    """(torch model, our parameters, config) of one checkpoint: two of Qwen2.5-VL, one of each other family."""
    family = request.param if request.param in MODEL_TYPES else "qwen2_5_vl"
    is_tied = request.param != "untied"
    directory = reference.write_checkpoint(tmp_path_factory.mktemp("policy"), family=family, is_tied=is_tied)
    config = read_qwen_config(directory)
    return reference.load_torch(directory), load_policy_params(directory, config), config


def torch_logits(model, inputs) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(**reference.torch_inputs(inputs)).logits.numpy()


def random_completions(rows: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 140, (rows, 2, 5)).astype(np.int32)


def torch_log_probs(model, inputs, completions: np.ndarray):
    """Log-probs of each completion behind its own copy of the prompt, all of it through the torch model."""
    import torch

    rows, group_size, steps = completions.shape
    of_place = []
    for place in range(group_size):
        whole = dict(inputs)
        whole["input_ids"] = np.concatenate([inputs["input_ids"], completions[:, place]], axis=1)
        whole["attention_mask"] = np.concatenate([inputs["attention_mask"], np.ones((rows, steps), int)], axis=1)
        logits = model(**reference.torch_inputs(whole)).logits[:, -steps - 1 : -1] / TEMPERATURE
        tokens = torch.from_numpy(completions[:, place]).long()
        of_place.append(torch.log_softmax(logits, -1).gather(-1, tokens[..., None])[..., 0])
    return torch.stack(of_place, 1)


@EVERY_POLICY
@pytest.mark.parametrize("padding", ["left", "right"])
def test_logits_and_positions_are_those_of_transformers(policy, padding):
    model, params, config = policy
    inputs = reference.batch_of(config, padding=padding)
    prompts = prompt_inputs_from_huggingface(**inputs, config=config)
    if config.family == "smolvlm":  # of one axis, as generate() counts
        counted = np.maximum(inputs["attention_mask"].cumsum(1) - 1, 0) * inputs["attention_mask"]
        expected = np.repeat(counted[:, None], 3, axis=1)
    else:
        for_positions = {k: v for k, v in reference.torch_inputs(inputs).items() if k != "pixel_values"}
        expected = model.model.get_rope_index(**for_positions)[0].numpy().swapaxes(0, 1)
    np.testing.assert_array_equal(prompts.positions, expected)
    got = np.asarray(jax.jit(prompt_logits, static_argnums=2)(params, prompts, config))
    assert got.dtype == np.float32
    expected = torch_logits(model, inputs)
    is_valid = prompts.is_valid
    assert reference.relative_error(got[is_valid], expected[is_valid]) < TOLERANCE


def test_patches_of_tiles_have_the_cells_of_transformers():
    """Its lookup by fractions gives each patch its own cell at all sides but those refused; 27 and 32 are published."""
    import torch
    from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig
    from transformers.models.smolvlm.modeling_smolvlm import SmolVLMVisionEmbeddings

    assert not OFF_THEIR_CELLS & {27, 32}
    for side in range(1, MOST_CELLS + 1):
        tower = SmolVLMVisionEmbeddings(SmolVLMVisionConfig(hidden_size=1, image_size=side, patch_size=1))
        with torch.no_grad():
            tower.position_embedding.weight.copy_(torch.arange(side**2)[:, None])
            empty = torch.zeros(1, 3, side, side)
            cells = tower(empty, torch.ones(1, side, side, dtype=torch.bool)) - tower.patch_embedding.bias
        is_own = (cells[0, :, 0].round() == torch.arange(side**2)).all()
        assert is_own or side in OFF_THEIR_CELLS, side


@EVERY_POLICY_AND_SMOLVLM_SLOWLY
def test_attention_weights_are_those_of_transformers(policy):
    """Means over heads and over two tokens of a row; nobody asks in the last."""
    import torch

    model, params, config = policy
    inputs = reference.batch_of(config, padding="left")
    prompts = prompt_inputs_from_huggingface(**inputs, config=config)
    with torch.no_grad():
        layers = model(**reference.torch_inputs(inputs), output_attentions=True).attentions
    expected = torch.stack(layers).mean(2)[:, :, [-4, -1]].mean(2).numpy()
    is_asking = np.zeros(prompts.tokens.shape, bool)
    is_asking[:2, [-4, -1]] = True
    got = np.asarray(jax.jit(prompt_attention_weights, static_argnums=3)(params, prompts, is_asking, config))
    assert reference.relative_error(got[:, :2], expected[:, :2]) < TOLERANCE
    np.testing.assert_array_equal(got[:, 2], 0)


@EVERY_POLICY_AND_SMOLVLM_SLOWLY
def test_vision_features_are_those_of_transformers(policy):
    import torch

    model, params, config = policy
    inputs = reference.batch_of(config, padding="left")
    prompts = prompt_inputs_from_huggingface(**inputs, config=config)
    features = np.asarray(jax.jit(encode_images, static_argnums=2)(params, prompts.vision, config))
    with torch.no_grad():
        of_images = reference.torch_inputs(inputs)
        names = ("pixel_values", "image_grid_thw", "pixel_attention_mask")
        seen = model.model.get_image_features(*(of_images[name] for name in names if name in of_images))
    parts = [torch.cat(part) for part in (seen.pooler_output, *(getattr(seen, "deepstack_features", None) or ()))]
    grids = reference.grids_of_rows(config, inputs)
    got = np.concatenate([features[row, merged_feature_order(own, config.vision)] for row, own in enumerate(grids)])
    assert reference.relative_error(got, torch.cat(parts, -1).numpy()) < TOLERANCE


@EVERY_POLICY_AND_SMOLVLM_SLOWLY
def test_log_probs_and_gradients_are_those_of_transformers(policy, tmp_path):
    """The loss weights every log-prob differently, so that no two errors cancel."""
    import torch
    from safetensors.torch import save_file

    model, params, config = policy
    inputs, completions = (
        reference.batch_of(config, padding="left"),
        random_completions(3),
    )
    weights = np.random.default_rng(4).normal(size=completions.shape).astype(np.float32)
    expected = torch_log_probs(model, inputs, completions)
    model.zero_grad()
    (expected * torch.from_numpy(weights)).sum().backward()
    prompts = prompt_inputs_from_huggingface(**inputs, config=config)
    allowed = np.ones(config.text.vocabulary, bool)

    sequences = sequences_in_rows(prompts, completions)

    def loss(params):
        log_probs, _ = log_probs_in_rows(params, sequences, config, allowed=allowed, temperature=TEMPERATURE)
        return (weights * log_probs).sum(), log_probs

    gradients, got = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert reference.relative_error(got, expected.detach().numpy()) < TOLERANCE
    of_torch = {name: parameter for name, parameter in model.named_parameters() if parameter.grad is not None}
    flat = flatten_dict(gradients, sep="/")
    tensors = NAMED_TENSORS_OF_SMOLVLM if config.family == "smolvlm" else NAMED_TENSORS
    named = {path: named for path, named in tensors.items() if named[0] in of_torch}
    assert len(named) >= 10 and (config.text.is_tied or "head/kernel" in named)
    for path, (name, arrange) in named.items():
        got = np.asarray(flat[path])
        got = got[1] if "layers/" in path or "deepstack/" in path else got
        error = reference.relative_error(got, arrange(of_torch[name].grad.numpy()))
        assert error < GRADIENT_TOLERANCE, (path, error)
    # and all of them, through the names of a checkpoint, which the logits hold
    grads = {reference.hub_spelling(name, config.family): p.grad.contiguous() for name, p in of_torch.items()}
    save_file(grads, tmp_path / "model.safetensors")
    whole = load_policy_params(tmp_path, config)
    if (
        not config.vision.has_rotation
    ):  # a bias of keys that do not turn moves all scores of a query alike: rounding alone
        layers = gradients["vision"]["layers"]
        noise = layers["k"].pop("bias"), whole["vision"]["layers"]["k"].pop("bias")
        assert max(np.abs(part).max() for part in noise) < 1e-4 * np.abs(layers["q"]["bias"]).max()
    errors = jax.tree.map(reference.relative_error, gradients, whole)
    assert max(jax.tree.leaves(errors)) < GRADIENT_TOLERANCE, errors


@EVERY_POLICY_AND_SMOLVLM_SLOWLY
def test_half_precision_is_as_near_to_float32_as_that_of_transformers(policy):
    """Both round to bfloat16 at every layer; only the statistics stay float32, so the errors are of one size."""
    model, params, config = policy
    inputs = reference.batch_of(config, padding="left")
    prompts = prompt_inputs_from_huggingface(**inputs, config=config)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    got = np.asarray(jax.jit(partial(prompt_logits, config=config))(half, prompts))
    assert got.dtype == np.float32
    exact = torch_logits(model, inputs)
    half_model = type(model)(model.config).bfloat16().eval()
    half_model.load_state_dict(model.state_dict())
    import torch

    with torch.no_grad():
        of_torch = half_model(**reference.torch_inputs(inputs)).logits.float().numpy()
    is_valid = prompts.is_valid
    ours, theirs = (np.abs(each - exact)[is_valid].mean() for each in (got, of_torch))
    assert ours < 1.3 * theirs
