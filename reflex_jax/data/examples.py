"""HOST: one question about any number of pictures, as every data source delivers it; and a row that cannot be one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from reflex_jax.data.medical_images import open_image, read_file
from reflex_jax.text.normalise import normalise_answer

ANSWER_TYPES = ("closed", "open")
_SHOWN_OFFENDERS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture that is read when it is needed."""

    id: str  # equal ids inside a source: the same picture
    # the bytes of any file that `medical_images` reads, where they lie, or what gives them or the picture itself
    data: bytes | Path | Callable[[], bytes | Image.Image] = field(repr=False, compare=False)
    size: tuple[int, int] | None = None  # (width, height), where known without decoding
    digest: str | None = None  # sha256 of the bytes as they are kept, where known without reading

    def read(self) -> bytes | Image.Image:
        """The bytes of the picture's file, or the picture where it is drawn on demand.

        Raises:
          ConfigError: the file is missing or cannot be read.
        """
        if isinstance(self.data, Path):
            return read_file(self.data, self.id)
        return self.data() if callable(self.data) else self.data

    def load(self) -> Image.Image:
        """The picture as 8-bit RGB.

        Raises:
          ConfigError: missing, truncated or no picture; the line names it.
        """
        found = self.read()
        return open_image(found, self.id) if isinstance(found, bytes) else found

    def measure(self) -> tuple[int, int]:
        """(width, height), decoded only where the source did not say."""
        return self.size or self.load().size


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A question, its answers and the pictures it is asked about.

    Options of a multiple-choice question stand in the question's own words; `options` repeats them for the rewards.
    """

    id: str  # unique inside a source, kept in samples and evidence
    question: str
    answer: str  # the one that statements are made of; of a multiple-choice question the letter or the text
    answer_type: str  # closed: equality of keys | open: overlap of words
    images: tuple[Picture, ...] = ()  # in the order of their marks in the question; none: text alone
    accepted: tuple[str, ...] = ()  # other answers that are right as well
    options: tuple[str, ...] | None = None  # texts behind the letters A, B, ...
    modality: str | None = None
    organ: str | None = None
    category: str | None = None  # what the set itself groups its questions by: subject, task, kind of content
    language: str = "en"  # of question and answer, ISO 639-1
    paraphrases: tuple[str, ...] = ()  # the same question in other words
    reasoning: str | None = None  # how an expert comes to the answer
    source: str = ""  # label of the data source, set when it is loaded
    target: str | None = None  # completion to imitate in the supervised phase

    @property
    def image_id(self) -> str:
        """Id of the first picture, which is the one that the judge looks at; empty: there is none."""
        return self.images[0].id if self.images else ""

    @property
    def is_yes_no(self) -> bool:
        """Whether the answer is yes or no; official sets also call questions closed that have another one."""
        return normalise_answer(self.answer) in {"yes", "no"}

    def load_images(self) -> list[Image.Image]:
        """The pictures as 8-bit RGB, in order."""
        return [picture.load() for picture in self.images]


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedRow:
    """A row of official files that is no question that can be asked or scored."""

    id: str  # as far as the row has one; else its place, e.g. "row 3"
    reason: str  # in a few words, the same for all rows of a kind, e.g. "no answer"
    detail: str = ""  # of this row, e.g. the name of its picture
    is_official: bool = False  # the published files are known to hold such rows: counted, but nothing stops


class RowError(ValueError):
    """Raised while a row is read: it is refused, and reading goes on with the next; "reason" or "reason: detail"."""


def list_offenders(names: Sequence[str], *, separator: str = ", ") -> str:
    """Names joined for an error line; a long list ends in a count."""
    shown = separator.join(str(name) for name in names[:_SHOWN_OFFENDERS])
    rest = len(names) - _SHOWN_OFFENDERS
    return f"{shown} and {rest} more" if rest > 0 else shown
