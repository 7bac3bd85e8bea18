"""A run directory has one owner, one configuration, and says in one line why it cannot be used."""

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys

import pytest

from reflex_jax.config import Component, Config, ConfigError, config_to_dict
from reflex_jax.config_reader import load_config
from reflex_jax.run.directory import FREE_KEYS, load_run_config, open_run_directory
from reflex_jax.run.ownership import LOCK_FILE, refuse_second_owner, sole_owner

OWNER = """
import sys, time
from pathlib import Path
from reflex_jax.run.ownership import sole_owner
with sole_owner(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(600)
"""
# a value for every setting that is not the default, so that a change of each can be tried
OTHER = {
    "policy.dtype": "float32", "policy.trainable": "language", "memory.attention": "fused", "memory.gradient_sums": "float32",
    "judge.dtype": "bfloat16",
    "judge.resize": "squash", "judge.saliency": "gradcam", "judge.tie_rule": "paper", "judge.quantile": 0.6,
    "data.root": "/elsewhere",
    "data.cache": "/elsewhere", "rollout.top_p": 0.5, "rollout.eos_ids": [3], "memory.rollout_weights": "sharded",
    "grpo.kl_estimator": "k2", "grpo.ratio": "ref", "grpo.aggregation": "token", "grpo.advantage": "none",
    "grpo.minibatches": 2, "memory.microbatch_prompts": 8, "optimizer.name": "sgd", "optimizer.schedule": "linear",
    "optimizer.b1": 0.5, "optimizer.b2": 0.5, "training.best_metric": "reward/total", "mesh.preset": "cpu",
    "mesh.data": 2, "sft.noise": 0.5, "training.steps": 7, "data.phases": [{"answer_type": "any"}],
    "rewards.components": {"format": Component()}, "logging.wandb_project": "p",
}  # fmt: skip


def config_in(directory, *overrides: str) -> Config:
    return load_config(None, [f"run.dir={directory}", "data.source=phantom", *overrides])


def flat(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict) and f"{prefix}{key}" != "rewards.components":
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def changed(key: str, value):
    """Another valid value of a setting."""
    if key in OTHER:
        return OTHER[key]
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, (int, float)) else f"{value}-other"


def with_setting(config, key: str, value):
    """A record with another value at "section.key", or deeper, which none of them checks."""
    section, _, name = key.partition(".")
    if key == "data.phases":
        value = tuple(dataclasses.replace(config.data.phases[0], **phase) for phase in value)
    if name:
        value = with_setting(getattr(config, section), name, value)
    # the choice need not be one of this source or device
    changed_section = object.__new__(type(config))
    for field in dataclasses.fields(changed_section):
        object.__setattr__(changed_section, field.name, getattr(config, field.name))
    object.__setattr__(changed_section, section, value)
    return changed_section


def refusal(config: Config) -> str:
    with pytest.raises(ConfigError) as error, open_run_directory(config):
        pass
    return str(error.value)


def test_a_setting_is_free_to_change_only_if_the_table_says_so(tmp_path):
    config = config_in(tmp_path / "run", "policy.dtype=bfloat16")  # which every memory.attention can have
    with open_run_directory(config) as is_resumed:
        assert not is_resumed
    settings = dict(flat(config_to_dict(config)))
    assert FREE_KEYS.keys() <= settings.keys()
    assert {key for key in settings if key.startswith("memory.")} <= FREE_KEYS.keys()  # how, never what
    others = {key: changed(key, value) for key, value in settings.items() if key != "run.dir"}
    assert all(others[key] != settings[key] for key in others)
    free, fixed = config, config
    for key, value in others.items():
        if key in FREE_KEYS:
            free = with_setting(free, key, value)
        else:
            fixed = with_setting(fixed, key, value)
    with open_run_directory(free) as is_resumed:
        assert is_resumed
    named = [line.partition(":")[0] for line in refusal(fixed).splitlines()[1:]]
    for key in {*others} - FREE_KEYS.keys():  # a mapping by its keys
        assert any(name == key or name.startswith(f"{key}.") for name in named), key


def test_the_length_is_part_of_a_schedule_that_ends(tmp_path):
    quick = (tmp_path / "run", "optimizer.schedule=cosine", "training.steps=4")
    with open_run_directory(config_in(*quick)):
        pass
    assert "cosine schedule was laid out for 4" in refusal(config_in(*quick[:2], "training.steps=5"))


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere", "/dev/null/run", "x" * 300, "dangling"])
def test_a_directory_that_cannot_be_made_is_one_line(tmp_path, place):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "dangling").symlink_to(tmp_path / "no" / "such" / "place")
    message = refusal(config_in(tmp_path / place))
    assert message.startswith("run.dir: ") and "\n" not in message and "Name another" in message
    assert (tmp_path / "file").read_text() == "precious"


def test_an_empty_name_or_directory_is_refused():
    for key in ("name", "dir"):
        run = dataclasses.replace(Config().run, **{key: "  "})
        assert refusal(dataclasses.replace(Config(), run=run)).startswith(f"run.{key}: expected a {key}; got '  '")


def test_a_start_that_was_killed_before_its_settings_were_written_is_started_anew(tmp_path):
    for name in (LOCK_FILE, "config.yaml.part"):
        (tmp_path / name).write_text("{")
    with open_run_directory(config_in(tmp_path)) as is_resumed:
        assert not is_resumed
    with open_run_directory(config_in(tmp_path)) as is_resumed:
        assert is_resumed
    assert (tmp_path / LOCK_FILE).read_bytes() == b""


def test_settings_that_were_cut_off_do_not_become_defaults(tmp_path):
    config = config_in(tmp_path)
    with open_run_directory(config):
        pass
    path = tmp_path / "config.yaml"
    whole = path.read_bytes()
    for cut in (b"", b"run: {na", b"\xff\xfe", b"[]", *(whole[:end] for end in range(40, len(whole) - 4, 97))):
        path.write_bytes(cut)
        message = refusal(config)
        assert (
            "config.yaml" in message
            and ("cut off" in message or "expected a YAML file" in message)
            and "\n" not in message
        )
        with pytest.raises(ConfigError, match="config.yaml"):
            load_run_config(tmp_path, [])
    path.write_bytes(whole)
    with open_run_directory(config) as is_resumed:
        assert is_resumed


def test_settings_that_cannot_be_written_whole_are_not_written(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        message = refusal(config_in(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "config.yaml cannot be written" in message and "\n" not in message
    assert not (tmp_path / "config.yaml").exists()
    with open_run_directory(config_in(tmp_path)) as is_resumed:
        assert not is_resumed


@pytest.fixture
def owner(tmp_path):
    """Another process that owns the directory."""
    with subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "mine\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path, owner):
    with pytest.raises(ConfigError) as early:
        refuse_second_owner(tmp_path)
    with pytest.raises(ConfigError) as error, sole_owner(tmp_path):
        pass
    message = str(error.value)
    assert message == str(early.value)
    assert f"process {owner.pid} on {os.uname().nodename} since 2" in message and "\n" not in message
    assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == owner.pid  # the refused one changed nothing
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    refuse_second_owner(tmp_path)
    refuse_second_owner(tmp_path / "nowhere")
    with sole_owner(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    with sole_owner(tmp_path):
        pass


def test_a_file_system_without_locks_is_said_and_does_not_stop_the_run(tmp_path, monkeypatch, capsys):
    def no_locks(descriptor, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with sole_owner(tmp_path):
        pass
    assert "has no locks; do not start this run twice" in capsys.readouterr().err
