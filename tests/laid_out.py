"""A batch as the trainer hands it to a step: on the mesh, and laid out in rows."""

import dataclasses
from typing import Any

import jax

from reflex_jax.config import Config
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.records import TrainBatch
from reflex_jax.sharding import batch_sharding
from reflex_jax.step.imitate import SftBatch
from reflex_jax.step.rows import count_tokens, lay_out_rows, place_rows, plan_rows


def laid_out(batch: TrainBatch | SftBatch, config: Config, mesh: Any) -> Any:
    """Of the padded batch, which has a picture for some prompt."""
    supervised = isinstance(batch, SftBatch)
    sizes = PromptSizes(batch.prompts.tokens.shape[1], batch.prompts.vision.image_ids.shape[1])
    exists = batch.weights > 0 if supervised else batch.rollout.mask
    layout = lay_out_rows(count_tokens(batch.prompts, exists), plan_rows(config, mesh, sizes, supervised=supervised))
    return dataclasses.replace(jax.device_put(batch, batch_sharding(mesh)), rows=place_rows(layout, mesh))
