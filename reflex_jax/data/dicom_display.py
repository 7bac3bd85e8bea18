"""HOST: stored values of a grey DICOM picture -> the levels a viewer shows (DICOM PS3.3 C.11).

- Modality transform: the modality table, or rescale slope and intercept (1 and 0 where left out).
- Values of interest: the first window that can be applied (LINEAR, LINEAR_EXACT, SIGMOID), or else the first table,
  its output spread over the full range, or else the full range. A window or table that would show every pixel alike
  is not applied. In an enhanced file they stand in the functional groups, the frame's own before the shared ones.
- MONOCHROME1, or the presentation shape INVERSE, shows the smallest value white; both together invert once.
- Padding pixels are black, and no part of the full range.

Tags may be in any state; whatever is ignored is a remark.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Num, UInt8

from reflex_jax.data.dicom_tags import (
    LookupTable,
    places_of,
    read_number,
    read_numbers,
    read_table,
    read_word,
    sequence_items,
)
from reflex_jax.data.grey_levels import scale_to_bytes, value_range


def displayed_levels(
    samples: Num[np.ndarray, "h w"], stored: Num[np.ndarray, "h w"], dataset: Any, remarks: list[str]
) -> UInt8[np.ndarray, "h w"]:
    """The picture on a grey scale from 0, black, to 255, white.

    Args:
      samples: as they lie in the file.
      stored: the same without unused bits.
      dataset: of pydicom.
      remarks: gets a line for whatever is ignored.
    """
    is_padding = _padding(samples, stored, dataset, remarks)
    if stored.dtype.kind == "f" or stored.dtype.itemsize > 2:
        return _show(stored, ~is_padding, dataset, remarks)
    # Levels depend on the value alone, and there are few values: a large picture needs no copies in float64.
    low = int(stored.min())
    places = np.subtract(stored, low, dtype=np.int32)
    is_present = np.zeros(places.max() + 1, bool)
    is_present[places[~is_padding]] = True
    values = (np.flatnonzero(is_present) + low)[None]
    levels = np.zeros(len(is_present), np.uint8)
    levels[is_present] = _show(values, np.ones(values.shape, bool), dataset, remarks)[0]
    return np.where(is_padding, np.uint8(0), levels[places])


def _show(
    stored: Num[np.ndarray, "h w"], is_counted: Bool[np.ndarray, "h w"], dataset: Any, remarks: list[str]
) -> UInt8[np.ndarray, "h w"]:
    """The levels of stored values; black where they do not count or become infinite."""
    values = _apply_modality(stored, dataset, remarks)
    is_counted = np.isfinite(values) & is_counted
    is_inverted = _is_inverted(dataset, remarks)
    if not is_counted.any():
        return np.zeros(values.shape, np.uint8)
    low, high = value_range(values, is_counted)
    for fractions in _values_of_interest(values, is_counted, dataset, remarks):
        levels = np.rint(255.0 * np.where(is_counted, fractions, 0.0)).astype(np.uint8)
        if levels[is_counted].min() < levels[is_counted].max() or low == high:
            return np.where(is_counted, 255 - levels if is_inverted else levels, np.uint8(0))
        remarks.append("window or table ignored: it would show every pixel alike")
    return scale_to_bytes(values, is_counted, is_inverted=is_inverted)


def _is_inverted(dataset: Any, remarks: list[str]) -> bool:
    photometric, shape = (read_word(dataset, tag) for tag in ("PhotometricInterpretation", "PresentationLUTShape"))
    if shape not in ("", "IDENTITY", "INVERSE"):
        remarks.append("PresentationLUTShape ignored: it is neither IDENTITY nor INVERSE")
    if shape == "IDENTITY" and photometric == "MONOCHROME1":
        remarks.append("PresentationLUTShape IDENTITY ignored: MONOCHROME1 is shown inverted")
    if "PresentationLUTSequence" in dataset:
        remarks.append("PresentationLUTSequence ignored")
    return photometric == "MONOCHROME1" or shape == "INVERSE"


def _apply_modality(stored: Num[np.ndarray, "h w"], dataset: Any, remarks: list[str]) -> Float[np.ndarray, "h w"]:
    for item in sequence_items(dataset, "ModalityLUTSequence", remarks)[:1]:
        is_signed = bool((stored < 0).any())
        table = read_table(item, "LUTDescriptor", "LUTData", is_signed=is_signed, remarks=remarks)
        if table is not None:
            return table.apply(stored)
    for place in places_of(dataset, "PixelValueTransformationSequence", remarks):
        slope, intercept = (read_number(place, f"Rescale{part}", remarks) for part in ("Slope", "Intercept"))
        if slope == 0:
            remarks.append("RescaleSlope ignored: it is 0")
            slope = None
        if slope is not None or intercept is not None:
            return stored.astype(np.float64) * (1.0 if slope is None else slope) + (intercept or 0.0)
    return stored.astype(np.float64)


def _padding(
    samples: Num[np.ndarray, "h w"], stored: Num[np.ndarray, "h w"], dataset: Any, remarks: list[str]
) -> Bool[np.ndarray, "h w"]:
    """Which pixels lie outside of the picture: equal to the padding value, or between it and the range limit.

    The value is often written with the wrong sign, so it is compared as bits: with the samples as they lie in the file
    and with the stored bits of them.
    """
    kind = {"float32": "Float", "float64": "DoubleFloat"}.get(stored.dtype.name, "")
    value, limit = (read_number(dataset, f"{kind}PixelPadding{end}", remarks) for end in ("Value", "RangeLimit"))
    if value is None:
        if limit is not None:
            remarks.append("PixelPaddingRangeLimit ignored: there is no PixelPaddingValue")
        return np.zeros(stored.shape, bool)
    ends = (value, value if limit is None else limit)
    if kind:
        is_padding = (stored >= np.float64(min(ends))) & (stored <= np.float64(max(ends)))
    else:
        allocated = 8 * samples.dtype.itemsize
        is_padding = _lies_between(samples, ends, allocated) | _lies_between(stored, ends, allocated)
        is_padding |= _lies_between(stored, ends, int(dataset.BitsStored))
    if is_padding.all() and stored.min() < stored.max():
        remarks.append("PixelPaddingValue ignored: it would hide every pixel")
        return np.zeros(stored.shape, bool)
    return is_padding


def _lies_between(values: Num[np.ndarray, "h w"], ends: tuple[float, float], bits: int) -> Bool[np.ndarray, "h w"]:
    """Whether values of so many bits lie between two numbers that are meant as such values, of whatever sign."""
    wrapped = [int(end) for end in ends]
    if values.dtype.kind == "i":
        wrapped = [end - (1 << bits) if 1 << (bits - 1) <= end < 1 << bits else end for end in wrapped]
    else:
        wrapped = [end + (1 << bits) if -(1 << (bits - 1)) <= end < 0 else end for end in wrapped]
    return (values >= min(wrapped)) & (values <= max(wrapped))


def _values_of_interest(
    values: Float[np.ndarray, "h w"], is_counted: Bool[np.ndarray, "h w"], dataset: Any, remarks: list[str]
) -> Iterator[Float[np.ndarray, "h w"]]:
    """The picture as fractions in [0, 1] under each window and table of the file, as far as they can be applied."""
    for place in places_of(dataset, "FrameVOILUTSequence", remarks):
        centers, widths = (read_numbers(place, f"Window{part}", remarks) for part in ("Center", "Width"))
        function = read_word(place, "VOILUTFunction") or "LINEAR"
        if centers and widths and function not in _WINDOWS:
            remarks.append("VOILUTFunction is none of LINEAR, LINEAR_EXACT, SIGMOID: taken as LINEAR")
            function = "LINEAR"
        for center, width in zip_longest(centers, widths, fillvalue=np.nan):
            if not np.isfinite([center, width]).all():
                remarks.append("window ignored: its center or width is missing or no number")
            elif width >= 1 if function == "LINEAR" else width > 0:
                yield _WINDOWS[function](values, center, width)
            else:
                least = "below 1" if function == "LINEAR" else "not above 0"
                remarks.append(f"window ignored: its width is {least}")
        for item in sequence_items(place, "VOILUTSequence", remarks):
            low, _ = value_range(values, is_counted)
            table = read_table(item, "LUTDescriptor", "LUTData", is_signed=bool(low < 0), remarks=remarks)
            if table is not None:
                yield _spread(table, values, is_counted)


def _spread(
    table: LookupTable, values: Float[np.ndarray, "h w"], is_counted: Bool[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w"]:
    """The entries of a table over the range that the picture uses of them."""
    entries = table.apply(values)
    low, high = value_range(entries, is_counted)
    return (np.where(is_counted, entries, low) - low) / max(high - low, 1.0)


def _linear_window(values: Float[np.ndarray, "h w"], center: float, width: float) -> Float[np.ndarray, "h w"]:
    """PS3.3 C.11.2.1.2.1; a width of 1 is a threshold."""
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0)


def _exact_window(values: Float[np.ndarray, "h w"], center: float, width: float) -> Float[np.ndarray, "h w"]:
    """PS3.3 C.11.2.1.3.2."""
    return np.clip((values - center) / width + 0.5, 0.0, 1.0)


def _sigmoid_window(values: Float[np.ndarray, "h w"], center: float, width: float) -> Float[np.ndarray, "h w"]:
    """PS3.3 C.11.2.1.3.1."""
    return 1.0 / (1.0 + np.exp(-4.0 * (values - center) / width))


_WINDOWS = {"LINEAR": _linear_window, "LINEAR_EXACT": _exact_window, "SIGMOID": _sigmoid_window}
