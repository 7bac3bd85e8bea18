"""HOST: the pictures of an official layout by their path, wherever they lie: in a folder or in the zip it was published as."""

from __future__ import annotations

import threading
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Picture, RowError

NO_PICTURE = "no picture"


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

    def find(self, name: str) -> Picture:
        """The picture of a path below the root, which is also its id.

        Raises:
          RowError: there is none, or the path is empty or leaves the root.
        """
        place = PurePosixPath(str(name).replace("\\", "/"))
        if not place.parts:
            raise RowError(NO_PICTURE)
        if place.is_absolute() or ".." in place.parts:
            raise RowError(f"picture {str(name)[:120]!r}: expected a path below the root")
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
