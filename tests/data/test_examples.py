"""Examples: what cannot be scored is refused by id."""

import io

import pytest
from PIL import Image

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example, check_examples, list_offenders


def make_example(**changes):
    fields = {
        "id": "a",
        "question": "is it ?",
        "answer": "yes",
        "answer_type": "closed",
        "image_id": "i",
        "image": None,
    }
    return Example(**(fields | changes))


def test_every_offender_is_listed_at_once():
    examples = [
        make_example(),
        make_example(id="b", answer=" "),
        make_example(id="c", question=""),
        make_example(id="d", answer_type="CLOSED"),
        make_example(id="e"),
        make_example(id="e"),
    ]
    with pytest.raises(ConfigError) as refusal:
        check_examples(examples, source="mine")
    message = str(refusal.value)
    assert "mine" in message and "\n" not in message
    assert "without an answer: b" in message and "without a question: c" in message
    assert "d ('CLOSED')" in message and "more than once: e" in message


def test_no_questions_are_refused():
    with pytest.raises(ConfigError, match="at least one question"):
        check_examples([], source="mine")


def test_a_long_list_of_offenders_ends_in_a_count():
    assert list_offenders(["a", "b"]) == "a, b"
    assert list_offenders([str(i) for i in range(50)]).endswith("19 and 30 more")


def test_the_bytes_of_a_picture_and_not_its_id_say_how_it_is_decoded():
    buffer = io.BytesIO()
    Image.new("RGB", (5, 6), "red").save(buffer, format="PNG")
    for image_id in ("MR_small.dcm", "a.dicom", "a.jpg", "a"):
        image = make_example(image=buffer.getvalue(), image_id=image_id).load_image()
        assert image.size == (5, 6) and image.getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(ConfigError, match="b.png: .*an HTML page"):
        make_example(image=b"<html></html>", image_id="b.png").load_image()


def test_a_picture_is_decoded_only_where_its_size_is_unknown():
    def fail():
        raise AssertionError("decoded")

    assert make_example(image=fail, image_size=(3, 4)).measure_image() == (3, 4)
    assert make_example(image=lambda: Image.new("RGB", (5, 6))).measure_image() == (5, 6)
    assert make_example().load_image() is None and make_example().measure_image() is None
