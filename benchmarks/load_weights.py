"""Loads a checkpoint of real size onto eight devices and says what it cost.

    python benchmarks/load_weights.py FOLDER --model 7b        # 16.6 GB on disk, and in memory once more
    python benchmarks/load_weights.py FOLDER --model 3b        # 7.5 GB

writes a Qwen2.5-VL-shaped checkpoint (bfloat16, sharded, cheap pseudo-random numbers) into FOLDER, loads it in a child
process onto eight fake CPU devices (mesh.fsdp=8), twice, and deletes it. The devices' memory is the host's here, so the
child reports, for each leaf, its peak beyond the arrays finished so far: what a host with accelerators needs to load.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

GB = 1e9
HEADROOM_BYTES = 10 * 10**9  # of disk, left to others
# What differs between the two; Hugging Face's config.json of Qwen2.5-VL-7B-Instruct and -3B-Instruct.
MODELS = {
    "7b": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
    },
    "3b": {
        "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    },
    "tiny": {
        "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 8,
        "num_key_value_heads": 2, "vocab_size": 32768, "tie_word_embeddings": True,
        "vision": {"hidden_size": 128, "intermediate_size": 256, "depth": 4, "num_heads": 4, "fullatt_block_indexes": [3]},
        "mrope_section": [4, 6, 6],
    },
}  # fmt: skip


def write_config(directory: Path, model: str) -> None:
    """Writes config.json; no tokenizer is needed to load weights."""
    sizes = dict(MODELS[model])
    vision = {
        "depth": 32, "hidden_act": "silu", "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "in_chans": 3,
        "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14, "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2, "temporal_patch_size": 2,
    } | sizes.pop("vision", {})  # fmt: skip
    sections = sizes.pop("mrope_section", [16, 24, 24])
    last = sizes["vocab_size"] - 1
    raw = {
        "model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"], "hidden_act": "silu",
        "eos_token_id": last, "image_token_id": last - 1, "video_token_id": last - 2, "vision_start_token_id": last - 3,
        "vision_end_token_id": last - 4, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "use_sliding_window": False,
        "torch_dtype": "bfloat16", "rope_scaling": {"type": "mrope", "mrope_section": sections}, **sizes,
        "vision_config": {**vision, "out_hidden_size": sizes["hidden_size"]},
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(raw, indent=2))


def write_checkpoint(directory: Path, model: str) -> None:
    """Streams the tensors to disk, never holding more than one."""
    import jax.numpy as jnp

    from reflex_jax.checkpoints.qwen_tensors import leaf_sources
    from reflex_jax.checkpoints.safetensors_writer import TensorSpec, write_tensors
    from reflex_jax.models.qwen_vl import read_qwen_config

    write_config(directory, model)
    sources = leaf_sources(read_qwen_config(directory)).values()
    specs = {name: TensorSpec(s.tensor_shape, jnp.dtype("bfloat16")) for s in sources for name in s.names}
    size = sum(spec.bytes for spec in specs.values())
    free, headroom = shutil.disk_usage(directory).free, min(HEADROOM_BYTES, 2 * size)
    if free < size + headroom:
        raise SystemExit(
            f"{directory}: expected {(size + headroom) / GB:.1f} GB free ({size / GB:.1f} and headroom for others); "
            f"there are {free / GB:.1f}. Name another folder, or take a smaller --model."
        )
    pattern = np.random.default_rng(0).normal(scale=0.02, size=2**20).astype(jnp.bfloat16)

    def tensor(name: str) -> np.ndarray:
        return np.resize(pattern, specs[name].shape)

    started = time.perf_counter()
    write_tensors(directory, specs, tensor)
    print(f"wrote {size / GB:.2f} GB, {len(specs)} tensors, in {time.perf_counter() - started:.0f} s", flush=True)


def memory_mb(key: str) -> float:
    """A line of /proc/self/status (Linux): VmRSS now, VmHWM the peak since it was last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024 / 1e6


def load(directory: Path, dtype: str) -> dict[str, float]:
    """The child: loads and measures."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    from reflex_jax.checkpoints import huggingface
    from reflex_jax.checkpoints.policy import policy_shardings
    from reflex_jax.config import MeshConfig
    from reflex_jax.models.qwen_vl import read_qwen_config
    from reflex_jax.sharding import make_mesh

    config = read_qwen_config(directory)
    shardings = policy_shardings(config, make_mesh(MeshConfig(data=1, fsdp=8)))
    jax.block_until_ready(jax.device_put(np.zeros(8), jax.devices()[0]))  # the backend's own memory
    load_leaf, peaks, beyond = huggingface._load_leaf, [], []

    def watched(*arguments: Any) -> jax.Array:
        """One leaf, and the peak while it is made beyond what was there before and what is there now."""
        before = memory_mb("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        leaf = jax.block_until_ready(load_leaf(*arguments))
        peaks.append(memory_mb("VmHWM"))
        beyond.append(peaks[-1] - before - sum(shard.data.nbytes for shard in leaf.addressable_shards) / 1e6)
        return leaf

    huggingface._load_leaf = watched
    before, started, cpu = memory_mb("VmRSS"), time.perf_counter(), time.process_time()
    leaves = jax.tree.leaves(huggingface.load_policy_params(directory, config, dtype, shardings))
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    shards = [shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards]
    tensors = huggingface.open_tensors(directory, huggingface.hub_name).values()
    disk = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "gb_per_s": disk / GB / seconds,
        "arrays_gb": sum(shards) / GB,
        "largest_leaf_mb": max(leaf.nbytes for leaf in leaves) / 1e6,
        "largest_shard_mb": max(shards) / 1e6,
        "largest_tensor_mb": max(2 * math.prod(tensor.shape) for tensor in tensors) / 1e6,
        "peak_rss_gb": max(peaks) / 1e3,
        "rss_before_mb": before,
        "largest_peak_beyond_arrays_mb": max(beyond),
    }


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the checkpoint is written for the time of the measurement")
    parser.add_argument("--model", choices=list(MODELS), default="3b")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="of the loaded arrays")
    parser.add_argument("--load", action="store_true", help="load the checkpoint in FOLDER and print one JSON line")
    arguments = parser.parse_args()
    if arguments.load:
        print(json.dumps(load(arguments.folder, arguments.dtype)))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix=f"qwen-{arguments.model}-") as directory:
        write_checkpoint(Path(directory), arguments.model)
        command = [sys.executable, __file__, directory, "--load", "--dtype", arguments.dtype]
        for attempt in ("first", "again"):
            result = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
            figures = json.loads(result.stdout)
            print(attempt, *(f"{name}={value:.2f}" for name, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
