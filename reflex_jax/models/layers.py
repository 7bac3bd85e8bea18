"""Small layers the towers share: RMS norm with float32 statistics, and the gated feed-forward block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


def rms_norm(x: Float[Array, "*rows D"], scale: Float[Array, "D"], *, epsilon: float) -> Float[Array, "*rows D"]:
    """Divides each row by its root mean square and multiplies by `scale`.

    The statistics are float32 whatever the dtype of `x`; the result has the dtype of `x`.
    """
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + epsilon)
    return scale * (wide * inverse).astype(x.dtype)


class RMSNorm(nn.Module):
    """RMS norm with a learned scale."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Normalises the last axis."""
        return rms_norm(x, self.param("scale", nn.initializers.ones, (x.shape[-1],)), epsilon=self.epsilon)


def dense(features: int, name: str, *, use_bias: bool) -> nn.Dense:
    """A linear layer [in, out] drawn with standard deviation 0.02, as Qwen's are."""
    return nn.Dense(features, use_bias=use_bias, kernel_init=nn.initializers.normal(0.02), name=name)


def gated_feed_forward(x: Float[Array, "*rows D"], *, hidden: int, use_bias: bool) -> Float[Array, "*rows D"]:
    """SwiGLU: down(silu(gate(x)) * up(x)). Called inside a module, whose parameters it declares."""
    gate = dense(hidden, "gate", use_bias=use_bias)(x)
    up = dense(hidden, "up", use_bias=use_bias)(x)
    return dense(x.shape[-1], "down", use_bias=use_bias)(nn.silu(gate) * up)


def checkpointed(layer: Callable[..., Any], *, remat: bool) -> Callable[..., Any]:
    """Says what the backward pass of a layer inside a scan keeps.

    Without `remat` the results of matrix products are kept and everything cheap (norms, activations, softmax) is
    computed again: less memory to write and read than keeping that too. With `remat` only the layer's input is kept.
    """
    policy = None if remat else jax.checkpoint_policies.dots_saveable
    return jax.checkpoint(layer, prevent_cse=False, policy=policy)
