"""From strings to the judge's arrays: cleaning, duplicates, missing answers, the centred mode."""

import numpy as np
import pytest
from PIL import Image

from reflex_jax.judge.batch import StatementTokenizer, clean_text, judge_pixels, judged_part, prepare_judge_batch
from reflex_jax.models.biomedclip import read_judge_config
from tests.parity.judge_reference import write_judge_directory


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return StatementTokenizer(write_judge_directory(tmp_path_factory.mktemp("judge")))


@pytest.fixture(scope="module")
def judge_config(tmp_path_factory):
    return read_judge_config(write_judge_directory(tmp_path_factory.mktemp("judge")))


def prepare(tokenizer, statements, anchors, **settings):
    pixels = np.zeros((len(anchors), 112, 112, 3), np.uint8)
    return prepare_judge_batch(pixels, statements, anchors, tokenizer, max_statement_tokens=16, **settings)


def test_text_is_mended_unescaped_and_collapsed():
    assert clean_text("  caf\u00c3\u00a9 &amp;lt;b&amp;gt;\n\u2019x\u2019 ") == "caf\u00e9 <b> 'x'"


@pytest.mark.parametrize(
    "reference", ["&#" + "1" * 5000 + ";", "&amp;#" + "1" * 5000, "&#x" + "f" * 5000 + ";", "&#xD800;"]
)
def test_a_reference_to_no_character_becomes_the_replacement_character(reference):
    """Python refuses to read a number of more than 4,300 digits."""
    assert clean_text(f"a {reference} b").split() == ["a", "\ufffd", "b"]
    assert clean_text("&#65; &#0000066; &#x43;") == "A B C"


def test_each_distinct_statement_of_a_prompt_is_kept_once_behind_the_anchor(tokenizer):
    statements = [["a cyst", "a nodule", "A  cyst", "the anchor"], ["a", "b", "c", "d"]]
    inputs = prepare(tokenizer, statements, ["the anchor", "b"])
    np.testing.assert_array_equal(inputs.statement_index, [[1, 2, 1, 0], [1, 0, 2, 3]])
    np.testing.assert_array_equal(inputs.statement_count, [3, 4])
    assert inputs.statements.shape == (2, 5, 16)
    assert tuple(inputs.statements[0, 0, :6]) == (*tokenizer("the anchor", 16)[:6],)
    assert (inputs.statements[0, 3:] == tokenizer.pad_token_id).all()


def test_a_missing_answer_has_no_statement(tokenizer):
    inputs = prepare(tokenizer, [["a", None], [None, None]], ["a", "b"])
    np.testing.assert_array_equal(inputs.has_statement, [[True, False], [False, False]])
    np.testing.assert_array_equal(inputs.statement_index, 0)
    np.testing.assert_array_equal(inputs.statement_count, [1, 1])


def test_the_centred_mode_keeps_the_question_in_row_one_whatever_else_is_said(tokenizer):
    statements = [["a cyst", "no cyst"], ["a", "b"]]
    inputs = prepare(tokenizer, statements, ["a cyst", "c"], questions=["no cyst", "c"])
    assert inputs.statements.shape == (2, 4, 16)
    np.testing.assert_array_equal(inputs.statement_index, [[0, 1], [2, 3]])
    np.testing.assert_array_equal(inputs.statement_count, [2, 4])
    np.testing.assert_array_equal(inputs.statements[1, 0], inputs.statements[1, 1])


def test_a_long_statement_is_cut_between_its_frame(tokenizer):
    ids = tokenizer("nodule " * 100, 16)
    assert len(ids) == 16 and ids[0] == 2 and ids[-1] == 3 and len(set(ids[1:-1])) == 1


def test_counts_that_differ_are_refused_together(tokenizer):
    with pytest.raises(ValueError, match=r"2 groups.*'anchors': 1.*groups of \[1, 2\]"):
        prepare_judge_batch(
            np.zeros((2, 1, 1, 3), np.uint8), [["a"], ["a", "b"]], ["a"], tokenizer, max_statement_tokens=16
        )


@pytest.mark.parametrize("size", [(300, 200), (150, 401), (224, 224), (90, 60)])
@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
def test_the_part_of_a_picture_that_the_judge_sees_is_where_its_pixels_come_from(judge_config, size, resize):
    """A picture whose red says how far right a pixel lies, and whose green how far down, to a 255th: 0.004."""
    x, y = (np.linspace(0, 255, 2 * count + 1)[1::2] for count in size)
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    picture[..., 0], picture[..., 1] = np.round(x)[None, :], np.round(y)[:, None]
    seen = judge_pixels(Image.fromarray(picture), judge_config, resize=resize).astype(float) / 255
    side = judge_config.vision.image_size
    left, top, right, bottom = judged_part(size, judge_config, resize)
    across = left + (right - left) * (np.arange(side) + 0.5) / side
    down = top + (bottom - top) * (np.arange(side) + 0.5) / side
    inside = [(line > 0.05) & (line < 0.95) for line in (across, down)]
    middle = side // 2
    np.testing.assert_allclose(seen[middle, inside[0], 0], across[inside[0]], atol=0.004)
    np.testing.assert_allclose(seen[inside[1], middle, 1], down[inside[1]], atol=0.004)
