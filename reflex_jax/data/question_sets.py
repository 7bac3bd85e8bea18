"""HOST: what the TFDS builders of question sets share: features, preparation under a hash, reading back.

A prepared record is one picture with all its questions, so a picture asked ten questions is stored and decoded
once. Pictures are 8-bit RGB PNG or JPEG without metadata. TFDS reuses what it prepared before even when the files
have changed, so every preparation lies under a hash of the official files' content: other files, another place.
TensorFlow is not needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import ANSWER_TYPES, Example, list_offenders
from reflex_jax.data.medical_images import open_image, read_file
from reflex_jax.data.picture_faults import PictureWarning

# What a plain JPEG or PNG header says; anything else may identify a patient, so the picture is written anew.
_HARMLESS_METADATA = {
    "jfif",
    "jfif_version",
    "jfif_unit",
    "jfif_density",
    "dpi",
    "progressive",
    "progression",
}

_PLAIN_MAGIC = (b"\x89PNG", b"\xff\xd8\xff")

SplitExamples = Mapping[str, Sequence[Example]]


def question_features() -> tfds.features.FeaturesDict:
    """One picture and its questions; `position` is the question's place in the official file."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), dtype=np.uint8),
            "image_id": tfds.features.Text(),
            "image_size": tfds.features.Tensor(shape=(2,), dtype=np.int32),  # width, height
            "questions": tfds.features.Sequence(
                {
                    "id": tfds.features.Text(),
                    "position": np.int64,
                    "question": tfds.features.Text(),
                    "answer": tfds.features.Text(),
                    "answer_type": tfds.features.ClassLabel(names=ANSWER_TYPES),
                    "modality": tfds.features.Text(),
                    "organ": tfds.features.Text(),
                    # One text: a ragged list inside a list needs TensorFlow, and no set gives more than one rewording.
                    "paraphrase": tfds.features.Text(),
                }
            ),
        }
    )


def question_records(examples: Sequence[Example]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (key, record) of each picture for a TFDS builder, in `question_features` layout."""
    by_image: dict[str, list[tuple[int, Example]]] = {}
    for position, example in enumerate(examples):
        by_image.setdefault(example.image_id, []).append((position, example))
    for image_id, questions in by_image.items():
        first = questions[0][1]
        yield (
            image_id,
            {
                "image": first.image,
                "image_id": image_id,
                "image_size": np.asarray(first.image_size, np.int32),
                "questions": [
                    {
                        "id": e.id,
                        "position": position,
                        "question": e.question,
                        "answer": e.answer,
                        "answer_type": e.answer_type,
                        "modality": e.modality or "",
                        "organ": e.organ or "",
                        "paraphrase": " ".join(e.paraphrases[:1]),
                    }
                    for position, e in questions
                ],
            },
        )


def image_bytes(path: Path) -> tuple[bytes, tuple[int, int]]:
    """An image file as 8-bit RGB PNG or JPEG bytes without metadata, and its (width, height).

    A file that is that already keeps its bytes; any other is decoded and stored without loss.
    """
    data = read_file(path, path.name)
    picture = open_image(data, path.name)
    if data.startswith(_PLAIN_MAGIC):
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as stored:
            if stored.format == "PNG":
                stored.load()  # text may follow the pixels
            is_plain = (
                stored.format in ("JPEG", "PNG") and stored.mode == "RGB" and set(stored.info) <= _HARMLESS_METADATA
            )
        if is_plain:
            return data, picture.size
    encoded = io.BytesIO()
    picture.save(encoded, format="PNG")
    return encoded.getvalue(), picture.size


def normalise_images(splits: SplitExamples, paths: Mapping[str, Path]) -> dict[str, list[Example]]:
    """Decodes every picture once and puts its bytes into the examples.

    What pictures say and cannot be applied is printed, one line for each kind with its number and names.

    Args:
      splits: examples without pictures.
      paths: the file of each image id.

    Raises:
      ConfigError: files that are missing, truncated or no pictures, all of them by name.
    """
    used = {example.image_id: None for examples in splits.values() for example in examples}
    absent = [str(paths[i]) for i in used if _is_absent(paths[i])]
    if absent:
        raise ConfigError(f"{len(absent)} image files are missing: {list_offenders(absent)}.")
    found, refusals = {}, []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")  # the decoders' own, which may quote what identifies a patient
        warnings.simplefilter("always", PictureWarning)
        for image_id in used:
            try:
                found[image_id] = image_bytes(paths[image_id])
            except ConfigError as error:
                refusals.append(str(error))
    for line in count_remarks([w.message for w in caught if isinstance(w.message, PictureWarning)], pictures=len(used)):
        print(line, file=sys.stderr, flush=True)
    if refusals:
        raise ConfigError(f"{len(refusals)} pictures cannot be used: {list_offenders(refusals, separator=' | ')}")
    return {
        split: [dataclasses.replace(e, image=found[e.image_id][0], image_size=found[e.image_id][1]) for e in examples]
        for split, examples in splits.items()
    }


def _is_absent(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # it may be there; reading it will say what hinders
        return False
    return False


def count_remarks(remarks: Sequence[PictureWarning], *, pictures: int) -> list[str]:
    """A line for each kind of remark: of how many pictures, and which."""
    names: dict[str, list[str]] = {}
    for remark in remarks:
        names.setdefault(remark.remark, []).append(remark.name)
    return [
        f"data: {len(which)} of {pictures} pictures: {remark} ({list_offenders(which)})."
        for remark, which in names.items()
    ]


def clean_text(value: Any) -> str:
    """A field of an official file as text: stray spaces removed, "NULL" and nothing at all empty."""
    text = "" if value is None else " ".join(str(value).split())
    return "" if text == "NULL" else text


def read_rows(path: Path, required: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of an official JSON file.

    Raises:
      ConfigError: not a JSON list of objects, or rows lack required fields.
    """
    try:
        rows = json.loads(read_file(path).decode("utf-8-sig"))
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected a JSON list of questions; it cannot be read ({error}).") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{path}: expected a JSON list of questions; got another layout.")
    lacking = [
        f"row {i} ({', '.join(sorted(missing))})" for i, row in enumerate(rows) if (missing := set(required) - set(row))
    ]
    if lacking:
        raise ConfigError(f"{path}: rows without a required field: {list_offenders(lacking)}.")
    return rows


def require_files(root: Path, names: Sequence[str], *, source: str) -> None:
    """Refuses a directory that lacks one of these files or folders.

    Raises:
      ConfigError: naming all that is missing.
    """
    missing = [name for name in names if not (root / name).exists()]
    if missing:
        raise ConfigError(
            f"data.root: {source} expects its official files in {str(root)!r}; missing: {', '.join(missing)}."
        )


def content_hash(root: Path, files: Sequence[Path]) -> str:
    """Sixteen hexadecimal digits of the files' names and contents, wherever the root itself lies."""
    digest = hashlib.sha256()
    for path in sorted(files):
        name = path.relative_to(root).as_posix().encode()
        data = read_file(path)
        digest.update(b"%d %d " % (len(name), len(data)))
        digest.update(name)
        digest.update(data)
    return digest.hexdigest()[:16]


def prepare(
    builder_class: type[tfds.core.GeneratorBasedBuilder], root: Path, cache: Path, files: Sequence[Path]
) -> Path:
    """Writes the prepared records of the official files, once per content, and returns their directory.

    Processes that prepare at the same time each write a copy aside; the first to finish moves it into place.
    """
    version = f"{builder_class.name}/{builder_class.VERSION}"
    place = cache / builder_class.name / content_hash(root, files)
    if not (place / version).is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=place.parent))
        try:
            tfds.disable_progress_bar()
            # The format is named because the default one needs TensorFlow.
            builder = builder_class(data_dir=str(aside), file_format="array_record")
            settings = tfds.download.DownloadConfig(manual_dir=str(root), try_download_gcs=False)
            with contextlib.redirect_stdout(io.StringIO()):  # it would print "Downloading"; nothing is
                builder.download_and_prepare(download_config=settings)
            (place / version).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(aside / version, place / version)
            except OSError:
                if not (place / version).is_dir():
                    raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return place / version


def read_prepared(directory: Path, split: str) -> list[Example]:
    """Reads one split back, in the order of the official file; pictures stay encoded.

    Raises:
      ConfigError: there is no such split.
    """
    builder = tfds.builder_from_directory(str(directory))
    if split not in builder.info.splits:
        raise ConfigError(f"data.split: {builder.name} has {', '.join(sorted(builder.info.splits))}; got {split!r}.")
    examples: dict[int, Example] = {}
    for record in builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()}):
        width, height = map(int, record["image_size"])
        questions = record["questions"]
        for k, position in enumerate(questions["position"]):
            field = {
                name: questions[name][k].decode()
                for name in ("id", "question", "answer", "modality", "organ", "paraphrase")
            }
            examples[int(position)] = Example(
                id=field["id"],
                question=field["question"],
                answer=field["answer"],
                answer_type=ANSWER_TYPES[int(questions["answer_type"][k])],
                image_id=record["image_id"].decode(),
                image=record["image"],
                image_size=(width, height),
                modality=field["modality"] or None,
                organ=field["organ"] or None,
                paraphrases=(field["paraphrase"],) if field["paraphrase"] else (),
            )
    return [examples[position] for position in sorted(examples)]
