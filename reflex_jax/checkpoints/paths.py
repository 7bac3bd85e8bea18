"""Where a named checkpoint lies on disk."""

from __future__ import annotations

import os
from pathlib import Path

from reflex_jax.config import ConfigError

_ASSETS = Path(__file__).resolve().parent.parent / "assets"
_MARKER_FILES = {"policy": "config.json", "judge": "open_clip_config.json", "encoder": "config.json"}
_ADAPTER_FILE = "adapter_config.json"
MERGE_REMEDY = "Merge it into its base first: peft's merge_and_unload(), then save_pretrained()."


def resolve_checkpoint(path: str | Path, kind: str, *, setting: str | None = None) -> Path:
    """Returns the directory of a checkpoint.

    Args:
      path: a directory in the Hugging Face (policy) or open_clip (judge) layout, the directory `models--org--name` that
        huggingface_hub keeps of it, or "phantom" for the tiny one that ships with the package.
      kind: "policy", "judge" or "encoder", of which none ships.
      setting: the key that led to it, which begins messages; None: the kind's `path`.
    Raises:
      ConfigError: there is no such directory, or it is not a checkpoint of this kind.
    """
    setting, marker = setting or f"{kind}.path", _MARKER_FILES[kind]
    ships = kind != "encoder"
    try:
        directory = _ASSETS / "phantom" / kind if ships and str(path) == "phantom" else Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{setting}: {str(path)!r}: {error}") from error
    if not os.path.isdir(directory):
        what = "a file, not its directory" if os.path.lexists(directory) else "no directory"
        raise ConfigError(
            f"{setting}: expected a directory with {marker}; {str(path)!r} is {what}. Download the checkpoint "
            f"first{f', or use {setting}=phantom' if ships else ''}."
        )
    if not os.path.isfile(directory / marker) and os.path.isdir(directory / "snapshots"):
        directory = _snapshot(directory, setting)
    found = _listed(directory, setting)
    if kind == "policy" and _ADAPTER_FILE in found:
        raise ConfigError(
            f"{setting}: {directory} is an adapter ({_ADAPTER_FILE}). {MERGE_REMEDY} Or train it on: policy.lora.path."
        )
    if not os.path.isfile(directory / marker):
        is_there = f"; {marker} is there but is no file, or a link to nothing" if marker in found else ""
        raise ConfigError(f"{setting}: expected the file {marker} in {str(directory)!r}; found {found[:8]}{is_there}.")
    return directory


def _snapshot(cache: Path, setting: str) -> Path:
    """The main revision in the hub's cache of a repository: refs/main names a folder of snapshots/."""
    reference = cache / "refs" / "main"
    revision = ""
    if os.path.isfile(reference):
        revision = reference.read_text(encoding="utf-8", errors="replace").strip()
    snapshots = _listed(cache / "snapshots", setting)
    if revision not in snapshots:
        said = f"names {revision[:60]!r}, which is not there" if revision else "is missing or empty"
        raise ConfigError(
            f"{setting}: {cache} is a cache of the hub and its refs/main {said}. Name one of its snapshots: "
            f"{[str(cache / 'snapshots' / name) for name in snapshots[:3]]}, or download it again."
        )
    return cache / "snapshots" / revision


def _listed(directory: Path, setting: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError as error:
        raise ConfigError(f"{setting}: {directory} cannot be read ({error.strerror}).") from error
