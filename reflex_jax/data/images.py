"""HOST: images into patches, and patches into the attention windows the vision tower reads (numpy only).

The resize rule and the order of the patches equal those of Hugging Face's PIL image processor for Qwen2-VL; pixels stay 8-bit
levels, and a still picture is kept once: the device normalises and repeats them (`models.patches`). The tower wants more: patches
sorted into windows of U slots, four consecutive slots making one merged feature. Windows are squares of the image where layers
read them (Qwen2.5-VL), else runs of its features in reading order. A window cut by the edge or the end of the image keeps empty
slots, so that every image is a whole number of windows and any aspect ratio is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from reflex_jax.records import PromptInputs, VisionInputs

if TYPE_CHECKING:
    from reflex_jax.models.qwen_vision import QwenVisionConfig
    from reflex_jax.models.qwen_vl import QwenVLConfig

Grid = tuple[int, int, int]  # frames, rows, columns, in patches
# Patches in Hugging Face's order, levels of a still frame or normalised pixels of two, and their grid.
PatchedImage = tuple[UInt8[np.ndarray, "_ _"] | Float[np.ndarray, "_ _"], Grid]
LARGEST_ASPECT_RATIO = 200


def smart_resize(height: int, width: int, *, factor: int = 28, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Nearest size whose sides divide by `factor` and whose area lies between the limits, aspect ratio about kept.

    Raises:
      ValueError: one side is more than 200 times the other.
    """
    if max(height, width) > LARGEST_ASPECT_RATIO * min(height, width):
        raise ValueError(
            f"expected an image whose sides differ by a factor of at most {LARGEST_ASPECT_RATIO}; "
            f"got {height} x {width} pixels. Crop it."
        )
    rounded = round(height / factor) * factor, round(width / factor) * factor
    if math.prod(rounded) > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        height, width = (max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width))
        return height, width
    if math.prod(rounded) < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        height, width = (math.ceil(side * grow / factor) * factor for side in (height, width))
        return height, width
    return rounded


def patchify(image: Image.Image, *, min_pixels: int, max_pixels: int, patch: int = 14, merge: int = 2) -> PatchedImage:
    """Resizes (bicubic) and cuts an RGB image into flat patches.

    Args:
      image: 8-bit RGB.
      min_pixels: smallest area after resizing.
      max_pixels: largest area after resizing.
      patch: side of a patch in pixels.
      merge: patches per side of one merged feature.

    Returns:
      Levels u8[n, 3 * patch**2], channel by channel; merge units row by row and the patches of a unit row by row; and the
      grid (1, rows, columns).
    """
    if image.mode != "RGB":
        raise ValueError(
            f"expected an RGB image; got mode {image.mode!r}. Open it with data.medical_images.open_image."
        )
    height, width = smart_resize(
        image.height, image.width, factor=patch * merge, min_pixels=min_pixels, max_pixels=max_pixels
    )
    return cut_patches(np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)), patch=patch, merge=merge)


def cut_patches(
    pixels: UInt8[np.ndarray, "height width 3"] | Float[np.ndarray, "height width 3"], *, patch: int, merge: int
) -> PatchedImage:
    """Cuts levels, or normalised pixels, whose sides divide by `patch * merge` into flat patches, in the order of `patchify`."""
    rows, columns = pixels.shape[0] // patch, pixels.shape[1] // patch
    cut = pixels.reshape(rows // merge, merge, patch, columns // merge, merge, patch, 3)
    cut = cut.transpose(0, 3, 1, 4, 6, 2, 5)  # unit row, unit column, row, column, channel, pixel row, pixel column
    return cut.reshape(rows * columns, -1), (1, rows, columns)


def count_windows(grid: Grid, config: QwenVisionConfig) -> int:
    """How many windows an image fills, those cut by its edge or its end included."""
    rows, columns = _units(grid, config)
    if config.window_features:
        return -(-rows * columns // config.window_features)
    units = _units_per_window_side(config)
    return -(-rows // units) * -(-columns // units)


def vision_windows(grid: Grid, config: QwenVisionConfig) -> Int[np.ndarray, "units"]:
    """For each merge unit of an image in reading order, its place among the merged features of the image's windows."""
    rows, columns = _units(grid, config)
    if config.window_features:
        return np.arange(rows * columns, dtype=np.int32)
    side = _units_per_window_side(config)
    row, column = np.divmod(np.arange(rows * columns), columns)
    window = (row // side) * -(-columns // side) + column // side
    return (window * side**2 + (row % side) * side + column % side).astype(np.int32)


def merged_feature_order(grids: Sequence[Grid], config: QwenVisionConfig) -> Int[np.ndarray, "tokens"]:
    """For the k-th image token of a row in reading order, which of the row's merged features it stands for."""
    features_per_window = config.patches_per_window // config.patches_per_feature
    starts = np.cumsum([0, *(count_windows(grid, config) for grid in grids)]) * features_per_window
    places = [vision_windows(grid, config) + start for grid, start in zip(grids, starts, strict=False)]
    return np.concatenate([np.zeros(0, np.int32), *places]).astype(np.int32)


def layout_vision(
    rows: Sequence[Sequence[PatchedImage]],
    config: QwenVisionConfig,
    windows: int,
    normalisation: Float[np.ndarray, "2 3"] | None = None,
) -> VisionInputs:
    """Sorts the patches of every row's images into windows.

    Args:
      rows: for each row of the batch its images, possibly none.
      config: of the vision tower.
      windows: W, room for every row.
      normalisation: of levels, see `ImageSettings.normalisation`; None: the patches are normalised pixels of two frames.

    Raises:
      ValueError: rows that need more windows (all of them are listed).
    """
    needed = [sum(count_windows(grid, config) for _, grid in images) for images in rows]
    too_long = [f"row {index} needs {count}" for index, count in enumerate(needed) if count > windows]
    if too_long:
        raise ValueError(f"expected images of at most {windows} windows a row; " + ", ".join(too_long) + ".")
    slots, merged = windows * config.patches_per_window, config.patches_per_feature
    width, dtype = (config.patch_width, np.float32) if normalisation is None else (config.still_width, np.uint8)
    patches = np.zeros((len(rows), slots, width), dtype)
    coordinates = np.zeros((len(rows), slots, 2), np.int32)
    image_ids = np.zeros((len(rows), slots), np.int32)
    places = np.zeros((len(rows), slots, 2), np.float32)
    for row, images in enumerate(rows):
        order = merged_feature_order([grid for _, grid in images], config)
        slot = (order[:, None] * merged + np.arange(merged)).reshape(-1)
        for number, (image_patches, grid) in enumerate(images, start=1):
            own, slot = np.split(slot, [len(image_patches)])
            patches[row, own] = image_patches
            coordinates[row, own] = _coordinates(grid, config)
            if config.has_places:
                places[row, own] = _places(coordinates[row, own], grid, config.position_side)
            image_ids[row, own] = number
    shape = (len(rows), windows, config.patches_per_window)
    return VisionInputs(
        patches=patches.reshape(*shape, -1),
        coordinates=coordinates.reshape(*shape, 2),
        image_ids=image_ids.reshape(shape),
        normalisation=None if normalisation is None else np.repeat(normalisation[None], len(rows), axis=0),
        places=places.reshape(*shape, 2) if config.has_places else None,
    )


def mrope_positions(
    tokens: Int[np.ndarray, "L"], is_valid: Bool[np.ndarray, "L"], grids: Sequence[Grid], config: QwenVLConfig
) -> Int[np.ndarray, "3 L"]:
    """Positions of a row on the axes time, height and width; 0 at padding.

    Text counts up on all three axes together. An image starts at the position behind the text before it and its tokens
    spread over height and width; the text after it goes on behind the longer side. Where the decoder turns with one axis,
    images count up as text does.
    """
    merge = config.vision.merge_size
    positions = np.zeros((3, len(tokens)), np.int32)
    indices = np.flatnonzero(is_valid)
    if len(config.text.rope_sections) == 1:
        positions[:, indices] = np.arange(len(indices))
        _check_image_tokens(tokens[indices], grids, config)
        return positions
    remaining = list(grids)
    start = next_position = 0
    while start < len(indices):
        if tokens[indices[start]] != config.image_token_id:
            positions[:, indices[start]] = next_position
            start, next_position = start + 1, next_position + 1
            continue
        if not remaining:
            break
        _, rows, columns = remaining.pop(0)
        rows, columns = rows // merge, columns // merge
        own = indices[start : start + rows * columns]
        row, column = np.divmod(np.arange(len(own)), columns)
        positions[:, own] = next_position + np.stack([np.zeros_like(row), row, column])
        start, next_position = start + rows * columns, next_position + max(rows, columns)
    _check_image_tokens(tokens[indices], grids, config)
    return positions


def feature_index(
    tokens: Int[np.ndarray, "L"], is_valid: Bool[np.ndarray, "L"], grids: Sequence[Grid], config: QwenVLConfig
) -> Int[np.ndarray, "L"]:
    """For each token the merged vision feature it stands for, -1 for text and padding."""
    index = np.full(len(tokens), -1, np.int32)
    index[(tokens == config.image_token_id) & is_valid] = merged_feature_order(grids, config.vision)
    return index


def prompt_inputs_from_huggingface(
    input_ids: Int[np.ndarray, "P Lp"],
    attention_mask: Int[np.ndarray, "P Lp"] | None,
    pixel_values: Float[np.ndarray, "n frames"] | Float[np.ndarray, "P N 3 side side"] | None,
    image_grid_thw: Int[np.ndarray, "images 3"] | None,
    config: QwenVLConfig,
    pixel_attention_mask: Int[np.ndarray, "P N side side"] | None = None,
) -> PromptInputs:
    """Turns a batch as Hugging Face's processor makes it into ours.

    Args:
      input_ids: prompts with one image token for each merged feature, padded on either side.
      attention_mask: 0 at padding; None: no padding.
      pixel_values: patches of all images of the batch, one after another; of a model that reads tiles the tiles of each row,
        those of only zeros behind them left out.
      image_grid_thw: grids of the patches. Which row an image belongs to follows from the image tokens.
      config: of the model.
      pixel_attention_mask: of tiles, 0 where nothing is; a tile is there as a whole or not at all.

    Raises:
      ValueError: image tokens, grids, tiles and patches do not match.
    """
    input_ids = np.asarray(input_ids)
    is_valid = np.ones(input_ids.shape, bool) if attention_mask is None else np.asarray(attention_mask).astype(bool)
    if config.vision.tile_size:
        rows = _tiles_of_rows(len(input_ids), pixel_values, pixel_attention_mask, config.vision)
    else:
        rows = _images_of_rows(input_ids, is_valid, pixel_values, image_grid_thw, config)
    grids = [[grid for _, grid in images] for images in rows]
    windows = max(sum(count_windows(grid, config.vision) for grid in row) for row in grids)
    each = list(zip(input_ids, is_valid, grids, strict=True))
    return PromptInputs(
        tokens=input_ids.astype(np.int32),
        is_valid=is_valid,
        positions=np.stack([mrope_positions(*row, config) for row in each]),
        feature_index=np.stack([feature_index(*row, config) for row in each]),
        vision=layout_vision(rows, config.vision, windows) if windows else None,
    )


def _images_of_rows(
    input_ids: np.ndarray,
    is_valid: np.ndarray,
    pixel_values: np.ndarray | None,
    image_grid_thw: np.ndarray | None,
    config: QwenVLConfig,
) -> list[list[PatchedImage]]:
    """Deals the images of a batch out to its rows, in order, as many as the image tokens of a row stand for."""
    grids = [] if image_grid_thw is None else [(int(t), int(h), int(w)) for t, h, w in np.asarray(image_grid_thw)]
    patches = np.zeros((0, config.vision.patch_width), np.float32) if pixel_values is None else np.asarray(pixel_values)
    if sum(math.prod(grid) for grid in grids) != len(patches):
        raise ValueError(
            f"expected as many patches as the grids hold, {sum(math.prod(grid) for grid in grids)}; got {len(patches)}."
        )
    counts = ((input_ids == config.image_token_id) & is_valid).sum(1)
    rows: list[list[PatchedImage]] = []
    for wanted in counts:
        images: list[PatchedImage] = []
        while grids and wanted > 0:
            own, patches = np.split(patches, [math.prod(grids[0])])
            images.append((own, grids.pop(0)))
            wanted -= len(own) // config.vision.patches_per_feature
        rows.append(images)
    if grids:
        raise ValueError(f"expected one image token for each merged feature; {len(grids)} images have no tokens.")
    return rows


def _tiles_of_rows(
    count: int, pixel_values: np.ndarray | None, mask: np.ndarray | None, vision: QwenVisionConfig
) -> list[list[PatchedImage]]:
    """The tiles of each row as images of their own."""
    if pixel_values is None:
        return [[] for _ in range(count)]
    shape = (vision.channels, vision.tile_size, vision.tile_size)
    if pixel_values.shape[0] != count or pixel_values.shape[2:] != shape:
        raise ValueError(f"expected tiles [{count}, N, {', '.join(map(str, shape))}]; got {list(pixel_values.shape)}.")
    side = vision.tile_size // vision.patch_size * vision.patch_size
    rows: list[list[PatchedImage]] = []
    for number, tiles in enumerate(pixel_values):
        is_there = tiles.any((1, 2, 3))  # as transformers tells them from padding
        if mask is not None and not (mask[number] == is_there[:, None, None]).all():
            raise ValueError(
                f"expected tiles that are filled or empty as a whole; row {number} has one that is padded."
            )
        levels = tiles[is_there, :, :side, :side].transpose(0, 2, 3, 1)
        rows.append([cut_patches(tile, patch=vision.patch_size, merge=vision.merge_size) for tile in levels])
    return rows


def _check_image_tokens(tokens: np.ndarray, grids: Sequence[Grid], config: QwenVLConfig) -> None:
    found = int((tokens == config.image_token_id).sum())
    expected = sum(math.prod(_units(grid, config.vision)) for grid in grids)
    if found != expected:
        raise ValueError(
            f"expected {expected} image tokens for images of {[tuple(grid) for grid in grids]} patches; got {found}."
        )


def _coordinates(grid: Grid, config: QwenVisionConfig) -> Int[np.ndarray, "n 2"]:
    """Row and column of each patch, in the order of `patchify`."""
    _, rows, columns = grid
    merge = config.merge_size
    index = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1)
    index = index.reshape(rows // merge, merge, columns // merge, merge, 2)
    return index.swapaxes(1, 2).reshape(-1, 2)


def _places(coordinates: Int[np.ndarray, "n 2"], grid: Grid, side: int) -> Float[np.ndarray, "n 2"]:
    """Patches in a square table of learned positions, whose corners are those of every image."""
    extent = np.maximum(np.array(grid[1:], np.int32) - 1, 1)
    return coordinates.astype(np.float32) * np.float32(side - 1) / extent.astype(np.float32)


def _units(grid: Grid, config: QwenVisionConfig) -> tuple[int, int]:
    frames, rows, columns = grid
    if frames != 1 or rows % config.merge_size or columns % config.merge_size:
        raise ValueError(
            f"expected still images whose sides divide by {config.merge_size} patches; got the grid {tuple(grid)}."
        )
    return rows // config.merge_size, columns // config.merge_size


def _units_per_window_side(config: QwenVisionConfig) -> int:
    return config.window_size // config.patch_size // config.merge_size
