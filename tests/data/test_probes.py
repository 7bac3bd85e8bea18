"""Pictures in place of a question's own: same sizes, another order, another patient, and text alone stays text alone."""

import numpy as np
import pytest
from PIL import Image

from reflex_jax.data.examples import Example, Picture
from reflex_jax.data.probes import PROBES, show_instead, shuffle_tiles


def picture(name, size=(48, 40)):
    pixels = np.random.default_rng(len(name) * 100 + ord(name[-1])).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Picture(id=name, data=lambda: Image.fromarray(pixels), size=size)


def example(number, *names, source="slake", modality="ct"):
    return Example(id=str(number), question="?", answer="yes", answer_type="closed", source=source, modality=modality,
                   images=tuple(map(picture, names)))  # fmt: skip


def test_a_blank_picture_has_the_size_of_the_real_one_and_one_grey():
    (seen,) = PROBES["blank"]([])(example(1, "a"))
    assert seen.load().size == (48, 40) == seen.measure() and set(np.asarray(seen.load()).ravel()) == {127}


def test_shuffling_moves_whole_tiles_and_keeps_every_pixel():
    real = picture("a", size=(83, 67)).load()  # 10 x 8 tiles, with a border of 3 columns and 3 rows
    moved = shuffle_tiles(real, seed=5)
    before, after = np.asarray(real), np.asarray(moved)
    assert moved.size == real.size and (before != after).any()
    np.testing.assert_array_equal(before[64:], after[64:])
    np.testing.assert_array_equal(before[:, 80:], after[:, 80:])

    def tiles(pixels):
        return sorted(pixels[y : y + 8, x : x + 10].tobytes() for y in range(0, 64, 8) for x in range(0, 80, 10))

    assert tiles(before) == tiles(after)
    np.testing.assert_array_equal(after, np.asarray(shuffle_tiles(real, seed=5)))
    small = Image.new("RGB", (5, 5))
    assert shuffle_tiles(small, seed=0) is small
    (seen,) = PROBES["shuffled"]([])(example(1, "a"))
    assert sorted(np.asarray(seen.load()).ravel()) == sorted(np.asarray(picture("a").load()).ravel())


def test_another_patient_is_of_the_same_set_and_modality_where_there_is_one():
    questions = [
        example(1, "a"), example(2, "a"), example(3, "b"), example(4, "c", modality="mri"), example(5, "d", source="vqa_rad"),
        example(6, "e", source="pmc"), example(7),
    ]  # fmt: skip
    probe = PROBES["other_patient"](questions)
    seen = {e.id: [p.id for p in probe(e)] for e in questions}
    assert seen["1"] == seen["2"] == ["b"] and seen["3"] == ["a"]
    assert seen["4"][0] in "ab"  # no other MRI in its set
    assert seen["5"][0] in "abce" and seen["7"] == []
    assert show_instead(questions[0], probe).images[0].id == "b" and show_instead(questions[0], probe).id == "1"
    assert seen == {e.id: [p.id for p in PROBES["other_patient"](questions)(e)] for e in questions}


def test_a_question_never_gets_a_picture_that_it_shares_with_another():
    """a and b stand in one question, so they are one patient's; c is the only other."""
    questions = [example(1, "a", "b"), example(2, "b"), example(3, "c")]
    probe = PROBES["other_patient"](questions)
    assert [p.id for p in probe(questions[0])] == ["c", "c"] and [p.id for p in probe(questions[1])] == ["c"]
    assert [p.id for p in probe(questions[2])] in (["a"], ["b"])
    with pytest.raises(ValueError, match="all questions are about one picture"):
        PROBES["other_patient"](questions[:2])(questions[0])
