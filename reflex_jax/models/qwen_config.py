"""What a policy's directory says about its model: config.json and generation_config.json, checked, in our words.

A value that this code would ignore or compute wrongly is refused; everything that is wrong is said at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reflex_jax.config import ConfigError
from reflex_jax.json_files import read_json_object
from reflex_jax.models.config_fields import MOST_LAYERS, Fields, is_token, shown, token_range
from reflex_jax.models.qwen_decoder import QwenTextConfig
from reflex_jax.models.qwen_vision import QwenVisionConfig
from reflex_jax.models.vision_config import FAMILIES, vision_values

MODEL_TYPES = tuple(FAMILIES)  # of config.json
_VISION_IDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
_MIXTURE = "Mixtures of experts are not computed; take a dense model of the family. "
_LISTED = 10  # problems that one message names


@dataclass(frozen=True, kw_only=True)
class _Decoder:
    """What tells the decoder of a family apart, and transformers' defaults of it."""

    theta: float
    sections: tuple[int, ...]
    head_width: int | None = None  # None: hidden_size, shared by the heads
    is_nested: bool = False  # transformers reads it from text_config alone, and has defaults for all that is not there
    is_llama: bool = False  # plain RoPE, and what LlamaConfig says of keys that are not there
    flags: Mapping[str, bool] = field(default_factory=dict)  # of QwenTextConfig


_QWEN2 = _Decoder(theta=1e6, sections=(16, 24, 24))
_QWEN3 = _Decoder(
    theta=5e5,
    sections=(24, 20, 20),
    head_width=128,
    is_nested=True,
    flags={"has_qkv_bias": False, "has_head_norms": True, "is_interleaved": True},
)
_LLAMA = _Decoder(theta=1e4, sections=(), is_nested=True, is_llama=True, flags={"has_qkv_bias": False})
_DECODERS = {"qwen2_vl": _QWEN2, "qwen2_5_vl": _QWEN2, "qwen3_vl": _QWEN3, "smolvlm": _LLAMA}


@dataclass(frozen=True, kw_only=True)
class QwenVLConfig:
    """Sizes of both towers and the ids with a meaning."""

    text: QwenTextConfig
    vision: QwenVisionConfig
    image_token_id: int
    eos_token_ids: tuple[int, ...]  # of generation_config.json where there is one
    pad_token_id: int
    family: str = "qwen2_5_vl"  # one of MODEL_TYPES: names of its tensors, layout of its pictures
    # None: not of this family, whose marks of pictures are words of its tokenizer alone
    video_token_id: int | None = None
    vision_start_token_id: int | None = None
    vision_end_token_id: int | None = None


def read_qwen_config(directory: str | Path) -> QwenVLConfig:
    """Reads config.json (of Qwen2-VL and 2.5 flat as on the hub; else with a nested text_config) and generation_config.json.

    Raises:
      ConfigError: a file is missing, damaged or incomplete, or describes a model this code does not compute; all that
        is wrong is listed.
    """
    path = Path(directory) / "config.json"
    raw = read_json_object(path, setting="policy.path")
    family = raw.get("model_type")
    if family not in MODEL_TYPES:
        raise ConfigError(
            f"policy.path: {path}: expected model_type {' or '.join(MODEL_TYPES)}; got {shown(family)}. "
            + (_MIXTURE if "_moe" in str(family) else "")
            + "Other families differ in their layers, so their weights would give wrong numbers."
        )
    generation_path = Path(directory) / "generation_config.json"
    has_generation = os.path.lexists(generation_path)  # a broken link is a fault, not an absence
    generation_raw = read_json_object(generation_path, setting="policy.path") if has_generation else {}
    problems: list[str] = []
    root = Fields(raw, problems)
    decoder = _DECODERS[family]
    text = root.section("text_config", is_needed=decoder.is_nested)
    if not decoder.is_nested:
        text = Fields({**raw, **text.values}, problems)
    vision = root.section("vision_config")
    generation = Fields(generation_raw, problems, f"{generation_path.name}: ")
    _refuse_other_formats(root, text, decoder)
    values = {
        "text": _text_values(root, text, decoder),
        "vision": vision_values(family, vision, text, root) if isinstance(raw.get("vision_config"), dict) else {},
        **_token_ids(root, text, generation, _VISION_IDS[:1] if decoder.is_llama else _VISION_IDS),
    }
    if problems:
        problems = list(dict.fromkeys(problems))  # a flat file is read as the root and as the decoder's part
        more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise ConfigError(f"policy.path: {path}: {'; '.join(problems[:_LISTED])}{more}.")
    return QwenVLConfig(
        **{
            **values,
            "family": family,
            "text": QwenTextConfig(**values["text"]),
            "vision": QwenVisionConfig(**values["vision"]),
        }
    )


def _refuse_other_formats(root: Fields, text: Fields, decoder: _Decoder) -> None:
    """Notes what would make the weights mean something else."""
    for fields in (root, text):
        if fields.get("quantization_config") is not None:
            fields.wrong("quantization_config", "none (take the checkpoint that is not quantised)")
    root.only("transformers_weights", "model.safetensors")
    text.only("hidden_act", "silu")
    if decoder.is_llama:
        text.only("model_type", "llama")
    text.only("use_sliding_window", False)
    kinds = text.get("layer_types")
    if kinds is not None and (not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)):
        text.wrong("layer_types", "'full_attention' alone")


def _text_values(root: Fields, text: Fields, decoder: _Decoder) -> dict[str, Any]:
    width, heads = text.size("hidden_size"), text.size("num_attention_heads")
    # transformers: null means as many as queries, absent means 8; of Llama both mean as many as queries
    is_null = text.get("num_key_value_heads") is None and (decoder.is_llama or "num_key_value_heads" in text.values)
    key_heads = heads if is_null else text.size("num_key_value_heads")
    if heads and key_heads and heads % key_heads:
        text.wrong("num_key_value_heads", f"a divisor of num_attention_heads {heads}")
    head_width = _head_width(text, decoder, width, heads)
    return {
        "vocabulary": text.size("vocab_size"),
        "width": width,
        "layers": text.size("num_hidden_layers", most=MOST_LAYERS),
        "heads": heads,
        "key_heads": key_heads,
        "hidden": text.size("intermediate_size"),
        "epsilon": text.positive("rms_norm_eps"),
        # where Llama is nested transformers asks the root alone
        "is_tied": root.flag("tie_word_embeddings") | (text.flag("tie_word_embeddings") and not decoder.is_llama),
        **_rope_values(text, decoder, head_width),
        **decoder.flags,
        "own_head_width": head_width if decoder.head_width else None,
    }


def _head_width(text: Fields, decoder: _Decoder, width: int | None, heads: int | None) -> int | None:
    """H, of the file where the family says it there; queries and keys turn in pairs of numbers."""
    if decoder.head_width:
        text.only("attention_bias", False)
        head_width = text.size("head_dim", decoder.head_width)
        if head_width and head_width % 2:
            text.wrong("head_dim", "an even number")
        return head_width
    head_width = width // heads if width and heads else None
    if width and heads and (width % heads or (decoder.is_llama and (width // heads) % 2)):
        even = " that leaves heads of an even width" if decoder.is_llama else ""
        text.wrong("num_attention_heads", f"a divisor of hidden_size {width}{even}")
    if decoder.is_llama:
        for key in ("attention_bias", "mlp_bias"):
            text.only(key, False)
    if head_width is not None:
        text.only("head_dim", head_width)
    return head_width


def _rope_values(text: Fields, decoder: _Decoder, head_width: int | None) -> dict[str, Any]:
    """M-RoPE, or RoPE of one axis. The older key wins where there are both, as in transformers."""
    key = "rope_scaling" if text.get("rope_scaling") is not None else "rope_parameters"
    rope = text.section(key, is_needed=False)
    kind = "rope_type" if rope.get("rope_type") is not None else "type"
    kinds = ("default",) if decoder.is_llama else ("mrope", "default")
    if rope.get(kind) not in (*kinds, None):
        rope.wrong(kind, " or ".join(map(repr, kinds)))
    rope.only("partial_rotary_factor", 1.0)
    theta = (rope if rope.get("rope_theta") is not None else text).positive("rope_theta", decoder.theta)
    if decoder.is_llama:
        return {"rope_theta": theta, "rope_sections": (head_width // 2,) if head_width else None}
    rope.only("mrope_interleaved", decoder.flags.get("is_interleaved", False))
    sections = list(decoder.sections) if rope.get("mrope_section") is None else rope.get("mrope_section")
    is_right = isinstance(sections, list) and len(sections) == 3 and all(is_token(part, None) for part in sections)
    if head_width is not None and not (is_right and 2 * sum(sections) == head_width):
        rope.wrong("mrope_section", f"three numbers that add up to {head_width / 2:g}")
    return {"rope_theta": theta, "rope_sections": tuple(sections) if is_right else None}


def _token_ids(root: Fields, text: Fields, generation: Fields, of_vision: tuple[str, ...]) -> dict[str, Any]:
    size = text.get("vocab_size")
    vocabulary = size if is_token(size, None) else None
    values: dict[str, Any] = {key: root.token(key, vocabulary) for key in of_vision}
    eos_source = next((f for f in (generation, text) if f.get("eos_token_id") not in (None, [])), None)
    eos: tuple[int, ...] = ()
    if eos_source is None:
        generation.wrong("eos_token_id", "the id or ids that end a completion here or in config.json (none could end)")
    else:
        value = eos_source.get("eos_token_id")
        listed = value if isinstance(value, list) else [value]
        if all(is_token(number, vocabulary) for number in listed):
            eos = tuple(dict.fromkeys(listed))
        else:
            eos_source.wrong("eos_token_id", f"{token_range(vocabulary)}, or a list of such")
    marks = [values[key] for key in of_vision if values[key] is not None]
    if len({*marks, *eos}) < len(marks) + len(eos):
        named = ", ".join(f"{key} {values[key]}" for key in of_vision)
        root.problems.append(f"token ids: expected different ones, got {named}, eos_token_id {shown(eos)}")
    pad = eos[0] if eos else None
    for key in ("bos_token_id", "pad_token_id"):
        source = next((f for f in (generation, text) if f.get(key) is not None), None)
        if source is not None:
            number = source.token(key, vocabulary, other=" or null")
            pad = number if key == "pad_token_id" else pad
    return {**values, "eos_token_ids": eos, "pad_token_id": pad}
