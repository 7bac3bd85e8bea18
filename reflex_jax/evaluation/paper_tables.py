"""HOST: the tables and the figure of the papers, of evaluations on disk: several policies, one question each table asks.

sets (Table 1): how good is each policy on each set, and on average? Columns are sets, the last is their unweighted mean.
ablations (Table 2): what does each change cost? Rows name the settings in which they differ from the first, and their
difference to it, paired. modalities (Fig. 4): what does training on one modality give on others? Columns are modalities.
Each kind of question has a block of its own, and floors stand below the policies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from reflex_jax.config import ConfigError
from reflex_jax.evaluation.compare import compare
from reflex_jax.evaluation.evaluations import Evaluation, refuse_other_questions
from reflex_jax.evaluation.intervals import bootstrap_means, intervals
from reflex_jax.evaluation.metrics import KINDS
from reflex_jax.evaluation.tables import score_text, table_of

_MAIN = {"yes_no": "accuracy", "choice": "accuracy", "open": "exact_match"}
AVERAGE = "Avg"
# of the settings that a row of ablations names: those that say what is trained, not where it lies
_UNTOLD = (
    "run.", "logging.", "mesh.", "memory.", "endpoint.", "training.evaluat", "training.stall", "training.log",
    "data.evaluation_split", "data.cache", "data.root",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Block:
    """The part of a table that is about one kind of question."""

    kind: str
    metric: str
    columns: list[str]
    rows: list[
        dict[str, Any]
    ]  # label, of a policy or a floor, is_floor, cells: column -> {value, low, high, questions}


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """One kind of table."""

    title: str
    group: str  # column of answers.jsonl that the columns are of; "": one column for all questions
    average: bool  # whether a column of their unweighted mean stands behind them


TABLES = {
    "sets": PaperTable("By set", "task", average=True),
    "ablations": PaperTable("Ablations", "", average=False),
    "modalities": PaperTable("By modality", "modality", average=False),
}
ALIASES = {"1": "sets", "2": "ablations", "4": "modalities"}


def make_blocks(
    table: PaperTable, evaluations: Sequence[Evaluation], *, metric: str | None = None, seed: int = 0
) -> list[Block]:
    """The blocks of a table, one for each kind of question that the evaluations have.

    Args:
      table: of `TABLES`.
      evaluations: a row each.
      metric: of all kinds that have it; None: exact matches.
      seed: of the resampled pictures.
    Raises:
      ConfigError: they are not of the same questions, or none has the metric.
    """
    refuse_other_questions(evaluations, same_ids=True)
    blocks = []
    for kind in KINDS:
        name = f"{kind}/{metric or _MAIN[kind]}"
        if not all(name in evaluation.collected.values for evaluation in evaluations):
            continue
        columns = _columns(table, evaluations[0], name)
        rows = [
            {"label": e.label, "is_floor": False, "cells": _cells(table, e, name, columns, seed=seed)}
            for e in evaluations
        ]
        blocks.append(
            Block(
                kind,
                name.partition("/")[2],
                [*columns] + [AVERAGE] * table.average,
                rows + _floors(table, evaluations[0], name, columns),
            )
        )
    if not blocks:
        known = sorted({name.partition("/")[2] for e in evaluations for name in e.collected.values})
        raise ConfigError(f"--metric: expected one that all evaluations have, of {', '.join(known)}; got {metric!r}.")
    return blocks


def differences_of(evaluations: Sequence[Evaluation]) -> dict[str, str]:
    """Label -> the settings in which an evaluation was trained or asked differently from the first."""
    first = evaluations[0].settings
    told = {}
    for evaluation in evaluations:
        own = evaluation.settings
        parts = [
            f"{key}={'none' if own.get(key) is None else own[key]}"
            for key in sorted(first.keys() | own.keys())
            if first.get(key) != own.get(key) and not key.startswith(_UNTOLD)
        ]
        told[evaluation.label] = ", ".join(parts)
    return told


def render_blocks(table: PaperTable, blocks: Sequence[Block], evaluations: Sequence[Evaluation], *, seed: int) -> str:
    """The table as markdown; ablations say what was changed and what it costs."""
    is_ablation = not table.group
    lines = [f"# {table.title}", "", "In brackets 95 % intervals of resampled pictures."]
    if table.average:
        lines[-1] += f" {AVERAGE} is the unweighted mean of the columns; a floor is what needs no look at the picture."
    changes = differences_of(evaluations) if is_ablation else {}
    for block in blocks:
        costs = _costs(evaluations, block, seed=seed) if is_ablation else {}
        shown = []
        for row in block.rows:
            texts = {"policy": f"floor: {row['label']}" if row["is_floor"] else row["label"]}
            if is_ablation:
                texts["changed"] = changes.get(row["label"], "")
            texts |= {c: _text(row["cells"].get(c)) for c in block.columns}
            if is_ablation:
                texts |= costs.get(row["label"], {"difference": "", "p": ""})
            shown.append(texts)
        counts = ", ".join(
            f"{column} {cell['questions']}" for column, cell in block.rows[0]["cells"].items() if column != AVERAGE
        )
        lines += ["", f"## {block.kind}: {block.metric}", "", *table_of(shown), "", f"Questions: {counts}."]
    return "\n".join(lines) + "\n"


def _columns(table: PaperTable, evaluation: Evaluation, name: str) -> dict[str, list[str]]:
    """Column -> ids of its questions that have the number."""
    columns: dict[str, list[str]] = {}
    for i in evaluation.collected.values[name]:
        row = evaluation.collected.rows[i]
        column = row.get(table.group) if table.group else "all questions"
        columns.setdefault(str(column or "unknown"), []).append(i)
    return dict(sorted(columns.items()))


def _cells(
    table: PaperTable, evaluation: Evaluation, name: str, columns: dict[str, list[str]], *, seed: int
) -> dict[str, Any]:
    values, rows = evaluation.collected.values[name], evaluation.collected.rows
    cells: dict[str, Any] = {}
    draws: list[np.ndarray] = []
    for column, ids in columns.items():
        numbers = np.array([[values[i]] for i in ids if i in values])
        pictures = [str(rows[i].get("pictures", i)) for i in ids if i in values]
        (interval,) = intervals(numbers, pictures, seed=seed)
        cells[column] = _cell(float(numbers.mean()), interval, len(numbers))
        # sets are drawn apart: else the same draw of pictures would move all of them alike
        draws.append(bootstrap_means(numbers, pictures, seed=seed + len(draws) + 1)[:, 0])
    if table.average:
        means = np.mean(draws, axis=0)
        is_sure = all(cell["low"] is not None for cell in cells.values())
        interval = (float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))) if is_sure else None
        value = float(np.mean([cell["value"] for cell in cells.values()]))
        cells[AVERAGE] = _cell(value, interval, sum(map(len, columns.values())))
    return cells


def _cell(value: float, interval: tuple[float, float] | None, questions: int) -> dict[str, Any]:
    low, high = interval or (None, None)
    return {"value": value, "low": low, "high": high, "questions": questions}


def _floors(
    table: PaperTable, evaluation: Evaluation, name: str, columns: dict[str, list[str]]
) -> list[dict[str, Any]]:
    """The floors that do not depend on the policy, where the table of its evaluation has them for each column."""
    kind, _, metric = name.partition("/")
    rows = []
    for floor in ("constant", "question_only"):
        found: dict[str, float] = {}
        for column in columns:
            key = (table.group or "all", column if table.group else "all", kind, metric)
            value = evaluation.floors.get(key, {}).get(floor)
            if value is not None:
                found[column] = value
        if len(found) == len(columns):
            cells = {column: _cell(value, None, len(columns[column])) for column, value in found.items()}
            if table.average:
                cells[AVERAGE] = _cell(float(np.mean([c["value"] for c in cells.values()])), None, 0)
            rows.append({"label": floor, "is_floor": True, "cells": cells})
    return rows


def _costs(evaluations: Sequence[Evaluation], block: Block, *, seed: int) -> dict[str, dict[str, str]]:
    """Label -> the paired difference to the first evaluation, and its p."""
    told = {}
    for other in evaluations[1:]:
        rows = compare(evaluations[0], other, seed=seed)
        (row,) = [r for r in rows if (r["kind"], r["metric"]) == (block.kind, block.metric)]
        p = "" if row["p"] is None else f"{row['p']:.4f}"
        told[other.label] = {"difference": score_text(row["difference"], row["low"], row["high"]), "p": p}
    return told


def _text(cell: dict[str, Any] | None) -> str:
    return "" if cell is None else score_text(cell["value"], cell["low"], cell["high"])
