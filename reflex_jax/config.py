"""Configuration: one frozen dataclass per section, each refusing values that cannot be run by name.

`config_reader.load_config("configs/phantom.yaml", ["grpo.group_size=4"])` merges, in this order, the defaults below, the
file and the overrides. Math never sees a config (it takes numbers); orchestration does.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SALIENCY_METHODS = ("attention_gradient", "gradient_activation", "gradcam")
TIE_RULES = ("strict", "rank", "paper")
RESIZE_MODES = ("checkpoint", "crop", "squash", "pad")
# Each is read by the file of its name in data/readers/.
DATA_SETS = (
    "vqa_rad", "slake", "path_vqa", "pmc_vqa", "quilt_vqa", "medxpertqa", "mmmu", "omnimedvqa", "med_r1", "medvlm_r1",
    "medical_multimodal_eval", "medix", "silvar_med", "vqa_med_2019", "jsonl", "parquet", "tfds",
)  # fmt: skip
WHEN = ("always", "right", "wrong")


class ConfigError(ValueError):
    """A configuration that cannot be run; the message says what was expected, what came and what to do."""


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    _check(
        value in choices,
        f"{key}: expected one of {', '.join(choices)}; got {value[:80]!r}.{nearest_name(value, choices)}",
    )


def _check_patterns(key: str, text: str) -> None:
    for pattern in patterns_of(text):
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"{key}: {pattern[:80]!r} is no regular expression ({error}).") from error
    _check(bool(patterns_of(text)), f"{key}: expected at least one pattern; got {text[:80]!r}.")


def patterns_of(text: str) -> tuple[str, ...]:
    """The patterns of `policy.trainable` and `policy.lora.targets`: comma-separated, blanks around them left out."""
    return tuple(pattern.strip() for pattern in text.split(",") if pattern.strip())


def nearest_name(word: str, choices: Any) -> str:
    """Returns " Did you mean ...?" for a misspelt choice, "" where none is near."""
    close = difflib.get_close_matches(word[:80], list(choices), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def user_path(text: str | Path) -> Path:
    """The place a user named by a setting or an argument; "~" is the home folder here as in a shell."""
    return Path(os.path.expanduser(text))


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Name, place and seed of a run."""

    name: str = "run"
    dir: str | None = None  # the run directory itself; default runs/{name}
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses seeds that a random key cannot hold apart."""
        _check(0 <= self.seed < 2**32, f"run.seed: expected 0 to {2**32 - 1}; got {self.seed}.")

    @property
    def directory(self) -> Path:
        """Where everything of the run is written."""
        return Path("runs") / self.name if self.dir is None else user_path(self.dir)


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters that train in the policy's place (LoRA, arXiv:2106.09685); the policy itself is then fixed."""

    rank: int = 0  # r; 0: no adapters
    alpha: float = 16.0
    scaling: str = (
        "standard"  # of what an adapter adds: standard, alpha / r | rslora, alpha / sqrt(r) (arXiv:2312.03732)
    )
    # linear layers that get one: patterns of their paths, comma-separated, see docs/lora.md
    targets: str = "layers/(q|k|v|o)"
    dropout: float = 0.0  # 0 alone: a policy that drops at random is not the one that sampled
    path: str | None = None  # directory of an adapter in PEFT's layout to start from

    def __post_init__(self) -> None:
        """Refuses values out of range, and dropout."""
        _check(self.rank >= 0, f"policy.lora.rank: expected a rank, or 0 for no adapters; got {self.rank}.")
        _check(self.alpha > 0, f"policy.lora.alpha: expected > 0; got {self.alpha}.")
        _check_choice("policy.lora.scaling", self.scaling, ("standard", "rslora"))
        _check_patterns("policy.lora.targets", self.targets)
        _check(
            self.dropout == 0,
            f"policy.lora.dropout: expected 0; got {self.dropout}. A group shares what is computed of its prompt, and ratios are "
            "those of the policy that sampled: both end where the update drops numbers at random.",
        )
        _check(
            self.path is None or self.rank > 0,
            f"policy.lora.path: expected policy.lora.rank to be that of the adapter in {self.path}; got 0, no adapters.",
        )

    @property
    def scale(self) -> float:
        """What the product of an adapter's two matrices is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.scaling == "rslora" else self.rank) if self.rank else 1.0


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The vision-language model that learns."""

    path: str = "phantom"  # Hugging Face directory; "phantom" is the tiny one shipped with the package
    # compute dtype of matrix products: float32 is that on every device, neither TF32 nor bfloat16 passes (slow: bfloat16 is
    # meant for accelerators); norms, softmax and log-probs stay float32
    dtype: str = "float32"
    # what learns is stored in: bfloat16 is rounded at random, as likely up as what was cut off says (step/narrow.py)
    master_dtype: str = "float32"
    # what learns: all | language | vision | merger, or patterns of parameters' paths, comma-separated (docs/lora.md)
    trainable: str = "all"
    lora: LoraConfig = field(default_factory=LoraConfig)  # adapters that learn in its place

    def __post_init__(self) -> None:
        """Refuses unknown choices, patterns that are none, and parameters that train beside adapters."""
        for name in ("dtype", "master_dtype"):
            _check_choice(f"policy.{name}", getattr(self, name), ("float32", "bfloat16"))
        _check_patterns("policy.trainable", self.trainable)
        _check(
            not self.lora.rank or self.trainable == "all",
            f"policy.trainable: expected none beside policy.lora.rank={self.lora.rank}, whose adapters alone train; got "
            f"{self.trainable[:80]!r}. Choose what gets adapters by policy.lora.targets, or set policy.lora.rank=0.",
        )

    @property
    def widest_dtype(self) -> str:
        """What the weights are read in: nothing of the run holds more of them."""
        masters = self.dtype if self.lora.rank else self.master_dtype  # beside adapters there are none of the policy
        return "bfloat16" if self.dtype == masters == "bfloat16" else "float32"


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """The frozen BiomedCLIP judge: what it looks at, and how (paper Eq. 2 and 3)."""

    path: str = "phantom"  # open_clip directory
    dtype: str = (
        "float32"  # as that of the policy; thresholded decisions near a threshold flip in bfloat16 (and in TF32)
    )
    resize: str = (
        "checkpoint"  # as its preprocess_cfg says | crop: short side, centre | squash | pad: the whole picture
    )
    # of a question with several: first | last | the number of one, 0 the first, -1 the last, of fewer the nearest | mean: all,
    # and what it finds is the mean over them (judge/evidence.py)
    picture: str = "first"
    saliency: str = "attention_gradient"
    saliency_block: int = -1  # transformer block; attention_gradient rolls out from here to the last
    centered: bool = False  # use u - u(question-only statement): removes what the template shares
    quantile: float = 0.5  # p of Eq. 3
    tie_rule: str = "strict"
    max_statement_tokens: int = 64

    def __post_init__(self) -> None:
        """Refuses unknown choices and values out of range."""
        _check_choice("judge.dtype", self.dtype, ("float32", "bfloat16"))
        _check_choice("judge.resize", self.resize, RESIZE_MODES)
        _check_choice("judge.saliency", self.saliency, SALIENCY_METHODS)
        _check_choice("judge.tie_rule", self.tie_rule, TIE_RULES)
        if self.picture not in ("first", "last", "mean"):
            try:
                number = int(self.picture)
            except ValueError:
                near = nearest_name(self.picture, ("first", "last", "mean"))
                raise ConfigError(
                    "judge.picture: expected first, last, mean, or the number of a picture, 0 the first and -1 the last; got "
                    f"{self.picture[:80]!r}.{near}"
                ) from None
            object.__setattr__(
                self, "picture", {0: "first", -1: "last"}.get(number, str(number))
            )  # one word for one thing
        _check(0 < self.quantile < 1, f"judge.quantile: expected a number in (0, 1); got {self.quantile}.")
        _check(
            self.max_statement_tokens >= 8,
            f"judge.max_statement_tokens: expected >= 8; got {self.max_statement_tokens}.",
        )

    @property
    def sees_all_pictures(self) -> bool:
        """Whether it looks at every picture of a question, so that arrays of pictures have an axis for them."""
        return self.picture == "mean"

    def looks_at(self, count: int) -> slice:
        """Which of a question's `count` pictures, at least one."""
        if self.sees_all_pictures:
            return slice(0, count)
        number = {"first": 0, "last": -1}.get(self.picture)
        number = int(self.picture) if number is None else number
        place = max(-count, min(number, count - 1)) % count  # the nearest there is
        return slice(place, place + 1)


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """One phase of the curriculum: which questions, and for how long."""

    answer_type: str = "any"  # closed | open | any
    sources: tuple[str, ...] = ()  # labels of data.sources; empty: all
    modalities: tuple[str, ...] = ()  # e.g. [MRI], in the names of data/modalities.py; empty: all
    options: bool | None = None  # true: questions with lettered options alone, false: without; default: both
    epochs: float = 1.0  # passes over the questions of this type; ignored where training.steps is set
    fraction: float | None = None  # share of training.steps; default: in proportion to epochs x questions
    replay: float = 0.0  # share of the phase's prompts that are questions of the phases before it

    def __post_init__(self) -> None:
        """Refuses unknown answer types and empty phases."""
        _check_choice("data.phases.answer_type", self.answer_type, ("closed", "open", "any"))
        _check(self.epochs > 0, f"data.phases.epochs: expected > 0; got {self.epochs}.")
        _check(
            self.fraction is None or 0 < self.fraction <= 1,
            f"data.phases.fraction: expected a number in (0, 1]; got {self.fraction}.",
        )
        _check(0 <= self.replay < 1, f"data.phases.replay: expected a number in [0, 1); got {self.replay}.")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One data set of a mixture."""

    name: str  # phantom, or one of DATA_SETS
    root: str | None = None  # the folder with its official files; default: the folder of its label in data.root
    label: str = ""  # what its ids begin with and phases call it; default: the name
    split: str | None = None  # to train on; default: data.split
    evaluation_split: str | None = None  # default: data.evaluation_split
    weight: float | None = (
        None  # share of a phase's prompts, relative to the other sources; default: by number of questions
    )
    limit: int | None = None  # train on so many of its questions, chosen by their ids
    languages: tuple[str, ...] = ("en",)  # of the questions; others are left out and counted

    def __post_init__(self) -> None:
        """Refuses unknown sets and values out of range."""
        _check_choice("data.sources.name", self.name, ("phantom", *DATA_SETS))
        object.__setattr__(self, "label", self.label or self.name)
        _check(
            self.weight is None or self.weight > 0,
            f"data.sources.weight: expected > 0; got {self.weight} for {self.label}.",
        )
        _check(
            self.limit is None or self.limit >= 1,
            f"data.sources.limit: expected >= 1; got {self.limit} for {self.label}.",
        )
        _check(len(self.languages) > 0, f"data.sources.languages: expected at least one; got none for {self.label}.")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which questions and images, and how they become prompts."""

    source: str = "phantom"  # phantom, or one of DATA_SETS: a mixture of one
    root: str | None = None  # its official files; of sources without a root: the folder that holds one for each label
    sources: tuple[SourceConfig, ...] = ()  # several data sets, mixed; in place of source
    cache: str | None = None  # prepared copies; default ~/.cache/reflex_jax
    split: str = "train"
    validation_split: str = "validation"  # looked at while training (training.evaluate_every)
    # share of a source's training questions that is held out, by whole pictures, where it has no validation split and the
    # run looks at one
    validation_fraction: float = 0.1
    evaluation_split: str = "test"  # of `reflex evaluate`
    refused: str = "stop"  # stop | leave_out: what rows do that cannot be used
    exclude: tuple[str, ...] = ()  # files with ids that are not trained on, e.g. of `reflex data check --exclude-leaks`
    size: int = 4096  # phantom only: images of the training world
    phases: tuple[PhaseConfig, ...] = (PhaseConfig(answer_type="closed"), PhaseConfig(answer_type="open"))
    prompt: str = "think_answer"  # what the user turn says, see data/prompt_texts.py
    min_pixels: int = 3136  # of the policy's image after resizing
    max_pixels: int = 1048576
    max_prompt_tokens: int = 2048  # image tokens included; a longer prompt is refused at load, never cut

    def __post_init__(self) -> None:
        """Refuses unknown sources and impossible sizes."""
        _check_choice("data.source", self.source, ("phantom", *DATA_SETS))
        _check(not self.sources or self.source == "phantom", "data.source: expected it or data.sources; got both.")
        self._check_mixture()
        _check_choice("data.refused", self.refused, ("stop", "leave_out"))
        _check(
            0 < self.validation_fraction < 1,
            f"data.validation_fraction: expected a number in (0, 1); got {self.validation_fraction}.",
        )
        _check(len(self.phases) > 0, "data.phases: expected at least one phase.")
        _check(1 <= self.size <= 10**7, f"data.size: expected 1 to {10**7} phantoms; got {self.size}.")
        _check(
            0 < self.min_pixels <= self.max_pixels,
            f"data.min_pixels, data.max_pixels: expected 0 < min <= max; got {self.min_pixels}, {self.max_pixels}.",
        )
        _check(self.max_prompt_tokens >= 1, f"data.max_prompt_tokens: expected >= 1; got {self.max_prompt_tokens}.")

    def _check_mixture(self) -> None:
        labels = [source.label for source in self.mixture]
        doubled = sorted({label for label in labels if labels.count(label) > 1})
        _check(
            not doubled, f"data.sources: expected different labels; got {', '.join(doubled)} twice. Set label: NAME."
        )
        weighted = [source.weight is not None for source in self.mixture]
        _check(
            all(weighted) or not any(weighted),
            "data.sources: expected a weight for every source or for none; got some of "
            f"{', '.join(labels)} without. 1.0 for all mixes them evenly.",
        )
        for phase in self.phases:
            unknown = [label for label in phase.sources if label not in labels]
            _check(not unknown, f"data.phases.sources: expected some of {', '.join(labels)}; got {', '.join(unknown)}.")

    @property
    def mixture(self) -> tuple[SourceConfig, ...]:
        """The sources with their roots; `source` and `root` are a mixture of one."""
        if not self.sources:
            return (SourceConfig(name=self.source, root=self.root),)
        if self.root is None:
            return self.sources
        return tuple(dataclasses.replace(s, root=s.root or os.path.join(self.root, s.label)) for s in self.sources)


@dataclass(frozen=True, kw_only=True)
class CompletionConfig:
    """Which shape completions are read in, see `text.completion.CompletionShape`; null: as the prompt asks for."""

    thought: str | None = None  # tag around the thought: think | thinking | none: an answer block alone
    preamble: bool | None = None  # text may stand before the first thought tag
    # the first answer block counts, and without one the whole completion; the format looks at the outermost tags alone
    fallback: bool | None = None
    compact: bool | None = None  # white space around <, > and / is deleted first

    def __post_init__(self) -> None:
        """Refuses unknown tags."""
        if self.thought is not None:
            _check_choice("completion.thought", self.thought, ("think", "thinking", "none"))


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How completions are sampled."""

    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    max_new_tokens: int = 1024
    eos_ids: tuple[int, ...] = ()  # default: those of the model's generation_config.json

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        _check(self.temperature >= 0, f"rollout.temperature: expected >= 0; got {self.temperature}.")
        _check(self.top_k >= 0, f"rollout.top_k: expected >= 0 (0 is off); got {self.top_k}.")
        _check(0 < self.top_p <= 1, f"rollout.top_p: expected a number in (0, 1]; got {self.top_p}.")
        _check(self.max_new_tokens >= 1, f"rollout.max_new_tokens: expected >= 1; got {self.max_new_tokens}.")


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
            _check_choice("grpo.preset", self.preset, tuple(ALGORITHM_PRESETS))
        _check(
            self.group_size >= 2,
            f"grpo.group_size: expected >= 2, an advantage compares the answers of a group; got {self.group_size}.",
        )
        self._check_dynamic_sampling()
        for name in ("prompts_per_step", "minibatches", "epochs"):
            _check(getattr(self, name) >= 1, f"grpo.{name}: expected >= 1; got {getattr(self, name)}.")
        _check(
            self.prompts_per_step % self.minibatches == 0,
            f"grpo.minibatches: expected a divisor of prompts_per_step={self.prompts_per_step}; got {self.minibatches}.",
        )
        _check(
            0 <= self.clip_low <= 1 and self.clip_high >= 0,
            "grpo.clip_low, grpo.clip_high: expected a number in [0, 1], a ratio is never below 0, and one >= 0; got "
            f"{self.clip_low}, {self.clip_high}.",
        )
        _check(
            self.dual_clip == 0 or self.dual_clip > 1,
            f"grpo.dual_clip: expected more than 1, or 0 for none; got {self.dual_clip}.",
        )
        _check(
            0 <= self.kl_clamp <= 20,  # beyond, its exponential bounds nothing, and from 88 on it is infinite
            f"grpo.kl_clamp: expected a log-ratio of at most 20, or 0 for no bound; got {self.kl_clamp}.",
        )
        _check(self.kl_coefficient >= 0, f"grpo.kl_coefficient: expected >= 0; got {self.kl_coefficient}.")
        _check(
            self.kl_estimator != "k1" or self.kl_in != "loss",
            "grpo.kl_estimator: k1 has no gradient on average, so it cannot be a loss; use k2, k3 or k3+, or "
            "grpo.kl_in=reward or token_reward.",
        )
        _check_choice("grpo.kl_estimator", self.kl_estimator, ("k1", "k2", "k3", "k3+"))
        _check_choice("grpo.kl_in", self.kl_in, ("loss", "reward", "token_reward"))
        _check_choice("grpo.ratio", self.ratio, ("old", "ref"))
        _check_choice("grpo.ratio_level", self.ratio_level, ("token", "sequence"))
        _check_choice("grpo.aggregation", self.aggregation, ("sequence", "token", "constant"))
        _check_choice(
            "grpo.advantage",
            self.advantage,
            ("sample_std", "population_std", "none", "leave_one_out", "batch_std", "batch"),
        )
        _check(
            self.kl_in != "token_reward" or (self.advantage == "batch" and self.ratio_level == "token"),
            "grpo.kl_in=token_reward: expected grpo.advantage=batch and grpo.ratio_level=token, each token then has an advantage "
            f"beside all tokens of the batch; got {self.advantage} and {self.ratio_level}. Set them so, or grpo.kl_in=reward.",
        )

    def _check_dynamic_sampling(self) -> None:
        draws = self.dynamic_sampling
        _check(
            draws == 0 or 2 <= draws <= 100,
            f"grpo.dynamic_sampling: expected from 2 to 100 batches, or 0 for one as it comes; got {draws}.",
        )
        # what a group without a spread teaches otherwise is no reason to draw another
        _check(
            draws == 0 or (self.advantage != "batch" and (self.kl_in == "loss" or self.kl_coefficient == 0)),
            f"grpo.dynamic_sampling={draws}: expected an advantage that is 0 where the rewards of a group are equal; "
            "grpo.advantage=batch compares groups, and grpo.kl_in tells completions of equal reward apart. Set one of them back.",
        )


@dataclass(frozen=True, kw_only=True)
class Component:
    """How one component enters the reward; written as its weight alone, or as {weight: 1, when: always, option: value}."""

    weight: float = 1.0  # 0: measured and reported, not paid
    when: str = (
        "always"  # always | right | wrong: the answers it applies to; the others get nothing and are not counted
    )
    options: dict[str, Any] = field(
        default_factory=dict
    )  # keyword arguments of its function, see rewards/components.py


def _components_of_the_paper() -> dict[str, Component]:
    # the options are the defaults of the functions' signatures; read from a file, they are filled in from there
    return {
        "answer": Component(options={"parts": {"bleu1": 0.5, "rouge1": 0.5}, "contrasts": True, "valid_only": False}),
        "format": Component(options={"partial": 0.0}),
        "visual_fidelity": Component(options={"iou_threshold": 0.5}),  # Eq. 5
        "provenance": Component(options={"text_threshold": 0.8, "image_threshold": 0.5}),  # tau_tt, tau_it of Eq. 7
    }


@dataclass(frozen=True, kw_only=True)
class RewardsConfig:
    """What a completion is paid for (paper Eq. 9: four components of weight 1); what is not named is not computed."""

    components: dict[str, Component] = field(default_factory=_components_of_the_paper)
    files: tuple[str, ...] = ()  # Python files that define components of your own
    timeout: float = 10.0  # seconds such a component has for one completion, which then counts as failed
    # what is standardised: sum: the total | component: each component, then weighted and summed | component_batch: that sum once
    # more over the batch (GDPO)
    normalise: str = "sum"
    max_failure_rate: float = 0.25  # share of a step's completions without a reward, beyond which the run stops

    def __post_init__(self) -> None:
        """Refuses values out of range; names and options are checked where they are read, against the table."""
        for name, component in self.components.items():
            _check_choice(f"rewards.components.{name}.when", component.when, WHEN)
        _check_choice("rewards.normalise", self.normalise, ("sum", "component", "component_batch"))
        _check(
            any(self.weights.values()),
            f"rewards.components: expected at least one weight other than 0; got {self.weights}. A mapping names all of its "
            "entries; rewards.components.answer=1 sets one.",
        )
        _check(
            0 < self.timeout <= 86400,
            f"rewards.timeout: expected a number of seconds in (0, 86400]; got {self.timeout}.",
        )
        _check(
            0 <= self.max_failure_rate <= 1,
            f"rewards.max_failure_rate: expected a number in [0, 1]; got {self.max_failure_rate}.",
        )

    @property
    def weights(self) -> dict[str, float]:
        """Name of each component -> its weight."""
        return {name: component.weight for name, component in self.components.items()}


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """The language model that `llm_judge` and `reflex judge` ask over HTTP, as OpenAI's `/v1/chat/completions` (chat/)."""

    url: str | None = None  # what stands before /chat/completions, e.g. http://localhost:8000/v1
    model: str | None = None  # as the endpoint calls it
    key_variable: str | None = None  # name of the environment variable that holds the key; the key stands nowhere
    temperature: float = 0.0
    max_tokens: int = 64  # of a reply; more where the model thinks first
    seed: int | None = None  # sent where it is set
    enable_thinking: bool | None = None  # the switch of chat templates that vLLM and SGLang pass on; unset: not sent
    concurrency: int = 16  # requests under way at one time
    deadline_seconds: float = 120.0  # for all completions of a step; those without a reply then have failed
    connect_seconds: float = 5.0
    read_seconds: float = 60.0  # without a byte
    attempts: int = 8  # tries of one completion: half a minute on average, in which a judge may come back
    backoff_seconds: float = 0.5  # before the n-th retry at random up to 2^(n-1) times that (at most 30 s)
    breaker_failures: int = 20  # completions failed in a row after which it is not asked for
    breaker_seconds: float = 30.0  # so long, before one of them tries
    cache: str | None = None  # SQLite file of replies that are not asked for again, on a local disk
    check: bool = True  # look before the first step whether it answers and serves the model

    def __post_init__(self) -> None:
        """Refuses addresses with secrets, names that are none, and values out of range."""
        if self.url is not None:
            _check(
                re.fullmatch(r"https?://(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?(/[\w./~-]*)?", self.url) is not None,
                "endpoint.url: expected http(s)://host[:port]/path without user, key or query, such as "
                f"http://localhost:8000/v1; got {re.sub('//[^/]*@', '//...@', self.url).partition('?')[0][:80]!r}.",
            )
            _check(
                not self.url.rstrip("/").endswith("/chat/completions"),
                f"endpoint.url: expected what stands before /chat/completions; got {self.url[:80]!r}.",
            )
        _check(
            self.key_variable is None or re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", self.key_variable) is not None,
            "endpoint.key_variable: expected the name of an environment variable that holds the key, never the key itself; "
            f"got {len(self.key_variable or '')} characters that are no such name.",
        )
        for name in ("max_tokens", "concurrency", "attempts", "breaker_failures"):
            _check(getattr(self, name) >= 1, f"endpoint.{name}: expected >= 1; got {getattr(self, name)}.")
        for name in ("deadline_seconds", "connect_seconds", "read_seconds", "backoff_seconds", "breaker_seconds"):
            _check(
                0 < getattr(self, name) <= 86400,
                f"endpoint.{name}: expected a number of seconds in (0, 86400]; got {getattr(self, name)}.",
            )
        _check(0 <= self.temperature <= 2, f"endpoint.temperature: expected in [0, 2]; got {self.temperature}.")


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
        _check_choice("optimizer.name", self.name, ("adamw", "sgd"))
        _check_choice("optimizer.schedule", self.schedule, ("constant", "linear", "cosine"))
        _check_choice("optimizer.moments_dtype", self.moments_dtype, ("float32", "bfloat16"))
        _check(
            self.name == "adamw" or self.moments_dtype == "float32",
            f"optimizer.moments_dtype: expected float32, {self.name} has no moments; got {self.moments_dtype}.",
        )
        for name in ("learning_rate", "clip_norm"):
            _check(getattr(self, name) > 0, f"optimizer.{name}: expected > 0; got {getattr(self, name)}.")
        for name in ("weight_decay", "warmup_steps"):
            _check(getattr(self, name) >= 0, f"optimizer.{name}: expected >= 0; got {getattr(self, name)}.")
        _check(
            0 <= self.b1 < 1 and 0 <= self.b2 < 1, f"optimizer.b1, b2: expected in [0, 1); got {self.b1}, {self.b2}."
        )


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
        _check(self.steps is None or self.steps >= 1, f"training.steps: expected >= 1; got {self.steps}.")
        for name in ("save_every", "keep_checkpoints", "log_every", "max_skipped_steps"):
            _check(getattr(self, name) >= 1, f"training.{name}: expected >= 1; got {getattr(self, name)}.")
        for name in ("evaluate_every", "evaluation_questions", "evaluation_batch", "stall_seconds"):
            _check(getattr(self, name) >= 0, f"training.{name}: expected >= 0; got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """The supervised phase (`reflex sft`): imitate the target completions of the data source."""

    batch_size: int = 64
    answer_weight: float = 6.0  # loss weight of the tokens after <answer>: one answer token among 24 learns nothing
    noise: float = 0.0  # phantom only: how often the teacher misperceives a lesion

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        _check(self.batch_size >= 1, f"sft.batch_size: expected >= 1; got {self.batch_size}.")
        _check(self.answer_weight > 0, f"sft.answer_weight: expected > 0; got {self.answer_weight}.")
        _check(0 <= self.noise <= 1, f"sft.noise: expected a number in [0, 1]; got {self.noise}.")


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """What changes how a step is computed and what memory that takes, and its numbers by rounding alone.

    All of it may change when a run is continued, and `reflex plan` advises nothing else but the mesh and, last, a state in
    bfloat16 (`optimizer.moments_dtype`, `policy.master_dtype`) and a larger machine.
    """

    remat: bool = True  # recompute each layer in the backward pass: about 30 % slower, 9x less activation memory
    log_prob_chunk: int = 512  # completion tokens whose logits exist at one time on a device
    attention: str = (
        "auto"  # auto | xla: all scores held | blocked: none, any device | fused: a kernel of TPUs and GPUs
    )
    row_lengths: int = 12  # lengths that the rows of the update may have, each compiled when it is first needed
    microbatch_prompts: int = 0  # prompts whose activations exist at one time, in prefill, judge and update; 0: all
    prompt_rungs: int = 3  # static sizes that a batch's prompts are padded to, each compiled once; 1: the run's largest
    # prompts whose groups are sampled at one time, a divisor of grpo.prompts_per_step; fewer hold fewer caches, and read the
    # weights more often; 0: all
    rollout_prompts: int = 0
    rollout_stages: bool = True  # while sampling, caches grow and what is still open is gathered; faster, more memory
    rollout_weights: str = (
        "gathered"  # gathered: whole over fsdp while sampling | sharded: stay cut; slower, less memory
    )
    # what waits in the host's memory and comes to the device a layer at a time: none | optimizer (its moments) |
    # optimizer+masters; slower by what the link to the host takes
    offload: str = "none"

    def __post_init__(self) -> None:
        """Refuses unknown choices and values out of range."""
        _check(
            self.attention != "cudnn",
            "memory.attention: 'cudnn' is now 'fused', on NVIDIA GPUs and TPUs; set memory.attention=fused.",
        )
        _check_choice("memory.attention", self.attention, ("auto", "xla", "blocked", "fused"))
        _check_choice("memory.rollout_weights", self.rollout_weights, ("gathered", "sharded"))
        _check_choice("memory.offload", self.offload, ("none", "optimizer", "optimizer+masters"))
        for name in ("log_prob_chunk", "row_lengths", "prompt_rungs"):
            _check(getattr(self, name) >= 1, f"memory.{name}: expected >= 1; got {getattr(self, name)}.")
        for name in ("microbatch_prompts", "rollout_prompts"):
            few = getattr(self, name)
            _check(few >= 0, f"memory.{name}: expected a number of prompts, or 0 for all; got {few}.")


# Meshes by machine. `data` absorbs what is there beyond one copy of the weights, so a larger machine of the kind works too.
# Google counts v5p by TensorCores, two on a chip: a v5p-64 has 32 chips.
MESH_PRESETS = {
    "cpu": {"data": -1, "fsdp": 1, "tensor": 1},
    "1-gpu": {"data": 1, "fsdp": 1, "tensor": 1},
    "8-gpu": {"data": -1, "fsdp": 8, "tensor": 1},
    "2x8-gpu": {"data": -1, "fsdp": 16, "tensor": 1},
    "8x8-gpu": {"data": -1, "fsdp": 16, "tensor": 1},
    "v5e-8": {"data": -1, "fsdp": 8, "tensor": 1},
    "v5e-16": {"data": -1, "fsdp": 16, "tensor": 1},
    "v5e-64": {"data": -1, "fsdp": 32, "tensor": 2},
    "v5p-64": {"data": -1, "fsdp": 16, "tensor": 2},
    "v5p-128": {"data": -1, "fsdp": 32, "tensor": 2},
    "v6e-16": {"data": -1, "fsdp": 16, "tensor": 1},
    "v6e-64": {"data": -1, "fsdp": 32, "tensor": 2},
}


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Device mesh; -1 absorbs the devices the other axes leave."""

    preset: str | None = None  # sets the three axes for a machine; what is written after it wins
    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        """Refuses unknown presets, axes that are neither positive nor -1, and more than one -1."""
        if self.preset is not None:
            _check_choice("mesh.preset", self.preset, tuple(MESH_PRESETS))
        sizes = (self.data, self.fsdp, self.tensor)
        _check(
            all(s == -1 or s >= 1 for s in sizes) and sizes.count(-1) <= 1,
            f"mesh: expected positive sizes and at most one -1; got data={self.data} fsdp={self.fsdp} tensor={self.tensor}.",
        )


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
            _check(getattr(self, name) >= 0, f"evidence.{name}: expected >= 0; got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """Where metrics go beside metrics.jsonl."""

    tensorboard: bool = True
    wandb_project: str | None = None  # needs the extra `wandb`
    progress: bool = True  # a progress bar on the terminal


def compares_groups(normalise: str, advantage: str) -> bool:
    """Whether advantages by `rewards.normalise` and `grpo.advantage` compare the groups of a batch with one another."""
    return normalise == "component_batch" or advantage in ("batch", "batch_std")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything one run depends on."""

    run: RunConfig = field(default_factory=RunConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    data: DataConfig = field(default_factory=DataConfig)
    completion: CompletionConfig = field(default_factory=CompletionConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)

    def __post_init__(self) -> None:
        """Refuses sections that do not go together."""
        _check(
            self.memory.attention != "fused" or self.policy.dtype == "bfloat16",
            "memory.attention=fused: its kernels compute in half precision; set policy.dtype=bfloat16 too, or "
            "memory.attention=auto.",
        )
        _check(
            self.rewards.normalise == "sum" or self.grpo.kl_in == "loss",
            f"rewards.normalise={self.rewards.normalise}: expected grpo.kl_in=loss, a penalty is taken off the total, which is "
            "not standardised then; set one of them back.",
        )
        over_batch = compares_groups(self.rewards.normalise, self.grpo.advantage)
        _check(
            not (self.evidence.every and self.evidence.groups and over_batch),
            f"evidence.groups={self.evidence.groups}: expected 0 (all of a step) with rewards.normalise={self.rewards.normalise} "
            f"and grpo.advantage={self.grpo.advantage}, which compare groups: of some of them no advantage can be recomputed.",
        )
        _check(
            not (self.evidence.every and self.judge.sees_all_pictures),
            f"evidence.every={self.evidence.every}: expected 0 with judge.picture=mean, evidence holds one map of a statement "
            "and not one for each picture; set one of them back.",
        )


# Settings that moved; the old name is refused with the new one.
MOVED_KEYS = {
    "policy.remat": "memory.remat",
    "policy.log_prob_chunk": "memory.log_prob_chunk",
    "policy.attention": "memory.attention",
    "grpo.microbatch_prompts": "memory.microbatch_prompts",
    "rollout.weights": "memory.rollout_weights",
    "judge.iou_threshold": "rewards.components.visual_fidelity.iou_threshold",
    "judge.text_threshold": "rewards.components.provenance.text_threshold",
    "judge.image_threshold": "rewards.components.provenance.image_threshold",
    "rewards.open_answer_parts": "rewards.components.answer.parts",
}


def config_to_dict(config: Any) -> dict[str, Any]:
    """Returns a configuration as plain dicts, lists and scalars, ready for YAML and as a file has them."""
    return _plain(config)


def _plain(value: Any) -> Any:
    if isinstance(value, Component):
        return {"weight": value.weight, "when": value.when, **_plain(value.options)}
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
