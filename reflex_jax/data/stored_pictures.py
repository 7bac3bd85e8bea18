"""HOST: pictures as prepared sets keep them: 8-bit RGB PNG or JPEG bytes without metadata."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import list_offenders
from reflex_jax.data.medical_images import open_image, read_file
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


def store_pictures(paths: Mapping[str, Path]) -> dict[str, tuple[bytes, tuple[int, int]]]:
    """Decodes every picture once: its bytes as they are kept, and its (width, height).

    What pictures say and cannot be applied is printed, one line for each kind with its number and names.

    Args:
      paths: the file of each image id.

    Raises:
      ConfigError: files that are missing, truncated or no pictures, all of them by name.
    """
    absent = [str(path) for path in paths.values() if _is_absent(path)]
    if absent:
        raise ConfigError(f"{len(absent)} image files are missing: {list_offenders(absent)}.")
    stored, refusals = {}, []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")  # the decoders' own, which may quote what identifies a patient
        warnings.simplefilter("always", PictureWarning)
        for image_id, path in paths.items():
            try:
                # many layouts call every picture the same and tell them by their folders
                name = image_id if image_id.endswith(path.name) else f"{image_id}/{path.name}"
                stored[image_id] = image_bytes(path, name)
            except ConfigError as error:
                refusals.append(str(error))
    for line in count_remarks(
        [w.message for w in caught if isinstance(w.message, PictureWarning)], pictures=len(paths)
    ):
        print(line, file=sys.stderr, flush=True)
    if refusals:
        raise ConfigError(f"{len(refusals)} pictures cannot be used: {list_offenders(refusals, separator=' | ')}")
    return stored


def image_bytes(path: Path, name: str | None = None) -> tuple[bytes, tuple[int, int]]:
    """An image file as 8-bit RGB PNG or JPEG bytes without metadata, and its (width, height).

    Messages call it `name`, by default that of the file.

    A file that is that already keeps its bytes; any other is decoded and stored without loss.
    """
    name = name or path.name
    data = read_file(path, name)
    picture = open_image(data, name)
    if data.startswith(_PLAIN_MAGIC):
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as stored:
            if stored.format == "PNG":
                stored.load()  # text may follow the pixels
            is_plain = (
                stored.format in ("JPEG", "PNG") and stored.mode == "RGB" and set(stored.info) <= _HARMLESS_METADATA
            )
        if is_plain:
            return data, picture.size
    encoded = io.BytesIO()
    picture.save(encoded, format="PNG")
    return encoded.getvalue(), picture.size


def count_remarks(remarks: Sequence[PictureWarning], *, pictures: int) -> list[str]:
    """A line for each kind of remark: of how many pictures, and which."""
    names: dict[str, list[str]] = {}
    for remark in remarks:
        names.setdefault(remark.remark, []).append(remark.name)
    return [
        f"data: {len(which)} of {pictures} pictures: {remark} ({list_offenders(which)})."
        for remark, which in names.items()
    ]


def _is_absent(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # it may be there; reading it will say what hinders
        return False
    return False
