"""Names of the numbers a run measures its policy by, derived from the functions that compute them, before any step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reflex_jax.config import REWARD_COMPONENTS, Config, ConfigError, nearest_name
from reflex_jax.data.examples import Example
from reflex_jax.evaluation.validation import chosen_questions, question_columns, summarise
from reflex_jax.records import HostScores, Rollout
from reflex_jax.step.score import ScoredRollout, rollout_metrics
from reflex_jax.step.state import FrozenParams, init_state, make_optimizer
from reflex_jax.step.update import UpdateInputs, policy_update
from reflex_jax.trees import tree_of


def metric_names(config: Config, held_out: Sequence[Example]) -> list[str]:
    """What a run with this configuration writes of its policy at some step, timings aside.

    Args:
      config: the run's.
      held_out: the questions it looks at every `training.evaluate_every` steps; none: it does not.
    """
    # one completion of one token: the functions are traced, nothing is computed
    evaluated = _evaluation_metrics(chosen_questions(config, held_out))
    return sorted(jax.eval_shape(lambda: _training_metrics(config)).keys() | evaluated.keys())


def check_best_metric(config: Config, held_out: Sequence[Example]) -> None:
    """Refuses a `training.best_metric` that no step would compute.

    Raises:
      ConfigError: with the names there are.
    """
    wanted = config.training.best_metric
    if wanted is None:
        return
    names = metric_names(config, held_out)
    if wanted in names:
        return
    advice = nearest_name(wanted, names)
    if wanted.startswith("eval/") and not held_out:
        advice = " Those of eval/ need training.evaluate_every > 0."
    raise ConfigError(
        f"training.best_metric: this run never computes {wanted[:80]!r}.{advice} It computes {', '.join(names)}."
    )


def _training_metrics(config: Config) -> dict[str, Any]:
    """The metrics of one step, by the step's own functions on a policy of one number."""
    rollout = Rollout(tokens=jnp.zeros((1, 1, 1), int), log_probs=jnp.zeros((1, 1, 1)), mask=jnp.ones((1, 1, 1), bool))
    scored, scores = _scored(), _host_scores()
    optimizer = make_optimizer(config.optimizer, 1)
    params = {"weight": jnp.zeros(())}
    frozen = FrozenParams(fixed={}, reference=params if config.grpo.needs_reference else None, judge=None)
    inputs = tree_of(  # a policy of one number reads no prompts
        UpdateInputs, prompts=jnp.zeros(1), rollout=rollout, mask=rollout.mask, advantages=jnp.zeros((1, 1)), old_log_probs=None
    )  # fmt: skip
    single = dataclasses.replace(config.grpo, prompts_per_step=1, minibatches=1, microbatch_prompts=0)
    _, update_metrics = policy_update(
        init_state(params, optimizer), frozen, inputs, scores.is_valid,
        config=dataclasses.replace(config, grpo=single), optimizer=optimizer,
        log_probs_of=lambda params, prompts, tokens: (params["weight"] * jnp.ones(tokens.shape), jnp.zeros(tokens.shape)),
    )  # fmt: skip
    return rollout_metrics(scored, scores, rollout, (0,)) | update_metrics


def _evaluation_metrics(held_out: Sequence[Example]) -> dict[str, float]:
    if not held_out:
        return {}
    columns = jax.eval_shape(lambda: question_columns(_scored(), _host_scores()))
    is_closed = np.asarray([example.answer_type == "closed" for example in held_out])
    modes = ("sampled", "greedy")
    values = {f"{m}/{name}": np.ones(len(held_out), c.dtype) for m in modes for name, c in columns.items()}
    return summarise(values, is_closed)


def _scored() -> ScoredRollout:
    given = {
        "components": {name: jnp.zeros((1, 1)) for name in REWARD_COMPONENTS},
        "is_zero_variance": jnp.zeros(1, bool),
    }
    return _filled(ScoredRollout, given)


def _host_scores() -> HostScores:
    return _filled(HostScores, {"components": {}})


def _filled(record: Any, given: dict[str, Any]) -> Any:
    """A record whose other fields are [1, 1]."""
    fields = [field.name for field in dataclasses.fields(record)]
    return record(**{f: jnp.zeros((1, 1), bool if f.startswith("is_") else float) for f in fields} | given)
