"""Configurations: what is refused, and with which words."""

import pytest
import yaml

from reflex_jax.config import Config, ConfigError, config_to_dict
from reflex_jax.config_reader import load_config, save_config


def test_defaults_are_a_valid_configuration_and_survive_a_round_trip(tmp_path):
    config = load_config()
    assert config == Config()
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "grpo: {group_size: 4, prompts_per_step: 2}\ndata: {phases: [{answer_type: open, fraction: 0.5}]}\n"
    )
    config = load_config(
        path, ["grpo.prompts_per_step=6", "optimizer.learning_rate=3e-4", "rewards.components.format=0.5"]
    )
    assert (config.grpo.group_size, config.grpo.prompts_per_step) == (4, 6)
    assert config.optimizer.learning_rate == 3e-4
    assert config.data.phases[0].fraction == 0.5
    assert config.rewards.components["format"] == 0.5


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["grpo.group_sise=4"], ["grpo.group_sise", "Did you mean 'group_size'?"]),
        (["grpo.group_sise=4", "data.rooot=x"], ["grpo.group_sise", "data.rooot", "'root'"]),
        (["grpo.group_size=many"], ["grpo.group_size", "whole number", "'many'"]),
        (["grpo.group_size=2.5"], ["grpo.group_size", "whole number", "2.5"]),
        (["grpo.group_size=1"], ["grpo.group_size", ">= 2", "got 1"]),
        (["grpo.kl_estimator=k1"], ["k1", "no gradient"]),
        (["judge.saliency=gradcm"], ["judge.saliency", "'gradcam'"]),
        (["logging.progress=7"], ["logging.progress", "true or false"]),
        (["rewards.components.answr=1"], ["rewards.components", "'answer'"]),
        (["data.source=vqa_rad"], ["data.root", "data.root=DIR"]),
        (["grpo=5"], ["grpo", "section"]),
        (["group_size"], ["section.key=value"]),
        (["data.phases=[{answer_tipe: open}]"], ["answer_tipe", "'answer_type'"]),
        (["grpo.group_size=1", "optimizer.b1=2"], ["grpo.group_size", "optimizer.b1"]),
    ],
)
def test_wrong_input_is_refused_by_name(overrides, words):
    with pytest.raises(ConfigError) as error:
        load_config(None, overrides)
    for word in words:
        assert word in str(error.value)


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match="nowhere.yaml"):
        load_config("nowhere.yaml")


def test_every_shipped_configuration_loads(repository):
    for path in sorted((repository / "configs").glob("*.yaml")):
        overrides = (
            ["data.root=/somewhere"]
            if yaml.safe_load(path.read_text()).get("data", {}).get("source", "phantom") != "phantom"
            else []
        )
        assert config_to_dict(load_config(path, overrides))


def test_a_mesh_preset_sets_the_axes_and_what_comes_after_it_wins(repository):
    config = load_config(repository / "configs" / "reflex_med_7b.yaml", ["mesh.preset=v5e-8", "data.root=x"])
    assert (config.mesh.data, config.mesh.fsdp, config.mesh.tensor) == (-1, 8, 1)
    config = load_config(None, ["mesh.preset=v5p-64", "mesh.tensor=4"])
    assert (config.mesh.fsdp, config.mesh.tensor) == (16, 4)
    with pytest.raises(ConfigError, match="mesh.preset.*v5e-8"):
        load_config(None, ["mesh.preset=v99"])


def test_a_resolved_configuration_with_a_preset_reads_back_as_it_was(tmp_path):
    config = load_config(None, ["mesh.preset=v6e-16", "mesh.fsdp=4"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
