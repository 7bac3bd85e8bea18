"""Names of the numbers a run measures its policy by, derived from the functions that compute them, before any step."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from reflex_jax.config import ConfigError, nearest_name
from reflex_jax.data.examples import Example
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.evaluation.asking import question_columns
from reflex_jax.evaluation.validation import chosen_questions, summarise
from reflex_jax.rewards.answer_metrics import ANSWER_METRICS, metrics_of_question
from reflex_jax.step.abstract_run import AbstractRun, abstract_run
from reflex_jax.step.imitate import SftBatch
from reflex_jax.step.shapes import Shapes
from reflex_jax.training.objectives import Objective


def metric_names(objective: Objective, shapes: Shapes, sizes: PromptSizes, held_out: Sequence[Example]) -> list[str]:
    """What a run writes of its policy at some step, timings and `rows/` aside; its functions are traced, nothing is computed.

    Args:
      objective: of the run.
      shapes: of the run.
      sizes: of its prompts.
      held_out: the questions it looks at every `training.evaluate_every` steps; none: it does not.
    """
    run = abstract_run(objective.config, shapes, sizes, supervised=objective.is_supervised)
    function, arguments = run.functions()["update"]
    names = {*jax.eval_shape(function, *arguments)[1]}
    if held_out:
        grpo = abstract_run(objective.config, shapes, sizes)
        names |= _evaluation_names(grpo, chosen_questions(objective.config, held_out))
    return sorted(names)


def check_best_metric(objective: Objective, shapes: Shapes, sizes: PromptSizes, held_out: Sequence[Example]) -> None:
    """Refuses a `training.best_metric` that no step would compute.

    Raises:
      ConfigError: with the names there are.
    """
    wanted = objective.config.training.best_metric
    if wanted is None:
        return
    names = metric_names(objective, shapes, sizes, held_out)
    data = objective.config.data
    if wanted.startswith("eval/") and data.validation_split == data.evaluation_split:
        raise ConfigError(
            f"data.evaluation_split: {data.evaluation_split!r} is also data.validation_split, by which training.best_metric "
            "chooses a checkpoint; what it then scores would be too good. Name two splits."
        )
    if wanted in names:
        return
    advice = nearest_name(wanted, names)
    if wanted.startswith("eval/") and not held_out:
        advice = " Those of eval/ need training.evaluate_every > 0."
    raise ConfigError(
        f"training.best_metric: this run never computes {wanted[:80]!r}.{advice} It computes {', '.join(names)}."
    )


def _evaluation_names(run: AbstractRun, held_out: Sequence[Example]) -> set[str]:
    batch = run.batch
    if isinstance(batch, SftBatch):
        raise TypeError("held-out questions are scored as GRPO's: expected an abstract run of it.")
    scores = batch.scores
    scored = jax.eval_shape(run.program.score, run.frozen.judge, batch.judge, scores)
    columns = jax.eval_shape(question_columns, scored, scores)
    kinds = {name for example in held_out for name in metrics_of_question(example.answer_type, example.answer)}
    values = {
        f"{mode}/{name}": np.full(len(held_out), np.nan if name in ANSWER_METRICS and name not in kinds else 1, c.dtype)
        for mode in ("sampled", "greedy")
        for name, c in columns.items()
    }
    return {*summarise(values)}
