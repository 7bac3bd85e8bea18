"""HOST: a DICOM file of one picture -> 8-bit RGB pixels (DICOM PS3.3 C.7.6.3; needs the extra `dicom`).

pydicom reads the file and decodes its pixels.

- Grey pictures are shown as `dicom_display` says.
- Colors keep the high 8 of their stored bits; palettes of 8 and 16 bits are applied.
- Files of several frames are refused: picking one silently would drop findings.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Num, UInt8

from reflex_jax.data.dicom_display import displayed_levels
from reflex_jax.data.dicom_tags import read_number, read_table, read_word
from reflex_jax.data.grey_levels import grey_to_rgb
from reflex_jax.data.picture_faults import (
    DECODER_ERRORS,
    LARGEST_PICTURE,
    UnreadablePictureError,
    check_size,
    first_line,
)

_PREAMBLE, _MAGIC = 128, b"DICM"
_SAMPLES = {
    "MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3, "YBR_FULL": 3, "YBR_FULL_422": 3, "YBR_ICT": 3,
    "YBR_RCT": 3,
}  # fmt: skip
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_LAYOUT = (
    "SamplesPerPixel", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored",
    "PixelRepresentation",
)  # fmt: skip
_DEFLATED = "1.2.840.10008.1.2.1.99"
_LARGEST_INFLATED = 8 * LARGEST_PICTURE  # bytes
_DAMAGED = "truncated or damaged DICOM file ({reason}). Replace or remove it."
_ONE_AT_A_TIME = threading.Lock()  # Python keeps one list of warning filters for all threads


def find_dicom(data: bytes) -> bytes | None:
    """The bytes of a DICOM file, None where it is none.

    Beside the preamble with its magic word this knows what some programs write: the word alone, a preamble of zeros
    without the word, and a bare data set.
    """
    if data[_PREAMBLE : _PREAMBLE + len(_MAGIC)] == _MAGIC:
        return data
    if data.startswith(_MAGIC):
        return bytes(_PREAMBLE) + data
    starts = [0] if data[:_PREAMBLE].strip(b"\0") else [0, _PREAMBLE, _PREAMBLE + len(_MAGIC)]
    return next((data[start:] for start in starts if _begins_data_set(data[start : start + 8], len(data))), None)


def _begins_data_set(head: bytes, size: int) -> bool:
    """Whether eight bytes are the head of an element of group 2 or 8, with which data sets begin."""
    if len(head) < 8:
        return False
    group, element, length = (int.from_bytes(head[i:j], "little") for i, j in ((0, 2), (2, 4), (4, 8)))
    has_type = head[4:6].isalpha() and head[4:6].isupper()
    if head[:4] == b"\0\x08\0" + head[3:4]:  # big endian names the type of every element
        return has_type
    return group in (2, 8) and element <= 0x100 and (has_type or length < size)


def decode_dicom(data: bytes) -> tuple[UInt8[np.ndarray, "h w 3"], list[str]]:
    """Decodes the one picture of a DICOM file, as `find_dicom` gives it.

    Returns:
      RGB pixels, and what was ignored on the way.

    Raises:
      UnreadablePictureError: pydicom or the decoder of its pixels is not installed, or the file holds no picture,
        several, one that is too large, or damage.
    """
    remarks: list[str] = []
    with _quiet(), np.errstate(all="ignore"):
        try:
            return _pixels(_read_data_set(data), remarks), remarks
        except UnreadablePictureError:
            raise
        except DECODER_ERRORS as error:
            raise UnreadablePictureError(_DAMAGED.format(reason=first_line(error))) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences pydicom, which warns of much that is forgiven here, in words that may quote what identifies a patient."""
    logger = logging.getLogger("pydicom")
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        is_passed_on, logger.propagate = logger.propagate, False
        try:
            yield
        finally:
            logger.propagate = is_passed_on


def _read_data_set(data: bytes) -> Any:
    """The data set with a transfer syntax, which a bare one lacks."""
    try:
        import pydicom
        from pydicom import uid
    except ImportError as error:
        raise UnreadablePictureError("DICOM files need the extra `dicom`: pip install 'reflex_jax[dicom]'.") from error
    _check_inflated_size(data)
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
    if not dataset.file_meta.get("TransferSyntaxUID"):
        is_implicit, is_little_endian = dataset.original_encoding
        pixels = dataset.get_item("PixelData") if "PixelData" in dataset else None
        if getattr(pixels, "is_undefined_length", False) or getattr(pixels, "length", 0) == 0xFFFFFFFF:
            raise UnreadablePictureError(
                "a DICOM data set without file meta whose pixels are compressed: nothing says how. "
                "Export it with its file meta."
            )
        syntaxes = {(True, True): uid.ImplicitVRLittleEndian, (False, True): uid.ExplicitVRLittleEndian}
        syntax = syntaxes.get((bool(is_implicit), is_little_endian is not False), uid.ExplicitVRBigEndian)
        dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def _check_inflated_size(data: bytes) -> None:
    """Refuses a deflated data set that would fill the memory; pydicom inflates it in one go."""
    if _DEFLATED.encode() not in data[:2048] or data[_PREAMBLE : _PREAMBLE + 4] != _MAGIC:
        return
    end_of_meta = _PREAMBLE + 16 + int.from_bytes(data[_PREAMBLE + 12 : _PREAMBLE + 16], "little")
    stream, chunks = zlib.decompressobj(-zlib.MAX_WBITS), data[end_of_meta:]
    size = 0
    while chunks and size <= _LARGEST_INFLATED:
        size += len(stream.decompress(chunks, 1 << 24))
        chunks = stream.unconsumed_tail
    if size > _LARGEST_INFLATED:
        raise UnreadablePictureError(
            f"too large: expected a data set of at most {_LARGEST_INFLATED:,} bytes; it inflates to more. Export it anew."
        )


def _pixels(dataset: Any, remarks: list[str]) -> UInt8[np.ndarray, "h w 3"]:
    _check_is_picture(dataset)
    photometric, samples = read_word(dataset, "PhotometricInterpretation"), dataset.get("SamplesPerPixel")
    if photometric not in _SAMPLES:
        raise UnreadablePictureError(
            f"expected a DICOM picture whose photometric interpretation is one of {', '.join(_SAMPLES)}; "
            f"got {photometric[:32]!r}. Export it as one of them."
        )
    if samples != _SAMPLES[photometric]:
        raise UnreadablePictureError(
            f"expected SamplesPerPixel {_SAMPLES[photometric]} where the photometric interpretation is {photometric}; "
            f"got {samples}. Export it anew."
        )
    del dataset.PhotometricInterpretation  # written with zero bytes or in small letters, pydicom does not know it
    dataset.PhotometricInterpretation = photometric
    if samples == 3:
        return _color_levels(dataset, photometric)
    stored_samples, values = _stored_values(dataset, remarks)
    if photometric == "PALETTE COLOR":
        return _apply_palette(dataset, values)
    return grey_to_rgb(displayed_levels(stored_samples, values, dataset, remarks))


def _check_is_picture(dataset: Any) -> None:
    if not any(keyword in dataset for keyword in _PIXELS):
        classes = (dataset.get("SOPClassUID"), dataset.file_meta.get("MediaStorageSOPClassUID"))
        kinds = [uid.name for uid in classes if getattr(uid, "name", uid) != uid]  # those that the standard names
        kind = (*kinds, f"modality {read_word(dataset, 'Modality')[:16] or 'unknown'}")[0]
        raise UnreadablePictureError(
            f"expected a picture; this DICOM object ({kind}) has no pixel data: truncated, or a report, plan or "
            "directory. Replace or remove it."
        )
    for keyword in _LAYOUT:
        number = read_number(dataset, keyword, [])
        if keyword in dataset:
            del dataset[keyword]  # its type may be odd too
        if number is not None:  # what is missing then, pydicom says by name
            setattr(dataset, keyword, int(number))
    check_size(dataset.get("Columns", 0), dataset.get("Rows", 0))
    if dataset.get("NumberOfFrames", 1) > 1:
        raise UnreadablePictureError(
            f"expected one picture, got {dataset.NumberOfFrames} frames. Export the frame you want."
        )
    _check_decoder(dataset.file_meta.TransferSyntaxUID)


def _check_decoder(syntax: Any) -> None:
    """Refuses compressed pixels that nothing here can decode, naming the package that does."""
    from pydicom import pixels

    try:
        is_available = pixels.get_decoder(syntax).is_available
    except NotImplementedError as error:
        raise UnreadablePictureError(
            f"pixels are stored as {syntax.name}, which pydicom does not decode. Export the picture uncompressed."
        ) from error
    if not is_available:
        raise UnreadablePictureError(f"pixels are stored as {syntax.name}. {_missing_packages(syntax)}")


def _missing_packages(syntax: Any) -> str:
    """Which packages decode a transfer syntax, "" where none is known."""
    from pydicom.pixels.decoders import pyjpegls, pylibjpeg

    packages = pylibjpeg.DECODER_DEPENDENCIES.get(syntax) or pyjpegls.DECODER_DEPENDENCIES.get(syntax) or ()
    return f"To decode them: pip install {' '.join(repr(package) for package in packages)}." if packages else ""


def _decode_pixels(dataset: Any, **options: Any) -> Num[np.ndarray, "h w *samples"]:
    from pydicom import pixels

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoded = pixels.pixel_array(dataset, **options)
    except DECODER_ERRORS as error:
        others = _missing_packages(syntax) if "JPEG" in syntax.name else ""
        if others:
            raise UnreadablePictureError(
                f"pixels are stored as {syntax.name} and not decoded by what is installed ({first_line(error)}): "
                f"damaged, or for another decoder. {others}"
            ) from error
        raise UnreadablePictureError(_DAMAGED.format(reason=first_line(error))) from error
    if decoded.ndim != (2 if int(dataset.SamplesPerPixel) == 1 else 3):
        raise UnreadablePictureError(
            f"expected one picture, got pixel data for {decoded.shape[0]} frames. Export the frame you want."
        )
    return decoded.astype(decoded.dtype.newbyteorder("="), copy=False)


def _stored_values(dataset: Any, remarks: list[str]) -> tuple[Num[np.ndarray, "h w"], Num[np.ndarray, "h w"]]:
    """The samples of a grey or palette picture, as they lie in the file and without unused bits."""
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated or "PixelData" not in dataset:
        stored = _decode_pixels(dataset)
        return stored, stored
    samples = _decode_pixels(dataset, correct_unused_bits=False)
    allocated, used = 8 * samples.dtype.itemsize, int(dataset.BitsStored)
    if int(dataset.BitsAllocated) == 1 or used == allocated:
        return samples, samples
    high = read_number(dataset, "HighBit", remarks)
    if high is not None and not used - 1 <= high < allocated:
        remarks.append("HighBit ignored: the stored bits do not fit below it")
        high = None
    high = used - 1 if high is None else int(high)
    return samples, np.right_shift(np.left_shift(samples, allocated - 1 - high), allocated - used)


def _color_levels(dataset: Any, photometric: str) -> UInt8[np.ndarray, "h w 3"]:
    used = dataset.get("BitsStored")
    if photometric in ("YBR_FULL", "YBR_FULL_422") and used != 8:
        raise UnreadablePictureError(
            f"expected BitsStored 8 where the photometric interpretation is {photometric}; got {used}. Export it as RGB."
        )
    colors = _decode_pixels(dataset, pixel_representation=0)  # colors have no sign
    used = min(used, 8 * colors.dtype.itemsize)
    if used < 8:
        return (colors.astype(np.uint16) * 255 // ((1 << used) - 1)).astype(np.uint8)
    return (colors >> (used - 8)).astype(np.uint8)


def _apply_palette(dataset: Any, indices: Num[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    from pydicom import pixels

    is_signed = bool((indices < 0).any())
    found = [
        read_table(
            dataset, f"{color}PaletteColorLookupTableDescriptor", f"{color}PaletteColorLookupTableData",
            is_signed=is_signed, remarks=[],
        )
        for color in ("Red", "Green", "Blue")
    ]  # fmt: skip
    tables = [table for table in found if table]
    if len(tables) == len(found):
        colors = np.stack([table.apply(indices) for table in tables], axis=-1).astype(np.uint16)
    elif "SegmentedRedPaletteColorLookupTableData" in dataset:
        colors = pixels.apply_color_lut(indices, dataset)[..., :3]
    else:
        raise UnreadablePictureError("its palette is missing or damaged. Export it as RGB.")
    # Entries of 8 bits may stand in words of 16, so the values tell and not the words.
    return (colors >> 8 if colors.max() > 255 else colors).astype(np.uint8)
