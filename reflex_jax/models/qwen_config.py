"""What a Qwen2.5-VL directory says about its model: config.json and generation_config.json, checked, in our words.

A value that this code would ignore or compute wrongly is refused; everything that is wrong is said at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflex_jax.config import ConfigError
from reflex_jax.json_files import read_json_object
from reflex_jax.models.qwen_decoder import QwenTextConfig
from reflex_jax.models.qwen_vision import QwenVisionConfig

MODEL_TYPES = ("qwen2_5_vl",)
_VISION_IDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
_LARGEST_SIZE = 2**24  # beyond any of the family; what is larger is a slip, and would end in an overflow far from here
_MOST_LAYERS = 1024
_LARGEST_NUMBER = 1e30  # finite in float32
_VISION_THETA = 10_000.0  # of `image_rotation`
_SECTIONS = [16, 24, 24]  # transformers' default
_LISTED = 10  # problems that one message names


@dataclass(frozen=True, kw_only=True)
class QwenVLConfig:
    """Sizes of both towers and the ids with a meaning."""

    text: QwenTextConfig
    vision: QwenVisionConfig
    image_token_id: int
    video_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int
    eos_token_ids: tuple[int, ...]  # of generation_config.json where there is one
    pad_token_id: int


def read_qwen_config(directory: str | Path) -> QwenVLConfig:
    """Reads config.json (flat as on the hub, or with a nested text_config) and generation_config.json.

    Raises:
      ConfigError: a file is missing, damaged or incomplete, or describes a model this code does not compute; all that
        is wrong is listed.
    """
    path = Path(directory) / "config.json"
    raw = read_json_object(path, setting="policy.path")
    if raw.get("model_type") not in MODEL_TYPES:
        raise ConfigError(
            f"policy.path: {path}: expected model_type {' or '.join(MODEL_TYPES)}; got {_shown(raw.get('model_type'))}. "
            "Other families differ in their layers, so their weights would give wrong numbers."
        )
    generation_path = Path(directory) / "generation_config.json"
    has_generation = os.path.lexists(generation_path)  # a broken link is a fault, not an absence
    generation_raw = read_json_object(generation_path, setting="policy.path") if has_generation else {}
    problems: list[str] = []
    root = _Fields(raw, problems)
    text = _Fields({**raw, **root.section("text_config", is_needed=False).values}, problems)
    vision = root.section("vision_config")
    generation = _Fields(generation_raw, problems, f"{generation_path.name}: ")
    _refuse_other_formats(root, text)
    values = {
        "text": _text_values(root, text),
        "vision": _vision_values(vision, text) if isinstance(raw.get("vision_config"), dict) else {},
        **_token_ids(root, text, generation),
    }
    if problems:
        problems = list(dict.fromkeys(problems))  # a flat file is read as the root and as the decoder's part
        more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise ConfigError(f"policy.path: {path}: {'; '.join(problems[:_LISTED])}{more}.")
    return QwenVLConfig(
        **{**values, "text": QwenTextConfig(**values["text"]), "vision": QwenVisionConfig(**values["vision"])}
    )


class _Fields:
    """One JSON object, read key by key. What is wrong is noted, and None stands for it so that reading goes on."""

    def __init__(self, values: dict[str, Any], problems: list[str], prefix: str = ""):
        self.values, self.problems, self._prefix = values, problems, prefix

    def get(self, key: str) -> Any:
        """The value as it is; None where the key is absent or null."""
        return self.values.get(key)

    def wrong(self, key: str, expected: str) -> None:
        """Notes a problem with a key."""
        got = _shown(self.values[key]) if key in self.values else "nothing"
        self.problems.append(f"{self._prefix}{key}: expected {expected}, got {got}")

    def section(self, key: str, *, is_needed: bool = True) -> _Fields:
        """An object within; an empty one where there is none."""
        value = self.get(key)
        if not isinstance(value, dict):
            if is_needed or value is not None:
                self.wrong(key, "an object {...}")
            value = {}
        return _Fields(value, self.problems, f"{self._prefix}{key}.")

    def size(self, key: str, default: int | None = None, *, most: int = _LARGEST_SIZE) -> int | None:
        """A whole number from 1 on; `default` where the key is absent."""
        value = self.values.get(key, default)
        if type(value) is int and 1 <= value <= most:
            return value
        self.wrong(key, f"a whole number from 1 to {most}")
        return None

    def positive(self, key: str, default: float | None = None) -> float | None:
        """A number above 0 that float32 holds; `default` where the key is absent."""
        value = self.values.get(key, default)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < _LARGEST_NUMBER:
            return float(value)
        self.wrong(key, "a number above 0")
        return None

    def flag(self, key: str) -> bool:
        """True or false; false where the key is absent or null."""
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            self.wrong(key, "true or false")
        return value is True

    def only(self, key: str, choice: Any) -> None:
        """Notes every value but this one; absent and null count as it."""
        value = self.get(key)
        # 1 == True, and a list has no place here
        if value is not None and (value != choice or isinstance(value, bool) != isinstance(choice, bool)):
            self.wrong(key, repr(choice))

    def token(self, key: str, vocabulary: int | None, *, other: str = "") -> int | None:
        """A token id that the embedding has; `other` says what else the message offers."""
        value = self.get(key)
        if _is_token(value, vocabulary):
            return value
        self.wrong(key, _token_range(vocabulary) + other)
        return None

    def ids(self, key: str, *, below: int | None) -> tuple[int, ...] | None:
        """A list of whole numbers from 0 on, without repetitions."""
        value = self.get(key)
        if isinstance(value, list) and len(set(map(repr, value))) == len(value):
            if all(_is_token(number, below) for number in value):
                return tuple(value)
        self.wrong(key, f"a list of different numbers from 0 to {(below or _LARGEST_SIZE) - 1}")
        return None


def _refuse_other_formats(root: _Fields, text: _Fields) -> None:
    """Notes what would make the weights mean something else."""
    if text.get("quantization_config") is not None:
        text.wrong("quantization_config", "none (take the checkpoint that is not quantised)")
    root.only("transformers_weights", "model.safetensors")
    text.only("hidden_act", "silu")
    text.only("use_sliding_window", False)
    kinds = text.get("layer_types")
    if kinds is not None and (not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)):
        text.wrong("layer_types", "'full_attention' alone")


def _text_values(root: _Fields, text: _Fields) -> dict[str, Any]:
    width, heads = text.size("hidden_size"), text.size("num_attention_heads")
    # transformers: null means as many as queries, absent means 8
    is_null = "num_key_value_heads" in text.values and text.get("num_key_value_heads") is None
    key_heads = heads if is_null else text.size("num_key_value_heads")
    head_width = width // heads if width and heads else None
    if width and heads and width % heads:
        text.wrong("num_attention_heads", f"a divisor of hidden_size {width}")
    if heads and key_heads and heads % key_heads:
        text.wrong("num_key_value_heads", f"a divisor of num_attention_heads {heads}")
    if head_width is not None:
        text.only("head_dim", head_width)
    return {
        "vocabulary": text.size("vocab_size"),
        "width": width,
        "layers": text.size("num_hidden_layers", most=_MOST_LAYERS),
        "heads": heads,
        "key_heads": key_heads,
        "hidden": text.size("intermediate_size"),
        "epsilon": text.positive("rms_norm_eps"),
        "is_tied": root.flag("tie_word_embeddings") | text.flag("tie_word_embeddings"),
        **_rope_values(text, head_width),
    }


def _rope_values(text: _Fields, head_width: int | None) -> dict[str, Any]:
    """M-RoPE. The older key wins where there are both, as in transformers."""
    key = "rope_scaling" if text.get("rope_scaling") is not None else "rope_parameters"
    rope = text.section(key, is_needed=False)
    kind = "rope_type" if rope.get("rope_type") is not None else "type"
    if rope.get(kind) not in ("mrope", "default", None):
        rope.wrong(kind, "'mrope' or 'default'")
    rope.only("partial_rotary_factor", 1.0)
    theta = (rope if rope.get("rope_theta") is not None else text).positive("rope_theta", 1e6)
    sections = _SECTIONS if rope.get("mrope_section") is None else rope.get("mrope_section")
    is_right = isinstance(sections, list) and len(sections) == 3 and all(_is_token(part, None) for part in sections)
    if head_width is not None and not (is_right and 2 * sum(sections) == head_width):
        rope.wrong("mrope_section", f"three numbers that add up to {head_width / 2:g}")
    return {"rope_theta": theta, "rope_sections": tuple(sections) if is_right else None}


def _vision_values(vision: _Fields, text: _Fields) -> dict[str, Any]:
    width, heads, depth = vision.size("hidden_size"), vision.size("num_heads"), vision.size("depth", most=_MOST_LAYERS)
    if width and heads and (width % heads or (width // heads) % 4):
        vision.wrong("num_heads", f"a divisor of hidden_size {width} that leaves heads of a multiple of 4")
    if _is_token(text.get("hidden_size"), None) and vision.size("out_hidden_size") not in (
        text.get("hidden_size"),
        None,
    ):
        vision.wrong("out_hidden_size", f"hidden_size {text.get('hidden_size')} of the decoder")
    patch, merge = vision.size("patch_size", 14), vision.size("spatial_merge_size", 2)
    window = vision.size("window_size", 112)
    if patch and merge and window and window % (patch * merge):
        vision.wrong("window_size", f"a multiple of patch_size x spatial_merge_size, {patch * merge}")
    layers = vision.ids("fullatt_block_indexes", below=depth)
    vision.only("hidden_act", "silu")
    vision.only("in_channels", 3)
    vision.only("in_chans", 3)
    rope = vision.section("rope_parameters", is_needed=False)
    rope.only("rope_theta", _VISION_THETA)
    rope.only("partial_rotary_factor", 1.0)
    if rope.get("rope_type") not in ("axial", "default", None):
        rope.wrong("rope_type", "'axial'")
    return {
        "width": width,
        "depth": depth,
        "heads": heads,
        "hidden": vision.size("intermediate_size"),
        "output_width": text.get("hidden_size"),
        "full_attention_layers": layers and tuple(sorted(layers)),
        "window_size": window,
        "patch_size": patch,
        "merge_size": merge,
        "temporal_patch_size": vision.size("temporal_patch_size", 2),
    }


def _token_ids(root: _Fields, text: _Fields, generation: _Fields) -> dict[str, Any]:
    size = text.get("vocab_size")
    vocabulary = size if _is_token(size, None) else None
    values: dict[str, Any] = {key: root.token(key, vocabulary) for key in _VISION_IDS}
    eos_source = next((f for f in (generation, text) if f.get("eos_token_id") not in (None, [])), None)
    eos: tuple[int, ...] = ()
    if eos_source is None:
        generation.wrong("eos_token_id", "the id or ids that end a completion here or in config.json (none could end)")
    else:
        value = eos_source.get("eos_token_id")
        listed = value if isinstance(value, list) else [value]
        if all(_is_token(number, vocabulary) for number in listed):
            eos = tuple(dict.fromkeys(listed))
        else:
            eos_source.wrong("eos_token_id", f"{_token_range(vocabulary)}, or a list of such")
    marks = [values[key] for key in _VISION_IDS if values[key] is not None]
    if len({*marks, *eos}) < len(marks) + len(eos):
        named = ", ".join(f"{key} {values[key]}" for key in _VISION_IDS)
        root.problems.append(f"token ids: expected different ones, got {named}, eos_token_id {_shown(eos)}")
    pad = eos[0] if eos else None
    for key in ("bos_token_id", "pad_token_id"):
        source = next((f for f in (generation, text) if f.get(key) is not None), None)
        if source is not None:
            number = source.token(key, vocabulary, other=" or null")
            pad = number if key == "pad_token_id" else pad
    return {**values, "eos_token_ids": eos, "pad_token_id": pad}


def _is_token(value: Any, vocabulary: int | None) -> bool:
    return type(value) is int and 0 <= value < (vocabulary or _LARGEST_SIZE)


def _token_range(vocabulary: int | None) -> str:
    return f"a token id from 0 to {vocabulary - 1}" if vocabulary else "a token id"


def _shown(value: Any) -> str:
    """A value as a message shows it: short, whatever it is."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
