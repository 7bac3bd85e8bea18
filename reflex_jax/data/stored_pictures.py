"""HOST: pictures as prepared sets keep them: 8-bit RGB PNG or JPEG bytes without metadata, in one file, read one at a time."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from array_record.python.array_record_module import ArrayRecordWriter
from grain.sources import ArrayRecordDataSource
from PIL import Image

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Picture, list_offenders
from reflex_jax.data.medical_images import open_image
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
_ONE_BY_ONE = "group_size:1,uncompressed"  # any picture is read alone, and its bytes are compressed already


class StoredPicture(NamedTuple):
    """Where a picture is kept, and what is known of it without reading it."""

    number: int
    size: tuple[int, int]  # (width, height)
    digest: str  # sha256 of the kept bytes


class PictureWriter:
    """Keeps the pictures of a set, each content once."""

    def __init__(self, path: Path):
        """Begins a file."""
        self._file = ArrayRecordWriter(str(path), _ONE_BY_ONE)
        self._by_id: dict[str, StoredPicture | ConfigError] = {}
        self._by_digest: dict[str, StoredPicture] = {}

    def add(self, picture: Picture) -> StoredPicture:
        """Decodes and keeps a picture that was not added before.

        Raises:
          ConfigError: it is missing, truncated or no picture; the line names it.
        """
        found = self._by_id.get(picture.id)
        if found is None:
            try:
                found = self._keep(picture)
            except ConfigError as error:
                found = error
            self._by_id[picture.id] = found
        if isinstance(found, ConfigError):
            raise found
        return found

    def close(self) -> int:
        """Ends the file; the number of pictures that were asked for."""
        self._file.close()
        return len(self._by_id)

    def _keep(self, picture: Picture) -> StoredPicture:
        data, size = image_bytes(picture)
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self._by_digest:
            self._by_digest[digest] = StoredPicture(len(self._by_digest), size, digest)
            self._file.write(data)
        return self._by_digest[digest]


class PictureReader:
    """Reads kept pictures by their number; threads may share it."""

    def __init__(self, path: Path):
        """Opens nothing yet."""
        self._path = path
        self._source: Any = None

    def read(self, number: int) -> bytes:
        """The kept bytes.

        Raises:
          ConfigError: the file was cut or changed after it was made.
        """
        try:
            if self._source is None:
                self._source = ArrayRecordDataSource(str(self._path))
            return bytes(self._source[number])
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise ConfigError(
                f"{self._path}: the prepared pictures are damaged ({str(error).splitlines()[0][:120]}). Remove the folder "
                f"{str(self._path.parent)!r}; it is made anew from the official files."
            ) from error


def image_bytes(picture: Picture) -> tuple[bytes, tuple[int, int]]:
    """A picture as 8-bit RGB PNG or JPEG bytes without metadata, and its (width, height).

    A file that is that already keeps its bytes; any other is decoded and stored without loss.
    """
    data = picture.read()
    decoded = open_image(data, picture.id) if isinstance(data, bytes) else data
    if isinstance(data, bytes) and data.startswith(_PLAIN_MAGIC):
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as stored:
            if stored.format == "PNG":
                stored.load()  # text may follow the pixels
            is_plain = (
                stored.format in ("JPEG", "PNG") and stored.mode == "RGB" and set(stored.info) <= _HARMLESS_METADATA
            )
        if is_plain:
            return data, decoded.size
    encoded = io.BytesIO()
    decoded.save(encoded, format="PNG")
    return encoded.getvalue(), decoded.size


def count_remarks(remarks: Sequence[PictureWarning], *, pictures: int) -> list[str]:
    """A line for each kind of remark: of how many pictures, and which."""
    names: dict[str, list[str]] = {}
    for remark in remarks:
        names.setdefault(remark.remark, []).append(remark.name)
    return [
        f"data: {len(which)} of {pictures} pictures: {remark} ({list_offenders(which)})."
        for remark, which in names.items()
    ]
