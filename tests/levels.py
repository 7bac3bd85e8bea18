"""Pixels as the vision tower's first product reads them, from the levels that the host sends."""

import numpy as np

from reflex_jax.models.patches import normalised_patches
from reflex_jax.records import VisionInputs


def normalise_levels(levels: np.ndarray, normalisation: np.ndarray) -> np.ndarray:
    """u8[n, 588] -> f32[n, 1176]."""
    ids = np.ones((1, 1, len(levels)), np.int32)
    vision = VisionInputs(
        patches=levels[None, None], coordinates=np.stack([ids, ids], axis=-1), image_ids=ids,
        normalisation=normalisation[None],
    )  # fmt: skip
    return np.asarray(normalised_patches(vision, frames=2))[0, 0]
