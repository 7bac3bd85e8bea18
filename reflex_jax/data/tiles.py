"""HOST: a picture into square tiles, and the text that marks them in a prompt, as SmolVLM was trained on.

Sizes, resampling (Lanczos) and the order of the tiles equal those of Hugging Face's PIL image processor for SmolVLM: the
longest edge is brought to its size, both sides are stretched to whole tiles, and the tiles are read row by row; where there
are several the whole picture follows, squeezed into one more. So every tile is filled, and no padding is needed.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

LARGEST_EDGE = 4096  # of a resized picture: transformers shrinks a larger one again
_LANCZOS = Image.Resampling.LANCZOS


class TilePlan(NamedTuple):
    """What becomes of a picture; sizes are (width, height) in pixels."""

    resized: tuple[int, int]  # its longest edge brought to the size asked for
    stretched: tuple[int, int]  # to whole tiles
    rows: int  # of tiles; 0, and no columns: the picture is one tile
    columns: int

    @property
    def tiles(self) -> int:
        """How many there are, the whole picture included."""
        return self.rows * self.columns + 1


class TileMarks(NamedTuple):
    """The marks of a family's tokenizer."""

    image: str = "<image>"  # stands for one feature
    around: str = "<fake_token_around_image>"
    whole: str = "<global-img>"


def plan_tiles(size: tuple[int, int], *, tile: int, longest_edge: int, max_pixels: int, is_split: bool) -> TilePlan:
    """The tiles of a picture: those of transformers, with the longest edge lowered by whole tiles until they are few enough.

    Args:
      size: (width, height) of the picture.
      tile: pixels of a tile's side.
      longest_edge: what the longer side is brought to, larger or smaller, at most `LARGEST_EDGE`.
      max_pixels: area of the tiles together, the whole picture aside; at least one tile.
      is_split: False: every picture is squeezed into one tile.
    """
    edges = [longest_edge, *range((longest_edge - 1) // tile * tile, 0, -tile)]
    plans = (_plan(size, tile=tile, longest_edge=edge, is_split=is_split) for edge in edges)
    return next(plan for plan in plans if math.prod(plan.stretched) <= max_pixels)


def _plan(size: tuple[int, int], *, tile: int, longest_edge: int, is_split: bool) -> TilePlan:
    width, height = size
    ratio = width / height
    if width >= height:
        width, height = longest_edge, _even(longest_edge / ratio)
    else:
        width, height = _even(longest_edge * ratio), longest_edge
    resized = max(width, 1), max(height, 1)
    if not is_split:
        return TilePlan(resized, (tile, tile), 0, 0)
    width, height = resized
    ratio = width / height
    if width >= height:
        width = _whole(width, tile)
        height = _whole(int(width / ratio), tile)
    else:
        height = _whole(height, tile)
        width = _whole(int(height * ratio), tile)
    is_one = max(width, height) <= tile
    return TilePlan(resized, (width, height), 0 if is_one else height // tile, 0 if is_one else width // tile)


def _even(side: float) -> int:
    return int(side) + int(side) % 2


def _whole(side: int, tile: int) -> int:
    return math.ceil(side / tile) * tile


def cut_tiles(image: Image.Image, plan: TilePlan, *, tile: int) -> list[UInt8[np.ndarray, "side side 3"]]:
    """The tiles of an RGB picture row by row, and behind several the whole."""
    stretched = image.resize(plan.resized, _LANCZOS).resize(plan.stretched, _LANCZOS)
    pixels = np.asarray(stretched)
    if not plan.rows:
        return [pixels]
    corners = itertools.product(range(plan.rows), range(plan.columns))
    tiles = [pixels[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile] for row, column in corners]
    return [*tiles, np.asarray(stretched.resize((tile, tile), _LANCZOS))]


def tile_text(rows: int, columns: int, *, features: int, marks: TileMarks) -> str:
    """What stands in a prompt in the place of a picture.

    Args:
      rows: of tiles, see `TilePlan`.
      columns: of tiles.
      features: of one tile.
      marks: of the tokenizer.
    """
    image, around = marks.image * features, marks.around
    text = ""
    for row in range(1, rows + 1):
        text += "".join(f"{around}<row_{row}_col_{column}>{image}" for column in range(1, columns + 1)) + "\n"
    return text + ("\n" if rows else "") + around + marks.whole + image + around
