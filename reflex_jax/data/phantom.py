"""The phantom world as a data source: examples with pictures drawn on demand.

Example `i` of a split is always the same question about the same picture, whatever the size of the split.
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example, Picture
from reflex_jax.data.phantom_text import LESION_COUNTS, ask, describe, phantom_questions, teacher_completion
from reflex_jax.data.phantom_world import (
    LESION_COUNT_SHARES,
    SIZE,
    Facts,
    Phantom,
    draw_facts,
    make_phantom,
    mask_cells,
)

__all__ = [
    "Facts",
    "Phantom",
    "SPLITS",
    "make_phantom",
    "mask_cells",
    "phantom_examples",
    "phantom_image",
    "phantom_of",
    "phantom_questions",
]

# Each split is a world of its own; the shipped judge and policy were made from the last two.
SPLITS = ("train", "validation", "test", "judge_training", "policy_warm_start")
# One round of ten questions: six closed, four open.
_ROUND = ("presence", "what", "side", "organ", "presence", "level", "where", "modality_check", "modality", "choice")


def split_world(split: str, seed: int) -> int:
    """Number of the world that a split of run seed `seed` shows."""
    if split not in SPLITS:
        raise ConfigError(f"data.split: the phantom world has {', '.join(SPLITS)}; got {split!r}.")
    return seed * len(SPLITS) + SPLITS.index(split)


def phantom_examples(split: str, size: int, seed: int, *, noise: float = 0.0) -> list[Example]:
    """Draws `size` pictures with one question each.

    Args:
      split: one of `SPLITS`.
      size: number of examples.
      seed: of the run.
      noise: how often the teacher who writes `Example.target` misperceives a lesion, in [0, 1].
    """
    world = split_world(split, seed)
    return [_phantom_example(split, world, index, noise) for index in range(size)]


def _phantom_example(split: str, world: int, index: int, noise: float) -> Example:
    template, is_affirmative = _asked(index)
    random = np.random.default_rng((world, index, 2))
    count = _lesion_count(template, is_affirmative, random)
    facts = draw_facts(world, index, lesion_count=count)
    question = ask(facts, template, random, is_affirmative=is_affirmative)
    return Example(
        id=f"phantom-{split}-{world}-{index}",
        question=question.text,
        answer=question.answer,
        answer_type=question.answer_type,
        images=(
            Picture(
                id=f"phantom-{world}-{index}", data=functools.partial(_render, world, index, count), size=(SIZE, SIZE)
            ),
        ),
        options=question.options,
        modality=facts.modality,
        organ=facts.organ,
        reasoning=describe(facts),
        target=teacher_completion(facts, question, random, noise=noise),
    )


def _lesion_count(template: str, is_affirmative: bool, random: np.random.Generator) -> int:
    """Draws how many lesions the picture has, among the numbers the question allows."""
    allowed = LESION_COUNTS[template] or (0, 1, 2)
    if template == "presence" and is_affirmative:
        allowed = (1, 2)
    shares = np.array([LESION_COUNT_SHARES[count] for count in allowed])
    return int(random.choice(allowed, p=shares / shares.sum()))


def phantom_of(example: Example) -> Phantom:
    """The picture, facts and lesions of an example of this world, read off its id."""
    world, index = (int(number) for number in example.id.split("-")[-2:])
    template, is_affirmative = _asked(index)
    count = _lesion_count(template, is_affirmative, np.random.default_rng((world, index, 2)))
    return make_phantom(world, index, lesion_count=count)


def _asked(index: int) -> tuple[str, bool]:
    """Template of an example, and which of yes and no is its answer."""
    place = index % len(_ROUND)
    template = _ROUND[place]
    return template, (index // len(_ROUND) + _ROUND[:place].count(template)) % 2 == 0


def phantom_image(phantom: Phantom) -> Image.Image:
    """The picture as the models read it: RGB."""
    return Image.fromarray(phantom.image).convert("RGB")


def _render(world: int, index: int, lesion_count: int) -> Image.Image:
    return phantom_image(make_phantom(world, index, lesion_count=lesion_count))
