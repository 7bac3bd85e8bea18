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
from reflex_jax.models.clip_text import TextTowerConfig
from reflex_jax.models.clip_vision import VisionTowerConfig

CONFIG_NAME = "open_clip_config.json"
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

_SETTING = "judge.path"
_LARGEST = 2**20  # of a size: beyond it a file is damaged, and shapes would overflow
_MOST_LAYERS = 128

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
_BERT_BASE = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
_BERT_MODELS = {
    "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract": _BERT_BASE,
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract": _BERT_BASE,
}
# What BERT's config.json leaves out where it equals Hugging Face's default, and leaves no choice here.
_BERT_DEFAULTS = {"max_position_embeddings": 512, "type_vocab_size": 2, "pad_token_id": 0, "layer_norm_eps": 1e-12}


@dataclass(frozen=True, kw_only=True)
class BiomedClipConfig:
    """Everything static about a judge; hashable, so it can be a static argument of a jitted function."""

    vision: VisionTowerConfig
    text: TextTowerConfig
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
        got = _shown(vision_written.get("timm_model_name"))
        problems.append(f"vision_cfg.timm_model_name: expected the name of a timm vision transformer; got {got}")
    known_vision, known_bert = _TIMM_MODELS.get(timm_name, {}), _known_bert(text_written)
    vision = {**known_vision, **vision_written}
    bert = {**_BERT_DEFAULTS, **known_bert, **bert_written}
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
    context_length = _size({"context_length": 77, **text}, "context_length", "text_cfg.", problems)
    return BiomedClipConfig(
        vision=_vision_config(vision, problems),
        text=_text_config(bert, context_length, problems),
        embed_dim=_size(model, "embed_dim", "model_cfg.", problems),
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
    problems.append(f"{key}: expected an object {{...}}; got {_shown(section)}")
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
        ("config.json: model_type", bert.get("model_type", "bert"), ("bert",)),
        ("config.json: hidden_act", bert.get("hidden_act", "gelu"), ("gelu",)),
        ("config.json: position_embedding_type", bert.get("position_embedding_type", "absolute"), ("absolute",)),
        ("config.json: is_decoder", bert.get("is_decoder", False), (False,)),
    )
    return [
        f"{key}: expected {' or '.join(repr(choice) for choice in known if choice is not None)}; got {_shown(got)}"
        for key, got, known in expected
        if not any(got == choice and type(got) is type(choice) for choice in known)
    ]


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
                f"{label}: expected {known[heads]}, as the named model has; got {_shown(written.get(heads))}"
            )
    return problems


def _vision_config(written: dict[str, Any], problems: list[str]) -> VisionTowerConfig:
    before = len(problems)
    sizes = {key: _size(written, key, "vision_cfg.", problems) for key in _VISION_KEYS[1:]}
    image_size = written["image_size"]
    if isinstance(image_size, list) and len(image_size) in (1, 2) and image_size[0] == image_size[-1]:
        image_size = image_size[0]
    if isinstance(image_size, list):
        problems.append(f"vision_cfg.image_size: expected one size, or two equal ones; got {_shown(image_size)}")
        image_size = sizes["patch_size"]
    image_size = _size({"image_size": image_size}, "image_size", "vision_cfg.", problems)
    ratio = written.get("mlp_ratio", 4)
    if not _is_number(ratio) or not 1 <= sizes["width"] * ratio <= _LARGEST:
        problems.append(f"vision_cfg.mlp_ratio: expected a number such as 4; got {_shown(ratio)}")
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


def _text_config(bert: dict[str, Any], context_length: int, problems: list[str]) -> TextTowerConfig:
    before = len(problems)
    keys = (*_BERT_BASE, "max_position_embeddings", "type_vocab_size")
    sizes = {key: _size(bert, key, "config.json: ", problems) for key in keys}
    pad, epsilon = bert["pad_token_id"], bert["layer_norm_eps"]
    if type(pad) is not int or not 0 <= pad < sizes["vocab_size"]:
        problems.append(f"config.json: pad_token_id: expected an id below vocab_size; got {_shown(pad)}")
        pad = 0
    if not _is_number(epsilon) or not 0 < epsilon < 1:
        problems.append(f"config.json: layer_norm_eps: expected a small number above 0; got {_shown(epsilon)}")
        epsilon = _BERT_DEFAULTS["layer_norm_eps"]
    if len(problems) == before and (
        sizes["hidden_size"] % sizes["num_attention_heads"] or context_length > sizes["max_position_embeddings"]
    ):
        problems.append(
            f"config.json: expected num_attention_heads to divide hidden_size and context_length to be at most "
            f"max_position_embeddings; got {sizes['num_attention_heads']}, {sizes['hidden_size']}, {context_length}, "
            f"{sizes['max_position_embeddings']}"
        )
    return TextTowerConfig(
        vocabulary=sizes["vocab_size"],
        width=sizes["hidden_size"],
        depth=sizes["num_hidden_layers"],
        heads=sizes["num_attention_heads"],
        hidden=sizes["intermediate_size"],
        positions=sizes["max_position_embeddings"],
        types=sizes["type_vocab_size"],
        pad_token_id=pad,
        context_length=context_length,
        epsilon=epsilon,
    )


def _size(values: dict[str, Any], key: str, section: str, problems: list[str]) -> int:
    """A whole number that counts something; 1 where it is none."""
    value = values[key]
    largest = _MOST_LAYERS if "layers" in key else _LARGEST
    if type(value) is int and 1 <= value <= largest:
        return value
    problems.append(f"{section}{key}: expected a whole number from 1 to {largest}; got {_shown(value)}")
    return 1


def _channels(
    preprocess: dict[str, Any], key: str, default: tuple[float, float, float], problems: list[str]
) -> tuple[float, float, float]:
    """One number for each channel; a single one counts for all three."""
    written = preprocess.get(key, default)
    values = [written] * 3 if _is_number(written) else written
    if isinstance(values, (list, tuple)) and len(values) == 3 and all(map(_is_number, values)):
        # open_clip takes a lone 0 for "not given"
        if not (key == "std" and 0 in values) and not (_is_number(written) and written == 0):
            red, green, blue = map(float, values)
            return red, green, blue
    expected = "a number other than 0, or three, of red, green and blue"
    problems.append(f"preprocess_cfg.{key}: expected {expected}; got {_shown(written)}")
    return default


def _fill_color(preprocess: dict[str, Any], problems: list[str]) -> tuple[int, int, int]:
    written = preprocess.get("fill_color", 0)
    values = written if isinstance(written, list) else [written] * 3
    if len(values) == 3 and all(type(level) is int and 0 <= level <= 255 for level in values):
        return tuple(values)
    problems.append(f"preprocess_cfg.fill_color: expected a level from 0 to 255, or three; got {_shown(written)}")
    return (0, 0, 0)


def _is_number(value: Any) -> bool:
    # float32 holds it: a larger one would be infinite there
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 3e38


def _shown(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 80 else repr(value)[:80] + "..."
