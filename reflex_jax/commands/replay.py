"""`reflex replay`: the recorded rewards of a run or an evaluation computed again and compared, or one of them explained."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from reflex_jax.commands.arguments import whole_number
from reflex_jax.commands.start import prepare
from reflex_jax.config import Config, user_path
from reflex_jax.stops import NOT_AS_RECORDED

_MOST_SHOWN = 20  # lines of one kind


def add(commands: Any) -> None:
    """Words of the command."""
    command = commands.add_parser("replay", help="compute the recorded rewards of a run again, or explain one of them")
    command.add_argument("directory", help="run directory with evidence, e.g. runs/phantom, or folder of an evaluation")
    command.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="e.g. judge.path=DIR data.root=DIR (where they lie here)",
    )
    which = command.add_mutually_exclusive_group()
    which.add_argument("--answer", metavar="ID", help="explain one answer, e.g. 12/3/5; in an evaluation 12/greedy/3/0")
    which.add_argument("--step", type=whole_number, help="what was scored at this step alone")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Checks the chain, replays, prints; `NOT_AS_RECORDED` where something is not as it was written or comes out otherwise."""
    config, is_run = _read(options)
    prepare()
    from reflex_jax.audit.answers_on_disk import unlike_their_evidence
    from reflex_jax.audit.explain import explain
    from reflex_jax.audit.replay import Selection, chain_faults, heads_of_checkpoints, replay
    from reflex_jax.audit.report import Report

    directory = config.run.directory
    if faults := chain_faults(directory):
        _show(f"{directory}: the evidence is not as it was written; nothing is replayed", [str(f) for f in faults])
        return NOT_AS_RECORDED
    if not is_run and (faults := [*unlike_their_evidence(directory)]):
        _show(
            f"{directory}: the answers are not those that were recorded; nothing is replayed", [str(f) for f in faults]
        )
        return NOT_AS_RECORDED
    report = Report()
    for replayed in replay(config, Selection(options.answer, options.step), is_run=is_run):
        report.add(replayed)
        if options.answer is not None:
            print("\n".join(explain(replayed, options.answer)))
    for line in report.lines():
        print(line)
    if not heads_of_checkpoints(directory):
        nobody = "no checkpoint is left that vouches" if is_run else "of an evaluation no checkpoint vouches"
        print(f"{nobody} for the chain: a file rewritten as a whole, with its head, would not be seen")
    if report.wrong:
        _show(f"{directory}: not what was recorded", [str(found) for found in report.wrong])
        return NOT_AS_RECORDED
    return 0


def _read(options: argparse.Namespace) -> tuple[Config, bool]:
    """The configuration of a run or of an evaluation, and whether it is that of a run."""
    from reflex_jax.evaluation.manifest import is_evaluation, load_evaluation_config
    from reflex_jax.run.directory import load_run_config

    folder = user_path(options.directory)
    if options.directory and is_evaluation(folder):
        return load_evaluation_config(folder, options.overrides), False
    return load_run_config(options.directory, options.overrides, runs_rewards=False), True


def _show(title: str, lines: list[str]) -> None:
    rest = len(lines) - _MOST_SHOWN
    shown = [*lines[:_MOST_SHOWN], *([f"and {rest} more"] if rest > 0 else [])]
    print(f"reflex replay: {title}:", *shown, sep="\n  ", file=sys.stderr)
