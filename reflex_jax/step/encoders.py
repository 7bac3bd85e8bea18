"""The text encoders that a run's rewards ask, opened once at its start under the names that their option `encoder` says."""

from __future__ import annotations

from pathlib import Path

from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.config import Config, ConfigError
from reflex_jax.judge.evidence import Judge, load_judge
from reflex_jax.judge.text_encoder import BertTextEncoder, judge_text_encoder, load_text_encoder
from reflex_jax.rewards.components import REWARDS
from reflex_jax.rewards.text_encoder import JUDGE


def encoder_settings(config: Config) -> dict[str, str]:
    """Each encoder of a run -> the first setting that names it."""
    found: dict[str, str] = {}
    for name, component in config.rewards.components.items():
        if name in REWARDS and REWARDS[name].needs == "text_encoders":
            found.setdefault(component.options["encoder"], f"rewards.components.{name}.encoder")
    return found


def encoder_directories(config: Config) -> dict[str, Path]:
    """Where each encoder lies.

    Raises:
      ConfigError: one is not there.
    """
    return {
        name: resolve_checkpoint(config.judge.path, "judge")
        if name == JUDGE
        else resolve_checkpoint(name, "encoder", setting=setting)
        for name, setting in encoder_settings(config).items()
    }


def open_encoders(config: Config, judge: Judge | None) -> dict[str, BertTextEncoder]:
    """Opens all of them; weights lie on the first device of this process.

    Args:
      config: of the run.
      judge: of the run, whose text tower is shared; None: it is read for its text tower, where a reward asks it.
    Raises:
      ConfigError: encoders cannot be opened, or do not have what the options of a reward ask of them; all of them, a line each.
    """
    opened: dict[str, BertTextEncoder] = {}
    complaints: list[str] = []
    for name, setting in encoder_settings(config).items():
        try:
            if name == JUDGE:
                opened[name] = judge_text_encoder(judge or load_judge(config.judge.path, config.judge.dtype))
            else:
                opened[name] = load_text_encoder(resolve_checkpoint(name, "encoder", setting=setting), setting=setting)
        except ConfigError as error:
            complaints.append(str(error))
    for name, component in config.rewards.components.items():
        if name in REWARDS and REWARDS[name].needs == "text_encoders" and component.options["encoder"] in opened:
            asked = {key: component.options[key] for key in ("pooling", "layer") if key in component.options}
            problems = opened[component.options["encoder"]].problems(**asked)
            complaints += [f"rewards.components.{name}.{problem}." for problem in problems]
    if complaints:
        raise ConfigError("\n".join(complaints))
    return opened
