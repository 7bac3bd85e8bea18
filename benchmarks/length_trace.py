"""HOST: records how long the prompts, pictures and completions of a run's first steps are, as numbers alone.

    PYTHONPATH=. python benchmarks/length_trace.py --policy POLICY_DIRECTORY --data FOLDER

FOLDER holds vqa-rad and slake. Prompts and pictures are those that `configs/reflex_med_7b.yaml` reads (its chat template,
task text and pixels) in the order of its curriculum, PathVQA left out. Completions are drawn: geometric, cut at
`rollout.max_new_tokens`. Writes length_trace.json; `lengths.py` counts with it.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from reflex_jax.config import Config
from reflex_jax.config_reader import load_config
from reflex_jax.data.pipeline import training_batches
from reflex_jax.data.prompts import Processor, load_processor
from reflex_jax.data.sources import load_training

HERE = Path(__file__).resolve().parent
TRACE = HERE / "length_trace.json"
MEAN_COMPLETION_TOKENS = 160
SEED = 0


def record(config: Config, processor: Processor, *, steps: int) -> dict[str, Any]:
    """The trace as plain values; lists count prompts, and the completions of each."""
    examples = load_training(config.data, seed=SEED)
    grpo, limit = config.grpo, config.rollout.max_new_tokens
    whole = processor.measure(examples, max_prompt_tokens=config.data.max_prompt_tokens)
    batches = training_batches(
        examples, config.data, prompts_per_step=grpo.prompts_per_step, steps=steps, seed=SEED
    )  # fmt: skip
    draws = np.random.default_rng(SEED)
    recorded = []
    for step in range(steps):
        sizes = [processor.size_of(example) for example in batches[step]]
        patches = [
            sum(math.prod(grid) for p in example.images for grid in processor.picture_shape(p.measure()).grids)
            for example in batches[step]
        ]
        completions = draws.geometric(1 / MEAN_COMPLETION_TOKENS, (grpo.prompts_per_step, grpo.group_size))
        recorded.append(
            {
                "prompt_tokens": [tokens for tokens, _ in sizes],
                "windows": [windows for _, windows in sizes],
                "patches": patches,
                "completion_tokens": np.minimum(completions, limit).tolist(),
            }
        )
    return {
        "questions": len(examples),
        "max_new_tokens": limit,
        "group_size": grpo.group_size,
        "patches_per_window": processor.config.vision.patches_per_window,
        "longest_prompt": whole.prompt_tokens,  # of the whole data set, as the run pads to
        "most_windows": whole.windows,
        "steps": recorded,
    }


def write(trace: dict[str, Any], path: Path) -> None:
    """One line for each step, so that a change shows as one."""
    head = {key: value for key, value in trace.items() if key != "steps"}
    steps = ",\n".join(json.dumps(step, separators=(",", ":")) for step in trace["steps"])
    path.write_text(json.dumps(head)[:-1] + f', "steps": [\n{steps}\n]}}\n', encoding="utf-8")


def prepare(policy: Path, data: Path) -> tuple[Config, Processor]:
    """The recipe with the two sets, and the processor of its prompts; `policy` needs no weights."""
    roots = {"vqa_rad": data / "vqa-rad", "slake": data / "slake"}
    sources = ", ".join(f"{{name: {name}, root: {root.resolve()}}}" for name, root in roots.items())
    config = load_config(
        HERE.parent / "configs" / "reflex_med_7b.yaml",
        [f"policy.path={policy.resolve()}", f"data.sources=[{sources}]"],
    )
    own = config.data
    return config, load_processor(policy, min_pixels=own.min_pixels, max_pixels=own.max_pixels, prompt=own.prompt)


def main() -> None:
    """Records the trace and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, required=True, help="tokenizer and settings of Qwen2.5-VL-7B-Instruct")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds vqa-rad and slake")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--to", type=Path, default=TRACE)
    arguments = parser.parse_args()
    write(record(*prepare(arguments.policy, arguments.data), steps=arguments.steps), arguments.to)


if __name__ == "__main__":
    main()
