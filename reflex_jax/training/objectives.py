"""GRPO and the supervised phase through the same loop: what each of them reads, compiles and leaves behind."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from jax.sharding import Mesh

from reflex_jax.checkpoints.policy import save_policy
from reflex_jax.config import Config, ConfigError
from reflex_jax.data.examples import Example, list_offenders
from reflex_jax.data.pipeline import Batches, SupervisedBatches, training_batches
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.data.sources import load_training
from reflex_jax.evidence.recorder import EvidenceRecorder
from reflex_jax.models.lora import merge_adapters
from reflex_jax.processes import any_process, is_first
from reflex_jax.sharding import check_batches, check_rollout
from reflex_jax.step.batch import BatchBuilder
from reflex_jax.step.bridge import HostBridge
from reflex_jax.step.imitate import TargetBuilder
from reflex_jax.step.models import Models
from reflex_jax.step.program import Program
from reflex_jax.step.rows import plan_rows
from reflex_jax.step.score import needs_judge
from reflex_jax.step.state import FrozenParams, TrainState, params_to_merge
from reflex_jax.stops import not_written
from reflex_jax.training.dynamic_sampling import DynamicTrainer
from reflex_jax.training.trainer import GrpoTrainer, SupervisedTrainer, Trainer

POLICY_FOLDER = "policy"  # inside the directory of a supervised run: what `policy.path` of the next run names


@dataclass(frozen=True, eq=False)
class Parts:
    """What a trainer is made of."""

    models: Models
    program: Program
    frozen: FrozenParams
    sizes: PromptSizes
    bridge: HostBridge
    evidence: EvidenceRecorder | None = None  # None: nothing is recorded


@runtime_checkable
class Objective(Protocol):
    """What the loop asks of either phase."""

    @property
    def config(self) -> Config:
        """Of the run."""
        ...

    @property
    def name(self) -> str:
        """Checkpoints carry it."""
        ...

    @property
    def is_supervised(self) -> bool:
        """Whether it imitates, with neither samples nor reference policy."""
        ...

    @property
    def scores_answers(self) -> bool:
        """Whether rewards are computed at all."""
        ...

    @property
    def with_judge(self) -> bool:
        """Whether something in the run asks the judge."""
        ...

    @property
    def updates_per_step(self) -> int:
        """Optimiser updates of one step."""
        ...

    @property
    def update_prompts(self) -> int:
        """Prompts of one optimiser update."""
        ...

    def check_mesh(self, mesh: Mesh) -> None:
        """Refuses batches that the mesh does not divide."""
        ...

    def load_questions(self) -> list[Example]:
        """The training split; refuses questions that cannot be learned from, by id."""
        ...

    def lay_out(self, examples: Sequence[Example], laid_out: Sequence[int] | None = None) -> Batches:
        """The order of the questions; `laid_out`: the steps of each phase as a run that is continued has them."""
        ...

    def trainer(self, parts: Parts) -> Trainer:
        """Takes the parts of a run together."""
        ...

    def begin(self) -> None:
        """Removes what an earlier end of the run left, which the steps to come make outdated."""
        ...

    def finish(self, models: Models, state: TrainState, frozen: FrozenParams) -> None:
        """Writes what the run leaves beside itself."""
        ...


@dataclass(frozen=True)
class Grpo:
    """Group relative policy optimisation with the rewards of a configuration."""

    config: Config
    name: ClassVar[str] = "grpo"
    is_supervised: ClassVar[bool] = False
    scores_answers: ClassVar[bool] = True

    @property
    def with_judge(self) -> bool:
        """Whether some reward asks the judge."""
        return needs_judge(self.config)

    @property
    def updates_per_step(self) -> int:
        """Optimiser updates of one step."""
        return self.config.grpo.epochs * self.config.grpo.minibatches

    @property
    def update_prompts(self) -> int:
        """Prompts of one minibatch."""
        return self.config.grpo.minibatch_prompts

    def check_mesh(self, mesh: Mesh) -> None:
        """Refuses batches that do not divide."""
        check_batches(mesh, self.update_prompts, self.config.memory, "grpo.prompts_per_step / minibatches")
        check_rollout(mesh, self.config.grpo.prompts_per_step, self.config.memory)

    def load_questions(self) -> list[Example]:
        """The training split."""
        return load_training(
            self.config.data, seed=self.config.run.seed, with_validation=bool(self.config.training.evaluate_every)
        )

    def lay_out(self, examples: Sequence[Example], laid_out: Sequence[int] | None = None) -> Batches:
        """The curriculum; `laid_out`: the steps of each phase as a run that is continued has them."""
        config = self.config
        return training_batches(
            examples, config.data, prompts_per_step=config.grpo.prompts_per_step, steps=config.training.steps,
            seed=config.run.seed, laid_out=laid_out,
        )  # fmt: skip

    def trainer(self, parts: Parts) -> Trainer:
        """Takes the parts of a run together."""
        config, models = self.config, parts.models
        rows = models.shapes.rows(config.grpo.prompts_per_step)
        build = BatchBuilder(
            models, parts.sizes, rows, judge=config.judge, rungs=config.memory.prompt_rungs
        )  # fmt: skip
        plan = plan_rows(config, models.shapes.mesh, parts.sizes)
        trainer = GrpoTrainer(config, parts.program, parts.frozen, build, parts.bridge, plan, parts.evidence)
        return DynamicTrainer(config, trainer) if config.grpo.dynamic_sampling else trainer

    def begin(self) -> None:
        """There is nothing of it."""

    def finish(self, models: Models, state: TrainState, frozen: FrozenParams) -> None:
        """Leaves nothing but the run."""


@dataclass(frozen=True)
class Supervised:
    """Imitation of the target completions of a data source."""

    config: Config
    name: ClassVar[str] = "supervised"
    is_supervised: ClassVar[bool] = True
    updates_per_step: ClassVar[int] = 1

    @property
    def scores_answers(self) -> bool:
        """Of held-out questions alone, where the run looks at them."""
        return bool(self.config.training.evaluate_every)

    @property
    def with_judge(self) -> bool:
        """The judge is asked of held-out questions alone, where the run looks at them."""
        return self.scores_answers and needs_judge(self.config)

    @property
    def update_prompts(self) -> int:
        """Prompts of a step."""
        return self.config.sft.batch_size

    def check_mesh(self, mesh: Mesh) -> None:
        """Refuses batches that do not divide."""
        check_batches(mesh, self.update_prompts, self.config.memory, "sft.batch_size")

    def load_questions(self) -> list[Example]:
        """The training split.

        Raises:
          ConfigError: questions without a completion to imitate.
        """
        data = self.config.data
        examples = load_training(
            data, seed=self.config.run.seed, with_validation=bool(self.config.training.evaluate_every),
            noise=self.config.sft.noise,
        )  # fmt: skip
        lacking = [e.id for e in examples if e.target is None]
        if lacking:
            labels = ", ".join(source.label for source in data.mixture)
            raise ConfigError(
                f"{labels}: {len(lacking)} of {len(examples)} questions have no completion to imitate "
                f"({list_offenders(lacking)}). The phantom source has them, and rows of your own with a `target`."
            )
        return examples

    def lay_out(self, examples: Sequence[Example], laid_out: Sequence[int] | None = None) -> Batches:
        """All questions in every pass; `laid_out`: the steps of a run that is continued."""
        config = self.config
        return SupervisedBatches(
            examples, batch_size=config.sft.batch_size, steps=config.training.steps, seed=config.run.seed,
            laid_out=laid_out,
        )  # fmt: skip

    def trainer(self, parts: Parts) -> Trainer:
        """Takes the parts of a run together."""
        config, models = self.config, parts.models
        build = TargetBuilder(
            models, parts.sizes, models.shapes.rows(config.sft.batch_size), answer_weight=config.sft.answer_weight,
            length=config.rollout.max_new_tokens,
        )  # fmt: skip
        plan = plan_rows(config, models.shapes.mesh, parts.sizes, supervised=True)
        return SupervisedTrainer(config, parts.program, parts.frozen, build, plan)

    def begin(self) -> None:
        """Removes the policy of a shorter run: one that is there is that of the last step."""
        if is_first():
            shutil.rmtree(supervised_policy(self.config), ignore_errors=True)

    def finish(self, models: Models, state: TrainState, frozen: FrozenParams) -> None:
        """Leaves the trained policy as a Hugging Face directory, `POLICY_FOLDER`, in the run directory.

        Raises:
          RunStopped: the disk takes no more; the last checkpoint stands.
        """
        directory = supervised_policy(self.config)
        if any_process(is_first() and directory.exists()):
            return
        lora_scale = self.config.policy.lora.scale
        params = params_to_merge(state.params, frozen.fixed, "float32", lora_scale=lora_scale)
        try:
            save_policy(
                models.directory, models.shapes.policy, merge_adapters(params, "float32"), directory, dtype="float32"
            )
        except OSError as error:
            raise not_written("the policy of the last step", directory, error) from error


def supervised_policy(config: Config) -> Path:
    """Where a supervised run leaves its policy."""
    return config.run.directory / POLICY_FOLDER
