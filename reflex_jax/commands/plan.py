"""`reflex plan`: does a run fit a machine, and how long does a step take at least."""

from __future__ import annotations

import argparse
import os
from typing import Any

from reflex_jax.commands.start import prepare
from reflex_jax.config_reader import load_config


def add(commands: Any) -> None:
    """Words of the command."""
    command = commands.add_parser("plan", help="does a run fit a machine, and how long does a step take at least")
    command.add_argument("config", help="YAML file, e.g. configs/reflex_med_7b.yaml; weights and data are not needed")
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="e.g. memory.microbatch_prompts=32"
    )
    command.add_argument("--topology", metavar="NAME", help="TPU slice in chips, e.g. v5p:4x4x4; default: this machine")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the plan, and where it does not fit what would."""
    if options.topology is not None:
        os.environ["JAX_PLATFORMS"] = "cpu"  # the slice is described, not used
    config = load_config(options.config, options.overrides)
    prepare()
    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # nothing that is compiled here can run here
    from reflex_jax.planning.plan import find_remedy, largest_microbatch, plan_run
    from reflex_jax.planning.report import describe_plan, describe_verdict
    from reflex_jax.planning.topology import find_topology

    plan = plan_run(config, find_topology(options.topology))
    print(describe_plan(plan), flush=True)
    if plan.fits:
        print("\n" + describe_verdict(plan, microbatch=largest_microbatch(plan)))
        return 0
    remedy = find_remedy(config, plan)
    print("\n" + describe_verdict(plan, remedy=remedy))
    if remedy:
        print("\n" + describe_plan(remedy.plan))
    return 5
