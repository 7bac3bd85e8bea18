"""Sections of what is asked and looked at: `judge`, `data` with its phases and sources, `completion`."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

from reflex_jax.config.checks import ConfigError, check, check_choice, nearest_name

SALIENCY_METHODS = ("attention_gradient", "gradient_activation", "gradcam")
TIE_RULES = ("strict", "rank", "paper")
RESIZE_MODES = ("checkpoint", "crop", "squash", "pad")
# Each is read by the file of its name in data/readers/.
DATA_SETS = (
    "vqa_rad", "slake", "path_vqa", "pmc_vqa", "quilt_vqa", "medxpertqa", "mmmu", "omnimedvqa", "med_r1", "medvlm_r1",
    "medical_multimodal_eval", "medix", "silvar_med", "vqa_med_2019", "jsonl", "parquet", "tfds",
)  # fmt: skip


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
        check_choice("judge.dtype", self.dtype, ("float32", "bfloat16"))
        check_choice("judge.resize", self.resize, RESIZE_MODES)
        check_choice("judge.saliency", self.saliency, SALIENCY_METHODS)
        check_choice("judge.tie_rule", self.tie_rule, TIE_RULES)
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
        check(0 < self.quantile < 1, f"judge.quantile: expected a number in (0, 1); got {self.quantile}.")
        check(
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
        check_choice("data.phases.answer_type", self.answer_type, ("closed", "open", "any"))
        check(self.epochs > 0, f"data.phases.epochs: expected > 0; got {self.epochs}.")
        check(
            self.fraction is None or 0 < self.fraction <= 1,
            f"data.phases.fraction: expected a number in (0, 1]; got {self.fraction}.",
        )
        check(0 <= self.replay < 1, f"data.phases.replay: expected a number in [0, 1); got {self.replay}.")


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
        check_choice("data.sources.name", self.name, ("phantom", *DATA_SETS))
        object.__setattr__(self, "label", self.label or self.name)
        check(
            self.weight is None or self.weight > 0,
            f"data.sources.weight: expected > 0; got {self.weight} for {self.label}.",
        )
        check(
            self.limit is None or self.limit >= 1,
            f"data.sources.limit: expected >= 1; got {self.limit} for {self.label}.",
        )
        check(len(self.languages) > 0, f"data.sources.languages: expected at least one; got none for {self.label}.")


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
        check_choice("data.source", self.source, ("phantom", *DATA_SETS))
        check(not self.sources or self.source == "phantom", "data.source: expected it or data.sources; got both.")
        self._check_mixture()
        check_choice("data.refused", self.refused, ("stop", "leave_out"))
        check(
            0 < self.validation_fraction < 1,
            f"data.validation_fraction: expected a number in (0, 1); got {self.validation_fraction}.",
        )
        check(len(self.phases) > 0, "data.phases: expected at least one phase.")
        check(1 <= self.size <= 10**7, f"data.size: expected 1 to {10**7} phantoms; got {self.size}.")
        check(
            0 < self.min_pixels <= self.max_pixels,
            f"data.min_pixels, data.max_pixels: expected 0 < min <= max; got {self.min_pixels}, {self.max_pixels}.",
        )
        check(self.max_prompt_tokens >= 1, f"data.max_prompt_tokens: expected >= 1; got {self.max_prompt_tokens}.")

    def _check_mixture(self) -> None:
        labels = [source.label for source in self.mixture]
        doubled = sorted({label for label in labels if labels.count(label) > 1})
        check(not doubled, f"data.sources: expected different labels; got {', '.join(doubled)} twice. Set label: NAME.")
        weighted = [source.weight is not None for source in self.mixture]
        check(
            all(weighted) or not any(weighted),
            "data.sources: expected a weight for every source or for none; got some of "
            f"{', '.join(labels)} without. 1.0 for all mixes them evenly.",
        )
        for phase in self.phases:
            unknown = [label for label in phase.sources if label not in labels]
            check(not unknown, f"data.phases.sources: expected some of {', '.join(labels)}; got {', '.join(unknown)}.")

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
            check_choice("completion.thought", self.thought, ("think", "thinking", "none"))
