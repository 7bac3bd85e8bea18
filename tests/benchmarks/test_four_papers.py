"""The comparison of four papers: its recipes are there, all are scored by one configuration, and intervals are right."""

import dataclasses
import importlib.util

import pytest

from reflex_jax.config_reader import load_config


@pytest.fixture(scope="module")
def four_papers(repository):
    spec = importlib.util.spec_from_file_location("four_papers", repository / "benchmarks" / "four_papers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_papers_are_scored_by_one_configuration_from_one_start(four_papers, repository):
    configs = [load_config(repository / "configs" / f"{name}.yaml") for name in four_papers.RECIPES.values()]
    assert {config.policy.path for config in configs} == {"phantom"}
    assert {config.grpo.prompts_per_step for config in configs} == {16}
    scored = [
        dataclasses.asdict(load_config(repository / "configs" / f"{name}.yaml", list(four_papers.SCORED_ALIKE)))
        for name in four_papers.RECIPES.values()
    ]
    for section, key in (
        ("rewards", None), ("judge", None), ("completion", None), ("data", "phases"), ("data", "prompt"), ("data", "source"),
        ("rollout", "max_new_tokens"), ("training", "evaluation_questions"),
    ):  # fmt: skip
        found = [config[section] if key is None else config[section][key] for config in scored]
        assert all(value == found[0] for value in found), (section, key)


def test_intervals_are_those_of_students_t(four_papers):
    # mean 2, deviation 1, 4.303 / sqrt(3) = 2.484
    assert four_papers.with_interval([1.0, 2.0, 3.0]) == "2.00 ± 2.48"
    assert four_papers.with_interval([0.5]) == "0.50"
    assert four_papers.with_interval([float("nan"), 10.0, 12.0]) == "11.0 ± 12.7"
    assert four_papers.with_interval([float("nan")]) == "-"


def test_a_rise_is_between_the_first_and_the_last_fifth(four_papers, tmp_path):
    lines = [f'{{"step": {step}, "reward/total": {step}}}' for step in range(1, 11)]
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "eval/greedy/accuracy": 0.5}\n' + "\n".join(lines) + "\n")
    assert four_papers.ends(tmp_path, "reward/total") == (1.5, 9.5)
