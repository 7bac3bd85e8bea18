"""What `reflex audit judge` found, for people (judge.md) and for programs (judge.json)."""

from __future__ import annotations

import dataclasses
from typing import Any

from reflex_jax import __version__
from reflex_jax.audit.judge_audit import JudgeAudit
from reflex_jax.audit.plausibility import Plausibility
from reflex_jax.audit.sanity import Sanity
from reflex_jax.audit.statistics import describe
from reflex_jax.audit.variants import GROUPS
from reflex_jax.audit.verdict import COMPONENTS, Verdict
from reflex_jax.config import config_to_dict
from reflex_jax.dataset_card.markdown import section, table
from reflex_jax.statements.operator import DECL_VERSION

_SHOWN_PAIRS = 5
_LIMITS = (
    "The anchor is the data set's answer, so no rationale was labelled and none was checked. A map says where the judge looks "
    "for a statement, not where the policy looks. That the judge is fit to pay is no evidence of clinical validity."
)


def as_values(audit: JudgeAudit) -> dict[str, Any]:
    """All of it as plain values."""
    return {
        "kind": "judge",
        "version": {"reflex_jax": __version__, "decl": DECL_VERSION},
        "verdict": audit.label,
        "sentence": audit.sentence,
        "sample": {
            "questions": len(audit.variants),
            "pictures": audit.pictures,
            "ids": [v.example.id for v in audit.variants],
            "seed": audit.config.run.seed,
            "paraphrases": audit.origins,
        },
        "settings": config_to_dict(audit.config.judge),
        "groups": GROUPS,
        "distributions": {
            component: {group: describe(values) for group, values in audit.scores.of(component).items()}
            for component in COMPONENTS
        },
        "scores": {  # of each question of the sample, in their order
            component: {group: values.round(5).tolist() for group, values in audit.scores.of(component).items()}
            for component in COMPONENTS
        },
        "components": {verdict.component: dataclasses.asdict(verdict) for verdict in audit.verdicts},
        "plausibility": None if audit.plausibility is None else dataclasses.asdict(audit.plausibility),
        "sanity": None
        if audit.sanity is None
        else {**dataclasses.asdict(audit.sanity), "warnings": audit.sanity.warnings},
        "limits": _LIMITS,
    }


def as_markdown(audit: JudgeAudit) -> str:
    """All of it as a page."""
    origins = ", ".join(f"{name} {count}" for name, count in audit.origins.items())
    parts = [
        "# Judge audit",
        f"**{audit.sentence}**",
        f"{len(audit.variants)} questions about {audit.pictures} pictures, seed {audit.config.run.seed}; true answers in other "
        f"words: {origins}. In brackets 95 % of 1000 resamples of the pictures.",
        section("Verdict", _verdicts(audit.verdicts)),
        section("Share that passes the threshold", _pass_rates(audit.verdicts)),
        section("Scores: median (5 % to 95 %)", _distributions(audit)),
        section("What a component cannot see", _blindness(audit.verdicts)),
        section("Where it looks", _plausibility(audit.plausibility)),
        section("Is a map about weights, text and picture", _sanity(audit.sanity)),
        section("Statements to read", _pairs(audit)),
        section("Limits", _LIMITS),
    ]
    return "\n\n".join(parts) + "\n"


def _verdicts(verdicts: list[Verdict]) -> str:
    kinds = list(verdicts[0].auc_by_type)
    columns = (
        "component",
        "paid",
        "verdict",
        "AUC, reworded truth against wrong",
        *kinds,
        "pass rate",
        "threshold",
        "suggested",
    )
    rows = [
        [
            v.component,
            "yes" if v.is_paid else "no",
            v.label,
            v.auc,
            *(v.auc_by_type[kind] for kind in kinds),
            f"{v.pass_rate:.0%}",
            v.threshold,
            f"{v.suggested['threshold']:.2f}" if v.suggested else "-",
        ]
        for v in verdicts
    ]
    reasons = [f"- {v.component} is {v.label}: {reason}." for v in verdicts for reason in v.reasons]
    suggestions = [
        f"- {v.component} > {v.suggested['threshold']:.3f} would pass {v.suggested['wrong']:.0%} of the wrong answers and "
        f"{v.suggested['paraphrase']:.0%} of the true ones in other words."
        for v in verdicts
        if v.suggested
    ]
    pictures = [
        f"- s_it, true statement before its own picture against another one: AUC {v.auc_other_picture}."
        for v in verdicts
        if v.auc_other_picture.is_measured
    ]
    return "\n\n".join([table(columns, rows), "\n".join([*reasons, *pictures, *suggestions])])


def _pass_rates(verdicts: list[Verdict]) -> str:
    rows = [
        [group, meaning, *(v.pass_rates[group] for v in verdicts)]
        for group, meaning in GROUPS.items()
        if any(v.pass_rates[group].is_measured for v in verdicts)
    ]
    columns = ("group", "what is judged", *(f"{v.component} > {v.threshold:g}" for v in verdicts))
    return table(columns, rows)


def _distributions(audit: JudgeAudit) -> str:
    rows = []
    for group in GROUPS:
        found = [describe(audit.scores.of(component)[group]) for component in COMPONENTS]
        count = max(numbers["count"] for numbers in found)
        if count:
            rows.append([group, count, *map(_spread, found)])
    return table(("group", "questions", *COMPONENTS), rows)


def _spread(numbers: dict[str, float | int]) -> str:
    if not numbers["count"]:
        return "-"
    return f"{numbers['median']:.2f} ({numbers['p05']:.2f} to {numbers['p95']:.2f})"


def _blindness(verdicts: list[Verdict]) -> str:
    return "\n".join(f"- {pair.sentence}" for verdict in verdicts for pair in verdict.blindness)


def _plausibility(found: Plausibility | None) -> str:
    if found is None:
        return (
            "Not measured: these pictures have neither masks nor boxes, so nobody knows whether the judge looks at what a "
            "statement names."
        )
    rows = [
        ["pointing game", found.pointing, found.area],
        ["energy inside", found.energy, found.area],
        ["AUC of the map", found.auc, "0.50"],
    ]
    return f"{found.count} named things in {found.pictures} pictures.\n\n" + table(("measure", "judge", "chance"), rows)


def _sanity(found: Sanity | None) -> str:
    if found is None:
        return "Not checked (--sanity 0)."
    rows = [[stage.what, stage.correlation, stage.iou] for stage in (*found.cascade, found.text)]
    lines = [
        f"{found.questions} questions; IoU of independent masks {found.chance_iou:.2f}. Maps should not survive.",
        table(("shuffled", "rank correlation with the map", "IoU with the mask"), rows),
        f"- Greying salient cells first takes {found.deletion} more of s_it than random ones (mean over the curve).\n"
        f"- Putting them back first gives {found.insertion} more.",
    ]
    warnings = "\n".join(f"- Warning: {warning}." for warning in found.warnings)
    return "\n\n".join([*lines, *([warnings] if warnings else [])])


def _pairs(audit: JudgeAudit) -> str:
    step = max(1, len(audit.variants) // _SHOWN_PAIRS)
    rows = [
        [v.anchor, v.texts["paraphrase"] or "-", v.texts["wrong"] or "-", v.origin]
        for v in list(audit.variants)[::step][:_SHOWN_PAIRS]
    ]
    return table(("statement", "in other words", "wrong", "by"), rows)
