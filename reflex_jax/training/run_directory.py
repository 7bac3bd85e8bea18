"""A run on disk: one folder, resumed by the command that made it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from reflex_jax.config import Config, ConfigError, config_to_dict, user_path
from reflex_jax.config_reader import load_saved_config, save_config

CONFIG_FILE = "config.yaml"
# What may change between a run and its continuation: it decides how long, how often and where, never what is computed.
_FREE_KEYS = (
    "run.name",
    "run.dir",
    "training.",
    "logging.",
    "mesh.",
    "data.root",
    "data.cache",
    "data.evaluation_split",
)


def open_run_directory(config: Config) -> bool:
    """Makes the folder of a new run, or checks that an old one was started with the same mathematics.

    Returns:
      True where the folder already holds a run.
    Raises:
      ConfigError: the folder's run differs in a setting that changes its numbers (all of them named), or the folder
        belongs to something else.
    """
    directory = config.run.directory
    path = directory / CONFIG_FILE
    if not path.exists():
        if directory.exists() and any(directory.iterdir()):
            raise ConfigError(
                f"{directory}: expected a new folder or a run with {CONFIG_FILE}; it holds other files. Set run.name or run.dir."
            )
        directory.mkdir(parents=True, exist_ok=True)
        save_config(config, path)
        return False
    old, new = _flatten(config_to_dict(load_saved_config(path))), _flatten(config_to_dict(config))
    differences = [
        f"{key}: the run has {old.get(key)!r}, now {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(_FREE_KEYS)
    ]
    # the optimiser's schedule reaches 0 at the last step, so there the length is part of the mathematics
    if config.optimizer.schedule != "constant" and old["training.steps"] != new["training.steps"]:
        differences.append(
            f"training.steps: the {config.optimizer.schedule} schedule was laid out for {old['training.steps']}"
        )
    if differences:
        raise ConfigError(
            f"{directory} holds a run with other settings; continue it with its own, or set run.name for a new one:\n"
            + "\n".join(differences)
        )
    return True


def load_run_config(directory: str | Path, overrides: list[str]) -> Config:
    """Reads the configuration a run was made with; it is then looked at where it lies now.

    Args:
      directory: of the run, taken as it stands but for a "~".
      overrides: "section.key=value", over what the run was made with.
    Raises:
      ConfigError: no run there, its file was cut off, or an override would point at another run.
    """
    place = user_path(directory)
    if not str(directory) or not os.path.isfile(place / CONFIG_FILE):
        raise ConfigError(
            f"{str(directory)!r}: expected a run directory with {CONFIG_FILE}; there is none. Give the folder `reflex train` "
            "printed."
        )
    elsewhere = [text for text in overrides if text.partition("=")[0].strip() in ("run.dir", "run.name")]
    if elsewhere:
        raise ConfigError(f"{', '.join(elsewhere)}: the run is {str(directory)!r}; name another one in its place.")
    config = load_saved_config(place / CONFIG_FILE, overrides)
    return dataclasses.replace(config, run=dataclasses.replace(config.run, dir=str(place)))


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
