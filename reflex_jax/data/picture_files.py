"""HOST: the pictures of an official layout by their path, wherever they lie: in a folder or in the zip it was published as."""

from __future__ import annotations

import threading
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Picture, RowError

NO_PICTURE = "no picture"


def path_of(value: Any) -> str:
    """A field of an official file as a picture's path, as it is written.

    Raises:
      RowError: no text, or a blank one.
    """
    if not isinstance(value, str) or not value.strip():
        raise RowError(NO_PICTURE)
    return value


class PictureFiles:
    """Pictures below a folder, or as members of zip archives that nobody has unpacked; folders come first."""

    def __init__(self, root: Path, archives: Sequence[Path] = ()):
        """Looks into the archives' tables of contents.

        Args:
          root: the folder that the pictures' paths start from.
          archives: zip files whose members have the same paths; those that are not there are passed over.

        Raises:
          ConfigError: an archive is damaged.
        """
        self._root = root
        self._members: dict[str, _Archive] = {}
        for path in archives:
            if path.is_file():
                archive = _Archive(path)
                self._members |= dict.fromkeys(archive.names, archive)

    def archive_folders(self) -> list[str]:
        """The folders inside the archives that hold files."""
        return sorted({PurePosixPath(name).parent.as_posix() for name in self._members})

    def find(self, name: str) -> Picture:
        """The picture of a path below the root, which is also its id.

        Raises:
          RowError: there is none, or the path is empty or leaves the root.
        """
        place = PurePosixPath(str(name).replace("\\", "/"))
        if not place.parts:
            raise RowError(NO_PICTURE)
        if place.is_absolute() or ".." in place.parts:
            raise RowError(
                f"picture outside the data's folder: expected a path below the root; got {str(name)[:120]!r}"
            )
        path = self._root / place
        try:
            is_there = path.is_file()
        except (OSError, ValueError):  # no name that a file may have
            is_there = False
        if is_there:
            return Picture(id=place.as_posix(), data=path)
        if (archive := self._members.get(place.as_posix())) is not None:
            return Picture(id=place.as_posix(), data=lambda: archive.read(place.as_posix()))
        raise RowError(f"{NO_PICTURE}: {place.as_posix()[:120]!r} is missing")

    def find_first(self, names: Iterable[str]) -> Picture:
        """The picture of the first of several paths at which there is one.

        Raises:
          RowError: there is none; it speaks of the first path.
        """
        fault = RowError(NO_PICTURE)
        for number, name in enumerate(names):
            try:
                return self.find(name)
            except RowError as error:
                fault = fault if number else error
        raise fault

    def find_inside(self, folder: str, name: str) -> Picture:
        """The picture of a path inside a folder below the root, whose id is that path; an archive may leave the folder out.

        Raises:
          RowError: there is none.
        """
        found = self.find_first([f"{folder}/{name}", name])
        return replace(found, id=found.id.removeprefix(f"{folder}/"))


class _Archive:
    """A zip file that stays open; threads take turns, for they share its place."""

    def __init__(self, path: Path):
        self._path, self._lock = path, threading.Lock()
        try:
            self._file = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{path}: cannot be read as a zip archive ({error}). Download it again.") from error
        self.names = [info.filename for info in self._file.infolist() if not info.is_dir()]

    def read(self, name: str) -> bytes:
        with self._lock:
            try:
                return self._file.read(name)
            except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
                raise ConfigError(f"{self._path}: {name} cannot be read ({error}).") from error
