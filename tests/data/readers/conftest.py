"""The toy copies of official layouts, and what tests of readers write."""

import json

import pytest
from PIL import Image


@pytest.fixture
def formats(data_root):
    """The folder of toy copies; a test that needs it is skipped by name where it is absent."""
    if not (data_root / "formats").is_dir():
        pytest.skip(f"toy copies of official layouts not found at {data_root / 'formats'}")
    return data_root / "formats"


@pytest.fixture
def save_picture():
    """Saves a picture of one grey under a path, with its folders."""

    def save(path, grey=0):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 3), grey).save(path, "PNG")

    return save


@pytest.fixture
def save_json():
    """Writes rows as a JSON list, or as lines of JSON where the file is called so."""

    def save(path, rows):
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(lines if path.suffix == ".jsonl" else json.dumps(rows), encoding="utf-8")

    return save
