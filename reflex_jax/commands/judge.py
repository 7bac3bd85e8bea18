"""`reflex judge`: the answers of a file before a language model."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from reflex_jax.config import ConfigError, user_path
from reflex_jax.config_reader import load_config
from reflex_jax.stops import PREEMPTED


def add(commands: Any) -> None:
    """Words of the command."""
    command = commands.add_parser("judge", help="put the answers of a file before a language model; resumes")
    command.add_argument("answers", metavar="FILE", help="JSON lines: id, question, truth, prediction, template, ...")
    command.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="endpoint.key=value",
        help="e.g. endpoint.model=NAME; url and model have to be",
    )
    command.add_argument("--template", help="base, mimic or rarl, of lines that name none")
    command.add_argument(
        "--to", metavar="FILE", help="verdicts, to which lines are added (default FILE.verdicts.jsonl)"
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Judges what has no verdict yet; 75 where answers are left."""
    from reflex_jax.evaluation.judge_answers import judge_file
    from reflex_jax.evaluation.judge_protocols import TEMPLATES

    other = [text for text in options.overrides if not text.startswith("endpoint.")]
    if other:
        raise ConfigError(f"{', '.join(other)}: expected endpoint.key=value; nothing else is read here.")
    if options.template is not None and options.template not in TEMPLATES:
        raise ConfigError(f"--template: expected one of {', '.join(TEMPLATES)}; got {options.template!r}.")
    answers = user_path(options.answers)
    target = user_path(options.to) if options.to else answers.with_name(f"{answers.name}.verdicts.jsonl")
    # a conversation of three rounds about a report takes more than a step's single words
    defaults = ["endpoint.max_tokens=512", "endpoint.deadline_seconds=600"]
    config = load_config(None, [*defaults, *options.overrides])
    judged = judge_file(answers, target, config.endpoint, template=options.template)
    if judged.found:
        print(judged.found)
    for name, value in judged.metrics.items():
        print(f"{name:40s} {value:8.4f}")
    print(f"{target} holds every verdict.")
    if judged.given_up:
        print(f"{judged.given_up} answers failed too often and are left out; {target} says why.")
    if judged.to_be_tried_again:
        print(
            f"reflex judge: {judged.to_be_tried_again} answers have no verdict yet; the same command tries them again.",
            file=sys.stderr,
        )
        return PREEMPTED
    return 0
