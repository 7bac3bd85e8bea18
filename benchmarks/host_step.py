"""HOST: what a step costs between its device programs: the bridge, the rows of samples, the files.

    python benchmarks/host_step.py POLICY_TOKENIZER JUDGE_TOKENIZER [--prompts 64] [--group 8] [--step-seconds 4.94]

The two directories hold the tokenizers of the policy (Qwen2.5-VL, say) and of BiomedCLIP; no weights are read. Completions are
sentences with a thought and an answer, as long as the length trace's (geometric with mean 160, cap 1,024 tokens), every one
another text. They are decoded, parsed, stated, tokenised for the judge and scored as strings; every completion becomes a line of
samples.jsonl. `--step-seconds` is what the device takes for a step, as `reflex plan` or a run says: the share is printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import workload

from reflex_jax.config import Component
from reflex_jax.data.examples import Example
from reflex_jax.judge.batch import StatementTokenizer
from reflex_jax.records import Evidence
from reflex_jax.run.logs import RunLogger
from reflex_jax.run.samples import completion_rows
from reflex_jax.step.batch import HostBatch
from reflex_jax.step.bridge import HostBridge
from reflex_jax.step.score import Scored
from reflex_jax.text.tokenizer import decode, load_policy_tokenizer

MEAN, CAP, SIDE = 160, 1024, 224  # tokens of a completion; pixels of the judge's picture
COMPONENTS = ("answer", "format", "visual_fidelity", "provenance")
WORDS = (
    "the image shows a small opacity in left lower lobe with no sign of effusion and heart size is normal while right "
    "costophrenic angle appears clear so this finding suggests early consolidation rather than mass because margins are not sharp"
).split()


def completion(rng: np.random.Generator, tokens: int) -> str:
    """A thought of about that many tokens and an answer in words."""
    thought = " ".join(rng.choice(WORDS, max(tokens - 20, 1)))
    return f"<think> {thought} </think> <answer> {' '.join(rng.choice(WORDS, 5))} </answer>"


def sampled(tokenizer: Any, shape: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [P, G, cap] and which of them exist."""
    tokens, mask = np.zeros((*shape, CAP), np.int32), np.zeros((*shape, CAP), bool)
    for place in np.ndindex(shape):
        ids = tokenizer(completion(rng, min(rng.geometric(1 / MEAN), CAP))).input_ids[:CAP]
        tokens[place][: len(ids)], mask[place][: len(ids)] = ids, True
    return tokens, mask


def scored_of(shape: tuple[int, int]) -> Scored:
    """What the device sends back, with numbers that nobody reads."""
    numbers, flags = np.full(shape, 0.5, np.float32), np.ones(shape, bool)
    names = ("iou", "chance_corrected_iou", "text_text_similarity", "image_text_similarity", "tied_fraction")
    left = (
        "image_embeddings",
        "statement_embeddings",
        "anchor_embeddings",
        "saliency",
        "anchor_saliency",
        "masks",
        "anchor_masks",
    )
    evidence = Evidence(
        **dict.fromkeys(names, numbers), **dict.fromkeys(left), has_statement=flags, is_degenerate=~flags
    )  # fmt: skip
    return Scored(
        components=dict.fromkeys(COMPONENTS, numbers), applies=dict.fromkeys(COMPONENTS, flags), rewards=numbers,
        advantages=numbers, is_zero_variance=flags[:, 0], is_valid=flags, evidence=evidence, loop_tightness=numbers,
    )  # fmt: skip


def timed(seconds: dict[str, list[float]], name: str, body: Callable[[], Any]) -> Any:
    """Runs something and keeps how long it took."""
    started = time.perf_counter()
    result = body()
    seconds.setdefault(name, []).append(time.perf_counter() - started)
    return result


def main() -> None:
    """Does the host's part of a few steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy_tokenizer")
    parser.add_argument("judge_tokenizer")
    parser.add_argument("--prompts", type=int, default=64, help="of this process: all on one host, 4 on each of 16")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--step-seconds", type=float, default=4.94)
    options = parser.parse_args()
    shape, rng = (options.prompts, options.group), np.random.default_rng(0)
    tokenizer = load_policy_tokenizer(options.policy_tokenizer)
    bridge = HostBridge(
        decode=partial(decode, tokenizer), components={name: Component() for name in COMPONENTS},
        statement_tokenizer=StatementTokenizer(options.judge_tokenizer), max_statement_tokens=64, centered=False,
    )  # fmt: skip
    asked = workload.make_questions(options.prompts, 32)
    examples = [
        Example(id=str(i), question=row.question, answer=row.answer, answer_type="closed", images=())
        for i, row in enumerate(asked)
    ]
    pixels = np.zeros((options.prompts, SIDE, SIDE, 3), np.uint8)
    batch = HostBatch(examples=examples, prompts=None, judge_pixels=pixels)
    scored, seconds = scored_of(shape), dict[str, list[float]]()
    with tempfile.TemporaryDirectory() as folder:
        logger = RunLogger(Path(folder), tensorboard=True, wandb_project=None, resume_step=0)
        for step in range(1, options.steps + 1):
            tokens, mask = sampled(tokenizer, shape, rng)
            bridged = timed(seconds, "bridge", lambda t=tokens, m=mask: bridge(examples, t, m, pixels))
            rows = timed(
                seconds, "rows",
                lambda m=mask, b=bridged: completion_rows(batch, rollout_tokens=m, bridged=b, scored=scored),
            )  # fmt: skip
            timed(seconds, "samples.jsonl", lambda s=step, r=rows: logger.samples(s, r))
            timed(seconds, "metrics", lambda s=step: logger.log(s, {f"metric/{i}": 0.5 for i in range(60)}))
        logger.close()
    total = 0.0
    for name, values in seconds.items():
        total += (median := statistics.median(values[1:]))
        print(f"{name}: {1000 * median:.1f} ms")
    print(
        f"{shape[0]} x {shape[1]} completions: {1000 * total:.1f} ms, {100 * total / options.step_seconds:.2f} % of a step"
    )


if __name__ == "__main__":
    main()
