"""HOST: what each family makes of a picture: which pieces its vision tower reads, by the flags of the tower.

The Qwen families read a picture whole, at about its own size; SmolVLM reads it in tiles, each a picture of its own to the tower
(`data.tiles`). A piece is a patch grid and, once the picture is decoded, the patches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from reflex_jax.data.images import Grid, PatchedImage, cut_patches, patchify, smart_resize
from reflex_jax.data.tiles import TilePlan, cut_tiles, plan_tiles

if TYPE_CHECKING:
    from reflex_jax.data.image_settings import ImageSettings
    from reflex_jax.models.qwen_vision import QwenVisionConfig


class PictureShape(NamedTuple):
    """How a picture is cut."""

    grids: tuple[Grid, ...]  # of its pieces, in the order of their tokens
    rows: int = 0  # of tiles; 0: it is not split
    columns: int = 0


def picture_shape(size: tuple[int, int], images: ImageSettings, vision: QwenVisionConfig) -> PictureShape:
    """The pieces of a picture of (width, height) pixels, without decoding it.

    Raises:
      ValueError: a shape that cannot be resized.
    """
    if vision.tile_size:
        plan = _tile_plan(size, images, vision)
        return PictureShape((_tile_grid(vision),) * plan.tiles, plan.rows, plan.columns)
    height, width = smart_resize(
        size[1],
        size[0],
        factor=vision.patch_size * vision.merge_size,
        min_pixels=images.min_pixels,
        max_pixels=images.max_pixels,
    )
    return PictureShape(((1, height // vision.patch_size, width // vision.patch_size),))


def cut_picture(
    image: Image.Image, images: ImageSettings, vision: QwenVisionConfig
) -> tuple[PictureShape, tuple[PatchedImage, ...]]:
    """The pieces of a picture as `picture_shape` says them, with their patches.

    Raises:
      ValueError: it is not RGB, or of a shape that cannot be resized.
    """
    if not vision.tile_size:
        patched = patchify(
            image, min_pixels=images.min_pixels, max_pixels=images.max_pixels, patch=vision.patch_size,
            merge=vision.merge_size,
        )  # fmt: skip
        return PictureShape((patched[1],)), (patched,)
    if image.mode != "RGB":
        raise ValueError(f"expected an RGB image; got mode {image.mode!r}.")
    plan = _tile_plan(image.size, images, vision)
    read = vision.tile_size // vision.patch_size * vision.patch_size  # the pixels beside whole patches are not
    pieces = tuple(
        cut_patches(tile[:read, :read], patch=vision.patch_size, merge=vision.merge_size)
        for tile in cut_tiles(image, plan, tile=vision.tile_size)
    )
    return PictureShape((_tile_grid(vision),) * plan.tiles, plan.rows, plan.columns), pieces


def _tile_plan(size: tuple[int, int], images: ImageSettings, vision: QwenVisionConfig) -> TilePlan:
    return plan_tiles(
        size, tile=vision.tile_size, longest_edge=images.longest_edge, max_pixels=images.max_pixels,
        is_split=images.is_split,
    )  # fmt: skip


def _tile_grid(vision: QwenVisionConfig) -> Grid:
    side = vision.tile_size // vision.patch_size
    return 1, side, side
