"""HOST: any medical image file -> 8-bit RGB pixels, or a refusal that names the file.

Whatever identifies a patient (EXIF, comments, DICOM tags) stays behind: only pixels leave this module.

- More than 8 bits a sample (16-bit PNG and TIFF, float TIFF, DICOM without a window) are scaled linearly from
  the image's own range, smallest value to 0 and largest to 255; a constant image becomes black.
- Transparent pixels show white, as on a page.
- DICOM: modality transform (rescale slope and intercept), then the file's first window, or its VOI table, or
  the full range without padding pixels; MONOCHROME1 is inverted, as a viewer shows it.
- Files of several frames are refused: picking one silently would drop findings.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Num, UInt8
from PIL import Image, ImageOps

from reflex_jax.config import ConfigError

_DICOM_MAGIC = slice(128, 132)
_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


def open_image(source: bytes | str | Path, name: str | None = None) -> Image.Image:
    """Decodes a whole picture (PNG, JPEG, TIFF, ..., DICOM) to 8-bit RGB, upright.

    Args:
      source: the file's bytes or its path.
      name: what an error calls the picture; default: the path.

    Returns:
      An RGB image that carries no metadata.

    Raises:
      ConfigError: missing, truncated, of several frames, or not an image; the line names it.
    """
    name = name or ("image" if isinstance(source, bytes) else str(source))
    if not isinstance(source, bytes):
        try:
            source = Path(source).read_bytes()
        except OSError as error:
            raise ConfigError(f"{name}: cannot be read ({error.strerror}).") from error
    if is_dicom(source, name):
        return Image.fromarray(_dicom_pixels(source, name))
    return _raster_image(source, name)


def is_dicom(data: bytes, name: str) -> bool:
    """Whether a file is DICOM by its preamble or its name."""
    return data[_DICOM_MAGIC] == b"DICM" or name.lower().endswith((".dcm", ".dicom"))


def _raster_image(data: bytes, name: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as image:
            # A camera's MPO holds previews beside the picture, the first frame is the picture.
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            image.load()
            upright = ImageOps.exif_transpose(image)
    # Pillow's decoders answer broken bytes with any of these.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ConfigError(
            f"{name}: not a readable image, truncated or damaged ({error}). Replace or remove it."
        ) from error
    if frames > 1:
        raise ConfigError(f"{name}: expected one picture, got {frames} frames. Export the frame you want.")
    return _to_rgb(upright)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _WIDE_MODES:
        # Pillow's own conversion clips or wraps wide samples; the transparency key is in the same wide units.
        samples = np.asarray(image).astype(np.float64)
        is_opaque = samples != image.info.get("transparency", np.nan)
        return Image.fromarray(
            _grey_to_rgb(np.where(is_opaque, _scale_to_bytes(samples, is_opaque), np.uint8(255)))
        )
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        page = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(page, image.convert("RGBA"))
    converted = image.convert("RGB")
    return Image.frombytes("RGB", converted.size, converted.tobytes())


def _scale_to_bytes(
    samples: Float[np.ndarray, "h w"], is_counted: Bool[np.ndarray, "h w"] | None = None
) -> UInt8[np.ndarray, "h w"]:
    """Maps the range of the counted samples to 0..255; the others, and what is not finite, become 0."""
    is_counted = np.isfinite(samples) & (True if is_counted is None else is_counted)
    if not is_counted.any():
        return np.zeros(samples.shape, np.uint8)
    low, high = samples[is_counted].min(), samples[is_counted].max()
    scaled = (np.where(is_counted, samples, low) - low) * 255.0 / max(high - low, np.finfo(np.float64).tiny)
    return np.rint(scaled).astype(np.uint8)


def _grey_to_rgb(grey: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.repeat(grey[:, :, None], 3, axis=2)


def _dicom_pixels(data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Modality transform, then window, VOI table or full range (DICOM PS3.3 C.11)."""
    dataset, values, is_padding = _read_dicom(data, name)
    if values.ndim == 3:
        return (values >> 8 if values.dtype == np.uint16 else values)[:, :, :3].astype(np.uint8)
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        grey = np.rint(255.0 * _window(values, dataset)).astype(np.uint8)
    else:
        grey = _scale_to_bytes(values, ~is_padding)
    return _grey_to_rgb(255 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey)


def _read_dicom(
    data: bytes, name: str
) -> tuple[Any, Num[np.ndarray, "h w *rgb"], Bool[np.ndarray, "h w *rgb"]]:
    """The header, the values after the modality transform and, without a window, the VOI table, and what is padding."""
    try:
        import pydicom
        from pydicom import pixels
        from pydicom.errors import InvalidDicomError
    except ImportError as error:
        raise ConfigError(
            f"{name}: DICOM files need the extra `dicom`: pip install 'reflex_jax[dicom]'."
        ) from error
    try:
        dataset = pydicom.dcmread(io.BytesIO(data))
        frames = int(dataset.get("NumberOfFrames") or 1)
        stored = pixels.pixel_array(dataset) if frames == 1 else None
        values = stored
        if frames == 1 and dataset.PhotometricInterpretation == "PALETTE COLOR":
            values = pixels.apply_color_lut(stored, dataset)
        elif frames == 1 and stored.ndim == 2:
            values = pixels.apply_modality_lut(stored, dataset).astype(np.float64)
            if dataset.get("VOILUTSequence") and dataset.get("WindowCenter") is None:
                values = pixels.apply_voi(values.astype(np.int64), dataset).astype(np.float64)
    # pydicom reports missing tags, short pixel data, absent decoders and broken headers by these.
    except (
        OSError, EOFError, ValueError, AttributeError, KeyError, RuntimeError, NotImplementedError, InvalidDicomError
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{name}: not a readable DICOM picture, truncated or damaged ({reason}). Replace or remove it."
        ) from error
    if frames > 1:
        raise ConfigError(f"{name}: expected one picture, got {frames} frames. Export the frame you want.")
    padding = dataset.get("PixelPaddingValue")
    return dataset, values, np.zeros(stored.shape, bool) if padding is None else stored == padding


def _window(values: Float[np.ndarray, "h w"], dataset) -> Float[np.ndarray, "h w"]:
    """The first window of the file as fractions in [0, 1] (PS3.3 C.11.2.1.2)."""
    center, width = (float(np.atleast_1d(dataset[key].value)[0]) for key in ("WindowCenter", "WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(-4.0 * (values - center) / width))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0.0, 1.0)
    return np.clip((values - (center - 0.5)) / max(width - 1.0, np.finfo(np.float64).tiny) + 0.5, 0.0, 1.0)
