"""Small layers the towers share: RMS norm with float32 statistics, linear layers, the gated feed-forward block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

from reflex_jax.models.lora import KERNEL, LORA_A, LORA_B
from reflex_jax.trees import Array, Params

# Name of what an attention that holds no scores keeps for its backward pass: its outputs and log-sum-exp.
SAVED_ATTENTION = "attention"
SAVED_SUM = "adapted"  # of what a linear layer with an adapter keeps: the sum of both products, not each of them


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


class LayerNorm(nn.LayerNorm):
    """Flax's layer norm, whose float32 statistics of narrower inputs mix dtypes by JAX's standard rules."""

    def __call__(self, x: Float[Array, "*rows D"], **settings: Any) -> Float[Array, "*rows D"]:
        """Normalises the last axis."""
        with jax.numpy_dtype_promotion("standard"):
            return super().__call__(x, **settings)


def apply(module: nn.Module, params: Params, *inputs: Any) -> Any:
    """What a module makes of its inputs with these parameters."""
    return module.apply({"params": params}, *inputs)


def product_precision(dtype: Any) -> jax.lax.Precision | None:
    """Precision of a matrix product whose operands have this dtype: float32 means float32, on every device.

    Left to their default, GPUs round float32 operands to TF32 (10 bits) and TPUs to bfloat16 (7 bits). Operands in
    bfloat16 are exact as they are, so nothing is asked for.
    """
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=product_precision(left.dtype))


@jax.custom_vjp
def _rows_times_kernel(x: Float[Array, "N in"], kernel: Float[Array, "in out"]) -> Float[Array, "N out"]:
    return _product(x, kernel)


def _rows_times_kernel_backward(saved: tuple[Array, Array], gradient: Float[Array, "N out"]) -> tuple[Array, Array]:
    x, kernel = saved
    return _product(gradient, kernel.T), _product(x.T, gradient)


_rows_times_kernel.defvjp(lambda x, kernel: (_product(x, kernel), (x, kernel)), _rows_times_kernel_backward)


def _rows_product(x: Float[Array, "*rows in"], kernel: Float[Array, "in out"]) -> Float[Array, "*rows out"]:
    """The product of a dense layer, with the kernel's gradient as x^T @ gradient.

    JAX's own rule writes it as (gradient^T @ x)^T, for which XLA on a CPU computes the gradient's elementwise part (of
    SwiGLU, say) in transposed order: a quarter of the backward pass of a narrow decoder.
    """
    return _rows_times_kernel(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], kernel.shape[-1])


class Dense(nn.Module):
    """A linear layer, and what a low-rank adapter among its parameters adds (`lora.py`).

    On activations, x W + (x A) B: the backward pass then needs the gradients of A and B alone, [in, r] and [r, out], where
    the kernel W + A B would have one of [in, out] in every layer.
    """

    features: int
    use_bias: bool

    @nn.compact
    def __call__(self, x: Float[Array, "*rows in"]) -> Float[Array, "*rows out"]:
        """Maps the last axis."""
        outputs = _rows_product(x, self.param(KERNEL, nn.initializers.normal(0.02), (x.shape[-1], self.features)))
        if self.use_bias:
            outputs = outputs + self.param("bias", nn.initializers.zeros, (self.features,))
        if not self.has_variable("params", LORA_A):
            return outputs
        reduced = _rows_product(x, self.get_variable("params", LORA_A))
        return checkpoint_name(outputs + _rows_product(reduced, self.get_variable("params", LORA_B)), SAVED_SUM)


def dense(features: int, name: str, *, use_bias: bool) -> Dense:
    """A linear layer [in, out] drawn with standard deviation 0.02, as Qwen's are."""
    return Dense(features, use_bias=use_bias, name=name)


def gated_feed_forward(x: Float[Array, "*rows D"], *, hidden: int, use_bias: bool) -> Float[Array, "*rows D"]:
    """SwiGLU: down(silu(gate(x)) * up(x)). Called inside a module, whose parameters it declares."""
    gate = dense(hidden, "gate", use_bias=use_bias)(x)
    up = dense(hidden, "up", use_bias=use_bias)(x)
    return dense(x.shape[-1], "down", use_bias=use_bias)(nn.silu(gate) * up)


def checkpointed(layer: Callable[..., Any], *, remat: bool) -> Callable[..., Any]:
    """Says what the backward pass of a layer inside a scan keeps.

    Without `remat` the results of matrix products are kept and everything cheap (norms, activations, softmax) is
    computed again: less memory to write and read than keeping that too. An attention in blocks is no matrix product of
    the layer: its result is kept, not the scores inside of it. With `remat` only the layer's input is kept.
    """
    policies = jax.checkpoint_policies
    kept = policies.save_from_both_policies(
        policies.dots_saveable, policies.save_only_these_names(SAVED_ATTENTION, SAVED_SUM)
    )
    policy = None if remat else kept
    return jax.checkpoint(layer, prevent_cse=False, policy=policy)
