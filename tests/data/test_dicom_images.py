"""DICOM in any state: shown as the standard says, or refused in words; what is ignored is said."""

import concurrent.futures
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from reflex_jax.config import ConfigError
from reflex_jax.data.medical_images import open_image
from reflex_jax.data.picture_faults import PictureWarning

pydicom = pytest.importorskip("pydicom")

from pydicom import pixels, uid
from pydicom.encaps import encapsulate

from tests.picture_files import RAMP, Raw, data_set, dicom_bytes, encode, full_range

COLORS = np.random.default_rng(0).integers(0, 256, (4, 8, 3), dtype=np.uint8)
DEEP_COLORS = np.random.default_rng(0).integers(0, 1 << 16, (4, 8, 3), dtype=np.uint16)


def shown(data):
    """Levels and what was said about them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        levels = np.asarray(open_image(data, "x.dcm"))
    assert all(isinstance(warning.message, PictureWarning) for warning in caught)
    return levels, " | ".join(warning.message.remark for warning in caught)


def assert_shows(data, expected, remark=""):
    levels, remarks = shown(data)
    expected = np.asarray(expected)
    np.testing.assert_array_equal(
        levels, expected if expected.ndim == 3 else np.repeat(expected[:, :, None], 3, axis=2)
    )
    assert remark in remarks and bool(remark) == bool(remarks), remarks


def assert_refused(data, pattern):
    with pytest.raises(ConfigError, match=pattern) as refusal:
        open_image(data, "x.dcm")
    assert str(refusal.value).startswith("x.dcm: ") and "\n" not in str(refusal.value)


def compressed(frame, syntax, samples=RAMP, **tags):
    dataset = pydicom.dcmread(io.BytesIO(dicom_bytes(samples, **tags)))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


# --- numbers that are written oddly


@pytest.mark.parametrize("text", [b"2,0 ", b"  2 ", b"2\\3 ", b"2\0", b"+2.", b"20e-1 "])
def test_a_number_is_read_however_it_is_written(text):
    plain = shown(dicom_bytes(WindowCenter="1000", WindowWidth="800", RescaleSlope="2"))[0]
    assert_shows(dicom_bytes(WindowCenter="1000", WindowWidth="800", RescaleSlope=Raw(text)), plain)


@pytest.mark.parametrize("text", [b"abc ", b"1e400 ", b"nan ", b"1,000,000 ", b"1_0 ", b"\xff\xfe"])
@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept", "WindowWidth", "WindowCenter"])
def test_what_is_no_number_is_ignored_with_a_word(keyword, text):
    window = {"WindowCenter": "1000", "WindowWidth": "800"} if keyword.startswith("Window") else {}
    assert_shows(dicom_bytes(**(window | {keyword: Raw(text)})), full_range(RAMP), f"{keyword} ignored")


@pytest.mark.parametrize("text", [b"", b"  ", b"\0\0"])
def test_empty_rescale_tags_are_as_good_as_absent(text):
    assert_shows(dicom_bytes(RescaleSlope=Raw(text), RescaleIntercept=Raw(text)), full_range(RAMP))


def test_a_slope_of_zero_is_ignored_and_a_negative_one_inverts():
    assert_shows(dicom_bytes(RescaleSlope="0", RescaleIntercept="5"), full_range(RAMP), "RescaleSlope ignored")
    assert_shows(dicom_bytes(RescaleSlope="-1"), full_range(-RAMP.astype(int)))


@pytest.mark.parametrize("keyword", ["BitsAllocated", "BitsStored", "PixelRepresentation", "Rows", "SamplesPerPixel"])
@pytest.mark.parametrize("value", [b"", b"\x0c", b"\x0c\0\0", b"\xff\xff", b"\0\0"])
def test_a_broken_layout_is_a_refusal_or_the_same_picture(keyword, value):
    try:
        assert_shows(dicom_bytes(**{keyword: Raw(value)}), full_range(RAMP))
    except ConfigError as refusal:
        assert str(refusal).startswith("x.dcm: ") and "\n" not in str(refusal)
        name = {"Rows": "8 x 0|1048560"}.get(
            keyword, f"{keyword}|{keyword.replace('Bits', 'Bits ')}|Pixel Representation"
        )
        assert any(part in str(refusal) for part in name.split("|")), refusal


# --- types of samples


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_samples_of_every_type_fill_the_range(dtype, photometric):
    levels = full_range(RAMP)
    samples = RAMP.astype(int) // 100 - (8 if dtype[0] == "i" else 0)
    data = dicom_bytes(samples.astype(dtype), PhotometricInterpretation=photometric)
    assert_shows(data, 255 - levels if photometric == "MONOCHROME1" else levels)


def test_bits_beyond_the_stored_ones_are_not_looked_at():
    for samples, high in ((RAMP, 11), (RAMP | 0xA000, 11), (RAMP << 4, 15)):
        assert_shows(dicom_bytes(samples, BitsStored=12, HighBit=high), full_range(RAMP))
    for high in (3, 16):
        data = dicom_bytes(RAMP, BitsStored=12, HighBit=high)
        assert_shows(data, full_range(RAMP), "HighBit ignored")
    signed = dicom_bytes(RAMP - 1500 & 0xFFF, BitsStored=12, HighBit=11, PixelRepresentation=1)
    assert_shows(signed, full_range(RAMP))
    bits = np.arange(32).reshape(4, 8) % 3 == 0
    packed = np.packbits(bits, bitorder="little").tobytes()
    data = dicom_bytes(bits.astype(np.uint8), BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=packed)
    assert_shows(data, 255 * bits)


def test_what_is_not_finite_is_black():
    samples = RAMP.astype(np.float32)
    samples[0, :2] = np.nan, np.inf
    counted = np.isfinite(samples)
    assert_shows(dicom_bytes(samples), full_range(samples, counted=counted))
    inverted = full_range(-samples, counted=counted)
    np.testing.assert_allclose(
        shown(dicom_bytes(samples, PhotometricInterpretation="MONOCHROME1"))[0][..., 0], inverted, atol=1
    )


def test_colors_keep_the_high_bits_of_those_stored():
    assert_shows(dicom_bytes(COLORS), COLORS)
    assert_shows(dicom_bytes(COLORS, PixelRepresentation=1), COLORS)
    assert_shows(dicom_bytes(DEEP_COLORS), DEEP_COLORS >> 8)
    assert_shows(dicom_bytes(DEEP_COLORS, syntax=uid.ExplicitVRBigEndian), DEEP_COLORS >> 8)
    assert_shows(dicom_bytes(DEEP_COLORS >> 6, BitsStored=10, HighBit=9), DEEP_COLORS >> 8)
    planes = np.ascontiguousarray(COLORS.transpose(2, 0, 1)).tobytes()
    assert_shows(dicom_bytes(COLORS, PlanarConfiguration=1, PixelData=planes), COLORS)
    ybr = pixels.convert_color_space(COLORS, "RGB", "YBR_FULL")
    back = pixels.convert_color_space(ybr, "YBR_FULL", "RGB")
    assert_shows(dicom_bytes(ybr, PhotometricInterpretation="YBR_FULL"), back)
    halved = np.stack([ybr[:, 0::2, 0], ybr[:, 1::2, 0], ybr[:, 0::2, 1], ybr[:, 0::2, 2]], axis=-1)
    ybr[:, 1::2, 1:] = ybr[:, 0::2, 1:]
    data = dicom_bytes(
        COLORS, PhotometricInterpretation="YBR_FULL_422", PixelData=np.ascontiguousarray(halved).tobytes()
    )
    assert_shows(data, pixels.convert_color_space(ybr, "YBR_FULL", "RGB"))


@pytest.mark.parametrize("word", [b"rgb ", b"RGB\0", b" RGB", b"RGB\\MONOCHROME2"])
def test_the_photometric_interpretation_is_read_however_it_is_written(word):
    assert_shows(dicom_bytes(COLORS, PhotometricInterpretation=Raw(word)), COLORS)


def test_colors_that_contradict_themselves_are_refused():
    assert_refused(dicom_bytes(COLORS, PhotometricInterpretation="HSV"), "one of MONOCHROME1, .*got 'HSV'")
    assert_refused(dicom_bytes(COLORS, PhotometricInterpretation="MONOCHROME2"), "SamplesPerPixel 1 .*got 3")
    assert_refused(dicom_bytes(PhotometricInterpretation="RGB"), "SamplesPerPixel 3 .*got 1")
    assert_refused(dicom_bytes(DEEP_COLORS, PhotometricInterpretation="YBR_FULL"), "BitsStored 8 .*got 16")


@pytest.mark.parametrize("bits, entry_type", [(8, "u1"), (8, "<u2"), (16, "<u2")])
def test_palettes_of_8_and_16_bits_are_applied(bits, entry_type):
    table = np.random.default_rng(0).integers(0, 1 << bits, (200, 3))
    index = np.random.default_rng(1).integers(0, 256, (4, 8), dtype=np.uint16)
    tags = {f"{color}PaletteColorLookupTableDescriptor": [200, 10, bits] for color in ("Red", "Green", "Blue")}
    for channel, color in enumerate(("Red", "Green", "Blue")):
        tags[f"{color}PaletteColorLookupTableData"] = table[:, channel].astype(entry_type).tobytes()
    expected = table[np.clip(index.astype(int) - 10, 0, 199)] >> (bits - 8)
    for dtype in (np.uint8, np.uint16):
        assert_shows(dicom_bytes(index.astype(dtype), PhotometricInterpretation="PALETTE COLOR", **tags), expected)
    tags["GreenPaletteColorLookupTableData"] = b"\1\2"
    assert_refused(
        dicom_bytes(index, PhotometricInterpretation="PALETTE COLOR", **tags), "palette is missing or damaged"
    )


# --- from values to grey


def table_item(entries, first=0, bits=12, dtype="<u2"):
    return data_set(
        LUTDescriptor=[len(entries) % 65536, first, bits], LUTData=np.asarray(entries).astype(dtype).tobytes()
    )


@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence"])
def test_tables_equal_those_of_pydicom(keyword):
    random = np.random.default_rng(0)
    apply = pixels.apply_modality_lut if keyword[0] == "M" else pixels.apply_voi_lut
    for count, first in ((4096, 0), (1000, 700), (65536, 0)):
        data = dicom_bytes(**{keyword: [table_item(random.integers(0, 4096, count), first, 16)]})
        dataset = pydicom.dcmread(io.BytesIO(data))
        assert_shows(data, full_range(apply(dataset.pixel_array, dataset)))


@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence"])
def test_tables_of_8_bits_signed_values_and_other_byte_orders(keyword):
    inverse = full_range(-RAMP.astype(int))
    small = (RAMP // 100).astype(np.uint8)
    for dtype in ("u1", "<u2"):
        assert_shows(dicom_bytes(small, **{keyword: [table_item(np.arange(32)[::-1], 0, 8, dtype)]}), inverse)
    down = np.arange(4096)[::-1]
    signed = (RAMP.astype(int) - 2000).astype(np.int16)
    assert_shows(dicom_bytes(signed, **{keyword: [table_item(down, 65536 - 2000)]}), inverse)
    big = {keyword: [table_item(down, dtype=">u2")]}
    assert_shows(dicom_bytes(syntax=uid.ExplicitVRBigEndian, **big), inverse)
    assert_shows(dicom_bytes(syntax=uid.ImplicitVRLittleEndian, **{keyword: [table_item(down)]}), inverse)


@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize(
    "items",
    [
        [data_set()],
        [data_set(LUTDescriptor=[4096, 0, 12], LUTData=b"\1\2\3\4")],
        [data_set(LUTDescriptor=[4096, 0], LUTData=bytes(8192))],
        [data_set(LUTDescriptor=[0, 0, 16], LUTData=b"")],
        Raw(b"\xfe\xff\0\xe0\x08\0\0\0abcd"),
    ],
)
def test_a_damaged_table_is_ignored_with_a_word(keyword, items):
    assert_shows(dicom_bytes(**{keyword: items}), full_range(RAMP), "ignored")


def test_the_first_table_or_window_that_can_be_applied_is():
    inverse = full_range(-RAMP.astype(int))
    tables = [data_set(), table_item(np.arange(4096)[::-1])]
    assert_shows(dicom_bytes(VOILUTSequence=tables), inverse, "LUTData ignored")
    assert_shows(dicom_bytes(VOILUTSequence=tables[1:], WindowCenter="9", WindowWidth="0"), inverse, "width is below 1")
    second = shown(dicom_bytes(WindowCenter=1000, WindowWidth=800))[0]
    assert_shows(dicom_bytes(WindowCenter=[5, 1000], WindowWidth=[-3, 800]), second, "width is below 1")


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("window", [(1000, 800), (1500, 1), (0, 4), (3100, 5000)])
def test_windows_equal_those_of_pydicom(function, window):
    data = dicom_bytes(WindowCenter=window[0], WindowWidth=window[1], VOILUTFunction=function)
    dataset = pydicom.dcmread(io.BytesIO(data))
    fractions = pixels.apply_windowing(dataset.pixel_array, dataset) / 65535
    assert_shows(data, np.rint(255 * fractions))


@pytest.mark.parametrize("width", ["0", "-100", "0.5", "-0"])
def test_a_window_without_width_is_ignored_with_a_word(width):
    data = dicom_bytes(WindowCenter="1000", WindowWidth=width)
    assert_shows(data, full_range(RAMP), "window ignored: its width is below 1")
    for function in ("LINEAR_EXACT", "SIGMOID"):
        data = dicom_bytes(WindowCenter="1050", WindowWidth=width, VOILUTFunction=function)
        if width == "0.5":  # allowed there
            assert_shows(data, 255 * (RAMP > 1050))
        else:
            assert_shows(data, full_range(RAMP), "window ignored: its width is not above 0")


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("center", ["-9000", "9000"])
def test_a_window_beside_all_values_is_ignored_with_a_word(function, center):
    data = dicom_bytes(WindowCenter=center, WindowWidth="50", VOILUTFunction=function)
    assert_shows(data, full_range(RAMP), "it would show every pixel alike")


def test_half_a_window_and_an_unknown_function_are_said():
    assert_shows(dicom_bytes(WindowCenter="1000"), full_range(RAMP), "center or width is missing")
    assert_shows(dicom_bytes(WindowWidth="1000"), full_range(RAMP), "center or width is missing")
    linear = shown(dicom_bytes(WindowCenter=1000, WindowWidth=800))[0]
    assert_shows(dicom_bytes(WindowCenter=1000, WindowWidth=800, VOILUTFunction="FOO"), linear, "taken as LINEAR")


@pytest.mark.parametrize("place", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_windows_and_rescale_in_functional_groups_are_applied(place):
    window, rescale = {"WindowCenter": 1000, "WindowWidth": 800}, {"RescaleSlope": "2", "RescaleIntercept": "-1000"}
    group = data_set(FrameVOILUTSequence=[data_set(**window)], PixelValueTransformationSequence=[data_set(**rescale)])
    plain = shown(dicom_bytes(**window, **rescale))[0]
    assert 0 < plain.mean() < 255
    assert_shows(dicom_bytes(NumberOfFrames=1, **{place: [group]}), plain)
    others = data_set(FrameVOILUTSequence=[data_set(WindowCenter=5, WindowWidth=7)])
    both = {"SharedFunctionalGroupsSequence": [others], "PerFrameFunctionalGroupsSequence": [group]}
    assert_shows(dicom_bytes(**both), plain)  # what is said of the frame itself goes first


@pytest.mark.parametrize(
    "photometric, shape, is_inverted, remark",
    [
        ("MONOCHROME2", "INVERSE", True, ""),
        ("MONOCHROME2", "IDENTITY", False, ""),
        ("MONOCHROME1", "INVERSE", True, ""),  # the two say the same
        ("MONOCHROME1", "IDENTITY", True, "IDENTITY ignored"),
        ("MONOCHROME2", "LIN OD", False, "neither IDENTITY nor INVERSE"),
    ],
)
def test_presentation_shape_and_photometric_interpretation_invert_once(photometric, shape, is_inverted, remark):
    data = dicom_bytes(PhotometricInterpretation=photometric, PresentationLUTShape=shape)
    assert_shows(data, 255 - full_range(RAMP) if is_inverted else full_range(RAMP), remark)
    if photometric == "MONOCHROME2" and not remark:
        dataset = pydicom.dcmread(io.BytesIO(data))
        assert_shows(data, full_range(pixels.apply_presentation_lut(dataset.pixel_array, dataset)))


# --- padding


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 700, "WindowWidth": 900}])
def test_padding_is_black_whatever_is_inverted(photometric, window):
    samples = RAMP.copy()
    samples[2:] = 4095
    data = dicom_bytes(
        samples, BitsStored=12, HighBit=11, PixelPaddingValue=4095, PhotometricInterpretation=photometric, **window
    )
    levels = shown(data)[0][..., 0]
    assert not levels[2:].any()
    without = shown(dicom_bytes(samples[:2], PhotometricInterpretation=photometric, **window))[0][..., 0]
    np.testing.assert_array_equal(levels[:2], without)


@pytest.mark.parametrize("vr", ["US", "SS"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_padding_written_with_the_wrong_sign_is_recognised(vr, dtype):
    samples = (RAMP.astype(int) - (1000 if dtype == np.int16 else 0)).astype(dtype)
    samples[2:] = np.array(-2000).astype(dtype)
    levels = shown(dicom_bytes(samples, PixelPaddingValue=Raw(struct.pack("<h", -2000), vr)))[0][..., 0]
    np.testing.assert_array_equal(levels, np.concatenate([full_range(samples[:2]), np.zeros((2, 8))]))


def test_padding_is_compared_with_the_stored_bits():
    samples = RAMP.astype(int) - 1500
    samples[2:] = -2000
    for junk in (0, 0xF000):  # the unused bits
        data = dicom_bytes(
            (samples & 0xFFF | junk).astype(np.uint16), BitsStored=12, HighBit=11, PixelRepresentation=1,
            PixelPaddingValue=Raw(struct.pack("<h", -2000), "US"),
        )  # fmt: skip
        np.testing.assert_array_equal(shown(data)[0][..., 0][:2], full_range(samples[:2]))
        assert not shown(data)[0][2:].any()


def test_a_range_of_padding_is_padding_in_either_order():
    for ends in ((0, 300), (300, 0)):
        data = dicom_bytes(PixelPaddingValue=ends[0], PixelPaddingRangeLimit=ends[1])
        assert_shows(data, full_range(RAMP, counted=RAMP > 300))
    samples = (RAMP.astype(int) - 1500).astype(np.int16)
    ends = {"PixelPaddingValue": -1500, "PixelPaddingRangeLimit": -1300}
    data = dicom_bytes(samples, **{keyword: Raw(struct.pack("<h", end), "US") for keyword, end in ends.items()})
    assert_shows(data, full_range(samples, counted=samples > -1300))
    data = dicom_bytes(RAMP.astype(np.float32), FloatPixelPaddingValue=0.0, FloatPixelPaddingRangeLimit=250.0)
    assert_shows(data, full_range(RAMP, counted=RAMP > 250))


def test_padding_that_cannot_be_is_ignored_with_a_word():
    assert_shows(dicom_bytes(PixelPaddingValue=Raw(b"\0\0\0")), full_range(RAMP), "PixelPaddingValue ignored")
    assert_shows(dicom_bytes(PixelPaddingRangeLimit=300), full_range(RAMP), "there is no PixelPaddingValue")
    everything = dicom_bytes(PixelPaddingValue=0, PixelPaddingRangeLimit=65535)
    assert_shows(everything, full_range(RAMP), "it would hide every pixel")


# --- files


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
)  # fmt: skip
def test_every_native_transfer_syntax_is_read_bare_too(syntax):
    assert_shows(dicom_bytes(syntax=syntax), full_range(RAMP))
    if syntax != uid.DeflatedExplicitVRLittleEndian:
        bare = dicom_bytes(syntax=syntax, is_bare=True)
        for data in (bare, bytes(128) + bare):
            assert_shows(data, full_range(RAMP))


def test_preamble_and_magic_word_may_be_missing():
    data = dicom_bytes()
    for odd in (data[128:], data[132:], data[:128] + data[132:], data[:128] + b"XXXX" + data[132:]):
        assert_shows(odd, full_range(RAMP))


def test_pixels_compressed_with_what_is_installed_are_read():
    for samples, expected in ((RAMP, full_range(RAMP)), (COLORS, COLORS)):
        dataset = pydicom.dcmread(io.BytesIO(dicom_bytes(samples)))
        dataset.compress(uid.RLELossless)
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        assert_shows(buffer.getvalue(), expected)
    lossless = encode(Image.fromarray(RAMP), "JPEG2000")
    assert_shows(compressed(lossless, uid.JPEG2000Lossless), full_range(RAMP))
    flat = np.kron(COLORS, np.ones((8, 8, 1), np.uint8))
    frame = encode(Image.fromarray(flat), "JPEG", quality=100, subsampling=0)
    data = compressed(frame, uid.JPEGBaseline8Bit, flat, PhotometricInterpretation="YBR_FULL_422")
    np.testing.assert_allclose(shown(data)[0], flat, atol=2)


@pytest.mark.parametrize(
    "syntax, package",
    [
        (uid.JPEGLosslessSV1, "pylibjpeg-libjpeg"),
        (uid.JPEGLossless, "pylibjpeg-libjpeg"),
        (uid.JPEGLSLossless, "pylibjpeg-libjpeg"),
        (uid.HTJ2KLossless, "pylibjpeg-openjpeg"),
        (uid.JPEGExtended12Bit, "pylibjpeg-libjpeg"),  # Pillow is there and reads 8 bits alone
    ],
)
def test_a_missing_decoder_is_named_with_its_package(syntax, package):
    if pixels.get_decoder(syntax).available_plugins not in ((), ("pillow",)):
        pytest.skip("the decoder is installed here")
    with pytest.raises(ConfigError, match=f"pip install .*{package}") as refusal:
        open_image(compressed(b"\xff\xd8\xff\xc3junk", syntax, BitsStored=12, HighBit=11), "x.dcm")
    assert "truncated or damaged" not in str(refusal.value)


def test_what_is_no_picture_says_what_it_is():
    for sop_class in (uid.BasicTextSRStorage, uid.RTStructureSetStorage):
        assert_refused(dicom_bytes(PixelData=None, SOPClassUID=sop_class)[:-76], f"{sop_class.name}.* no pixel data")
    assert_refused(compressed(b"abcd", uid.MPEG2MPML), "MPEG2 .* does not decode")
    assert_refused(dicom_bytes(Rows=0), "at least one pixel; its header says 8 x 0")
    assert_refused(dicom_bytes(Rows=65535, Columns=65535), "too large: expected at most 178,956,970 pixels")
    assert_refused(dicom_bytes()[:-9], "truncated or damaged DICOM file")
    assert_refused(dicom_bytes(np.zeros((8, 8), np.uint16), Rows=4), "pixel data for 2 frames")
    bare = compressed(b"abcd", uid.JPEGBaseline8Bit)
    assert_refused(bare[bare.index(b"\x08\0\x16\0UI") :], "without file meta whose pixels are compressed")


def test_a_deflated_bomb_is_refused_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr("reflex_jax.data.dicom_images._LARGEST_INFLATED", 10_000_000)
    data = dicom_bytes(syntax=uid.DeflatedExplicitVRLittleEndian)
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    end_of_meta = 144 + int.from_bytes(data[140:144], "little")
    assert_refused(
        data[:end_of_meta] + stream.compress(bytes(20_000_000)) + stream.flush(), "too large.*10,000,000 bytes"
    )


def test_threads_leave_the_filters_of_warnings_as_they_were():
    before, data = list(warnings.filters), dicom_bytes()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: open_image(data).tobytes(), range(100)))) == 1
    assert warnings.filters == before


def test_pydicom_says_nothing_of_its_own(recwarn, caplog):
    open_image(dicom_bytes(SOPInstanceUID=Raw(b"Jane.Doe"), SpecificCharacterSet=Raw(b"unknown ")), "x.dcm")
    assert not recwarn.list and not caplog.records
