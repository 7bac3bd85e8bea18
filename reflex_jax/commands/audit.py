"""`reflex audit judge | rewards | run`: is what a run will be paid by fit to pay; and one page for a run that was."""

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
    _add_run(inner)


def _add_run(inner: Any) -> None:
    command = inner.add_parser("run", help="one HTML page: what was paid, where judge and policy looked, what to doubt")
    command.add_argument("directory", help="run directory, e.g. runs/phantom")
    command.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="e.g. data.root=DIR judge.path=DIR (where they lie here)",
    )
    command.add_argument("--against", metavar="RUN", help="another run, shown beside it")
    command.add_argument("--to", metavar="FILE", help="the page (default DIRECTORY/report.html)")
    command.add_argument(
        "--images", action=argparse.BooleanOptionalAction, default=None,
        help="pictures on the page, as the judge saw them: patient data (default: of phantoms alone)",
    )  # fmt: skip
    command.add_argument(
        "--samples", type=whole_number, default=2000, metavar="N", help="answers on the page at most (default 2000)"
    )
    command.add_argument(
        "--attention", type=whole_number, default=16, metavar="N",
        help="answers that the policy reads again, before training and after (default 16; 0: none, and no model is loaded)",
    )  # fmt: skip
    command.add_argument("--audits", metavar="DIR", help="judge.md and rewards.md to show (default audits/RUN_NAME)")
    command.add_argument("--card", metavar="DIR", help="card.md to show (default cards/RUN_NAME)")
    command.set_defaults(run=run_page)


def run_page(options: argparse.Namespace) -> int:
    """Writes the page, and says what it holds and what was left out."""
    from reflex_jax.run.directory import load_run_config

    for name, least in (("samples", 1), ("attention", 0)):
        if (value := getattr(options, name)) < least:
            raise ConfigError(f"--{name}: expected at least {least}; got {value}.")
    directories = [options.directory, *([options.against] if options.against is not None else [])]
    configs = [load_run_config(place, options.overrides, runs_rewards=False) for place in directories]
    prepare()
    from reflex_jax.audit.page import write
    from reflex_jax.audit.page_build import Wanted, build_page

    audits, card = (None if path is None else user_path(path) for path in (options.audits, options.card))
    for flag, folder in (("--audits", audits), ("--card", card)):
        if folder is not None and not folder.is_dir():
            raise ConfigError(f"{flag}: expected a folder; {str(folder)!r} is none.")
    wanted = Wanted(
        most=options.samples, images=options.images, attention=options.attention, audits=audits, card=card
    )  # fmt: skip
    page = build_page(configs, wanted, say=_say)
    target = user_path(options.to) if options.to else configs[0].run.directory / "report.html"
    size = write(page, target)
    pictures = len(page.data["pictures"])
    print(
        f"{target}: {len(page.data['answers'])} answers, {pictures} pictures, {size / 1e6:.1f} MB; open it in a browser."
    )
    if pictures and options.images:
        print("It holds pictures of the data set: it is as confidential as they are.")
    return 0


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
