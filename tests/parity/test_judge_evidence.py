"""Saliency and everything made of it against open_clip with torch autograd, in float32.

Tolerance: the largest error is at most 1e-4 of the largest reference value. Masks may differ only in cells within 1e-3
of the map's range from the cut, IoU by at most two cells.
"""

import jax
import numpy as np
import pytest
from PIL import Image

from reflex_jax.checkpoints.open_clip import load_judge_params
from reflex_jax.judge.batch import StatementTokenizer
from reflex_jax.judge.evidence import Judge, judge_evidence
from reflex_jax.judge.saliency import image_evidence
from reflex_jax.models.biomedclip import read_judge_config
from tests.parity import judge_reference as reference

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

TOLERANCE = 1e-4
CELLS = reference.GRID**2
LONG = "nodule and cyst on the left side " * 60  # over 256 tokens
STATEMENTS = [
    ["there is a nodule", "", "there is a cyst in the left lung", "there is a nodule"],
    [LONG, "there is no effusion", "there is no effusion", "there is a cyst on the right side"],
]
ANCHORS = ["there is a cyst in the left lung", "there is no nodule"]


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    directory = tmp_path_factory.mktemp("judge")
    model = reference.write_judge(directory)
    config = read_judge_config(directory)
    tokenizer = open_clip.tokenizer.HFTokenizer(str(directory), context_length=reference.CONTEXT)
    return model, tokenizer, Judge(config, load_judge_params(directory, config), StatementTokenizer(directory))


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (12, 17, 3), np.uint8)) for _ in range(2)]
    return [image.resize(size) for image, size in zip(noise, ((200, 150), (112, 180)), strict=True)]


def largest_error(ours, theirs):
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize(
    ("method", "block", "batch"),
    [("attention_gradient", -1, 2), ("attention_gradient", -1, 1), ("attention_gradient", 0, 2),
     ("gradient_activation", -1, 2), ("gradient_activation", 0, 2), ("gradcam", -1, 2), ("gradcam", 0, 1)],
)  # fmt: skip
def test_saliency_equals_autograd(judge, method, block, batch):
    model, _, ours = judge
    rng = np.random.default_rng(batch)
    pixels = rng.normal(size=(batch, reference.IMAGE_SIZE, reference.IMAGE_SIZE, 3)).astype(np.float32)
    directions = rng.normal(size=(batch, 3, reference.EMBED_DIM)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    theirs = reference.torch_saliency(
        model, torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), torch.from_numpy(directions),
        method=method, block=block,
    )  # fmt: skip
    explain = jax.jit(image_evidence, static_argnames=("config", "method", "block"))
    embeddings, maps = explain(ours.params, pixels, directions, ours.config, method=method, block=block)
    assert largest_error(maps, theirs) <= TOLERANCE
    assert np.abs(theirs).max() > 1e-6  # a void map would agree with anything
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "tie_rule", "tokens"),
    [("attention_gradient", "strict", reference.CONTEXT), ("attention_gradient", "paper", 24),
     ("gradient_activation", "strict", 24), ("gradcam", "strict", 24)],
)  # fmt: skip
def test_evidence_equals_the_same_judge_in_torch(judge, images, method, tie_rule, tokens):
    model, tokenizer, ours = judge
    evidence = judge_evidence(ours, images, STATEMENTS, ANCHORS, method, tie_rule=tie_rule, max_statement_tokens=tokens)
    transform = open_clip.image_transform(reference.IMAGE_SIZE, is_train=False, mean=reference.MEAN, std=reference.STD)
    pixels = torch.stack([transform(image) for image in images])
    with torch.no_grad():
        v = torch.nn.functional.normalize(model.encode_image(pixels), dim=-1)
        ids = [tokenizer([*row, a], context_length=tokens) for row, a in zip(STATEMENTS, ANCHORS, strict=True)]
        texts = [model.encode_text(rows) for rows in ids]
        u = torch.nn.functional.normalize(torch.stack(texts), dim=-1)
    maps = reference.torch_saliency(model, pixels, u, method=method, block=-1)
    v, u = v.numpy(), u.numpy()
    assert largest_error(evidence.image_embeddings, v) <= TOLERANCE
    assert largest_error(evidence.statement_embeddings, u[:, :-1]) <= TOLERANCE
    assert largest_error(evidence.anchor_embeddings, u[:, -1]) <= TOLERANCE
    assert largest_error(evidence.saliency, maps[:, :-1]) <= TOLERANCE
    assert largest_error(evidence.anchor_saliency, maps[:, -1]) <= TOLERANCE
    np.testing.assert_allclose(evidence.text_text_similarity, np.einsum("pgd,pd->pg", u[:, :-1], u[:, -1]), atol=1e-5)
    np.testing.assert_allclose(evidence.image_text_similarity, np.einsum("pgd,pd->pg", u[:, :-1], v), atol=1e-5)
    theirs, is_near = torch_masks(maps, tie_rule)
    masks = np.concatenate([evidence.masks, evidence.anchor_masks[:, None]], axis=1)
    assert (masks == theirs)[~is_near].all()
    intersection = (theirs[:, :-1] & theirs[:, -1:]).sum((-2, -1))
    union = (theirs[:, :-1] | theirs[:, -1:]).sum((-2, -1))
    assert np.abs(np.asarray(evidence.iou) - intersection / np.maximum(union, 1)).max() <= 2 / CELLS
    assert evidence.iou[0, 2] == 1.0  # the anchor's own words
    assert (evidence.iou[1, 1], evidence.iou[0, 0]) == (evidence.iou[1, 2], evidence.iou[0, 3])  # the same words


def torch_masks(maps, tie_rule):
    """Eq. 3 by torch.quantile, and which cells lie so near the cut that rounding may decide."""
    flat = torch.from_numpy(maps.reshape(*maps.shape[:2], -1))
    cut = torch.quantile(flat, 0.5, dim=-1, keepdim=True)
    masks = flat >= cut
    if tie_rule == "strict":
        masks = torch.where(masks.sum(-1, keepdim=True) > CELLS // 2, flat > cut, masks)
    span = flat.amax(-1, keepdim=True) - flat.amin(-1, keepdim=True)
    is_near = (flat - cut).abs() <= 1e-3 * span
    return masks.reshape(maps.shape).numpy(), is_near.reshape(maps.shape).numpy()
