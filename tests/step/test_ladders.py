"""Ladders of static sizes: bounded, ascending, and never too small."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex_jax.step.ladders import ladder, rung


@pytest.mark.parametrize(
    ("longest", "options", "expected"),
    [
        (1024, {"count": 3, "smallest": 256}, (256, 512, 1024)),  # geometric, to the bit
        (1024, {"count": 5, "multiple": 8}, (256, 368, 512, 728, 1024)),
        (1021, {"count": 1, "multiple": 8}, (1024,)),
        (9, {"count": 4, "multiple": 8}, (8, 16)),  # what rounds up to the same is one rung
        (16, {"count": 3, "smallest": 0}, (0, 4, 16)),
        (0, {"count": 3}, (0,)),
    ],
)
def test_rungs_are_geometric_and_end_with_the_longest(longest, options, expected):
    assert ladder(longest, **options) == expected


@given(st.integers(1, 5000), st.integers(1, 8), st.integers(1, 64), st.data())
def test_every_need_has_a_rung_that_holds_it_and_no_smaller_one_would(longest, count, multiple, data):
    sizes = ladder(longest, count=count, multiple=multiple, smallest=data.draw(st.integers(0, longest)))
    assert len(sizes) <= count
    assert list(sizes) == sorted(set(sizes))
    assert all(size % multiple == 0 for size in sizes)
    assert longest <= sizes[-1] < longest + multiple
    needed = data.draw(st.integers(0, longest))
    taken = rung(needed, sizes)
    assert taken == min(size for size in sizes if size >= needed)


def test_numbers_that_make_no_ladder_are_refused():
    for options in ({"count": 0}, {"count": 2, "multiple": 0}, {"count": 2, "smallest": 9}):
        with pytest.raises(ValueError, match="ladder: expected"):
            ladder(8, **options)
    with pytest.raises(ValueError, match=r"rung: expected at most 16, the last of \(8, 16\); got 17"):
        rung(17, (8, 16))


def test_more_rungs_than_there_are_sizes_are_not_looked_for():
    """4,294,967,295 rungs took eleven minutes."""
    assert ladder(80, count=2**32, multiple=8, smallest=8) == tuple(range(8, 81, 8))
