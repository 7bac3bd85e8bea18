"""HOST: how a directory of sentence-transformers makes one embedding of a text; any other directory leaves it to the mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflex_jax.config import ConfigError
from reflex_jax.json_files import read_json, read_json_object

_MODULES_FILE, _LENGTH_FILE, _POOLING_FILE = "modules.json", "sentence_bert_config.json", "config.json"
_POOLINGS = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}


@dataclass(frozen=True)
class SentenceSettings:
    """What the files beside a BERT say."""

    folder: str = ""  # of the BERT, inside the directory
    pooling: str = "mean"  # cls | mean
    longest: int | None = None  # tokens of a text; None: as many as the BERT reads


def read_sentence_settings(directory: Path, *, setting: str) -> SentenceSettings:
    """Reads modules.json and what it names; without it, the defaults.

    Args:
      directory: of a BERT.
      setting: the key that led to it, which begins messages.
    Raises:
      ConfigError: a file is damaged, or the embedding is made in a way that is not computed here; all of it is named.
    """
    if not (directory / _MODULES_FILE).is_file():
        return SentenceSettings()
    modules = read_json(directory / _MODULES_FILE, setting=setting)
    if not isinstance(modules, list) or not all(
        isinstance(m, dict) and isinstance(m.get("type"), str) for m in modules
    ):
        raise ConfigError(
            f"{setting}: {directory / _MODULES_FILE}: expected a list of modules with types. Copy it again."
        )
    folders = {module["type"].rpartition(".")[2]: str(module.get("path", "")) for module in modules}
    problems = [
        f"{_MODULES_FILE}: expected Transformer, Pooling and Normalize; got {name[:40]}"
        for name in folders
        if name not in ("Transformer", "Pooling", "Normalize")
    ]
    problems += [
        f"{_MODULES_FILE}: {path[:80]!r} leads out of the directory"
        for path in folders.values()
        if Path(path).is_absolute() or ".." in Path(path).parts
    ]
    pooling, longest = "mean", None
    if not problems and "Pooling" in folders:
        written = read_json_object(directory / folders["Pooling"] / _POOLING_FILE, setting=setting)
        pooling = _pooling(written, problems)
    if not problems and (directory / folders.get("Transformer", "") / _LENGTH_FILE).is_file():
        path = directory / folders.get("Transformer", "") / _LENGTH_FILE
        longest = _length(read_json_object(path, setting=setting), problems)
    if problems:
        raise ConfigError(f"{setting}: {directory}: {'; '.join(problems)}. Name the directory of a plain BERT.")
    return SentenceSettings(folders.get("Transformer", ""), pooling, longest)


def _pooling(written: dict[str, Any], problems: list[str]) -> str:
    """The one way to pool that is switched on."""
    chosen = [key for key, value in written.items() if key.startswith("pooling_mode_") and value is True]
    if isinstance(written.get("pooling_mode"), str):  # how newer versions write it
        chosen = [
            next((key for key, name in _POOLINGS.items() if name == written["pooling_mode"]), written["pooling_mode"])
        ]
    if len(chosen) == 1 and chosen[0] in _POOLINGS:
        return _POOLINGS[chosen[0]]
    problems.append(f"Pooling: expected one of {', '.join(_POOLINGS)}; got {', '.join(chosen)[:120] or 'none'}")
    return "mean"


def _length(written: dict[str, Any], problems: list[str]) -> int | None:
    longest = written.get("max_seq_length")
    if longest is None or type(longest) is int and longest >= 3:
        return longest
    problems.append(f"{_LENGTH_FILE}: max_seq_length: expected a number of tokens; got {str(longest)[:40]}")
    return None
