"""Command line: `reflex train | sft | evaluate | judge | export | plan`; the same words everywhere.

Exit codes: 0 done; 1 a checkpoint could not be written; 2 wrong input; 3 another process was lost; 4 the loss is not a
number, or no completion could be scored; 5 planned, and does not fit; 75 stopped by a signal, saved, or answers are
left to be judged. Each but 0 comes with one clear message.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from reflex_jax.config import ConfigError, RewardsConfig, user_path
from reflex_jax.config_reader import load_config
from reflex_jax.run.ownership import refuse_second_owner
from reflex_jax.stops import PREEMPTED, PROCESS_LOST, RunStopped


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    try:
        options = _parse(arguments)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
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


class _Parser(argparse.ArgumentParser):
    """Takes no shortened flags, and says what is wrong with the arguments in one line, without the usage."""

    def __init__(self, **settings: Any):
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Ends the command with code 2."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help.\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the arguments; overrides may stand before and behind the flags."""
    options, behind = make_parser().parse_known_args(arguments)
    unknown = [text for text in behind if text.startswith("-")]
    if unknown:
        command = "data check" if options.command == "data" else options.command
        _Parser(prog=f"reflex {command}").error(f"there is no {', '.join(unknown)}")
    options.overrides = [*options.overrides, *behind]
    return options


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number; got {text[:80]!r}") from None


def _gigabytes(text: str) -> float:
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not (math.isfinite(size) and size * 1e9 >= 1):
        raise argparse.ArgumentTypeError(f"expected a number of GB above 0; got {text[:80]!r}")
    return size


def make_parser() -> argparse.ArgumentParser:
    """The words of the command line."""
    parser = _Parser(prog="reflex", description="GRPO for medical vision-language models whose answers can be audited.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, run, text in (
        ("train", _train, "GRPO with the rewards of a configuration; resumes an existing run"),
        ("sft", _sft, "the supervised phase: imitate target completions"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("config", help="YAML file, e.g. configs/phantom.yaml")
        command.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="e.g. grpo.group_size=4")
        command.set_defaults(run=run)
    command = commands.add_parser("evaluate", help="score the latest checkpoint of a run on held-out questions")
    command.add_argument("directory", help="run directory, e.g. runs/phantom")
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="e.g. training.evaluation_questions=0 (all)"
    )
    command.add_argument("--split", help="default: the run's data.evaluation_split")
    command.add_argument("--blank-image", action="store_true", help="show the policy a grey picture instead")
    command.add_argument("--initial", action="store_true", help="score the policy the run started from")
    command.set_defaults(run=_evaluate)
    _add_judge_command(commands)
    _add_data_commands(commands)
    command = commands.add_parser("export", help="write the policy of a run as a Hugging Face directory")
    command.add_argument("directory", help="run directory, e.g. runs/phantom")
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="e.g. mesh.fsdp=1 (not the run's machine)"
    )
    command.add_argument("--to", required=True, metavar="DIR", help="new or empty directory to write")
    command.add_argument("--step", type=_whole_number, help="default: the newest checkpoint")
    command.add_argument("--dtype", help="bfloat16 or float32; default: as the checkpoint the run started from")
    command.add_argument(
        "--layout", default="merged", help="merged (default) or peft: the adapter of policy.lora alone"
    )
    command.add_argument("--shard-size", type=_gigabytes, default=5.0, metavar="GB", help="of one file (default 5)")
    command.set_defaults(run=_export)
    command = commands.add_parser("plan", help="does a run fit a machine, and how long does a step take at least")
    command.add_argument("config", help="YAML file, e.g. configs/reflex_med_7b.yaml; weights and data are not needed")
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="e.g. memory.microbatch_prompts=32"
    )
    command.add_argument("--topology", metavar="NAME", help="TPU slice in chips, e.g. v5p:4x4x4; default: this machine")
    command.set_defaults(run=_plan)
    return parser


def _add_judge_command(commands: Any) -> None:
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
    command.set_defaults(run=_judge)


def _add_data_commands(commands: Any) -> None:
    data = commands.add_parser("data", help="look at the questions of a configuration")
    inner = data.add_subparsers(dest="data_command", required=True, metavar="command")
    command = inner.add_parser("check", help="rows, refused rows, statements, lengths, floors and leaks, without a GPU")
    command.add_argument("config", help="YAML file, e.g. configs/vqa_rad_tiny.yaml; no weights are read")
    command.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="e.g. data.root=DIR")
    command.add_argument("--to", metavar="DIR", help="where card.md and card.json go (default cards/RUN_NAME)")
    command.add_argument(
        "--exclude-leaks", metavar="FILE", help="write the ids of training questions whose pictures are also scored"
    )
    command.set_defaults(run=_check_data)


def _check_data(options: argparse.Namespace) -> int:
    os.environ["JAX_PLATFORMS"] = "cpu"  # nothing is computed on a device
    config = load_config(options.config, options.overrides)
    _prepare()
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


def _train(options: argparse.Namespace) -> int:
    config = load_config(options.config, options.overrides)
    refuse_second_owner(config.run.directory)  # before a device is asked for, which the owner may hold
    _prepare()
    from reflex_jax.processes import is_first
    from reflex_jax.rewards.components import asks_endpoint
    from reflex_jax.training.loop import train

    weights = config.rewards.weights
    off = [name for name in RewardsConfig().components | weights if not weights.get(name)]
    if off and is_first():
        kept = ", ".join(f"{weight:g} x {name}" for name, weight in weights.items() if weight)
        print(f"reward: {kept}; without {', '.join(off)}", flush=True)
    result = train(config)
    if not is_first():
        return 0
    reward = result.metrics.get("reward/total")
    outcome = f"{result.steps} steps" + (
        f", reward {reward:.2f}." if reward is not None and math.isfinite(reward) else "."
    )
    print(f"\nDone: {outcome}" if result.new_steps else f"\nNothing left to do, the run is complete: {outcome}")
    print(f"  metrics   {result.directory}/metrics.jsonl   (tensorboard --logdir {result.directory})")
    print(f"  samples   {result.directory}/samples.jsonl   question, completion, statements, every score")
    own = f" 'rewards.files=[{', '.join(config.rewards.files)}]'" if config.rewards.files else ""
    own += f" endpoint.url={config.endpoint.url}" if any(map(asks_endpoint, weights)) else ""
    print(f"  evaluate  reflex evaluate {result.directory}{own}")
    return 0


def _sft(options: argparse.Namespace) -> int:
    config = load_config(options.config, options.overrides)
    refuse_second_owner(config.run.directory)
    _prepare()
    from reflex_jax.processes import is_first
    from reflex_jax.training.loop import imitate
    from reflex_jax.training.objectives import supervised_policy

    result = imitate(config)
    if is_first():
        outcome = f"Done: {result.steps} steps." if result.new_steps else "Nothing left to do, the run is complete."
        print(f"\n{outcome} Start GRPO from it: reflex train CONFIG policy.path={supervised_policy(config)}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from reflex_jax.run.directory import load_run_config

    overrides = list(options.overrides)
    if options.split is not None:
        overrides.append(f"data.evaluation_split={options.split}")
    config = load_run_config(options.directory, overrides)
    if options.split is not None:  # of every source, whatever it is called in the run
        sources = tuple(dataclasses.replace(source, evaluation_split=None) for source in config.data.sources)
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, sources=sources))
    _prepare()
    from reflex_jax.dataset_card.beside import beside_scores
    from reflex_jax.evaluation.evaluate import evaluate_run

    metrics = evaluate_run(config, blank_image=options.blank_image, initial=options.initial)
    floors, lines = beside_scores(config)
    for name, value in (metrics | floors).items():
        print(f"{name:40s} {value:8.4f}")
    for line in lines:
        print(f"data: {line}")
    return 0


def _judge(options: argparse.Namespace) -> int:
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


def _export(options: argparse.Namespace) -> int:
    from reflex_jax.run.directory import load_run_config

    config = load_run_config(options.directory, options.overrides, runs_rewards=False)
    if not options.to:
        raise ConfigError("--to: expected a directory to write; got ''.")
    target = user_path(options.to)
    _prepare()
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


def _plan(options: argparse.Namespace) -> int:
    if options.topology is not None:
        os.environ["JAX_PLATFORMS"] = "cpu"  # the slice is described, not used
    # no data is read, so none has to be named
    config = load_config(options.config, ["data.root=unread", *options.overrides])
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
    """Quiets start-up chatter, claims the GPUs, keeps compiled programs, joins the other processes, finds the devices.

    Raises:
      ConfigError: JAX finds no device of the kind it was told to use.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import absl.logging

    absl.logging.set_verbosity(absl.logging.ERROR)
    import jax

    _keep_compiled_programs(jax.config)
    from reflex_jax.planning.device_memory import claim_gpu_memory
    from reflex_jax.processes import start_processes

    claim_gpu_memory()
    start_processes()
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where a plugin is there and its device is not
        wanted = os.environ.get("JAX_PLATFORMS") or "any"
        reason = (str(error).strip() or "none answers").splitlines()[0][:200]
        raise ConfigError(
            f"JAX_PLATFORMS: no device of the kind {wanted!r} can be used ({reason}). Unset it for whatever is there, set "
            "JAX_PLATFORMS=cpu, or install what the device needs: pip install 'reflex_jax[cuda]' or 'reflex_jax[tpu]'."
        ) from error


def _keep_compiled_programs(settings: Any) -> None:
    """Turns JAX's persistent compilation cache on, where its folder can be written; a run does not depend on it."""
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not folder:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = os.path.join(cache, "reflex_jax", "compiled")
        settings.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    try:
        if "://" not in folder:  # else an object store, which JAX knows
            os.makedirs(folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        settings.update("jax_enable_compilation_cache", False)
        print(
            f"reflex: compiled programs are not kept, {folder} cannot be written ({error.strerror}). Set "
            "JAX_COMPILATION_CACHE_DIR to a folder that can, and the next start is quicker.",
            file=sys.stderr,
        )
        return
    settings.update("jax_compilation_cache_dir", folder)


if __name__ == "__main__":
    sys.exit(main())
