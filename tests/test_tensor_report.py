"""A checkpoint that does not fit is told in one line of bounded length, whatever its tensors are called."""

from hypothesis import given
from hypothesis import strategies as st

from reflex_jax.checkpoints.tensor_report import describe_tensors


def test_what_fits_needs_no_words():
    assert describe_tensors() == describe_tensors([], [], {}, wrong_dtypes={}, not_finite=[]) == ""


def test_up_to_three_are_named():
    text = describe_tensors(["b", "a"], ["c"], {"d": ((2, 3), (3, 2))}, wrong_dtypes={"e": "I8"}, not_finite=["f"])
    assert text == (
        "missing: a; b | extra: c | misshaped: d: expected [2, 3], got [3, 2] | no floats: e (I8) | NaN or infinite: f"
    )


def test_more_are_told_by_what_they_begin_with():
    names = [f"model.layers.{layer}.mlp.{part}.weight" for layer in range(36) for part in ("up", "down")]
    assert describe_tensors([*names, "lm_head.weight"]) == (
        "missing: 72 of model.layers.* (model.layers.0.mlp.down.weight; model.layers.0.mlp.up.weight; "
        "model.layers.1.mlp.down.weight), lm_head.weight"
    )
    roots = [f"root{number}.weight" for number in range(9)]
    assert describe_tensors(extra=roots).endswith("root3.weight, 5 others")


def test_one_name_inside_another_is_no_pattern_of_its_own():
    assert "4 of a.* (a.b; a.b.c; a.bd)" in describe_tensors(["a.b", "a.b.c", "a.bd", "a.e"])


@given(st.lists(st.text(max_size=300), min_size=1, max_size=40, unique=True))
def test_the_line_is_one_and_bounded(names):
    text = describe_tensors(names, names, {name: ((1,), (2,)) for name in names}, not_finite=names)
    assert "\n" not in text and "\r" not in text and len(text) < 8000
