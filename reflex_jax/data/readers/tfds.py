"""HOST: questions that somebody prepared with TensorFlow Datasets; TensorFlow itself is not needed.

TFDS has no official builder of a medical visual question answering set; this is the door for builders of one's own. `root`
is the folder of one version (".../my_vqa/1.0.0", with features.json), written in the array_record format. Its features
carry the names of the fields of own data (docs/own_data.md): `question` and `answer`, an `image` or a sequence of `images`,
and what else there is of them; a ClassLabel is read by its name.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example, Picture, RowError
from reflex_jax.data.layouts import Layout, Rows, answer_type_by_rule, read_rows, text_of

_TEXTS = ("modality", "organ", "category", "reasoning", "target")
_LISTS = ("accepted", "options", "paraphrases")
_KNOWN = {"id", "question", "answer", "answer_type", "language", "image", "images", *_TEXTS, *_LISTS}


def _splits(root: Path) -> list[str]:
    path = root / "dataset_info.json"
    if not path.is_file() or not (root / "features.json").is_file():
        return []
    try:
        return [split["name"] for split in json.loads(path.read_text(encoding="utf-8"))["splits"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: expected the description of a TFDS data set; it cannot be read ({error})."
        ) from error


def _read(root: Path, split: str) -> Rows:
    import tensorflow_datasets as tfds  # its import takes a second

    try:
        builder = tfds.builder_from_directory(str(root))
        features = builder.info.features
        unknown, missing = sorted(set(features) - _KNOWN), sorted({"question", "answer"} - set(features))
        if unknown or missing:
            raise ConfigError(
                f"{root}: expected features named as the fields of docs/own_data.md; unknown: {', '.join(unknown) or 'none'}, "
                f"missing: {', '.join(missing) or 'none'}."
            )
        pictures = [name for name in ("image", "images") if name in features]
        rows = builder.as_data_source(split, decoders=dict.fromkeys(pictures, tfds.decode.SkipDecoding()))
    except (OSError, ValueError, NotImplementedError) as error:
        if isinstance(error, ConfigError):
            raise
        line = str(error).strip().splitlines()[0][:200]
        raise ConfigError(
            f"{root}: TFDS cannot read it ({line}). Prepare it with file_format='array_record'."
        ) from error
    names = {name: feature.names for name, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)}

    def make(name: str, row: dict[str, Any]) -> Example:
        return _example(name, {key: _plain(value, names.get(key)) for key, value in row.items()})

    yield from read_rows(((f"{split}-{number}", rows[number]) for number in range(len(rows))), make)


def _plain(value: Any, labels: list[str] | None) -> Any:
    """A feature as JSON would hold it; pictures stay bytes."""
    if labels is not None:
        return labels[int(value)]
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_plain(item, None) for item in value] if isinstance(value, (list, tuple)) else value


def _example(name: str, row: dict[str, Any]) -> Example:
    def text(key: str) -> str:
        value = row.get(key)
        return text_of(value.decode("utf-8") if isinstance(value, bytes) else value, key)

    def texts(key: str) -> tuple[str, ...]:
        return tuple(text_of(v.decode("utf-8") if isinstance(v, bytes) else v, key) for v in row.get(key) or [])

    images = [*([row["image"]] if row.get("image") else []), *(row.get("images") or [])]
    if not all(isinstance(data, bytes) for data in images):
        raise RowError("no encoded picture")
    answer, options = text("answer"), texts("options") or None
    return Example(
        id=text("id") or name,
        question=text("question"),
        answer=answer,
        answer_type=text("answer_type").lower() or answer_type_by_rule(answer, options),
        images=tuple(Picture(id=hashlib.sha256(data).hexdigest()[:16], data=data) for data in images),
        options=options,
        accepted=texts("accepted"),
        paraphrases=texts("paraphrases"),
        language=text("language") or "en",
        modality=text("modality") or None,
        organ=text("organ") or None,
        category=text("category") or None,
        reasoning=text("reasoning") or None,
        target=text("target") or None,
    )


LAYOUT = Layout(
    splits=_splits,
    read=_read,
    files=("*",),
    expects="dataset_info.json and features.json of one version that TFDS prepared",
    version="2.0.0",
    homepage="https://www.tensorflow.org/datasets",
)
