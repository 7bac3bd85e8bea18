"""What training changes, what it only reads, and the optimiser."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Int

from reflex_jax.config import OptimizerConfig
from reflex_jax.models.lora import has_adapters, whole_policy
from reflex_jax.sharding import path_name
from reflex_jax.step.narrow import narrow
from reflex_jax.trees import Array, Leaf, Params, joined, pytree_dataclass


@pytree_dataclass
class TrainState:
    """Everything a step replaces. Trainable parameters are masters (`policy.master_dtype`), whatever dtype they compute in."""

    step: Int[Leaf, ""]
    params: Params
    optimizer_state: Any


@pytree_dataclass
class FrozenParams:
    """Everything a step only reads; the optimiser never sees it."""

    fixed: Params  # the policy's parameters that do not train ({} when all do), in the compute dtype
    # what trains of the policy itself ({} beside adapters), as it began, in the compute dtype; None: there is neither a KL term
    # nor a ratio to it
    reference: Params | None
    judge: Params | None


def on_device(x: Any) -> Any:
    """Brings an array into the device's memory, where it is not in it already; see `memory.offload`."""
    return x if is_on_device(x) else jax.device_put(x, jax.memory.Space.Device)


def is_on_device(x: Any) -> bool:
    """Whether an array, inside `jit` too, lies in the device's memory."""
    return jax.typeof(x).memory_space == jax.memory.Space.Device


def cast_params(params: Params, dtype: Any) -> Params:
    """Returns parameters as products read them: on the device, in their dtype. Gradients are of these.

    What waits on the host comes a layer at a time, so that the device never holds it in both dtypes.
    """

    def cast(path: Any, x: Any) -> Array:
        if is_on_device(x) or "layers/" not in path_name(path):
            return on_device(x).astype(dtype)
        return jax.lax.map(lambda layer: on_device(layer).astype(dtype), x)

    return jax.tree_util.tree_map_with_path(cast, params)


def compute_params(params: Params, fixed: Params, dtype: Any, *, lora_scale: float) -> Params:
    """Returns the whole policy with its adapters beside it, cast to the dtype of its matrix products."""
    return whole_policy(cast_params(params, dtype), fixed, lora_scale=lora_scale)


def params_to_merge(params: Params, fixed: Params, dtype: Any, *, lora_scale: float) -> Params:
    """Returns the same for `merge_adapters`: adapters in float32, so that the sum with their kernels is rounded once."""
    return compute_params(params, fixed, jnp.float32 if has_adapters(params) else dtype, lora_scale=lora_scale)


def reference_policy(frozen: FrozenParams) -> Params | None:
    """Returns the whole initial policy, the parameters that never train shared with the one that learns; None: there is none.

    Beside adapters nothing of the policy trains: it is the reference itself, and no array exists twice.
    """
    return None if frozen.reference is None else joined(frozen.reference, frozen.fixed)


def make_optimizer(
    config: OptimizerConfig, steps: int, *, master_dtype: str = "float32", seed: int = 0
) -> optax.GradientTransformationExtraArgs:
    """Builds the optax chain: clip by the global norm, then the optimiser with its schedule.

    Its `update` is told the norm of all gradients as `grad_norm`, and may be given a part of the parameters, each with a
    number of its own as `part` (`layerwise.py`). It takes and gives float32, whatever is stored in bfloat16;
    `narrow.apply_updates` adds its updates.

    Args:
      config: section `optimizer`.
      steps: optimiser updates of the whole run, where the decaying schedules reach 0.
      master_dtype: of the parameters it updates.
      seed: of the run; rounding to bfloat16 draws from it.
    """
    decay_steps = max(steps - config.warmup_steps, 1)
    schedule = {
        "constant": optax.constant_schedule(config.learning_rate),
        "linear": optax.linear_schedule(config.learning_rate, 0.0, decay_steps),
        "cosine": optax.cosine_decay_schedule(config.learning_rate, decay_steps),
    }[config.schedule]
    if config.warmup_steps:
        rising = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
        schedule = optax.join_schedules([rising, schedule], [config.warmup_steps])
    if config.name == "sgd":
        update = optax.chain(optax.add_decayed_weights(config.weight_decay), optax.sgd(schedule))
    else:
        update = optax.adamw(schedule, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay)
    optimizer = mixing_dtypes(optax.chain(clip_by_given_norm(config.clip_norm), update))
    moments, masters = config.moments_dtype == "bfloat16", master_dtype == "bfloat16"
    return narrow(optimizer, moments=moments, masters=masters, seed=seed) if moments or masters else optimizer


def clip_by_given_norm(clip_norm: float) -> optax.GradientTransformationExtraArgs:
    """`optax.clip_by_global_norm` for a part of the gradients, told the norm of all of them."""

    def update(gradients: Params, state: Any, params: Params | None = None, *, grad_norm: Any, **_: Any) -> Any:
        return jax.tree.map(lambda x: jnp.where(grad_norm < clip_norm, x, x / grad_norm * clip_norm), gradients), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def mixing_dtypes(optimizer: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """Lets optax mix dtypes by JAX's standard rules: Adam takes a power of an integer count, also where that is forbidden."""

    def update(gradients: Params, state: Any, params: Params | None = None, **extra: Any) -> tuple[Params, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(gradients, state, params, **extra)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def init_state(
    params: Params, optimizer: optax.GradientTransformationExtraArgs, master_dtype: Any = jnp.float32
) -> TrainState:
    """Starts the optimiser on masters of the trainable parameters."""
    params = jax.tree.map(lambda x: jnp.asarray(x, master_dtype), params)
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, optimizer_state=optimizer.init(params))
