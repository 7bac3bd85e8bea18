"""DEVICE: what the frozen judge finds for each statement, beside the anchor of its prompt (paper Eq. 2-4 and 6).

The judge measures and never pays: what its findings are worth is said by the components that read them.

`gather_evidence` is pure and runs inside the training step; `load_judge` and `judge_evidence` are its front door for
single pictures and strings. Every distinct statement of a prompt is embedded and explained once, then handed to the
completions that share it.

A completion without a statement has no evidence: its similarities and IoU are 0, its maps and masks empty, and
`is_degenerate` is true.

Of K pictures of a prompt (`judge.picture=mean`) each is looked at by itself, one after another, and findings are means over
them. The similarity of image and statement is the mean of the pictures' cosines: it stays on the scale that thresholds are
chosen on, where the cosine with a mean direction would grow as pictures have less in common. The agreement of two statements
is the mean of the pictures' IoUs, each of masks that are cut by the picture's own quantile; a picture whose map cannot be cut
agrees with nothing, 0, and only where that is so of all pictures is a completion `is_degenerate`. Which of its pictures a
statement is about is not asked.

The `centered` mode (not in the paper) replaces each statement embedding u by the unit vector along u - u0, where u0 is
the question-only statement, in the similarities too: statements of one question share their template, and the template
alone makes them similar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Bool, Float
from PIL import Image

from reflex_jax.checkpoints.open_clip import load_judge_params
from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.judge.batch import StatementTokenizer, judge_pixels, prepare_judge_batch, stack_pictures
from reflex_jax.judge.saliency import image_evidence, unit
from reflex_jax.judge.statements import encode_statements
from reflex_jax.models.biomedclip import BiomedClipConfig, normalise_pixels, read_judge_config
from reflex_jax.records import Evidence, JudgeInputs
from reflex_jax.rewards.visual_fidelity import (
    TieRule,
    chance_corrected_iou,
    intersection_over_union,
    is_degenerate,
    quantile_mask,
    tied_fraction,
)
from reflex_jax.sharding import replicated, to_global
from reflex_jax.trees import Array, Params


@dataclass(frozen=True, kw_only=True)
class EvidenceSettings:
    """How the judge looks; static where the mathematics is compiled."""

    saliency: str = "attention_gradient"  # method, see judge/saliency.py
    saliency_block: int = -1  # transformer block of the method; negative ones count from the end
    quantile: float = 0.5  # p of Eq. 3
    tie_rule: str = "strict"  # what happens to cells tied at the cut: strict, rank or paper
    centered: bool = False  # compare statements after taking out what the question alone says


@dataclass(frozen=True)
class Judge:
    """A frozen judge: static sizes, parameters and its tokenizer."""

    config: BiomedClipConfig
    params: Params
    tokenizer: StatementTokenizer


def load_judge(path: str | Path, dtype: str = "float32", mesh: Mesh | None = None) -> Judge:
    """Loads a judge from an open_clip directory; "phantom" is the tiny one shipped with the package.

    Args:
      path: the directory.
      dtype: of the parameters in memory.
      mesh: whose devices each hold the whole judge; None: the default device.
    Raises:
      ConfigError: a file is missing or damaged, its tensors or sizes are not those of a BiomedCLIP-shaped model, or
        tokenizer and text tower do not belong together.
    """
    directory = resolve_checkpoint(path, "judge")
    config = read_judge_config(directory)
    tokenizer = StatementTokenizer(directory, config.text)
    params = load_judge_params(directory, config, jnp.dtype(dtype))
    if mesh is not None:
        params = to_global(params, replicated(mesh))
    return Judge(config, params, tokenizer)


def judge_evidence(
    judge: Judge,
    images: Sequence[Image.Image | Sequence[Image.Image]],
    statements: Sequence[Sequence[str | None]],
    anchors: Sequence[str],
    saliency: str = "attention_gradient",
    *,
    saliency_block: int = -1,
    quantile: float = 0.5,
    tie_rule: str = "strict",
    resize: str = "checkpoint",
    max_statement_tokens: int = 64,
    questions: Sequence[str] | None = None,
) -> Evidence:
    """Judges statements about images, as the training step does.

    Args:
      judge: from `load_judge`.
      images: P pictures; or several of each prompt, over which findings are means.
      statements: G for each picture; None for an answer that is missing.
      anchors: the statement of the true answer, one for each picture.
      saliency: attention_gradient, gradient_activation or gradcam.
      saliency_block: transformer block, negative ones count from the end.
      quantile: p of Eq. 3.
      tie_rule: strict, rank or paper.
      resize: checkpoint, crop, squash or pad, see `judge_pixels`.
      max_statement_tokens: longer statements are cut.
      questions: question-only statements, one for each picture; given, the evidence is `centered`.
    """
    rows = [[image] if isinstance(image, Image.Image) else image for image in images]
    is_one = all(isinstance(image, Image.Image) for image in images)
    inputs = prepare_judge_batch(
        stack_pictures(
            [[judge_pixels(image, judge.config, resize) for image in row] for row in rows],
            room=None if is_one else max(map(len, rows)),
        ),
        statements,
        anchors,
        judge.tokenizer,
        max_statement_tokens=max_statement_tokens,
        questions=questions,
        picture_counts=None if is_one else [len(row) for row in rows],
    )
    settings = EvidenceSettings(
        saliency=saliency, saliency_block=saliency_block, quantile=quantile, tie_rule=tie_rule,
        centered=questions is not None,
    )  # fmt: skip
    return _jitted_gather_evidence(judge.params, inputs, judge.config, settings)


def gather_evidence(
    params: Params, inputs: JudgeInputs, shape: BiomedClipConfig, settings: EvidenceSettings
) -> Evidence:
    """Embeddings, saliency, masks and similarities, for P prompts of G completions.

    Nothing is differentiated through the judge: its parameters are cut off here, once.

    Args:
      params: of the judge.
      inputs: from `prepare_judge_batch`, with questions exactly if `settings.centered`.
      shape: of the judge; static.
      settings: static as well.
    """
    prompts, group = inputs.statement_index.shape
    chex.assert_shape(inputs.statements, (prompts, group + (2 if settings.centered else 1), None))
    has_one, side = inputs.picture_count is None, shape.vision.image_size
    chex.assert_shape(inputs.pixels, (prompts, *(() if has_one else (None,)), side, side, 3))
    params = jax.lax.stop_gradient(params)
    embeddings = encode_statements(params, inputs, shape)
    if settings.centered:
        difference = embeddings - embeddings[:, 1:2]
        # The question's own words leave rounding noise, which would become a direction if stretched to length 1.
        says_more = jnp.linalg.norm(difference, axis=-1, keepdims=True) > 1e-5
        embeddings = jnp.where(says_more, unit(difference), 0.0)
    is_picture, images, maps = _look_at_pictures(params, inputs, embeddings, shape, settings)
    masks = quantile_mask(maps, quantile=settings.quantile, tie_rule=cast(TieRule, settings.tie_rule))
    masks &= is_picture[:, None, :, None, None]
    anchors, degenerate = masks[:, :1], is_degenerate(masks)

    def of_completions(per_statement: Array) -> Array:
        index = inputs.statement_index.reshape(prompts, group, *(1,) * (per_statement.ndim - 2))
        has = inputs.has_statement.reshape(index.shape)
        return jnp.where(has, jnp.take_along_axis(per_statement, index, axis=1), jnp.zeros((), per_statement.dtype))

    def mean(of_pictures: Array) -> Array:
        """[P, S, K] -> [P, S]; of one picture its own number, to the bit."""
        count = is_picture.sum(-1, dtype=jnp.float32)[:, None]
        return jnp.where(is_picture[:, None], of_pictures, 0.0).sum(-1) / count

    def of_maps(maps: Array) -> Array:
        return maps[:, :, 0] if has_one else maps

    text_text = jnp.einsum("psd,pd->ps", embeddings, embeddings[:, 0], precision="highest")
    image = mean(images.swapaxes(1, 2))
    image_text = jnp.einsum("psd,pd->ps", embeddings, image, precision="highest")
    return Evidence(
        image_embeddings=image,
        statement_embeddings=of_completions(embeddings),
        anchor_embeddings=embeddings[:, 0],
        saliency=of_completions(of_maps(maps)),
        anchor_saliency=of_maps(maps)[:, 0],
        masks=of_completions(of_maps(masks)),
        anchor_masks=of_maps(masks)[:, 0],
        iou=of_completions(mean(intersection_over_union(masks, anchors))),
        chance_corrected_iou=of_completions(mean(chance_corrected_iou(masks, anchors))),
        text_text_similarity=of_completions(text_text),
        image_text_similarity=of_completions(image_text),
        has_statement=inputs.has_statement,
        is_degenerate=of_completions(jnp.all(degenerate | degenerate[:, :1], axis=-1)) | ~inputs.has_statement,
        tied_fraction=of_completions(mean(tied_fraction(maps, quantile=settings.quantile))),
    )


def _look_at_pictures(
    params: Params,
    inputs: JudgeInputs,
    directions: Float[Array, "P S E"],
    shape: BiomedClipConfig,
    settings: EvidenceSettings,
) -> tuple[Bool[Array, "P K"], Float[Array, "P K E"], Float[Array, "P S K h w"]]:
    """Which pictures there are, their unit embeddings and their maps; 0 where there is none.

    One picture of every prompt after another, as far as the prompt with most needs: it takes the memory of one.
    """
    pictures = inputs.pixels if inputs.picture_count is not None else inputs.pixels[:, None]
    most = pictures.shape[1]

    def look(k: Array | int) -> tuple[Array, Array]:
        pixels = normalise_pixels(jax.lax.dynamic_index_in_dim(pictures, k, axis=1, keepdims=False), shape)
        return image_evidence(
            params, pixels, directions, shape, method=settings.saliency, block=settings.saliency_block
        )

    if most == 1 or inputs.picture_count is None:
        images, maps = look(0)
        return jnp.ones((len(pictures), 1), bool), images[:, None], maps[:, :, None]
    used = jnp.max(inputs.picture_count)

    def proceeds(carry: tuple[Array, Any]) -> Array:
        # as in `judge/statements.py`: the first comparison says how long the loop can be
        return (carry[0] < most) & (carry[0] < used)

    def look_at_next(carry: tuple[Array, Any]) -> tuple[Array, Any]:
        k, found = carry
        put = [
            jax.lax.dynamic_update_index_in_dim(all_, one, k, axis=0) for all_, one in zip(found, look(k), strict=True)
        ]
        return k + 1, put

    empty = [jnp.zeros((most, *one.shape), one.dtype) for one in jax.eval_shape(look, 0)]
    _, (images, maps) = jax.lax.while_loop(proceeds, look_at_next, (jnp.int32(0), empty))
    is_picture = jnp.arange(most) < inputs.picture_count[:, None]
    images, maps = jnp.moveaxis(images, 0, 1), jnp.moveaxis(maps, 0, 2)
    return (
        is_picture,
        jnp.where(is_picture[..., None], images, 0.0),
        jnp.where(is_picture[:, None, :, None, None], maps, 0.0),
    )


_jitted_gather_evidence = jax.jit(gather_evidence, static_argnames=("shape", "settings"))
