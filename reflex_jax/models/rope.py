"""Rotary position embeddings: three axes (time, height, width) in the decoder, two in the vision tower.

Rotations are (cosines, sines) pairs of half the head's width, in float32; `rotate` turns the first half of each head
against the second one.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from reflex_jax.trees import Array

Rotation = tuple[Float[Array, "*#rows F"], Float[Array, "*#rows F"]]  # F = H/2 frequencies


def multimodal_rotation(
    positions: Int[Array, "*rows 3"],
    *,
    head_width: int,
    sections: tuple[int, ...],
    theta: float,
    is_interleaved: bool = False,
) -> Rotation:
    """M-RoPE: each frequency turns with one of the three coordinates of a token.

    Args:
      positions: time, height and width of each token; the three are equal for text.
      head_width: H.
      sections: how many of the H/2 frequencies turn with time, height, width, in this order; one number: all with time,
        which is the RoPE of text alone.
      theta: base of the frequencies.
      is_interleaved: see `axes_of_frequencies`.

    Returns:
      Cosines and sines, f32[*rows, H/2].
    """
    coordinates = positions.astype(jnp.float32)[..., axes_of_frequencies(sections, is_interleaved=is_interleaved)]
    angles = coordinates * _inverse_frequencies(head_width, theta)
    return jnp.cos(angles), jnp.sin(angles)


def axes_of_frequencies(sections: tuple[int, ...], *, is_interleaved: bool) -> Int[np.ndarray, "F"]:
    """Which coordinate (0 time, 1 height, 2 width) each frequency turns with, the highest frequency first.

    In sections one axis after the other (Qwen2-VL); interleaved they take turns (Qwen3-VL), time, height, width, for as long
    as height and width have frequencies left, and time takes the rest: all axes see high and low frequencies.
    """
    if not is_interleaved:
        return np.repeat(np.arange(len(sections)), sections)
    axes = np.zeros(sum(sections), np.int64)
    for axis in (1, 2):
        axes[axis : 3 * sections[axis] : 3] = axis
    return axes


def image_rotation(coordinates: Int[Array, "*rows 2"], *, head_width: int, theta: float = 10000.0) -> Rotation:
    """Axial rotary embedding: half of the frequencies turn with the row, the other half with the column."""
    angles = coordinates.astype(jnp.float32)[..., None] * _inverse_frequencies(head_width // 2, theta)
    angles = angles.reshape(*angles.shape[:-2], head_width // 2)  # [*rows, 2, H/4] -> [*rows, H/2]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "*rows N H"], rotation: Rotation) -> Float[Array, "*rows N H"]:
    """Turns every head of a row by the row's rotation; computed in float32, returned in the dtype of `x`."""
    return rotate_exactly(x, rotation).astype(x.dtype)


def rotate_exactly(x: Float[Array, "*rows N H"], rotation: Rotation) -> Float[Array, "*rows N H"]:
    """`rotate` in float32: for queries, which a kernel may have to scale before they are rounded."""
    cosines, sines = (part[..., None, :] for part in rotation)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)


def _inverse_frequencies(width: int, theta: float) -> np.ndarray:
    return (1.0 / theta ** (np.arange(0, width, 2, dtype=np.float32) / np.float32(width))).astype(np.float32)
