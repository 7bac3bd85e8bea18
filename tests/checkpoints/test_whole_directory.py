"""What is exported is there whole or not at all, wherever the place is: new, empty, mounted, behind a link."""

import os

import pytest

from reflex_jax.checkpoints.whole_directory import check_place, whole_directory
from reflex_jax.config import ConfigError

FILES = {"config.json", "a.safetensors", "b.safetensors"}


def write(directory) -> None:
    check_place(directory, "--to")
    with whole_directory(directory, last="config.json") as folder:
        for name in sorted(FILES, reverse=True):
            (folder / name).write_text(name)


@pytest.fixture(
    params=["new", "below new folders", "empty", "link to empty", "link to nothing", "volume", "link to a link"]
)
def place(request, tmp_path):
    """A place to write to, and where the files are then."""
    real = tmp_path / "real"
    if request.param == "new":
        return real, real
    if request.param == "below new folders":
        return real / "a" / "b", real / "a" / "b"
    if request.param != "link to nothing":
        real.mkdir()
    if request.param == "volume":
        (real / "lost+found").mkdir()
    if "link" not in request.param:
        return real, real
    (tmp_path / "link").symlink_to("real")
    if request.param == "link to a link":
        (tmp_path / "far").mkdir()
        (tmp_path / "far" / "link").symlink_to("../link")
        return tmp_path / "far" / "link", real
    return tmp_path / "link", real


def test_all_files_are_there_and_nothing_else(place, tmp_path):
    directory, real = place
    was_there, before = real.is_dir(), set(tmp_path.iterdir())
    inode = real.stat().st_ino if was_there else None
    write(directory)
    assert {path.name for path in real.iterdir()} - {"lost+found"} == FILES
    assert all((real / name).read_text() == name for name in FILES)
    assert not was_there or real.stat().st_ino == inode  # a mount point cannot be replaced
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "real"}


def test_what_fails_leaves_nothing(place, tmp_path):
    directory, real = place
    before = set(tmp_path.rglob("*"))
    with pytest.raises(OSError, match="full"), whole_directory(directory, last="config.json") as folder:
        (folder / "config.json").write_text("")
        raise OSError("full")
    assert set(tmp_path.rglob("*")) - before <= set(real.parents)  # empty folders above it may stay


def test_where_files_are_moved_one_by_one_the_last_makes_the_checkpoint_and_a_failure_takes_all_back(
    tmp_path, monkeypatch
):
    order, replace = [], os.replace

    def failing(source, target):
        order.append(os.path.basename(target))
        if order[-1] == "config.json":
            raise OSError("gone")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="gone"):
        write(tmp_path)
    assert order == ["a.safetensors", "b.safetensors", "config.json"] and not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("precious")
    (tmp_path / "link").symlink_to("full")
    before = sorted(tmp_path.rglob("*"))
    for name in ("file", "loop", "full", "link"):
        with pytest.raises(ConfigError, match=r"^--to: .* is in use\. Name another\.$"):
            check_place(tmp_path / name, "--to")
    for place in (tmp_path / "file" / "below", "/proc/nowhere/out", tmp_path / ("x" * 300)):
        with pytest.raises(ConfigError, match=r"^--to: nothing can be written to "):
            check_place(place, "--to")
    assert sorted(tmp_path.rglob("*")) == before
