"""Damaged pictures of twelve formats: a picture, or one line that names the file; never anything else."""

import collections
import io
import warnings

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

from reflex_jax.config import ConfigError
from reflex_jax.data.medical_images import open_image
from tests.picture_files import RAMP, Raw, data_set, dicom_bytes, encode

RANDOM_PICTURE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (12, 16, 3), dtype=np.uint8))
ODD_BYTES = (
    b"",
    b"\0",
    b"\0\0\0",
    b"\xff\xff",
    b"3,00",
    b"  ",
    b"1\\2\\",
    b"abc",
    b"-1",
    b"1e999",
    b"\x80" * 5,
    b"nan ",
)


def compressed_dicom(frame, syntax, **tags):
    dataset = pydicom.dcmread(io.BytesIO(dicom_bytes(np.asarray(RANDOM_PICTURE), **tags)))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def displayed_dicom(syntax=uid.ExplicitVRLittleEndian, **tags):
    """A file with every tag that says how it is shown."""
    table = data_set(LUTDescriptor=[4096, 0, 12], LUTData=np.arange(4096, dtype="<u2").tobytes())
    group = data_set(
        FrameVOILUTSequence=[data_set(WindowCenter=900, WindowWidth=700)],
        PixelValueTransformationSequence=[data_set(RescaleSlope="2", RescaleIntercept="-5")],
    )
    return dicom_bytes(
        syntax=syntax, WindowCenter=[40, 50], WindowWidth=[400, 5], VOILUTFunction="LINEAR", RescaleSlope="1",
        RescaleIntercept="-24", PixelPaddingValue=0, PixelPaddingRangeLimit=20, PresentationLUTShape="IDENTITY",
        NumberOfFrames="1", VOILUTSequence=[table], SharedFunctionalGroupsSequence=[group], **tags,
    )  # fmt: skip


def palette_dicom():
    tables = {f"{color}PaletteColorLookupTableDescriptor": [256, 0, 16] for color in ("Red", "Green", "Blue")}
    data = {
        keyword.replace("Descriptor", "Data"): np.arange(0, 65536, 256, dtype="<u2").tobytes() for keyword in tables
    }
    return dicom_bytes((RAMP // 100).astype(np.uint8), PhotometricInterpretation="PALETTE COLOR", **tables, **data)


def whole_files():
    """Name of a format -> files of it."""
    exif = Image.Exif()
    exif[274], exif[282] = 6, 72.0
    grey = Image.fromarray(RAMP)
    return {
        "PNG": [encode(RANDOM_PICTURE), encode(grey), encode(RANDOM_PICTURE.convert("P"), transparency=3)],
        "JPEG": [encode(RANDOM_PICTURE, "JPEG", exif=exif), encode(RANDOM_PICTURE.convert("CMYK"), "JPEG")],
        "TIFF": [encode(grey, "TIFF"), encode(RANDOM_PICTURE, "TIFF", compression="tiff_lzw")],
        "GIF": [encode(RANDOM_PICTURE, "GIF")],
        "WEBP": [encode(RANDOM_PICTURE, "WEBP", exif=exif)],
        "BMP": [encode(RANDOM_PICTURE, "BMP")],
        "PPM": [b"P5 8 4 4095\n" + RAMP.astype(">u2").tobytes(), b"P2 2 1 9\n3 8 "],
        "JPEG2000": [encode(RANDOM_PICTURE, "JPEG2000")],
        "ICO": [encode(RANDOM_PICTURE, "ICO", sizes=[(16, 12)])],
        "DICOM": [displayed_dicom(), displayed_dicom(uid.ImplicitVRLittleEndian), palette_dicom()],
        "DICOM JPEG": [compressed_dicom(encode(RANDOM_PICTURE, "JPEG"), uid.JPEGBaseline8Bit)],
        "bare DICOM": [dicom_bytes(is_bare=True), dicom_bytes(is_bare=True, syntax=uid.ImplicitVRLittleEndian)],
    }


def damage(data, random):
    """Cuts a file, changes some of its bytes (mostly early ones), or takes a stretch out of it or puts one in."""
    data, kind = bytearray(data), random.integers(5)
    start = int(len(data) * random.random() ** 3)  # headers are early
    if kind == 0:
        return bytes(data[:start])
    if kind in (1, 2):
        for place in start + random.integers(0, 64, random.integers(1, 6)):
            data[place % len(data)] = random.choice([0, 1, 127, 128, 255, random.integers(256)])
        return bytes(data)
    stretch = int(random.integers(1, 24))
    if kind == 3:
        return bytes(data[:start] + data[start + stretch :])
    return bytes(data[:start] + random.bytes(stretch) + data[start:])


DISPLAY_TAGS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "RescaleSlope", "RescaleIntercept", "PresentationLUTShape",
    "ModalityLUTSequence", "VOILUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "SOPClassUID", "SpecificCharacterSet",
)  # fmt: skip


def damage_tags(random):
    """A DICOM file some of whose elements hold odd bytes, as other types too."""
    tags = {
        str(keyword): Raw(
            ODD_BYTES[random.integers(len(ODD_BYTES))], random.choice([None, None, None, "UN", "LO", "US"])
        )
        for keyword in random.choice(DISPLAY_TAGS, random.integers(1, 4), replace=False)
    }
    return dicom_bytes(**tags)


def outcome(data):
    """What the decoder makes of a file: "picture" or the refusal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = open_image(data, "some.file")
        except ConfigError as refusal:
            line = str(refusal)
            assert line.startswith("some.file: ") and "\n" not in line and len(line) < 700
            return line
    pixels = np.asarray(image)
    assert pixels.dtype == np.uint8 and pixels.shape[2:] == (3,) and image.mode == "RGB" and not image.info
    return "picture"


def test_the_files_are_pictures_before_they_are_damaged():
    files = whole_files()
    assert len(files) == 12
    assert {outcome(data) for variants in files.values() for data in variants} == {"picture"}


def test_damaged_pictures_are_pictures_or_refused_in_a_line():
    """Two thousand of them, each format in turn; every second DICOM file is damaged in its tags."""
    random, files = np.random.default_rng(0), whole_files()
    seen = collections.Counter()
    for number in range(2000):
        variants = files[list(files)[number % len(files)]]
        if number % len(files) == 9 and number % 2:
            data = damage_tags(random)
        else:
            data = damage(variants[random.integers(len(variants))], random)
        try:
            seen[outcome(data) == "picture"] += 1
        except Exception as error:
            pytest.fail(f"damaged file {number}: {type(error).__name__}: {error}")
    assert min(seen[True], seen[False]) > 400  # both happen, so the damage is neither nothing nor everything


def test_elements_of_dicom_files_may_hold_anything():
    random = np.random.default_rng(2)
    outcomes = collections.Counter(outcome(damage_tags(random)) == "picture" for _ in range(300))
    assert outcomes[True] > 50 and outcomes[False] > 50
