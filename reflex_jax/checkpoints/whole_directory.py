"""A directory that is written whole or not at all, be its place new, an empty folder, a mount point or a link to one.

A new directory is written beside its place and renamed. One that is there may be a mount point, which no rename can
replace: there the files are written into a folder inside it and moved up, the one that makes a checkpoint of them last.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reflex_jax.config import ConfigError

_OF_THE_FILE_SYSTEM = {"lost+found"}  # what an empty ext4 volume holds


def check_place(directory: str | Path, setting: str) -> None:
    """Tells before the work whether a directory can be written there, by writing and removing something.

    Raises:
      ConfigError: the directory is in use, or cannot be made or written.
    """
    place = Path(os.path.realpath(directory))  # a link to a folder stands for it
    try:
        if os.path.lexists(place) and (not place.is_dir() or set(os.listdir(place)) - _OF_THE_FILE_SYSTEM):
            raise ConfigError(
                f"{setting}: expected a new or empty directory; {str(directory)!r} is in use. Name another."
            )
        parent = next(folder for folder in (place, *place.parents) if os.path.lexists(folder))
        probe = parent / _partial_name(place.relative_to(parent))
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"{setting}: nothing can be written to {str(directory)!r} ({reason}). Name another."
        ) from error


@contextmanager
def whole_directory(directory: str | Path, *, last: str) -> Iterator[Path]:
    """Gives a folder to write to; its files are in `directory` if the block ends well, and nothing is otherwise.

    Args:
      directory: new or empty; folders above it are made.
      last: the file without which the others are no checkpoint; where files are moved one by one it comes last.

    Raises:
      OSError: the disk is full, or the like.
    """
    place = Path(os.path.realpath(directory))
    is_there = place.is_dir()
    parent = place if is_there else place.parent
    partial = parent / _partial_name(place.relative_to(parent))
    try:
        partial.mkdir(parents=True)
        yield partial
        if is_there:
            _move_up(partial, place, last)
        else:
            os.replace(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial_name(place: Path) -> str:
    """For a place as its parent sees it; "." is the parent itself."""
    return f"{''.join(place.parts[:1])}.partial-{os.getpid()}"


def _move_up(folder: Path, place: Path, last: str) -> None:
    moved: list[Path] = []
    is_whole = False
    try:
        for name in sorted(os.listdir(folder), key=lambda name: (name == last, name)):
            os.replace(folder / name, place / name)
            moved.append(place / name)
        is_whole = True
    finally:
        if not is_whole:
            for path in moved:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
