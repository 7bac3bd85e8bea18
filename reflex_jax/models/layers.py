"""Small layers the towers share: RMS norm with float32 statistics, linear layers, the gated feed-forward block.

Layers compute in the dtype of their rows. The gradient of a parameter is added up, over rows and over devices, in the
parameter's own: `widened` parameters of bfloat16 rows have sums in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float, Int

from reflex_jax.models.lora import KERNEL, LORA_A, LORA_B
from reflex_jax.trees import Array, Params

# Name of what an attention that holds no scores keeps for its backward pass: its outputs and log-sum-exp.
SAVED_ATTENTION = "attention"
SAVED_SUM = "adapted"  # of what a linear layer with an adapter keeps: the sum of both products, not each of them
TURNED = "turned"  # a kernel [out, in], see `turn_kernels`
_LARGE_KERNEL = 2 << 20  # bytes


def widened(params: Params, *, wide: bool) -> Params:
    """The same parameters, as float32 where they are to have wide sums.

    For the moment of use, inside a scan over layers: then no copy of them exists, and each gradient is rounded to what the
    parameter is stored in once, when all devices have added their part.
    """
    return jax.tree.map(_widened, params) if wide else params


@jax.custom_vjp
def _widened(leaf: Array) -> Array:
    return leaf.astype(jnp.float32)


def _widened_backward(leaf: Array, gradient: Array) -> tuple[Array]:
    # rounded before the cast: of a cast alone the TPU compiler makes devices add up in bfloat16 what it casts afterwards
    stored = jnp.finfo(leaf.dtype)
    return (jax.lax.reduce_precision(gradient, stored.nexp, stored.nmant).astype(leaf.dtype),)


_widened.defvjp(lambda leaf: (leaf.astype(jnp.float32), leaf), _widened_backward)


def for_rows(vector: Float[Array, "D"], x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
    """A vector once for each row, in the dtype of the rows."""
    return jnp.broadcast_to(vector, x.shape).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def look_up(table: Float[Array, "V D"], tokens: Int[Array, "*rows"], dtype: Any) -> Float[Array, "*rows D"]:
    """Rows of a table, in a dtype for rows.

    A token may occur thousands of times, and bfloat16 adds up no more than 256 equal parts of a gradient (256 + 1 = 256): a
    table that learns should be `widened`.
    """
    return table.astype(dtype)[tokens]


def _look_up_backward(dtype: Any, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, None]:
    table, tokens = saved
    return jnp.zeros_like(table).at[tokens].add(gradient.astype(table.dtype)), None


look_up.defvjp(lambda table, tokens, dtype: (table.astype(dtype)[tokens], (table, tokens)), _look_up_backward)


def rms_norm(x: Float[Array, "*rows D"], scale: Float[Array, "D"], *, epsilon: float) -> Float[Array, "*rows D"]:
    """Divides each row by its root mean square and multiplies by `scale`.

    The statistics are float32 whatever the dtype of `x`; the result has the dtype of `x`.
    """
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + epsilon)
    return for_rows(scale, x) * (wide * inverse).astype(x.dtype)


class RMSNorm(nn.Module):
    """RMS norm with a learned scale."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Normalises the last axis."""
        return rms_norm(x, self.param("scale", nn.initializers.ones, (x.shape[-1],)), epsilon=self.epsilon)


class LayerNorm(nn.LayerNorm):
    """Flax's layer norm, whose float32 statistics of narrower inputs mix dtypes by JAX's standard rules; in the rows' dtype."""

    def __call__(self, x: Float[Array, "*rows D"], **settings: Any) -> Float[Array, "*rows D"]:
        """Normalises the last axis."""
        with jax.numpy_dtype_promotion("standard"):
            return super().__call__(x, **settings).astype(x.dtype)


def apply(module: nn.Module, params: Params, *inputs: Any) -> Any:
    """What a module makes of its inputs with these parameters."""
    return module.apply({"params": params}, *inputs)


def product_precision(dtype: Any) -> jax.lax.Precision | None:
    """Precision of a matrix product whose operands have this dtype: float32 means float32, on every device.

    Left to their default, GPUs round float32 operands to TF32 (10 bits) and TPUs to bfloat16 (7 bits). Operands in
    bfloat16 are exact as they are, so nothing is asked for.
    """
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


def _product(x: Float[Array, "N in"], kernel: Float[Array, "in out"], dtype: Any) -> Float[Array, "N out"]:
    precision = product_precision(x.dtype)
    return jax.lax.dot(x, kernel.astype(x.dtype), precision=precision, preferred_element_type=dtype)


_rows_times_kernel = jax.custom_vjp(_product, nondiff_argnums=(2,))


def _rows_times_kernel_backward(
    dtype: Any, saved: tuple[Array, Array], gradient: Float[Array, "N out"]
) -> tuple[Array, Array]:
    x, kernel = saved
    product = partial(jax.lax.dot, precision=product_precision(x.dtype))
    of_x = product(gradient, kernel.astype(x.dtype).T, preferred_element_type=dtype)
    return of_x.astype(x.dtype), product(x.T, gradient, preferred_element_type=kernel.dtype)


_rows_times_kernel.defvjp(
    # the product itself: what `checkpointed` keeps are products, not functions of them
    lambda x, kernel, dtype: (_product(x, kernel, dtype), (x, kernel)),
    _rows_times_kernel_backward,
)


def rows_product(
    x: Float[Array, "*rows in"], kernel: Float[Array, "in out"], dtype: Any = None
) -> Float[Array, "*rows out"]:
    """The product of a dense layer, in a dtype (None: that of the rows), with the kernel's gradient as x^T @ gradient.

    JAX's own rule writes it as (gradient^T @ x)^T, for which XLA on a CPU computes the gradient's elementwise part (of
    SwiGLU, say) in transposed order: a quarter of the backward pass of a narrow decoder.
    """
    products = _rows_times_kernel(x.reshape(-1, x.shape[-1]), kernel, dtype or x.dtype)
    return products.reshape(*x.shape[:-1], kernel.shape[-1])


def turn_kernels(params: Any, transposed: Callable[[Any], Any] = jnp.transpose) -> Any:
    """The same layers with large kernels as [out, in], under another name, as a CPU multiplies few rows with them fastest.

    A token of 16 rows waits for its kernels: read in rows of `in` numbers a decoder of 90 M parameters takes 0.73 of the time
    (a product of 768 and 2,048: 0.55 ms for 0.72). Kernels that stay in the cache lose a tenth, so small ones are left alone, and
    those of other dtypes, which were not measured.

    Args:
      params: layers, as arrays or as their shapes.
      transposed: makes a kernel [out, in], of what the leaves are.
    """

    def turn(layer: Params) -> Params:
        kernel = layer.get(KERNEL)
        if kernel is None or kernel.dtype != jnp.float32 or kernel.size * kernel.dtype.itemsize < _LARGE_KERNEL:
            return layer
        return {TURNED: transposed(kernel)} | {name: leaf for name, leaf in layer.items() if name != KERNEL}

    return _of_layers(params, turn)


def turn_back(params: Any) -> Any:
    """The inverse of `turn_kernels`."""

    def turn(layer: Params) -> Params:
        return {KERNEL if name == TURNED else name: leaf.T if name == TURNED else leaf for name, leaf in layer.items()}

    return _of_layers(params, turn)


def _of_layers(tree: Any, change: Callable[[Params], Params]) -> Any:
    """A tree with every dict of arrays changed."""
    if isinstance(tree, list):
        return [_of_layers(part, change) for part in tree]
    if not isinstance(tree, dict):
        return tree
    if any(isinstance(part, dict | list) for part in tree.values()):
        return {name: _of_layers(part, change) for name, part in tree.items()}
    return change(tree)


def _turned_product(x: Float[Array, "*rows in"], kernel: Float[Array, "out in"]) -> Float[Array, "*rows out"]:
    products = jax.lax.dot_general(
        x.reshape(-1, x.shape[-1]), kernel, (((1,), (1,)), ((), ())), precision=product_precision(x.dtype)
    )
    return products.reshape(*x.shape[:-1], kernel.shape[0])


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
        if self.has_variable("params", TURNED):
            outputs = _turned_product(x, self.get_variable("params", TURNED))
        else:
            kernel = self.param(KERNEL, nn.initializers.normal(0.02), (x.shape[-1], self.features))
            outputs = rows_product(x, kernel)
        if self.use_bias:
            outputs = outputs + for_rows(self.param("bias", nn.initializers.zeros, (self.features,)), outputs)
        if not self.has_variable("params", LORA_A):
            return outputs
        reduced = rows_product(x, self.get_variable("params", LORA_A))
        return checkpoint_name(outputs + rows_product(reduced, self.get_variable("params", LORA_B)), SAVED_SUM)


def dense(features: int, name: str, *, use_bias: bool) -> Dense:
    """A linear layer [in, out] drawn with standard deviation 0.02, as Qwen's are."""
    return Dense(features, use_bias=use_bias, name=name)


def gated_feed_forward(x: Float[Array, "*rows D"], *, hidden: int, use_bias: bool) -> Float[Array, "*rows D"]:
    """SwiGLU: down(silu(gate(x)) * up(x)). Called inside a module, whose parameters it declares."""
    gate = dense(hidden, "gate", use_bias=use_bias)(x)
    up = dense(hidden, "up", use_bias=use_bias)(x)
    return dense(x.shape[-1], "down", use_bias=use_bias)(nn.silu(gate) * up)


def checkpointed(layer: Callable[..., Any], *, remat: bool, keeps_products: bool = True) -> Callable[..., Any]:
    """Says what the backward pass of a layer inside a scan keeps.

    Without `remat` the results of matrix products are kept and everything cheap (norms, activations, softmax) is
    computed again: less memory to write and read than keeping that too. An attention in blocks is no matrix product of
    the layer: its result is kept, not the scores inside of it. With `remat` only the layer's input is kept.

    Args:
      layer: of a scan.
      remat: `memory.remat`.
      keeps_products: without `remat`; False: of a layer's results only those of an attention in blocks are kept.
    """
    policies = jax.checkpoint_policies
    kept = policies.save_only_these_names(SAVED_ATTENTION)
    if keeps_products:
        kept = policies.save_from_both_policies(
            policies.dots_saveable, policies.save_only_these_names(SAVED_ATTENTION, SAVED_SUM)
        )
    return jax.checkpoint(layer, prevent_cse=False, policy=None if remat else kept)
