"""Configuration: one frozen dataclass per section, YAML plus dotted overrides, wrong input refused by name.

`load_config("configs/phantom.yaml", ["grpo.group_size=4"])` merges, in this order, the defaults below, the file and the
overrides. Math never sees a config (it takes numbers); orchestration does.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SALIENCY_METHODS = ("attention_gradient", "gradient_activation", "gradcam")
TIE_RULES = ("strict", "rank", "paper")
RESIZE_MODES = ("checkpoint", "crop", "squash", "pad")
REWARD_COMPONENTS = ("answer", "format", "visual_fidelity", "provenance")
OPEN_ANSWER_PARTS = ("bleu1", "rouge1")


class ConfigError(ValueError):
    """A configuration that cannot be run; the message says what was expected, what came and what to do."""


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    _check(value in choices, f"{key}: expected one of {', '.join(choices)}; got {value!r}.{_nearest(value, choices)}")


def _nearest(word: str, choices: Any) -> str:
    close = difflib.get_close_matches(str(word), list(choices), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Name, place and seed of a run."""

    name: str = "run"
    dir: str | None = None  # the run directory itself; default runs/{name}
    seed: int = 0

    @property
    def directory(self) -> Path:
        """Where everything of the run is written."""
        return Path(self.dir) if self.dir else Path("runs") / self.name


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The vision-language model that learns."""

    path: str = "phantom"  # Hugging Face directory; "phantom" is the tiny one shipped with the package
    dtype: str = "float32"  # compute dtype of matrix products; norms, softmax and log-probs stay float32
    trainable: str = "all"  # all | language (vision tower frozen)
    attention: str = "xla"  # xla | cudnn (GPU) for the prompt's self-attention
    remat: bool = True  # recompute each layer in the backward pass: about 30 % slower, 9x less activation memory
    log_prob_chunk: int = 512  # completion tokens whose logits exist at one time on a device

    def __post_init__(self) -> None:
        """Refuses unknown choices."""
        _check_choice("policy.dtype", self.dtype, ("float32", "bfloat16"))
        _check_choice("policy.trainable", self.trainable, ("all", "language"))
        _check_choice("policy.attention", self.attention, ("xla", "cudnn"))
        _check(self.log_prob_chunk >= 1, f"policy.log_prob_chunk: expected >= 1; got {self.log_prob_chunk}.")


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """The frozen BiomedCLIP judge and the thresholds of the paper's Eq. 3, 5 and 7."""

    path: str = "phantom"  # open_clip directory
    dtype: str = "float32"  # thresholded decisions near a threshold flip in bfloat16
    resize: str = "checkpoint"  # its own preprocess_cfg | crop: short side, centre | squash | pad: the whole picture
    saliency: str = "attention_gradient"
    saliency_block: int = -1  # transformer block; attention_gradient rolls out from here to the last
    centered: bool = False  # use u - u(question-only statement): removes what the template shares
    quantile: float = 0.5  # p of Eq. 3
    tie_rule: str = "strict"
    iou_threshold: float = 0.5  # Eq. 5
    text_threshold: float = 0.8  # tau_tt of Eq. 7
    image_threshold: float = 0.5  # tau_it of Eq. 7
    max_statement_tokens: int = 64

    def __post_init__(self) -> None:
        """Refuses unknown choices and values out of range."""
        _check_choice("judge.dtype", self.dtype, ("float32", "bfloat16"))
        _check_choice("judge.resize", self.resize, RESIZE_MODES)
        _check_choice("judge.saliency", self.saliency, SALIENCY_METHODS)
        _check_choice("judge.tie_rule", self.tie_rule, TIE_RULES)
        _check(0 < self.quantile < 1, f"judge.quantile: expected a number in (0, 1); got {self.quantile}.")
        for name in ("iou_threshold", "text_threshold", "image_threshold"):
            value = getattr(self, name)
            _check(-1 <= value <= 1, f"judge.{name}: expected a number in [-1, 1]; got {value}.")
        _check(
            self.max_statement_tokens >= 8,
            f"judge.max_statement_tokens: expected >= 8; got {self.max_statement_tokens}.",
        )


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """One phase of the curriculum: which questions, and for how long."""

    answer_type: str = "any"  # closed | open | any
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
class DataConfig:
    """Which questions and images, and how they become prompts."""

    source: str = "phantom"  # phantom | vqa_rad | slake
    root: str | None = None  # the dataset's official files (vqa_rad, slake)
    cache: str | None = None  # prepared copies; default ~/.cache/reflex_jax
    split: str = "train"
    evaluation_split: str = "test"
    size: int = 4096  # phantom only: images of the training world
    phases: tuple[PhaseConfig, ...] = (PhaseConfig(answer_type="closed"), PhaseConfig(answer_type="open"))
    prompt: str = "think_answer"  # template of the user turn, see data/prompts.py
    min_pixels: int = 3136  # of the policy's image after resizing
    max_pixels: int = 1048576
    max_prompt_tokens: int = 2048  # image tokens included; a longer prompt is refused at load, never cut

    def __post_init__(self) -> None:
        """Refuses unknown sources and impossible sizes."""
        _check_choice("data.source", self.source, ("phantom", "vqa_rad", "slake"))
        _check(
            self.source == "phantom" or self.root is not None,
            f"data.root: {self.source} needs the directory with its official files; set data.root=DIR.",
        )
        _check(len(self.phases) > 0, "data.phases: expected at least one phase.")
        _check(self.size >= 1, f"data.size: expected >= 1; got {self.size}.")
        _check(
            0 < self.min_pixels <= self.max_pixels,
            f"data.min_pixels, data.max_pixels: expected 0 < min <= max; got {self.min_pixels}, {self.max_pixels}.",
        )
        _check(self.max_prompt_tokens >= 1, f"data.max_prompt_tokens: expected >= 1; got {self.max_prompt_tokens}.")


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How completions are sampled."""

    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    max_new_tokens: int = 1024
    eos_ids: tuple[int, ...] = ()  # default: those of the model's generation_config.json
    weights: str = "gathered"  # gathered: whole over fsdp while sampling | sharded: stay cut, slower, where memory is short

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        _check(self.temperature >= 0, f"rollout.temperature: expected >= 0; got {self.temperature}.")
        _check(self.top_k >= 0, f"rollout.top_k: expected >= 0 (0 is off); got {self.top_k}.")
        _check(0 < self.top_p <= 1, f"rollout.top_p: expected a number in (0, 1]; got {self.top_p}.")
        _check_choice("rollout.weights", self.weights, ("gathered", "sharded"))
        _check(self.max_new_tokens >= 1, f"rollout.max_new_tokens: expected >= 1; got {self.max_new_tokens}.")


@dataclass(frozen=True, kw_only=True)
class GrpoConfig:
    """Group relative policy optimisation (paper Eq. 10)."""

    group_size: int = 8  # G
    prompts_per_step: int = 64  # P, over all devices
    microbatch_prompts: int = 0  # prompts whose activations exist at one time, in prefill and update; 0: all
    minibatches: int = 1  # optimiser updates per pass over the batch
    epochs: int = 1  # mu: passes over the batch
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_coefficient: float = 0.01  # beta
    kl_estimator: str = "k3"
    ratio: str = "old"  # old | ref (Eq. 10 as printed)
    aggregation: str = "sequence"  # sequence: mean over tokens, then over completions | token: mean over all tokens
    advantage: str = "sample_std"  # sample_std (ddof 1) | population_std (ddof 0) | none

    def __post_init__(self) -> None:
        """Refuses unknown choices and batches that do not divide."""
        _check(
            self.group_size >= 2,
            f"grpo.group_size: expected >= 2, an advantage compares the answers of a group; got {self.group_size}.",
        )
        for name in ("prompts_per_step", "minibatches", "epochs"):
            _check(getattr(self, name) >= 1, f"grpo.{name}: expected >= 1; got {getattr(self, name)}.")
        _check(
            self.prompts_per_step % self.minibatches == 0,
            f"grpo.minibatches: expected a divisor of prompts_per_step={self.prompts_per_step}; got {self.minibatches}.",
        )
        prompts = self.prompts_per_step // self.minibatches
        _check(
            self.microbatch_prompts >= 0 and (self.microbatch_prompts == 0 or prompts % self.microbatch_prompts == 0),
            f"grpo.microbatch_prompts: expected 0 or a divisor of the {prompts} prompts of a minibatch; "
            f"got {self.microbatch_prompts}.",
        )
        _check(
            self.clip_low >= 0 and self.clip_high >= 0,
            f"grpo.clip_low, grpo.clip_high: expected >= 0; got {self.clip_low}, {self.clip_high}.",
        )
        _check(self.kl_coefficient >= 0, f"grpo.kl_coefficient: expected >= 0; got {self.kl_coefficient}.")
        _check(
            self.kl_estimator != "k1",
            "grpo.kl_estimator: k1 has no gradient on average, so it cannot be a loss; use k2, k3 or k3+.",
        )
        _check_choice("grpo.kl_estimator", self.kl_estimator, ("k2", "k3", "k3+"))
        _check_choice("grpo.ratio", self.ratio, ("old", "ref"))
        _check_choice("grpo.aggregation", self.aggregation, ("sequence", "token"))
        _check_choice("grpo.advantage", self.advantage, ("sample_std", "population_std", "none"))


@dataclass(frozen=True, kw_only=True)
class RewardsConfig:
    """Which components enter the reward, and with which weight (paper Eq. 9: all 1)."""

    components: dict[str, float] = field(default_factory=lambda: dict.fromkeys(REWARD_COMPONENTS, 1.0))
    open_answer_parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(OPEN_ANSWER_PARTS, 0.5))

    def __post_init__(self) -> None:
        """Refuses unknown components."""
        for section, choices in (("components", REWARD_COMPONENTS), ("open_answer_parts", OPEN_ANSWER_PARTS)):
            weights = getattr(self, section)
            for name in weights:
                _check_choice(f"rewards.{section}", name, choices)
            _check(
                any(weights.values()), f"rewards.{section}: expected at least one weight other than 0; got {weights}."
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

    def __post_init__(self) -> None:
        """Refuses unknown choices and values out of range."""
        _check_choice("optimizer.name", self.name, ("adamw", "sgd"))
        _check_choice("optimizer.schedule", self.schedule, ("constant", "linear", "cosine"))
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
    log_every: int = 1  # steps between sample dumps; metrics are written at every step

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        _check(self.steps is None or self.steps >= 1, f"training.steps: expected >= 1; got {self.steps}.")
        for name in ("save_every", "keep_checkpoints", "log_every", "max_skipped_steps"):
            _check(getattr(self, name) >= 1, f"training.{name}: expected >= 1; got {getattr(self, name)}.")
        for name in ("evaluate_every", "evaluation_questions", "stall_seconds"):
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
class LoggingConfig:
    """Where metrics go beside metrics.jsonl."""

    tensorboard: bool = True
    wandb_project: str | None = None  # needs the extra `wandb`
    progress: bool = True  # a progress bar on the terminal


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything one run depends on."""

    run: RunConfig = field(default_factory=RunConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)


def load_config(path: str | Path | None = None, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Reads a YAML file and dotted overrides into a validated `Config`.

    Args:
      path: YAML file with any of the sections of `Config`; None: the defaults alone.
      overrides: "section.key=value", e.g. "grpo.group_size=4"; values are YAML.
    Raises:
      ConfigError: missing file, unknown keys (all of them, each with the nearest valid name), wrong types, values out of
        range.
    """
    from omegaconf import OmegaConf  # here, so that importing the package stays light
    from omegaconf.errors import OmegaConfBaseException

    layers = []
    if path is not None:
        _check(Path(path).is_file(), f"configuration file not found: {str(path)!r}. See configs/ for those that ship.")
        layers.append(_read_yaml(Path(path)))
    layers += [_parse_override(text) for text in overrides]
    problems = [p for layer in layers for p in _unknown_keys(layer, Config, "")]
    _check(not problems, "\n".join(problems))
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, _with_preset(layer))
    try:
        plain = OmegaConf.to_container(OmegaConf.create(merged), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {error}") from error
    problems = []
    config = _build(Config, plain, "", problems)
    _check(not problems, "\n".join(problems))
    return config


def config_to_dict(config: Any) -> dict[str, Any]:
    """Returns a configuration as plain dicts, lists and scalars, ready for YAML."""
    return _plain(dataclasses.asdict(config))


def save_config(config: Config, path: Path) -> None:
    """Writes the configuration as resolved, every key spelt out."""
    import yaml

    path.write_text(yaml.safe_dump(config_to_dict(config), sort_keys=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    _check(isinstance(content, dict), f"{path}: expected sections such as `grpo:`; got {type(content).__name__}.")
    return content


def _parse_override(text: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    key, separator, _ = text.partition("=")
    _check(
        bool(separator) and bool(key.strip()), f"override {text!r}: expected section.key=value, e.g. grpo.group_size=4."
    )
    return OmegaConf.to_container(OmegaConf.from_dotlist([text]))


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        merged[key] = _merge(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return merged


def _with_preset(layer: dict[str, Any]) -> dict[str, Any]:
    """Spells a mesh preset out, under the axes the same file names itself."""
    mesh = layer.get("mesh", {})
    return {**layer, "mesh": {**MESH_PRESETS.get(mesh.get("preset"), {}), **mesh}} if "preset" in mesh else layer


def _unknown_keys(values: Any, cls: Any, prefix: str) -> list[str]:
    """Names every key that no dataclass field has, each with its nearest neighbour."""
    if not isinstance(values, dict):
        return []
    names = {f.name: f for f in dataclasses.fields(cls)}
    hints = _type_hints(cls)
    problems = []
    for key, value in values.items():
        if key not in names:
            problems.append(f"unknown key {prefix}{key!s}: expected one of {', '.join(names)}.{_nearest(key, names)}")
        elif dataclasses.is_dataclass(hints[key]):
            if isinstance(value, dict):
                problems += _unknown_keys(value, hints[key], f"{prefix}{key}.")
            else:
                keys = ", ".join(f.name for f in dataclasses.fields(hints[key]))
                problems.append(f"{prefix}{key}: expected a section with keys {keys}; got {value!r}.")
    return problems


def _type_hints(cls: Any) -> dict[str, Any]:
    import typing

    return typing.get_type_hints(cls)


def _build(cls: Any, values: dict[str, Any], prefix: str, problems: list[str]) -> Any:
    """Constructs a section, collecting every problem instead of stopping at the first."""
    hints = _type_hints(cls)
    arguments = {}
    before = len(problems)
    for key, value in values.items():
        if dataclasses.is_dataclass(hints[key]):
            built = _build(hints[key], value, f"{prefix}{key}.", problems)
            if built is not None:
                arguments[key] = built
        else:
            arguments[key] = _convert(value, hints[key], f"{prefix}{key}", problems)
    if len(problems) > before:
        return None
    try:
        return cls(**arguments)
    except ConfigError as error:
        problems.append(str(error))
        return None


def _convert(value: Any, hint: Any, key: str, problems: list[str]) -> Any:
    """Returns `value` as the annotated type; a value of another type is a problem, never a guess."""
    import types
    import typing

    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(hint) if a is not type(None)][0]
        return None if value is None else _convert(value, inner, key, problems)
    if origin is tuple:
        element = typing.get_args(hint)[0]
        if not isinstance(value, list | tuple):
            problems.append(f"{key}: expected a list; got {value!r}.")
            return ()
        if dataclasses.is_dataclass(element):
            problems += [p for i, v in enumerate(value) for p in _unknown_keys(v, element, f"{key}[{i}].")]
            if problems or not all(isinstance(v, dict) for v in value):
                problems += [
                    f"{key}[{i}]: expected a mapping; got {v!r}."
                    for i, v in enumerate(value)
                    if not isinstance(v, dict)
                ]
                return ()
            return tuple(_build(element, v, f"{key}[{i}].", problems) for i, v in enumerate(value))
        return tuple(_convert(v, element, f"{key}[{i}]", problems) for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            problems.append(f"{key}: expected a mapping of names to numbers; got {value!r}.")
            return {}
        return {str(k): _convert(v, float, f"{key}.{k}", problems) for k, v in value.items()}
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and is_number:
        return float(value)
    if hint is int and is_number and float(value).is_integer():
        return int(value)
    if hint is str and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    if hint is bool and isinstance(value, bool):
        return value
    names = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
    problems.append(f"{key}: expected {names[hint]}; got {value!r}.")
    return None
