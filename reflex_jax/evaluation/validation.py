"""Held-out questions: reward of sampled completions, and greedy accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from reflex_jax.config import Config, ConfigError
from reflex_jax.data.examples import Example
from reflex_jax.data.holdout import choose_by_id
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.evaluation.asking import GENERATORS, Asker
from reflex_jax.evidence.groups import ScoredBatch
from reflex_jax.evidence.recorder import EvidenceRecorder, Occasion
from reflex_jax.evidence.records import EVALUATION
from reflex_jax.sharding import AnyMesh
from reflex_jax.step.bridge import HostBridge
from reflex_jax.step.models import Models
from reflex_jax.step.program import Program
from reflex_jax.trees import Params


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
          evidence: records what is scored; None: nothing is recorded.
        """
        self._evidence = evidence
        self._examples = chosen_questions(config, examples)
        count = evaluation_batch(config, models.shapes.mesh, len(self._examples))
        self._asker = Asker(config, models, program, bridge, sizes, count)

    def run(self, weights: Params, judge: Params | None, *, step: int = 0) -> dict[str, float]:
        """Returns `eval/...` metrics of one policy: sampled (T as in training) and greedy.

        Args:
          weights: of the program's `gather`.
          judge: its parameters.
          step: of training, by which evidence names it.
        """

        def record(name: str, batch: ScoredBatch) -> None:
            if self._evidence is not None:  # of the first batch alone
                self._evidence.record(Occasion(step, EVALUATION, name), [batch])

        rows: dict[str, list[np.ndarray]] = {}
        size = self._asker.size
        for start in range(0, len(self._examples), size):
            chosen = self._examples[start : start + size]
            numbers = range(start, start + size)
            is_recorded = start == 0 and self._evidence is not None
            asked = self._asker.ask(weights, judge, chosen, numbers, GENERATORS, record=record if is_recorded else None)
            for name, answers in asked.items():
                for key, values in answers.columns.items():
                    rows.setdefault(f"{name}/{key}", []).append(values)
        return summarise({key: np.concatenate(parts) for key, parts in rows.items()})


def chosen_questions(config: Config, examples: Sequence[Example]) -> Sequence[Example]:
    """The held-out questions that a run looks at: `training.evaluation_questions` of all sources, chosen by their ids; 0: all.

    Of a run all of whose phases have questions with options, or all without, those alone: its prompt and its reward are made
    for them.
    """
    kinds = {phase.options for phase in config.data.phases}
    (kind,) = kinds if len(kinds) == 1 else (None,)
    of_kind = [e for e in examples if kind is None or kind == (e.options is not None)]
    if examples and not of_kind:
        raise ConfigError(
            f"data.phases: all ask for questions {'with' if kind else 'without'} options, and none of the {len(examples)} "
            "held-out questions is one. Name another split, or leave options out of the phases."
        )
    return choose_by_id(of_kind, config.training.evaluation_questions or None)


def evaluation_batch(config: Config, mesh: AnyMesh, questions: int) -> int:
    """How many of so many questions are looked at in one batch.

    As many as there are, at most `training.evaluation_batch`, rounded up to what devices and microbatches divide.
    Unset it is as many as a step has prompts: those have room, and sampling is compiled for them already. A batch that
    rounding made larger than `memory.rollout_prompts` is a multiple of it, too, or all of it would be sampled together.
    """
    most = min(config.training.evaluation_batch or config.grpo.prompts_per_step, questions)
    unit = math.lcm(config.memory.microbatch_prompts or 1, mesh.shape["data"] * mesh.shape["fsdp"])
    size = -(-most // unit) * unit
    if size > config.memory.rollout_prompts > 0:  # sampled so many at a time
        unit = math.lcm(unit, config.memory.rollout_prompts)
    return -(-most // unit) * unit


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
