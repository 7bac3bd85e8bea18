"""Is a component of the judge's reward informative, saturated or dead on these questions; and is the judge fit.

A component is **informative** where all of this holds:

1. it tells the true answer in other words from a wrong one of the same type: the lower bound of that AUC is above 0.5;
2. its pass rate, the mean of those of the paraphrases and of the wrong answers, is from 5 to 95 %;
3. VFR alone: the median IoU of wrong statements with the anchor is below 0.8, and where the questions have masks or boxes, the
   judge points into them more often than their area, the lower bound of the difference being above 0.

Of the others one is **saturated** that pays whatever is said: its pass rate is above 95 %, or, VFR, that median is 0.8 or more.
The rest is **dead**: it pays nobody, or what it pays does not follow the truth. Below `FEWEST_PICTURES` it is **unmeasured**.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from reflex_jax.audit.judge_scores import Scores
from reflex_jax.audit.statistics import UNMEASURED, Estimate, auc_estimate, mean_estimate
from reflex_jax.audit.variants import GROUPS, MINIMAL_PAIRS
from reflex_jax.config import Config
from reflex_jax.rewards.components import REWARDS

COMPONENTS = {
    "VFR": ("visual_fidelity", "iou_threshold"),
    "s_tt": ("provenance", "text_threshold"),
    "s_it": ("provenance", "image_threshold"),
}  # component -> the reward that pays it, and the option that is its threshold
FEWEST_PICTURES = 10  # of which an interval says something
_LEAST, _MOST = 0.05, 0.95  # pass rate
_FEWEST_PAIRS = 10  # of statements that differ in one thing, for a sentence about it
_ALIKE = 0.8  # median IoU of wrong statements
_SUGGESTED_SHARE = 0.05  # of wrong answers that pass a suggested threshold
_WORDS = {
    "side": "left from right",
    "level": "upper from lower",
    "count": "one number from another",
    "negation": "a statement from its denial",
}


@dataclass(frozen=True)
class Blindness:
    """Whether a component sees the one thing in which a minimal pair differs."""

    difference: str  # of `MINIMAL_PAIRS`
    auc: Estimate  # true against altered statements
    pass_rate: Estimate  # of the altered statements
    count: int
    is_blind: bool
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """Of one component."""

    component: str  # of `COMPONENTS`
    label: str  # informative | saturated | dead | unmeasured
    reasons: tuple[str, ...]  # why it is not informative
    is_paid: bool  # the reward of the configuration has it
    threshold: float
    auc: Estimate  # paraphrase against a wrong answer of the same type
    pass_rate: float  # mean of both groups
    pass_rates: dict[str, Estimate]  # of every group
    auc_by_type: dict[str, Estimate] = field(default_factory=dict)  # of yes/no, choice and open questions apart
    auc_other_picture: Estimate = UNMEASURED  # the true statement in front of its own and of another picture
    suggested: dict[str, float] = field(default_factory=dict)  # threshold, and what passes it
    blindness: tuple[Blindness, ...] = ()


def judge_component(
    component: str,
    scores: Scores,
    weights: Int[np.ndarray, "B n"],
    config: Config,
    *,
    kinds: list[str],
    plausibility: Estimate = UNMEASURED,
    pictures: int = FEWEST_PICTURES,
) -> Verdict:
    """The verdict about a component.

    Args:
      component: of `COMPONENTS`.
      scores: of N questions.
      weights: of `statistics.resample`.
      config: of the run, for thresholds and for what is paid.
      kinds: of the questions, e.g. "yes/no".
      plausibility: how much more often the judge points into what a statement names than its area; of VFR.
      pictures: how many the questions have.
    """
    reward, option = COMPONENTS[component]
    set_up = config.rewards.components.get(reward)
    threshold = float((set_up.options if set_up else {}).get(option, REWARDS[reward].options[option].default))
    values = scores.of(component)
    passes = {group: np.where(np.isnan(v), np.nan, v > threshold) for group, v in values.items()}
    rates = {group: mean_estimate(passes[group], weights) for group in GROUPS}
    auc = auc_estimate(values["paraphrase"], values["wrong"], weights)
    pass_rate = (rates["paraphrase"].value + rates["wrong"].value) / 2
    wrong_iou = float(np.nanmedian(values["wrong"])) if rates["wrong"].is_measured else np.nan
    label, reasons = _label(component, auc, pass_rate, wrong_iou, plausibility)
    if pictures < FEWEST_PICTURES or not auc.is_measured:
        label, reasons = (
            "unmeasured",
            [f"{pictures} pictures, of at least {FEWEST_PICTURES} with right and wrong answers"],
        )
    named = np.array(kinds)
    of_kind = {kind: np.where(named == kind, values["paraphrase"], np.nan) for kind in dict.fromkeys(kinds)}
    against = {kind: np.where(named == kind, values["wrong"], np.nan) for kind in of_kind}
    return Verdict(
        component=component,
        label=label,
        reasons=tuple(reasons),
        is_paid=set_up is not None and set_up.weight != 0,
        threshold=threshold,
        auc=auc,
        pass_rate=pass_rate,
        pass_rates=rates,
        auc_by_type={kind: auc_estimate(of_kind[kind], against[kind], weights) for kind in of_kind},
        auc_other_picture=(
            auc_estimate(values["truth"], values["other_picture"], weights) if component == "s_it" else UNMEASURED
        ),
        suggested=_suggest(values["paraphrase"], values["wrong"]),
        blindness=tuple(blindness(component, difference, values, passes, weights) for difference in MINIMAL_PAIRS),
    )


def _label(
    component: str, auc: Estimate, pass_rate: float, wrong_iou: float, plausibility: Estimate
) -> tuple[str, list[str]]:
    reasons = []
    if not auc.low > 0.5:
        reasons.append(f"AUC of paraphrases against wrong answers {auc}: its lower bound is not above 0.5")
    if not _LEAST <= pass_rate <= _MOST:
        reasons.append(f"pass rate {pass_rate:.0%}, not from {_LEAST:.0%} to {_MOST:.0%}")
    is_alike = component == "VFR" and wrong_iou >= _ALIKE
    if is_alike:
        reasons.append(f"median IoU of wrong statements with the anchor {wrong_iou:.2f}, not below {_ALIKE}")
    if component == "VFR" and plausibility.is_measured and not plausibility.low > 0:
        reasons.append(f"points into what a statement names {plausibility} more often than its area: not above 0")
    if not reasons:
        return "informative", []
    return "saturated" if is_alike or pass_rate > _MOST else "dead", reasons


def _suggest(paraphrases: Float[np.ndarray, "n"], wrong: Float[np.ndarray, "n"]) -> dict[str, float]:
    """A threshold that 5 % of the wrong answers pass; a suggestion, since the questions it is read off are the run's own."""
    paraphrases, wrong = paraphrases[~np.isnan(paraphrases)], wrong[~np.isnan(wrong)]
    if not len(wrong) or not len(paraphrases):
        return {}
    threshold = float(np.quantile(wrong, 1 - _SUGGESTED_SHARE, method="higher"))
    return {
        "threshold": threshold,
        "wrong": float((wrong > threshold).mean()),
        "paraphrase": float((paraphrases > threshold).mean()),
    }


def blindness(
    component: str,
    difference: str,
    values: dict[str, Float[np.ndarray, "n"]],
    passes: dict[str, Float[np.ndarray, "n"]],
    weights: Int[np.ndarray, "B n"],
) -> Blindness:
    """Whether a component sees a difference: the AUC's lower bound is above 0.5, and less than half of the altered pass.

    s_it compares the two statements that differ in nothing else. VFR and s_tt are relative to one of them, the anchor, so there
    the paraphrase stands for it.
    """
    altered = values[difference]
    beside = np.where(np.isnan(altered), np.nan, values["truth" if component == "s_it" else "paraphrase"])
    auc, rate = auc_estimate(beside, altered, weights), mean_estimate(passes[difference], weights)
    count, words = int((~np.isnan(altered)).sum()), _WORDS[difference]
    if count < _FEWEST_PAIRS:
        return Blindness(
            difference,
            auc,
            rate,
            count,
            False,
            f"{component}, {words}: not measured, {count} sampled statements say such a thing.",
        )
    sees_score, is_paid = auc.low > 0.5, rate.value >= 0.5
    if sees_score and not is_paid:
        verdict = "tells"
    elif sees_score:
        verdict = "has it in its score but not in its threshold: it does not pay for telling"
    else:
        verdict = "does not tell"
    sentence = f"{component} {verdict} {words}: {rate.value:.0%} of {count} such statements pass, AUC {auc}."
    return Blindness(difference, auc, rate, count, not (sees_score and not is_paid), sentence)


def overall(verdicts: list[Verdict]) -> tuple[str, str]:
    """("fit", "partly fit" or "not fit", and one sentence), of the components that the reward pays."""
    paid = [verdict for verdict in verdicts if verdict.is_paid]
    good = [verdict.component for verdict in paid if verdict.label == "informative"]
    bad = [f"{verdict.component} ({verdict.label})" for verdict in paid if verdict.label != "informative"]
    if all(verdict.label == "unmeasured" for verdict in paid):
        return (
            "not fit",
            f"not fit: {', '.join(verdict.component for verdict in paid)} could not be measured: {paid[0].reasons[0]}.",
        )
    if not bad:
        return "fit", f"fit: {', '.join(good)} pay signal on these questions."
    if not good:
        return "not fit", f"not fit: {', '.join(bad)} pay no signal on these questions."
    return "partly fit", f"partly fit: {', '.join(good)} pay signal, {', '.join(bad)} do not."
