"""HOST: PNG, JPEG, TIFF and their like -> RGB, by Pillow; what Pillow takes wrongly is mended here.

- More than 8 bits a grey sample (PNG, PGM, TIFF, JPEG 2000) and signed or float samples are scaled linearly from the
  picture's own range, smallest value to 0 and largest to 255; a constant picture becomes black, NaN too. Colors of 16
  bits keep their high byte.
- TIFF that says WhiteIsZero is inverted at every depth.
- Transparent pixels show white, as on a page.
- A camera's orientation is applied; nothing else of the metadata is read.
- Files of several frames are refused: picking one silently would drop findings.
"""

from __future__ import annotations

import functools
import io
import struct

import numpy as np
from jaxtyping import Num
from PIL import ExifTags, Image, ImageChops, TiffImagePlugin

from reflex_jax.data.grey_levels import grey_to_rgb, scale_to_bytes
from reflex_jax.data.picture_faults import (
    DECODER_ERRORS,
    LARGEST_PICTURE,
    UnreadablePictureError,
    check_size,
    first_line,
)

# Formats that begin with a magic number and whose decoder is a library of its own (EPS would run Ghostscript).
FORMATS = (
    "PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP", "PPM", "JPEG2000", "AVIF", "ICO", "PSD", "SGI", "PCX", "QOI",
)  # fmt: skip
_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I"}  # types of a directory's entries
_PHOTOMETRIC, _SAMPLE_FORMAT = 262, 339  # TIFF tags
_WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1
_UNSIGNED, _SIGNED = 1, 2  # TIFF sample formats
# Where a TIFF keeps its first directory: place and type of its offset, type of the entry count, size of an entry, place
# of the value in it.
_TIFF_DIRECTORIES = {42: (4, "I", "H", 12, 8), 43: (8, "Q", "Q", 20, 12)}


def decode_raster(data: bytes) -> tuple[Image.Image, list[str]]:
    """Decodes a picture that Pillow reads.

    Returns:
      An upright RGB image without metadata, and what was left aside on the way.

    Raises:
      UnreadablePictureError: Pillow does not know the file (the error is an `UnknownPictureError`), it is too large or
        has several frames.
      Exception: whatever Pillow answers to damaged bytes.
    """
    data, is_inverted = _black_is_zero(data)
    # Pillow reads unsigned 32 bits in one byte order only; the sign is taken off in `_wide_samples`.
    TiffImagePlugin.OPEN_INFO.setdefault((b"MM", 1, (_UNSIGNED,), 1, (32,), ()), ("I", "I;32BS"))
    try:
        image = Image.open(io.BytesIO(data), formats=_known_formats())
    except Image.UnidentifiedImageError as error:
        raise UnknownPictureError from error
    except Image.DecompressionBombError as error:
        raise UnreadablePictureError(
            f"too large: expected at most {LARGEST_PICTURE:,} pixels ({first_line(error).split(',')[0]}). "
            "Crop it or make it smaller."
        ) from error
    with image:
        check_size(*image.size)
        # A camera's MPO holds previews beside the picture, the first frame is the picture.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames > 1:
            raise UnreadablePictureError(f"expected one picture, got {frames} frames. Export the frame you want.")
        _check_strips(image)
        image.load()
        remarks = ["16-bit grey with transparency: Pillow reads the high byte alone"] * _is_wide_grey_alpha(data)
        transposition = _TRANSPOSITIONS.get(_orientation(image, remarks))
        upright = image if transposition is None else image.transpose(transposition)
        sample_format = _sample_format(image)
        return _to_rgb(upright, sample_format=sample_format, is_inverted=is_inverted), remarks


@functools.cache
def _known_formats() -> list[str]:
    """Those of `FORMATS` that the installed Pillow has; it fails on a name that it lacks."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


class UnknownPictureError(UnreadablePictureError):
    """Pillow finds no picture in the file."""


def _black_is_zero(data: bytes) -> tuple[bytes, bool]:
    """A TIFF that says WhiteIsZero told to be BlackIsZero, and whether it was one, to be inverted after scaling.

    Pillow inverts some depths, leaves others as they are and refuses the rest.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return data, False
    layout = _TIFF_DIRECTORIES.get(struct.unpack_from(order + "H", data, 2)[0])
    if layout is None:
        return data, False
    place, offset_type, count_type, entry_size, value_place = layout
    try:
        (directory,) = struct.unpack_from(order + offset_type, data, place)
        (count,) = struct.unpack_from(order + count_type, data, directory)
        first = directory + struct.calcsize(count_type)
        for entry in range(first, min(first + count * entry_size, len(data)), entry_size):
            if struct.unpack_from(order + "H", data, entry)[0] == _PHOTOMETRIC:
                # a SHORT by the specification; some writers make it a BYTE or a LONG, which lie elsewhere in big endian
                number = order + _TIFF_NUMBERS.get(struct.unpack_from(order + "H", data, entry + 2)[0], "H")
                if struct.unpack_from(number, data, entry + value_place)[0] != _WHITE_IS_ZERO:
                    return data, False
                changed = bytearray(data)
                struct.pack_into(number, changed, entry + value_place, _BLACK_IS_ZERO)
                return bytes(changed), True
    except struct.error:  # a directory outside of the file: Pillow says so
        return data, False
    return data, False


def _check_strips(image: Image.Image) -> None:
    """Refuses a TIFF whose strips or tiles do not fill the picture; Pillow leaves the rest black."""
    if image.format != "TIFF":
        return
    covered = sum((right - left) * (lower - upper) for _, (left, upper, right, lower), *_ in image.tile)  # type: ignore[attr-defined]  # of pictures read from files
    if covered < image.width * image.height:
        raise UnreadablePictureError(
            f"truncated or damaged TIFF file: its header says {image.width} x {image.height} pixels, its strips hold "
            f"{covered:,}. Replace or remove it."
        )


def _is_wide_grey_alpha(data: bytes) -> bool:
    """Whether a file is PNG of 16 bits (byte 24) of grey with transparency (byte 25)."""
    return data.startswith(b"\x89PNG") and data[24:26] == bytes([16, 4])


def _orientation(image: Image.Image, remarks: list[str]) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DECODER_ERRORS:
        remarks.append("its EXIF block cannot be read; shown as stored")
        return 1
    if not isinstance(orientation, int) or not 0 <= orientation <= 8:  # 0: the camera does not know
        remarks.append("its EXIF orientation is none of 1 to 8; shown as stored")
        return 1
    return orientation


def _sample_format(image: Image.Image) -> int | None:
    """Of a TIFF's first sample; None for any other file."""
    if image.format != "TIFF":
        return None
    formats = image.tag_v2.get(_SAMPLE_FORMAT, _UNSIGNED)  # type: ignore[attr-defined]  # of TIFF pictures
    return formats[0] if isinstance(formats, tuple) and formats else formats


def _to_rgb(image: Image.Image, *, sample_format: int | None, is_inverted: bool) -> Image.Image:
    samples = _wide_samples(image, sample_format)
    if samples is not None:
        # Pillow's own conversion clips or wraps wide samples; the transparency key is in the same wide units.
        is_opaque = samples != image.info.get("transparency", np.nan)
        levels = scale_to_bytes(samples, is_opaque, is_inverted=is_inverted)
        return Image.fromarray(grey_to_rgb(np.where(is_opaque, levels, np.uint8(255))))
    if image.mode in ("La", "RGBa"):  # colors multiplied by their opacity
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        page = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(page, image.convert("RGBA"))
    converted = image.convert("RGB")
    if is_inverted:
        converted = ImageChops.invert(converted)
    return Image.frombytes("RGB", converted.size, converted.tobytes())


def _wide_samples(image: Image.Image, sample_format: int | None) -> Num[np.ndarray, "h w"] | None:
    """Grey samples that do not fit 0..255, None where they do; Pillow forgets the sign of 8 and 32 bits."""
    if image.mode == "L" and sample_format == _SIGNED:
        return np.asarray(image).view(np.int8)
    if image.mode not in _WIDE_MODES:
        return None
    samples = np.asarray(image)
    return samples.view(np.uint32) if image.mode == "I" and sample_format == _UNSIGNED else samples
