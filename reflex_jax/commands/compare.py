"""`reflex compare`: whether one evaluation is better than another."""

from __future__ import annotations

import argparse
import json
from typing import Any

from reflex_jax.commands.arguments import seed_number
from reflex_jax.config import user_path


def add(commands: Any) -> None:
    """Words of the command."""
    command = commands.add_parser("compare", help="paired test between two evaluations of the same questions")
    command.add_argument(
        "first", metavar="A", help="evaluation that is compared with: its folder, a run with one, or NAME=FOLDER"
    )
    command.add_argument("second", metavar="B", help="evaluation that is compared")
    command.add_argument("--to", metavar="FILE", help="write the rows as JSON, too")
    command.add_argument("--seed", type=seed_number, default=0, help="of the resampled pictures (default 0)")
    command.set_defaults(run=run, overrides=[])


def run(options: argparse.Namespace) -> int:
    """Prints each metric of both, the difference and how sure it is."""
    from reflex_jax.commands.arguments import refuse_overrides
    from reflex_jax.evaluation.compare import compare, render_comparison
    from reflex_jax.evaluation.evaluations import open_evaluations
    from reflex_jax.evaluation.tables import write_whole

    refuse_overrides(options.overrides)
    first, second = open_evaluations([options.first, options.second])
    rows = compare(first, second, seed=options.seed)
    print(render_comparison(first, second, rows))
    if options.to:
        named = {"first": first.label, "second": second.label, "seed": options.seed, "rows": rows}
        write_whole(user_path(options.to), json.dumps(named, indent=1))
    return 0
