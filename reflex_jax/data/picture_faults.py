"""HOST: how the picture decoders say that a file is no picture, or that part of it was left aside."""

from __future__ import annotations

import struct
import zlib

# What Pillow, pydicom and numpy answer to damaged bytes, depending on where the damage is.
DECODER_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip
LARGEST_PICTURE = 178_956_970  # pixels, the limit of Pillow: a quarter of a GiB takes two bits of a pixel
_LONGEST_REASON = 200


class UnreadablePictureError(ValueError):
    """Why a file gives no picture and what to do about it; whoever knows the file puts its name in front."""


class PictureWarning(UserWarning):
    """A picture was read without something that its file says, e.g. a window that cannot be applied."""

    def __init__(self, name: str, remark: str):
        """Keeps the remark apart from the picture's name, so that equal remarks can be counted."""
        super().__init__(name, remark)
        self.name, self.remark = name, remark

    def __str__(self) -> str:
        """Name and remark in one line."""
        return f"{self.name}: {self.remark}"


def first_line(error: BaseException) -> str:
    """An exception in a few words of one line."""
    return one_line(error)[:_LONGEST_REASON] or type(error).__name__


def one_line(text: object) -> str:
    """Text that may come out of a damaged file, with nothing in it that would break a line or a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(text).split()))


def check_size(width: int, height: int) -> None:
    """Refuses a picture by the size its header declares, before memory is taken for it.

    Raises:
      UnreadablePictureError: no pixels, or more than `LARGEST_PICTURE`.
    """
    if min(width, height) < 1:
        raise UnreadablePictureError(
            f"expected a picture of at least one pixel; its header says {width} x {height}. Replace or remove it."
        )
    if width * height > LARGEST_PICTURE:
        raise UnreadablePictureError(
            f"too large: expected at most {LARGEST_PICTURE:,} pixels; its header says {width} x {height}, "
            f"{width * height:,} pixels. Crop it or make it smaller."
        )
