"""HOST: the table of an evaluation: scores with intervals, counts, what could not be read, and the floors beside them.

Kinds of questions stand apart, over all questions, by set, by modality and by type of question. A row of the table is one
number; the markdown and the JSON hold the same rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reflex_jax.config import ConfigError
from reflex_jax.evaluation.collect import Collected, constant_scores
from reflex_jax.evaluation.conventions import CONVENTIONS
from reflex_jax.evaluation.intervals import RESAMPLES, intervals
from reflex_jax.evaluation.metrics import KINDS, MATCHER_VERSION, Asked, definition_of

GROUPS = {"all": "all questions", "task": "set", "modality": "modality", "category": "type of question"}
_ALIKE = ("accuracy",)  # metrics whose definition depends on the kind
FLOORS = ("constant", "question_only", "blank")
Cell = dict[str, Any]
_SPREAD = 30  # groups of one grouping that the markdown shows; the JSON has all


def make_table(collected: Collected, *, seed: int = 0) -> list[Cell]:
    """The rows of the table.

    Args:
      collected: an evaluation by question.
      seed: of the bootstrap.
    Returns:
      One for each group, kind and metric: group, name, kind, metric, value, low and high of the 95 % interval (None where it
      has no two pictures), questions, pictures, unparsed (share of the answers of this kind), floors.
    """
    asked = collected.asked
    cells: list[Cell] = []
    known: dict[tuple[str, Asked], dict[str, float]] = {}
    for group in GROUPS:
        members: dict[str, list[str]] = {}
        for i, row in collected.rows.items():
            name = "all" if group == "all" else row.get(group)
            if name is not None:
                members.setdefault(str(name), []).append(i)
        for name in sorted(members):
            for kind, ids in _by_kind(collected, members[name]).items():
                here = _cells_of(collected, kind, ids, seed=seed)
                if kind in KINDS:
                    constants = constant_scores([asked[i] for i in ids], known)
                    for cell in here:
                        if (key := f"{kind}/{cell['metric']}") in constants:
                            cell["floors"]["constant"] = constants[key]
                cells += [{"group": group, "name": name, **cell} for cell in here]
    return cells


def write_table(
    folder: Path, cells: Sequence[Cell], collected: Collected, about: Mapping[str, Any], *, seed: int = 0,
    conventions: Sequence[str] = (),
) -> str:  # fmt: skip
    """Writes table.md and table.json; returns the markdown.

    Raises:
      ConfigError: they cannot be written.
    """
    names = dict.fromkeys(f"{cell['kind']}/{cell['metric']}" for cell in cells)
    definitions = {name: text for name in names if (text := definition_of(name))}
    definitions |= {name: CONVENTIONS[name].definition for name in conventions}
    facts = {
        "matcher": MATCHER_VERSION, "pass": collected.main, "questions": len(collected.rows), "resamples": RESAMPLES,
        "seed": seed,
        **{key: about.get(key) for key in ("run", "step", "policy", "split", "of", "version")},
    }  # fmt: skip
    text = render(cells, definitions, facts)
    write_whole(
        folder / "table.json", json.dumps({"facts": facts, "definitions": definitions, "rows": cells}, indent=1)
    )
    write_whole(folder / "table.md", text)
    return text


def write_whole(path: Path, text: str) -> None:
    """Writes a file whole or not at all.

    Raises:
      ConfigError: it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise ConfigError(f"--to: {path} cannot be written ({error.strerror}). Name another place.") from error


def render(cells: Sequence[Cell], definitions: Mapping[str, str], facts: Mapping[str, Any]) -> str:
    """The table as markdown."""
    whose = facts["run"] or facts["policy"]
    step = f", step {facts['step']}" if facts["step"] is not None else ""
    lines = [
        f"# {whose}{step} on {facts['split']}",
        "",
        f"{facts['questions']} of {facts['of']} questions ({facts['pass']}.jsonl), matcher {facts['matcher']}. In brackets 95 % "
        f"intervals of {facts['resamples']} draws of pictures (seed {facts['seed']}).",
    ]
    for group, title in GROUPS.items():
        here = [cell for cell in cells if cell["group"] == group]
        names = list(dict.fromkeys(cell["name"] for cell in here))
        if group != "all" and len(names) < 2:
            continue
        shown = [_shown(cell, group) for cell in here if cell["name"] in names[:_SPREAD]]
        lines += ["", f"## {title[0].upper()}{title[1:]}", "", *table_of(shown)]
        if len(names) > _SPREAD:
            lines += ["", f"{len(names) - _SPREAD} more are in table.json."]
    told: dict[str, list[str]] = {}
    for name, text in definitions.items():
        told.setdefault(text, []).append(name if metric_of(name) in _ALIKE else metric_of(name))
    lines += ["", "## What the numbers are", ""]
    lines += [f"- {', '.join(f'`{name}`' for name in dict.fromkeys(names))}: {text}." for text, names in told.items()]
    lines += [
        "- `unparsed`: share of the answers that say neither yes nor no, name no option, or are missing; they count as wrong.",
        "- `constant`, `question_only`, `blank`: floors. The best constant answer; the most frequent answer of the training set "
        "to the same question, or to its kind; the policy itself before grey pictures.",
    ]
    return "\n".join(lines) + "\n"


def shortened(text: str) -> str:
    """A rendered table without its sections by set, modality and type of question."""
    head, *sections = text.split("\n## ")
    return "\n## ".join([head, sections[0], sections[-1]])


def metric_of(name: str) -> str:
    """The metric of a "kind/metric", or the convention that a definition is of."""
    return name.partition("/")[2] or name


def table_of(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Lines of a markdown table whose columns are all keys, in the order in which they come; padded, to be read as text too."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if not rows:
        return []
    lines = [columns, *([row.get(column, "").replace("|", "\\|") for column in columns] for row in rows)]
    widths = [max(3, *(len(line[place]) for line in lines)) for place in range(len(columns))]
    lines.insert(1, ["-" * width for width in widths])
    return [f"| {' | '.join(text.ljust(width) for text, width in zip(line, widths, strict=True))} |" for line in lines]


def score_text(value: float, low: float | None, high: float | None) -> str:
    """A score with its interval; three decimals hold what some thousand questions can say."""
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _by_kind(collected: Collected, ids: Sequence[str]) -> dict[str, list[str]]:
    """Ids that have some number of a kind; kinds of conventions come behind."""
    chosen = set(ids)
    kinds: dict[str, dict[str, None]] = {kind: {} for kind in KINDS}
    for name, values in collected.values.items():
        kinds.setdefault(name.partition("/")[0], {}).update(dict.fromkeys(i for i in values if i in chosen))
    return {kind: [i for i in ids if i in members] for kind, members in kinds.items() if members}


def _cells_of(collected: Collected, kind: str, ids: Sequence[str], *, seed: int) -> list[Cell]:
    names = [
        n for n, of_ids in collected.values.items() if n.startswith(f"{kind}/") and not of_ids.keys().isdisjoint(ids)
    ]
    values = np.array([[collected.values[name].get(i, np.nan) for name in names] for i in ids])
    picture_of = {i: str(collected.rows[i].get("pictures", i)) for i in ids}
    pictures = [*picture_of.values()]
    unparsed = sum(not collected.parsed[i] for i in ids) / len(ids)
    cells = []
    for column, (name, interval) in enumerate(zip(names, intervals(values, pictures, seed=seed), strict=True)):
        counted = [i for i, value in zip(ids, values[:, column], strict=True) if not np.isnan(value)]
        floors = {}
        for floor, of_metric in collected.floors.items():
            found = [of_metric[name][i] for i in counted if i in of_metric.get(name, {})]
            if len(found) == len(counted):  # of fewer questions it would be a floor of others
                floors[floor] = float(np.mean(found))
        low, high = interval or (None, None)
        cells.append(
            {
                "kind": kind, "metric": name.partition("/")[2], "value": float(np.nanmean(values[:, column])), "low": low,
                "high": high, "questions": len(counted), "pictures": len({picture_of[i] for i in counted}),
                "unparsed": unparsed, "floors": floors,
            }
        )  # fmt: skip
    return cells


def _shown(cell: Cell, group: str) -> dict[str, str]:
    named = {} if group == "all" else {GROUPS[group]: cell["name"]}
    floors = {name: f"{cell['floors'][name]:.3f}" if name in cell["floors"] else "" for name in FLOORS}
    return named | {
        "kind": cell["kind"], "metric": cell["metric"], "score": score_text(cell["value"], cell["low"], cell["high"]),
        "questions": str(cell["questions"]), "pictures": str(cell["pictures"]), "unparsed": f"{cell['unparsed']:.3f}", **floors,
    }  # fmt: skip
