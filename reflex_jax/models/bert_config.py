"""BERT's config.json -> its sizes, of a judge's text tower and of a directory of its own.

Numbers written there win; what is absent has Hugging Face's default where that leaves no choice. A model that differs in kind
(RoBERTa, relative positions) is refused by name: its weights may have BERT's shapes and mean something else.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reflex_jax.config import ConfigError
from reflex_jax.json_files import read_json_object
from reflex_jax.models.bert import ACTIVATIONS, BertConfig

BERT_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
# What config.json leaves out where it equals Hugging Face's default, and leaves no choice here.
BERT_DEFAULTS = {"max_position_embeddings": 512, "type_vocab_size": 2, "pad_token_id": 0, "layer_norm_eps": 1e-12}
LARGEST = 2**20  # of a size: beyond it a file is damaged, and shapes would overflow
_MOST_LAYERS = 128


def read_bert_config(directory: Path, *, setting: str) -> BertConfig:
    """Reads the sizes of a BERT from its Hugging Face directory; `context_length` is all positions.

    Args:
      directory: with config.json.
      setting: the key that led to it, which begins the message.
    Raises:
      ConfigError: the file is damaged, a value is missing or of a wrong type, or the model is no BERT; lists them all.
    """
    path = directory / "config.json"
    written = read_json_object(path, setting=setting)
    problems = [] if "model_type" in written else ["config.json: model_type: expected 'bert'; got none"]
    problems += unknown_bert_kinds(written)
    # of another model the sizes have other names: that they are missing says nothing more
    missing = [key for key in BERT_SIZES if key not in written] if not problems else []
    if missing:
        problems.append(f"config.json: missing {', '.join(missing)}")
    if not problems:
        values = {**BERT_DEFAULTS, **written}
        config = bert_config(values, size_of(values, "max_position_embeddings", "config.json: ", []), problems)
        if not problems:
            return config
    raise ConfigError(f"{setting}: {directory}: {'; '.join(problems)}. Name the directory of a BERT.")


def bert_config(bert: dict[str, Any], context_length: int, problems: list[str]) -> BertConfig:
    """The sizes in config.json, which mean nothing where `problems` come.

    Args:
      bert: all of `BERT_SIZES` and `BERT_DEFAULTS`.
      context_length: tokens of the longest text.
      problems: what is wrong is added to them.
    """
    before = len(problems)
    keys = (*BERT_SIZES, "max_position_embeddings", "type_vocab_size")
    sizes = {key: size_of(bert, key, "config.json: ", problems) for key in keys}
    pad, epsilon = bert["pad_token_id"], bert["layer_norm_eps"]
    if type(pad) is not int or not 0 <= pad < sizes["vocab_size"]:
        problems.append(f"config.json: pad_token_id: expected an id below vocab_size; got {shown(pad)}")
        pad = 0
    if not is_number(epsilon) or not 0 < epsilon < 1:
        problems.append(f"config.json: layer_norm_eps: expected a small number above 0; got {shown(epsilon)}")
        epsilon = BERT_DEFAULTS["layer_norm_eps"]
    if len(problems) == before and (
        sizes["hidden_size"] % sizes["num_attention_heads"] or context_length > sizes["max_position_embeddings"]
    ):
        problems.append(
            f"config.json: expected num_attention_heads to divide hidden_size and context_length to be at most "
            f"max_position_embeddings; got {sizes['num_attention_heads']}, {sizes['hidden_size']}, {context_length}, "
            f"{sizes['max_position_embeddings']}"
        )
    return BertConfig(
        vocabulary=sizes["vocab_size"],
        width=sizes["hidden_size"],
        depth=sizes["num_hidden_layers"],
        heads=sizes["num_attention_heads"],
        hidden=sizes["intermediate_size"],
        positions=sizes["max_position_embeddings"],
        types=sizes["type_vocab_size"],
        pad_token_id=pad,
        context_length=context_length,
        epsilon=epsilon,
        activation=bert.get("hidden_act", "gelu"),
    )


def unknown_bert_kinds(bert: dict[str, Any]) -> list[str]:
    """What a config.json has that this implementation of BERT has not."""
    return unknown_choices(
        (
            ("config.json: model_type", bert.get("model_type", "bert"), ("bert",)),
            ("config.json: hidden_act", bert.get("hidden_act", "gelu"), tuple(ACTIVATIONS)),
            ("config.json: position_embedding_type", bert.get("position_embedding_type", "absolute"), ("absolute",)),
            ("config.json: is_decoder", bert.get("is_decoder", False), (False,)),
        )
    )


def unknown_choices(expected: Iterable[tuple[str, Any, tuple[Any, ...]]]) -> list[str]:
    """Complains of each (key, value, choices) whose value is none of the choices, in type too."""
    return [
        f"{key}: expected {' or '.join(repr(choice) for choice in known if choice is not None)}; got {shown(got)}"
        for key, got, known in expected
        if not any(got == choice and type(got) is type(choice) for choice in known)
    ]


def size_of(values: dict[str, Any], key: str, section: str, problems: list[str]) -> int:
    """A whole number that counts something; 1 where it is none."""
    value = values[key]
    largest = _MOST_LAYERS if "layers" in key else LARGEST
    if type(value) is int and 1 <= value <= largest:
        return value
    problems.append(f"{section}{key}: expected a whole number from 1 to {largest}; got {shown(value)}")
    return 1


def is_number(value: Any) -> bool:
    """Whether it is one that float32 holds: a larger one would be infinite there."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 3e38


def shown(value: Any) -> str:
    """A value as a message shows it."""
    return repr(value) if len(repr(value)) <= 80 else repr(value)[:80] + "..."
