"""Whether the tensors of a checkpoint are those of its configuration; if not, why, in one line of bounded length."""

from __future__ import annotations

import os
import re
from pathlib import Path

from reflex_jax.checkpoints.paths import MERGE_REMEDY
from reflex_jax.checkpoints.qwen_tensors import HEAD, Source, hub_name
from reflex_jax.checkpoints.safetensors_reader import Tensor, printable
from reflex_jax.checkpoints.safetensors_writer import FLOATS
from reflex_jax.checkpoints.tensor_report import describe_tensors
from reflex_jax.config import ConfigError
from reflex_jax.models.qwen_vl import QwenVLConfig

_ADAPTER = re.compile(r"\.(lora_\w+|base_layer|modules_to_save)\.")


def check_fit(tensors: dict[str, Tensor], sources: dict[str, Source], config: QwenVLConfig, *, directory: Path) -> None:
    """Compares names, shapes and dtypes with what the configuration asks for, before any weight is read.

    Args:
      tensors: on disk, under the hub's names.
      sources: of `leaf_sources`.
      config: of the policy. Where its head is the embedding some exporters write it out all the same; it is redundant if
        it is equal.
      directory: of the checkpoint.

    Raises:
      ConfigError: tensors are missing, extra, misshaped or no floats: described by pattern, with examples.
    """
    adapters = [name for name in tensors if _ADAPTER.search(name)]
    if adapters:
        raise ConfigError(
            f"policy.path: {directory} holds an adapter that is not merged ({printable(adapters[0])}). {MERGE_REMEDY}"
        )
    expected = {name: source.tensor_shape for source in sources.values() for name in source.names}
    extra = tensors.keys() - expected.keys()
    missing = expected.keys() - tensors.keys()
    found = expected.keys() & tensors.keys()
    misshaped = {name for name in found if tensors[name].shape != expected[name]}
    is_tied, (embedding,) = config.text.is_tied, sources["embed/embedding"].names
    has_embedding = embedding in found - misshaped
    if is_tied and HEAD in extra and has_embedding and tensors[HEAD].equals(tensors[embedding]):
        extra.remove(HEAD)
    problems = describe_tensors(
        missing,
        extra,
        {name: (expected[name], tensors[name].shape) for name in misshaped},
        wrong_dtypes={name: tensors[name].code for name in found if tensors[name].code not in FLOATS},
    )
    if problems:
        hint = _hint(tensors, expected, missing, extra, config)
        raise ConfigError(f"policy.path: the tensors in {directory} do not fit its config.json. {problems}.{hint}")


def _hint(
    tensors: dict[str, Tensor],
    expected: dict[str, tuple[int, ...]],
    missing: set[str],
    extra: set[str],
    config: QwenVLConfig,
) -> str:
    """What the pattern of missing and extra tensors says about their cause."""
    raw = [tensor.name for tensor in tensors.values()]
    prefix = _dotted_prefix(raw)
    while prefix:  # the longest common prefix may hold a part that belongs to the names
        renamed = {hub_name(name.removeprefix(prefix), config.family) for name in raw}
        if len(renamed & expected.keys()) > len(tensors.keys() & expected.keys()):
            return f" Every name begins with {printable(prefix)!r}, which is not known here: rename them without it."
        prefix = prefix[: prefix.rstrip(".").rfind(".") + 1]
    if extra == {HEAD} and config.text.is_tied:
        return " The head differs from the embedding: set tie_word_embeddings to false in config.json if that is right."
    if missing == {HEAD}:
        return " Set tie_word_embeddings to true in config.json if the head is the embedding."
    return ""


def _dotted_prefix(names: list[str]) -> str:
    """The whole parts, dots included, that all names begin with."""
    common = os.path.commonprefix(names)
    return common[: common.rfind(".") + 1]
