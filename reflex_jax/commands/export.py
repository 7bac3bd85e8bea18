"""`reflex export`: the policy of a run as a Hugging Face or peft directory."""

from __future__ import annotations

import argparse
from typing import Any

from reflex_jax.commands.arguments import gigabytes, whole_number
from reflex_jax.commands.start import prepare
from reflex_jax.config import ConfigError, user_path


def add(commands: Any) -> None:
    """Words of the command."""
    command = commands.add_parser("export", help="write the policy of a run as a Hugging Face directory")
    command.add_argument("directory", help="run directory, e.g. runs/phantom")
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="e.g. mesh.fsdp=1 (not the run's machine)"
    )
    command.add_argument("--to", required=True, metavar="DIR", help="new or empty directory to write")
    command.add_argument("--step", type=whole_number, help="default: the newest checkpoint")
    command.add_argument("--dtype", help="bfloat16 or float32; default: as the checkpoint the run started from")
    command.add_argument(
        "--layout", default="merged", help="merged (default) or peft: the adapter of policy.lora alone"
    )
    command.add_argument("--shard-size", type=gigabytes, default=5.0, metavar="GB", help="of one file (default 5)")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Writes the directory and says which step lies in it."""
    from reflex_jax.run.directory import load_run_config

    config = load_run_config(options.directory, options.overrides, runs_rewards=False)
    if not options.to:
        raise ConfigError("--to: expected a directory to write; got ''.")
    target = user_path(options.to)
    prepare()
    from reflex_jax.run.export import export_run

    shard_bytes = int(options.shard_size * 1e9)
    step = export_run(
        config, target, step=options.step, dtype=options.dtype, shard_bytes=shard_bytes, layout=options.layout
    )
    loads = (
        "peft loads it, and so does policy.lora.path"
        if options.layout == "peft"
        else "transformers loads it, and so does policy.path"
    )
    print(f"Step {step} of {options.directory} is in {target}; {loads}.")
    return 0
