"""`reflex export`: a run's policy as a Hugging Face directory."""

from __future__ import annotations

from pathlib import Path

from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.checkpoints.peft import save_adapter
from reflex_jax.checkpoints.policy import save_policy
from reflex_jax.checkpoints.qwen_tensors import abstract_policy_params
from reflex_jax.checkpoints.safetensors_writer import SHARD_BYTES
from reflex_jax.checkpoints.whole_directory import check_place
from reflex_jax.config import Config, ConfigError
from reflex_jax.models.lora import merge_adapters, whole_policy
from reflex_jax.models.qwen_vl import read_qwen_config
from reflex_jax.processes import is_first, refused_together
from reflex_jax.run.checkpoint import RunCheckpoints
from reflex_jax.run.identity import check_identity, checkpoint_fingerprint
from reflex_jax.run.weights import restore_policy
from reflex_jax.sharding import make_mesh
from reflex_jax.step.trained import linear_layers

DTYPES = ("bfloat16", "float32")
LAYOUTS = ("merged", "peft")


def export_run(
    config: Config,
    directory: str | Path,
    *,
    step: int | None = None,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    layout: str = "merged",
) -> int:
    """Writes the policy of a checkpoint of a run, in the layout and names of the checkpoint the run started from.

    Adapters are added to their kernels, or written alone as the peft package does.

    Args:
      config: the run's, with `run.dir` pointing at it.
      directory: new or empty; it may be a mount point or a link to one.
      step: which checkpoint; None: the newest.
      dtype: of the tensors on disk, one of `DTYPES`; None: each as in the checkpoint the run started from.
      shard_bytes: size of one file; an adapter is always one.
      layout: one of `LAYOUTS`; peft is for runs with `policy.lora`, whose tensors are then float32 by default.
    Returns:
      The step that was written.
    Raises:
      ConfigError: there is no such checkpoint, the policy it started from is another now, the directory is in use or
        cannot be written, dtype or layout is unknown or not that of the run, or the disk is full.
    """
    directory = Path(directory)
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"--dtype: expected one of {', '.join(DTYPES)}; got {dtype!r}.")
    if shard_bytes <= 0:
        raise ConfigError(f"--shard-size: expected more than 0 GB; got {shard_bytes / 1e9:g}.")
    if layout not in LAYOUTS:
        raise ConfigError(f"--layout: expected one of {', '.join(LAYOUTS)}; got {layout!r}.")
    lora = config.policy.lora
    if layout == "peft" and not lora.rank:
        raise ConfigError(
            "--layout peft: expected a run with adapters (policy.lora.rank); this one trained the policy itself."
        )
    with refused_together():
        if is_first():
            check_place(directory, "--to")
    checkpoints = RunCheckpoints(config.run.directory, keep=config.training.keep_checkpoints, is_owner=False)
    try:
        step = checkpoints.find_step(step)
        source = resolve_checkpoint(config.policy.path, "policy")
        # what was not trained, tokenizer and configuration come from there
        policy_now = {"policy": checkpoint_fingerprint(source)}
        check_identity(checkpoints.read_facts(step), policy_now, config.run.directory, purpose="exported")
        policy = read_qwen_config(source)
        trained, fixed = restore_policy(
            checkpoints,
            step,
            source,
            policy,
            make_mesh(config.mesh),
            settings=config.policy,
            with_fixed=layout != "peft",
        )
    finally:
        checkpoints.close()
    try:
        if layout == "peft":
            linear = linear_layers(abstract_policy_params(policy))
            save_adapter(
                trained, policy, directory, lora=lora, linear=linear, base=config.policy.path, dtype=dtype or "float32"
            )
        else:
            params = merge_adapters(whole_policy(trained, fixed, lora_scale=lora.scale))
            save_policy(source, policy, params, directory, dtype=dtype, shard_bytes=shard_bytes)
    except OSError as error:
        raise ConfigError(f"--to: {directory} could not be written ({error}); nothing was left there.") from error
    return step
