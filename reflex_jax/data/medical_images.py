"""HOST: any medical image file -> 8-bit RGB pixels, or a refusal that names the file.

The one door for pictures of all data sets. The first bytes say what a file is, its name never does. Whatever
identifies a patient (EXIF, comments, DICOM tags) stays behind: only pixels leave this module. How samples become
levels stands in `raster_images` and `dicom_images`.
"""

from __future__ import annotations

import stat
import warnings
import zlib
from pathlib import Path

from PIL import Image

from reflex_jax.config import ConfigError
from reflex_jax.data.dicom_images import decode_dicom, find_dicom
from reflex_jax.data.picture_faults import PictureWarning, UnreadablePictureError, first_line, one_line
from reflex_jax.data.raster_images import FORMATS, UnknownPictureError, decode_raster

_LARGEST_FILE = 1 << 32  # bytes
# A DICOM preamble may be the head of a TIFF, but is none of these.
_RASTER_MAGIC = {
    b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"RIFF": "WebP", b"\0\0\0\x0cjP": "JPEG 2000",
}  # fmt: skip
_OTHER_RASTER_MAGIC = {
    b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF", b"BM": "BMP", b"8BPS": "PSD",
    b"P1": "PPM", b"P2": "PPM", b"P3": "PPM", b"P4": "PPM", b"P5": "PPM", b"P6": "PPM", b"\xffO\xffQ": "JPEG 2000",
}  # fmt: skip
_FOREIGN_MAGIC = (  # where a file says what it is, how, and what that means
    (344, b"n+1\0", "a NIfTI volume"), (344, b"ni1\0", "the header of a NIfTI volume"), (4, b"n+2\0", "a NIfTI volume"),
    (0, b"NRRD", "an NRRD volume"), (0, b"ObjectType", "a MetaImage (MHA, MHD) volume"),
    (0, b"NDims", "a MetaImage (MHA, MHD) volume"), (0, b"%PDF", "a PDF document"), (0, b"PK\3\4", "a ZIP archive"),
    (0, b"\x89HDF", "an HDF5 file"), (0, b"\x93NUMPY", "a NumPy array"), (0, b"%!PS", "PostScript"),
    (4, b"ftyphei", "an HEIC picture"), (4, b"ftypmif1", "an HEIF picture"), (4, b"ftyp", "a video"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL picture"), (0, b"\xff\x0a", "a JPEG XL picture"), (0, b"7z\xbc\xaf", "a 7z archive"),
    (0, b"SIMPLE  =", "a FITS file"),
)  # fmt: skip
_MARKUP = {b"<!doctype html": "an HTML page", b"<html": "an HTML page", b"<svg": "an SVG drawing", b"<?xml": "XML"}


def open_image(source: bytes | str | Path, name: str | None = None) -> Image.Image:
    """Decodes a whole picture (PNG, JPEG, TIFF, ..., DICOM) to 8-bit RGB, upright.

    Args:
      source: the file's bytes or its path.
      name: what an error calls the picture; default: the path.

    Returns:
      An RGB image that carries no metadata. What its file says and cannot be applied is a `PictureWarning`.

    Raises:
      ConfigError: missing, truncated, of several frames, too large, or not an image; the line names it.
    """
    if isinstance(source, (str, Path)):
        name = one_line(name or source)
        data = read_file(source, name)
    else:
        name = one_line(name or "image")
        data = bytes(source)
    try:
        image, remarks = _decode(data)
    except UnreadablePictureError as error:
        raise ConfigError(one_line(f"{name}: {error}")) from error
    except Exception as error:  # damaged bytes make decoders raise anything, MemoryError and RecursionError too
        raise ConfigError(
            one_line(f"{name}: truncated or damaged {_kind(data)} ({first_line(error)}). Replace or remove it.")
        ) from error
    for remark in dict.fromkeys(remarks):
        warnings.warn(PictureWarning(name, remark), stacklevel=2)
    return image


def read_file(path: str | Path, name: str | None = None) -> bytes:
    """The bytes of a file.

    Raises:
      ConfigError: missing, a directory, no regular file, not permitted, too large for the memory; the line names it.
    """
    name = one_line(name or path)
    try:
        found = Path(path).stat()
        if stat.S_ISDIR(found.st_mode):
            raise ConfigError(f"{name}: expected a file; it is a directory.")
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{name}: expected a regular file; it is a device, pipe or socket.")
        if found.st_size > _LARGEST_FILE:
            raise ConfigError(f"{name}: expected a file of at most {_LARGEST_FILE:,} bytes; got {found.st_size:,}.")
        return Path(path).read_bytes()
    except ConfigError:
        raise
    except FileNotFoundError as error:
        raise ConfigError(f"{name}: there is no such file.") from error
    except PermissionError as error:
        raise ConfigError(f"{name}: no permission to read it. Change its mode, or run as its owner.") from error
    except (OSError, ValueError) as error:  # a ValueError is about the path itself
        raise ConfigError(f"{name}: cannot be read ({first_line(error)}).") from error


def _decode(data: bytes) -> tuple[Image.Image, list[str]]:
    if not data:
        raise UnreadablePictureError("is empty (0 bytes). Replace or remove it.")
    dicom = None if data.startswith(tuple(_RASTER_MAGIC)) else find_dicom(data)
    if dicom is not None:
        pixels, remarks = decode_dicom(dicom)
        return Image.fromarray(pixels), remarks
    try:
        return decode_raster(data)
    except UnknownPictureError as error:
        raise UnreadablePictureError(_describe(data)) from error


def _raster_kind(data: bytes) -> str | None:
    kinds = {**_RASTER_MAGIC, **_OTHER_RASTER_MAGIC}
    return next((kind for magic, kind in kinds.items() if data.startswith(magic)), None)


def _kind(data: bytes) -> str:
    return f"{_raster_kind(data) or ('picture' if find_dicom(data) is None else 'DICOM')} file"


def _describe(data: bytes) -> str:
    """What a file that is no picture is, and what to do."""
    kind, foreign = _raster_kind(data), _foreign_kind(data)
    if foreign is None and kind is not None:
        layouts = ", or of a sample layout that Pillow does not read: save it as 8- or 16-bit PNG" * (kind == "TIFF")
        return f"truncated or damaged {kind} file{layouts}. Replace or remove it."
    if data.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the picture. Run `git lfs pull` where it was cloned."
    start = data[:256].decode("utf-8", "replace")[:-1]  # the last letter may be cut
    is_text = "\ufffd" not in start and all(letter.isprintable() or letter in "\t\n\r" for letter in start)
    what = foreign or ("a text file" if is_text else "of no format known here")
    return f"expected a picture ({', '.join(FORMATS)} or DICOM); it is {what}. Put the picture itself in its place."


def _foreign_kind(data: bytes) -> str | None:
    """What a file is that is known and not read here, None where it is not known."""
    if not data.strip(b"\0"):
        return f"{len(data)} zero bytes, as a broken download leaves them"
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for markup, what in _MARKUP.items():
        if start.startswith(markup):
            return what
    if data.startswith(b"\x1f\x8b"):
        try:
            inside = _foreign_kind(zlib.decompressobj(31).decompress(data, 512))
        except zlib.error:
            inside = None
        return f"a gzip archive of {inside}" if inside else "a gzip archive"
    return next((what for place, magic, what in _FOREIGN_MAGIC if data[place : place + len(magic)] == magic), None)
