"""Batches as the trainer hands them to a step, laid out in rows, and log-probs of such rows."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reflex_jax.config import Config
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.models.qwen_vl import HowToCompute, QwenVLConfig
from reflex_jax.records import PromptInputs, TrainBatch
from reflex_jax.sharding import batch_sharding
from reflex_jax.step.imitate import SftBatch
from reflex_jax.step.rounds import RowReader, Sequences
from reflex_jax.step.rows import RowPlan, count_tokens, lay_out_rows, place_rows, plan_rows


def laid_out(batch: TrainBatch | SftBatch, config: Config, mesh: Any) -> Any:
    """Of the padded batch, which has a picture for some prompt."""
    supervised = isinstance(batch, SftBatch)
    sizes = PromptSizes(batch.prompts.tokens.shape[1], batch.prompts.vision.image_ids.shape[1])
    exists = batch.weights > 0 if supervised else batch.rollout.mask
    layout = lay_out_rows(count_tokens(batch.prompts, exists), plan_rows(config, mesh, sizes, supervised=supervised))
    return dataclasses.replace(jax.device_put(batch, batch_sharding(mesh)), rows=place_rows(layout, mesh))


def sequences_in_rows(
    prompts: PromptInputs, tokens: np.ndarray, mask: np.ndarray | None = None, *, rows: int = 0, length: int = 0
) -> Sequences:
    """Prompts and completions on one device; by default a prompt in each row, all at once, padding included.

    Args:
      prompts: P.
      tokens: [P, G, Lc].
      mask: which of them exist; None: all.
      rows: computed at one time.
      length: of a row.
    """
    prompts = jax.device_get(prompts)
    count, group, steps = tokens.shape
    prompt_tokens = prompts.tokens.shape[1]
    plan = RowPlan(
        prompts=count, minibatches=1, ways=1, rows=rows or count, prompt_tokens=prompt_tokens, completion_tokens=steps,
        group=group, windows=0 if prompts.vision is None else prompts.vision.image_ids.shape[1],
        lengths=(length or prompt_tokens + group * steps,),
    )  # fmt: skip
    layout = lay_out_rows(count_tokens(prompts, np.ones(tokens.shape, bool) if mask is None else mask), plan)
    return Sequences(prompts, tokens, jax.tree.map(lambda leaf: np.array(leaf[0]), layout))


def log_probs_in_rows(
    params: Any, sequences: Sequences, config: QwenVLConfig, *, allowed: np.ndarray, temperature: float, **how: Any
) -> tuple[jax.Array, jax.Array]:
    """Log-probs and entropies [P, G, Lc] of one round, differentiable in all parameters."""
    reader = RowReader(config, allowed, temperature, HowToCompute(**how), ways=1)
    images = reader.images(sequences, reader.features(params, sequences), jnp.int32(0))
    log_probs, entropies, _ = reader.read_round(params, sequences, images, jnp.int32(0))
    return log_probs, entropies
