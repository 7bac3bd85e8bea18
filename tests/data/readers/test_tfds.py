"""A set that somebody prepared with TensorFlow Datasets, written and read without TensorFlow."""

import contextlib
import io
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import RefusedRow
from reflex_jax.data.readers.tfds import LAYOUT


def prepare(root, features, rows, split="train"):
    """Returns the folder of the version that a builder of TFDS writes."""

    class Toy(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        name = "toy"

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: iter(enumerate(rows))}

        def _generate_examples(self):
            raise AssertionError

    tfds.disable_progress_bar()
    builder = Toy(data_dir=str(root), file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return root / "toy" / "1.0.0"


@pytest.fixture
def picture():
    return np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3)


def png(pixels):
    """TFDS encodes pixels with TensorFlow alone, and keeps bytes as they are."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def test_features_are_read_by_the_names_of_own_data(tmp_path, picture):
    features = {
        "question": tfds.features.Text(), "answer": tfds.features.Text(), "image": tfds.features.Image(shape=(None, None, 3)),
        "answer_type": tfds.features.ClassLabel(names=["closed", "open"]),
        "options": tfds.features.Sequence(tfds.features.Text()), "modality": tfds.features.Text(),
    }  # fmt: skip
    rows = [
        {"question": "Größe?", "answer": "klein", "answer_type": "open", "options": [], "modality": "CT"},
        {"question": "Which?", "answer": "B", "answer_type": "closed", "options": ["a b", "c"], "modality": ""},
    ]  # fmt: skip
    root = prepare(tmp_path, features, [row | {"image": png(picture)} for row in rows], split="dev")
    assert LAYOUT.splits(root) == ["dev"] and LAYOUT.splits(tmp_path) == []
    found = {e.question: e for e in LAYOUT.read(root, "dev")}
    first, second = found["Größe?"], found["Which?"]
    assert (first.answer, first.answer_type, first.options, first.modality) == ("klein", "open", None, "CT")
    assert (second.answer, second.answer_type, second.options, second.modality) == ("B", "closed", ("a b", "c"), None)
    assert {e.id for e in found.values()} == {"dev-0", "dev-1"} and first.images == second.images
    np.testing.assert_array_equal(np.asarray(first.images[0].load()), picture)
    assert isinstance(first.images[0].load(), Image.Image) and "tensorflow" not in sys.modules


def test_unknown_features_missing_ones_and_damage_are_named(tmp_path):
    root = prepare(
        tmp_path,
        {"question": tfds.features.Text(), "caption": tfds.features.Text()},
        [{"question": "?", "caption": ""}],
    )
    with pytest.raises(ConfigError, match="unknown: caption, missing: answer"):
        list(LAYOUT.read(root, "train"))
    (root / "dataset_info.json").write_text("{")
    with pytest.raises(ConfigError, match="dataset_info.json: expected the description"):
        LAYOUT.splits(root)


def test_a_row_without_text_where_text_is_meant_is_refused_alone(tmp_path):
    features = {"question": tfds.features.Text(), "answer": tfds.features.Tensor(shape=(2,), dtype=np.int64)}
    rows = list(LAYOUT.read(prepare(tmp_path, features, [{"question": "?", "answer": [1, 2]}]), "train"))
    assert [(type(row), row.id, row.reason) for row in rows] == [(RefusedRow, "train-0", "answer")]
