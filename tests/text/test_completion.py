"""Reading completions, honest ones and hacks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex_jax.text.completion import parse_completion, repeats_answer_tag

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
