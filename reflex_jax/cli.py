"""Command line: `reflex train | sft | evaluate | compare | table | replay | judge | data | audit | export | plan`, a file each.

Exit codes: 0 done; 1 a checkpoint could not be written; 2 wrong input; 3 another process was lost; 4 the loss is not a
number, or no completion could be scored; 5 planned, and does not fit; 6 audited or replayed, and found wanting; 75 stopped by
a signal, saved, or answers are left to be judged. Each but 0 comes with one clear message.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from reflex_jax.commands import audit, compare, data, evaluate, export, judge, plan, replay, table, train
from reflex_jax.commands.arguments import Parser
from reflex_jax.commands.start import quiet
from reflex_jax.config import ConfigError
from reflex_jax.stops import PROCESS_LOST, RunStopped
from reflex_jax.text.torch_hidden import hide_torch_from_transformers

COMMANDS = (train, evaluate, compare, table, replay, judge, data, audit, export, plan)  # in the order of --help


def run_command() -> int:
    """`reflex`, as a process of its own; returns the exit code."""
    hide_torch_from_transformers()
    return main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    try:
        options = _parse(arguments)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    quiet()
    try:
        return options.run(options)
    except ConfigError as error:
        print(f"reflex {options.command}: {error}", file=sys.stderr)
        return 2
    except RunStopped as stopped:
        print(f"\nreflex {options.command}: {stopped}", file=sys.stderr, flush=True)
        if stopped.code == PROCESS_LOST:
            os._exit(PROCESS_LOST)  # an orderly end would wait for the process that is gone
        return stopped.code


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the arguments; overrides may stand before and behind the flags."""
    options, behind = make_parser().parse_known_args(arguments)
    unknown = [text for text in behind if text.startswith("-")]
    if unknown:
        words = " ".join(filter(None, ["reflex", options.command, getattr(options, "inner_command", None)]))
        Parser(prog=words).error(f"there is no {', '.join(unknown)}")
    options.overrides = [*options.overrides, *behind]
    return options


def make_parser() -> argparse.ArgumentParser:
    """The words of the command line."""
    parser = Parser(prog="reflex", description="GRPO for medical vision-language models whose answers can be audited.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(run_command())
