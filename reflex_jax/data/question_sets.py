"""HOST: the one builder of question sets: official files, read by the reader of their layout, become questions to ask.

Reading, checking and decoding is done once for the files as they are and kept: the questions as JSON lines, the pictures
in one array_record file from which each is read when it is needed, the refused rows with their reasons. All of it goes
through memory row by row. Files are told apart by name, size and time of change, so a replaced one is seen without reading
gigabytes at every start. TensorFlow Datasets is not used here: it has no builder for any of these sets, and it would hold
up to a gigabyte of pictures in memory while it writes; sets that it has prepared are read by `readers/tfds.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example, Picture, RefusedRow
from reflex_jax.data.layouts import Layout
from reflex_jax.data.picture_faults import PictureWarning
from reflex_jax.data.row_checks import refuse_unusable
from reflex_jax.data.stored_pictures import PictureReader, PictureWriter, count_remarks

_QUESTIONS, _REFUSED, _PICTURES, _FACTS = "questions.jsonl", "refused.jsonl", "pictures.array_record", "facts.json"
_FORMAT = "4"  # of the prepared files
_PARTIAL, _LOCK = ".partial-", "owner.lock"
_TEXT_FIELDS = tuple("id question answer answer_type modality organ category language reasoning target".split())
_LIST_FIELDS = ("accepted", "options", "paraphrases")


@dataclasses.dataclass(frozen=True)
class QuestionSet:
    """One split as prepared."""

    examples: list[Example]  # in the official order; ids as the set has them
    refused: list[RefusedRow]


def load_question_set(name: str, layout: Layout, root: Path, cache: Path, split: str) -> QuestionSet:
    """One split of a set; it is prepared if it has not been before, and anew where the prepared files are damaged.

    Args:
      name: of the set.
      layout: of the official files.
      root: the directory with the official files.
      cache: where prepared sets lie.
      split: e.g. "train".

    Raises:
      ConfigError: files are missing or damaged, there is no such split, no row of it can be used, or the cache cannot be
        written.
    """
    splits = find_splits(name, layout, root)
    if split not in splits:
        raise ConfigError(f"data.split: {name} in {str(root)!r} has {', '.join(splits)}; got {split!r}.")
    place = cache / name / f"{split}-{_key(layout, root)}"
    try:
        if (found := _read(place)) is not None:
            return found
        _prepare(partial(layout.read, root, split), place)
    except OSError as error:
        raise ConfigError(
            f"data.cache: the questions of {name} cannot be prepared in {str(cache)!r} ({error}). Set data.cache=DIR "
            "to a folder that can be written."
        ) from error
    if (found := _read(place)) is None:
        raise ConfigError(
            f"data.cache: what was prepared in {str(place)!r} cannot be read back. Set data.cache=DIR to another disk."
        )
    return found


def find_splits(name: str, layout: Layout, root: Path) -> list[str]:
    """The splits whose official files are there.

    Raises:
      ConfigError: none, or a folder that cannot be listed.
    """
    if not root.is_dir():
        raise ConfigError(f"data.root: {name} expects a folder with {layout.expects}; {str(root)!r} is none.")
    try:
        heads = {pattern.split("/")[0] for pattern in layout.files}
        for folder in (root, *(path for head in heads for path in root.glob(head) if path.is_dir())):
            os.listdir(folder)  # a pattern passes over what may not be listed
        splits = list(layout.splits(root))
    except OSError as error:
        raise ConfigError(
            f"data.root: the official files of {name} cannot be listed: {error.filename} ({error.strerror})."
        ) from error
    if not splits:
        raise ConfigError(f"data.root: {name} expects {layout.expects} in {str(root)!r}; nothing of it is there.")
    return splits


def _key(layout: Layout, root: Path) -> str:
    """Sixteen hexadecimal digits of what decides the prepared questions: the reader, and the files as they are."""
    digest = hashlib.sha256(f"{_FORMAT} {layout.version} {root}\n".encode("utf-8", "surrogateescape"))
    for path in sorted({path for pattern in layout.files for path in root.glob(pattern)}):
        try:
            found = path.stat()
        except OSError:  # a link to nothing: the reader says what it misses
            continue
        name = path.relative_to(root).as_posix()
        digest.update(f"{name} {found.st_size} {found.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _prepare(read: Any, place: Path) -> None:
    """Writes the prepared files aside and moves them into place; of several processes the first to finish wins."""
    place.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(place.parent)
    aside = Path(tempfile.mkdtemp(prefix=f"{place.name}{_PARTIAL}", dir=place.parent))
    with (aside / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            _write(refuse_unusable(read()), aside)
            with contextlib.suppress(FileNotFoundError):  # a process beside this one may see the same damage
                if place.exists() and _read(place) is None:
                    shutil.rmtree(place)
            try:
                os.rename(aside, place)
            except OSError:
                if not place.is_dir():
                    raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Removes what preparations left that were killed: nobody holds their lock."""
    for path in folder.glob(f"*{_PARTIAL}*"):
        try:
            with (path / _LOCK).open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        except OSError:  # it is being made
            continue


def _write(rows: Iterator[Example | RefusedRow], aside: Path) -> None:
    pictures = PictureWriter(aside / _PICTURES)
    counts = {"questions": 0, "refused": 0}
    with (
        (aside / _QUESTIONS).open("w", encoding="utf-8") as questions,
        (aside / _REFUSED).open("w", encoding="utf-8") as refused,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("ignore")  # the decoders' own, which may quote what identifies a patient
        warnings.simplefilter("always", PictureWarning)
        for row in rows:
            kept = _keep_pictures(row, pictures) if isinstance(row, Example) else row
            is_refused = isinstance(kept, RefusedRow)
            fields = dataclasses.asdict(kept) if isinstance(kept, RefusedRow) else kept
            text = json.dumps(fields, ensure_ascii=True)
            (refused if is_refused else questions).write(text + "\n")
            counts["refused" if is_refused else "questions"] += 1
    remarks = [w.message for w in caught if isinstance(w.message, PictureWarning)]
    for line in count_remarks(remarks, pictures=pictures.close()):
        print(line, file=sys.stderr, flush=True)
    sizes = {name: (aside / name).stat().st_size for name in (_QUESTIONS, _REFUSED, _PICTURES)}
    with (aside / _QUESTIONS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    (aside / _FACTS).write_text(json.dumps({"sizes": sizes, "questions_sha256": digest, **counts}))


def _keep_pictures(row: Example, pictures: PictureWriter) -> RefusedRow | dict[str, Any]:
    try:
        images = [(picture.id, *pictures.add(picture)) for picture in row.images]
    except ConfigError as error:
        return RefusedRow(id=row.id, reason="a picture that cannot be used", detail=str(error))
    fields = {name: getattr(row, name) for name in (*_TEXT_FIELDS, *_LIST_FIELDS)}
    return {"images": images, **{name: value for name, value in fields.items() if value}}


def _read(place: Path) -> QuestionSet | None:
    """The prepared split; None: it is not there, or was cut or changed. Pictures are read when they are needed."""
    try:
        facts = json.loads((place / _FACTS).read_text())
        if any((place / name).stat().st_size != size for name, size in facts["sizes"].items()):
            return None
        with (place / _QUESTIONS).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != facts["questions_sha256"]:
                return None
        reader = PictureReader(place / _PICTURES)
        examples = [_example(row, reader) for row in _read_lines(place / _QUESTIONS)]
        refused = [RefusedRow(**row) for row in _read_lines(place / _REFUSED)]
        is_whole = (len(examples), len(refused)) == (facts["questions"], facts["refused"])
        if is_whole and facts["questions"] and any(example.images for example in examples[:1]):
            examples[0].images[0].read()
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None  # a ConfigError of damaged pictures is a ValueError
    return QuestionSet(examples, refused) if is_whole else None


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _example(row: dict[str, Any], reader: PictureReader) -> Example:
    images = tuple(
        Picture(
            id=sys.intern(name), data=partial(reader.read, number), size=(size[0], size[1]), digest=sys.intern(digest)
        )
        for name, number, size, digest in row.pop("images")
    )
    lists: dict[str, Any] = {name: tuple(row[name]) for name in _LIST_FIELDS if name in row}
    shared: dict[str, Any] = {name: sys.intern(row[name]) for name in ("modality", "organ", "category") if name in row}
    return Example(**{**row, **lists, **shared, "images": images})
