"""The functions of a step on one accelerator, with random weights of real shape, against what the chip could do.

    python benchmarks/accelerator.py --policy 3b                      # one GPU of 80 GB: every function of a step
    python benchmarks/accelerator.py --policy 3b --attention xla      # all scores in memory; default: the fused kernel
    python benchmarks/accelerator.py --policy 3b --parity             # log-probs on the chip against those on the CPU

Prints one JSON line per function: seconds (median), FLOPs and bytes as `reflex plan` counts them in the compiled program,
their share of the chip's peaks (model-FLOPs utilisation, bandwidth), and at last tokens per second of sampling beside
the bandwidth floor, and the peak memory. `--policy phantom` is the tiny model, for trying the script on a CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reflex_jax.config import Config, GrpoConfig
from reflex_jax.config_reader import load_config
from reflex_jax.models.attention_choice import XLA, AttentionChoice
from reflex_jax.models.qwen_vl import HowToCompute, init_policy_params
from reflex_jax.planning.chips import local_chip
from reflex_jax.planning.hlo_costs import Costs, count_costs
from reflex_jax.records import TokenCounts
from reflex_jax.sharding import make_mesh
from reflex_jax.step.abstract_run import AbstractRun, abstract_run
from reflex_jax.step.rounds import RowReader, Sequences
from reflex_jax.step.rows import RowPlan, lay_out_rows, place_rows, plan_rows
from reflex_jax.step.shapes import attention_of, named_shapes

POLICIES = {"3b": "Qwen2.5-VL-3B-Instruct", "7b": "Qwen2.5-VL-7B-Instruct", "phantom": "phantom"}
JUDGE = "BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"


def make_config(options: argparse.Namespace) -> Config:
    """Four prompts of one 448-pixel picture; the vision tower is frozen, or the moments of 3B would not fit 80 GB."""
    judge = "phantom" if options.policy == "phantom" else JUDGE
    dtype = "float32" if options.policy == "phantom" else "bfloat16"
    settings = {
        "policy.path": POLICIES[options.policy], "policy.dtype": dtype, "policy.trainable": "language",
        "memory.attention": options.attention, "judge.path": judge, "data.max_pixels": 448 * 448, "data.min_pixels": 3136,
        "data.max_prompt_tokens": 384, "rollout.max_new_tokens": options.new_tokens,
        "grpo.prompts_per_step": options.prompts, "memory.microbatch_prompts": 1, "mesh.data": 1, "run.name": options.policy,
    }  # fmt: skip
    return load_config(None, [f"{key}={value}" for key, value in settings.items()])


def random_array(leaf: jax.ShapeDtypeStruct, key: jax.Array) -> jax.Array:
    """Small normal numbers, zeros of whole numbers, and all true."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return key
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        return jax.random.normal(key, leaf.shape, leaf.dtype) * jnp.asarray(0.02, leaf.dtype)
    return jnp.ones(leaf.shape, bool) if leaf.dtype == bool else jnp.zeros(leaf.shape, leaf.dtype)


def materialise(tree: Any, seed: int = 0) -> Any:
    """Real arrays in the place of abstract ones; the same leaf becomes the same numbers."""
    leaves, structure = jax.tree.flatten(tree)
    make = jax.jit(random_array, static_argnums=0)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(structure, [make(leaf, key) for leaf, key in zip(leaves, keys, strict=True)])


def positions_in_order(arguments: Any) -> Any:
    """Prompts whose tokens stand one after the other, the first of them from the picture; statements of full length."""

    def fix(path: Any, leaf: Any) -> Any:
        name = getattr(path[-1], "name", "")
        if name == "positions":
            return jnp.broadcast_to(jnp.arange(leaf.shape[-1], dtype=leaf.dtype), leaf.shape)
        if name == "feature_index":
            order = jnp.arange(leaf.shape[-1], dtype=leaf.dtype)
            return jnp.broadcast_to(jnp.where(order < 256, order, -1), leaf.shape)
        if name == "statement_count":
            return jnp.full_like(leaf, 1 + GrpoConfig.group_size)
        return jnp.ones_like(leaf) if name in ("image_ids", "statements") else leaf

    return jax.tree_util.tree_map_with_path(fix, arguments)


def measure(
    name: str, function: Any, abstract: Any, layout: Any, repeats: int, chip: Any
) -> tuple[dict[str, Any], Costs]:
    """Compiles, warms up and times one function; what it gives away comes back as its result."""
    compiled = function.lower(*abstract).compile()
    costs = count_costs(compiled.as_text())
    is_donating = name == "update"
    arguments = positions_in_order(materialise(abstract))
    if is_donating:  # every slot of every row is filled
        arguments = (*arguments[:2], replace(arguments[2], rows=layout), *arguments[3:])
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        result = jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - started)
        if is_donating:
            arguments = (result[0], *arguments[1:])
        del result
    median = statistics.median(seconds[1:])
    row = {
        "function": name,
        "seconds": round(median, 4),
        "tflop": round(costs.flops / 1e12, 3),
        "gb_moved": round(costs.bytes / 1e9, 2),
        "share_of_peak_flops": round(costs.flops / median / chip.flops, 3),
        "share_of_peak_bandwidth": round(costs.bytes / median / chip.memory_bandwidth, 3),
    }
    return row, costs


def full_rows(run: AbstractRun) -> Any:
    """The layout of a step whose prompts, pictures and completions are at their longest."""
    plan = plan_rows(run.config, run.shapes.mesh, run.sizes)
    plan = replace(plan, lengths=plan.lengths[-1:])
    counts = TokenCounts(
        first=np.zeros(plan.prompts, int),
        prompt=np.full(plan.prompts, plan.prompt_tokens),
        completions=np.full((plan.prompts, plan.group), plan.completion_tokens),
        windows=np.full(plan.prompts, plan.windows),
    )
    return place_rows(lay_out_rows(counts, plan), run.shapes.mesh)


def parity(run: AbstractRun) -> dict[str, float]:
    """Log-probs of one small group on this device and on the CPU, from the same numbers in the compute dtype."""
    config, policy = run.config, run.shapes.policy
    prompts = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), run.batch.prompts)
    params = jax.eval_shape(lambda: init_policy_params(policy, jax.random.key(0), jnp.dtype(config.policy.dtype)))
    tokens = np.random.default_rng(0).integers(0, 1000, (1, 2, 16)).astype(np.int32)
    windows = prompts.vision.image_ids.shape[1]
    plan = RowPlan(
        prompts=1, minibatches=1, ways=1, rows=1, prompt_tokens=run.sizes.prompt_tokens, completion_tokens=16, group=2,
        windows=windows, lengths=(run.sizes.prompt_tokens + 32,),
    )  # fmt: skip
    counts = TokenCounts(
        np.zeros(1, int), np.array([run.sizes.prompt_tokens]), np.full((1, 2), 16), np.array([windows])
    )
    layout = jax.tree.map(lambda leaf: np.asarray(leaf[0]), lay_out_rows(counts, plan))

    def log_probs(params: Any, prompts: Any, chosen: AttentionChoice = XLA) -> Any:
        how = HowToCompute(attention=chosen)
        reader = RowReader(policy, run.shapes.vocabulary.allowed, 1.0, how, ways=1)
        sequences = Sequences(prompts, jnp.asarray(tokens), layout)
        return reader.log_probs(params, sequences, reader.features(params, sequences))

    cpu = jax.devices("cpu")[0]
    arguments = positions_in_order(materialise((params, prompts)))
    here = np.asarray(jax.jit(partial(log_probs, chosen=attention_of(config, run.shapes)))(*arguments), np.float32)
    there = jax.device_put(arguments, cpu)
    in_dtype = np.asarray(jax.jit(log_probs)(*there), np.float32)
    exact_params = jax.tree.map(lambda x: x.astype(jnp.float32), there[0])
    exact = np.asarray(jax.jit(log_probs)(exact_params, there[1]), np.float32)
    return {
        "largest log-prob": float(np.abs(exact).max()),
        "device against CPU": float(np.abs(here - in_dtype).max()),
        "device against CPU in float32": float(np.abs(here - exact).max()),
        "CPU against CPU in float32": float(np.abs(in_dtype - exact).max()),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", choices=POLICIES, default="3b")
    parser.add_argument("--attention", choices=("auto", "xla", "blocked", "fused"), default="auto")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parity", action="store_true")
    options = parser.parse_args()
    config = make_config(options)
    device = jax.devices()[0]
    chip = local_chip(device)
    run = abstract_run(config, named_shapes(config, make_mesh(config.mesh, [device])))
    print(json.dumps({"device": device.device_kind, "jax": jax.__version__, "policy": options.policy}), flush=True)
    if options.parity:
        print(json.dumps(parity(run)))
        return
    layout = full_rows(run)
    rows = {}
    for name, (function, abstract) in run.functions().items():
        rows[name], costs = measure(name, function, abstract, layout, options.repeats, chip)
        if name == "generate":
            tokens = options.prompts * config.grpo.group_size * options.new_tokens
            rows[name]["tokens_per_second"] = round(tokens / rows[name]["seconds"], 1)
            rows[name]["floor_tokens_per_second"] = round(tokens / (costs.bytes / chip.memory_bandwidth), 1)
        print(json.dumps(rows[name]), flush=True)
    statistics_ = device.memory_stats() or {}
    whole = sum(row["seconds"] for row in rows.values())
    print(
        json.dumps(
            {"step_seconds": round(whole, 3), "peak_gib": round(statistics_.get("peak_bytes_in_use", 0) / 2**30, 2)}
        )
    )


if __name__ == "__main__":
    main()
