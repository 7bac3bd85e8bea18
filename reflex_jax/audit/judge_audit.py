"""`reflex audit judge`: before training, is the frozen judge fit to judge these questions, by the reward's own functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reflex_jax.audit.judge_scores import JudgeOfAudit, Scores, score_variants
from reflex_jax.audit.plausibility import Plausibility, find_named, measure_plausibility, saliency_of
from reflex_jax.audit.sanity import Sanity, check_sanity
from reflex_jax.audit.statistics import UNMEASURED, resample
from reflex_jax.audit.variants import Variants, draw_variants
from reflex_jax.audit.verdict import COMPONENTS, FEWEST_PICTURES, Verdict, judge_component, overall
from reflex_jax.config import Config, ConfigError
from reflex_jax.data.examples import Example
from reflex_jax.data.pipeline import asked_questions
from reflex_jax.data.sources import load_training
from reflex_jax.judge.evidence import Judge
from reflex_jax.step.score import needs_judge


@dataclass(frozen=True)
class JudgeAudit:
    """Everything that was found."""

    config: Config
    variants: Sequence[Variants]
    scores: Scores
    verdicts: list[Verdict]
    plausibility: Plausibility | None  # None: the pictures have neither masks nor boxes
    sanity: Sanity | None  # None: not asked for
    label: str  # fit | partly fit | not fit
    sentence: str

    @property
    def pictures(self) -> int:
        """How many the sampled questions have."""
        return len({v.example.image_id for v in self.variants})

    @property
    def origins(self) -> dict[str, int]:
        """Where the paraphrases come from -> how many."""
        return dict(Counter(v.origin for v in self.variants).most_common())


def load_questions(config: Config) -> list[Example]:
    """The training questions that the judge can be asked about.

    Raises:
      ConfigError: no component of the reward asks the judge, files are missing, or no question has a picture.
    """
    if not needs_judge(config):
        raise ConfigError(
            "rewards.components: expected one that asks the judge, visual_fidelity or provenance; got "
            f"{', '.join(config.rewards.components)}. Name one to audit it: rewards.components.visual_fidelity=1."
        )
    examples = load_training(config.data, seed=config.run.seed, with_validation=bool(config.training.evaluate_every))
    seen = [example for example in examples if example.images]
    if not seen:
        raise ConfigError("data.sources: none of the questions has a picture for the judge to look at.")
    return seen


def load_asked(config: Config) -> list[Example]:
    """The training questions that some phase of a run asks.

    Raises:
      ConfigError: files are missing, or no phase asks any.
    """
    examples = load_training(config.data, seed=config.run.seed, with_validation=bool(config.training.evaluate_every))
    asked = asked_questions(examples, config.data)
    if not asked:
        raise ConfigError(f"data.phases: no phase asks any of the {len(examples)} training questions.")
    return asked


def audit_judge(
    config: Config,
    judge: Judge,
    examples: Sequence[Example],
    *,
    count: int,
    sanity: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> JudgeAudit:
    """Shows the judge a sample of the questions in all variants and judges its components.

    Args:
      config: of the run; sections `judge`, `rewards` and `run.seed` count.
      judge: of the run, or another of its shape.
      examples: of `load_questions`.
      count: questions of the sample.
      sanity: how many of them the checks of saliency look at; 0: none are made.
      say: told what is done next.
    """
    seed, asked = config.run.seed, JudgeOfAudit(judge, config.judge)
    variants = draw_variants(examples, count=count, seed=seed)
    pictures = [v.example.image_id for v in variants]
    say(f"{len(variants)} of {len(examples)} questions about {len(set(pictures))} pictures")
    scores = score_variants(asked, variants)
    named = find_named([v.example for v in variants], config, asked)
    say(f"{len(named)} masks and boxes of named things")
    plausibility = measure_plausibility(named, saliency_of(named, asked), seed=seed) if named else None
    excess = UNMEASURED
    if plausibility is not None and plausibility.pictures >= FEWEST_PICTURES:
        excess = plausibility.excess
    weights = resample(pictures, seed=seed)
    verdicts = [
        judge_component(
            component, scores, weights, config,
            kinds=[_kind(v.example) for v in variants],
            plausibility=excess,
            pictures=len(set(pictures)),
        )
        for component in COMPONENTS
    ]  # fmt: skip
    label, sentence = overall(verdicts)
    checked = variants[:: max(1, len(variants) // sanity)][:sanity] if sanity else []
    if checked:
        say(f"saliency of {len(checked)} questions under shuffled weights and greyed cells")
    checks = check_sanity(asked, checked, seed=seed) if checked else None
    return JudgeAudit(config, variants, scores, verdicts, plausibility, checks, label, sentence)


def _kind(example: Example) -> str:
    if example.is_yes_no:
        return "yes/no"
    return "choice" if example.answer_type == "closed" else "open"
