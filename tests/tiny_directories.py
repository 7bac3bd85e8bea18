"""The smallest whole policy directory: the phantom's tokenizer and settings around random weights of a few rows."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np

from reflex_jax.checkpoints.huggingface import save_policy_params
from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.models.qwen_vl import init_policy_params, read_qwen_config

_OF_ROOT = ("architectures", "model_type", "tie_word_embeddings", "torch_dtype", "scale_factor")
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
    "smolvlm": {
        "architectures": ["SmolVLMForConditionalGeneration"], "scale_factor": 2, "rope_scaling": None,
        "vision_config": {
            "num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 8, "num_attention_heads": 2, "image_size": 56,
            "patch_size": 14,
        },
    },
}  # fmt: skip
_TEXT_TYPES = {"qwen3_vl": "qwen3_vl_text", "smolvlm": "llama"}  # of those whose decoder is in text_config
# the added tokens of the phantom's tokenizer that become those of SmolVLM2
_SMOLVLM_TOKENS = {
    "<|im_end|>": "<end_of_utterance>", "<|image_pad|>": "<image>", "<|object_ref_start|>": "<fake_token_around_image>",
    "<|object_ref_end|>": "<global-img>", "<|box_start|>": "<row_1_col_1>", "<|box_end|>": "<row_1_col_2>",
    "<|quad_start|>": "<row_2_col_1>", "<|quad_end|>": "<row_2_col_2>",
}  # fmt: skip
SMOLVLM_TEMPLATE = (  # of the published models
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] == 'image' %}"
    "{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


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
    if family in _TEXT_TYPES:
        _nest(directory / "config.json", _TEXT_TYPES[family])
    config = read_qwen_config(directory)
    if family == "smolvlm":
        _write_smolvlm_processor(directory, config)
    else:
        change_json(directory / "preprocessor_config.json", patch_size=config.vision.patch_size)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_policy_params(config, jax.random.key(0)))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    save_policy_params(params, config, directory)
    return directory


def _write_smolvlm_processor(directory: Path, config) -> None:
    """Image settings, tokenizer and chat template as the published models have them, of the phantom's vocabulary."""
    tile = config.vision.tile_size
    (directory / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "SmolVLMImageProcessor", "do_resize": True, "size": {"longest_edge": 2 * tile},
        "do_image_splitting": True, "max_image_size": {"longest_edge": tile}, "resample": 1, "do_pad": True,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }))  # fmt: skip
    (directory / "processor_config.json").write_text(json.dumps({"image_seq_len": config.vision.window_features}))
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": SMOLVLM_TEMPLATE}))
    path = directory / "tokenizer.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    for token in description["added_tokens"]:
        token["content"] = _SMOLVLM_TOKENS.get(token["content"], token["content"])
    description["normalizer"] = None
    description["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ]}  # fmt: skip
    path.write_text(json.dumps(description, ensure_ascii=False), encoding="utf-8")
    for name in ("vocab.json", "merges.txt"):
        (directory / name).unlink()
    (directory / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>",
        "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "clean_up_tokenization_spaces": False,
        "additional_special_tokens": ["<fake_token_around_image>", "<image>", "<end_of_utterance>"],
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"}
            for token in description["added_tokens"]
        },
    }))  # fmt: skip


def _nest(path: Path, text_type: str) -> None:
    """Puts what a flat config.json says of the decoder into text_config."""
    raw = json.loads(path.read_text())
    root = {k: v for k, v in raw.items() if k.startswith(("vision_", "image_", "video_")) or k in _OF_ROOT}
    text = {k: v for k, v in raw.items() if k not in root or k == "tie_word_embeddings"}
    path.write_text(json.dumps({**root, "text_config": {**text, "model_type": text_type}}))


def change_json(path: Path, **values) -> None:
    """Sets keys of a JSON object; `...` takes one away."""
    changed = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in changed.items() if value is not ...}))
