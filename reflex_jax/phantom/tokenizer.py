"""The tiny policy's tokenizer: a byte-level BPE in the files and with the added tokens of Qwen2.5-VL.

Trained on the words of the phantom world, so that each of them is one token; any other text still encodes, in pieces.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from reflex_jax.data.phantom import phantom_examples
from reflex_jax.phantom.words import GENERAL_WORDS

_BPE_SIZE = 978
# The added tokens of Qwen2.5-VL in its order; the first 14 are special.
_ADDED_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
)  # fmt: skip
_SPECIAL_COUNT = 14
# How Qwen cuts text before its byte-level BPE.
_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_policy_tokenizer(directory: Path) -> dict[str, int]:
    """Trains a byte-level BPE in Qwen's layout; returns the ids of the added tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_QWEN_SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_BPE_SIZE, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    first = tokenizer.get_vocab_size()
    ids = {token: first + number for number, token in enumerate(_ADDED_TOKENS)}
    added = [AddedToken(token, special=n < _SPECIAL_COUNT, normalized=False) for n, token in enumerate(_ADDED_TOKENS)]
    tokenizer.add_special_tokens(added[:_SPECIAL_COUNT])
    tokenizer.add_tokens(added[_SPECIAL_COUNT:])
    tokenizer.save(str(directory / "tokenizer.json"))
    bpe = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    _write_json(directory / "vocab.json", bpe["vocab"])
    merges = "".join(f"{left} {right}\n" for left, right in bpe["merges"])
    (directory / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    _write_json(directory / "tokenizer_config.json", {
        "tokenizer_class": "Qwen2Tokenizer", "model_max_length": 4096, "bos_token": None, "unk_token": None,
        "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "add_prefix_space": False, "add_bos_token": False,
        "clean_up_tokenization_spaces": False, "errors": "replace", "split_special_tokens": False,
        "additional_special_tokens": list(_ADDED_TOKENS[1:_SPECIAL_COUNT]), "chat_template": _CHAT_TEMPLATE,
        "added_tokens_decoder": {
            str(ids[token]): {
                "content": token, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False,
                "special": number < _SPECIAL_COUNT,
            }
            for number, token in enumerate(_ADDED_TOKENS)
        },
    })  # fmt: skip
    return ids


def _corpus() -> list[str]:
    """Questions, completions and single words, so that each word of the phantom world becomes one token."""
    lines = ["user\n", "assistant\n"] * 200
    for example in phantom_examples("policy_warm_start", 2000, 0):
        lines += [text for text in (example.question, example.target) if text]
    return lines + [f" {word}" for word in GENERAL_WORDS] * 20


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
