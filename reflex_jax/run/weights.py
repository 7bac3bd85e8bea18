"""The policy of a run as a checkpoint holds it: what was trained, beside what was fixed; no moments, no reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from reflex_jax.checkpoints.huggingface import load_policy_params
from reflex_jax.checkpoints.policy import policy_shardings
from reflex_jax.checkpoints.qwen_tensors import abstract_policy_params
from reflex_jax.config import PolicyConfig
from reflex_jax.models.partitioning import policy_table
from reflex_jax.models.qwen_vl import QwenVLConfig
from reflex_jax.run.checkpoint import RunCheckpoints
from reflex_jax.sharding import AnyMesh, parameter_shardings
from reflex_jax.step.trained import abstract_trained, split_trainable


def restore_policy(
    checkpoints: RunCheckpoints, step: int, source: Path, policy: QwenVLConfig, mesh: AnyMesh, *, settings: PolicyConfig,
    with_fixed: bool = True,
) -> tuple[Any, Any]:  # fmt: skip
    """Reads the policy after a step, cut over the mesh as the update wants it.

    Args:
      checkpoints: of the run.
      step: of `find_step`.
      source: the checkpoint the run started from; what was not trained is read there.
      policy: its sizes.
      mesh: where to.
      settings: section `policy` of the run.
      with_fixed: False: what was not trained is not read, and {}.
    Returns:
      (trained, fixed): float32; trained are parts of the policy, or adapters beside it.
    Raises:
      ConfigError: the checkpoint cannot be read.
    """
    abstract = abstract_policy_params(policy)
    trained = abstract_trained(abstract, settings)
    like = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=sharding),
        trained,
        parameter_shardings(trained, policy_table(policy, mesh), mesh),
    )
    params = checkpoints.restore_params(like, step)
    fixed = split_trainable(abstract, settings)[1] if with_fixed else {}
    if fixed:
        loaded = load_policy_params(source, policy, jnp.float32, policy_shardings(policy, mesh))
        _, fixed = split_trainable(loaded, settings)
    return params, fixed
