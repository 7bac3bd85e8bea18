"""HOST: what the answers of a folder belong to, pinned in its manifest.json: answers of two policies are never mixed.

The manifest names the weights, how pictures and prompts are made, the sampling of each pass and the questions of each set,
all by content. A folder is added to by what agrees with it in all that both name; a set or a pass that is new is added.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reflex_jax.config import Config, ConfigError
from reflex_jax.config_reader import load_kept_config
from reflex_jax.run.directory import refuse_elsewhere

MANIFEST = "manifest.json"
_WHAT = {  # section -> what is not the same where an entry of it differs
    "policy": "another policy",
    "reading": "other settings of prompts, pictures and answers",
    "rewards": "other rewards, of which --no-rewards is one",
    "data": "other questions",
    "passes": "another sampling, such as another number of --samples",
}


def pin_identity(folder: Path, identity: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    """Holds what is to be written into a folder against its manifest, and adds to that what is new.

    Args:
      folder: made where it is not there.
      identity: section -> entry -> JSON, of what is to be added.
      about: what a reader may want to know and nothing compares.
    Raises:
      ConfigError: an entry is there and is another, the folder has answers without a manifest, or cannot be written.
    """
    found = read_manifest(folder)
    differing = [
        f"{_WHAT[section]} ({', '.join(names)})"
        for section, entries in identity.items()
        if (names := [name for name, value in entries.items() if found.get(section, {}).get(name, value) != value])
    ]
    if differing:
        raise ConfigError(
            f"--to: {folder} holds answers with {'; '.join(differing)}. Ask as before, name another folder, or remove this one."
        )
    merged = {section: {**found.get(section, {}), **identity.get(section, {})} for section in _WHAT}
    _write(folder, {**found, **merged, "about": dict(about)})


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder; empty where it is new.

    Raises:
      ConfigError: it is damaged, or there are answers without one.
    """
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not all(isinstance(found.get(name), dict) for name in _WHAT):
            raise ValueError("it lacks sections")
        return found
    except FileNotFoundError:
        if (folder / "answers.jsonl").exists():
            raise ConfigError(
                f"--to: {folder} has answers and no {MANIFEST} that says whose they are. Name another folder."
            ) from None
        return {}
    except OSError as error:
        raise ConfigError(f"--to: {path} cannot be read ({error.strerror}). Name another folder.") from error
    except ValueError as error:
        raise ConfigError(
            f"--to: {path} is no manifest of `reflex evaluate` ({error}). Name another folder, or remove this one."
        ) from error


def is_evaluation(folder: Path) -> bool:
    """Whether a folder is one of `reflex evaluate`."""
    return (folder / MANIFEST).is_file()


def load_evaluation_config(folder: Path, overrides: Sequence[str]) -> Config:
    """The configuration that the newest answers of a folder were asked with; `run.dir` points at the folder.

    Raises:
      ConfigError: the manifest does not say, an override is none or would point elsewhere.
    """
    kept = read_manifest(folder).get("about", {}).get("config")
    if not isinstance(kept, dict):
        raise ConfigError(
            f"{folder / MANIFEST}: expected the configuration of an evaluation; there is none. Evaluate again."
        )
    refuse_elsewhere(folder, overrides)
    config = load_kept_config(kept, overrides, path=folder / MANIFEST)
    return dataclasses.replace(config, run=dataclasses.replace(config.run, dir=str(folder)))


def digest_of(value: Any) -> str:
    """Hash of JSON."""
    return "sha256:" + hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _write(folder: Path, manifest: Mapping[str, Any]) -> None:
    part = folder / f"{MANIFEST}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        os.replace(part, folder / MANIFEST)  # whole or not at all
    except OSError as error:
        raise ConfigError(f"--to: {folder} cannot be written ({error.strerror}). Name another.") from error
