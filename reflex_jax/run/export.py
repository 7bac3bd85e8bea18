"""`reflex export`: a run's policy as a Hugging Face directory."""

from __future__ import annotations

from pathlib import Path

from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.checkpoints.policy import save_policy
from reflex_jax.checkpoints.safetensors_writer import SHARD_BYTES
from reflex_jax.checkpoints.whole_directory import check_place
from reflex_jax.config import Config, ConfigError
from reflex_jax.models.qwen_vl import read_qwen_config
from reflex_jax.processes import is_first, refused_together
from reflex_jax.run.checkpoint import RunCheckpoints
from reflex_jax.run.identity import check_identity, checkpoint_fingerprint
from reflex_jax.run.weights import restore_policy
from reflex_jax.sharding import make_mesh

DTYPES = ("bfloat16", "float32")


def export_run(
    config: Config,
    directory: str | Path,
    *,
    step: int | None = None,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Writes the policy of a checkpoint of a run, in the layout and names of the checkpoint the run started from.

    Args:
      config: the run's, with `run.dir` pointing at it.
      directory: new or empty; it may be a mount point or a link to one.
      step: which checkpoint; None: the newest.
      dtype: of the tensors on disk, one of `DTYPES`; None: each as in the checkpoint the run started from.
      shard_bytes: size of one file.
    Returns:
      The step that was written.
    Raises:
      ConfigError: there is no such checkpoint, the policy it started from is another now, the directory is in use or
        cannot be written, the dtype is unknown, or the disk is full.
    """
    directory = Path(directory)
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"--dtype: expected one of {', '.join(DTYPES)}; got {dtype!r}.")
    if shard_bytes <= 0:
        raise ConfigError(f"--shard-size: expected more than 0 GB; got {shard_bytes / 1e9:g}.")
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
            checkpoints, step, source, policy, make_mesh(config.mesh), trainable=config.policy.trainable
        )
    finally:
        checkpoints.close()
    try:
        save_policy(source, policy, {**trained, **fixed}, directory, dtype=dtype, shard_bytes=shard_bytes)
    except OSError as error:
        raise ConfigError(f"--to: {directory} could not be written ({error}); nothing was left there.") from error
    return step
