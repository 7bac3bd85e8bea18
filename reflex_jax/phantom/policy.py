"""The tiny policy of the phantom world: a Qwen2.5-VL of about a million parameters, and how it is warmed up.

First the vision tower alone (`phantom_vision`), then the package's own supervised phase: long on a teacher who sees the
truth, then shortly on one with habits (see `misperceive`), so that reinforcement has errors to repair and samples in
which they are absent.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from reflex_jax.checkpoints.huggingface import load_policy_params, save_policy_params
from reflex_jax.config_reader import load_config
from reflex_jax.data.phantom import split_world
from reflex_jax.data.prompts import load_processor
from reflex_jax.models.qwen_vl import init_policy_params, read_qwen_config
from reflex_jax.phantom.tokenizer import write_policy_tokenizer
from reflex_jax.phantom.vision import train_vision
from reflex_jax.training.loop import imitate
from reflex_jax.training.objectives import supervised_policy

VOCABULARY_ROWS = 1024  # of the embedding; like the real model it has more rows than the tokenizer has ids


@dataclass(frozen=True)
class WarmStartStage:
    """One supervised run on pictures of its own."""

    steps: int
    learning_rate: float
    noise: float  # of the teacher
    schedule: str
    warmup_steps: int = 0


VISION_STEPS, VISION_LEARNING_RATE = 350, 2e-3
STAGES = (
    WarmStartStage(steps=500, learning_rate=1.5e-3, noise=0.0, schedule="cosine", warmup_steps=20),
    WarmStartStage(steps=500, learning_rate=1e-3, noise=0.0, schedule="cosine", warmup_steps=20),
    WarmStartStage(steps=60, learning_rate=5e-4, noise=0.6, schedule="constant"),
)
_BATCH_SIZE = 64
_MAX_PIXELS = 12544  # 112 x 112: phantoms are not resized


def write_policy_directory(directory: Path) -> None:
    """Everything of the policy's Hugging Face directory except the weights."""
    directory.mkdir(parents=True, exist_ok=True)
    ids = write_policy_tokenizer(directory)
    end_of_text, end_of_turn = ids["<|endoftext|>"], ids["<|im_end|>"]
    _write_json(directory / "config.json", {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "attention_dropout": 0.0,
        "bos_token_id": end_of_text, "eos_token_id": end_of_turn, "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"], "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"], "hidden_act": "silu",
        "hidden_size": 128, "initializer_range": 0.02, "intermediate_size": 384, "max_position_embeddings": 4096,
        "max_window_layers": 4, "num_attention_heads": 4, "num_hidden_layers": 4, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "use_cache": True, "use_sliding_window": False, "vocab_size": VOCABULARY_ROWS,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "vision_config": {
            "depth": 2, "hidden_act": "silu", "hidden_size": 96, "intermediate_size": 256, "num_heads": 4,
            "in_chans": 3, "out_hidden_size": 128, "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14,
            "window_size": 112, "fullatt_block_indexes": [1], "tokens_per_second": 2, "temporal_patch_size": 2,
        },
    })  # fmt: skip
    _write_json(directory / "generation_config.json", {
        "bos_token_id": end_of_text, "pad_token_id": end_of_text, "eos_token_id": [end_of_turn, end_of_text],
        "do_sample": True, "temperature": 1.0,
    })  # fmt: skip
    _write_json(directory / "preprocessor_config.json", {
        "image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 1048576, "patch_size": 14,
        "temporal_patch_size": 2, "merge_size": 2, "image_mean": [0.3, 0.3, 0.3], "image_std": [0.25, 0.25, 0.25],
    })  # fmt: skip


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_random_weights(directory: Path, seed: int) -> None:
    """Weights of an untrained policy: kernels scaled to their inputs, which Qwen's 0.02 is for widths of thousands only."""
    config = read_qwen_config(directory)
    params = init_policy_params(config, jax.random.key(seed))

    def scaled(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        if leaf.ndim < 2 or np.std(leaf) == 0:  # biases and scales
            return leaf
        inputs = leaf.shape[-1] if path[-1].key == "embedding" else leaf.shape[-2]
        return leaf / (0.02 * np.sqrt(inputs))

    save_policy_params(jax.tree_util.tree_map_with_path(scaled, params), config, directory)


def warm_start(directory: Path, work: Path, *, seed: int) -> None:
    """Trains vision, then the supervised stages one after the other; leaves the last weights, as bfloat16, in `directory`.

    Args:
      directory: as `write_policy_directory` leaves it.
      work: run directories of the stages.
      seed: of initial weights, pictures and order.
    """
    current = work / "vision"
    shutil.copytree(directory, current)
    write_random_weights(current, seed)
    processor = load_processor(current, min_pixels=3136, max_pixels=_MAX_PIXELS, prompt="bare")
    config = processor.config
    params = train_vision(
        load_policy_params(current, config, "float32"), processor, world=split_world("policy_warm_start", seed),
        steps=VISION_STEPS, batch_size=_BATCH_SIZE, learning_rate=VISION_LEARNING_RATE,
        report=lambda step, metrics: print(f"vision step {step}: {metrics}", flush=True),
    )  # fmt: skip
    save_policy_params(params, config, current)
    for number, stage in enumerate(STAGES):
        overrides = {
            "run.dir": work / f"stage{number}", "run.seed": seed + number, "policy.path": current,
            "memory.remat": False, "data.prompt": "bare", "data.split": "policy_warm_start", "data.size": 40000,
            "data.max_pixels": _MAX_PIXELS, "rollout.max_new_tokens": 44, "training.steps": stage.steps,
            "sft.noise": stage.noise, "sft.batch_size": _BATCH_SIZE, "optimizer.learning_rate": stage.learning_rate,
            "optimizer.b2": 0.98, "optimizer.schedule": stage.schedule, "optimizer.warmup_steps": stage.warmup_steps,
            "logging.tensorboard": False,
        }  # fmt: skip
        config_of_stage = load_config(None, [f"{key}={value}" for key, value in overrides.items()])
        imitate(config_of_stage)
        current = supervised_policy(config_of_stage)
    save_policy_params(load_policy_params(current, config, "bfloat16"), config, directory)
