"""Reading completions, honest ones and hacks."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex_jax.text.completion import (
    DEFAULT_SHAPE,
    THOUGHT_TAGS,
    CompletionShape,
    parse_completion,
    repeats_answer_tag,
)

TAG_SOUP = st.lists(
    st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "yes", " ", "\n", "<", "/", "<ANSWER>", "\u200b"]),
    max_size=12,
).map("".join)


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("<think>a b</think><answer>yes</answer>", "a b", "yes"),
        ("  <think> a\nb </think>\n\n<answer>\nleft lung\n</answer>\n", "a\nb", "left lung"),
        ("<think></think><answer>no</answer>", "", "no"),
        ("<think>if x < 3 > 2</think> <answer>2 < 3</answer>", "if x < 3 > 2", "2 < 3"),
    ],
)
def test_a_well_formed_completion_is_read(text, thought, answer):
    parsed = parse_completion(text)
    assert (parsed.thought, parsed.answer, parsed.is_well_formed) == (thought, answer, True)


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        "",
        "<think>a</think>",
        "<think>a</think><answer></answer>",
        "<think>a</think><answer> \n\u200b </answer>",
        "<think>a</think><answer>yes</answer><answer>yes</answer>",
        "<think>a</think><answer><answer>yes</answer></answer>",
        "<think><answer>no</answer></think><answer>yes</answer>",
        "<think>a</think><answer>yes",
        "<think>a</think>yes</answer>",
        "</answer>yes<answer>",
        "<answer><think>a</think>yes</answer>",
        "<think>a</think><ANSWER>yes</ANSWER>",
    ],
)
def test_without_exactly_one_answer_block_there_is_no_answer(text):
    parsed = parse_completion(text)
    assert parsed.answer is None
    assert not parsed.is_well_formed


@pytest.mark.parametrize(
    "text",
    [
        "<answer>yes</answer>",
        "<answer>yes</answer><think>a</think>",
        "<think>a</think> so <answer>yes</answer>",
        "First <think>a</think><answer>yes</answer>",
        "<think>a</think><answer>yes</answer> done",
        "<think>a</think><think>b</think><answer>yes</answer>",
        "<think><think>a</think></think><answer>yes</answer>",
        "<think>a<answer>yes</answer></think>",
        "<think>a</think></think><answer>yes</answer>",
    ],
)
def test_an_answer_outside_the_format_is_read_but_not_well_formed(text):
    parsed = parse_completion(text)
    assert parsed.answer == "yes"
    assert not parsed.is_well_formed


@given(st.one_of(st.text(), TAG_SOUP))
def test_parsing_never_raises_and_format_implies_both_parts(text):
    parsed = parse_completion(text)
    assert parsed.answer is None or parsed.answer.strip() == parsed.answer != ""
    if parsed.is_well_formed:
        assert parsed.thought is not None and parsed.answer is not None
        assert text.strip().startswith("<think>") and text.strip().endswith("</answer>")


@given(
    st.text(alphabet=st.characters(exclude_characters="<>", exclude_categories=["C", "Z"])),
    st.text(alphabet="abc .", min_size=1).map(lambda text: f"x{text}"),
)
def test_what_a_model_writes_between_the_tags_comes_back(thought, answer):
    parsed = parse_completion(f"<think>{thought}</think>\n<answer>{answer}</answer>")
    assert parsed.is_well_formed
    assert (parsed.thought, parsed.answer) == (thought.strip(), answer.strip())


@pytest.mark.parametrize(
    ("text", "is_repeated"),
    [
        ("<think>I put it in <answer> </answer></think><answer>yes</answer>", True),
        ("<think>a</think><answer>yes</answer></answer>", True),
        ("<think>a</think><answer>yes</answer>", False),
        ("<think>a</think>", False),
    ],
)
def test_an_answer_tag_that_the_thought_mentions_leaves_no_answer_and_is_counted(text, is_repeated):
    assert repeats_answer_tag(text) == is_repeated
    assert not is_repeated or parse_completion(text).answer is None


# --- other shapes

THINKING = CompletionShape(thought="thinking")
MEDIX = CompletionShape(thought="thinking", preamble=True, fallback=True, compact=True)
NO_THOUGHT = CompletionShape(thought="none")


def read(text, shape):
    parsed = parse_completion(text, shape)
    return parsed.thought, parsed.answer, parsed.is_well_formed


def test_the_tag_around_the_thought_is_that_of_the_shape():
    text = "<thinking>t</thinking><answer>a</answer>"
    assert read(text, THINKING) == ("t", "a", True)
    assert read(text, DEFAULT_SHAPE) == (None, "a", False)
    assert read("<think>t</think><answer>a</answer>", THINKING) == (None, "a", False)


def test_without_a_thought_the_format_is_one_answer_block_alone():
    assert read(" \n<answer>a</answer> ", NO_THOUGHT) == (None, "a", True)
    assert read("<think>t</think><answer>a</answer>", NO_THOUGHT) == (None, "a", False)
    assert read("<answer>a</answer><answer>a</answer>", NO_THOUGHT) == (None, None, False)
    assert read("<answer> </answer>", NO_THOUGHT) == (None, None, False)
    assert not parse_completion("<think>t", NO_THOUGHT).has_tag


def test_a_preamble_is_told_and_only_some_shapes_allow_it():
    text = "<CT_SCAN> <thinking>t</thinking><answer>a</answer>"
    allowed = CompletionShape(thought="thinking", preamble=True)
    assert [parse_completion(text, shape).preamble for shape in (THINKING, allowed)] == ["<CT_SCAN>"] * 2
    assert [parse_completion(text, shape).is_well_formed for shape in (THINKING, allowed)] == [False, True]
    assert parse_completion("<CT_SCAN><answer>a</answer>", allowed).preamble is None
    doubled = text + "<answer>b</answer>"
    assert read(doubled, allowed) == ("t", None, False)  # it guesses no more than without a preamble


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so it is. ", (None, "so it is", False)),  # the whole of it stands in
        (" . ", (None, None, False)),
        ("<thinking>t</thinking><answer>.a.</answer><answer>b</answer>", ("t", "a", True)),
        ("<thinking>t</thinking><answer>a", ("t", "<thinking>t</thinking><answer>a", False)),
        ("<thinking>t<thinking>u</thinking><answer></answer>", ("t<thinking>u", None, True)),
        ("<answer>a</answer><thinking>t</thinking><answer>b</answer>", ("t", "a", True)),
        ("< thinking >t< / thinking >\n< answer >left / right< /answer>", ("t", "left/right", True)),
    ],
)
def test_a_shape_that_guesses_takes_the_first_answer_or_the_whole(text, expected):
    assert read(text, MEDIX) == expected
    assert not parse_completion(text, MEDIX).repeats_answer_tag


@given(TAG_SOUP, st.booleans(), st.booleans(), st.booleans(), st.sampled_from(THOUGHT_TAGS))
def test_no_shape_raises_and_a_strict_format_has_all_of_its_parts(text, preamble, fallback, compact, thought):
    shape = CompletionShape(thought=thought, preamble=preamble, fallback=fallback, compact=compact)
    parsed = parse_completion(text, shape)
    assert parsed.answer is None or parsed.answer.strip() == parsed.answer != ""
    if parsed.is_well_formed:
        assert parsed.has_tag and (fallback or parsed.answer) and (thought == "none") == (parsed.thought is None)


def test_a_long_run_of_blanks_is_compacted_in_time_that_grows_with_it():
    text = " " * 200_000 + "x" + "\n" * 200_000 + "< answer >a"
    started = time.perf_counter()
    assert parse_completion(text, MEDIX).answer == "x<answer>a"
    assert time.perf_counter() - started < 5  # the square of it would take minutes
