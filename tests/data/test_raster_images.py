"""PNG, JPEG, TIFF and their like: the values that are in them, upright, or a refusal in words."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from reflex_jax.config import ConfigError
from reflex_jax.data.medical_images import open_image
from reflex_jax.data.picture_faults import PictureWarning

pytest.importorskip("pydicom")  # the builders of picture files need it

from tests.picture_files import RAMP, encode, full_range, tiff_bytes

SMALL = (RAMP // 100 * 5).astype(np.uint8)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))


def levels_of(data):
    pixels = np.asarray(open_image(data, "x"))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bytes(samples, *, color, depth, transparent=None, size=None):
    """A PNG of packed rows, with sample types that Pillow does not write."""
    width, height = size or samples.shape[1::-1]
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    key = b"" if transparent is None else chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    rows = samples if samples.dtype == np.uint8 else samples.astype(">u2")
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + key + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("dtype, low, factor", [
    ("u1", 0, 5), ("i1", -100, 5), ("u2", 0, 900), ("i2", -15000, 900), ("u4", 0, 130_000_000), ("i4", -5, 1000),
    ("f4", -3.5, 0.25),
])  # fmt: skip
def test_tiff_samples_of_every_type_and_either_zero(order, photometric, dtype, low, factor):
    samples = (RAMP.astype(float) // 100 * factor + low).astype(dtype)
    expected = samples if dtype == "u1" else full_range(samples)
    data = tiff_bytes(samples, photometric=photometric, order=order)
    np.testing.assert_array_equal(levels_of(data), 255 - expected if photometric == 0 else expected)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
def test_a_photometric_interpretation_may_be_a_long(order, photometric):
    """The specification says SHORT; in a big endian LONG the number lies two bytes further."""
    samples = (RAMP // 100 * 900).astype("u2")
    data = tiff_bytes(samples, photometric=photometric, order=order)
    short = struct.pack(order + "HHIHH", 262, 3, 1, photometric, 0)
    assert data.count(short) == 1
    expected = full_range(samples)
    data = data.replace(short, struct.pack(order + "HHII", 262, 4, 1, photometric))
    np.testing.assert_array_equal(levels_of(data), 255 - expected if photometric == 0 else expected)


def test_tiff_bits_and_compressions_with_either_zero():
    bits = np.arange(32).reshape(4, 8) % 3 == 0
    for compression in (None, "group4", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        data = encode(Image.fromarray(bits), "TIFF", compression=compression)
        np.testing.assert_array_equal(levels_of(data), 255 * bits)
        photometric = struct.pack("<HHIH", 262, 3, 1, 1)
        assert data.count(photometric) == 1
        white_is_zero = data.replace(photometric, struct.pack("<HHIH", 262, 3, 1, 0))
        np.testing.assert_array_equal(levels_of(white_is_zero), 255 - 255 * bits)
        if compression != "group4":
            deep = encode(Image.fromarray(RAMP), "TIFF", compression=compression)
            np.testing.assert_array_equal(levels_of(deep), full_range(RAMP))


def test_what_is_not_finite_is_black_in_either_sense():
    samples = RAMP.astype(np.float32)
    samples[0, 0], samples[1, 1] = np.nan, -np.inf
    expected = full_range(samples, counted=np.isfinite(samples))
    for photometric in (0, 1):
        levels = levels_of(tiff_bytes(samples, photometric=photometric))
        counted = np.isfinite(samples)
        np.testing.assert_array_equal(levels[counted], (expected if photometric else 255 - expected)[counted])
        assert not levels[~counted].any()


def test_a_tiff_that_lacks_strips_or_whose_samples_are_not_known_says_so():
    data = tiff_bytes(RAMP)
    height = struct.pack("<HHII", 257, 4, 1, 4)
    with pytest.raises(ConfigError, match="x: .*8 x 4000 pixels, its strips hold 32"):
        open_image(data.replace(height, struct.pack("<HHII", 257, 4, 1, 4000)), "x")
    with pytest.raises(ConfigError, match="x: .*sample layout that Pillow does not read"):
        open_image(tiff_bytes(RAMP.astype(float)), "x")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_is_turned_upright(format):
    for orientation in range(12):
        exif = Image.Exif()
        exif[274] = orientation
        data = encode(NOISE, format, exif=exif.tobytes())
        with Image.open(io.BytesIO(data)) as stored:
            expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            np.testing.assert_array_equal(np.asarray(open_image(data, "x")), expected)
        assert [type(warning.message) for warning in caught] == [PictureWarning] * (orientation > 8)


@pytest.mark.parametrize(
    "kind, count, value",
    [(1, 1, b"\6\0\0\0"), (2, 2, b"6\0\0\0"), (2, 7, b"upright\0"), (5, 1, b"\6\0\0\0\1\0\0\0"), (11, 1, b"\0\0\xc0@")],
)
def test_an_orientation_of_another_type_is_ignored_with_a_word(kind, count, value):
    place = value if len(value) == 4 else struct.pack("<I", 26)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHI", 1, 274, kind, count) + place + bytes(4) + value
    with pytest.warns(PictureWarning, match="orientation is none of 1 to 8"):
        image = open_image(encode(NOISE, "JPEG", quality=100, exif=exif), "x")
    assert image.size == NOISE.size


def test_an_exif_block_of_anything_leaves_the_picture():
    random = np.random.default_rng(0)
    for length in range(0, 60, 3):
        data = encode(NOISE, exif=b"Exif\0\0II*\0\x08\0\0\0" + random.bytes(length))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert sorted(open_image(data, "x").size) == [5, 7]


def test_png_of_16_bits_and_transparency_keys():
    colors = np.random.default_rng(0).integers(0, 1 << 16, (4, 8, 3), dtype=np.uint16)
    np.testing.assert_array_equal(np.asarray(open_image(png_bytes(colors, color=2, depth=16))), colors >> 8)
    keyed = full_range(RAMP, counted=RAMP != 300)
    keyed[RAMP == 300] = 255
    np.testing.assert_array_equal(levels_of(png_bytes(RAMP, color=0, depth=16, transparent=[300])), keyed)
    np.testing.assert_array_equal(
        levels_of(png_bytes(SMALL, color=0, depth=8, transparent=[10])), np.where(SMALL == 10, 255, SMALL)
    )
    packed = np.packbits(np.eye(8, dtype=bool), axis=1)
    data = png_bytes(packed, color=0, depth=1, size=(8, 8), transparent=[0])
    np.testing.assert_array_equal(levels_of(data), 255)
    with_alpha = np.stack([RAMP * 20, np.full_like(RAMP, 65535)], axis=-1)
    with pytest.warns(PictureWarning, match="high byte alone"):
        np.testing.assert_array_equal(levels_of(png_bytes(with_alpha, color=4, depth=16)), RAMP * 20 >> 8)


def test_netpbm_of_any_maximum():
    np.testing.assert_array_equal(levels_of(b"P5 8 4 4095\n" + RAMP.astype(">u2").tobytes()), full_range(RAMP))
    np.testing.assert_array_equal(levels_of(b"P2 3 1 4\n0 2 4 "), [[0, 128, 255]])
    colors = np.random.default_rng(0).integers(0, 4096, (4, 8, 3), dtype=np.uint16)
    pixels = np.asarray(open_image(b"P6 8 4 4095\n" + colors.astype(">u2").tobytes()))
    np.testing.assert_allclose(pixels, colors / 4095 * 255, atol=0.51)


def test_progressive_interlaced_and_lossless_files_keep_their_values():
    np.testing.assert_array_equal(levels_of(encode(Image.fromarray(RAMP), "JPEG2000")), full_range(RAMP))
    for format, options in (("WEBP", {"lossless": True}), ("BMP", {}), ("JPEG2000", {}), ("ICO", {"sizes": [(7, 5)]})):
        np.testing.assert_array_equal(np.asarray(open_image(encode(NOISE, format, **options))), np.asarray(NOISE))
    baseline, progressive = (encode(NOISE, "JPEG", progressive=flag) for flag in (False, True))
    np.testing.assert_array_equal(np.asarray(open_image(progressive)), np.asarray(open_image(baseline)))


@pytest.mark.parametrize("format", ["TIFF", "GIF", "PNG", "WEBP"])
def test_files_of_several_pictures_are_refused(format):
    data = encode(NOISE, format, save_all=True, append_images=[NOISE.rotate(180)])
    with pytest.raises(ConfigError, match="x: expected one picture, got 2 frames"):
        open_image(data, "x")


def test_a_picture_with_previews_is_one_picture():
    data = encode(NOISE, "MPO", save_all=True, append_images=[NOISE.rotate(180)])
    np.testing.assert_array_equal(np.asarray(open_image(data)), np.asarray(open_image(encode(NOISE, "JPEG"))))


@pytest.mark.parametrize("size", [(20_000, 10_000), (100, 10**9)])
def test_a_picture_beyond_all_bounds_says_how_large_is_allowed(size):
    with pytest.raises(ConfigError, match="x: too large: expected at most 178,956,970 pixels") as refusal:
        open_image(png_bytes(SMALL, color=0, depth=8, size=size), "x")
    assert "truncated" not in str(refusal.value) and f"{size[0] * size[1]} pixels" in str(refusal.value)
