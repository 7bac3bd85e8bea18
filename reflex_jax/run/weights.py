"""The policy of a run as a checkpoint holds it: what was trained, beside what was fixed; no moments, no reference."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reflex_jax.checkpoints.huggingface import load_policy_params
from reflex_jax.checkpoints.policy import policy_shardings
from reflex_jax.checkpoints.qwen_tensors import abstract_policy_params
from reflex_jax.config import Config, PolicyConfig
from reflex_jax.models.layers import turn_back
from reflex_jax.models.partitioning import policy_table
from reflex_jax.models.qwen_vl import QwenVLConfig
from reflex_jax.run.checkpoint import RunCheckpoints
from reflex_jax.sharding import AnyMesh, parameter_shardings, replicated
from reflex_jax.step.models import Models, load_adapters, load_params
from reflex_jax.step.program import Program
from reflex_jax.step.trained import abstract_trained, draw_adapters, split_trainable
from reflex_jax.trees import Array, Params


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


def restored_policy(config: Config, models: Models, checkpoints: RunCheckpoints, step: int) -> tuple[Any, Any]:
    """`restore_policy` with what is known of a run."""
    policy, mesh = models.shapes.policy, models.shapes.mesh
    return restore_policy(checkpoints, step, models.directory, policy, mesh, settings=config.policy)


def weights_to_sample(config: Config, models: Models, program: Program, checkpoint: tuple[Any, Any] | None) -> Params:
    """The policy as sampling reads it: of a checkpoint, or (None) of the directory that the configuration names."""
    if checkpoint is None:
        params = load_params(models)
        trained, fixed = split_trainable(params, config.policy)
        trained = (
            load_adapters(models, config.policy) or draw_adapters(params, config.policy, config.run.seed) or trained
        )
    else:
        trained, fixed = checkpoint
    return program.gather(trained, jax.tree.map(lambda x: x.astype(config.policy.dtype), fixed))


def weights_fingerprint(params: Params, mesh: AnyMesh) -> str:
    """Hash of weights by content, wherever they lie: two sums of each array, of its bits times odd numbers by their places.

    Sums are of whole numbers modulo 2^32, so neither the mesh nor the order of additions enters them; every bit that changes
    changes the first. Weights that were saved and read again have the hash they had.

    Args:
      params: arrays of float32 or bfloat16, the same for all processes.
      mesh: where they lie.
    """
    leaves = jax.tree_util.tree_flatten_with_path(jax.eval_shape(turn_back, params))[0]
    sums = _summer(mesh)(params)
    named = [
        [jax.tree_util.keystr(path), list(x.shape), str(x.dtype), np.asarray(pair).tolist()]
        for (path, x), pair in zip(leaves, sums, strict=True)
    ]
    return "sha256:" + hashlib.sha256(json.dumps(named).encode()).hexdigest()


@functools.cache
def _summer(mesh: AnyMesh) -> Callable[[Params], list[Array]]:
    """Of kernels as they are stored, on every device."""
    return jax.jit(
        lambda params: [_sums(x) for x in jax.tree.leaves(turn_back(params))], out_shardings=replicated(mesh)
    )


def _sums(x: Array) -> Array:
    kind = {2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        place = place * jnp.uint32(size % 2**32) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    factors = (place * jnp.uint32(0x9E3779B1) ^ (place >> 15) * jnp.uint32(0x85EBCA77)) | jnp.uint32(1)
    others = (place + jnp.uint32(0x7F4A7C15)) * jnp.uint32(0xC2B2AE35) | jnp.uint32(1)
    mixed = bits ^ (bits >> 16) * jnp.uint32(0x27D4EB2F)
    return jnp.stack([(bits * factors).sum(dtype=jnp.uint32), (mixed * others).sum(dtype=jnp.uint32)])
