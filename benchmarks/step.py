"""Times one whole training step of this package, and of TRL beside it in the same sitting.

    python benchmarks/step.py CHECKPOINTS --policy tiny [--peer-python PEER_VENV/bin/python] [--rounds 2]
    python benchmarks/step.py CHECKPOINTS --policy tiny --lengths geometric --new-tokens 192 [--peer-python ...]

Ours is the step of `reflex train` with everything on: pictures decoded and cut by the prefetching threads, sampling,
the seam between strings and arrays, judge, update, metrics and samples written. Only the bridge differs: four words
of the completion stand in for the answer, since a policy with random weights writes none. With `--lengths geometric` both
sides sample from a few words and the end of the turn, so that completions really end, after a quarter of the cap on average;
with `full` nearly all run to the cap. Every measurement runs in a process of its own, ours and the peer's by turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import workload

HERE = Path(__file__).resolve().parent
LOOKAHEAD = 24  # batches beyond the measured ones: steps that compile, and prefetching threads at work to the end
PARTS = {
    "ours": ("step", "data", "generate", "bridge", "train_step", "logging"),
    "peer": ("step", "generate", "reward", "score", "update"),
}


def settings(checkpoints: Path, arguments: argparse.Namespace, directory: str) -> list[str]:
    """The run as `reflex train` would read it from a command line."""
    values = {
        "run.dir": directory,
        "policy.path": checkpoints / f"qwen-{arguments.policy}",
        "memory.remat": "false",
        "judge.path": checkpoints / "biomedclip",
        "data.prompt": "bare",
        "data.phases": "[{answer_type: any}]",
        "rollout.max_new_tokens": arguments.new_tokens,
        "rollout.temperature": workload.TEMPERATURE[arguments.lengths],
        "grpo.group_size": workload.GROUP_SIZE,
        "grpo.prompts_per_step": arguments.prompts,
        "grpo.kl_coefficient": workload.KL_COEFFICIENT,
        "optimizer.learning_rate": workload.LEARNING_RATE,
        "training.steps": arguments.warmup + arguments.steps + LOOKAHEAD,
    }
    return [f"{key}={value}" for key, value in values.items()] + arguments.override


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the steps in this process; the first `warmup` compile and are left out."""
    from reflex_jax.text.torch_hidden import hide_torch_from_transformers

    hide_torch_from_transformers()  # as `reflex` does
    from reflex_jax.config_reader import load_config
    from reflex_jax.data.examples import Example, Picture
    from reflex_jax.data.pipeline import training_batches
    from reflex_jax.run.logs import RunLogger
    from reflex_jax.sharding import make_mesh
    from reflex_jax.step.batch import BatchBuilder, measure_prompts
    from reflex_jax.step.models import load_models, load_params
    from reflex_jax.step.program import build_program
    from reflex_jax.step.rows import plan_rows
    from reflex_jax.training.trainer import GrpoTrainer

    examples = [
        Example(
            id=str(number), question=row.question, answer=row.answer, answer_type="closed",
            images=(Picture(id=str(number), data=row.png, size=(arguments.side, arguments.side)),),
        )
        for number, row in enumerate(workload.make_questions(side=arguments.side))
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        config = load_config(None, settings(arguments.checkpoints.resolve(), arguments, directory))
        models = load_models(config, make_mesh(config.mesh))
        if arguments.lengths == "geometric":
            models = only_a_few_words(models, arguments.new_tokens)
        sizes = measure_prompts(config, models.processor, examples, with_judge=True)
        batches = training_batches(
            examples, config.data, prompts_per_step=arguments.prompts, steps=config.training.steps, seed=0
        )
        program = build_program(config, models.shapes, updates=len(batches))
        if arguments.unfused:
            program = unfused(program)
        state, frozen = program.start(
            load_params(models), models.judge.params, with_reference=config.grpo.needs_reference
        )
        rows_here = models.shapes.rows(arguments.prompts)
        builder = TimedBuilder(BatchBuilder(models, sizes, rows_here, judge=config.judge))
        bridge = make_bridge(config, models)
        trainer = GrpoTrainer(config, program, frozen, builder, bridge, plan_rows(config, models.shapes.mesh, sizes))
        logger = RunLogger(config.run.directory, tensorboard=True, wandb_project=None, resume_step=0)
        iterator = batches.iterate(0, builder)
        rows = []
        step = 0
        while step < arguments.warmup or (len(measured(rows, arguments)) < arguments.steps and step < len(batches)):
            step += 1
            started, cpu_started = time.perf_counter(), time.process_time()
            batch = next(iterator)
            waited = time.perf_counter() - started
            state, result = trainer.run_step(state, batch, step)
            before_logging = time.perf_counter()
            metrics, samples = result.metrics, result.rows
            logger.log(step, metrics)
            logger.samples(step, samples)
            ended = time.perf_counter()
            row = {part: metrics[f"time/{part}"] for part in ("reshard", "generate", "bridge", "train_step")}
            row |= {"step": ended - started, "data": waited, "logging": ended - before_logging}
            row |= {"cpu": time.process_time() - cpu_started, "compilations": metrics["compilations"]}
            lengths = [sample["tokens"] for sample in samples]
            row |= {"new_tokens": sum(lengths), "mean_length": statistics.mean(lengths), "max_length": max(lengths)}
            rows.append(row)
            print({name: round(value, 3) for name, value in row.items()}, file=sys.stderr, flush=True)
        logger.close()
    return summarise(measured(rows, arguments)) | {
        "compilations": sum(row["compilations"] for row in rows[arguments.warmup :]),
        "data_per_batch": statistics.median(builder.seconds),
        "prompt_tokens": int(batch.prompts.is_valid.sum(-1).max()),
        "prompt_tokens_padded": sizes.prompt_tokens,
        "statement_tokens": bridge.statement_tokens,
        "distinct_statements": bridge.distinct_statements,
        "threads": len(os.sched_getaffinity(0)),
    }


def measured(rows: list[dict[str, float]], arguments: argparse.Namespace) -> list[dict[str, float]]:
    """The steps after the warm-up; of real lengths those that compiled for a length not met before are left out.

    There are a few such lengths in a run of any number of steps.
    """
    after = rows[arguments.warmup :]
    return after if arguments.lengths == "full" else [row for row in after if not row["compilations"]]


def only_a_few_words(models: Any, new_tokens: int) -> Any:
    """The models with a vocabulary that ends completions early."""
    shapes, tokenizer = models.shapes, models.processor.tokenizer
    allowed = np.zeros_like(shapes.vocabulary.allowed)
    allowed[workload.allowed_ids(tokenizer.get_vocab(), new_tokens)] = True
    vocabulary = dataclasses.replace(shapes.vocabulary, allowed=allowed)
    return dataclasses.replace(models, shapes=dataclasses.replace(shapes, vocabulary=vocabulary))


def unfused(program: Any) -> Any:
    """The program with score and update as two compiled functions, one after the other."""

    def train_step(state: Any, frozen: Any, batch: Any) -> tuple[Any, Any, Any]:
        scored = program.score(frozen.judge, batch.judge, batch.scores)
        state, metrics = program.update(state, frozen, batch, scored)
        return state, scored, metrics

    return dataclasses.replace(program, train_step=train_step)


class TimedBuilder:
    """A batch builder that notes how long each batch took, in whichever thread."""

    def __init__(self, builder: Any):
        """Wraps a `BatchBuilder`."""
        self._builder = builder
        self.seconds: list[float] = []

    def __call__(self, examples: Any) -> Any:
        """Builds one batch."""
        started = time.perf_counter()
        batch = self._builder(examples)
        self.seconds.append(time.perf_counter() - started)
        return batch


def make_bridge(config: Any, models: Any) -> Any:
    """The run's bridge with four words as the answer, which also notes how much the judge has to read."""
    from reflex_jax.step.bridge import HostBridge
    from reflex_jax.text.completion import ParsedCompletion
    from reflex_jax.text.tokenizer import decode

    class CountingBridge(HostBridge):
        statement_tokens = distinct_statements = 0

        def __call__(self, *inputs: Any) -> Any:
            bridged = super().__call__(*inputs)
            lengths = (bridged.judge.statements != models.judge.tokenizer.pad_token_id).sum(-1)
            self.statement_tokens = int(lengths.max())
            self.distinct_statements = int(bridged.judge.statement_count.max())
            return bridged

    return CountingBridge(
        decode=lambda ids: decode(models.processor.tokenizer, ids),
        components=config.rewards.components,
        statement_tokenizer=models.judge.tokenizer,
        max_statement_tokens=config.judge.max_statement_tokens,
        centered=config.judge.centered,
        parse=lambda text: ParsedCompletion(None, workload.four_words(text), False),
    )


def summarise(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Medians; of the lengths the mean and the largest."""
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    return {
        **medians,
        "mean_length": statistics.mean(row["mean_length"] for row in rows),
        "max_length": max(row["max_length"] for row in rows),
        "steps": len(rows),
        "step_all": [round(row["step"], 3) for row in rows],
        "tokens_per_second": medians["new_tokens"] / medians["step"],
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def allocator() -> dict[str, str]:
    """What `launch/environment.sh` has commands of the environment of this interpreter preload."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = 'REFLEX_COMMAND=reflex source launch/environment.sh "" && env'
    lines = subprocess.run(
        ["bash", "-c", script], cwd=HERE.parent, env={**os.environ, "PATH": path}, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.splitlines()  # fmt: skip
    return dict(line.split("=", 1) for line in lines if line.startswith(("LD_PRELOAD=", "MIMALLOC_")))


def run_ours(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures ours in a fresh process, with the allocator that the launch scripts give it."""
    return _run(
        [sys.executable, str(HERE / "step.py"), *sys.argv[1:], "--measure"], os.environ | allocator(), arguments
    )


def run_peer(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures TRL in its own environment, with the same allocator unless it is to have the system's."""
    command = [str(arguments.peer_python), str(HERE / "trl_peer.py"), str(arguments.checkpoints)]
    for name in ("policy", "steps", "warmup", "prompts", "new_tokens", "lengths", "side", "threads"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    environment = os.environ | allocator()
    libraries = environment.pop("LD_PRELOAD", "").split(":")
    if arguments.peer_allocator == "system":  # also in a shell in which ours runs with mimalloc
        libraries = [path for path in libraries if "libmimalloc" not in path]
    if arguments.peer_preload:
        libraries = [str(arguments.peer_preload.resolve()), *libraries]
    return _run(command, environment | {"LD_PRELOAD": ":".join(filter(None, libraries))}, arguments)


def _run(command: list[str], environment: dict[str, str], arguments: argparse.Namespace) -> dict[str, Any]:
    # a process that may use N cores starts N compute threads, whatever its framework
    cores = set(sorted(os.sched_getaffinity(0))[: arguments.threads])
    log = None if arguments.verbose else subprocess.PIPE
    finished = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True, check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )  # fmt: skip
    if finished.returncode:
        sys.exit(f"{' '.join(command)} ended with {finished.returncode}:\n{(finished.stderr or '')[-4000:]}")
    return json.loads(finished.stdout.strip().splitlines()[-1])


def report(results: dict[str, list[dict[str, Any]]]) -> None:
    """Prints one line per measurement and the ratio of the medians of all steps."""
    for side, runs in results.items():
        for number, run in enumerate(runs, 1):
            parts = " + ".join(f"{part} {run[part]:.2f}" for part in PARTS[side][1:])
            print(
                f"{side} {number}: step {run['step']:.2f} s = {parts}; {run['tokens_per_second']:.0f} tokens/s; "
                f"peak RSS {run['peak_rss_gb']:.1f} GB; prompt {run['prompt_tokens']:.0f} tokens, "
                f"completions of mean {run['mean_length']:.0f}, longest {run['max_length']:.0f}, "
                f"{run['distinct_statements']} statements of up to {run['statement_tokens']} tokens; "
                f"all {run['step_all']}"
            )
    ours = statistics.median(step for run in results["ours"] for step in run["step_all"])
    compilations = sum(run["compilations"] for run in results["ours"])
    print(f"ours: median {ours:.2f} s, {compilations} compilations after warm-up")
    if results["peer"]:
        memory = [statistics.median(run["peak_rss_gb"] for run in results[side]) for side in ("peer", "ours")]
        peer = statistics.median(step for run in results["peer"] for step in run["step_all"])
        cpu = [statistics.median(run["cpu"] for run in results[side]) for side in ("peer", "ours")]
        print(
            f"peer: median {peer:.2f} s\n"
            f"ratio {peer / ours:.2f} (CPU seconds: {cpu[0] / cpu[1]:.2f}, peak memory: {memory[0] / memory[1]:.2f})"
        )


def main() -> None:
    """Parses the command line; without `--measure` starts one process per measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, help="directory written by make_checkpoints.py")
    parser.add_argument("override", nargs="*", help="configuration overrides for ours, e.g. memory.remat=true")
    parser.add_argument("--policy", default="tiny", choices=("tiny", "small"))
    parser.add_argument("--steps", type=int, default=4, help="measured steps of each round")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them")
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each side")
    parser.add_argument("--prompts", type=int, default=workload.PROMPTS_PER_STEP)
    parser.add_argument("--new-tokens", type=int, default=workload.NEW_TOKENS)
    parser.add_argument("--lengths", default="full", choices=workload.LENGTHS, help="of the completions")
    parser.add_argument("--side", type=int, default=workload.IMAGE_SIDE, help="pixels of a picture")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="cores of either side")
    parser.add_argument("--peer-python", type=Path, help="interpreter of an environment with TRL")
    parser.add_argument("--peer-allocator", default="mimalloc", choices=("mimalloc", "system"), help="see README.md")
    parser.add_argument("--peer-preload", type=Path, help="library the peer preloads, see README.md")
    parser.add_argument("--json", type=Path, help="also write all measurements to this file")
    parser.add_argument(
        "--unfused", action="store_true", help="score and update compiled apart, as Program has them too"
    )
    parser.add_argument("--verbose", action="store_true", help="show every step")
    parser.add_argument("--measure", action="store_true", help="measure ours in this very process, print JSON")
    arguments = parser.parse_intermixed_args()
    if arguments.measure:
        print(json.dumps(measure(arguments)))
        return
    results: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    for _ in range(arguments.rounds):
        results["ours"].append(run_ours(arguments))
        if arguments.peer_python:
            results["peer"].append(run_peer(arguments))
    report(results)
    if arguments.json:
        arguments.json.write_text(json.dumps(vars(arguments) | results, default=str, indent=2) + "\n")


if __name__ == "__main__":
    main()
