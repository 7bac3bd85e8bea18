"""Odd picture files and DICOM: converted rightly, or refused by name."""

import gzip
import io
import os
import pickle
import struct
import sys
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from reflex_jax.config import ConfigError
from reflex_jax.data.medical_images import open_image
from reflex_jax.data.picture_faults import PictureWarning
from reflex_jax.data.raster_images import _known_formats

pydicom = pytest.importorskip("pydicom")


def encode(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


def pixels_of(source, name="picture"):
    image = open_image(source, name)
    assert image.mode == "RGB" and image.info == {}
    return np.asarray(image)


@pytest.mark.parametrize("name", ["truncated_jpeg.jpg", "truncated_image.png", "SOURCE.md"])
def test_a_damaged_file_is_refused_by_name(data_root, name):
    with pytest.raises(ConfigError, match=name) as refusal:
        open_image(data_root / "odd-images" / name)
    assert "\n" not in str(refusal.value)


# First row of the 8-bit result, or None where another test looks at the values; and what is said.
CASES = {
    "slope_empty.dcm": ([0, 8, 16, 25, 33, 41, 49, 58], None),
    "window_comma.dcm": ([0] * 8, None),
    "padding_3_bytes.dcm": ([0, 8, 16, 25, 33, 41, 49, 58], "PixelPaddingValue ignored"),
    "voi_lut_empty.dcm": ([0, 8, 16, 25, 33, 41, 49, 58], "LUTData ignored"),
    "inverse_presentation.dcm": ([255, 247, 239, 230, 222, 214, 206, 197], None),
    "rgb12in16.dcm": ([94, 216, 14, 214, 247, 68, 204, 60], None),
    "png_named.dcm": (None, None),
    "bare_dataset.dcm": ([0, 8, 16, 25, 33, 41, 49, 58], None),
    "text_resolution.jpg": (None, None),
    "u16_white_is_zero.tif": ([255, 250, 244, 239, 233, 228, 222, 217], None),
    "s8.tif": ([0, 5, 11, 16, 22, 27, 33, 38], None),
}


def test_every_odd_file_shows_its_right_values(data_root):
    for name, (row, remark) in CASES.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pixels = pixels_of(data_root / "cases" / name, name)
        assert [remark in str(warning.message) for warning in caught] == [True] * bool(remark), name
        if row is not None:
            np.testing.assert_array_equal(pixels[0, :8, 0], row, err_msg=name)
    with Image.open(data_root / "cases" / "png_named.dcm") as stored:
        np.testing.assert_array_equal(
            pixels_of(data_root / "cases" / "png_named.dcm"), np.asarray(stored.convert("RGB"))
        )
    with Image.open(data_root / "cases" / "text_resolution.jpg") as stored:
        upright = np.rot90(np.asarray(stored.convert("RGB")), -1)  # its orientation is 6
    np.testing.assert_array_equal(pixels_of(data_root / "cases" / "text_resolution.jpg"), upright)
    comma = pixels_of(data_root / "cases" / "window_comma.dcm")[..., 0].reshape(-1)  # center 1500, width 3.00
    np.testing.assert_array_equal(comma, [0] * 15 + [191] + [255] * 16)


def test_names_never_decide_what_a_file_is(change_ct):
    png, dicom = encode(Image.effect_noise((9, 9), 80).convert("RGB")), change_ct()
    for name in ("a.dcm", "a.png", "a.jpg", "a", "a.txt"):
        np.testing.assert_array_equal(pixels_of(png, name), pixels_of(png))
        np.testing.assert_array_equal(pixels_of(dicom, name), pixels_of(dicom))
    # the magic word of DICOM inside of a PNG, at its very place
    inside = PngInfo()
    inside.add_text("a", "x" * 80 + "DICM" * 6)
    data = encode(Image.new("L", (3, 2), 7), pnginfo=inside)
    assert b"DICM" in data[128:140]
    shift = (128 - data.index(b"DICM")) % 4
    inside = PngInfo()
    inside.add_text("a", "x" * (80 + shift) + "DICM" * 6)
    data = encode(Image.new("L", (3, 2), 7), pnginfo=inside)
    assert data[128:132] == b"DICM" and (pixels_of(data) == 7).all()


@pytest.mark.parametrize(
    "data, what",
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html>\n<html>404 Not Found</html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "a Git LFS pointer.*git lfs pull"),
        (bytes(344) + b"n+1\0" + bytes(9), "a NIfTI volume"),
        (gzip.compress(bytes(344) + b"n+1\0" + bytes(9), mtime=0), "a gzip archive of a NIfTI volume"),
        (gzip.compress(b"a", mtime=0), "a gzip archive"),
        (b"NRRD0004\ntype: short\n", "an NRRD volume"),
        (b"ObjectType = Image\nNDims = 3\n", "a MetaImage"),
        (b"%PDF-1.4\n", "a PDF document"),
        (b"PK\3\4" + bytes(30), "a ZIP archive"),
        (b"\0\0\0\x18ftypheic", "an HEIC picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),  # Ghostscript is never started
        (b'{"a": 1}', "a text file"),
        (bytes(5000), "5000 zero bytes"),
        (bytes(range(200, 256)), "of no format known here"),
        (b"\x89PNG\r\n", "truncated or damaged PNG file"),
        (b"\xff\xd8\xff\xe0", "truncated or damaged JPEG file"),
    ],
)
def test_what_is_no_picture_is_named(data, what):
    with pytest.raises(ConfigError, match=f"scan.jpg: .*{what}") as refusal:
        open_image(data, "scan.jpg")
    assert "\n" not in str(refusal.value)


def test_files_that_cannot_be_read_are_refused_in_their_own_words(tmp_path, monkeypatch):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "secret.png").write_bytes(b"")
    words = {"gone.png": "no such file", "folder.png": "a directory", "pipe.png": "pipe", "nul\0.png": "cannot be read"}
    for name, word in words.items():
        with pytest.raises(ConfigError, match=word):
            open_image(tmp_path / name)

    def forbid(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", forbid)
    with pytest.raises(ConfigError, match="secret.png: no permission"):
        open_image(tmp_path / "secret.png")


@pytest.mark.parametrize(
    "error", [MemoryError(), RecursionError("deep"), struct.error("short"), SystemError("bad\ncall")]
)
def test_whatever_a_decoder_raises_becomes_one_line(monkeypatch, error):
    def fail(data):
        raise error

    monkeypatch.setattr("reflex_jax.data.medical_images.decode_raster", fail)
    with pytest.raises(ConfigError, match="x.png: truncated or damaged PNG file") as refusal:
        open_image(encode(Image.new("L", (2, 2))), "x.png")
    assert "\n" not in str(refusal.value)


def test_a_pillow_without_some_format_reads_the_others(monkeypatch):
    monkeypatch.setattr("reflex_jax.data.raster_images.FORMATS", ("AV2", "PNG"))
    _known_formats.cache_clear()
    assert pixels_of(encode(Image.new("L", (3, 2), 7))).max() == 7
    _known_formats.cache_clear()


def test_a_warning_survives_another_process():
    warning = pickle.loads(pickle.dumps(PictureWarning("a.png", "window ignored")))
    assert (str(warning), warning.remark) == ("a.png: window ignored", "window ignored")


def test_a_name_cannot_break_the_line():
    with pytest.raises(ConfigError) as refusal:
        open_image(b"", "two\nlines\x1b[2J.png")
    assert str(refusal.value).startswith("two lines?[2J.png: ")


@pytest.mark.parametrize("cut", [0, 1, 7, 60, 200])
def test_a_cut_png_never_passes(cut):
    with pytest.raises(ConfigError, match="cut.png"):
        open_image(encode(Image.effect_noise((40, 40), 90).convert("RGB"))[:cut], "cut.png")


def test_sixteen_bits_are_scaled_by_the_range_of_the_picture(data_root):
    # Pillow's own conversion would clip at 255, a plain cast would wrap: 256 -> 0, 40000 -> 64.
    samples = np.array([[1000, 1256, 21000], [31000, 40000, 41000]], np.uint16)
    expected = np.rint((samples.astype(float) - 1000) / 40000 * 255)
    for options in ({"format": "PNG"}, {"format": "TIFF"}):
        pixels = pixels_of(encode(Image.fromarray(samples), **options))
        np.testing.assert_array_equal(pixels, np.repeat(expected[:, :, None], 3, axis=2))
    shared = pixels_of(data_root / "odd-images" / "i_trns.png")
    assert shared.min() == 0 and shared.max() == 255 and len(np.unique(shared)) > 100


def test_float_and_constant_pictures_are_scaled_too():
    samples = np.array([[-1.5, 0.0], [np.nan, 1.5]], np.float32)
    pixels = pixels_of(encode(Image.fromarray(samples), format="TIFF"))[..., 0]
    np.testing.assert_array_equal(pixels, [[0, 128], [0, 255]])
    assert not pixels_of(encode(Image.fromarray(np.full((4, 4), 7000, np.uint16)))).any()


def test_cmyk_becomes_red_letters_on_black(data_root):
    pixels = pixels_of(data_root / "odd-images" / "pil_sample_cmyk.jpg")
    assert pixels.shape == (100, 100, 3)
    assert pixels[0, 0, 0] > 200 and pixels[0, 0, 1:].max() < 60  # the red mark in the corner; inverted: cyan
    assert np.median(pixels) < 30


def test_transparent_pixels_show_white(data_root):
    bird = pixels_of(data_root / "odd-images" / "pil123p.png")
    np.testing.assert_array_equal(bird[0, 0], [255, 255, 255])
    hidden = Image.new("RGBA", (2, 1), (200, 10, 10, 0))
    hidden.putpixel((1, 0), (200, 10, 10, 255))
    np.testing.assert_array_equal(pixels_of(encode(hidden)), [[[255, 255, 255], [200, 10, 10]]])


def test_a_camera_turned_picture_is_upright(data_root):
    path = data_root / "odd-images" / "hopper_orientation_6.jpg"
    pixels = pixels_of(path)
    with Image.open(path) as stored:
        sideways = np.asarray(stored.convert("RGB"))
        np.testing.assert_array_equal(pixels, np.asarray(ImageOps.exif_transpose(stored).convert("RGB")))
    np.testing.assert_array_equal(pixels, np.rot90(sideways, -1))


def test_several_frames_are_refused():
    frames = [Image.new("L", (8, 8), value) for value in (0, 200)]
    animated = encode(frames[0], format="GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(ConfigError, match="cine.gif.*2 frames"):
        open_image(animated, "cine.gif")


def test_grey_palette_and_plain_pictures_keep_their_values():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for image in (
        Image.fromarray(grey),
        Image.fromarray(grey).convert("RGB"),
        Image.fromarray(grey).convert("P"),
    ):
        np.testing.assert_array_equal(pixels_of(encode(image))[..., 1], grey)


def test_dicom_without_a_window_uses_its_full_range(data_root):
    stored = pydicom.dcmread(data_root / "dicom" / "CT_small.dcm").pixel_array.astype(float)
    pixels = pixels_of(data_root / "dicom" / "CT_small.dcm")
    expected = np.rint((stored - stored.min()) / (stored.max() - stored.min()) * 255)  # the rescale cancels out
    np.testing.assert_array_equal(pixels, np.repeat(expected[:, :, None], 3, axis=2))


def test_dicom_window_is_applied_and_rle_reads_the_same(data_root):
    dataset = pydicom.dcmread(data_root / "dicom" / "MR_small.dcm")
    pixels = pixels_of(data_root / "dicom" / "MR_small.dcm")[..., 0]
    np.testing.assert_array_equal(pixels, pixels_of(data_root / "dicom" / "MR_small_RLE.dcm")[..., 0])
    windowed = pydicom.pixels.apply_windowing(dataset.pixel_array, dataset)  # -32768 .. 32767
    np.testing.assert_allclose(pixels, (windowed + 32768) / 65535 * 255, atol=0.51)


def test_truncated_dicom_is_refused_by_name(data_root):
    with pytest.raises(ConfigError, match="MR_truncated.dcm") as refusal:
        open_image(data_root / "dicom" / "MR_truncated.dcm")
    assert "\n" not in str(refusal.value)


@pytest.fixture
def change_ct(data_root):
    """Bytes of the shared CT with some of its tags changed."""

    def change(**tags):
        dataset = pydicom.dcmread(data_root / "dicom" / "CT_small.dcm")
        for name, value in tags.items():
            if name.endswith("TableDescriptor"):  # its representation depends on the pixels', so it is named
                dataset.add_new(name, "US", value)
            else:
                setattr(dataset, name, value)
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        return buffer.getvalue()

    return change


def test_monochrome1_is_inverted(change_ct):
    plain = pixels_of(change_ct())
    np.testing.assert_array_equal(pixels_of(change_ct(PhotometricInterpretation="MONOCHROME1")), 255 - plain)


def test_rescale_comes_before_the_window(change_ct):
    # Window 0..400 of rescaled values: 1024 lower than the stored ones.
    pixels = pixels_of(change_ct(WindowCenter=200, WindowWidth=400))[..., 0]
    plain = pydicom.dcmread(io.BytesIO(change_ct())).pixel_array.astype(float) - 1024
    np.testing.assert_array_equal(pixels[plain <= 0], 0)
    np.testing.assert_array_equal(pixels[plain >= 400], 255)
    halved = pixels_of(
        change_ct(WindowCenter=[100, 7], WindowWidth=[200, 3], RescaleSlope="0.5", RescaleIntercept="-512")
    )
    np.testing.assert_allclose(halved[..., 0], pixels, atol=1)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_functions_equal_pydicom(change_ct, function):
    data = change_ct(WindowCenter=40, WindowWidth=900, VOILUTFunction=function)
    dataset = pydicom.dcmread(io.BytesIO(data))
    windowed = pydicom.pixels.apply_windowing(pydicom.pixels.apply_modality_lut(dataset.pixel_array, dataset), dataset)
    low, high = -32768 - 1024, 32767 - 1024
    np.testing.assert_allclose(pixels_of(data)[..., 0], (windowed - low) / (high - low) * 255, atol=0.51)


def test_padding_pixels_do_not_stretch_the_range(change_ct):
    dataset = pydicom.dcmread(io.BytesIO(change_ct()))
    stored = dataset.pixel_array.copy()
    stored[:10] = -2000  # the file's padding value
    pixels = pixels_of(change_ct(PixelData=stored.tobytes()))[..., 0]
    rest = stored[10:].astype(float)
    assert not pixels[:10].any()
    np.testing.assert_array_equal(pixels[10:], np.rint((rest - rest.min()) / (rest.max() - rest.min()) * 255))


def test_color_and_palette_dicom_show_their_colors(change_ct):
    colors = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    tags = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}
    data = change_ct(
        **tags,
        PixelData=colors.tobytes(),
        SamplesPerPixel=3,
        PlanarConfiguration=0,
        PhotometricInterpretation="RGB",
    )
    np.testing.assert_array_equal(pixels_of(data), colors)
    ramp = np.arange(256, dtype=np.uint16) * 257
    tables = {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 16] for name in ("Red", "Green", "Blue")}
    tables["RedPaletteColorLookupTableData"] = ramp.tobytes()
    tables["GreenPaletteColorLookupTableData"] = ramp[::-1].tobytes()
    tables["BluePaletteColorLookupTableData"] = np.zeros(256, np.uint16).tobytes()
    index = colors[..., 0]
    data = change_ct(**tags, **tables, PixelData=index.tobytes(), PhotometricInterpretation="PALETTE COLOR")
    np.testing.assert_array_equal(pixels_of(data), np.stack([index, 255 - index, 0 * index], axis=-1))


def test_dicom_that_is_no_single_picture_is_refused_by_name(change_ct):
    stored = np.zeros((2, 128, 128), np.int16)
    with pytest.raises(ConfigError, match="cine.dcm.*2 frames"):
        open_image(change_ct(NumberOfFrames=2, PixelData=stored.tobytes()), "cine.dcm")
    dataset = pydicom.dcmread(io.BytesIO(change_ct()))
    del dataset.PixelData
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    for data in (buffer.getvalue(), b"no dicom at all", change_ct()[:200]):
        with pytest.raises(ConfigError, match="report.dcm"):
            open_image(data, "report.dcm")


def test_without_pydicom_the_extra_is_named(data_root, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ConfigError, match=r"CT_small.dcm.*reflex_jax\[dicom\]"):
        open_image(data_root / "dicom" / "CT_small.dcm")
