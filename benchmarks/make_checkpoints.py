"""Writes checkpoints with random weights in the layouts of the real ones, for timing on a machine without a network.

    python benchmarks/make_checkpoints.py CHECKPOINTS

makes CHECKPOINTS/qwen-tiny (5 M parameters) and qwen-small (92 M), Hugging Face directories that transformers and TRL
load, and CHECKPOINTS/biomedclip (196 M), a directory that open_clip loads. About a minute, 1.2 GB.
"""

from __future__ import annotations

import argparse
import json
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from workload import make_questions

from reflex_jax.checkpoints.huggingface import save_policy_params
from reflex_jax.checkpoints.open_clip import save_judge_params
from reflex_jax.models.biomedclip import init_judge_params, read_judge_config
from reflex_jax.models.qwen_vl import init_policy_params, read_qwen_config

# In the order of Qwen2.5-VL; the first 14 are special.
ADDED_TOKENS = [
    *(f"<|{name}|>" for name in (
        "endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start",
        "quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")),
    "<tool_call>", "</tool_call>",
    *(f"<|{name}|>" for name in ("fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep")),
]  # fmt: skip
SPECIAL_COUNT = 14
SPARE_ROWS = 128  # the embedding has more rows than the tokenizer has ids, as the real one
WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SYSTEM_TURN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}" + SYSTEM_TURN + "{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PIXEL_MEAN = [0.48145466, 0.4578275, 0.40821073]
PIXEL_STD = [0.26862954, 0.26130258, 0.27577711]
BERT_ROWS = 30522


@dataclass(frozen=True)
class PolicySize:
    """What differs between the two policies."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    key_heads: int
    hidden: int
    vision_width: int
    vision_depth: int
    vision_heads: int
    vision_hidden: int
    full_attention: tuple[int, ...]  # vision layers that read the whole picture


POLICY_SIZES = {
    "tiny": PolicySize(4096, 256, 4, 4, 2, 704, 128, 4, 4, 344, (1, 3)),
    "small": PolicySize(16384, 768, 10, 12, 2, 2048, 384, 8, 6, 1024, (3, 7)),
}


def text_corpus() -> Iterator[str]:
    """English and code that any Python installation holds, and the benchmark's own questions."""
    for question in make_questions(63, side=28):
        yield f"{question.question} <think> The picture shows it. </think> <answer> {question.answer} </answer>"
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        yield path.read_text(encoding="utf-8", errors="ignore")


def write_policy(directory: Path, size: PolicySize, seed: int) -> None:
    """Writes a Qwen2.5-VL with random weights."""
    directory.mkdir(parents=True, exist_ok=True)
    ids = write_policy_tokenizer(directory, size.vocabulary - SPARE_ROWS)
    write_policy_settings(directory, size, ids)
    config = read_qwen_config(directory)
    save_policy_params(_widen(init_policy_params(config, jax.random.key(seed))), config, directory)


def write_policy_tokenizer(directory: Path, entries: int) -> dict[str, int]:
    """Trains a byte-level BPE with Qwen's split; returns the ids of the added tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated"), byte_level]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=entries, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(text_corpus(), trainer)
    ids = {token: tokenizer.get_vocab_size() + number for number, token in enumerate(ADDED_TOKENS)}
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in ADDED_TOKENS[:SPECIAL_COUNT]])
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in ADDED_TOKENS[SPECIAL_COUNT:]])
    tokenizer.save(str(directory / "tokenizer.json"))
    bpe = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    _write_json(directory / "vocab.json", bpe["vocab"])
    merges = ["#version: 0.2", *(" ".join(pair) for pair in bpe["merges"])]
    (directory / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    _write_json(directory / "tokenizer_config.json", {
        "tokenizer_class": "Qwen2Tokenizer", "model_max_length": 32768, "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "bos_token": None, "unk_token": None, "add_prefix_space": False,
        "add_bos_token": False, "clean_up_tokenization_spaces": False, "errors": "replace",
        "split_special_tokens": False, "additional_special_tokens": ADDED_TOKENS[1:SPECIAL_COUNT],
        "chat_template": CHAT_TEMPLATE,
        "added_tokens_decoder": {
            str(ids[token]): {"content": token, "special": number < SPECIAL_COUNT, **plain}
            for number, token in enumerate(ADDED_TOKENS)
        },
    })  # fmt: skip
    return ids


def write_policy_settings(directory: Path, size: PolicySize, ids: dict[str, int]) -> None:
    """Writes the model's, the preprocessor's and the sampler's JSON files."""
    end_of_text, end_of_turn = ids["<|endoftext|>"], ids["<|im_end|>"]
    half = size.width // size.heads // 2
    vision = {
        "depth": size.vision_depth, "hidden_size": size.vision_width, "num_heads": size.vision_heads,
        "intermediate_size": size.vision_hidden, "out_hidden_size": size.width, "hidden_act": "silu", "in_chans": 3,
        "patch_size": 14, "temporal_patch_size": 2, "spatial_patch_size": 14, "spatial_merge_size": 2,
        "window_size": 112, "fullatt_block_indexes": list(size.full_attention), "tokens_per_second": 2,
    }  # fmt: skip
    _write_json(directory / "config.json", {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "torch_dtype": "float32",
        "vocab_size": size.vocabulary, "hidden_size": size.width, "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads, "num_key_value_heads": size.key_heads, "intermediate_size": size.hidden,
        "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "initializer_range": 0.02,
        "rope_scaling": {"type": "mrope", "mrope_section": [half // 4, half * 3 // 8, half * 3 // 8]},
        "max_position_embeddings": 32768, "max_window_layers": size.layers, "use_sliding_window": False,
        "sliding_window": 32768, "attention_dropout": 0.0, "use_cache": True, "tie_word_embeddings": True,
        "bos_token_id": end_of_text, "eos_token_id": end_of_turn, "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"], "vision_token_id": ids["<|vision_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
        "vision_config": vision,
    })  # fmt: skip
    _write_json(directory / "preprocessor_config.json", {
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor", "min_pixels": 3136,
        "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": PIXEL_MEAN, "image_std": PIXEL_STD,
    })  # fmt: skip
    _write_json(directory / "generation_config.json", {
        "bos_token_id": end_of_text, "pad_token_id": end_of_text, "eos_token_id": [end_of_turn, end_of_text],
        "do_sample": True,
    })  # fmt: skip
    _write_json(directory / "chat_template.json", {"chat_template": CHAT_TEMPLATE})


def write_judge(directory: Path, seed: int) -> None:
    """Writes a BiomedCLIP-shaped judge (ViT-B/16 and BERT-base) with random weights."""
    directory.mkdir(parents=True, exist_ok=True)
    words = Counter(word for text in text_corpus() for word in "".join(
        c.lower() if c.isascii() and c.isalpha() else " " for c in text).split())  # fmt: skip
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1) if not chr(code).isupper()]
    endings = Counter("##" + word[-length:] for word in words for length in (2, 3, 4) if len(word) > length + 1)
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + letter for letter in letters)]
    for counts, limit in ((words, 20000), (endings, 28000)):
        ranked = sorted(counts, key=lambda word, counts=counts: (-counts[word], word))
        entries = list(dict.fromkeys([*entries, *ranked]))[:limit]
    entries += [f"[unused{number}]" for number in range(BERT_ROWS - len(entries))]
    (directory / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    _write_json(directory / "tokenizer_config.json", {
        "tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512, "pad_token": "[PAD]",
        "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
    })  # fmt: skip
    _write_json(directory / "config.json", {
        "model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": BERT_ROWS, "hidden_size": 768,
        "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "hidden_act": "gelu",
        "max_position_embeddings": 512, "type_vocab_size": 2, "pad_token_id": 0, "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "initializer_range": 0.02,
    })  # fmt: skip
    bert = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
    _write_json(directory / "open_clip_config.json", {
        "model_cfg": {
            "embed_dim": 512,
            "vision_cfg": {
                "timm_model_name": "vit_base_patch16_224", "timm_model_pretrained": False, "timm_pool": "",
                "timm_proj": "linear", "image_size": 224,
            },
            "text_cfg": {
                "hf_model_name": bert, "hf_tokenizer_name": bert, "hf_proj_type": "mlp",
                "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 256,
            },
        },
        "preprocess_cfg": {"mean": PIXEL_MEAN, "std": PIXEL_STD},
    })  # fmt: skip
    config = read_judge_config(directory)
    save_judge_params(init_judge_params(config, jax.random.key(seed)), config, directory)


def _widen(params: dict[str, Any]) -> dict[str, Any]:
    """Kernels as wide as trained ones (standard deviation 1 / sqrt(inputs)), so that the next token is no lottery."""

    def widen(leaf: jax.Array, inputs: int) -> jax.Array:
        spread = jnp.std(leaf)
        return jnp.where(spread > 0, leaf * (inputs**-0.5 / jnp.maximum(spread, 1e-9)), leaf)

    wide = jax.tree.map(lambda leaf: widen(leaf, leaf.shape[-2]) if leaf.ndim > 1 else leaf, params)
    embedding = params["embed"]["embedding"]  # [V, D], and the head when it is tied
    return {**wide, "embed": {"embedding": widen(embedding, embedding.shape[1])}}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, help="directory to write to")
    parser.add_argument("--policies", nargs="*", choices=list(POLICY_SIZES), default=list(POLICY_SIZES))
    parser.add_argument("--no-judge", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name in arguments.policies:
        write_policy(arguments.checkpoints / f"qwen-{name}", POLICY_SIZES[name], arguments.seed)
        print(arguments.checkpoints / f"qwen-{name}")
    if not arguments.no_judge:
        write_judge(arguments.checkpoints / "biomedclip", arguments.seed)
        print(arguments.checkpoints / "biomedclip")


if __name__ == "__main__":
    main()
