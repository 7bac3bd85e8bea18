"""The format reward."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex_jax.rewards.format import format_reward
from reflex_jax.text.completion import parse_completion


def test_the_format_pays_one():
    assert format_reward("<think>bright rim</think>\n<answer>a cyst</answer>") == 1.0


@pytest.mark.parametrize(
    "hack",
    [
        "",
        "<think></think><answer></answer>",
        "<think>a</think><answer>  </answer>",
        "<think>a</think><answer>yes</answer><answer>no</answer>",
        "<think>a</think><answer>yes</answer>" * 2,
        "<think>a<think>b</think></think><answer>yes</answer>",
        "<answer>yes</answer>",
        "<think>a</think>yes",
        "yes <think>a</think><answer>yes</answer>",
    ],
)
def test_hacks_are_paid_nothing(hack):
    assert format_reward(hack) == 0.0


@given(st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "a", " "]), max_size=10).map("".join))
def test_the_reward_is_zero_or_one_and_agrees_with_the_parser(text):
    assert format_reward(text) == float(parse_completion(text).is_well_formed)


@pytest.mark.parametrize(
    ("completion", "paid"),
    [
        ("<think>a</think><answer>yes</answer>", 1.0),
        ("<think>a</think>yes", 0.1),
        ("<answer>yes", 0.1),
        ("yes</think>", 0.1),
        ("yes", 0.0),
        ("< answer >yes", 0.0),
        ("", 0.0),
    ],
)
def test_tags_alone_are_paid_in_part_where_a_recipe_says_so(completion, paid):
    """RARL: 1.0 exact, 0.1 with some of the tags, 0 without."""
    assert format_reward(completion, partial=0.1) == paid
