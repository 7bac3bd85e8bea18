"""Held-out questions: reward of sampled completions, and greedy accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from reflex_jax.config import Config
from reflex_jax.data.examples import Example
from reflex_jax.data.holdout import choose_by_id
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.evidence.groups import ScoredBatch
from reflex_jax.evidence.recorder import EvidenceRecorder, Occasion
from reflex_jax.evidence.records import EVALUATION
from reflex_jax.records import Draws, HostScores
from reflex_jax.sharding import AnyMesh, replicated
from reflex_jax.step.batch import BatchBuilder
from reflex_jax.step.bridge import HostBridge
from reflex_jax.step.models import Models
from reflex_jax.step.program import Program
from reflex_jax.step.score import Scored
from reflex_jax.trees import Array, Params

_STEP = 0  # training folds in its steps from 1 on, so no draw is shared with it, nor with another seed's


class Evaluator:
    """Scores a policy on a fixed set of questions, with the reward of the run.

    Greedy accuracy stands beside the sampled one, because a rise of the sampled accuracy alone can be sharpening: the
    policy says more often what it already said most often.
    """

    def __init__(
        self,
        config: Config,
        models: Models,
        program: Program,
        bridge: HostBridge,
        examples: Sequence[Example],
        sizes: PromptSizes,
        *,
        blank_image: bool = False,
        evidence: EvidenceRecorder | None = None,
    ):
        """Compiles nothing yet.

        Args:
          config: of the run.
          models: of the run.
          program: of the run.
          bridge: of the run; the caller closes it.
          examples: held-out questions; those of `chosen_questions` are looked at.
          sizes: of the prompts.
          blank_image: the policy sees a grey picture, the judge the real one.
          evidence: records what is scored; None: nothing is recorded.
        """
        self._evidence = evidence
        self._examples = chosen_questions(config, examples)
        self._rows = models.shapes.rows(evaluation_batch(config, models.shapes.mesh, len(self._examples)))
        self._build = BatchBuilder(
            models, sizes, self._rows, judge=config.judge, rungs=config.memory.prompt_rungs,
            blank_image=blank_image,
        )  # fmt: skip
        self._key = jax.random.fold_in(jax.random.key(config.run.seed), _STEP)
        self._bridge = bridge
        self._program = program
        # small, and every process needs them all
        self._columns = jax.jit(question_columns, out_shardings=replicated(models.shapes.mesh))

    def run(self, weights: Params, judge: Params | None, *, step: int = 0) -> dict[str, float]:
        """Returns `eval/...` metrics of one policy: sampled (T as in training) and greedy.

        Args:
          weights: of the program's `gather`.
          judge: its parameters.
          step: of training, by which evidence names it.
        """
        rows: dict[str, list[np.ndarray]] = {}
        size = self._rows.count
        for start in range(0, len(self._examples), size):
            chosen = self._examples[start : start + size]
            # the last batch is filled up by its first question: one shape, one program
            batch = self._build([*chosen, *[chosen[0]] * (size - len(chosen))])
            prompts = self._rows.place(batch.prompts)
            draws = Draws(self._key, self._rows.place((start + self._rows.local).astype(np.int32)))
            for name, sample in (("sampled", self._program.sample), ("greedy", self._program.greedy)):
                rollout = sample(weights, prompts, draws)
                tokens, mask = self._rows.fetch((rollout.tokens, rollout.mask))
                bridged = self._bridge(batch.examples, tokens, mask, batch.judge_pixels)
                inputs, scores = self._rows.place((bridged.judge, bridged.scores))
                scored = self._program.score(judge, inputs, scores)
                columns = jax.device_get(self._columns(scored, scores))
                if start == 0 and self._evidence is not None:
                    recorded = ScoredBatch(
                        batch.examples, batch.judge_pixels, tokens, mask.sum(-1), bridged, self._rows.fetch(scored),
                        self._rows, questions=len(chosen),
                    )  # fmt: skip
                    self._evidence.record(Occasion(step, EVALUATION, name), [recorded])
                for key, values in columns.items():
                    rows.setdefault(f"{name}/{key}", []).append(values[: len(chosen)])
        self._bridge.take_chat_counts()  # a step counts its own
        columns = {key: np.concatenate(parts) for key, parts in rows.items()}
        return summarise(columns)


def chosen_questions(config: Config, examples: Sequence[Example]) -> Sequence[Example]:
    """The held-out questions a run looks at: `training.evaluation_questions` of all sources, chosen by their ids; 0: all."""
    return choose_by_id(examples, config.training.evaluation_questions or None)


def evaluation_batch(config: Config, mesh: AnyMesh, questions: int) -> int:
    """How many of so many questions are looked at in one batch.

    As many as there are, at most `training.evaluation_batch`, rounded up to what devices and microbatches divide.
    Unset it is as many as a step has prompts: those have room, and sampling is compiled for them already.
    """
    most = config.training.evaluation_batch or config.grpo.prompts_per_step
    unit = math.lcm(config.memory.microbatch_prompts or 1, mesh.shape["data"] * mesh.shape["fsdp"])
    if min(most, questions) > config.memory.rollout_prompts > 0:  # sampled so many at a time
        unit = math.lcm(unit, config.memory.rollout_prompts)
    return -(-min(most, questions) // unit) * unit


def question_columns(scored: Scored, scores: HostScores) -> dict[str, Array]:
    """By name, one value per group: means over its valid rows that are counted there, whether it has one, and how many failed."""
    valid = scored.is_valid
    columns = {f"reward/{key}": (values, scored.applies[key]) for key, values in scored.components.items()}
    columns |= {"reward/total": (scored.rewards, valid)}
    columns |= {name: (values, ~jnp.isnan(values)) for name, values in scores.measured.items()}
    if scored.evidence is not None:
        columns["iou"] = (scored.evidence.iou, valid)

    def mean(values: Array, rows: Array) -> Array:
        """NaN where nothing of the group is counted."""
        counted = valid & rows
        count = jnp.maximum(counted.sum(-1), 1).astype(jnp.float32)
        return jnp.where(counted.any(-1), jnp.where(counted, values, 0.0).sum(-1) / count, jnp.nan)

    means = {key: mean(*column) for key, column in columns.items()}
    return means | {"is_scored": valid.any(-1), "failed_rows": (~valid).sum(-1)}


def summarise(columns: dict[str, np.ndarray]) -> dict[str, float]:
    """Means as `eval/...` over the questions that have a valid row; a mean over none of them is left out.

    Args:
      columns: one number per question, by name; NaN where a question has none.
    """
    summary = {}
    for key, values in columns.items():
        generator, _, name = key.partition("/")
        is_scored = columns[f"{generator}/is_scored"]
        if name == "failed_rows":
            summary[f"eval/{key}"] = float(values.sum())
        elif name != "is_scored":
            counted = is_scored & ~np.isnan(values)
            if counted.any():
                summary[f"eval/{key}"] = float(values[counted].mean())
    return summary
