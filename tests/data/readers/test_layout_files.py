"""Whatever rows come from is among the files by which a changed set is told from the one that was prepared."""

import pytest

from reflex_jax.data.sources import find_layout


@pytest.mark.parametrize(
    "name, folder",
    [
        ("vqa_rad", "vqa-rad-hf"), ("slake", "slake-hf"), ("path_vqa", "path-vqa-hf"), ("path_vqa", "pvqa-original"),
        ("quilt_vqa", "quilt-vqa"), ("mmmu", "mmmu"), ("medix", "medix-rl-data"),
    ],
)  # fmt: skip
def test_every_file_of_a_layout_is_watched(formats, name, folder):
    root, layout = formats / folder, find_layout(name)
    watched = {path for pattern in layout.files for path in root.glob(pattern)}
    kinds = {".json", ".jsonl", ".parquet", ".pkl", ".zip", ".jpg", ".png"}
    files = {path for path in root.rglob("*") if path.suffix in kinds}
    assert files and files <= watched
