"""The judge: a BiomedCLIP-shaped model, one image tower and one text tower into one space.

Sizes come from an open_clip directory: `open_clip_config.json` for the image tower and the shared space, `config.json`
(BERT's) for the text tower. Numbers written there win; the names of known timm and BERT models fill in what is absent.
A model that differs in kind (other pooling, other projections) is refused by name.

Matrix products run at the highest precision of the device: rewards compare similarities with thresholds, and the
reduced float32 products that accelerators use by default flip decisions near them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from reflex_jax.config import ConfigError
from reflex_jax.models.clip_text import TextTowerConfig, init_text_params, run_text_tower
from reflex_jax.models.clip_vision import (
    VisionTowerConfig,
    embed_patches,
    init_vision_params,
    project_cls,
    run_block,
)

Params = dict[str, Any]

CONFIG_NAME = "open_clip_config.json"
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

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


def read_judge_config(directory: str | Path) -> BiomedClipConfig:
    """Reads the sizes of a judge from an open_clip directory.

    Raises:
      ConfigError: a file or a size is missing, or the model is of a kind that is not implemented; lists them all.
    """
    directory = Path(directory)
    written = _read_json(directory / CONFIG_NAME)
    model, preprocess = written.get("model_cfg", {}), written.get("preprocess_cfg", {})
    vision_written, text_written = model.get("vision_cfg", {}), model.get("text_cfg", {})
    problems = _unknown_kinds(vision_written, text_written, preprocess)
    timm_name = str(vision_written.get("timm_model_name")).partition(".")[0]  # after the dot: which weights
    vision = {**_TIMM_MODELS.get(timm_name, {}), **vision_written}
    bert = _read_json(directory / "config.json") if (directory / "config.json").is_file() else {}
    if bert.get("model_type", "bert") != "bert" or bert.get("hidden_act", "gelu") != "gelu":
        kind = f"model_type {bert.get('model_type')!r} with hidden_act {bert.get('hidden_act')!r}"
        problems.append(f"config.json: expected a bert model with exact gelu; got {kind}")
    bert = {**_BERT_DEFAULTS, **_BERT_MODELS.get(text_written.get("hf_model_name"), {}), **bert}
    vision_keys = ("image_size", "patch_size", "width", "layers", "heads")
    missing = [f"vision_cfg.{key}" for key in vision_keys if key not in vision]
    missing += [f"config.json: {key}" for key in _BERT_BASE if key not in bert]
    missing += ["model_cfg.embed_dim"] if "embed_dim" not in model else []
    if missing:
        known = ", ".join(sorted(_TIMM_MODELS))
        problems.append(f"missing {', '.join(missing)} (timm model {timm_name!r}; known: {known})")
    if problems:
        raise ConfigError(f"{directory / CONFIG_NAME}: {'; '.join(problems)}.")
    return BiomedClipConfig(
        vision=_vision_config(vision),
        text=_text_config(bert, text_written.get("context_length", 77)),
        embed_dim=model["embed_dim"],
        mean=tuple(preprocess.get("mean", OPENAI_MEAN)),
        std=tuple(preprocess.get("std", OPENAI_STD)),
        interpolation=preprocess.get("interpolation", "bicubic"),
    )


def init_judge_params(config: BiomedClipConfig, key: jax.Array) -> Params:
    """Random float32 parameters {"vision", "text"}, ready to be trained."""
    vision_key, text_key = jax.random.split(key)
    return {
        "vision": init_vision_params(config.vision, config.embed_dim, vision_key),
        "text": init_text_params(config.text, config.embed_dim, text_key),
    }


def normalise_pixels(pixels: Array, config: BiomedClipConfig) -> Float[Array, "*b Y X 3"]:
    """8-bit RGB -> the float32 numbers the image tower was trained on."""
    mean, std = np.asarray(config.mean, np.float32), np.asarray(config.std, np.float32)
    return (pixels.astype(jnp.float32) / 255.0 - mean) / std


def encode_image(
    params: Params, pixels: Float[Array, "B Y X 3"], config: BiomedClipConfig
) -> Float[Array, "B E"]:
    """Image embeddings, float32, not normalised.

    Args:
      params: of the judge; their dtype is the compute dtype (norms, softmax and the result stay float32).
      pixels: normalised as by `normalise_pixels`.
      config: sizes.
    """
    vision = params["vision"]
    with jax.default_matmul_precision("highest"):
        x = embed_patches(vision, pixels.astype(vision["embed"]["cls"].dtype), config.vision)
        for block in range(config.vision.depth):
            x, _ = run_block(vision, block, x, config.vision)
        return project_cls(vision, x, config.vision)


def encode_text(
    params: Params, ids: Int[Array, "N T"], config: BiomedClipConfig
) -> Float[Array, "N E"]:
    """Statement embeddings, float32, not normalised.

    Args:
      params: of the judge; their dtype is the compute dtype.
      ids: [CLS] ... [SEP], filled up with the pad id to any common length; more padding changes nothing.
      config: sizes.
    """
    with jax.default_matmul_precision("highest"):
        return run_text_tower(params["text"], ids, config.text)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"judge: expected {path.name} in {path.parent}; there is none.") from None
    except ValueError as error:
        raise ConfigError(f"judge: {path} is not valid JSON: {error}.") from None
    if not isinstance(written, dict):
        raise ConfigError(f"judge: expected an object in {path}; got {type(written).__name__}.")
    return written


def _unknown_kinds(vision: dict[str, Any], text: dict[str, Any], preprocess: dict[str, Any]) -> list[str]:
    """What the model has that this implementation has not."""
    expected = (
        ("vision_cfg.timm_pool", vision.get("timm_pool", "avg"), ("", "token")),
        ("vision_cfg.timm_proj", vision.get("timm_proj", "linear"), ("linear",)),
        ("vision_cfg.timm_proj_bias", vision.get("timm_proj_bias", False), (False,)),
        ("text_cfg.hf_proj_type", text.get("hf_proj_type"), ("mlp",)),
        ("text_cfg.hf_pooler_type", text.get("hf_pooler_type"), ("cls_last_hidden_state_pooler",)),
        ("preprocess_cfg.interpolation", preprocess.get("interpolation", "bicubic"), ("bicubic", "bilinear")),
    )
    return [
        f"{key}: expected {' or '.join(map(repr, known))}; got {got!r}"
        for key, got, known in expected
        if got not in known
    ]


def _vision_config(written: dict[str, Any]) -> VisionTowerConfig:
    if written["image_size"] % written["patch_size"] or written["width"] % written["heads"]:
        raise ConfigError(
            f"vision_cfg: expected patch_size to divide image_size and heads to divide width; got "
            f"{ {key: written[key] for key in ('patch_size', 'image_size', 'heads', 'width')} }."
        )
    return VisionTowerConfig(
        image_size=written["image_size"],
        patch_size=written["patch_size"],
        width=written["width"],
        depth=written["layers"],
        heads=written["heads"],
        hidden=int(written["width"] * written.get("mlp_ratio", 4)),
    )


def _text_config(bert: dict[str, Any], context_length: int) -> TextTowerConfig:
    if bert["hidden_size"] % bert["num_attention_heads"] or context_length > bert["max_position_embeddings"]:
        raise ConfigError(
            f"config.json: expected num_attention_heads to divide hidden_size and context_length to be at most "
            f"max_position_embeddings; got {bert['num_attention_heads']}, {bert['hidden_size']}, {context_length}, "
            f"{bert['max_position_embeddings']}."
        )
    return TextTowerConfig(
        vocabulary=bert["vocab_size"],
        width=bert["hidden_size"],
        depth=bert["num_hidden_layers"],
        heads=bert["num_attention_heads"],
        hidden=bert["intermediate_size"],
        positions=bert["max_position_embeddings"],
        types=bert["type_vocab_size"],
        pad_token_id=bert["pad_token_id"],
        context_length=context_length,
        epsilon=bert["layer_norm_eps"],
    )
