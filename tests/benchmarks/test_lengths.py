"""The length trace holds what the recipe reads, and the slots of a layout are counted as the arrays are padded."""

import json

import numpy as np
import pytest


@pytest.fixture
def lengths(monkeypatch, repository):
    monkeypatch.syspath_prepend(repository / "benchmarks")
    import lengths

    return lengths


def test_padded_slots_are_those_of_the_arrays(lengths):
    step = lengths.Step(
        prompt_tokens=np.array([3, 5]), windows=np.array([1, 2]), patches=np.array([4, 6]),
        completion_tokens=np.array([[1, 2, 3], [7, 1, 1]]),
    )  # fmt: skip
    limits = lengths.Limits(max_new_tokens=10, longest_prompt=8, most_windows=3, patches_per_window=4)
    assert lengths.padded(step, limits) == {"update": 2 * 8 + 6 * 10, "sampling": 2 * 8 + 6 * 7, "pictures": 2 * 3 * 4}
    assert lengths.overhead([step, step], limits, lengths.padded) == {
        "update": 76 / 23, "sampling": 58 / 23, "pictures": 24 / 10,
    }  # fmt: skip


@pytest.mark.slow  # tokenises every question of two data sets
def test_the_committed_trace_is_what_the_recipe_reads(lengths, data_root, tmp_path):
    import length_trace

    config, processor = length_trace.prepare(data_root / "tokenizers" / "qwen2.5-vl-7b-instruct", data_root)
    length_trace.write(length_trace.record(config, processor, steps=2), tmp_path / "trace.json")
    recorded, committed = (json.loads(p.read_text()) for p in (tmp_path / "trace.json", lengths.TRACE))
    # the first step is of the curriculum's first phase, however many there are
    assert recorded | {"steps": recorded["steps"][:1]} == committed | {"steps": committed["steps"][:1]}


def test_the_committed_trace_holds_what_its_run_allows(lengths):
    steps, limits = lengths.read_trace()
    assert len(steps) == 20
    for step in steps:
        assert step.completion_tokens.shape == (64, 8)
        assert 0 < step.completion_tokens.min() and step.completion_tokens.max() <= limits.max_new_tokens
        assert step.prompt_tokens.max() <= limits.longest_prompt and step.windows.max() <= limits.most_windows
        assert (step.patches <= step.windows * limits.patches_per_window).all()
    mean = np.mean([step.completion_tokens.mean() for step in steps])
    assert 155 < mean < 165  # 160 less what the cap cuts; the deviation of this mean is 1.6
