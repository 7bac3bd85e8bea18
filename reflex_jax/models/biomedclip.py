"""The judge: a BiomedCLIP-shaped model, one image tower and one text tower into one space.

Matrix products run at the highest precision of the device: rewards compare similarities with thresholds, and the
reduced float32 products that accelerators use by default flip decisions near them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from reflex_jax.models.bert import PackedTexts
from reflex_jax.models.clip_text import init_text_params, run_packed_text_tower, run_text_tower
from reflex_jax.models.clip_vision import embed_patches, init_vision_params, project_cls, run_block
from reflex_jax.models.open_clip_config import BiomedClipConfig
from reflex_jax.models.open_clip_config import (
    read_judge_config as read_judge_config,
)  # who builds a judge reads it first
from reflex_jax.trees import Array, Params


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


def encode_image(params: Params, pixels: Float[Array, "B Y X 3"], config: BiomedClipConfig) -> Float[Array, "B E"]:
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


def encode_text(params: Params, ids: Int[Array, "N T"], config: BiomedClipConfig) -> Float[Array, "N E"]:
    """Statement embeddings, float32, not normalised.

    Args:
      params: of the judge; their dtype is the compute dtype.
      ids: [CLS] ... [SEP], filled up with the pad id to any common length; more padding changes nothing.
      config: sizes.
    """
    with jax.default_matmul_precision("highest"):
        return run_text_tower(params["text"], ids, config.text)


def encode_packed_text(
    params: Params,
    packed: PackedTexts,
    config: BiomedClipConfig,
    *,
    longest: int,
) -> Float[Array, "M E"]:
    """The same of statements that lie end to end; arguments as of `bert.packed_cls`."""
    with jax.default_matmul_precision("highest"):
        return run_packed_text_tower(params["text"], packed, config.text, longest=longest)
