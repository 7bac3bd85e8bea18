"""HOST: a table of the papers as bars: a panel for each kind of question, a group for each column, a bar for each policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reflex_jax.config import ConfigError
from reflex_jax.evaluation.paper_tables import Block

_WIDTH = 0.8  # of a group of bars


def draw_bars(path: Path, title: str, blocks: Sequence[Block]) -> None:
    """Draws bars with their 95 % intervals; floors are dashes over the bars of their column.

    Args:
      path: of the picture; its ending names the format.
      title: above the panels.
      blocks: of `make_blocks`.
    Raises:
      ConfigError: it cannot be written.
    """
    from matplotlib.figure import Figure  # no window, no state of pyplot

    widest = max(len(block.columns) for block in blocks)
    figure = Figure(figsize=(4 + 1.5 * widest, 1 + 3 * len(blocks)), layout="constrained")
    axes = figure.subplots(len(blocks), 1, squeeze=False)[:, 0]
    for axis, block in zip(axes, blocks, strict=True):
        policies = [row for row in block.rows if not row["is_floor"]]
        places, width = np.arange(len(block.columns)), _WIDTH / len(policies)
        for number, row in enumerate(policies):
            cells = [row["cells"][column] for column in block.columns]
            values = np.array([cell["value"] for cell in cells])
            ends = np.array(
                [[cell[end] if cell[end] is not None else cell["value"] for cell in cells] for end in ("low", "high")]
            )
            shifts = places + (number + 0.5) * width - _WIDTH / 2
            axis.bar(shifts, values, width, yerr=np.abs(ends - values), capsize=2, label=row["label"])
        for style, row in zip(("--", ":"), (row for row in block.rows if row["is_floor"]), strict=False):
            heights = [row["cells"][column]["value"] for column in block.columns]
            axis.hlines(
                heights, places - _WIDTH / 2, places + _WIDTH / 2, "black", style, label=f"floor: {row['label']}"
            )
        axis.set(title=f"{block.kind}: {block.metric}", ylim=(0, 1))
        axis.set_xticks(places, block.columns)
    axes[0].legend(fontsize="small")
    figure.suptitle(title)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Software": None})
    except OSError as error:
        raise ConfigError(f"--to: {path} cannot be written ({error.strerror}). Name another place.") from error
