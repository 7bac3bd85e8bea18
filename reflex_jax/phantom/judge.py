"""The tiny judge of the phantom world: a BiomedCLIP-shaped model trained contrastively, and what it is worth.

The world knows which claim holds for which picture, so the loss sees every claim with every picture of a batch instead
of the other captions of the batch: no false negatives, and each one-word mistake is among the negatives. Temperature
and bias are fixed, which puts the decision boundaries where the paper has its thresholds: 0.5 between picture and
statement, 0.8 between two statements. Nothing supervises where the judge looks: no masks, no saliency, no labels of
patches.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float, Int, UInt8
from numpy.random import Generator

from reflex_jax.checkpoints.open_clip import save_judge_params
from reflex_jax.data.phantom import split_world
from reflex_jax.data.phantom_text import Claim, all_claims, truth_matrix
from reflex_jax.data.phantom_world import KINDS, LEVELS, SIDES, Facts, Finding, draw_facts, render_phantom
from reflex_jax.models.biomedclip import (
    BiomedClipConfig,
    Params,
    encode_text,
    init_judge_params,
    normalise_pixels,
    read_judge_config,
)
from reflex_jax.models.clip_vision import embed_patches, project_cls, run_block
from reflex_jax.phantom.words import GENERAL_WORDS
from reflex_jax.step.state import mixing_dtypes
from reflex_jax.text.tokenizer import load_bert_tokenizer
from reflex_jax.trees import Array, Leaf, pytree_dataclass

LOGIT_SCALE = 20.0
IMAGE_THRESHOLD, TEXT_THRESHOLD = 0.5, 0.8
_STATEMENT_TOKENS = 18
_NONSENSE = 12  # statements per step that are true of no picture


@dataclass(frozen=True)
class JudgeStage:
    """One training with its own cosine decay."""

    steps: int
    learning_rate: float  # at the peak
    are_twins: bool  # each picture of a batch beside its twin, or pictures that have nothing to do with each other
    kept_patches: int  # drawn anew for every picture; the others are not shown


@dataclass(frozen=True)
class JudgeRecipe:
    """Numbers of the whole training.

    Twins from the start teach nothing: in 900 steps the kinds of lesions stayed unknown. After the first stage a
    statement's own lesion of two is hit in 86 % of pictures, after the second in 94 %.
    """

    stages: tuple[JudgeStage, ...] = (
        JudgeStage(steps=2400, learning_rate=1.5e-3, are_twins=False, kept_patches=196),
        JudgeStage(steps=500, learning_rate=1e-3, are_twins=True, kept_patches=98),
    )
    pairs: int = 6000  # of pictures that differ in one lesion
    batch_size: int = 32
    weight_decay: float = 0.05
    text_weight: float = 0.5  # of the loss between statements, against the one between pictures and statements
    lesion_shares: tuple[float, float, float] = (0.2, 0.4, 0.4)  # pictures with 0, 1, 2 lesions


@pytree_dataclass
class JudgeStep:
    """What one step reads: B pictures, C claims in two wordings each, N nonsense statements."""

    pixels: UInt8[Leaf, "B 112 112"]
    truth: Bool[Leaf, "B C"]
    wordings: Int[Leaf, "C2 T"]  # 2C rows: a first and a second wording of each claim
    nonsense: Int[Leaf, "N T"]
    kept: Int[Leaf, "B K"]  # patches shown of each picture


def write_judge_directory(directory: Path) -> None:
    """Everything of the judge's open_clip directory except the weights."""
    directory.mkdir(parents=True, exist_ok=True)
    words = sorted(
        {word for claim in all_claims() for text in claim.wordings for word in text.replace("-", " ").split()}
    )
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *characters,
        *(f"##{c}" for c in characters if c.isalnum()),
    ]
    vocabulary = list(dict.fromkeys([*vocabulary, *words, *GENERAL_WORDS]))
    (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    _write_json(directory / "tokenizer_config.json", {
        "tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64, "pad_token": "[PAD]",
        "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
    })  # fmt: skip
    _write_json(directory / "config.json", {
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": len(vocabulary), "hidden_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256, "hidden_act": "gelu",
        "max_position_embeddings": 64, "type_vocab_size": 2, "pad_token_id": 0, "layer_norm_eps": 1e-12,
    })  # fmt: skip
    _write_json(directory / "open_clip_config.json", {
        "model_cfg": {
            "embed_dim": 128,
            "vision_cfg": {
                "timm_model_name": "vit_phantom", "timm_model_pretrained": False, "timm_pool": "",
                "timm_proj": "linear", "image_size": 112, "patch_size": 8, "width": 96, "layers": 3, "heads": 4,
            },
            "text_cfg": {
                "hf_model_name": "bert_phantom", "hf_tokenizer_name": "bert_phantom", "hf_proj_type": "mlp",
                "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 64,
            },
        },
        "preprocess_cfg": {"mean": [0.3, 0.3, 0.3], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic"},
    })  # fmt: skip


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def judge_loss(params: Params, step: JudgeStep, config: BiomedClipConfig) -> tuple[Array, Array]:
    """Sigmoid losses of pictures against statements and of statements against statements."""
    claims = step.truth.shape[1]
    rgb = jnp.broadcast_to(step.pixels[..., None], (*step.pixels.shape, 3))
    images = _unit(_encode_kept(params, normalise_pixels(rgb, config), step.kept, config))
    texts = _unit(encode_text(params, jnp.concatenate([step.wordings, step.nonsense]), config))
    is_nonsense = jnp.zeros((images.shape[0], step.nonsense.shape[0]), bool)
    truth = jnp.concatenate([step.truth, step.truth, is_nonsense], axis=1)
    image_loss = _balanced_loss(images @ texts.T, truth, IMAGE_THRESHOLD)
    is_same = jnp.eye(claims, dtype=bool)
    text_loss = _balanced_loss(texts[:claims] @ texts[claims : 2 * claims].T, is_same, TEXT_THRESHOLD)
    return image_loss, text_loss


def _encode_kept(
    params: Params, pixels: Float[Array, "B Y X 3"], kept: Int[Array, "B K"], config: BiomedClipConfig
) -> Float[Array, "B E"]:
    """Image embeddings from a part of the patches; from all of them it is `encode_image`."""
    vision = params["vision"]
    x = embed_patches(vision, pixels, config.vision)
    x = jnp.concatenate([x[:, :1], jnp.take_along_axis(x[:, 1:], kept[..., None], axis=1)], axis=1)
    for block in range(config.vision.depth):
        x, _ = run_block(vision, block, x, config.vision)
    return project_cls(vision, x, config.vision)


def _unit(x: Float[Array, "*b D"]) -> Float[Array, "*b D"]:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _balanced_loss(similarity: Float[Array, "A B"], truth: Bool[Array, "A B"], threshold: float) -> Array:
    """Sigmoid cross-entropy around `threshold`; positives and negatives weigh the same whatever their number."""
    logits = LOGIT_SCALE * (similarity - threshold)
    positive, negative = jax.nn.softplus(-logits), jax.nn.softplus(logits)
    positive_mean = jnp.where(truth, positive, 0).sum() / jnp.maximum(truth.sum(), 1).astype(jnp.float32)
    negative_mean = jnp.where(truth, 0, negative).sum() / jnp.maximum((~truth).sum(), 1).astype(jnp.float32)
    return 0.5 * (positive_mean + negative_mean)


def train_judge(
    directory: Path, recipe: JudgeRecipe, *, seed: int, report: Callable[[int, dict[str, float]], None]
) -> Params:
    """Trains the judge whose configuration lies in `directory` and writes its weights there.

    Args:
      directory: as `write_judge_directory` leaves it.
      recipe: sizes of the training.
      seed: of world, initial weights and order.
      report: called every 50 steps with (step, losses).
    """
    config, random = read_judge_config(directory), np.random.default_rng(seed)
    pixels, facts = render_pairs(seed, recipe.pairs, recipe.lesion_shares)
    claims = all_claims()
    truth = truth_matrix(claims, facts)
    encode = StatementCache(directory)
    params, done = init_judge_params(config, jax.random.key(seed)), 0
    for stage in recipe.stages:
        update, state = _make_update(recipe, stage, params, config)
        losses = []
        for number in range(1, stage.steps + 1):
            rows = _batch_rows(recipe, random, are_twins=stage.are_twins)
            step = JudgeStep(
                pixels=pixels[rows],
                truth=truth[rows],
                wordings=encode([str(random.choice(claim.wordings)) for claim in claims + claims]),
                nonsense=encode(nonsense_statements(claims, random, _NONSENSE)),
                kept=_draw_patches(random, len(rows), stage.kept_patches, config.vision.grid_size**2),
            )
            params, state, step_losses = update(params, state, step)
            losses.append(step_losses)
            if number % 50 == 0:
                image_loss, text_loss = np.asarray(losses[-50:]).mean(0)
                report(done + number, {"image_loss": float(image_loss), "text_loss": float(text_loss)})
        done += stage.steps
    save_judge_params(params, config, directory)
    return params


def _make_update(
    recipe: JudgeRecipe, stage: JudgeStage, params: Params, config: BiomedClipConfig
) -> tuple[Callable[[Params, Any, JudgeStep], tuple[Params, Any, tuple[Array, Array]]], Any]:
    """The jitted step of one stage and the optimiser state it starts from."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, stage.learning_rate, stage.steps // 20, stage.steps)
    optimizer = mixing_dtypes(
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=recipe.weight_decay))
    )

    def total_loss(params: Params, step: JudgeStep) -> tuple[Array, tuple[Array, Array]]:
        image_loss, text_loss = judge_loss(params, step, config)
        return image_loss + recipe.text_weight * text_loss, (image_loss, text_loss)

    @jax.jit
    def update(params: Params, state: Any, step: JudgeStep) -> tuple[Params, Any, tuple[Array, Array]]:
        gradients, losses = jax.grad(total_loss, has_aux=True)(params, step)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, losses

    return update, optimizer.init(params)


def _draw_patches(random: Generator, batch_size: int, kept: int, patches: int) -> Int[np.ndarray, "B K"]:
    """Indices of the patches shown of each picture."""
    if kept == patches:
        return np.broadcast_to(np.arange(patches), (batch_size, patches))
    return random.random((batch_size, patches)).argsort(axis=1)[:, :kept]


def _batch_rows(recipe: JudgeRecipe, random: Generator, *, are_twins: bool) -> Int[np.ndarray, "B"]:
    """Rows of one batch among the pictures (0, its twin 1, 2, its twin 3, ...)."""
    if not are_twins:
        return random.integers(2 * recipe.pairs, size=recipe.batch_size)
    first = 2 * random.integers(recipe.pairs, size=recipe.batch_size // 2)
    return np.stack([first, first + 1], axis=1).ravel()


class StatementCache:
    """Tokenises statements to one fixed length, each distinct one once."""

    def __init__(self, directory: Path):
        self._tokenizer = load_bert_tokenizer(directory)
        self._rows: dict[str, np.ndarray] = {}

    def __call__(self, statements: list[str]) -> Int[np.ndarray, "N T"]:
        """Returns token ids, filled up with [PAD]."""
        for statement in statements:
            if statement not in self._rows:
                ids = self._tokenizer.encode(statement, max_length=_STATEMENT_TOKENS, truncation=True)
                self._rows[statement] = np.array(ids + [0] * (_STATEMENT_TOKENS - len(ids)), np.int32)
        return np.stack([self._rows[statement] for statement in statements])


def nonsense_statements(claims: list[Claim], random: Generator, count: int) -> list[str]:
    """Statements true of no picture: shuffled claims, random words, claims with a foreign word put in."""
    statements = []
    for number in range(count):
        words = str(random.choice(claims[random.integers(len(claims))].wordings)).split()
        if number % 3 == 0:
            words = [str(word) for word in random.choice(GENERAL_WORDS, size=random.integers(2, 9))]
        elif number % 3 == 1:
            words = [str(word) for word in random.permutation(words[-1:] * 2 + words)]
        else:
            words[-1 - random.integers(min(2, len(words)))] = str(random.choice(GENERAL_WORDS))
        statements.append(" ".join(words))
    return statements


def render_pairs(
    seed: int, count: int, lesion_shares: tuple[float, float, float]
) -> tuple[UInt8[np.ndarray, "2N 112 112"], list[Facts]]:
    """Pictures of the judge's world, each beside a twin of the same anatomy that differs in one lesion.

    Without twins a judge may read a lesion off the absence of others, and then it does not look at it.

    Args:
      seed: of the run.
      count: pairs.
      lesion_shares: how many of the first pictures have 0, 1 and 2 lesions.
    Returns:
      2N pictures and their facts: both of the first pair, both of the second, ...
    """
    world, bounds, pictures, facts = split_world("judge_training", seed), np.cumsum(lesion_shares), [], []
    for index in range(count):
        random = np.random.default_rng((world, index, 3))
        first = draw_facts(world, index, lesion_count=int(np.searchsorted(bounds, random.random())))
        facts += [first, twin_facts(first, random)]
        pictures += [render_phantom(world, index, shown).image for shown in facts[-2:]]
    return np.array(pictures), facts


def twin_facts(facts: Facts, random: Generator) -> Facts:
    """The same facts with one lesion added, removed, moved to another quadrant or replaced by another kind."""
    findings = list(facts.findings)
    kinds = [kind for kind in KINDS if facts.find(kind) is None]
    regions = [(side, level) for side in SIDES for level in LEVELS]
    regions = [region for region in regions if region not in [(f.side, f.level) for f in findings]]
    kind, (side, level) = kinds[random.integers(len(kinds))], regions[random.integers(len(regions))]
    if not findings or (len(findings) == 1 and random.random() < 0.25):
        return replace(facts, findings=(*findings, Finding(kind, side, level)))
    changed = random.integers(len(findings))
    old, change = findings.pop(changed), random.random()
    if change < 0.4:
        findings.insert(changed, replace(old, kind=kind))
    elif change < 0.7:
        findings.insert(changed, replace(old, side=side, level=level))
    return replace(facts, findings=tuple(findings))
