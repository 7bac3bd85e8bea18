"""Pictures as the judge saw them: what tells them apart, and where they are kept if a run is told to."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

PICTURE_FOLDER = "evidence_pictures"


def picture_digest(pixels: UInt8[np.ndarray, "H W 3"]) -> str:
    """SHA-256 of "HEIGHTxWIDTH" and a line feed, then of the RGB bytes row by row."""
    height, width, _ = pixels.shape
    return hashlib.sha256(f"{height}x{width}\n".encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def keep_picture(directory: Path, pixels: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes a picture as `evidence_pictures/DIGEST.png` of a run directory, once.

    Raises:
      OSError: it cannot be written.
    """
    path = picture_path(directory, picture_digest(pixels))
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    Image.fromarray(pixels).save(part, format="PNG")
    os.replace(part, path)


def picture_path(directory: Path, digest: str) -> Path:
    """Where a run keeps a picture, if it does."""
    return directory / PICTURE_FOLDER / f"{digest}.png"
