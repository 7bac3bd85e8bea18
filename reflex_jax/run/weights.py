"""The policy of a run as a checkpoint holds it: what was trained, beside what was fixed; no moments, no reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from reflex_jax.checkpoints.huggingface import load_policy_params
from reflex_jax.checkpoints.policy import policy_shardings
from reflex_jax.checkpoints.qwen_tensors import abstract_policy_params
from reflex_jax.models.qwen_vl import QwenVLConfig
from reflex_jax.run.checkpoint import RunCheckpoints
from reflex_jax.sharding import AnyMesh
from reflex_jax.step.state import split_trainable


def restore_policy(
    checkpoints: RunCheckpoints, step: int, source: Path, policy: QwenVLConfig, mesh: AnyMesh, *, trainable: str
) -> tuple[Any, Any]:
    """Reads the policy after a step, cut over the mesh as the update wants it.

    Args:
      checkpoints: of the run.
      step: of `find_step`.
      source: the checkpoint the run started from; what was not trained is read there.
      policy: its sizes.
      mesh: where to.
      trainable: `policy.trainable` of the run.
    Returns:
      (trained, fixed): float32.
    Raises:
      ConfigError: the checkpoint cannot be read.
    """
    shardings = policy_shardings(policy, mesh)
    masters = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=sharding),
        abstract_policy_params(policy),
        shardings,
    )
    trained, fixed = split_trainable(masters, trainable)
    params = checkpoints.restore_params(trained, step)
    if fixed:
        _, fixed = split_trainable(load_policy_params(source, policy, jnp.float32, shardings), trainable)
    return params, fixed
