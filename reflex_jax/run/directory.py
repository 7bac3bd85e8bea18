"""A run on disk: one folder, owned by one process at a time, resumed by the command that made it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reflex_jax.config import Config, ConfigError, config_to_dict, user_path
from reflex_jax.config_reader import load_saved_config, save_config
from reflex_jax.rewards.components import asks_endpoint
from reflex_jax.run.ownership import LOCK_FILE, sole_owner

CONFIG_FILE = "config.yaml"
_PART = ".part"

# What may change between a run and its continuation; every other setting is refused, also one that is new. Three kinds:
# what decides where, how often and how long; what changes numbers by rounding alone; and what is compared by content.
FREE_KEYS = {
    "policy.path": "by content: another policy is refused (identity.py)",
    "policy.lora.path": "by content, as well",
    "judge.path": "by content, as well",
    "run.name": "where it lies",
    "run.dir": "where it lies",
    "training.steps": "more steps lengthen the last phase, fewer are refused (data/pipeline.py); not with a schedule, below",
    "training.save_every": "how often",
    "training.keep_checkpoints": "how many stay",
    "training.best_metric": "which one stays too; checkpoints carry all metrics, so it is looked up in those there",
    "training.max_skipped_steps": "when a run without finite steps ends",
    "rewards.files": "by content: other code than before is refused (identity.py)",
    "rewards.timeout": "when a completion counts as failed",
    "rewards.max_failure_rate": "when a run whose rewards fail ends",
    "endpoint.url": "where; endpoint.model says who is asked",
    "endpoint.key_variable": "as well",
    "endpoint.concurrency": "how fast",
    "endpoint.deadline_seconds": "when a completion counts as failed",
    "endpoint.connect_seconds": "as well",
    "endpoint.read_seconds": "as well",
    "endpoint.attempts": "as well",
    "endpoint.backoff_seconds": "as well",
    "endpoint.breaker_failures": "as well",
    "endpoint.breaker_seconds": "as well",
    "endpoint.cache": "where replies are kept, by all that they depend on",
    "endpoint.check": "what is looked at before",
    "training.stall_seconds": "when a step is reported",
    "training.log_every": "how often",
    "training.evaluate_every": "how often; the policy is not touched",
    "training.evaluation_questions": "by content: held-out questions other than before are refused (identity.py)",
    "data.validation_split": "by content, as well",
    "data.evaluation_split": "of `reflex evaluate` alone",
    "data.sources": "by content, as data.root; weights stand in the layout of the batches",
    "data.source": "by content, as well",
    "data.split": "by content, as well",
    "data.exclude": "by content, as well",
    "data.refused": "by content, as well",
    "data.validation_fraction": "by content, as well",
    "data.root": "by content: training questions or pictures other than before are refused (identity.py)",
    "data.cache": "where prepared copies lie; they carry the hash of the official files",
    "memory.attention": "rounding",
    "memory.remat": "rounding",
    "memory.log_prob_chunk": "rounding",
    "memory.rollout_weights": "rounding",
    "memory.gradient_sums": "rounding",
    "memory.row_lengths": "rounding",
    "memory.prompt_rungs": "rounding",
    "memory.rollout_prompts": "rounding",
    "memory.rollout_stages": "rounding",
    "memory.microbatch_prompts": "rounding",
    "memory.offload": "rounding",
    "mesh.preset": "rounding",
    "grpo.preset": "by the keys that it sets, which are compared",
    "mesh.data": "rounding",
    "mesh.fsdp": "rounding",
    "mesh.tensor": "rounding",
    "evidence.every": "how often; rounding, where scoring and update were one program (memory.row_lengths=1)",
    "evidence.groups": "how much is written",
    "evidence.saliency": "as well",
    "evidence.pictures": "as well",
    "logging.tensorboard": "a view of the record",
    "logging.wandb_project": "a view of the record",
    "logging.progress": "the terminal",
}


@contextmanager
def open_run_directory(config: Config) -> Iterator[bool]:
    """Makes the folder of a new run, or checks that an old one was started with the same mathematics; owns it in the block.

    Yields:
      True where the folder already holds a run.
    Raises:
      ConfigError: the folder's run differs in a setting that changes its numbers (all of them named), the folder belongs to
        something else or to a process that runs, or it cannot be made or written.
    """
    directory = _make_directory(config)
    with sole_owner(directory):
        path = directory / CONFIG_FILE
        is_resumed = path.exists()
        if is_resumed:
            _check_settings(directory, load_saved_config(path), config)
        else:
            _write_config(config, path)
        yield is_resumed


def load_run_config(directory: str | Path, overrides: list[str], *, runs_rewards: bool = True) -> Config:
    """Reads the configuration a run was made with; it is then looked at where it lies now.

    A run directory may come from anywhere, so code that only it names is never run, and questions, answers and the content of an
    environment variable are not sent to an address that only it names.

    Args:
      directory: of the run, taken as it stands but for a "~".
      overrides: "section.key=value", over what the run was made with.
      runs_rewards: its rewards are to be computed.
    Raises:
      ConfigError: no run there, its file was cut off, an override would point at another run, or the rewards need files or an
        endpoint that no override names.
    """
    place = user_path(directory)
    if not str(directory) or not os.path.isfile(place / CONFIG_FILE):
        raise ConfigError(
            f"{str(directory)!r}: expected a run directory with {CONFIG_FILE}; there is none. Give the folder `reflex train` "
            "printed."
        )
    refuse_elsewhere(directory, overrides)
    config = load_saved_config(place / CONFIG_FILE, overrides)
    named = {text.partition("=")[0].strip() for text in overrides}
    if any(map(asks_endpoint, config.rewards.components)) and runs_rewards and "endpoint.url" not in named:
        key = config.endpoint.key_variable
        raise ConfigError(
            f"endpoint.url: the run directory {str(directory)!r} names an address that answers{' and a key' if key else ''} "
            f"would be sent to. Name it again if you trust it: endpoint.url={config.endpoint.url}"
            f"{f' (the key is in {key}, see endpoint.key_variable)' if key else ''}"
        )
    if config.rewards.files and runs_rewards and "rewards.files" not in named:
        files = ", ".join(config.rewards.files)
        raise ConfigError(
            f"rewards.files: the run directory {str(directory)!r} names code that would be run. Look at it, and name it again "
            f"if you trust it: 'rewards.files=[{files}]'"
        )
    return dataclasses.replace(config, run=dataclasses.replace(config.run, dir=str(place)))


def refuse_elsewhere(directory: str | Path, overrides: Sequence[str]) -> None:
    """Refuses overrides that would point at another run than the one that is named.

    Raises:
      ConfigError: there are some.
    """
    elsewhere = [text for text in overrides if text.partition("=")[0].strip() in ("run.dir", "run.name")]
    if elsewhere:
        raise ConfigError(f"{', '.join(elsewhere)}: the run is {str(directory)!r}; name another one in its place.")


def _make_directory(config: Config) -> Path:
    key = "run.name" if config.run.dir is None else "run.dir"
    text = config.run.name if config.run.dir is None else config.run.dir
    if not text.strip():
        raise ConfigError(f"{key}: expected a {key.partition('.')[2]}; got {text!r}. Leave it out for the default.")
    directory = config.run.directory
    try:
        if directory.is_dir() and not (directory / CONFIG_FILE).exists():
            # what a start leaves that was ended before it could write its settings is no other use
            if {path.name for path in directory.iterdir()} - {LOCK_FILE, CONFIG_FILE + _PART}:
                raise _in_other_use(directory)
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file is in its way" if isinstance(error, (FileExistsError, NotADirectoryError)) else error.strerror
        raise ConfigError(
            f"{key}: the directory {str(directory)!r} cannot be made ({reason}). Name another."
        ) from error
    return directory


def _in_other_use(directory: Path) -> ConfigError:
    return ConfigError(
        f"{directory}: expected a new folder or a run with {CONFIG_FILE}; it holds other files. Set run.name or run.dir."
    )


def _write_config(config: Config, path: Path) -> None:
    part = path.with_name(path.name + _PART)
    try:
        save_config(config, part)
        os.replace(part, path)  # whole or not at all
    except OSError as error:
        raise ConfigError(f"run.dir: {path} cannot be written ({error.strerror}).") from error


def update_run_config(config: Config) -> None:
    """Writes down with which settings a run goes on, where free ones changed; called once its identity is checked.

    Raises:
      ConfigError: it cannot be written.
    """
    path = config.run.directory / CONFIG_FILE
    if load_saved_config(path) != config:
        _write_config(config, path)


def _check_settings(directory: Path, run: Config, now: Config) -> None:
    old, new = _flatten(config_to_dict(run)), _flatten(config_to_dict(now))
    differences = [
        f"{key}: the run has {old.get(key)!r}, now {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in FREE_KEYS
    ]
    # the optimiser's schedule reaches 0 at the last step, so there the length is part of the mathematics
    if now.optimizer.schedule != "constant" and old["training.steps"] != new["training.steps"]:
        differences.append(
            f"training.steps: the {now.optimizer.schedule} schedule was laid out for {old['training.steps']}"
        )
    if differences:
        raise ConfigError(
            f"{directory} holds a run with other settings; continue it with its own, or set run.name for a new one:\n"
            + "\n".join(differences)
        )


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
