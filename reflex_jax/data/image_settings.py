"""HOST: the image processor of a policy's directory -> the numbers that pictures are prepared with.

transformers 5 writes processor_config.json with a section image_processor, older versions preprocessor_config.json; where
both lie there the section counts, as in transformers. What is absent has the default of Qwen2-VL's image processor. A
setting this package does not compute is refused by name: ignored, it would show the model other pictures
than those it was trained on.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from reflex_jax.config import ConfigError
from reflex_jax.json_files import read_json_object

if TYPE_CHECKING:
    from reflex_jax.models.qwen_vision import QwenVisionConfig

_SETTING = "policy.path"
_OWN_FILE, _PROCESSOR_FILE, _SECTION = "preprocessor_config.json", "processor_config.json", "image_processor"
_KINDS = ("Qwen2VLImageProcessor", "Qwen2_5_VLImageProcessor")  # each also with "Fast" or "Pil" behind it
_BICUBIC = 3  # Pillow's number
_DEFAULTS = {
    "do_resize": True, "do_rescale": True, "do_normalize": True, "resample": _BICUBIC, "rescale_factor": 1 / 255,
    "image_mean": (0.48145466, 0.4578275, 0.40821073), "image_std": (0.26862954, 0.26130258, 0.27577711),
    "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
}  # fmt: skip


@dataclass(frozen=True)
class ImageSettings:
    """How pictures become patches: a level of 0 to 255 becomes (level * scale - mean) / std of its channel."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    min_pixels: int
    max_pixels: int
    scale: float = 1 / 255

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
        `max_pixels`, `size`) do not count.
      max_pixels: largest area.
    Raises:
      ConfigError: no file, a damaged one, or settings of a wrong type or that this package does not compute; lists all.
    """
    written, where = _read_section(Path(directory))
    settings = {key: written.get(key, default) for key, default in _DEFAULTS.items()}
    problems = _refused(written, settings, vision)
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
    return ImageSettings(mean, std, min_pixels, max_pixels, scale)


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


def _refused(written: dict[str, Any], settings: dict[str, Any], vision: QwenVisionConfig) -> list[str]:
    """What differs from what this package computes."""
    kind = written.get("image_processor_type")
    problems = []
    if kind is not None and str(kind).removesuffix("Fast").removesuffix("Pil") not in _KINDS:
        problems.append(f"image_processor_type: expected {_KINDS[0]}; got {_shown(kind)}")
    for key in ("do_rescale", "do_normalize"):
        if not isinstance(settings[key], bool):
            problems.append(f"{key}: expected true or false; got {_shown(settings[key])}")
    expected = {
        "do_resize": (True, "pictures are resized to whole patches"),
        "resample": (_BICUBIC, "bicubic"),
        "patch_size": (vision.patch_size, "as vision_config in config.json"),
        "temporal_patch_size": (vision.temporal_patch_size, "as vision_config in config.json"),
        "merge_size": (vision.merge_size, "as spatial_merge_size in config.json"),
    }
    for key, (value, reason) in expected.items():
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
