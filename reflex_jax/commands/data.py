"""`reflex data check`: what a data set is before anything is paid for it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from reflex_jax.commands.start import prepare
from reflex_jax.config import ConfigError, user_path
from reflex_jax.config_reader import load_config


def add(commands: Any) -> None:
    """Words of the command."""
    data = commands.add_parser("data", help="look at the questions of a configuration")
    inner = data.add_subparsers(dest="inner_command", required=True, metavar="command")
    command = inner.add_parser("check", help="rows, refused rows, statements, lengths, floors and leaks, without a GPU")
    command.add_argument("config", help="YAML file, e.g. configs/vqa_rad_tiny.yaml; no weights are read")
    command.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="e.g. data.root=DIR")
    command.add_argument("--to", metavar="DIR", help="where card.md and card.json go (default cards/RUN_NAME)")
    command.add_argument(
        "--exclude-leaks", metavar="FILE", help="write the ids of training questions whose pictures are also scored"
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the card, remembers it, and writes the leaks where asked."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # nothing is computed on a device
    config = load_config(options.config, options.overrides)
    prepare()
    from reflex_jax.data.sources import cache_of
    from reflex_jax.dataset_card.card import as_markdown, remember_card, write_card
    from reflex_jax.dataset_card.check import check_data

    card, leaks = check_data(config)
    target = user_path(options.to) if options.to else Path("cards") / config.run.name
    write_card(card, target)
    remember_card(card, cache_of(config.data))
    print(as_markdown(card))
    print(f"{target}/card.md and card.json hold all of it; `reflex evaluate` quotes it.")
    if options.exclude_leaks:
        path = user_path(options.exclude_leaks)
        try:
            path.write_text("".join(f"{name}\n" for name in leaks.ids), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--exclude-leaks: {str(path)!r} cannot be written ({error.strerror}).") from error
        print(f"{path}: {len(leaks.ids)} ids; leave them out of training with 'data.exclude=[{path}]'.")
    return 0
