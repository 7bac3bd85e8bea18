"""Curves of a run as pictures that need nothing else: SVG, lines told apart by colour (Okabe and Ito, 2008), dash and mark."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), "-.")
_MARKS = "osD^vPX"
_SETTINGS: Any = {
    "svg.fonttype": "path", "svg.hashsalt": "reflex_jax", "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.alpha": 0.3, "font.size": 9, "legend.frameon": False, "legend.fontsize": 8,
}  # fmt: skip
_SMOOTHING = 20  # a running mean over a twentieth of the steps stands before the raw values


@dataclass(frozen=True)
class Curve:
    """Numbers over steps."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    dash: int = 0  # 0: solid
    colour: int | None = None  # None: its place in the panel
    has_marks: bool = False  # few points, each of its own: neither smoothed nor thinned
    low: Sequence[float] = ()  # of an interval around each value
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    curves: Sequence[Curve]
    limits: tuple[float, float] | None = None  # of the values


@dataclass(frozen=True)
class Figure:
    """A picture for the page."""

    source: str  # data: address
    alt: str
    caption: str


def draw(panels: Sequence[Panel], *, caption: str, columns: int = 1, unit: str = "step") -> Figure | None:
    """Draws panels side by side; None: no curve has a number.

    Args:
      panels: at least one; those without a number are left out.
      caption: what is shown, for everybody.
      columns: panels in a row.
      unit: what the horizontal axis counts.
    """
    panels = [panel for panel in panels if any(_finite(curve) for curve in panel.curves)]
    if not panels:
        return None
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    matplotlib.use("Agg")
    with matplotlib.rc_context(_SETTINGS):
        drawing, axes = plt.subplots(
            rows, columns, figsize=(5.4 if columns == 1 else 2.8 * columns, 3.2 if rows == 1 else 2.1 * rows),
            squeeze=False, layout="constrained",
        )  # fmt: skip
        for axis, panel in zip(axes.flat, panels, strict=False):
            _draw_panel(axis, panel, unit=unit)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        source = _as_address(drawing)
        plt.close(drawing)
    described = "; ".join(_described(panel) for panel in panels)
    return Figure(source, f"{caption} {described}.", caption)


def running_mean(values: Sequence[float], width: int) -> np.ndarray:
    """Centred means of at most `width` values, of those that are numbers; the ends have fewer."""
    array = np.asarray(values, float)
    known = np.isfinite(array)
    kernel = np.ones(max(1, width))
    sums = np.convolve(np.where(known, array, 0.0), kernel, "same")
    counts = np.convolve(known.astype(float), kernel, "same")
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _draw_panel(axis: Axes, panel: Panel, *, unit: str) -> None:
    for place, curve in enumerate(panel.curves):
        if not _finite(curve):
            continue
        colour = _COLOURS[(place if curve.colour is None else curve.colour) % len(_COLOURS)]
        style: Mapping[str, Any] = {"color": colour, "linestyle": _DASHES[curve.dash % len(_DASHES)]}
        if curve.has_marks:
            axis.plot(curve.steps, curve.values, label=curve.label, marker=_MARKS[place % 7], markersize=4, **style)
            if len(curve.low):
                axis.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
            continue
        axis.plot(curve.steps, curve.values, color=colour, alpha=0.25, linewidth=0.8)
        smooth = running_mean(curve.values, max(1, len(curve.values) // _SMOOTHING))
        every = max(1, len(curve.values) // 6)
        mark: Any = {"marker": _MARKS[place % 7], "markevery": every, "markersize": 3.5}
        axis.plot(curve.steps, smooth, label=curve.label, **mark, **style)
    axis.set_title(panel.title, fontsize=9)
    axis.set_xlabel(unit)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if panel.limits:
        axis.set_ylim(*panel.limits)
    if sum(bool(curve.label) for curve in panel.curves) > 1:
        axis.legend(handlelength=2.6)


def _finite(curve: Curve) -> bool:
    return bool(np.isfinite(np.asarray(curve.values, float)).any())


def _described(panel: Panel) -> str:
    """A panel in words, for those who cannot see it: the first and the last value of each curve."""
    parts = []
    for curve in panel.curves:
        known = [value for value in curve.values if math.isfinite(value)]
        if known:
            parts.append(f"{curve.label or panel.title} from {known[0]:.3g} to {known[-1]:.3g}")
    return f"{panel.title}: " + ", ".join(parts)


def _as_address(drawing: Drawing) -> str:
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
