"""The smallest whole policy directory: the phantom's tokenizer and settings around random weights of a few rows."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np

from reflex_jax.checkpoints.huggingface import save_policy_params
from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.models.qwen_vl import init_policy_params, read_qwen_config

_OF_ROOT = ("architectures", "model_type", "tie_word_embeddings", "torch_dtype")
# what config.json of a family says beside what all say; the vision tower whole, or what differs from the phantom's
FAMILIES: dict[str, dict] = {
    "qwen2_5_vl": {
        "vision_config": {
            "depth": 2, "hidden_size": 16, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": 16,
            "fullatt_block_indexes": [1],
        },
    },
    "qwen2_vl": {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "vision_config": {"depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2},
    },
    "qwen3_vl": {
        "architectures": ["Qwen3VLForConditionalGeneration"], "head_dim": 12,
        "rope_scaling": {"mrope_section": [2, 2, 2], "mrope_interleaved": True},
        "vision_config": {
            "depth": 2, "hidden_size": 16, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": 16,
            "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
        },
    },
}  # fmt: skip


def write_tiny_policy(directory: Path, *, is_tied: bool = True, family: str = "qwen2_5_vl") -> Path:
    """Writes a directory that every reader of a policy accepts."""
    directory.mkdir(parents=True, exist_ok=True)
    source = resolve_checkpoint("phantom", "policy")
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            shutil.copyfile(file, directory / file.name)
    change_json(
        directory / "config.json", hidden_size=16, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=is_tied, model_type=family,
        **{"rope_scaling": {"type": "mrope", "mrope_section": [1, 2, 1]}, **FAMILIES[family]},
    )  # fmt: skip
    if family == "qwen3_vl":
        _nest(directory / "config.json")
    config = read_qwen_config(directory)
    change_json(directory / "preprocessor_config.json", patch_size=config.vision.patch_size)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_policy_params(config, jax.random.key(0)))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    save_policy_params(params, config, directory)
    return directory


def _nest(path: Path) -> None:
    """Puts what a flat config.json says of the decoder into text_config."""
    raw = json.loads(path.read_text())
    root = {k: v for k, v in raw.items() if k.startswith(("vision_", "image_", "video_")) or k in _OF_ROOT}
    text = {k: v for k, v in raw.items() if k not in root or k == "tie_word_embeddings"}
    path.write_text(json.dumps({**root, "text_config": {**text, "model_type": "qwen3_vl_text"}}))


def change_json(path: Path, **values) -> None:
    """Sets keys of a JSON object; `...` takes one away."""
    changed = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in changed.items() if value is not ...}))
