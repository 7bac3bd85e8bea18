"""HOST: grey samples of any type and range -> 8-bit levels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Num, UInt8

_BLOCK_PIXELS = 1 << 20  # float64 copies are made of so many pixels at a time


def scale_to_bytes(
    samples: Num[np.ndarray, "h w"],
    is_counted: Bool[np.ndarray, "h w"] | None = None,
    *,
    is_inverted: bool = False,
) -> UInt8[np.ndarray, "h w"]:
    """Maps the range of the counted samples to 0..255.

    Args:
      samples: of any type; a constant picture becomes level 0.
      is_counted: False where a sample is no part of the picture (padding); None: all count.
      is_inverted: whether the smallest sample is white.

    Returns:
      The levels; what does not count, and what is not finite, is black either way.
    """
    is_counted = np.ones(samples.shape, bool) if is_counted is None else is_counted
    if samples.dtype.kind == "f":
        is_counted = is_counted & np.isfinite(samples)
    levels = np.zeros(samples.shape, np.uint8)
    if not is_counted.any():
        return levels
    low, high = (float(extreme) for extreme in value_range(samples, is_counted))
    rows = max(1, _BLOCK_PIXELS // samples.shape[1])
    with np.errstate(all="ignore"):
        for start in range(0, samples.shape[0], rows):
            block, counted = (array[start : start + rows] for array in (samples, is_counted))
            values = np.where(counted, block, low).astype(np.float64)
            scaled = (values - low) * 255.0 / max(high - low, np.finfo(np.float64).tiny)
            shown = np.rint(np.nan_to_num(scaled)).astype(np.uint8)
            levels[start : start + rows] = np.where(counted, 255 - shown if is_inverted else shown, 0)
    return levels


def value_range(samples: Num[np.ndarray, "h w"], is_counted: Bool[np.ndarray, "h w"]) -> tuple[np.number, np.number]:
    """Smallest and largest of the counted samples, of which there is at least one, in their own type."""
    counted = samples[is_counted]
    return counted.min(), counted.max()


def grey_to_rgb(grey: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Three equal channels."""
    return np.repeat(grey[:, :, None], 3, axis=2)
