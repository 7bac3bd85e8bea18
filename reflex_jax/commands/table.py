"""`reflex table`: the tables and the figure of the papers, of evaluations on disk."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from reflex_jax.commands.arguments import seed_number
from reflex_jax.config import ConfigError, user_path


def add(commands: Any) -> None:
    """Words of the command."""
    command = commands.add_parser("table", help="policies beside each other: by set, as ablations, by modality")
    command.add_argument("which", help="sets (or 1), ablations (2), modalities (4: train on one, test on all)")
    command.add_argument(
        "evaluations", nargs="+", metavar="EVALUATION", help="a row each: its folder, a run with one, or NAME=FOLDER"
    )
    command.add_argument("--metric", help="e.g. recall or 'judge score'; default: exact matches")
    command.add_argument("--to", metavar="DIR", help="write NAME.md, NAME.json and NAME.png there")
    command.add_argument("--seed", type=seed_number, default=0, help="of the resampled pictures (default 0)")
    command.set_defaults(run=run, overrides=[])


def run(options: argparse.Namespace) -> int:
    """Prints the table, and writes and draws it where that is asked for."""
    from reflex_jax.commands.arguments import refuse_overrides
    from reflex_jax.evaluation.evaluations import open_evaluations
    from reflex_jax.evaluation.figures import draw_bars
    from reflex_jax.evaluation.paper_tables import ALIASES, TABLES, make_blocks, render_blocks
    from reflex_jax.evaluation.tables import write_whole

    refuse_overrides(options.overrides)
    name = ALIASES.get(options.which, options.which)
    if name not in TABLES:
        raise ConfigError(
            f"table: expected one of {', '.join(TABLES)} (or {', '.join(ALIASES)}); got {options.which!r}."
        )
    table, evaluations = TABLES[name], open_evaluations(options.evaluations)
    blocks = make_blocks(table, evaluations, metric=options.metric, seed=options.seed)
    text = render_blocks(table, blocks, evaluations, seed=options.seed)
    print(text)
    if options.to:
        folder = user_path(options.to)
        write_whole(folder / f"{name}.json", json.dumps([dataclasses.asdict(block) for block in blocks], indent=1))
        draw_bars(folder / f"{name}.png", table.title, blocks)
        write_whole(folder / f"{name}.md", text)
        print(f"{folder} holds {name}.md, {name}.json and {name}.png.")
    return 0
