"""Command line: `reflex train | sft | evaluate | export | plan`; the same words everywhere.

Exit codes: 0 done; 1 a checkpoint could not be written; 2 wrong input; 3 another process was lost; 4 the loss is not a
number; 5 planned, and does not fit; 75 stopped by a signal, saved. Each but 0 comes with one clear message.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from reflex_jax.config import ConfigError
from reflex_jax.config_reader import load_config
from reflex_jax.stops import PROCESS_LOST, RunStopped


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    parser = _make_parser()
    options = parser.parse_args(arguments)
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


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="reflex", description="GRPO for medical vision-language models whose answers can be audited."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run, text in (
        ("train", _train, "GRPO with the rewards of a configuration; resumes an existing run"),
        ("sft", _sft, "the supervised phase: imitate target completions"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("config", help="YAML file, e.g. configs/phantom.yaml")
        command.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. grpo.group_size=4")
        command.set_defaults(run=run)
    command = commands.add_parser("evaluate", help="score the latest checkpoint of a run on held-out questions")
    command.add_argument("directory", help="run directory, e.g. runs/phantom")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. training.evaluation_questions=0 (all)")
    command.add_argument("--split", help="default: the run's data.evaluation_split")
    command.add_argument("--blank-image", action="store_true", help="show the policy a grey picture instead")
    command.add_argument("--initial", action="store_true", help="score the policy the run started from")
    command.set_defaults(run=_evaluate)
    command = commands.add_parser("export", help="write the policy of a run as a Hugging Face directory")
    command.add_argument("directory", help="run directory, e.g. runs/phantom")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. mesh.fsdp=1 (not the run's machine)")
    command.add_argument("--to", required=True, metavar="DIR", help="new or empty directory to write")
    command.add_argument("--step", type=int, help="default: the newest checkpoint")
    command.add_argument("--dtype", help="bfloat16 or float32; default: as the checkpoint the run started from")
    command.add_argument("--shard-size", type=float, default=5.0, metavar="GB", help="of one file (default 5)")
    command.set_defaults(run=_export)
    command = commands.add_parser("plan", help="does a run fit a machine, and how long does a step take at least")
    command.add_argument("config", help="YAML file, e.g. configs/reflex_med_7b.yaml; neither weights nor data are needed")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. grpo.microbatch_prompts=32")
    command.add_argument("--topology", metavar="NAME", help="a TPU slice in chips, e.g. v5p:4x4x4; default: this machine")
    command.set_defaults(run=_plan)
    return parser


def _train(options: argparse.Namespace) -> int:
    config = load_config(options.config, options.overrides)
    _prepare()
    from reflex_jax.processes import is_first
    from reflex_jax.training.loop import train

    result = train(config)
    if not is_first():
        return 0
    print(f"\nDone: {result.steps} steps, reward {result.metrics.get('reward/total', float('nan')):.2f}.")
    print(f"  metrics   {result.directory}/metrics.jsonl   (tensorboard --logdir {result.directory})")
    print(f"  samples   {result.directory}/samples.jsonl   question, completion, statements, every score")
    print(f"  evaluate  reflex evaluate {result.directory}")
    return 0


def _sft(options: argparse.Namespace) -> int:
    config = load_config(options.config, options.overrides)
    _prepare()
    from reflex_jax.training.sft_loop import run_sft

    directory = run_sft(config)
    print(f"\nDone. Start GRPO from it: reflex train CONFIG policy.path={directory}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from reflex_jax.training.run_directory import load_run_config

    overrides = list(options.overrides)
    if options.split:
        overrides.append(f"data.evaluation_split={options.split}")
    config = load_run_config(options.directory, overrides)
    _prepare()
    from reflex_jax.evaluation.evaluate import evaluate_run

    metrics = evaluate_run(config, blank_image=options.blank_image, initial=options.initial)
    for name, value in metrics.items():
        print(f"{name:40s} {value:8.4f}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from reflex_jax.training.run_directory import load_run_config

    config = load_run_config(options.directory, options.overrides)
    _prepare()
    from reflex_jax.training.export import export_run

    step = export_run(
        config, options.to, step=options.step, dtype=options.dtype, shard_bytes=int(options.shard_size * 1e9)
    )
    print(f"Step {step} of {options.directory} is in {options.to}; transformers loads it, and so does policy.path.")
    return 0


def _plan(options: argparse.Namespace) -> int:
    # no data is read, so none has to be named
    config = load_config(options.config, ["data.root=unread", *options.overrides])
    if options.topology:
        os.environ["JAX_PLATFORMS"] = "cpu"  # the slice is described, not used
    _prepare()
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


def _prepare() -> None:
    """Quiets start-up chatter, claims the GPUs, turns the compilation cache on, joins the other processes of the run."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import absl.logging

    absl.logging.set_verbosity(absl.logging.ERROR)
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "reflex_jax", "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    from reflex_jax.processes import start_processes
    from reflex_jax.training.device_memory import claim_gpu_memory

    claim_gpu_memory()
    start_processes()


if __name__ == "__main__":
    sys.exit(main())
