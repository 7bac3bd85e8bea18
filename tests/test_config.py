"""Configurations: what a value means, what is refused, and with which words."""

import dataclasses
import random
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from reflex_jax.config import (
    ALGORITHM_PRESETS,
    Component,
    Config,
    ConfigError,
    MemoryConfig,
    RunConfig,
    config_to_dict,
)
from reflex_jax.config_reader import load_config, load_saved_config, save_config

# what YAML 1.1, OmegaConf or a shell would read as something else
ODD_NAMES = (
    "s/exp #2", "1.10", "2024_01_02", "2024-01-02", "007", "010", "1e5", "0x10", "1:30", ".inf", "@x", "%x", "`x", "${x}",
    "${oc.env:HOME}", "a: b", "a:b", "[x]", "{a: 1}", "yes", "No", "on", "true", "~", "~/x", "- x", "? x", "! x", "&x", "*x",
    "| x", "> x", "x  ", "  x", '"x"', "'x'", "it's", "a=b", "=", "<<", "...", "---", "a\tb", "a\nb", "Lästig", "肺", "x" * 200,
)  # fmt: skip
TEXT_KEYS = ("run.name", "run.dir", "policy.path", "judge.path", "data.root", "data.cache", "data.split")


def value_of(config: Config, key: str):
    """The value of a dotted key."""
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def refusal(overrides: list[str], path: Path | None = None) -> str:
    """The message of a configuration that must be refused."""
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    return str(error.value)


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
    assert config.rewards.weights["format"] == 0.5


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
        (["grpo=5"], ["grpo", "section"]),
        (["group_size"], ["section.key=value"]),
        (["data.phases=[{answer_tipe: open}]"], ["answer_tipe", "'answer_type'"]),
        (["grpo.group_size=1", "optimizer.b1=2"], ["grpo.group_size", "optimizer.b1"]),
        (["run.seed=-1"], ["run.seed", "0 to 4294967295", "-1"]),
        (["run.seed=4294967296"], ["run.seed", "4294967296"]),
        (["run.name="], ["run.name", "text", "''"]),
        (["run.name=\udcff"], ["run.name", "UTF-8"]),
        (["data.root="], ["data.root", "''", "null for none"]),
        (["memory.attention=cudnn"], ["memory.attention", "'cudnn'", "memory.attention=fused"]),
        (["memory.attention=fused"], ["memory.attention=fused", "policy.dtype=bfloat16"]),
        (["data.phases.0.fraction=1"], ["data.phases", "as a whole"]),
        (["grpo.group_size.x=1"], ["grpo.group_size", "has no keys"]),
        (["rollout.eos_ids=7"], ["rollout.eos_ids", "a list", "'7'"]),
        (["data.phases=[{answer_type: open}, 3]"], ["data.phases[1]", "mapping", "'3'"]),
        (["data.phases=[{answer_type: open, answer_type: closed}]"], ["data.phases", "answer_type", "twice"]),
        (["data.phases=[{answer_type: open}"], ["data.phases", "YAML"]),
        (["rewards.components={visual_fidelity: 0}"], ["rewards.components", "other than 0", "names all"]),
        (["rewards.components.answer.parts.bleu1=-1"], ["rewards.components.answer.parts", ">= 0"]),
        (["rewards.components.answer.parts.blue1=1"], ["rewards.components.answer.parts", "bleu1, rouge1", "blue1"]),
        (["rewards.components.provenance.text_treshold=1"], ["provenance.text_treshold", "'text_threshold'"]),
        (["rewards.components.provenance.text_threshold=2"], ["provenance.text_threshold", "[-1, 1]", "2.0"]),
        (["rewards.components.visual_fidelity.iou_threshold=x"], ["visual_fidelity.iou_threshold", "number", "'x'"]),
        (["rewards.components.format.when=rigt"], ["rewards.components.format.when", "'right'"]),
        (["rewards.components.format.when.x=1"], ["rewards.components.format.when", "has no keys"]),
        (["rewards.components.format=[1]"], ["rewards.components.format", "'[1]'"]),
        (["rewards.components={format: [1]}"], ["rewards.components.format", "{weight: 1, ...}", "a list"]),
        (["rewards.components={format: }"], ["rewards.components.format", "null"]),
        (
            ["rewards.components.answr=1", "rewards.components.format.x=1", "rewards.components.answer.weight=y"],
            ["answr", "'answer'", "format.x", "weight, when", "answer.weight", "'y'"],
        ),
        (["judge.iou_threshold=0.4"], ["judge.iou_threshold", "rewards.components.visual_fidelity.iou_threshold"]),
        (["judge.text_threshold=0.4"], ["judge.text_threshold", "rewards.components.provenance.text_threshold"]),
        (["judge={image_threshold: 0.4}"], ["judge.image_threshold", "rewards.components.provenance.image_threshold"]),
        (["rewards.open_answer_parts.bleu1=1"], ["rewards.open_answer_parts", "rewards.components.answer.parts"]),
        (["mesh.preset=[x]"], ["mesh.preset", "'[x]'"]),
        (["evidence.every=-1"], ["evidence.every", ">= 0", "-1"]),
        (["evidence.every=9", "rewards.normalise=component_batch"], ["evidence.groups=8", "0 (all of a step)"]),
        (["evidence.every=9", "grpo.advantage=batch_std"], ["evidence.groups=8", "batch_std"]),
        (
            ["judge.picture=frist"],
            ["judge.picture: expected first, last, mean, or the number", "Did you mean 'first'?"],
        ),
        (["judge.picture=1.5"], ["judge.picture", "the number of a picture, 0 the first and -1 the last; got '1.5'"]),
        (["judge.picture=mean", "evidence.every=1"], ["evidence.every=1", "expected 0 with judge.picture=mean"]),
        (["grpo.kl_in=token_reward"], ["grpo.kl_in=token_reward", "grpo.advantage=batch", "got sample_std and token"]),
        (
            ["grpo.preset=reinforce_pp", "grpo.ratio_level=sequence"],
            ["grpo.kl_in=token_reward", "got batch and sequence"],
        ),
        (
            ["grpo.preset=reinforce_pp", "rewards.normalise=component"],
            ["rewards.normalise", "expected grpo.kl_in=loss"],
        ),
    ],
)
def test_wrong_input_is_refused_by_name(overrides, words):
    message = refusal(overrides)
    for word in words:
        assert word in message


def test_a_picture_has_one_word_for_one_thing():
    """So that a run that was saved with its number goes on with its name."""
    for name, others in {"first": ["0", "-0"], "last": ["-1"], "2": ["02"], "mean": []}.items():
        for text in (name, *others):
            assert load_config(None, [f"judge.picture={text}"]).judge.picture == name


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match="nowhere.yaml"):
        load_config("nowhere.yaml")


def test_every_shipped_configuration_loads(repository):
    for path in sorted((repository / "configs").glob("*.yaml")):
        data = yaml.safe_load(path.read_text()).get("data", {})
        overrides = ["data.root=/somewhere"] if "sources" in data or data.get("source", "phantom") != "phantom" else []
        assert config_to_dict(load_config(path, overrides))


def test_a_mesh_preset_sets_the_axes_and_what_comes_after_it_wins(repository):
    config = load_config(repository / "configs" / "reflex_med_7b.yaml", ["mesh.preset=v5e-8", "data.root=x"])
    assert (config.mesh.data, config.mesh.fsdp, config.mesh.tensor) == (-1, 8, 1)
    config = load_config(None, ["mesh.preset=v5p-64", "mesh.tensor=4"])
    assert (config.mesh.fsdp, config.mesh.tensor) == (16, 4)
    with pytest.raises(ConfigError, match="mesh.preset.*v5e-8"):
        load_config(None, ["mesh.preset=v99"])


@pytest.mark.parametrize("name", ALGORITHM_PRESETS)
def test_an_algorithm_preset_sets_its_keys_and_what_comes_after_it_wins(name):
    grpo = load_config(None, [f"grpo.preset={name}"]).grpo
    assert {key: getattr(grpo, key) for key in ALGORITHM_PRESETS[name]} == ALGORITHM_PRESETS[name]
    assert load_config(None, [f"grpo.preset={name}", "grpo.clip_high=0.3"]).grpo.clip_high == 0.3
    assert grpo.algorithm.startswith(f"{name}: ratio_level=") and not load_config(None).grpo.algorithm
    for before in ALGORITHM_PRESETS:  # nothing of an earlier one stays
        assert load_config(None, [f"grpo.preset={before}", f"grpo.preset={name}"]).grpo == grpo
    with pytest.raises(ConfigError, match="grpo.preset.*dr_grpo"):
        load_config(None, ["grpo.preset=drgrpo"])


def test_a_run_says_of_its_preset_what_the_manual_shows(repository):
    grpo = load_config(repository / "configs" / "phantom.yaml", ["grpo.preset=dapo", "grpo.clip_high=0.25"]).grpo
    shown = (repository / "docs" / "objectives.md").read_text(encoding="utf-8").splitlines()
    assert f"grpo.preset={grpo.algorithm}" in shown


def test_a_resolved_configuration_with_a_preset_reads_back_as_it_was(tmp_path):
    config = load_config(None, ["mesh.preset=v6e-16", "mesh.fsdp=4", "grpo.preset=gspo", "grpo.clip_high=0.1"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


# --- text


@pytest.mark.parametrize("key", TEXT_KEYS)
def test_text_in_an_override_is_taken_as_it_stands(key):
    for name in ODD_NAMES:
        assert value_of(load_config(None, [f"{key}={name}"]), key) == name


def test_null_is_none_where_a_text_may_be_absent_and_a_text_elsewhere():
    assert load_config(None, ["data.root=x", "data.root=null"]).data.root is None
    assert load_config(None, ["run.name=null"]).run.name == "null"
    assert load_config(None, ["training.steps=3", "training.steps=null"]).training.steps is None


@pytest.mark.parametrize(
    "name", ["1.10", "2024_01_02", "2024-01-02", "007", "010", "1e5", "0x10", "1:30", "yes", "off", "~/x"]
)
def test_text_without_quotes_in_a_file_is_what_the_file_shows(tmp_path, name):
    path = tmp_path / "c.yaml"
    path.write_text(f"run: {{name: {name}, dir: {name}}}  # a comment\n")
    assert load_config(path).run == RunConfig(name=name, dir=name)


@pytest.mark.parametrize("name", ["@x", "%x", "[x]", "{a: 1}", "a: b", "~", "null", "", "*x", "&x", "!x 1", "!!int 3"])
def test_text_that_yaml_reads_otherwise_is_refused_in_a_file_until_it_is_quoted(tmp_path, name):
    path = tmp_path / "c.yaml"
    path.write_text(f"run:\n  name: {name}\n")
    message = refusal([], path)
    assert "\n" not in message and ("run.name" in message or "line 2" in message)
    if name:
        path.write_text(f"run:\n  name: '{name}'\n")
        assert load_config(path).run.name == name


def test_a_comment_that_looks_like_the_rest_of_a_text_is_refused(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("run:\n  name: s/exp #2\n")
    message = refusal([], path)
    assert "run.name" in message and "'#2'" in message and "quotes" in message and "\n" not in message
    path.write_text("run:\n  name: s/exp  # the second\ngrpo:\n  group_size: 4 #four\n")
    config = load_config(path)
    assert (config.run.name, config.grpo.group_size) == ("s/exp", 4)


def test_a_home_folder_is_meant_by_a_tilde_when_the_folder_is_used(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of/mine")
    assert load_config(None, ["run.dir=~/x"]).run.directory == Path("/home/of/mine/x")
    assert load_config(None, ["run.dir=x~"]).run.directory == Path("x~")
    assert load_config(None, ["run.dir=~nobody-here/x"]).run.directory == Path("~nobody-here/x")
    assert load_config(None, ["run.name=1.10"]).run.directory == Path("runs/1.10")


# --- numbers and choices between two


@pytest.mark.parametrize(
    ("text", "number"),
    [("10", 10), ("010", 10), ("1_000", 1000), ("1e3", 1000), ("+7", 7), ("8.0", 8), (" 5 ", 5), ("5.", 5), ("٣", 3)],
)
def test_a_whole_number_is_what_python_reads(tmp_path, text, number):
    path = tmp_path / "c.yaml"
    path.write_text(f"training: {{steps: {text}}}\n", encoding="utf-8")
    for config in (load_config(path), load_config(None, [f"training.steps={text}"])):
        assert config.training.steps == number and type(config.training.steps) is int


@pytest.mark.parametrize(
    "text", ["0x10", "0o10", "1:30", "2.5", "1e400", "1e25", "inf", "nan", "true", "four", "1,000", "''", "9" * 5000]
)
def test_no_other_text_is_a_whole_number(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(f"training:\n  steps: {text}\n")
    for message in (refusal([], path), refusal([f"training.steps={text}"])):
        assert message.startswith("training.steps: expected a whole number of at most 4294967295; got ")
        assert "\n" not in message and len(message) < 200


@pytest.mark.parametrize(("text", "number"), [(".5", 0.5), ("5.", 5.0), ("1e-6", 1e-6), ("1_0.5", 10.5), ("010", 10.0)])
def test_a_number_is_what_python_reads(tmp_path, text, number):
    path = tmp_path / "c.yaml"
    path.write_text(f"optimizer: {{learning_rate: {text}}}\n")
    for config in (load_config(path), load_config(None, [f"optimizer.learning_rate={text}"])):
        assert config.optimizer.learning_rate == number


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", ".inf", ".nan", "1e999", "1:30.5", "2024-01-02", "no", "1/2"])
def test_a_number_is_finite(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(f"grpo: {{clip_low: {text}}}\n")
    for message in (refusal([], path), refusal([f"grpo.clip_low={text}"])):
        assert message.startswith("grpo.clip_low: expected a finite number; got ")
    assert "rewards.components.answer" in refusal([f"rewards.components.answer={text}"])


def test_true_and_false_have_three_words_each(tmp_path):
    path = tmp_path / "c.yaml"
    for is_on, words in ((True, "true True YES on"), (False, "false no OFF Off")):
        for word in words.split():
            path.write_text(f"memory: {{remat: {word}}}\n")
            assert load_config(path).memory.remat is is_on
            assert load_config(None, [f"memory.remat={word}"]).memory.remat is is_on
    for word in ("1", "0", "y", "t", "null", "", "'true'"):
        assert "expected true or false" in refusal([f"memory.remat={word}"])


# --- mappings


def test_one_entry_of_a_mapping_leaves_the_others_as_they_stood(tmp_path):
    weights = load_config(None, ["rewards.components.visual_fidelity=0"]).rewards.weights
    assert weights == {"answer": 1.0, "format": 1.0, "visual_fidelity": 0.0, "provenance": 1.0}
    weights = load_config(None, ["rewards.components.answer=2", "rewards.components.format=0.5"]).rewards.weights
    assert weights == {"answer": 2.0, "format": 0.5, "visual_fidelity": 1.0, "provenance": 1.0}
    path = tmp_path / "c.yaml"
    path.write_text("rewards: {components: {answer: 3, format: 0.25}}\n")
    assert load_config(path, ["rewards.components.format=1"]).rewards.weights == {"answer": 3.0, "format": 1.0}


def test_a_shipped_configuration_keeps_three_rewards_where_the_fourth_is_turned_off(repository):
    overrides = ["run.name=mine", "grpo.group_size=4", "rewards.components.visual_fidelity=0"]
    config = load_config(repository / "configs" / "phantom.yaml", overrides)
    assert config.rewards.weights == {"answer": 1.0, "format": 1.0, "visual_fidelity": 0.0, "provenance": 1.0}


def test_a_whole_mapping_names_all_of_its_entries_in_a_file_and_in_an_override(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("rewards: {components: {answer: 1, format: 0.5}}\n")
    assert load_config(path).rewards.weights == {"answer": 1.0, "format": 0.5}
    assert load_config(path, ["rewards.components={provenance: 2}"]).rewards.weights == {"provenance": 2.0}
    later = load_config(path, ["rewards.components={provenance: 2}", "rewards.components.answer=1"]).rewards.weights
    assert later == {"provenance": 2.0, "answer": 1.0}
    assert load_config(path, ["rewards={components: {answer: 2}}"]).rewards.weights == {"answer": 2.0}


def test_an_option_of_a_component_is_set_over_a_weight_a_mapping_or_the_default(tmp_path):
    def provenance(*overrides, text="provenance: 2"):
        path = tmp_path / "c.yaml"
        path.write_text(f"rewards: {{components: {{{text}}}}}\n" if text else "")
        component = load_config(path, list(overrides)).rewards.components["provenance"]
        return component.weight, component.when, *component.options.values()

    stricter = "rewards.components.provenance.text_threshold=0.9"
    assert provenance() == (2.0, "always", 0.8, 0.5)
    assert provenance(stricter) == (2.0, "always", 0.9, 0.5)
    assert provenance(stricter, text="") == (1.0, "always", 0.9, 0.5)
    whole = "provenance: {weight: 3, when: wrong, image_threshold: 0.1}"
    assert provenance(stricter, text=whole) == (3.0, "wrong", 0.9, 0.1)
    # a number alone is the weight: measured, not paid
    assert provenance(stricter, "rewards.components.provenance=0", "rewards.components.format=1", text=whole) == (
        0.0, "wrong", 0.9, 0.1,
    )  # fmt: skip
    again = "rewards.components.provenance={when: right}"
    assert provenance(again, stricter, text=whole) == (1.0, "right", 0.9, 0.5)


def test_a_mapping_among_the_options_follows_the_same_rule():
    def parts(*overrides):
        return load_config(None, list(overrides)).rewards.components["answer"].options["parts"]

    assert parts("rewards.components.answer.parts.bleu1=0") == {"bleu1": 0.0, "rouge1": 0.5}
    assert parts("rewards.components.answer.parts={bleu1: 2}") == {"bleu1": 2.0}
    assert parts("rewards.components.answer={parts: {bleu1: 2}}", "rewards.components.answer.parts.rouge1=1") == {
        "bleu1": 2.0, "rouge1": 1.0,
    }  # fmt: skip


def test_a_section_is_merged_key_by_key(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("grpo: {group_size: 4}\ntraining:\n  # steps: 7\n")
    grpo = load_config(path, ["grpo={clip_low: 0.1}"]).grpo
    assert (grpo.group_size, grpo.clip_low, grpo.clip_high) == (4, 0.1, 0.2)


def test_a_preset_and_an_axis_hold_in_the_order_they_are_given():
    config = load_config(None, ["mesh.tensor=4", "mesh.preset=v5p-64"])
    assert (config.mesh.fsdp, config.mesh.tensor) == (16, 2)


# --- files


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"grpo: {group_size: 4", ["line 1", "YAML"]),
        (b"grpo:\n  group_size: 4\n  group_size: 8\n", ["line 3", "group_size", "twice"]),
        (b"grpo: {}\ngrpo: {}\n", ["line 2", "grpo", "twice"]),
        (b"grpo:\n\tgroup_size: 4\n", ["line 2", "'\\t'"]),
        (b"- grpo\n", ["sections such as `grpo:`", "a list"]),
        (b"grpo: 5\n", ["grpo", "section", "'5'"]),
        (b"a: 1\n---\nb: 2\n", ["line 2"]),
        (b"\xff\xfeg\x00", ["UTF-8"]),
        (b"run: {name: \x00}\n", ["YAML"]),
        (b"x: &x [*x]\n", ["recursive"]),
        (b"run: {name: \"\\UFFFFFFFF\"}\n", ["YAML"]),
        (b"? [a]\n: 1\n", ["a name as key"]),
        (b"[" * 1200, ["YAML"]),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_in_one_line_with_its_name(tmp_path, content, words):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    message = refusal([], path)
    for word in words:
        assert word in message
    assert "\n" not in message and len(message) < 400 and ("broken.yaml" in message or words[0] in ("grpo", "x"))


def test_what_is_no_file_is_refused_by_name(tmp_path):
    assert tmp_path.name in refusal([], tmp_path)
    assert "configs/" in refusal([], tmp_path / "x" / "c.yaml")
    assert "x" * 50 in refusal([], tmp_path / ("x" * 400))


def test_a_byte_order_mark_an_anchor_and_an_empty_section_are_read(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbfpolicy: {path: &p here}\njudge: {path: *p}\ngrpo:\n")
    config = load_config(path)
    assert (config.policy.path, config.judge.path, config.grpo) == ("here", "here", Config().grpo)
    path.write_bytes(b"# nothing\n")
    assert load_config(path) == Config()


# --- there and back


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)
numbers = st.floats(0, 1, exclude_min=True, allow_subnormal=False)


@settings(max_examples=25)
@given(names | st.sampled_from(ODD_NAMES), names | st.none(), numbers, st.integers(0, 2**32 - 1), st.booleans())
def test_what_is_saved_reads_back_as_it_was(tmp_path_factory, name, root, number, seed, is_on):
    default = Config()
    config = dataclasses.replace(
        default,
        run=RunConfig(name=name, dir=root, seed=seed),
        data=dataclasses.replace(default.data, root=root, split=name),
        grpo=dataclasses.replace(default.grpo, clip_low=number, kl_coefficient=1e-5 * number),
        rewards=dataclasses.replace(
            default.rewards,
            components={
                "answer": Component(
                    weight=number, options={"parts": {"rouge1": 1.0}, "contrasts": is_on, "valid_only": is_on}
                ),
                "provenance": Component(when="wrong", options={"text_threshold": number, "image_threshold": -0.5}),
            },
        ),
        policy=dataclasses.replace(default.policy, path=name),
        memory=dataclasses.replace(default.memory, remat=is_on),
    )
    path = tmp_path_factory.getbasetemp() / "saved.yaml"
    save_config(config, path)
    assert load_saved_config(path) == config
    overrides = [f"run.name={name}", f"data.root={'null' if root is None else root}"]
    if root != "null":
        read = load_config(None, overrides)
        assert (read.run.name, read.data.root) == (name, root)


def test_a_saved_configuration_that_was_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    save_config(load_config(None, ["run.name=mine"]), path)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 31):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match="config.yaml: .*cut off") as error:
            load_saved_config(path)
        assert "\n" not in str(error.value)


# --- anything at all


def _random_override(draw: random.Random) -> str:
    sections = {f.name: [k.name for k in dataclasses.fields(f.default_factory)] for f in dataclasses.fields(Config)}
    section = draw.choice([*sections] * 3 + ["grop", ""])
    key = draw.choice(sections.get(section, ["x"]) * 3 + ["nosuch", ""])
    key = draw.choice(
        [f"{section}.{key}"] * 20
        + [
            section,
            key,
            f"{section}.{key}.answer",
            f"{section}.{key}.answer.parts",
            f" {section}.{key} ",
            f"{section}..{key}",
            "\n.x",
        ]
    )
    letters = string.printable + "äß肺\u2028\u202e\ufeff\x1b\x85\udcff\0"
    typed = [
        *ODD_NAMES, "null", "", "-1", "0", "1", "4", "0.5", "1e3", "1e999", "nan", "9" * 400, "true", "[]", "{}", "[1, 2]",
        "[[1], {a: b}]", "{answer: 1}", "{answer: nan}", "[{answer_type: open}]", "[{epochs: 0}]", "[" * 400, "{a: {a: {a: 1}}}",
        "{answer: 1, answer: 2}", "!!python/object/apply:os.getcwd []", "&a [*a]", '"\\UFFFFFFFF"', "'", '"',
    ]  # fmt: skip
    noise = "".join(draw.choice(letters) for _ in range(draw.randrange(12)))
    value = draw.choice([draw.choice(typed), draw.choice(["1", "2", "0.5", "true"]), noise, draw.choice(typed) + noise])
    return key + draw.choice(["="] * 20 + ["", "==", " = "]) + value


def test_five_hundred_overrides_give_a_configuration_or_one_line_each():
    draw, accepted = random.Random(0), 0
    for _ in range(500):
        override = _random_override(draw)
        try:
            accepted += isinstance(load_config(None, [override]), Config)
        except ConfigError as error:
            lines = str(error).split("\n")
            # a list or mapping can hold several offenders
            assert len(lines) == 1 or any(bracket in override for bracket in "{["), (override, lines)
            assert all(line.strip() and len(line) < 700 for line in lines), (override, lines)
    assert 50 < accepted < 450  # neither door is always taken


def test_a_run_of_an_earlier_version_is_read_under_the_names_of_today(tmp_path):
    """But what it did without stays away, and a file of a user says the new name instead."""
    path = tmp_path / "config.yaml"
    save_config(load_config(None, ["memory.remat=false", "memory.microbatch_prompts=4"]), path)
    old = yaml.safe_load(path.read_text())
    memory = old.pop("memory")
    old["policy"] |= {name: memory[name] for name in ("remat", "log_prob_chunk", "attention")}
    old["grpo"]["microbatch_prompts"], old["rollout"]["weights"] = memory["microbatch_prompts"], "sharded"
    old["judge"] |= {"iou_threshold": 0.4, "text_threshold": 0.7, "image_threshold": 0.3}
    old["rewards"] = {"components": {"answer": 1.0, "provenance": 2.0}, "open_answer_parts": {"bleu1": 1.0}}
    path.write_text(yaml.safe_dump(old, explicit_end=True))
    config = load_saved_config(path)
    assert config.memory == MemoryConfig(remat=False, microbatch_prompts=4, rollout_weights="sharded")
    provenance = Component(weight=2.0, options={"text_threshold": 0.7, "image_threshold": 0.3})
    assert config.rewards.components == {
        "answer": Component(
            options={"parts": {"bleu1": 1.0}, "contrasts": False, "valid_only": False}
        ),  # as it was paid then
        "provenance": provenance,
    }
    assert "policy.remat has moved: set memory.remat instead." in refusal([], path)
