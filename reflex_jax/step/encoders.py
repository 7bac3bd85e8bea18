"""The text encoders that a run's rewards ask, opened once at its start under the names that their option `encoder` says."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp

from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.config import Config, ConfigError
from reflex_jax.judge.evidence import Judge, load_judge
from reflex_jax.judge.sentence_settings import read_sentence_settings
from reflex_jax.judge.text_encoder import BertTextEncoder, judge_text_encoder, load_text_encoder
from reflex_jax.models.bert import BertConfig, init_bert_params
from reflex_jax.models.bert_config import read_bert_config
from reflex_jax.models.clip_text import init_text_params
from reflex_jax.models.published import published_encoder
from reflex_jax.rewards.components import REWARDS
from reflex_jax.rewards.text_encoder import JUDGE
from reflex_jax.step.shapes import judge_sizes
from reflex_jax.trees import Params


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


def encoder_sizes(config: Config) -> dict[str, BertConfig]:
    """Sizes of each encoder: of its directory where there is one, else of the published one of that name.

    Raises:
      ConfigError: the size of one is neither on disk nor published.
    """
    found = {}
    for name, setting in encoder_settings(config).items():
        published = None if Path(name).is_dir() else published_encoder(name)
        if name == JUDGE:
            found[name] = judge_sizes(config).text
        elif published is not None:
            found[name] = published
        else:
            directory = resolve_checkpoint(name, "encoder", setting=setting)
            folder = read_sentence_settings(directory, setting=setting).folder
            found[name] = read_bert_config(directory / folder, setting=setting)
    return found


def abstract_encoders(config: Config, *, with_judge: bool) -> dict[str, Params]:
    """The parameters of each encoder, as shapes; of the judge's text tower none where the run holds a judge, which shares them.

    Args:
      config: of the run.
      with_judge: whether the judge is there anyhow.
    Raises:
      ConfigError: as `encoder_sizes`.
    """

    def shapes(name: str, sizes: BertConfig) -> Params:
        if name != JUDGE:
            return jax.eval_shape(lambda: init_bert_params(sizes, jax.random.key(0)))  # float32
        if with_judge:
            return {}
        tower = jax.eval_shape(lambda: init_text_params(sizes, judge_sizes(config).embed_dim, jax.random.key(0)))
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(config.judge.dtype)), tower)

    return {name: shapes(name, sizes) for name, sizes in encoder_sizes(config).items()}


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
