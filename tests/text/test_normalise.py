"""Cleaning words and comparing answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex_jax.text.normalise import clean_text, match_option, normalise_answer, trim_answer

OPTIONS = ("cyst", "a nodule", "Abscess", "calcification")


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


@pytest.mark.parametrize(
    "answer", ["B", "b", "(B)", "B.", "B)", "B: a nodule", "(b) nodule", "Option B", "nodule", "The nodule."]
)
def test_an_option_is_named_by_letter_or_text_or_both(answer):
    assert match_option(answer, OPTIONS) == 1
    assert normalise_answer(answer, OPTIONS) == "nodule"


@pytest.mark.parametrize("answer", ["E", "B) cyst", "B or C", "", "nodules", "big nodule", "AB", "BB"])
def test_what_names_no_option_or_contradicts_itself_matches_none(answer):
    assert match_option(answer, OPTIONS) is None


def test_a_letter_is_the_letter_before_it_is_a_text():
    assert match_option("B", ("B", "A")) == 1
