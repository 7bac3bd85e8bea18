"""What `reflex audit rewards` found, for people (rewards.md) and for programs (rewards.json)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from reflex_jax import __version__
from reflex_jax.audit.rewards_audit import HONEST, RewardsAudit
from reflex_jax.config import config_to_dict
from reflex_jax.dataset_card.markdown import section, table

_COLUMNS = ("attack", "what it tries", "verdict", "total", "beats its own right answer")


def as_values(audit: RewardsAudit) -> dict[str, Any]:
    """All of it as plain values."""
    return {
        "kind": "rewards",
        "version": {"reflex_jax": __version__},
        "verdict": "fails" if audit.winners else "holds",
        "sentence": audit.sentence,
        "questions": audit.questions,
        "seed": audit.config.run.seed,
        "rewards": config_to_dict(audit.config.rewards),
        "median": {"right": audit.right, "wrong": audit.wrong, "both": audit.both},
        "honest": audit.honest,
        "attacks": [dataclasses.asdict(finding) for finding in audit.findings],
        "notes": audit.notes,
    }


def as_markdown(audit: RewardsAudit) -> str:
    """All of it as a page."""
    weights = audit.config.rewards.weights
    names = [name for name in weights if name in audit.honest["honest_right"]]
    paid = ", ".join(f"{weights[name]:g} x {name}" for name in names)
    honest = [
        [name, why, _number(audit.honest[name]["total"]), *(_number(audit.honest[name][part]) for part in names)]
        for name, why in HONEST.items()
    ]
    attacks = [
        [
            f.attack, f.why, f.verdict, _number(f.total), _share(f.beats_own), *(_number(f.components[name]) for name in names),
            f.tokens, _share(f.failed),
        ]
        for f in audit.findings
    ]  # fmt: skip
    parts = [
        "# Rewards audit",
        f"**{audit.sentence}**",
        f"Paid: {paid}. {audit.questions} questions, seed {audit.config.run.seed}. Median total of right answers "
        f"{audit.right:.3f}, of wrong ones in format {audit.wrong:.3f}, of both {audit.both:.3f}.",
        section("Honest completions, means", table(("completion", "what it is", "total", *names), honest)),
        section("Attacks, means", table((*_COLUMNS, *names, "tokens", "failed"), attacks)),
    ]  # fmt: skip
    if any(f.verdict == "too long" for f in audit.findings):
        parts.append(
            f"Too long: what earns so much cannot be sampled within rollout.max_new_tokens={audit.config.rollout.max_new_tokens}."
        )
    parts += [f"- {note}" for note in audit.notes]
    return "\n\n".join(parts) + "\n"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0%}"
