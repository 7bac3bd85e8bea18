"""HOST: whether one evaluation is better than another: paired, question by question, with pictures as what is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

from reflex_jax.evaluation.evaluations import Evaluation, refuse_other_questions
from reflex_jax.evaluation.intervals import intervals, mcnemar_exact, paired_p_value
from reflex_jax.evaluation.metrics import KINDS
from reflex_jax.evaluation.tables import score_text, table_of


def compare(first: Evaluation, second: Evaluation, *, seed: int = 0) -> list[dict[str, Any]]:
    """Each metric that both have, on the questions that both were asked.

    Args:
      first: what is compared with.
      second: what is compared.
      seed: of the resampled pictures.
    Returns:
      Of each: kind, metric, first, second, difference (second less first) with low and high of its 95 % interval, p of the paired
      bootstrap, questions, pictures, and for metrics of 0 and 1 only_first, only_second and mcnemar_p, else None.
    Raises:
      ConfigError: they are not of the same questions.
    """
    refuse_other_questions([first, second], same_ids=False)
    rows = first.collected.rows
    found = []
    for name, values in first.collected.values.items():
        others = second.collected.values.get(name, {})
        ids = [i for i in rows if i in values and i in others]
        if name.partition("/")[0] not in KINDS or not ids:
            continue
        pairs = np.array([[values[i], others[i]] for i in ids])
        pictures = [str(rows[i].get("pictures", i)) for i in ids]
        differences = pairs[:, 1] - pairs[:, 0]
        (interval,) = intervals(differences[:, None], pictures, seed=seed)
        kind, _, metric = name.partition("/")
        row = {
            "kind": kind, "metric": metric, "first": float(pairs[:, 0].mean()), "second": float(pairs[:, 1].mean()),
            "difference": float(differences.mean()), "low": interval and interval[0], "high": interval and interval[1],
            "p": paired_p_value(differences, pictures, seed=seed) if interval else None, "questions": len(ids),
            "pictures": len(set(pictures)), "only_first": None, "only_second": None, "mcnemar_p": None,
        }  # fmt: skip
        if np.isin(pairs, (0, 1)).all():
            alone = [int((differences == sign).sum()) for sign in (-1, 1)]
            row |= {"only_first": alone[0], "only_second": alone[1], "mcnemar_p": mcnemar_exact(*alone)}
        found.append(row)
    return found


def render_comparison(first: Evaluation, second: Evaluation, rows: list[dict[str, Any]]) -> str:
    """The comparison as markdown."""

    def shown(row: dict[str, Any]) -> dict[str, str]:
        texts = {
            "kind": row["kind"], "metric": row["metric"],
            first.label: f"{row['first']:.3f}", second.label: f"{row['second']:.3f}",
            "difference": score_text(row["difference"], row["low"], row["high"]), "p": _number(row["p"]),
            "right alone": "" if row["only_first"] is None else f"{row['only_first']} / {row['only_second']}",
            "McNemar p": _number(row["mcnemar_p"]), "questions": str(row["questions"]), "pictures": str(row["pictures"]),
        }  # fmt: skip
        return texts

    asked = [len(evaluation.collected.rows) for evaluation in (first, second)]
    common = len(first.collected.rows.keys() & second.collected.rows.keys())
    return "\n".join(
        [
            f"# {second.label} beside {first.label}",
            "",
            f"{common} questions that both were asked (of {asked[0]} and {asked[1]}). Differences with 95 % intervals and p are "
            "of resampled pictures; McNemar's exact p takes questions for independent.",
            "",
            *table_of([shown(row) for row in rows]),
            "",
        ]
    )


def _number(p: float | None) -> str:
    return "" if p is None else f"{p:.4f}"
