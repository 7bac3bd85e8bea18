"""HOST: the one builder of question sets: official files, read by the reader of their layout, become a list of examples.

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
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import ANSWER_TYPES, Example, check_examples
from reflex_jax.data.layouts import Layout
from reflex_jax.data.medical_images import read_file
from reflex_jax.data.stored_pictures import store_pictures


def load_question_set(name: str, layout: Layout, root: Path, cache: Path, split: str) -> list[Example]:
    """One split of a set, in the order of the official files; they are prepared if they have not been before.

    Args:
      name: of the set; ids begin with it.
      layout: of the official files.
      root: the directory with the official files.
      cache: where prepared sets lie.
      split: e.g. "train".

    Raises:
      ConfigError: files are missing or damaged, questions or pictures cannot be used, there is no such split, or the cache
        cannot be written.
    """
    files = official_files(name, layout, root)
    try:
        prepared = _prepare(name, layout, root, cache, files)
    except OSError as error:
        raise ConfigError(
            f"data.cache: the questions of {name} cannot be prepared in {str(cache)!r} ({error}). Set data.cache=DIR "
            "to a folder that can be written."
        ) from error
    return _read_prepared(prepared, split)


def official_files(name: str, layout: Layout, root: Path) -> list[Path]:
    """The files below the root that decide what the set holds.

    Raises:
      ConfigError: naming all that is missing, or a folder that cannot be listed.
    """
    heads = [pattern.split("/")[0] for pattern in layout.files]
    missing = [head for head in heads if not any(root.glob(head))]
    if missing:
        raise ConfigError(
            f"data.root: {name} expects its official files in {str(root)!r}; missing: {', '.join(missing)}."
        )
    try:
        for folder in (path for head in heads for path in root.glob(head) if path.is_dir()):
            os.listdir(folder)  # a pattern passes over what may not be listed
    except OSError as error:
        raise ConfigError(
            f"data.root: the official files of {name} cannot be listed: {error.filename} ({error.strerror})."
        ) from error
    return [path for pattern in layout.files for path in root.glob(pattern) if "*" not in pattern or path.is_file()]


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


class QuestionSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  # TFDS has no types
    """A set of any layout as TFDS prepares it: one record per picture, with its questions."""

    code_path = Path(__file__)  # TFDS would look it up through a package that it does not install

    def __init__(self, name: str, layout: Layout, root: Path, **settings: Any):
        """Describes the set; nothing is read yet.

        Args:
          name: of the set.
          layout: of the official files.
          root: the directory with the official files.
          settings: as every TFDS builder takes them.
        """
        self.name, self.VERSION = name, tfds.core.Version(layout.version)
        self._layout, self._root = layout, root
        super().__init__(**settings)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=_features(), homepage=self._layout.homepage)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
        splits = _read_official(self.name, self._layout, self._root)
        return {split: self._generate_examples(examples) for split, examples in splits.items() if examples}

    def _generate_examples(self, examples: Sequence[Example]) -> Iterator[Any]:
        return _records(examples)


def _read_official(name: str, layout: Layout, root: Path) -> dict[str, list[Example]]:
    """Reads, names and checks the questions of all splits, and decodes their pictures."""
    rows = layout.read(root)
    splits = {
        split: [dataclasses.replace(row.question, id=f"{name}-{row.question.id}") for row in rows_of_split]
        for split, rows_of_split in rows.items()
    }
    check_examples([example for examples in splits.values() for example in examples], source=name)
    paths = {row.question.image_id: row.picture for rows_of_split in rows.values() for row in rows_of_split}
    stored = store_pictures(paths)
    return {
        split: [dataclasses.replace(e, image=stored[e.image_id][0], image_size=stored[e.image_id][1]) for e in examples]
        for split, examples in splits.items()
    }


def _prepare(name: str, layout: Layout, root: Path, cache: Path, files: Sequence[Path]) -> Path:
    """Writes the prepared records of the official files, once per content, and returns their directory.

    Processes that prepare at the same time each write a copy aside; the first to finish moves it into place.
    """
    version = f"{name}/{layout.version}"
    place = cache / name / content_hash(root, files)
    if not (place / version).is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=place.parent))
        try:
            tfds.disable_progress_bar()
            # The format is named because the default one needs TensorFlow.
            builder = QuestionSet(name, layout, root, data_dir=str(aside), file_format="array_record")
            settings = tfds.download.DownloadConfig(try_download_gcs=False)
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


def _read_prepared(directory: Path, split: str) -> list[Example]:
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
        options = questions.get("options", [b""] * len(questions["id"]))  # earlier preparations lack the field
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
                options=tuple(json.loads(options[k])) if options[k] else None,
                modality=field["modality"] or None,
                organ=field["organ"] or None,
                paraphrases=(field["paraphrase"],) if field["paraphrase"] else (),
            )
    return [examples[position] for position in sorted(examples)]


def _features() -> tfds.features.FeaturesDict:
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
                    "options": tfds.features.Text(),  # a JSON list, or empty
                    # One text: a ragged list inside a list needs TensorFlow, and no set gives more than one rewording.
                    "paraphrase": tfds.features.Text(),
                }
            ),
        }
    )


def _records(examples: Sequence[Example]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (key, record) of each picture in the layout of `_features`."""
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
                        "options": json.dumps(e.options) if e.options else "",
                        "paraphrase": " ".join(e.paraphrases[:1]),
                    }
                    for position, e in questions
                ],
            },
        )
