"""Cleaning text and words."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex_jax.text.normalise import (
    LONGEST_ANSWER,
    clean_text,
    has_visible_character,
    limit_marks,
    normalise_answer,
    trim_answer,
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes.", "yes"),
        ("  The LEFT   lung ", "left lung"),
        ("T2-weighted", "t2 weighted"),
        ("Crohn's disease", "crohns disease"),
        ("2.5 cm", "2.5 cm"),
        ("-5 HU", "-5 hu"),
        ("10-20 minutes", "10 20 minutes"),
        ("> 5", "> 5"),
        ("50%", "50%"),
        ("\uff34\uff12", "t2"),  # full-width letters
        ("yes\u200b", "yes"),  # zero-width space
        ("A", "a"),
        ("A.", "a"),
        ("Hepatitis A", "hepatitis a"),
        ("the", "the"),
        ("?", "?"),
    ],
)
def test_an_answer_becomes_lower_case_words_and_never_vanishes(answer, expected):
    assert normalise_answer(answer) == expected


def test_numbers_that_differ_stay_different():
    assert len({normalise_answer(text) for text in ("2.5", "25", "-25", "2 5", "<25", ">25", ".25")}) == 7


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    assert normalise_answer(normalise_answer(text)) == normalise_answer(text)


@given(st.text())
def test_only_invisible_answers_normalise_to_nothing(text):
    assert (normalise_answer(text) == "") == (clean_text(text) == "")


@given(st.text(alphabet="aA the.-'\"59;,:\u0301", max_size=12), st.text(alphabet="aA the.-'\"59;,:\u0301", max_size=12))
def test_equal_trims_have_equal_normal_forms(first, second):
    if trim_answer(first) == trim_answer(second):
        assert normalise_answer(first) == normalise_answer(second)


def test_no_character_is_visible_to_one_rule_and_not_to_the_other():
    separator = "\N{FULL BLOCK}"  # nothing folds together with it
    points = map(chr, range(sys.maxunicode + 1))
    characters = [c for c in points if unicodedata.category(c) not in ("Cn", "Co") and c != separator]
    # in one piece, as cleaning them one by one takes seconds
    cleaned = clean_text(separator.join([*characters, "\u0378", "\ue000"])).split(separator)
    assert [bool(part.strip()) for part in cleaned] == [*map(has_visible_character, characters), False, False]


def test_more_than_thirty_marks_on_one_letter_are_dropped_and_fewer_stand():
    assert limit_marks("a" + "\u0301" * 40 + "b\u0301") == "a" + "\u0301" * 30 + "b\u0301"
    assert limit_marks("e\u0301" * 100) == "e\u0301" * 100
    for text in ("a" + "\u0315\u0301" * 900, "\u0f73" * 900, "\uff9e\u0301" * 900, "a" + "\u0315\u200b\u0301" * 900):
        assert len(clean_text(text)) <= 62


def test_an_answer_is_read_up_to_its_longest_length():
    filler = "." * LONGEST_ANSWER
    assert normalise_answer("left" + filler + "right") == "left"
    assert normalise_answer("x" * LONGEST_ANSWER) != normalise_answer("x" * (LONGEST_ANSWER - 1))
