"""HOST: one question about one image, as every data source delivers it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from PIL import Image

from reflex_jax.config import ConfigError
from reflex_jax.data.medical_images import open_image

ANSWER_TYPES = ("closed", "open")
_SHOWN_OFFENDERS = 20


@dataclass(frozen=True, kw_only=True)
class Example:
    """A question, its answer and where its image comes from.

    Options of a multiple-choice question stand in the question's own words; `options` repeats them for the
    rewards.
    """

    id: str  # unique inside a source, kept in samples and evidence
    question: str
    answer: str
    answer_type: str  # closed: exact match | open: overlap of words
    image_id: str  # equal ids: the same picture
    image: bytes | Callable[[], Image.Image] | None = field(repr=False, compare=False)  # None: text alone
    image_size: tuple[int, int] | None = None  # (width, height), where known without decoding
    options: tuple[str, ...] | None = None  # texts behind the letters A, B, ...
    modality: str | None = None
    organ: str | None = None
    paraphrases: tuple[str, ...] = ()  # the same question in other words
    target: str | None = None  # completion to imitate in the supervised phase

    def load_image(self) -> Image.Image | None:
        """The picture as 8-bit RGB, or None where the question has none."""
        if self.image is None:
            return None
        return self.image() if callable(self.image) else open_image(self.image, self.image_id)

    def measure_image(self) -> tuple[int, int] | None:
        """(width, height) of the picture, decoded only where the source did not say."""
        if self.image is None or self.image_size is not None:
            return self.image_size
        picture = self.load_image()
        return None if picture is None else picture.size


def check_examples(examples: Sequence[Example], *, source: str) -> None:
    """Refuses, all offenders at once, what no reward could score.

    Raises:
      ConfigError: a question or an answer is empty, an answer type is unknown, or an id occurs twice.
    """
    if not examples:
        raise ConfigError(f"{source}: expected at least one question; got none.")
    counts = Counter(example.id for example in examples)
    offenders = {
        "without a question": [e.id for e in examples if not e.question.strip()],
        "without an answer": [e.id for e in examples if not e.answer.strip()],
        f"whose answer type is none of {', '.join(ANSWER_TYPES)}": [
            f"{e.id} ({e.answer_type!r})" for e in examples if e.answer_type not in ANSWER_TYPES
        ],
        "with an id used more than once": [i for i, count in counts.items() if count > 1],
    }
    complaints = [f"{len(ids)} {what}: {list_offenders(ids)}" for what, ids in offenders.items() if ids]
    if complaints:
        raise ConfigError(
            f"{source}: questions that cannot be used; mend or remove them. " + "; ".join(complaints) + "."
        )


def list_offenders(names: Sequence[str], *, separator: str = ", ") -> str:
    """Names joined for an error line; a long list ends in a count."""
    shown = separator.join(str(name) for name in names[:_SHOWN_OFFENDERS])
    rest = len(names) - _SHOWN_OFFENDERS
    return f"{shown} and {rest} more" if rest > 0 else shown
