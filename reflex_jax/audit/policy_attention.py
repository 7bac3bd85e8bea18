"""Where the policy looks while it answers, and whether that is where the judge looks (the paper's Figure 6).

The reward never constrains the policy's own attention: visual fidelity compares two maps of the judge. So it is measured
apart: a recorded completion is read again behind its prompt, by the policy of any checkpoint, and the softmax weights
are taken with which the tokens that predict its answer read the picture's tokens, as means over tokens, heads and
layers. The same words before and after training differ in the weights alone. Attention is not explanation (Jain and
Wallace, 2019): a low overlap does not prove that the picture was ignored, the blank-picture probe does that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from reflex_jax.config import ConfigError
from reflex_jax.data.images import count_windows
from reflex_jax.data.prompts import EncodedPrompt, Processor
from reflex_jax.models.qwen_vl import prompt_attention_weights
from reflex_jax.rewards.visual_fidelity import intersection_over_union, quantile_mask
from reflex_jax.step.models import Models
from reflex_jax.text.tokenizer import encode_with_places
from reflex_jax.trees import Params

_PROMPT_MULTIPLE = 64  # rows are padded to multiples of it, so that few shapes are compiled


@dataclass(frozen=True)
class Reading:
    """A completion behind its prompt, as the policy reads it again."""

    encoded: EncodedPrompt
    is_asking: Bool[np.ndarray, "L"]  # the tokens that predict a token of the answer
    picture: slice  # the tokens of the picture that is looked at
    grid: tuple[int, int]  # rows and columns of its tokens


@dataclass(frozen=True)
class PictureAttention:
    """What the answer reads from a picture."""

    weights: Float[np.ndarray, "h w"]  # softmax weights of its tokens, rows from the top; they sum to `share`

    @property
    def share(self) -> float:
        """Of all attention of the answer's tokens, what goes to the picture: 0 to 1."""
        return float(self.weights.sum())

    @property
    def entropy(self) -> float:
        """Of the distribution over the picture's tokens, over that of an even one: 1 looks everywhere, 0 at one token."""
        cells = self.weights.ravel() / max(self.share, np.finfo(np.float32).tiny)
        if len(cells) < 2:
            return 0.0
        return float(-(cells * np.log(np.maximum(cells, np.finfo(np.float32).tiny))).sum() / math.log(len(cells)))


@dataclass(frozen=True)
class Overlap:
    """Policy and judge on one picture."""

    inside: float  # of the attention to what the judge sees, the part inside of its mask
    area: float  # of the judge's mask: what `inside` is by chance
    iou: float  # of the judge's mask and the policy's map, cut at the same quantile


def read_again(
    processor: Processor,
    images: Sequence[Image.Image],
    question: str,
    completion: str,
    *,
    picture: int = 0,
    example_id: str = "",
) -> Reading:
    """Puts a recorded completion behind its prompt.

    Args:
      processor: of the policy.
      images: RGB, those of the question, at least one.
      question: its words.
      completion: as it was decoded. Its answer is what stands between the last `<answer>` and the next `</answer>`;
        without both, all of it.
      picture: which of the images is looked at.
      example_id: of the question, which draws the text of a prompt that has several.
    Raises:
      ValueError: an empty completion.
      ConfigError: a policy that reads a picture in tiles, whose tokens are no map of it.
    """
    if processor.config.vision.tile_size:
        raise ConfigError(
            f"policy.path: expected a policy that reads pictures whole; got a {processor.config.family}, which reads them in "
            "tiles: its attention is not laid over a picture."
        )
    prompt = processor.encode(images, question, example_id=example_id)
    ids, places = encode_with_places(processor.tokenizer, completion)
    if not ids:
        raise ValueError("expected a completion with a token; got an empty one.")
    first, last = _answer_place(completion)
    in_answer = [begin < last and end > first for begin, end in places]
    is_asking = np.zeros(len(prompt.ids) + len(ids), bool)
    # a token is predicted by the one before it
    is_asking[len(prompt.ids) - 1 : -1] = in_answer if any(in_answer) else True
    merge, token = processor.config.vision.merge_size, processor.config.image_token_id
    grids = [(rows // merge, columns // merge) for _, (_, rows, columns) in prompt.images]
    before = sum(rows * columns for rows, columns in grids[:picture])
    begin = int(np.flatnonzero(prompt.ids == token)[before])
    rows, columns = grids[picture]
    whole = EncodedPrompt(np.concatenate([prompt.ids, np.asarray(ids, prompt.ids.dtype)]), prompt.images)
    return Reading(whole, is_asking, slice(begin, begin + rows * columns), (rows, columns))


def picture_attention(models: Models, weights: Params, readings: Sequence[Reading]) -> list[PictureAttention]:
    """What the policy reads from the pictures while it answers.

    Args:
      models: of the run.
      weights: of the program's `gather`, of any checkpoint.
      readings: of `read_again`, any number.
    """
    processor, rows = models.processor, models.shapes.rows(_at_once(models))
    tokens = max(len(reading.encoded.ids) for reading in readings)
    tokens = -(-tokens // _PROMPT_MULTIPLE) * _PROMPT_MULTIPLE
    vision = models.shapes.policy.vision
    windows = max(sum(count_windows(grid, vision) for _, grid in r.encoded.images) for r in readings)
    found = []
    for start in range(0, len(readings), rows.count):
        some = list(readings[start : start + rows.count])
        filled = some + [some[0]] * (rows.count - len(some))
        inputs = processor.collate([r.encoded for r in filled], prompt_tokens=tokens, windows=windows)
        asking = np.stack([np.pad(r.is_asking, (tokens - len(r.is_asking), 0)) for r in filled])
        placed = rows.place((inputs, asking))
        layers = _attention_weights(weights, *placed, config=models.shapes.policy)
        for row, reading in zip(np.asarray(layers).mean(0), some, strict=False):
            own = row[tokens - len(reading.is_asking) :]
            found.append(PictureAttention(own[reading.picture].reshape(reading.grid)))
    return found


def overlap_with_judge(
    attention: PictureAttention,
    mask: Bool[np.ndarray, "h w"],
    part: tuple[float, float, float, float],
    *,
    quantile: float,
) -> Overlap:
    """Holds the policy's map against a mask of the judge.

    Args:
      attention: over the whole picture.
      mask: where the judge looks for a statement, on its own grid.
      part: of `judge.batch.judged_part`: what of the picture lies on that grid.
      quantile: at which the policy's map is cut, the judge's p of Eq. 3.
    """
    seen = onto_grid(attention.weights, mask.shape, part)
    own = quantile_mask(jnp.asarray(seen), quantile=quantile)
    return Overlap(
        inside=float(seen[mask].sum() / max(seen.sum(), np.finfo(np.float32).tiny)),
        area=float(mask.mean()),
        iou=float(intersection_over_union(own, jnp.asarray(mask))),
    )


def onto_grid(
    weights: Float[np.ndarray, "h w"], shape: tuple[int, ...], part: tuple[float, float, float, float]
) -> Float[np.ndarray, "y x"]:
    """Weights of a picture's cells on another grid over a part of the picture; what a cell holds is divided by area.

    Args:
      weights: over the whole picture.
      shape: rows and columns of the other grid.
      part: left, top, right, bottom of the other grid, in widths and heights of the picture.
    """
    left, top, right, bottom = part
    down = _shared_lengths(weights.shape[0], shape[0], top, bottom)
    across = _shared_lengths(weights.shape[1], shape[1], left, right)
    return (down @ weights.astype(np.float64) @ across.T).astype(np.float32)


def _shared_lengths(cells: int, others: int, begin: float, end: float) -> Float[np.ndarray, "others cells"]:
    """Which share of each of `cells` intervals of [0, 1] lies in each of `others` intervals of [begin, end]."""
    edges, other = np.linspace(0, 1, cells + 1), np.linspace(begin, end, others + 1)
    shared = np.minimum(edges[None, 1:], other[1:, None]) - np.maximum(edges[None, :-1], other[:-1, None])
    return np.maximum(shared, 0.0) * cells


def _answer_place(completion: str) -> tuple[int, int]:
    opening = completion.rfind("<answer>")
    begin = opening + len("<answer>")
    closing = completion.find("</answer>", begin)
    return (begin, closing) if opening >= 0 and closing > begin else (0, len(completion))


def _at_once(models: Models) -> int:
    """Rows that the devices divide; all scores of a layer are in memory, so no more than that."""
    return models.shapes.mesh.shape["data"] * models.shapes.mesh.shape["fsdp"]


_attention_weights = jax.jit(prompt_attention_weights, static_argnames="config")
