"""HOST: PMC-VQA from its official files, versions 1 and 2.

Zhang, Wu, Zhao, Lin, Zhang, Wang, Xie: "PMC-VQA: Visual Instruction Tuning for Medical Visual Question Answering", 2023.
Official splits: "train", "test" and its checked part "test_clean" of version 1 (compound figures), "train_2" and "test_2" of
version 2 (single panels); numbers are given for either test, so say which. Options often begin with their letter between
stray blanks. The answer is the text and the letter in version 1, the letter alone in version 2, the text alone (as `Anwser`)
in old revisions; letter and text that disagree are refused. Captions are not read.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example, RowError
from reflex_jax.data.layouts import Layout, Rows, present, read_rows, text_of, with_options
from reflex_jax.data.options import gold_option, option_texts
from reflex_jax.data.picture_files import PictureFiles, path_of

_FILES = {split: f"{split}.csv" for split in ("train", "test", "test_clean", "train_2", "test_2")}
_PICTURES = {  # version -> its archive, and the folders that it may have been unpacked as
    "1": ("images.zip", ("images/", "images/images/")),
    "2": ("images_2.zip", ("figures/", "images_2/figures/", "images_2/")),
}
_CHOICES = ("Choice A", "Choice B", "Choice C", "Choice D")
_REQUIRED = ("Figure_path", "Question", "Answer", *_CHOICES)


def _read(root: Path, split: str) -> Rows:
    archive, folders = _PICTURES["2" if split.endswith("_2") else "1"]
    pictures = PictureFiles(root, [root / archive])
    return read_rows(_read_csv(root / _FILES[split], split), partial(_make_example, pictures, folders))


def _read_csv(path: Path, split: str) -> Iterator[tuple[str, dict[str, str] | None]]:
    """The id and the cells of each row by the column's name; None: another number of cells than columns."""
    is_whole = True
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = [name.strip().replace("Anwser", "Answer") for name in next(lines, [])]
            if missing := [name for name in _REQUIRED if name not in header]:
                raise ConfigError(
                    f"{path}: expected a CSV with the columns {', '.join(_REQUIRED)}; missing: {missing}."
                )
            for number, cells in enumerate(line for line in lines if line):
                is_whole = len(cells) == len(header)
                row = dict(zip(header, cells, strict=True)) if is_whole else None
                yield f"{split}-{(row and text_of(row.get('index'), 'index')) or number}", row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read as CSV ({error}). Download it again.") from error
    if not is_whole:
        raise ConfigError(f"{path}: the last row has not as many cells as there are columns. Download it again.")


def _make_example(pictures: PictureFiles, folders: tuple[str, ...], name: str, row: dict[str, str] | None) -> Example:
    if row is None:
        raise RowError("another number of cells than columns")
    options = option_texts([row[choice] for choice in _CHOICES])
    letter, answer = text_of(row.get("Answer_label"), "Answer_label"), text_of(row["Answer"], "Answer")
    if "Answer_label" not in row and len(answer) == 1:
        letter, answer = answer, ""
    figure = path_of(row["Figure_path"])
    return Example(
        id=name,
        question=with_options(text_of(row["Question"], "Question"), options),
        answer=gold_option(options, letter=letter, text=answer),
        answer_type="closed",
        images=(pictures.find_first(folder + figure for folder in folders),),
        options=options,
    )


LAYOUT = Layout(
    splits=partial(present, files=_FILES),
    read=_read,
    files=(*_FILES.values(), "images.zip", "images_2.zip", "images/**/*", "figures/**/*", "images_2/**/*"),
    expects="train.csv, test.csv or test_clean.csv beside images.zip, or train_2.csv or test_2.csv beside images_2.zip",
    version="2.0.0",
    homepage="https://huggingface.co/datasets/RadGenome/PMC-VQA",
)
