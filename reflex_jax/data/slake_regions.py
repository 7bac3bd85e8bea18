"""HOST: where things are in SLAKE's pictures: the masks of its CT and MRI pictures, and boxes where it has no mask.

Beside `imgs/xmlabN/source.jpg` lie `mask.png`, whose grey values are those of `mask.txt` (`value:name`), and
`detection.json`, boxes (x, y, width, height) by name, several of a name where it has several parts. X-rays have boxes alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Picture, RowError
from reflex_jax.data.picture_files import PictureFiles

_IMAGE_FOLDER = "imgs"
_NAMES = "mask.txt"


@dataclass(frozen=True)
class Region:
    """A named part of a picture."""

    name: str
    mask: Bool[np.ndarray, "H W"]  # its pixels


class SlakeRegions:
    """Looks up what the folder of SLAKE's official files says of its pictures."""

    def __init__(self, root: Path):
        """Reads the names of grey values.

        Raises:
          ConfigError: a damaged archive, or a line that is no `value:name`.
        """
        self._files = PictureFiles(root, sorted(root.glob(f"{_IMAGE_FOLDER}*.zip")))
        self._names = _read_names(root / _NAMES)

    def of_picture(self, image_id: str, size: tuple[int, int]) -> list[Region]:
        """The parts of a picture, by name; none where the folder has nothing beside it.

        Args:
          image_id: as questions have it, `xmlabN/source.jpg`.
          size: (width, height) of the picture.
        Raises:
          ConfigError: a damaged file.
        """
        folder = image_id.rpartition("/")[0]
        mask, boxes = (self._find(f"{folder}/{name}") for name in ("mask.png", "detection.json"))
        masked = {} if mask is None else self._masks(mask, size)
        boxed: dict[str, Bool[np.ndarray, "H W"]] = {}
        for name, box in [] if boxes is None else _read_boxes(boxes):
            boxed.setdefault(name, np.zeros(size[::-1], bool))[_slices(box)] = True
        return [Region(name, pixels) for name, pixels in sorted((boxed | masked).items()) if pixels.any()]

    def _find(self, name: str) -> Picture | None:
        try:
            return self._files.find_inside(_IMAGE_FOLDER, name)
        except RowError:
            return None

    def _masks(self, picture: Picture, size: tuple[int, int]) -> dict[str, Bool[np.ndarray, "H W"]]:
        image = picture.load()
        if image.size != size:
            raise ConfigError(f"{picture.id}: expected a mask of {size} pixels, as its picture has; got {image.size}.")
        values = np.asarray(image)[..., 0]
        return {self._names[value]: values == value for value in np.unique(values).tolist() if value in self._names}


def _read_names(path: Path) -> dict[int, str]:
    if not path.is_file():
        return {}
    names = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        value, colon, name = line.partition(":")
        if line.strip() and not (colon and value.strip().isdigit() and name.strip()):
            raise ConfigError(f"{path}: expected lines of value:name; got {line[:80]!r}.")
        if line.strip():
            names[int(value)] = name.strip()
    return names


def _read_boxes(picture: Picture) -> list[tuple[str, Sequence[float]]]:
    complaint = ConfigError(f"{picture.id}: expected a list of {{name: [x, y, width, height]}}, as SLAKE ships.")
    try:
        content: Any = json.loads(picture.read())  # type: ignore[arg-type]
    except (UnicodeDecodeError, ValueError) as error:
        raise complaint from error
    found: list[tuple[str, Sequence[float]]] = []
    for entry in content if isinstance(content, list) else [None]:
        if not isinstance(entry, dict):
            raise complaint
        for name, box in entry.items():
            if not (isinstance(box, list) and len(box) == 4 and all(_is_length(number) for number in box)):
                raise complaint
            found.append((str(name), box))
    return found


def _is_length(number: Any) -> bool:
    return isinstance(number, int | float) and math.isfinite(number) and number >= 0


def _slices(box: Sequence[float]) -> tuple[slice, slice]:
    x, y, width, height = (round(number) for number in box)
    return slice(y, y + height), slice(x, x + width)
