"""What training changes, what it only reads, and the optimiser."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Int

from reflex_jax.config import OptimizerConfig
from reflex_jax.trees import Leaf, Params, pytree_dataclass


@pytree_dataclass
class TrainState:
    """Everything a step replaces. Trainable parameters are float32 masters, whatever dtype they compute in."""

    step: Int[Leaf, ""]
    params: Params
    optimizer_state: Any


@pytree_dataclass
class FrozenParams:
    """Everything a step only reads; the optimiser never sees it."""

    fixed: Params  # the policy's parameters that do not train ({} when all do)
    reference: Params | None  # the initial policy, in the compute dtype; None: no KL term and no ratio to it
    judge: Params | None


def split_trainable(params: Params, trainable: str) -> tuple[Params, Params]:
    """Splits the policy's parameters into (trained, fixed) by `policy.trainable`."""
    fixed = {"vision"} if trainable == "language" else set()
    return {k: v for k, v in params.items() if k not in fixed}, {k: v for k, v in params.items() if k in fixed}


def cast_params(params: Params, dtype: Any) -> Params:
    """Returns parameters in the dtype of their matrix products."""
    return jax.tree.map(lambda x: x.astype(dtype), params)


def compute_params(params: Params, fixed: Params, dtype: Any) -> Params:
    """Returns the whole policy, cast to the dtype of its matrix products."""
    return {**cast_params(params, dtype), **fixed}


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Builds the optax chain: clip by the global norm, then the optimiser with its schedule.

    Args:
      config: section `optimizer`.
      steps: optimiser updates of the whole run, where the decaying schedules reach 0.
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
    return mixing_dtypes(optax.chain(optax.clip_by_global_norm(config.clip_norm), update))


def mixing_dtypes(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Lets optax mix dtypes by JAX's standard rules: Adam takes a power of an integer count, also where that is forbidden."""

    def update(gradients: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(gradients, state, params)

    return optax.GradientTransformation(optimizer.init, update)


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """Starts the optimiser on float32 masters of the trainable parameters."""
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, optimizer_state=optimizer.init(params))
