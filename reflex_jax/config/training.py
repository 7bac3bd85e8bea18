"""Sections of a run, how it learns and what it leaves: `run`, `grpo`, `optimizer`, `training`, `sft`, `logging`, `evidence`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflex_jax.config.checks import check, check_choice, user_path


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Name, place and seed of a run."""

    name: str = "run"
    dir: str | None = None  # the run directory itself; default runs/{name}
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses seeds that a random key cannot hold apart."""
        check(0 <= self.seed < 2**32, f"run.seed: expected 0 to {2**32 - 1}; got {self.seed}.")

    @property
    def directory(self) -> Path:
        """Where everything of the run is written."""
        return Path("runs") / self.name if self.dir is None else user_path(self.dir)


# Published algorithms as settings of one objective; each says all of them, so that nothing stays of another preset. What they
# add beside it (DAPO's overlong shaping) is a reward.
_GRPO = {
    "ratio_level": "token", "aggregation": "sequence", "advantage": "sample_std", "clip_low": 0.2, "clip_high": 0.2,
    "kl_coefficient": 0.01, "kl_in": "loss", "kl_estimator": "k3", "dynamic_sampling": 0,
}  # fmt: skip
_KL_IN_REWARD = {"kl_in": "reward", "kl_estimator": "k1"}
ALGORITHM_PRESETS: dict[str, dict[str, Any]] = {
    "grpo": _GRPO,
    "dr_grpo": _GRPO | {"aggregation": "constant", "advantage": "none", "kl_coefficient": 0.0},
    "dapo": _GRPO | {"aggregation": "token", "clip_high": 0.28, "kl_coefficient": 0.0, "dynamic_sampling": 10},
    "gspo": _GRPO | {"ratio_level": "sequence", "clip_low": 3e-4, "clip_high": 4e-4, "kl_coefficient": 0.0},
    "rloo": _GRPO | {"aggregation": "constant", "advantage": "leave_one_out"} | _KL_IN_REWARD,
    "reinforce_pp": _GRPO
    | {"aggregation": "token", "advantage": "batch", "kl_in": "token_reward", "kl_estimator": "k1"},
    "reinforce_pp_baseline": _GRPO | {"aggregation": "token", "advantage": "batch_std", "kl_estimator": "k2"},
}


@dataclass(frozen=True, kw_only=True)
class GrpoConfig:
    """Group relative policy optimisation (paper Eq. 10), and its relatives."""

    preset: str | None = None  # sets nine of these keys as a paper has them; what is written beside or after it wins
    group_size: int = 8  # G
    prompts_per_step: int = 64  # P, over all devices
    # batches that a step may sample until P groups have a spread of rewards (DAPO's dynamic sampling); 0: one, as it comes
    dynamic_sampling: int = 0
    minibatches: int = 1  # optimiser updates per pass over the batch
    epochs: int = 1  # mu: passes over the batch
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0  # > 1: a ratio counts at most this much where the advantage is negative (3 in verl); 0: off
    kl_coefficient: float = 0.01  # beta
    kl_estimator: str = "k3"  # k2 | k3 | k3+; in the reward k1 too
    # loss | reward: off a completion's total, before advantages | token_reward: off what follows each token, which then has an
    # advantage of its own (REINFORCE++); the last two take one more forward pass
    kl_in: str = "loss"
    kl_clamp: float = 5.0  # log-ratio up to which k3 is exponential, linear beyond (gradient <= e^5 beta); 0: no bound
    ratio: str = "old"  # old | ref (Eq. 10 as printed)
    ratio_level: str = "token"  # token | sequence: the geometric mean of the tokens' ratios (GSPO)
    # sequence: mean over tokens, then over completions | token: mean over all tokens | constant: sum over tokens, divided by
    # rollout.max_new_tokens, then mean over completions
    aggregation: str = "sequence"
    # of the group: sample_std (ddof 1) | population_std (ddof 0) | none | leave_one_out; of all groups: batch_std | batch
    # (grpo/advantages.py)
    advantage: str = "sample_std"

    @property
    def minibatch_prompts(self) -> int:
        """Prompts of one optimiser update."""
        return self.prompts_per_step // self.minibatches

    @property
    def algorithm(self) -> str:
        """The preset and what its keys are in this run; "" without one."""
        keys = ALGORITHM_PRESETS.get(self.preset or "", {})
        return f"{self.preset}: {', '.join(f'{key}={getattr(self, key)}' for key in keys)}" if keys else ""

    @property
    def needs_reference(self) -> bool:
        """Whether the initial policy stays beside the one that learns."""
        return self.kl_coefficient > 0 or self.ratio == "ref"

    def __post_init__(self) -> None:
        """Refuses unknown choices and batches that do not divide."""
        if self.preset is not None:
            check_choice("grpo.preset", self.preset, tuple(ALGORITHM_PRESETS))
        check(
            self.group_size >= 2,
            f"grpo.group_size: expected >= 2, an advantage compares the answers of a group; got {self.group_size}.",
        )
        self._check_dynamic_sampling()
        for name in ("prompts_per_step", "minibatches", "epochs"):
            check(getattr(self, name) >= 1, f"grpo.{name}: expected >= 1; got {getattr(self, name)}.")
        check(
            self.prompts_per_step % self.minibatches == 0,
            f"grpo.minibatches: expected a divisor of prompts_per_step={self.prompts_per_step}; got {self.minibatches}.",
        )
        check(
            0 <= self.clip_low <= 1 and self.clip_high >= 0,
            "grpo.clip_low, grpo.clip_high: expected a number in [0, 1], a ratio is never below 0, and one >= 0; got "
            f"{self.clip_low}, {self.clip_high}.",
        )
        check(
            self.dual_clip == 0 or self.dual_clip > 1,
            f"grpo.dual_clip: expected more than 1, or 0 for none; got {self.dual_clip}.",
        )
        check(
            0 <= self.kl_clamp <= 20,  # beyond, its exponential bounds nothing, and from 88 on it is infinite
            f"grpo.kl_clamp: expected a log-ratio of at most 20, or 0 for no bound; got {self.kl_clamp}.",
        )
        check(self.kl_coefficient >= 0, f"grpo.kl_coefficient: expected >= 0; got {self.kl_coefficient}.")
        check(
            self.kl_estimator != "k1" or self.kl_in != "loss",
            "grpo.kl_estimator: k1 has no gradient on average, so it cannot be a loss; use k2, k3 or k3+, or "
            "grpo.kl_in=reward or token_reward.",
        )
        check_choice("grpo.kl_estimator", self.kl_estimator, ("k1", "k2", "k3", "k3+"))
        check_choice("grpo.kl_in", self.kl_in, ("loss", "reward", "token_reward"))
        check_choice("grpo.ratio", self.ratio, ("old", "ref"))
        check_choice("grpo.ratio_level", self.ratio_level, ("token", "sequence"))
        check_choice("grpo.aggregation", self.aggregation, ("sequence", "token", "constant"))
        check_choice(
            "grpo.advantage",
            self.advantage,
            ("sample_std", "population_std", "none", "leave_one_out", "batch_std", "batch"),
        )
        check(
            self.kl_in != "token_reward" or (self.advantage == "batch" and self.ratio_level == "token"),
            "grpo.kl_in=token_reward: expected grpo.advantage=batch and grpo.ratio_level=token, each token then has an advantage "
            f"beside all tokens of the batch; got {self.advantage} and {self.ratio_level}. Set them so, or grpo.kl_in=reward.",
        )

    def _check_dynamic_sampling(self) -> None:
        draws = self.dynamic_sampling
        check(
            draws == 0 or 2 <= draws <= 100,
            f"grpo.dynamic_sampling: expected from 2 to 100 batches, or 0 for one as it comes; got {draws}.",
        )
        # what a group without a spread teaches otherwise is no reason to draw another
        check(
            draws == 0 or (self.advantage != "batch" and (self.kl_in == "loss" or self.kl_coefficient == 0)),
            f"grpo.dynamic_sampling={draws}: expected an advantage that is 0 where the rewards of a group are equal; "
            "grpo.advantage=batch compares groups, and grpo.kl_in tells completions of equal reward apart. Set one of them back.",
        )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimiser, an optax chain."""

    name: str = "adamw"
    learning_rate: float = 1e-6
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    clip_norm: float = 1.0
    schedule: str = "constant"  # constant | linear | cosine (both to 0 at the last step)
    warmup_steps: int = 0  # updates over which the learning rate rises from 0, before the schedule begins
    moments_dtype: str = "float32"  # of adamw's two moments; bfloat16 is rounded at random (step/narrow.py)

    def __post_init__(self) -> None:
        """Refuses unknown choices and values out of range."""
        check_choice("optimizer.name", self.name, ("adamw", "sgd"))
        check_choice("optimizer.schedule", self.schedule, ("constant", "linear", "cosine"))
        check_choice("optimizer.moments_dtype", self.moments_dtype, ("float32", "bfloat16"))
        check(
            self.name == "adamw" or self.moments_dtype == "float32",
            f"optimizer.moments_dtype: expected float32, {self.name} has no moments; got {self.moments_dtype}.",
        )
        for name in ("learning_rate", "clip_norm"):
            check(getattr(self, name) > 0, f"optimizer.{name}: expected > 0; got {getattr(self, name)}.")
        for name in ("weight_decay", "warmup_steps"):
            check(getattr(self, name) >= 0, f"optimizer.{name}: expected >= 0; got {getattr(self, name)}.")
        check(0 <= self.b1 < 1 and 0 <= self.b2 < 1, f"optimizer.b1, b2: expected in [0, 1); got {self.b1}, {self.b2}.")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, and how often to look."""

    steps: int | None = None  # default: the phases' epochs
    save_every: int = 50  # steps; the last step is always saved
    keep_checkpoints: int = 2  # the latest so many
    best_metric: str | None = None  # keep the checkpoint where this is highest too, e.g. eval/greedy/accuracy
    max_skipped_steps: int = 5  # steps in a row whose loss is not a number, after which the run stops
    stall_seconds: float = 1800.0  # a step longer than this is reported with the stacks of all threads; 0: never
    evaluate_every: int = 0  # steps; 0: only by `reflex evaluate`
    evaluation_questions: int = 64  # 0: all of the split
    evaluation_batch: int = 0  # questions of them at one time, as far as there are; 0: as many as a step has prompts
    log_every: int = 1  # steps between sample dumps; metrics are written at every step

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        check(self.steps is None or self.steps >= 1, f"training.steps: expected >= 1; got {self.steps}.")
        for name in ("save_every", "keep_checkpoints", "log_every", "max_skipped_steps"):
            check(getattr(self, name) >= 1, f"training.{name}: expected >= 1; got {getattr(self, name)}.")
        for name in ("evaluate_every", "evaluation_questions", "evaluation_batch", "stall_seconds"):
            check(getattr(self, name) >= 0, f"training.{name}: expected >= 0; got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """The supervised phase (`reflex sft`): imitate the target completions of the data source."""

    batch_size: int = 64
    answer_weight: float = 6.0  # loss weight of the tokens after <answer>: one answer token among 24 learns nothing
    noise: float = 0.0  # phantom only: how often the teacher misperceives a lesion

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        check(self.batch_size >= 1, f"sft.batch_size: expected >= 1; got {self.batch_size}.")
        check(self.answer_weight > 0, f"sft.answer_weight: expected > 0; got {self.answer_weight}.")
        check(0 <= self.noise <= 1, f"sft.noise: expected a number in [0, 1]; got {self.noise}.")


@dataclass(frozen=True, kw_only=True)
class EvidenceConfig:
    """What is recorded so that rewards can be recomputed and explained (`reflex replay`); see docs/evidence.md."""

    every: int = 0  # steps between two that are recorded, and with them every look at held-out questions; 0: none is
    groups: int = 8  # questions of such a step, or of such a look, whose completions are recorded; 0: all
    saliency: bool = False  # also the judge's maps, not their masks alone
    pictures: bool = False  # also the pictures as the judge saw them, once each; else only what tells them apart

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        for name in ("every", "groups"):
            check(getattr(self, name) >= 0, f"evidence.{name}: expected >= 0; got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """Where metrics go beside metrics.jsonl."""

    tensorboard: bool = True
    wandb_project: str | None = None  # needs the extra `wandb`
    progress: bool = True  # a progress bar on the terminal
