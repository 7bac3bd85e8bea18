"""HOST: numbers, tables and nested groups of a DICOM data set, whatever state its elements are in.

pydicom converts an element when it is read and fails on an odd one ("3,00", three bytes of a number of two). Here the
stored bytes are read instead; an element that cannot be made out is as good as absent, and a remark says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from reflex_jax.data.picture_faults import DECODER_ERRORS

_NUMBER_TYPES = {"US": "u2", "SS": "i2", "UL": "u4", "SL": "i4", "FL": "f4", "FD": "f8", "UV": "u8", "SV": "i8"}
_DECIMAL = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
_WORD_CHOICES = ("US or SS", "US or OW", "US or SS or OW")  # types that only the pixels decide


@dataclass(frozen=True)
class LookupTable:
    """A table of a DICOM file: entry 0 stands for all values up to `first_mapped`, the last one for all beyond."""

    entries: Num[np.ndarray, "n"]
    first_mapped: int

    def apply(self, values: Num[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
        """The entry of each value."""
        places = np.nan_to_num(np.floor(np.asarray(values, np.float64) - self.first_mapped))
        return self.entries[np.clip(places, 0, len(self.entries) - 1).astype(np.int64)].astype(np.float64)


def read_numbers(dataset: Any, keyword: str, remarks: list[str]) -> list[float]:
    """The finite numbers of an element; [] where it is absent or empty, NaN for one number of several that is none.

    A decimal comma, spaces and zero bytes around a number are forgiven.
    """
    element = dataset.get_item(keyword) if keyword in dataset else None
    value = None if element is None else element.value
    if value is None:
        return []
    if isinstance(value, bytes) and (code := _NUMBER_TYPES.get(_value_type(element))):
        values = _integers(value, code, element)
    elif isinstance(value, (bytes, str)):
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if not text.strip(" \0\t\r\n"):
            return []
        values = [_decimal(part) for part in text.split("\\")]
    else:
        values = [_decimal(str(part)) for part in (value if isinstance(value, MutableSequence) else [value])]
    if not values:
        return []
    if not np.isfinite(values).any():
        remarks.append(f"{keyword} ignored: it holds no number")
        return []
    return [float(number) if np.isfinite(number) else np.nan for number in values]


def read_number(dataset: Any, keyword: str, remarks: list[str]) -> float | None:
    """The first number of an element, None where there is none."""
    numbers = read_numbers(dataset, keyword, remarks)
    return numbers[0] if numbers and np.isfinite(numbers[0]) else None


def read_word(dataset: Any, keyword: str) -> str:
    """A code string in capitals, "" where the element is absent or no text."""
    element = dataset.get_item(keyword) if keyword in dataset else None
    value = "" if element is None or element.value is None else element.value
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return text.split("\\")[0].strip(" \0\t\r\n").upper()


def sequence_items(dataset: Any, keyword: str, remarks: list[str]) -> Sequence[Any]:
    """The data sets of a sequence, [] where it is absent or cannot be read."""
    if keyword not in dataset:
        return []
    try:
        element = dataset[keyword]
        return list(element.value or []) if element.VR == "SQ" else []
    except DECODER_ERRORS:
        remarks.append(f"{keyword} ignored: it cannot be read")
        return []


def places_of(dataset: Any, group: str, remarks: list[str]) -> Iterator[Any]:
    """Where a functional group of the first frame may stand: for this frame, for all frames, or in the data set."""
    for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for frame in sequence_items(dataset, groups, remarks)[:1]:
            yield from sequence_items(frame, group, remarks)[:1]
    yield dataset


def read_table(item: Any, descriptor: str, data: str, *, is_signed: bool, remarks: list[str]) -> LookupTable | None:
    """A lookup table, or None with a remark where it is missing, empty or damaged.

    Args:
      item: data set that holds the two elements.
      descriptor: keyword of number of entries, first mapped value and bits an entry.
      data: keyword of the entries, 8 or 16 bits each.
      is_signed: whether the values to map can be negative, which their first one does not say itself.
      remarks: gets a line for what was ignored.
    """
    numbers = read_numbers(item, descriptor, [])
    try:
        entries = _table_entries(item, data)
    except DECODER_ERRORS:
        entries = None
    if len(numbers) == 3 and np.isfinite(numbers).all() and entries is not None:
        count, first_mapped = int(numbers[0]) & 0xFFFF or 1 << 16, int(numbers[1])
        if first_mapped >= 1 << 15 and is_signed:
            first_mapped -= 1 << 16
        if entries.dtype.itemsize == 1 and len(entries) >= 2 * count:
            entries = entries[: len(entries) // 2 * 2].view(_words(item, data))
        if len(entries) >= count:
            return LookupTable(entries[:count], first_mapped)
    remarks.append(f"{data} ignored: the table is missing, empty or damaged")
    return None


def _table_entries(item: Any, data: str) -> np.ndarray:
    """The bytes of a table, or its numbers where pydicom has converted them."""
    value = item.get_item(data).value
    return np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.asarray(value, np.uint16).reshape(-1)


def _words(item: Any, data: str) -> str:
    return "<u2" if _is_little_endian(item.get_item(data), item) else ">u2"


def _is_little_endian(element: Any, dataset: Any = None) -> bool:
    stored = getattr(element, "is_little_endian", None)
    if stored is None and dataset is not None:  # converted by pydicom, which left the bytes as they were
        stored = dataset.original_encoding[1]
    return stored is not False


def _value_type(element: Any) -> str:
    """The type in which an element is written, by the dictionary where the file does not say."""
    from pydicom.datadict import dictionary_VR

    written = element.VR
    if written in (None, "UN", "OB", "OW"):
        written = dictionary_VR(element.tag)
    return "US" if written in _WORD_CHOICES else str(written)


def _integers(value: bytes, code: str, element: Any) -> list[float]:
    """Numbers of fixed size; [NaN] where the length is not a multiple of it."""
    dtype = np.dtype(("<" if _is_little_endian(element) else ">") + code)
    if len(value) % dtype.itemsize:
        return [np.nan]
    return [float(number) for number in np.frombuffer(value, dtype)]


def _decimal(text: str) -> float:
    text = text.strip(" \0\t\r\n")
    return float(text.replace(",", ".")) if _DECIMAL.fullmatch(text) else np.nan
