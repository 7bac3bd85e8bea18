"""The supervised phase: imitate target completions, with more weight on the answer than on the thought.

It reads the same configuration, data, model and optimiser as GRPO, and leaves a Hugging Face directory that
`policy.path` of a GRPO run can name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from reflex_jax.config import ConfigError
from reflex_jax.models.qwen_vl import QwenVLConfig, completion_log_probs
from reflex_jax.records import PromptInputs
from reflex_jax.step.state import TrainState, compute_params
from reflex_jax.text.tokenizer import encode_user_text
from reflex_jax.trees import Leaf, pytree_dataclass


@pytree_dataclass
class SftBatch:
    """Prompts and the completions to imitate; the group has one member."""

    prompts: PromptInputs
    tokens: Int[Leaf, "P 1 Lc"]
    weights: Float[Leaf, "P 1 Lc"]  # 0: padding


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


def make_sft_step(
    policy_config: QwenVLConfig,
    optimizer: optax.GradientTransformation,
    *,
    allowed: Any,
    dtype: str = "float32",
    remat: bool = False,
    chunk: int = 512,
) -> Callable[[TrainState, Any, SftBatch], tuple[TrainState, dict[str, Array]]]:
    """Builds `sft_step(state, fixed, batch) -> (state, metrics)`, jitted, `state` donated.

    The loss is the weighted mean of -log p over the target tokens.
    """

    def loss_of(params: Any, fixed: Any, batch: SftBatch) -> tuple[Array, Array]:
        whole = compute_params(params, fixed, jnp.dtype(dtype))
        log_probs, _ = completion_log_probs(
            whole,
            batch.prompts,
            batch.tokens,
            policy_config,
            allowed=allowed,
            temperature=1.0,
            chunk=chunk,
            remat=remat,
        )
        counted = batch.weights > 0
        loss = -jnp.where(counted, batch.weights * log_probs, 0.0).sum() / jnp.maximum(batch.weights.sum(), 1.0)
        return loss, jnp.where(counted, log_probs, 0.0).sum() / jnp.maximum(counted.sum(), 1).astype(jnp.float32)

    def sft_step(state: TrainState, fixed: Any, batch: SftBatch) -> tuple[TrainState, dict[str, Array]]:
        (loss, log_prob), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params, fixed, batch)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss, "log_prob_per_token": log_prob, "grad_norm": optax.global_norm(gradients)}
        return TrainState(step=state.step + 1, params=params, optimizer_state=optimizer_state), metrics

    return jax.jit(sft_step, donate_argnums=0)
