"""Options as official files write them: letters, gaps, forms; the right one by letter, by text, by both."""

import pytest

from reflex_jax.data.examples import RowError
from reflex_jax.data.options import gold_option, lists_options, option_texts, unmistakable
from reflex_jax.text.answers import resolve_answer
from reflex_jax.text.questions import ReadQuestion


@pytest.mark.parametrize(
    "cells, expected",
    [
        ([" A:Left ", " B:Right", "C: Both  sides"], ("Left", "Right", "Both sides")),
        (["a band", "B: a gap", "a line", "nothing"], ("a band", "a gap", "a line", "nothing")),
        (["B: a gap", "A: a band"], ("B: a gap", "A: a band")),  # letters of others are text
        (["A. one", "B. two"], ("one", "two")),
        (["(A) one", "(B) two"], ("one", "two")),
        (["E. coli", "S. aureus", "C. difficile"], ("E. coli", "S. aureus", "C. difficile")),
        (["No", "Yes.", None, float("nan")], ("No", "Yes.")),
        (["A:x", "B:y", "C:", ""], ("x", "y")),
        ({"B": "two", "A": "one"}, ("one", "two")),
        ({"A": "A. fumigatus", "B": "B. cereus"}, ("A. fumigatus", "B. cereus")),  # the letter stands beside it
        ([{"letter": "A", "content": "one"}, {"letter": "B", "content": 2}], ("one", "2")),
        ({"A": "one", "B": "two", "C": None}, ("one", "two")),
        ([], ()), ({}, ()), (None, ()),
    ],
)  # fmt: skip
def test_options_are_texts_behind_letters(cells, expected):
    assert option_texts(cells) == expected


@pytest.mark.parametrize(
    "cells, reason",
    [
        (["one", "", "three"], "an option without text: B"),
        ({"A": "one", "C": "three"}, "options in another form: expected the letters A, B, ... once each; got A, C"),
        (
            [{"letter": "A", "content": "one"}, {"letter": "A", "content": "two"}],
            "options in another form: expected the letters",
        ),
        ([{"letter": None, "content": "one"}], "options in another form: expected the letters"),
        (list("abcdefghijk"), "more than 10 options: 11"),
        ("one, two", "options in another form: expected a list; got str"),
        (["one", ["two"]], "option: expected text; got list"),
    ],
)
def test_other_forms_refuse_the_row(cells, reason):
    with pytest.raises(RowError, match=reason.replace(".", r"\.")):
        option_texts(cells)


@pytest.mark.parametrize(
    "letter, text, expected",
    [
        (" B", "", "Yes."), ("b.", "", "Yes."), ("(C)", "", "C"),
        ("", "Yes.", "Yes."), ("", "yes", "Yes."), ("", "B: Yes.", "Yes."), ("", "B", "B"), ("", "C", "C"),
        ("A", "no", "No"), ("D", "B", "B"),
    ],
)  # fmt: skip
def test_gold_is_found_by_letter_and_by_text(letter, text, expected):
    """An option that is called as a letter is, is its text where a text is given."""
    assert gold_option(("No", "Yes.", "C", "B"), letter=letter, text=text) == expected


def test_an_option_that_is_called_as_the_letter_of_another_is_answered_by_its_own_letter():
    options = ("B", "A", "C", "nodule")
    assert [unmistakable(options, option) for option in options] == ["A", "B", "C", "nodule"]
    for index, option in enumerate(options):
        assert resolve_answer(unmistakable(options, option), ReadQuestion("", "", options)).option == index


@pytest.mark.parametrize(
    "letter, text, reason",
    [
        ("", "", "no answer"),
        ("C", "", "the letter names no option: 'C' of 2"),
        ("AB", "", "the letter names no option"),
        ("", "Maybe", "the answer is none of the options: 'Maybe'"),
        ("A", "Yes", "letter and text of the answer disagree: A, 'Yes'"),
        ("C", "Yes", "the letter names no option"),
    ],
)
def test_gold_that_is_no_option_refuses_the_row(letter, text, reason):
    with pytest.raises(RowError, match=reason):
        gold_option(("No", "Yes"), letter=letter, text=text)


def test_a_question_lists_its_options_only_where_all_stand_in_it_with_their_letters():
    assert lists_options("Which? Answer Choices: (A) a disc (B) a line", ("a disc", "a line"))
    assert lists_options("Which? A)a disc, B)a line", ("a disc", "a line"))
    assert lists_options("Which?\nA. a\n  disc\nB. a line", ("a disc", "a line"))
    assert not lists_options("Is it a disc or a line?", ("a disc", "a line"))
    assert not lists_options("Which? (A) a disc (B) a gap", ("a disc", "a line")) and not lists_options("Which?", ())
