"""HOST: VQA-Med 2019 (ImageCLEF) from its official files.

Ben Abacha, Hasan, Datla, Liu, Demner-Fushman, Müller: "VQA-Med: Overview of the Medical Visual Question Answering Task at
ImageCLEF 2019", CLEF 2019. Official splits: "train", "validation" and "test", by picture. Lines `image|question|answer`; the
test's reference answers name the category too, that of the other questions is the file in which they are repeated. In the
reference answers `#` separates what is right, all of it accepted, and brackets hold what may be left out: accepted are the
answer with it, which is the one that statements are made of, and without it. Brackets of the other categories belong to the
name of a class ("ct w/contrast (iv)") and stay, as do those of train and validation, where no such rule is given.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example, Picture, RowError
from reflex_jax.data.layouts import Layout, Rows, answer_type_by_rule, present, read_rows, text_of
from reflex_jax.data.medical_images import read_file
from reflex_jax.data.picture_files import PictureFiles, path_of
from reflex_jax.text.normalise import has_visible_character

_FILES = {
    "train": "ImageClef-2019-VQA-Med-Training/All_QA_Pairs_train.txt",
    "validation": "ImageClef-2019-VQA-Med-Validation/All_QA_Pairs_val.txt",
    "test": "VQAMed2019Test/VQAMed2019_Test_Questions_w_Ref_Answers.txt",
}
_PICTURES = {"train": ("Train_images",), "validation": ("Val_images",), "test": ("VQAMed2019_Test_Images", "Images")}
_BY_CATEGORY = "QAPairsByCategory"  # C1_Modality_train.txt, ...
_OPTIONAL = re.compile(r"\(([^()]*)\)")
_MOST_OPTIONAL = 4  # parts each of which may be left out by itself; of more, all or none


def _read(root: Path, split: str) -> Rows:
    path = root / _FILES[split]
    pictures = PictureFiles(root, [*sorted(root.glob("*.zip")), *sorted(path.parent.glob("*.zip"))])
    folders = [f"{start}{name}/" for name in _PICTURES[split] for start in (f"{path.parent.name}/", "")]
    if split == "test":
        make = partial(_make_test_example, pictures, folders)
    else:
        categories = {
            _key(fields): file.stem.split("_")[1].lower()
            for file in sorted((path.parent / _BY_CATEGORY).glob("C[0-9]_*_*.txt"))
            for fields in _read_lines(file)
        }
        make = partial(_make_example, pictures, folders, categories)
    return read_rows(((f"{split}-{number}", fields) for number, fields in enumerate(_read_lines(path))), make)


def _read_lines(path: Path) -> Iterator[list[str]]:
    """The fields of each line."""
    try:
        lines = read_file(path).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text ({error}). Download it again.") from error
    rows = [line.strip().split("|") for line in lines if line.strip()]
    if rows and len(rows[-1]) < 3:
        raise ConfigError(
            f"{path}: expected lines image|question|answer; the last is {'|'.join(rows[-1])[:80]!r}. Download it again."
        )
    yield from rows


def _key(fields: list[str]) -> tuple[str, ...]:
    return tuple(" ".join(field.split()) for field in fields)


def _make_example(
    pictures: PictureFiles, folders: Sequence[str], categories: dict[tuple[str, ...], str], name: str, fields: list[str]
) -> Example:
    if len(fields) != 3:
        raise RowError(f"expected image|question|answer: {len(fields)} fields")
    answer = text_of(fields[2], "answer")
    return Example(
        id=name,
        question=text_of(fields[1], "question"),
        answer=answer,
        answer_type=answer_type_by_rule(answer),
        images=(_find_picture(pictures, folders, fields[0]),),
        category=categories.get(_key(fields)),
    )


def _make_test_example(pictures: PictureFiles, folders: Sequence[str], name: str, fields: list[str]) -> Example:
    if len(fields) != 4:
        raise RowError(f"expected image|category|question|answer: {len(fields)} fields")
    category = text_of(fields[1], "category").lower()
    answers = read_reference(fields[3], has_optional=category == "abnormality")
    return Example(
        id=name,
        question=text_of(fields[2], "question"),
        answer=answers[0],
        accepted=answers[1:],
        answer_type=answer_type_by_rule(answers[0]),
        images=(_find_picture(pictures, folders, fields[0]),),
        category=category or None,
    )


def _find_picture(pictures: PictureFiles, folders: Sequence[str], image: str) -> Picture:
    name = path_of(image)
    return pictures.find_first(f"{folder}{name}.jpg" for folder in folders)


def read_reference(reference: str, *, has_optional: bool) -> tuple[str, ...]:
    """All answers that a reference of the test accepts, the first alternative with all its parts first.

    Args:
      reference: alternatives between "#".
      has_optional: whether brackets hold what may be left out.

    Raises:
      RowError: nothing is accepted.
    """
    found: dict[str, None] = {}
    for alternative in reference.split("#"):
        text = text_of(alternative, "answer")
        found |= dict.fromkeys(_with_and_without(text) if has_optional else [text])
    answers = tuple(answer for answer in found if has_visible_character(answer))
    if not answers:
        raise RowError("no answer")
    return answers


def _with_and_without(text: str) -> list[str]:
    """A text with and without what stands in its brackets; brackets inside brackets, or but half of a pair, stay."""
    parts = _OPTIONAL.split(text)  # outside, inside, outside, ...
    if any(bracket in outside for outside in parts[::2] for bracket in "()"):
        return [text]
    count = len(parts) // 2
    choices = (
        itertools.product((True, False), repeat=count)
        if count <= _MOST_OPTIONAL
        else [(True,) * count, (False,) * count]
    )
    kept = ([part for part, keep in zip(parts, _alternate(choice), strict=True) if keep] for choice in choices)
    return [re.sub(r" (?=[,.;])", "", " ".join("".join(words).split())) for words in kept]


def _alternate(choice: tuple[bool, ...]) -> list[bool]:
    """Whether each part is kept: those outside brackets always."""
    return [True, *(keep for inside in choice for keep in (inside, True))]


LAYOUT = Layout(
    splits=partial(present, files=_FILES),
    read=_read,
    files=(
        *_FILES.values(),
        *(f"{Path(name).parent}/*/*" for name in _FILES.values()),
        *(f"{folder}/*" for folders in _PICTURES.values() for folder in folders),
        "*.zip",
        "*/*.zip",
    ),
    expects=", ".join(_FILES.values()),
    version="2.0.0",
    homepage="https://zenodo.org/records/10499039",
)
