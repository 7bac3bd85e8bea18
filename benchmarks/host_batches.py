"""HOST: what a batch of large pictures costs before it reaches a device: seconds, processor time and bytes.

    PYTHONPATH=. python benchmarks/host_batches.py [--prompts 64] [--side 1024]

Pictures are PNG files of `side` x `side` pixels, decoded, resized, cut into patches and laid out in windows, as the
prefetching threads of a run do; the judge's picture is made too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import jax
import workload

from reflex_jax.config_reader import load_config
from reflex_jax.data.examples import Example, Picture
from reflex_jax.sharding import make_mesh
from reflex_jax.step.batch import BatchBuilder, measure_prompts
from reflex_jax.step.models import load_models


def make_builder(examples: list[Example], side: int) -> Any:
    """A batch builder of the phantom's policy and judge, whose pictures are as large as the 7B recipe's."""
    config = load_config(
        None,
        [
            "policy.path=phantom", "judge.path=phantom", "data.prompt=bare", "data.max_prompt_tokens=8192",
            f"data.max_pixels={max(side * side, 28 * 28)}", f"grpo.prompts_per_step={len(examples)}",
        ],
    )  # fmt: skip
    models = load_models(config, make_mesh(config.mesh))
    sizes = measure_prompts(config, models.processor, examples, with_judge=True)
    return BatchBuilder(models, sizes, models.shapes.rows(len(examples)), judge=config.judge)


def main() -> None:
    """Builds the same batch a few times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--side", type=int, default=1024, help="pixels of a picture")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    examples = [
        Example(
            id=str(number), question=row.question, answer=row.answer, answer_type="closed",
            images=(Picture(id=str(number), data=row.png, size=(arguments.side, arguments.side)),),
        )
        for number, row in enumerate(workload.make_questions(arguments.prompts, arguments.side))
    ]  # fmt: skip
    build = make_builder(examples, arguments.side)
    wall, cpu = [], []
    for _ in range(arguments.repeats):
        started, cpu_started = time.perf_counter(), time.process_time()
        batch = build(examples)
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - cpu_started)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((batch.prompts, batch.judge_pixels)))
    print(
        f"{arguments.prompts} pictures of {arguments.side} x {arguments.side}, {len(os.sched_getaffinity(0))} cores: "
        f"{statistics.median(wall):.2f} s, {statistics.median(cpu):.2f} s of processor time, {held / 1e9:.3f} GB a batch"
    )


if __name__ == "__main__":
    main()
