"""`reflex audit judge | rewards`: is what a run will be paid by fit to pay, before anything is paid."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from reflex_jax.commands.arguments import whole_number
from reflex_jax.commands.start import prepare
from reflex_jax.config import ConfigError, user_path
from reflex_jax.config_reader import load_config
from reflex_jax.stops import AUDIT_FAILED


def add(commands: Any) -> None:
    """Words of the commands."""
    audit = commands.add_parser("audit", help="hold judge and rewards against what they are there for")
    inner = audit.add_subparsers(dest="inner_command", required=True, metavar="command")
    for name, run, questions, text in (
        ("judge", run_judge, 200, "is the frozen judge fit to judge these questions; 6 where it is not"),
        ("rewards", run_rewards, 64, "what degenerate completions earn; 6 where one beats an honest answer"),
    ):
        command = inner.add_parser(name, help=text)
        command.add_argument("config", help="YAML file, e.g. configs/phantom.yaml; the policy's weights are not read")
        command.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="e.g. judge.quantile=0.9")
        command.add_argument(
            "--questions", type=whole_number, default=questions, metavar="N",
            help=f"of the sample of the training questions (default {questions})",
        )  # fmt: skip
        command.add_argument(
            "--to", metavar="DIR", help=f"where {name}.md and {name}.json go (default audits/RUN_NAME)"
        )
        command.set_defaults(run=run)
        if name == "judge":
            command.add_argument(
                "--sanity", type=whole_number, default=32, metavar="N",
                help="questions of the sample whose saliency is checked (default 32; 0: none)",
            )  # fmt: skip


def run_judge(options: argparse.Namespace) -> int:
    """Prints the page, writes it, and says by its code whether the judge is fit."""
    config = load_config(options.config, options.overrides)
    if options.sanity < 0:
        raise ConfigError(f"--sanity: expected a number of questions, or 0; got {options.sanity}.")
    target = _prepare_audit(options, config.run.name)
    from reflex_jax.audit.files import write_findings
    from reflex_jax.audit.judge_audit import audit_judge, load_questions
    from reflex_jax.audit.judge_report import as_markdown, as_values
    from reflex_jax.judge.evidence import load_judge

    examples = load_questions(config)
    judge = load_judge(config.judge.path, config.judge.dtype)
    audit = audit_judge(config, judge, examples, count=options.questions, sanity=options.sanity, say=_say)
    page = as_markdown(audit)
    write_findings(target, "judge", as_values(audit), page)
    print(page)
    print(f"{target}/judge.md and judge.json hold all of it.\n{audit.sentence}")
    return 0 if audit.label == "fit" else AUDIT_FAILED


def run_rewards(options: argparse.Namespace) -> int:
    """Prints the page, writes it, and says by its code whether the rewards hold."""
    config = load_config(options.config, options.overrides)
    target = _prepare_audit(options, config.run.name)
    from reflex_jax.audit.files import write_findings
    from reflex_jax.audit.judge_audit import load_asked
    from reflex_jax.audit.rewards_audit import audit_rewards
    from reflex_jax.audit.rewards_report import as_markdown, as_values

    audit = audit_rewards(config, load_asked(config), count=options.questions, say=_say)
    page = as_markdown(audit)
    write_findings(target, "rewards", as_values(audit), page)
    print(page)
    print(f"{target}/rewards.md and rewards.json hold all of it.\n{audit.sentence}")
    return AUDIT_FAILED if audit.winners else 0


def _prepare_audit(options: argparse.Namespace, name: str) -> Path:
    """Makes the folder that the findings go to."""
    if options.questions < 1:
        raise ConfigError(f"--questions: expected at least 1; got {options.questions}.")
    target = user_path(options.to) if options.to else Path("audits") / name
    prepare()
    from reflex_jax.audit.files import make_folder

    make_folder(target)
    return target


def _say(line: str) -> None:
    print(f"audit: {line}", file=sys.stderr, flush=True)
