"""Levels of 8 bits -> the normalised pixels that the vision tower's first product reads.

The host sends each pixel once and as it was decoded: an eighth of the bytes of normalised float32 pixels of two equal frames.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from reflex_jax.records import VisionInputs
from reflex_jax.trees import Array


def normalised_patches(vision: VisionInputs, *, frames: int) -> Float[Array, "P W U frames"]:
    """Normalises levels in float32 and repeats a still picture for each frame of a patch.

    Args:
      vision: its patches are levels, or normalised pixels, which are returned as they are.
      frames: of one patch.
    """
    if vision.normalisation is None:
        return vision.patches
    channels = vision.normalisation.shape[-1]
    slope, intercept = (vision.normalisation[:, row, None, None, :, None] for row in range(2))  # [P, 1, 1, 3, 1]
    places = vision.patches.shape[:-1]
    pixels = vision.patches.reshape(*places, channels, -1).astype(jnp.float32) * slope + intercept
    return jnp.repeat(pixels[..., None, :], frames, axis=-2).reshape(*places, -1)
