"""Asking a policy a batch of held-out questions: completions of its samplers, and what the reward of the run says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from reflex_jax.config import Config
from reflex_jax.data.examples import Example
from reflex_jax.data.probes import Probe
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.evidence.groups import ScoredBatch
from reflex_jax.records import Draws, HostScores
from reflex_jax.sharding import replicated
from reflex_jax.step.batch import BatchBuilder
from reflex_jax.step.bridge import BridgedRollout, HostBridge
from reflex_jax.step.models import Models
from reflex_jax.step.program import Program
from reflex_jax.step.score import Scored
from reflex_jax.trees import Array, Params

GENERATORS = ("sampled", "greedy")
_STEP = 0  # training folds in its steps from 1 on, so no draw is shared with it, nor with another seed's


@dataclass(frozen=True)
class Asked:
    """What one generator said to a batch of questions."""

    bridged: BridgedRollout  # of this process's questions, those that only fill the batch up included
    lengths: np.ndarray  # [p, G] tokens of their completions
    columns: dict[str, np.ndarray]  # one number for each question of all processes; NaN where it has none


class Asker:
    """Asks batches of one size; compiles nothing before the first."""

    def __init__(
        self,
        config: Config,
        models: Models,
        program: Program,
        bridge: HostBridge,
        sizes: PromptSizes,
        count: int,
        *,
        probe: Probe | None = None,
    ):
        """Takes the parts of a run together.

        Args:
          config: of the run.
          models: of the run.
          program: of the run.
          bridge: of the run; the caller closes it.
          sizes: of the prompts.
          count: of `evaluation_batch`.
          probe: which pictures the policy sees; None: the questions' own. The judge always sees those.
        """
        self._rows = models.shapes.rows(count)
        self._build = BatchBuilder(
            models, sizes, self._rows, judge=config.judge, rungs=config.memory.prompt_rungs, probe=probe
        )
        self._key = jax.random.fold_in(jax.random.key(config.run.seed), _STEP)
        self._bridge = bridge
        self._samplers = {"sampled": program.sample, "greedy": program.greedy}
        self._score = program.score
        # small, and every process needs them all
        self._columns = jax.jit(question_columns, out_shardings=replicated(models.shapes.mesh))

    @property
    def size(self) -> int:
        """Questions of a batch."""
        return self._rows.count

    @property
    def places(self) -> np.ndarray:
        """Which places of a batch this process reads and decodes, ascending."""
        return self._rows.local

    def ask(
        self,
        weights: Params,
        judge: Params | None,
        chosen: Sequence[Example],
        numbers: Sequence[int],
        generators: Sequence[str],
        *,
        record: Callable[[str, ScoredBatch], None] | None = None,
    ) -> dict[str, Asked]:
        """Asks one batch; all processes call it alike.

        Args:
          weights: of the program's `gather`.
          judge: its parameters.
          chosen: at most `size` questions.
          numbers: of the questions, in [0, 2^31), from which their draws follow; more than there are questions do no harm.
          generators: some of `GENERATORS`.
          record: is given what was scored, by generator; None: nothing but the columns leaves the devices.
        """
        missing = self.size - len(chosen)
        numbers = [*numbers[: self.size], *[0] * (self.size - len(numbers))]
        # the last batch is filled up by its first question: one shape, one program
        batch = self._build([*chosen, *[chosen[0]] * missing])
        prompts = self._rows.place(batch.prompts)
        draws = Draws(self._key, self._rows.place(np.asarray(self._rows.take(numbers), np.int32)))
        answers = {}
        for name in generators:
            rollout = self._samplers[name](weights, prompts, draws)
            tokens, mask = self._rows.fetch((rollout.tokens, rollout.mask))
            bridged = self._bridge(batch.examples, tokens, mask, batch.judge_pixels)
            inputs, scores = self._rows.place((bridged.judge, bridged.scores))
            scored = self._score(judge, inputs, scores)
            columns = jax.device_get(self._columns(scored, scores))
            if record is not None:
                told = ScoredBatch(
                    batch.examples, batch.judge_pixels, tokens, mask.sum(-1), bridged, self._rows.fetch(scored),
                    self._rows, questions=len(chosen),
                )  # fmt: skip
                record(name, told)
            answers[name] = Asked(
                bridged, mask.sum(-1), {key: np.asarray(values)[: len(chosen)] for key, values in columns.items()}
            )
        self._bridge.take_chat_counts()  # a step counts its own
        return answers


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
