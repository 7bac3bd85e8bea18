"""Replies that are a verdict, and all the others, which are none."""

import pytest

from reflex_jax.text.verdicts import NoVerdict, read_number, read_object, read_yes_no, without_thinking


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [("YES", True), ("no", False), (" Yes.\n", True), ("**NO**", False), ('"Yes"', True), ("`yes`", True),
     ("<think>NO? Well.</think>\n\nYES", True), ("<thinking>a</think>b</thinking>NO.", False)],
)  # fmt: skip
def test_one_word_is_a_verdict(reply, verdict):
    assert read_yes_no(reply) is verdict


@pytest.mark.parametrize(
    "reply",
    ["", " ", "YES, because both say left", "YES NO", "YES or NO", "yesterday", "no-one", "not", "KNOW", "YES</think>", "Y",
     "true", "1", "<think>YES", "Y E S", "ＹＥＳ", "NO!" * 99, "The answer is YES", "YES\nNO", "ye\u200bs"],
)  # fmt: skip
def test_a_reply_that_merely_contains_the_word_is_none(reply):
    with pytest.raises(NoVerdict):
        read_yes_no(reply)


@pytest.mark.parametrize(
    ("reply", "number"),
    [('{"score": 1}', 1.0), ('{"score": "1"}', 1.0), ('```json\n{"score": 0.25}\n```', 0.25), ('```\n{"score": 0}```', 0.0),
     ('<think>{"score": 0}</think>{"score": 1, "why": "same"}', 1.0), ('{"score": 1e-1}', 0.1)],
)  # fmt: skip
def test_a_number_in_an_object_is_a_verdict(reply, number):
    assert read_number(read_object(reply), "score", 1.0) == number


@pytest.mark.parametrize(
    "reply",
    ["1", "[1]", '{"score": true}', '{"score": null}', '{"score": 2}', '{"score": -0.1}', '{"score": NaN}', '{"score": "high"}',
     '{"Score": 1}', '{"score": 1, "score": 0}', '{"score": 1} and more', 'It is {"score": 1}', "{'score': 1}", '{"score": 1',
     '{"score": {"a": 1}}', '{"score": [1]}', "", "[" * 99999, '{"score": 1e999}', '{"score": "١١"}'],
)  # fmt: skip
def test_anything_else_is_none(reply):
    with pytest.raises(NoVerdict):
        read_number(read_object(reply), "score", 1.0)


def test_a_scale_of_whole_numbers_takes_no_halves():
    assert read_number({"score": "3"}, "score", 5, is_whole=True) == 3
    with pytest.raises(NoVerdict):
        read_number({"score": 2.5}, "score", 5, is_whole=True)


def test_what_was_thought_aloud_is_dropped_up_to_its_last_end():
    assert without_thinking("<think>a</think> b </THINKING> left lung ") == "left lung"
    assert without_thinking("left <think>lung") == "left <think>lung"
