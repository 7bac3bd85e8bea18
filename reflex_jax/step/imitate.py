"""The supervised phase: imitate target completions, with more weight on the answer than on the thought.

It reads the same configuration, data, model and optimiser as GRPO, and leaves a Hugging Face directory that
`policy.path` of a GRPO run can name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from reflex_jax.config import Config, ConfigError
from reflex_jax.data.examples import Example
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.grpo.objective import TokenMetrics, reduce_metrics
from reflex_jax.records import PromptInputs, RowLayout
from reflex_jax.sharding import BatchRows
from reflex_jax.step.models import Models
from reflex_jax.step.rounds import RowReader, Sequences
from reflex_jax.step.state import FrozenParams, TrainState, cast_params
from reflex_jax.step.update import apply_update, by_minibatch, first_minibatch
from reflex_jax.text.tokenizer import encode_user_text
from reflex_jax.trees import Array, Leaf, pytree_dataclass


@pytree_dataclass
class SftBatch:
    """Prompts and the completions to imitate; the group has one member."""

    prompts: PromptInputs
    tokens: Int[Leaf, "P 1 Lc"]
    weights: Float[Leaf, "P 1 Lc"]  # 0: padding
    rows: RowLayout | None = None  # of the prompts and their completions; None: not laid out yet


class TargetBuilder:
    """Questions with target completions -> padded arrays of the run's static sizes."""

    def __init__(self, models: Models, sizes: PromptSizes, rows: BatchRows, *, answer_weight: float, length: int):
        """Fixes the shapes of every batch; see `encode_targets`."""
        self._models, self._sizes, self._rows = models, sizes, rows
        self._answer_weight, self._length = answer_weight, length

    def __call__(self, examples: Sequence[Example]) -> SftBatch:
        """Loads, resizes and tokenises this process's part of P questions."""
        chosen = self._rows.take(examples)
        processor, vocabulary = self._models.processor, self._models.shapes.vocabulary
        prompts = processor.collate(
            [processor.encode(e.load_images(), e.question, example_id=e.id) for e in chosen],
            prompt_tokens=self._sizes.prompt_tokens, windows=self._sizes.windows,
        )  # fmt: skip
        tokens, weights = encode_targets(
            [processor.answer_lead + e.target for e in chosen], processor.tokenizer, eos_id=vocabulary.eos_ids[0],
            pad_id=vocabulary.pad_id, answer_weight=self._answer_weight, length=self._length,
        )  # fmt: skip
        return SftBatch(prompts=prompts, tokens=tokens, weights=weights)


def encode_targets(
    targets: Sequence[str], tokenizer: Any, *, eos_id: int, pad_id: int, answer_weight: float, length: int
) -> tuple[Int[np.ndarray, "P 1 Lc"], Float[np.ndarray, "P 1 Lc"]]:
    """Tokenises target completions, each closed with EOS.

    Args:
      targets: completions such as "<think> ... </think> <answer> yes </answer>".
      tokenizer: the policy's.
      eos_id: closes every completion, with the weight of the answer.
      pad_id: fills up to `length`.
      answer_weight: loss weight of what follows "<answer>"; the rest has weight 1.
      length: tokens of the longest completion allowed.
    Raises:
      ConfigError: completions longer than `length`, counted and with the longest named.
    """
    tokens = np.full((len(targets), 1, length), pad_id, np.int32)
    weights = np.zeros((len(targets), 1, length), np.float32)
    too_long = []
    for row, target in enumerate(targets):
        thought, marker, answer = target.partition("<answer>")
        head = encode_user_text(tokenizer, thought + marker)
        tail = [*encode_user_text(tokenizer, answer), eos_id]
        ids = [*head, *tail]
        if len(ids) > length:
            too_long.append((len(ids), target))
            continue
        tokens[row, 0, : len(ids)] = ids
        weights[row, 0, : len(head)] = 1.0
        weights[row, 0, len(head) : len(ids)] = answer_weight
    if too_long:
        count, target = max(too_long)
        raise ConfigError(
            f"rollout.max_new_tokens: {len(too_long)} target completions are longer than {length} tokens, the longest has "
            f"{count}: {target[:80]!r}."
        )
    return tokens, weights


def imitation_update(
    state: TrainState,
    frozen: FrozenParams,
    batch: SftBatch,
    *,
    config: Config,
    reader: RowReader,
    optimizer: optax.GradientTransformationExtraArgs,
) -> tuple[TrainState, dict[str, Array]]:
    """One supervised step: the weighted mean of -log p over the target tokens of the whole batch goes down.

    The denominator is that of the batch, so the result does not depend on the microbatch size or on the mesh.

    Args:
      state: before the step.
      frozen: `fixed` is read.
      batch: prompts and their targets.
      config: sections `policy` and `memory` are read.
      reader: of `row_reader`, at temperature 1.
      optimizer: of `make_optimizer`.
    Returns:
      The state after the step, and loss, log_prob_per_token, tokens, grad_norm and skipped.
    """
    if batch.rows is None:
        raise ValueError("batch.rows: expected the layout of `lay_out_rows`; got None.")
    denominator = jnp.maximum(batch.weights.sum(), 1.0)
    layout = first_minibatch(batch.rows)
    prompts, tokens, weights = first_minibatch(
        by_minibatch((batch.prompts, batch.tokens, batch.weights), batch.rows, reader.ways)
    )

    def loss_of(log_probs: Array, _: Array, is_here: Array) -> tuple[Array, TokenMetrics]:
        counted = (weights > 0) & is_here
        loss = -jnp.where(counted, weights * log_probs, 0.0).sum() / denominator
        sums = {"log_prob_per_token": jnp.where(counted, log_probs, 0.0).sum()}
        return loss, jax.lax.stop_gradient(TokenMetrics(sums, {}, counted.sum().astype(jnp.float32)))

    params = cast_params(state.params, jnp.dtype(config.policy.dtype))
    sequences = Sequences(prompts, tokens, layout)
    features = None if "vision" in params else reader.features(frozen.fixed, sequences)
    loss, token_metrics, gradients = reader.gradients(params, frozen.fixed, sequences, loss_of, features)
    state, metrics = apply_update(state, gradients, loss, optimizer, is_wanted=token_metrics.count > 0)
    metrics |= reduce_metrics(token_metrics) | {"tokens": token_metrics.count}
    return dataclasses.replace(state, step=state.step + 1), metrics
