"""What is not there is said at once, and what will pay nothing before it is paid for."""

import pytest

from reflex_jax.cli import main
from reflex_jax.config import ConfigError
from reflex_jax.config_reader import load_config
from reflex_jax.data.phantom import phantom_examples
from reflex_jax.training.before_loading import refuse_missing, vain_settings
from reflex_jax.training.objectives import Grpo, Supervised

NO_ENDPOINT = "endpoint.url=http://127.0.0.1:9"


def refusal(*overrides, path=None, objective=Grpo):
    with pytest.raises(ConfigError) as refused:
        refuse_missing(objective(load_config(path, [*overrides])))
    return str(refused.value).splitlines()


def begins(lines, *expected):
    assert len(lines) == len(expected), lines
    assert all(line.startswith(begin) for line, begin in zip(lines, expected, strict=True)), lines


def test_a_recipe_with_nothing_set_names_all_that_is_missing(repository, capsys):
    path = repository / "configs" / "medix_r1_8b.yaml"
    data, policy = "data.root: medix needs the directory", "policy.path: expected a directory with config.json"
    encoder, endpoint = (
        "rewards.components.embedding_similarity.encoder: expected",
        "endpoint.url: http://127.0.0.1:9 does not",
    )
    begins(refusal(NO_ENDPOINT, path=path), data, policy, encoder, endpoint)
    assert main(["train", str(path), NO_ENDPOINT]) == 2
    shown = capsys.readouterr().err
    assert all(f"{begin}" in shown for begin in (data, policy, encoder, endpoint)) and "Traceback" not in shown
    begins(refusal("data.root=/nowhere", path=path, objective=Supervised), "data.root: medix expects a folder", policy)


def test_the_judge_and_what_is_there_are_not_named_without_need(tmp_path):
    begins(refusal("judge.path=/nowhere", "policy.path=/nowhere"), "policy.path", "judge.path")
    of_words = "rewards.components={answer: 1}"
    begins(refusal("judge.path=/nowhere", "policy.path=/nowhere", of_words), "policy.path")
    begins(refusal("judge.path=/nowhere", "rewards.components={bertscore: 1}"), "judge.path")
    assert refuse_missing(Grpo(load_config(None))) == ""


@pytest.mark.parametrize("setting", ["rollout.temperature=0", "rollout.top_k=1"])
def test_sampling_that_draws_nothing_is_refused_where_groups_are_compared(setting):
    begins(refusal(setting), f"{setting.partition('=')[0]}: expected")
    assert refuse_missing(Supervised(load_config(None, [setting]))) == ""


@pytest.mark.parametrize(
    "settings, key",
    [
        (["data.prompt=answer_only"], "data.prompt=answer_only"),
        (["completion.thought=none"], "completion.thought=none"),
    ],
)
def test_a_reward_of_thoughts_that_are_not_read_is_refused(settings, key):
    reasoning = "rewards.components={answer: 1, reasoning: 1}"
    (line,) = refusal(reasoning, *settings)
    assert (
        line.startswith("rewards.components.reasoning: expected completions with a thought")
        and f"{key} reads none" in line
    )
    refuse_missing(Grpo(load_config(None, [reasoning])))
    refuse_missing(Grpo(load_config(None, [reasoning, "data.prompt=answer_only", "completion.thought=think"])))


def lines_of(*overrides, examples=()):
    return list(vain_settings(load_config(None, ["data.prompt=think_answer", *overrides]), examples))


def test_a_punishment_of_lengths_that_no_completion_reaches_is_said():
    """From 1024 - 256 + 1 tokens on: a completion of 768 pays nothing, one of 769 does."""
    overlong = "rewards.components={answer: 1, overlong: 1}"
    (line,) = lines_of(overlong, "rollout.max_new_tokens=768")
    assert "overlong: punishes from 769 tokens on (limit=1024, buffer=256), which no completion reaches" in line
    assert line.endswith("set its limit to 768.")
    assert lines_of(overlong, "rollout.max_new_tokens=769") == []


def test_letters_without_options_are_said_before_the_first_step():
    letter, examples = "rewards.components={letter: 1}", phantom_examples("train", 16, 0)
    (line,) = lines_of(letter, "data.phases=[{options: true}, {options: false}, {}, {options: false}]")
    assert "applies to no question of phase 2, 4 of data.phases (options: false)" in line
    without = [example for example in examples if not example.options]
    (line,) = lines_of(letter, examples=without)
    assert "letter: no question of this run has options" in line
    assert lines_of(letter, examples=examples) == [] and any(example.options for example in examples)


def test_completions_that_are_read_otherwise_than_they_are_asked_for_are_said():
    bare = ("data.prompt=bare", "completion.thought=none", "completion.fallback=true")
    shape, whole = lines_of(*bare)
    assert shape.startswith("completion.thought=none: data.prompt=bare goes with a thought in <think>")
    assert whole.startswith("completion.fallback: data.prompt=bare asks for no answer block")
    assert lines_of("data.prompt=medix") == lines_of("data.prompt=bare") == []  # a fallback that goes with its prompt
