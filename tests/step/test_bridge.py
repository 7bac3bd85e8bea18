"""The seam: strings in, arrays out; what raises there fails its rows and nothing else."""

import dataclasses
import itertools
import types

import numpy as np
import pytest
from PIL import Image

from reflex_jax.config import Component, ConfigError
from reflex_jax.data.examples import Example, Picture
from reflex_jax.judge.batch import StatementTokenizer
from reflex_jax.rewards.answered import Failed
from reflex_jax.rewards.components import REWARDS, Reward
from reflex_jax.statements.operator import decl
from reflex_jax.step import bridge as host_bridge
from reflex_jax.step.batch import refuse_colliding_options
from reflex_jax.step.bridge import HostBridge
from tests import unchecked
from tests.parity.judge_reference import write_judge_directory
from tests.text.test_sampled_text import QUESTIONS, completions

EXAMPLES = [
    Example(
        id="a", images=(Picture(id="a", data=b""),), question="is there a nodule?", answer="yes", answer_type="closed"
    ),
    Example(
        id="b",
        images=(Picture(id="b", data=b""),),
        question="where is the cyst?",
        answer="left lung",
        answer_type="open",
    ),
]
TEXTS = [
    ["<think></think><answer>yes</answer>", "<answer>no</answer>", "<think></think><answer>boom</answer>", "nothing"],
    [
        "<answer>left lung</answer>",
        "<answer>lung</answer>",
        "<answer>heart</answer>",
        "<think></think><answer>left</answer>",
    ],
]
GROUP = 4


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return StatementTokenizer(write_judge_directory(tmp_path_factory.mktemp("judge")))


ANSWER = Component(options={"parts": {"rouge1": 1.0}})


def bridge_of(tokenizer, **components):
    """Reads `TEXTS`, whose rows are their own numbers in the place of tokens."""
    return HostBridge(
        decode=lambda ids: TEXTS[ids[0] // GROUP][ids[0] % GROUP], statement_tokenizer=tokenizer,
        components=components, max_statement_tokens=16, centered=False,
    )  # fmt: skip


@pytest.fixture
def bridge(tokenizer):
    return bridge_of(tokenizer, answer=ANSWER, format=Component(), provenance=Component())


def replace_reward(monkeypatch, name, function):
    monkeypatch.setitem(REWARDS, name, Reward("row", function))


def run(bridge, examples=EXAMPLES):
    rows = np.arange(len(examples) * GROUP).reshape(len(examples), GROUP, 1)
    return bridge(examples, rows, np.ones(rows.shape, bool), np.zeros((len(examples), 112, 112, 3), np.uint8))


NO_LUCK = ZeroDivisionError("no such luck\nsecond line")


def raising_at(function, argument, error=NO_LUCK):
    """The function, which raises where one of its arguments equals `argument`."""

    def broken(*arguments, **settings):
        if any(np.array_equal(given, argument) for given in arguments):
            raise error
        return function(*arguments, **settings)

    return broken


def assert_only_failed(bridged, rows, reason):
    """The rows failed for a reason; every other number is that of an undisturbed bridge."""
    valid = np.ones((2, GROUP), bool)
    for row in rows:
        valid[row] = False
    np.testing.assert_array_equal(bridged.scores.is_valid, valid)
    undisturbed = {
        "answer": [[1, 0, 0, 0], [1, 2 / 3, 0, 2 / 3]],
        "format": [[1, 0, 1, 0], [0, 0, 0, 1]],
    }
    for name, expected in undisturbed.items():
        expected = np.where(valid, np.float32(expected), np.nan)
        np.testing.assert_array_equal(bridged.scores.components[name], expected, err_msg=name)
    assert not bridged.scores.is_correct[~valid].any()
    reasons = {str(bridged.failures[p][g]) for p, g in rows}
    assert all(each.startswith(reason) for each in reasons), reasons
    assert sum(failure is not None for row in bridged.failures for failure in row) == len(rows)


def test_a_letter_is_stated_as_the_option_of_its_own_question(bridge, monkeypatch):
    """What is kept of an answer is kept for its question and its options; the second look says the same."""
    question = "which organ is enlarged?"
    examples = [
        dataclasses.replace(EXAMPLES[0], id=name, question=question, answer=options[0], options=options)
        for name, options in (("a", ("liver", "spleen")), ("b", ("heart", "aorta")))
    ]
    monkeypatch.setattr(f"{__name__}.TEXTS", [["<answer>B</answer>"] * GROUP] * 2)
    first, again = run(bridge, examples), run(bridge, examples)
    expected = [[decl(question, "B", example.options)] * GROUP for example in examples]
    assert first.statements == again.statements == expected
    assert "spleen" in expected[0][0] and "aorta" in expected[1][0]


def test_without_failures_every_row_counts(bridge, capsys):
    bridged = run(bridge)
    assert_only_failed(bridged, [], "")
    assert bridged.statements[0] == [
        "there is a nodule",
        "there is no nodule",
        "the answer to whether there is a nodule is boom",
        None,
    ]
    assert bridged.anchors == ["there is a nodule", "the cyst is located in the left lung"]
    np.testing.assert_array_equal(bridged.judge.has_statement, [[True, True, True, False], [True] * 4])
    assert bridged.failures == [[None] * 4] * 2 and not capsys.readouterr().err


def raising_for(name, answer, error=NO_LUCK):
    """A reward of the table, which raises for one answer."""
    score = REWARDS[name].function

    def broken(answered, **options):
        if answered.answer == answer:
            raise error
        return score(answered, **options)

    return broken


@pytest.mark.parametrize("component", ["answer", "statement"])
def test_what_raises_on_one_answer_fails_that_row(bridge, monkeypatch, component):
    if component == "answer":
        replace_reward(monkeypatch, "answer", raising_for("answer", "boom"))
    else:
        monkeypatch.setattr(host_bridge, "decl", raising_at(host_bridge.decl, "boom"))
    bridged = run(bridge)
    assert_only_failed(bridged, [(0, 2)], f"{component}: ZeroDivisionError at test_bridge.py:")
    assert bridged.completions == TEXTS  # still there to be read
    assert bridged.judge.has_statement[0, 2] == (component == "answer")


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, "1.0", [1.0], 1e39, {}])
def test_a_reward_that_is_no_number_fails_its_row(bridge, monkeypatch, rubbish):
    score = REWARDS["format"].function
    replace_reward(monkeypatch, "format", lambda row: rubbish if "heart" in row.completion else score(row))
    assert_only_failed(run(bridge), [(1, 2)], "format: ValueError")


def test_a_component_that_does_not_apply_is_neither_a_score_nor_a_failure(bridge, monkeypatch):
    score = REWARDS["format"].function
    replace_reward(monkeypatch, "format", lambda row: None if row.answer is None else score(row))
    bridged = run(bridge)
    assert_only_failed(bridged, [], "")
    np.testing.assert_array_equal(bridged.scores.applies["format"], [[True] * 3 + [False], [True] * 4])
    assert bridged.scores.applies["answer"].all()


@pytest.mark.parametrize("when", ["right", "wrong"])
@pytest.mark.parametrize("with_answer", [True, False])
def test_a_component_may_look_at_right_or_at_wrong_answers_alone(tokenizer, monkeypatch, when, with_answer):
    """Right is what the answer reward says, whether or not it is paid."""
    seen = []
    replace_reward(monkeypatch, "format", lambda row: seen.append(row.answer) or 1.0)
    bridge = bridge_of(tokenizer, format=Component(when=when), **({"answer": ANSWER} if with_answer else {}))
    scores = run(bridge).scores
    right = np.array([[True, False, False, False], [True, True, False, True]])
    np.testing.assert_array_equal(scores.is_correct, right)
    np.testing.assert_array_equal(scores.applies["format"], right if when == "right" else ~right)
    np.testing.assert_array_equal(scores.components["format"], scores.applies["format"])
    assert len(seen) == 4 and scores.components.keys() == ({"answer", "format"} if with_answer else {"format"})


def test_a_batch_is_scored_at_once_and_may_fail_in_part(bridge, monkeypatch):
    def score(rows, *, calls=0.0):
        return [Failed("Busy", "the server did not answer") if row.answer == "heart" else 1 for row in rows]

    monkeypatch.setitem(REWARDS, "format", Reward("batch", score))
    bridged = run(bridge)
    np.testing.assert_array_equal(bridged.scores.is_valid, [[True] * 4, [True, True, False, True]])
    assert str(bridged.failures[1][2]) == "format: Busy: the server did not answer"
    monkeypatch.setitem(REWARDS, "format", Reward("batch", lambda rows: [1.0]))
    bridged = run(bridge)
    assert not bridged.scores.is_valid.any() and "expected 8 scores" in str(bridged.failures[0][0])


def test_a_row_knows_everything_of_its_question(bridge, monkeypatch):
    seen, picture = [], Image.new("RGB", (2, 2))
    replace_reward(monkeypatch, "format", lambda row: seen.append(row) or 1.0)
    example = dataclasses.replace(
        EXAMPLES[0], modality="CT", target="t", images=(Picture(id="a", data=lambda: picture),), options=("x", "y")
    )
    run(bridge, [example, EXAMPLES[1]])
    first, last = seen[0], seen[-1]
    assert (first.question, first.truth, first.answer, first.answer_type) == (
        "is there a nodule?",
        "yes",
        "yes",
        "closed",
    )
    assert (first.completion, first.tokens, first.options) == (TEXTS[0][0], 1, ("x", "y"))
    assert (first.statement, first.anchor) == ("there is a nodule", "there is a nodule")
    assert first.metadata == {"id": "a", "modality": "CT", "target": "t"}
    assert first.load_image() is picture and last.image_id == "b"


def test_without_a_judge_nothing_is_prepared_for_one():
    bridged = run(bridge_of(None, answer=ANSWER, format=Component()))
    assert bridged.judge is None and bridged.statements[0][0] == "there is a nodule"
    assert bridged.scores.is_valid.all()


def test_a_completion_that_cannot_be_decoded_or_parsed_fails_its_row(bridge, monkeypatch):
    monkeypatch.setattr(bridge, "_decode", raising_at(bridge._decode, np.array([3]), UnicodeError()))
    bridged = run(bridge)
    assert_only_failed(bridged, [(0, 3)], "completion: UnicodeError")
    assert bridged.completions[0][3] == ""


def test_a_statement_that_the_judge_cannot_read_fails_its_row(bridge, monkeypatch):
    monkeypatch.setattr(
        bridge, "_statement_tokenizer", _tokenizer_like(bridge._statement_tokenizer, "the cyst is located in the heart")
    )
    bridged = run(bridge)
    assert_only_failed(bridged, [(1, 2)], "statement: ZeroDivisionError")
    assert not bridged.judge.has_statement[1, 2]


def _tokenizer_like(tokenizer, broken_at):
    replaced = raising_at(tokenizer, broken_at)
    replaced.pad_token_id = tokenizer.pad_token_id
    return replaced


@pytest.mark.parametrize("stage", ["decl", "tokenizer"])
def test_an_anchor_that_cannot_be_made_fails_its_whole_group(bridge, monkeypatch, stage):
    if stage == "decl":
        monkeypatch.setattr(host_bridge, "decl", raising_at(host_bridge.decl, "left lung"))
    else:
        anchor = "the cyst is located in the left lung"
        monkeypatch.setattr(bridge, "_statement_tokenizer", _tokenizer_like(bridge._statement_tokenizer, anchor))
    bridged = run(bridge)
    np.testing.assert_array_equal(bridged.scores.is_valid, [[True] * 4, [False] * 4])
    assert np.isnan(bridged.scores.components["answer"][1]).all()


def test_each_kind_of_failure_is_told_in_one_line_and_once(bridge, monkeypatch, capsys):
    score = REWARDS["answer"].function

    def score_or_raise(row, **options):
        if row.answer == broken_at:
            raise NO_LUCK
        return score(row, **options)

    replace_reward(monkeypatch, "answer", score_or_raise)
    broken_at = "left"
    run(bridge)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("1 of 8 completions have no reward") and "ZeroDivisionError" in line
    assert "no such luck" in line
    broken_at = "heart"
    run(bridge)
    assert not capsys.readouterr().err


def test_no_row_of_any_characters_fails(tokenizer):
    texts = list(itertools.islice(completions(20_000, seed=1), 800))
    examples = [
        Example(id=str(i), question=q, answer=a, options=o, answer_type=kind)
        for i, (q, a, o, kind) in enumerate(QUESTIONS[:8])
    ]
    bridge = HostBridge(
        decode=lambda ids: texts[ids[0]], statement_tokenizer=tokenizer, components={"answer": ANSWER, "format": Component()},
        max_statement_tokens=16, centered=True,
    )  # fmt: skip
    rows = np.arange(800).reshape(8, 100, 1)
    bridged = bridge(examples, rows, np.ones(rows.shape, bool), np.zeros((8, 1, 1, 3), np.uint8))
    assert bridged.scores.is_valid.all(), {str(f) for row in bridged.failures for f in row if f}
    assert 0.4 < bridged.judge.has_statement.mean() < 1


def test_ctrl_c_is_no_failure_of_a_row(bridge, monkeypatch):
    replace_reward(monkeypatch, "answer", raising_for("answer", "boom", KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run(bridge)


def test_closed_and_open_answers_are_reported_apart(tokenizer):
    texts = [
        [
            "<answer>yes</answer>",
            "<answer>No.</answer>",
            "<think>in <answer> </answer></think><answer>yes</answer>",
            "yes",
        ],
        ["<answer>left hemithorax</answer>", "<answer>lung</answer>", "<answer>right lung</answer>", "nothing"],
    ]
    examples = [EXAMPLES[0], dataclasses.replace(EXAMPLES[1], accepted=("left hemithorax",))]
    bridge = HostBridge(
        decode=lambda ids: texts[ids[0] // GROUP][ids[0] % GROUP], statement_tokenizer=None,
        components={"answer": Component(options={"parts": {"rouge1": 1.0}})}, max_statement_tokens=16, centered=False,
    )  # fmt: skip
    scores = run(bridge, examples).scores
    nothing = [np.nan] * GROUP
    expected = {
        "accuracy": [[1, 0, 0, 0], nothing],
        "accuracy_yes_no": [[1, 0, 0, 0], nothing],
        "accuracy_choice": [nothing, nothing],
        "open/exact_match": [nothing, [1, 0, 0, 0]],
        "open/recall": [nothing, [1, 0.5, 0.5, 0]],
        "open/bleu1": [nothing, [1, np.exp(-1), 0.5, 0]],
        "open/rouge1": [nothing, [1, 2 / 3, 0.5, 0]],
        "repeated_tag_rate": [[0, 0, 1, 0], [0, 0, 0, 0]],
    }
    assert scores.metrics.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(scores.metrics[name], values, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(scores.components["answer"], [[1, 0, 0, 0], [1, 2 / 3, 0, 0]], rtol=1e-6)


def test_statements_that_the_judge_reads_in_part_are_counted_and_the_rest_is_what_fits(tokenizer):
    cut = bridge_of(tokenizer, answer=ANSWER, provenance=Component())
    cut._max_statement_tokens = 6
    bridged, whole = run(cut), run(bridge_of(tokenizer, answer=ANSWER, provenance=Component()))
    lengths = [[text is not None and len(tokenizer(text, 99)) > 6 for text in row] for row in bridged.statements]
    np.testing.assert_array_equal(bridged.scores.metrics["judge/cut_statement_rate"], np.float32(lengths))
    assert np.any(lengths) and not np.all(lengths) and not whole.scores.metrics["judge/cut_statement_rate"].all()
    for prompt, anchor in enumerate(bridged.anchors):
        ids = np.asarray(tokenizer(anchor, 6))
        np.testing.assert_array_equal(bridged.judge.statements[prompt, 0, : len(ids)], ids)
    assert "judge/cut_statement_rate" not in run(bridge_of(None, answer=ANSWER)).scores.metrics


def test_options_that_the_judge_cannot_tell_apart_are_refused_by_id(tokenizer):
    judge = types.SimpleNamespace(tokenizer=tokenizer)
    long = "a very long story of a finding that goes on and on in the same words until it ends "
    examples = [
        dataclasses.replace(EXAMPLES[0], id="same", question="Which?", answer="A", options=(long + "yes", long + "no")),
        dataclasses.replace(
            EXAMPLES[0], id="apart", question="Is there a cyst or a nodule?", answer="cyst", options=("cyst", "nodule")
        ),
        EXAMPLES[1],
    ]  # fmt: skip
    with unchecked.types_unchecked():
        with pytest.raises(ConfigError, match="max_statement_tokens=16: to 1 questions a wrong option .*: same "):
            refuse_colliding_options(judge, 16, examples[1:], examples[:1])
        refuse_colliding_options(judge, 16, examples[1:])
    refuse_colliding_options(None, 16, examples)
