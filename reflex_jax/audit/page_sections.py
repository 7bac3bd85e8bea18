"""The sections of the page above its samples: rewards over training, the policy's attention, audits, data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reflex_jax.audit.page_attention import Looked
from reflex_jax.audit.page_figures import Curve, Figure, Panel, draw
from reflex_jax.audit.page_run import PageRun, share_means
from reflex_jax.audit.statistics import mean_estimate, resample
from reflex_jax.text.visible import visible_text

_LONGEST_BLOCK = 100_000  # characters of a text that is shown as it stands
_OUTCOMES = {"correct": "right answers", "wrong": "wrong answers"}  # in the names of metrics, and as the page says it
# metric -> how the panel calls it, those that are there
_HEALTH = {
    "accuracy": "accuracy, sampled", "completion_length": "tokens of a completion", "kl": "KL to the reference",
    "frac_zero_std": "groups without spread", "truncation_rate": "completions cut off", "grad_norm": "gradient norm",
    "judge/iou": "IoU", "judge/image_text_similarity": "s_it", "judge/text_text_similarity": "s_tt",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A number, exact and as it is shown; or words."""

    text: str
    value: str | None = None


@dataclass(frozen=True)
class Table:
    """Rows under columns; the first cell of a row is its name."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False


@dataclass(frozen=True)
class Block:
    """A text as it stands in a file."""

    caption: str
    text: str
    folded: bool = True


@dataclass(frozen=True)
class Section:
    """One part of the page."""

    id: str
    title: str
    lines: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    blocks: Sequence[Block] = ()


def number_cell(value: float) -> Cell:
    """A number with four digits, and all of them behind it."""
    if not math.isfinite(value):
        return Cell("–")
    return Cell(f"{value:.4g}", repr(float(value)))


def rewards_section(runs: Sequence[PageRun]) -> Section:
    """What was paid over training: in all, by component, and how often for right and for wrong answers (Figure 7)."""
    figures = [
        draw(
            [Panel("", [curve for place, run in enumerate(runs) for curve in _totals(run, place, len(runs))])],
            caption="Reward per completion: mean of a step (thin), running mean over a twentieth of the run (bold), "
            "and held-out questions (marks).",
        ),
        draw(
            [Panel(run.label if len(runs) > 1 else "", _components(run)) for run in runs],
            caption="Components of the reward, before their weights.",
            columns=len(runs),
        ),
        draw(
            [Panel(name, _pass_rates(runs, name), (0, 1)) for name in _judged_components(runs)],
            caption="How often a component was paid to right answers (solid) and to wrong ones (dashed). Where the dashed line "
            "climbs beside the solid one, the component pays for something else than being right.",
            columns=2,
        ),
        draw(
            [Panel(title, _health(runs, name, title)) for name, title in _HEALTH.items()],
            caption="What else a run is watched by.",
            columns=3,
        ),
    ]
    return Section(
        "rewards",
        "Rewards over training",
        lines=("Every value is in metrics.jsonl of the run; the table says the means of its first and last tenth.",),
        figures=[figure for figure in figures if figure is not None],
        tables=[_metrics_table(runs)],
    )


def attention_section(looked: Mapping[str, Sequence[Looked]]) -> Section | None:
    """Where the policy looks before and after training (Figure 6); None: nothing was measured."""
    measured = {label: rows for label, rows in looked.items() if rows}
    if not measured:
        return None
    rows = [
        [Cell(f"{label}, step {found.step}" if found.step else f"{label}, before training"), *_attention_cells(found)]
        for label, of_run in measured.items()
        for found in of_run
    ]
    count = len(next(iter(measured.values()))[0].measures["share"])
    lines = (
        f"The same {count} recorded completions, read again by the policy before training and by the newest checkpoint: "
        "softmax weights of the tokens that predict the answer, on the picture's tokens, means over heads and layers.",
        "Share: of all attention, what goes to the picture. Entropy: 1 looks everywhere, 0 at one token. Inside: of what "
        "goes to the picture, the part inside of the judge's mask of the answer's statement, whose area is what chance gives. "
        "IoU: of that mask with the policy's map, cut at the same quantile. Intervals are 95 %, over answers.",
        "The reward never asks for this: visual fidelity compares two maps of the judge.",
    )
    columns = ("policy", "share", "entropy", "inside the judge's mask", "its area", "IoU")
    table = Table("Attention of the policy", columns, rows)
    return Section("attention", "Where the policy looks", lines=lines, tables=[table])


def text_section(name: str, title: str, files: Sequence[Path], *, absent: str) -> Section:
    """A section of texts that another command wrote; without any, the line that says which."""
    blocks = []
    for path in files:
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            blocks.append(Block(path.name, visible_text(text, _LONGEST_BLOCK), folded=False))
    return Section(name, title, lines=() if blocks else (absent,), blocks=blocks)


def _attention_cells(found: Looked) -> list[Cell]:
    cells = []
    for values in found.measures.values():
        known = values[np.isfinite(values)]
        if not len(known):
            cells.append(Cell("–"))
            continue
        found_mean = mean_estimate(known, resample(range(len(known)), seed=0))
        cells.append(Cell(str(found_mean), repr(found_mean.value)))
    return cells


def _totals(run: PageRun, place: int, runs: int) -> list[Curve]:
    label = run.label if runs > 1 else "training"
    held = [("eval/sampled/reward/total", "held out, sampled"), ("eval/greedy/reward/total", "held out, greedy")]
    curves = [_curve(run, place, "reward/total", label)]
    for number, (name, words) in enumerate(held):
        steps, values = run.series(name)
        words = f"{run.label}: {words}" if runs > 1 else words
        curves.append(Curve(words, steps, values, colour=place + number + 1, has_marks=True, dash=number + 1))
    return curves


def _components(run: PageRun) -> list[Curve]:
    return [_curve(run, place, f"reward/{name}", name) for place, name in enumerate(_component_names(run))]


def _component_names(run: PageRun) -> list[str]:
    return [name.partition("/")[2] for name in run.names if name.startswith("reward/") and "total" not in name]


def _judged_components(runs: Sequence[PageRun]) -> list[str]:
    names = [(run, name) for run in runs for name in _component_names(run)]
    return list(dict.fromkeys(name for run, name in names if f"pass_rate/{name}/wrong" in run.names))


def _pass_rates(runs: Sequence[PageRun], name: str) -> list[Curve]:
    curves = []
    for place, run in enumerate(runs):
        for dash, (outcome, words) in enumerate(_OUTCOMES.items()):
            steps, values = run.series(f"pass_rate/{name}/{outcome}")
            told = f"{run.label}: {words}" if len(runs) > 1 else words
            curves.append(Curve(told, steps, values, dash=dash, colour=2 * place + dash))
    return curves


def _health(runs: Sequence[PageRun], name: str, title: str) -> list[Curve]:
    return [_curve(run, place, name, run.label if len(runs) > 1 else title) for place, run in enumerate(runs)]


def _curve(run: PageRun, place: int, name: str, label: str) -> Curve:
    steps, values = run.series(name)
    return Curve(label, steps, values, colour=place, dash=0)


def _metrics_table(runs: Sequence[PageRun]) -> Table:
    columns = ["metric"]
    for run in runs:
        told = f"{run.label}: " if len(runs) > 1 else ""
        columns += [f"{told}first tenth", f"{told}last tenth", f"{told}last step"]
    rows = []
    for name in dict.fromkeys(name for run in runs for name in run.names):
        row: list[Any] = [Cell(name)]
        for run in runs:
            _, values = run.series(name)
            row += [number_cell(v) for v in (*share_means(values), values[-1])] if values else [Cell("–")] * 3
        rows.append(row)
    return Table(f"All {len(rows)} metrics", columns, rows, folded=True)
