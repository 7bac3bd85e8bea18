"""Examples and rows: what cannot be asked or scored is refused by id, and pictures are read when they are needed."""

import io

import pytest
from PIL import Image

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example, Picture, RefusedRow, list_offenders
from reflex_jax.data.layouts import RowError, read_rows, strip_letter, text_of, with_options
from reflex_jax.data.row_checks import refuse_unusable


def make_example(**changes):
    return Example(**({"id": "a", "question": "is it ?", "answer": "yes", "answer_type": "closed"} | changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answer": " "}, "no answer"),
        ({"answer": "\u200b\u2060"}, "no answer"),
        ({"question": ""}, "no question"),
        ({"question": "\ufeff"}, "no question"),
        ({"question": "is \ud800 it?"}, "surrogate pair"),
        ({"answer": "\udfff"}, "surrogate pair"),
        ({"options": ("a", "\ud800")}, "surrogate pair"),
        ({"answer_type": "CLOSED"}, "answer type 'CLOSED', expected closed or open"),
        ({"accepted": ("no", "\u200b")}, "an accepted answer without"),
        ({"options": ("cyst",)}, "fewer than two options"),
        ({"options": ()}, "fewer than two options"),
        ({"options": ("cyst", " ")}, "an option without"),
        ({"options": ("a cyst", "Cyst.")}, "two options that say the same"),
    ],
)
def test_what_no_reward_could_score_is_refused_with_its_reason(changes, reason):
    good, refused = refuse_unusable([make_example(id="good"), make_example(**changes)])
    assert good == make_example(id="good")
    assert isinstance(refused, RefusedRow) and refused.id == "a" and reason in refused.reason


def test_of_rows_with_one_id_the_first_stays():
    rows = [make_example(), make_example(answer="no"), RefusedRow(id="b", reason="cut"), make_example(id="c")]
    assert [(row.id, isinstance(row, Example)) for row in refuse_unusable(rows)] == [
        ("a", True), ("a", False), ("b", False), ("c", True),
    ]  # fmt: skip


@pytest.mark.parametrize("value", [["a", "b"], {"a": 1}, True, ("x",)])
def test_what_is_no_text_is_refused_where_text_is_meant(value):
    with pytest.raises(RowError, match="answer: expected text; got"):
        text_of(value, "answer")


def test_nothing_at_all_is_empty_and_numbers_are_text():
    assert [text_of(value, "x") for value in (None, float("nan"), "NULL", " a \t b ", 3, 2.5)] == [
        "",
        "",
        "",
        "a b",
        "3",
        "2.5",
    ]


def test_a_row_that_cannot_be_read_is_refused_and_the_next_is_read():
    def make(name, row):
        if row == 1:
            raise RowError("no picture: 'a.png' is missing")
        return None if row == 2 else make_example(id=name)

    rows = list(read_rows(((str(k), k) for k in range(4)), make))
    assert [row.id for row in rows] == ["0", "1", "3"]
    assert rows[1] == RefusedRow(id="1", reason="no picture", detail="'a.png' is missing")


def test_only_its_own_letter_is_taken_from_an_option():
    assert [strip_letter(text, "A") for text in (" A:Left ", "A. Left", "A) Left", "(A) Left", "A Left", "B:Left")] == [
        "Left", "Left", "Left", "Left", "A Left", "B:Left",
    ]  # fmt: skip
    assert with_options("Which?", ["left", "right"]) == "Which?\nA. left\nB. right"


def test_a_long_list_of_offenders_ends_in_a_count():
    assert list_offenders(["a", "b"]) == "a, b"
    assert list_offenders([str(i) for i in range(50)]).endswith("19 and 30 more")


def test_the_bytes_of_a_picture_and_not_its_id_say_how_it_is_decoded():
    buffer = io.BytesIO()
    Image.new("RGB", (5, 6), "red").save(buffer, format="PNG")
    for name in ("MR_small.dcm", "a.dicom", "a.jpg", "a"):
        for data in (buffer.getvalue(), buffer.getvalue):
            image = Picture(id=name, data=data).load()
            assert image.size == (5, 6) and image.getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(ConfigError, match="b.png: .*an HTML page"):
        Picture(id="b.png", data=b"<html></html>").load()


def test_a_picture_is_decoded_only_where_its_size_is_unknown():
    def fail():
        raise AssertionError("decoded")

    assert Picture(id="i", data=fail, size=(3, 4)).measure() == (3, 4)
    assert Picture(id="i", data=lambda: Image.new("RGB", (5, 6))).measure() == (5, 6)
    assert make_example().load_images() == [] and make_example().image_id == ""


def test_yes_and_no_are_told_from_other_closed_answers():
    answers = {"Yes": True, "no.": True, "left": False, "none": False, "no lesion": False}
    assert {a: make_example(answer=a).is_yes_no for a in answers} == answers
