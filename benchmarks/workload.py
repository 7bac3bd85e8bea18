"""The questions both sides of the benchmark answer: synthetic pictures, and statements that are all distinct.

Needs numpy and Pillow only, so that the peer's environment can import it without this package.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import numpy as np
from PIL import Image

PROMPTS_PER_STEP = 2
GROUP_SIZE = 8
NEW_TOKENS = 128
IMAGE_SIDE = 448  # pixels: 1024 patches, 256 visual tokens
QUESTIONS = 64
LENGTHS = ("full", "geometric")  # of the completions: until the cap, or until one ends
TEMPERATURE = {"full": 1.0, "geometric": 8.0}  # so hot that words are drawn evenly, whatever the weights
END_OF_TURN = "<|im_end|>"
LEARNING_RATE = 1e-6
KL_COEFFICIENT = 0.01

_PLACES = ("left lung", "right lung", "heart", "liver", "spleen", "left kidney", "brain stem", "aorta", "mediastinum")
_FINDINGS = ("pleural effusion", "opacity", "mass", "fracture", "hemorrhage", "nodule", "calcification")


@dataclass(frozen=True)
class Question:
    """One row of the data set."""

    question: str
    answer: str
    png: bytes


def make_questions(count: int = QUESTIONS, side: int = IMAGE_SIDE) -> list[Question]:
    """Questions about pictures that all differ, as PNG bytes, so that both sides pay for decoding."""
    return [
        Question(
            question=f"Is there any sign of a {_FINDINGS[i % 7]} in the {_PLACES[i % 9]} of this patient?",
            answer=("yes", "no")[i % 2],
            png=_png(_draw(i, side)),
        )
        for i in range(count)
    ]


def four_words(completion: str) -> str:
    """What stands in for the answer: policies with random weights write no answer block.

    The first four words keep the statements of a group distinct, so that the judge carries a full load.
    """
    return " ".join(re.findall("[A-Za-z]+", completion)[:4]) or "nothing"


def allowed_ids(ids: dict[str, int], new_tokens: int) -> list[int]:
    """What may be sampled with `--lengths geometric`: short words and the end of the turn.

    So many that a completion ends after a quarter of `new_tokens` on average, drawn evenly as at the temperature of this
    workload.

    Args:
      ids: of the policy's tokens; byte-level, a word begins with the mark of a space.
      new_tokens: the cap.
    """
    words = sorted(index for token, index in ids.items() if re.fullmatch("\u0120[a-z]{3,6}", token))
    return [*words[: new_tokens // 4 - 1], ids[END_OF_TURN]]


def _draw(seed: int, side: int) -> np.ndarray:
    """A grey picture with structure at several scales: bright discs with soft rims, and noise."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / side
    picture = 0.1 * random.random((side, side))
    for _ in range(12):
        y, x, radius = random.random(), random.random(), random.uniform(0.03, 0.3)
        distance = np.hypot(rows - y, columns - x) / radius
        picture += random.uniform(0.1, 0.5) / (1.0 + np.exp(12.0 * (distance - 1.0)))
    grey = (255 * picture / picture.max()).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _png(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()
