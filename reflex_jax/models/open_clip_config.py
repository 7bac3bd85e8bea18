"""An open_clip directory's JSON files -> the sizes of a judge and how it wants its pictures.

`open_clip_config.json` describes the image tower, the shared space and the pictures, `config.json` (BERT's) the text
tower. Numbers written there win; the names of known timm and BERT models fill in what is absent, and what is in neither
has open_clip's default. A model that differs in kind (other pooling, other projections) is refused by name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflex_jax.config import ConfigError
from reflex_jax.json_files import read_json_object
from reflex_jax.models.bert import BertConfig
from reflex_jax.models.bert_config import (
    BERT_DEFAULTS,
    BERT_SIZES,
    LARGEST,
    bert_config,
    is_number,
    shown,
    size_of,
    unknown_bert_kinds,
    unknown_choices,
)
from reflex_jax.models.clip_vision import VisionTowerConfig

CONFIG_NAME = "open_clip_config.json"
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

_SETTING = "judge.path"

# width, layers and heads; the number in the name is the patch size, the MLP is four times as wide
_TIMM_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
_TIMM_MODELS = {
    f"vit_{size}_patch{patch}_{image}": {
        "image_size": image, "patch_size": patch, "width": width, "layers": layers, "heads": heads,
    }
    for size, (width, layers, heads) in _TIMM_SIZES.items()
    for patch in (8, 16, 32)
    for image in (224, 384)
}  # fmt: skip
_VISION_KEYS = ("image_size", "patch_size", "width", "layers", "heads")
_BERT_BASE = dict(zip(BERT_SIZES, (30522, 768, 12, 12, 3072), strict=True))
_BERT_MODELS = {
    "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract": _BERT_BASE,
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract": _BERT_BASE,
}


@dataclass(frozen=True, kw_only=True)
class BiomedClipConfig:
    """Everything static about a judge; hashable, so it can be a static argument of a jitted function."""

    vision: VisionTowerConfig
    text: BertConfig
    embed_dim: int  # of the space that images and statements share
    mean: tuple[float, float, float] = OPENAI_MEAN  # of the pixels, RGB in [0, 1]
    std: tuple[float, float, float] = OPENAI_STD
    interpolation: str = "bicubic"  # of the resize: bicubic | bilinear
    resize_mode: str = "shortest"  # open_clip's: shortest | squash | longest
    fill_color: tuple[int, int, int] = (0, 0, 0)  # beside a picture that `longest` does not fill


def read_judge_config(directory: str | Path) -> BiomedClipConfig:
    """Reads the sizes of a judge from an open_clip directory.

    Raises:
      ConfigError: a file is damaged, a value is missing or of a wrong type, or the model is of a kind that is not
        implemented; lists them all.
    """
    directory = Path(directory)
    problems: list[str] = []
    written = read_json_object(directory / CONFIG_NAME, setting=_SETTING)
    model = _section(written, "model_cfg", problems)
    vision_written, text_written = (_section(model, key, problems) for key in ("vision_cfg", "text_cfg"))
    # open_clip ignores nulls here, and the section where it is null
    preprocess = {} if written.get("preprocess_cfg") is None else _section(written, "preprocess_cfg", problems)
    preprocess = {key: value for key, value in preprocess.items() if value is not None}
    bert_path = directory / "config.json"
    bert_written = read_json_object(bert_path, setting=_SETTING) if os.path.lexists(bert_path) else {}
    problems += _unknown_kinds(vision_written, text_written, preprocess, bert_written)
    timm_name = str(vision_written.get("timm_model_name")).partition(".")[0]  # after the dot: which weights
    if not isinstance(vision_written.get("timm_model_name"), str):
        got = shown(vision_written.get("timm_model_name"))
        problems.append(f"vision_cfg.timm_model_name: expected the name of a timm vision transformer; got {got}")
    known_vision, known_bert = _TIMM_MODELS.get(timm_name, {}), _known_bert(text_written)
    vision = {**known_vision, **vision_written}
    bert = {**BERT_DEFAULTS, **known_bert, **bert_written}
    problems += _hidden_differences(vision, known_vision, bert, known_bert)
    missing = [f"vision_cfg.{key}" for key in _VISION_KEYS if key not in vision]
    missing += [f"config.json: {key}" for key in _BERT_BASE if key not in bert]
    missing += ["model_cfg.embed_dim"] if "embed_dim" not in model else []
    if missing:
        known = "vit_{tiny, small, base, large}_patch{8, 16, 32}_{224, 384}"
        problems.append(f"missing {', '.join(missing)} (timm model {timm_name[:80]!r}; known: {known})")
    if not problems:
        config = _build(vision, bert, text_written, model, preprocess, problems)
        if not problems:
            return config
    raise ConfigError(f"{_SETTING}: {directory / CONFIG_NAME}: {'; '.join(problems)}.")


def _build(
    vision: dict[str, Any],
    bert: dict[str, Any],
    text: dict[str, Any],
    model: dict[str, Any],
    preprocess: dict[str, Any],
    problems: list[str],
) -> BiomedClipConfig:
    """The configuration, which means nothing where `problems` come."""
    context_length = size_of({"context_length": 77, **text}, "context_length", "text_cfg.", problems)
    return BiomedClipConfig(
        vision=_vision_config(vision, problems),
        text=bert_config(bert, context_length, problems),
        embed_dim=size_of(model, "embed_dim", "model_cfg.", problems),
        mean=_channels(preprocess, "mean", OPENAI_MEAN, problems),
        std=_channels(preprocess, "std", OPENAI_STD, problems),
        interpolation="bilinear" if preprocess.get("interpolation") == "bilinear" else "bicubic",
        resize_mode=preprocess.get("resize_mode", "shortest"),
        fill_color=_fill_color(preprocess, problems),
    )


def _section(parent: dict[str, Any], key: str, problems: list[str]) -> dict[str, Any]:
    section = parent.get(key, {})
    if isinstance(section, dict):
        return section
    problems.append(f"{key}: expected an object {{...}}; got {shown(section)}")
    return {}


def _known_bert(text: dict[str, Any]) -> dict[str, Any]:
    return _BERT_MODELS.get(str(text.get("hf_model_name")), {})


def _unknown_kinds(
    vision: dict[str, Any], text: dict[str, Any], preprocess: dict[str, Any], bert: dict[str, Any]
) -> list[str]:
    """What the model has that this implementation has not."""
    expected: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
        ("vision_cfg.timm_pool", vision.get("timm_pool", "avg"), ("", "token", None)),
        ("vision_cfg.timm_proj", vision.get("timm_proj", "linear"), ("linear",)),
        ("vision_cfg.timm_proj_bias", vision.get("timm_proj_bias", False), (False, None)),
        ("text_cfg.hf_proj_type", text.get("hf_proj_type", "mlp"), ("mlp",)),
        ("text_cfg.hf_pooler_type", text.get("hf_pooler_type", "mean_pooler"), ("cls_last_hidden_state_pooler",)),
        ("text_cfg.tokenizer_mode", text.get("tokenizer_mode"), (None, "")),
        ("text_cfg.tokenizer_kwargs", text.get("tokenizer_kwargs"), (None, {})),
        ("preprocess_cfg.mode", preprocess.get("mode", "RGB"), ("RGB",)),
        # "random" is for training; open_clip evaluates such a model with bicubic
        ("preprocess_cfg.interpolation", preprocess.get("interpolation", "bicubic"), ("bicubic", "bilinear", "random")),
        ("preprocess_cfg.resize_mode", preprocess.get("resize_mode", "shortest"), ("shortest", "squash", "longest")),
    )
    return [*unknown_choices(expected), *unknown_bert_kinds(bert)]


def _hidden_differences(
    vision: dict[str, Any], known_vision: dict[str, Any], bert: dict[str, Any], known_bert: dict[str, Any]
) -> list[str]:
    """Numbers that no shape of a weight shows: with another count of heads the named model would be computed wrongly."""
    problems = []
    for label, written, known, width, heads in (
        ("vision_cfg.heads", vision, known_vision, "width", "heads"),
        ("config.json: num_attention_heads", bert, known_bert, "hidden_size", "num_attention_heads"),
    ):
        if known and written.get(width) == known[width] and written.get(heads) != known[heads]:
            problems.append(
                f"{label}: expected {known[heads]}, as the named model has; got {shown(written.get(heads))}"
            )
    return problems


def _vision_config(written: dict[str, Any], problems: list[str]) -> VisionTowerConfig:
    before = len(problems)
    sizes = {key: size_of(written, key, "vision_cfg.", problems) for key in _VISION_KEYS[1:]}
    image_size = written["image_size"]
    if isinstance(image_size, list) and len(image_size) in (1, 2) and image_size[0] == image_size[-1]:
        image_size = image_size[0]
    if isinstance(image_size, list):
        problems.append(f"vision_cfg.image_size: expected one size, or two equal ones; got {shown(image_size)}")
        image_size = sizes["patch_size"]
    image_size = size_of({"image_size": image_size}, "image_size", "vision_cfg.", problems)
    ratio = written.get("mlp_ratio", 4)
    if not is_number(ratio) or not 1 <= sizes["width"] * ratio <= LARGEST:
        problems.append(f"vision_cfg.mlp_ratio: expected a number such as 4; got {shown(ratio)}")
        ratio = 4
    if len(problems) == before and (image_size % sizes["patch_size"] or sizes["width"] % sizes["heads"]):
        problems.append(
            f"vision_cfg: expected patch_size to divide image_size and heads to divide width; got "
            f"{ {'image_size': image_size, **sizes} }"
        )
    return VisionTowerConfig(
        image_size=image_size,
        patch_size=sizes["patch_size"],
        width=sizes["width"],
        depth=sizes["layers"],
        heads=sizes["heads"],
        hidden=int(sizes["width"] * ratio),
    )


def _channels(
    preprocess: dict[str, Any], key: str, default: tuple[float, float, float], problems: list[str]
) -> tuple[float, float, float]:
    """One number for each channel; a single one counts for all three."""
    written = preprocess.get(key, default)
    values = [written] * 3 if is_number(written) else written
    if isinstance(values, (list, tuple)) and len(values) == 3 and all(map(is_number, values)):
        # open_clip takes a lone 0 for "not given"
        if not (key == "std" and 0 in values) and not (is_number(written) and written == 0):
            red, green, blue = map(float, values)
            return red, green, blue
    expected = "a number other than 0, or three, of red, green and blue"
    problems.append(f"preprocess_cfg.{key}: expected {expected}; got {shown(written)}")
    return default


def _fill_color(preprocess: dict[str, Any], problems: list[str]) -> tuple[int, int, int]:
    written = preprocess.get("fill_color", 0)
    values = written if isinstance(written, list) else [written] * 3
    if len(values) == 3 and all(type(level) is int and 0 <= level <= 255 for level in values):
        return tuple(values)
    problems.append(f"preprocess_cfg.fill_color: expected a level from 0 to 255, or three; got {shown(written)}")
    return (0, 0, 0)
