"""HOST: the image processor of a policy's directory -> the numbers that pictures are prepared with.

transformers 5 writes processor_config.json with a section image_processor, older versions preprocessor_config.json; where
both lie there the section counts, as in transformers. What is absent has the default of the family's image processor. A
setting this package does not compute is refused by name: ignored, it would show the model other pictures
than those it was trained on.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from reflex_jax.config import ConfigError
from reflex_jax.data.tiles import LARGEST_EDGE
from reflex_jax.json_files import read_json_object

if TYPE_CHECKING:
    from reflex_jax.models.qwen_vision import QwenVisionConfig

_SETTING = "policy.path"
_OWN_FILE, _PROCESSOR_FILE, _SECTION = "preprocessor_config.json", "processor_config.json", "image_processor"
_BICUBIC, _LANCZOS = 3, 1  # Pillow's numbers
_DEFAULTS = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}
_EDGE = "longest_edge"


class _Kind(NamedTuple):
    """An image processor of transformers."""

    names: tuple[str, ...]  # each also with "Fast" or "Pil" behind it
    defaults: dict[str, Any]


_QWEN2_VL = _Kind(
    ("Qwen2VLImageProcessor", "Qwen2_5_VLImageProcessor"),
    {
        **_DEFAULTS, "resample": _BICUBIC, "image_mean": (0.48145466, 0.4578275, 0.40821073),
        "image_std": (0.26862954, 0.26130258, 0.27577711), "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
    },
)  # fmt: skip
_SMOLVLM = _Kind(
    ("SmolVLMImageProcessor",),
    {
        **_DEFAULTS, "resample": _LANCZOS, "image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5),
        "size": {_EDGE: 4 * 364}, "max_image_size": {_EDGE: 364}, "do_image_splitting": True,
    },
)  # fmt: skip


@dataclass(frozen=True)
class ImageSettings:
    """How pictures become patches: a level of 0 to 255 becomes (level * scale - mean) / std of its channel."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    min_pixels: int
    max_pixels: int
    scale: float = 1 / 255
    # of pictures that are cut into tiles, see `data.tiles.plan_tiles`; 0: they are not
    longest_edge: int = 0
    is_split: bool = True

    @property
    def normalisation(self) -> Float[np.ndarray, "2 3"]:
        """(slope, intercept) of each channel: a level becomes level * slope + intercept."""
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        return np.stack([self.scale / std, -mean / std]).astype(np.float32)


def read_image_settings(
    directory: str | Path, vision: QwenVisionConfig, *, min_pixels: int, max_pixels: int
) -> ImageSettings:
    """Reads the settings of a policy's image processor.

    Args:
      directory: of the policy.
      vision: its vision tower, which must read the patches that the processor cuts.
      min_pixels: smallest area of a resized picture. The run's own: the limits in the directory (`min_pixels`,
        `max_pixels`, `size`) do not count, but for the longest edge of a picture that is cut into tiles.
      max_pixels: largest area; of tiles that of all of them.
    Raises:
      ConfigError: no file, a damaged one, or settings of a wrong type or that this package does not compute; lists all.
    """
    written, where = _read_section(Path(directory))
    kind = _SMOLVLM if vision.tile_size else _QWEN2_VL
    settings = {key: written.get(key, default) for key, default in kind.defaults.items()}
    problems = _refused(written, settings, vision, kind)
    tiling = _tiling(settings, vision, Path(directory), problems) if vision.tile_size else {}
    mean, std = (_channels(settings[key], key, problems) for key in ("image_mean", "image_std"))
    if any(abs(deviation) < 1e-6 for deviation in std):  # pixels divided by it would leave float32
        problems.append(f"image_std: expected numbers other than 0; got {settings['image_std']!r}")
    if not _is_number(settings["rescale_factor"]):
        problems.append(f"rescale_factor: expected a number; got {_shown(settings['rescale_factor'])}")
    if problems:
        raise ConfigError(f"{_SETTING}: {where}: {'; '.join(problems)}.")
    if not settings["do_normalize"]:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    scale = float(settings["rescale_factor"]) if settings["do_rescale"] else 1.0
    _check_limits(vision, min_pixels, max_pixels)
    return ImageSettings(mean, std, min_pixels, max_pixels, scale, **tiling)


def _check_limits(vision: QwenVisionConfig, min_pixels: int, max_pixels: int) -> None:
    """A picture has one tile at least, so the limits have to lie on either side of that."""
    tile = vision.tile_size**2
    if tile and not min_pixels <= tile <= max_pixels:
        raise ConfigError(
            f"data.min_pixels, data.max_pixels: this policy reads tiles of {vision.tile_size} x {vision.tile_size} pixels, one "
            f"or more of each picture: expected min <= {tile} <= max; got {min_pixels}, {max_pixels}."
        )


def _tiling(settings: dict[str, Any], vision: QwenVisionConfig, directory: Path, problems: list[str]) -> dict[str, Any]:
    """How pictures are cut into tiles; notes what this package does not compute."""
    edges = [settings[key] for key in ("max_image_size", "size")]
    tile, longest = (edge.get(_EDGE) if isinstance(edge, dict) else None for edge in edges)
    if type(tile) is not int or tile != vision.tile_size:
        problems.append(
            f"max_image_size: expected {{'{_EDGE}': {vision.tile_size}}} (as image_size of vision_config in config.json); got "
            f"{_shown(settings['max_image_size'])}"
        )
    if type(longest) is not int or not 1 <= longest <= LARGEST_EDGE:
        problems.append(
            f"size: expected {{'{_EDGE}': a whole number from 1 to {LARGEST_EDGE}}}; got {_shown(settings['size'])}"
        )
    if not isinstance(settings["do_image_splitting"], bool):
        problems.append(f"do_image_splitting: expected true or false; got {_shown(settings['do_image_splitting'])}")
    path = directory / _PROCESSOR_FILE
    features = read_json_object(path, setting=_SETTING).get("image_seq_len") if os.path.lexists(path) else None
    if features not in (None, vision.window_features):
        problems.append(
            f"image_seq_len of {_PROCESSOR_FILE}: expected {vision.window_features}, the features of a tile; got "
            f"{_shown(features)}"
        )
    return {"longest_edge": longest, "is_split": settings["do_image_splitting"]}


def _read_section(directory: Path) -> tuple[dict[str, Any], str]:
    """The settings as written, and where they stand."""
    path = directory / _PROCESSOR_FILE
    if os.path.lexists(path):
        section = read_json_object(path, setting=_SETTING).get(_SECTION)
        if section is not None:
            where = f"{path}: {_SECTION}"
            if not isinstance(section, dict):
                raise ConfigError(f"{_SETTING}: {where}: expected an object {{...}}; got {_shown(section)}.")
            return section, where
    path = directory / _OWN_FILE
    if not os.path.lexists(path):
        raise ConfigError(
            f"{_SETTING}: expected {_OWN_FILE}, or {_PROCESSOR_FILE} with a section {_SECTION}, in {directory}; both are "
            "missing. Save the processor there (AutoProcessor.from_pretrained(...).save_pretrained(...))."
        )
    return read_json_object(path, setting=_SETTING), str(path)


def _refused(written: dict[str, Any], settings: dict[str, Any], vision: QwenVisionConfig, kind: _Kind) -> list[str]:
    """What differs from what this package computes."""
    name = written.get("image_processor_type")
    problems = []
    if name is not None and str(name).removesuffix("Fast").removesuffix("Pil") not in kind.names:
        problems.append(f"image_processor_type: expected {kind.names[0]}; got {_shown(name)}")
    for key in ("do_rescale", "do_normalize"):
        if not isinstance(settings[key], bool):
            problems.append(f"{key}: expected true or false; got {_shown(settings[key])}")
    expected = {
        "do_resize": (True, "pictures are resized to whole patches"),
        "resample": (_LANCZOS, "Lanczos") if vision.tile_size else (_BICUBIC, "bicubic"),
        "patch_size": (vision.patch_size, "as vision_config in config.json"),
        "temporal_patch_size": (vision.temporal_patch_size, "as vision_config in config.json"),
        "merge_size": (vision.merge_size, "as spatial_merge_size in config.json"),
    }
    for key, (value, reason) in expected.items():
        if key not in settings:
            continue
        if type(settings[key]) is not type(value) or settings[key] != value:
            absent = "" if key in written else " by default"
            problems.append(f"{key}: expected {str(value).lower()} ({reason}); got {_shown(settings[key])}{absent}")
    return problems


def _channels(written: Any, key: str, problems: list[str]) -> tuple[float, float, float]:
    """One number for each channel; a single one counts for all three."""
    values = [written] * 3 if _is_number(written) else written
    if isinstance(values, (list, tuple)) and len(values) == 3 and all(map(_is_number, values)):
        red, green, blue = map(float, values)
        return red, green, blue
    problems.append(f"{key}: expected a number or three, of red, green and blue; got {_shown(written)}")
    return (1.0, 1.0, 1.0)


def _is_number(value: Any) -> bool:
    # float32 holds it: a larger one would be infinite there
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 3e38 and math.isfinite(value)
    )


def _shown(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 80 else repr(value)[:80] + "..."
