"""Open rows of each device are gathered and put back where they were."""

import jax.numpy as jnp
import numpy as np
import pytest

from reflex_jax.step.open_rows import find_open, gathered_sizes, most_open, put_rows, take_prompts, take_rows


@pytest.mark.parametrize(
    ("prompts", "group_size", "ways", "sizes"),
    [
        (64, 8, 1, (64, 8)),
        (64, 8, 8, (8, 1)),
        (64, 8, 32, (2,)),
        (64, 16, 1, (64, 8)),  # no more rows than prompts: each takes the cache of its prompt along
        (64, 4, 1, (32, 4)),
        (2, 8, 1, (2,)),
        (64, 1, 1, (8, 1)),
        (2, 2, 2, ()),
    ],
)
def test_few_are_an_eighth_of_the_rows_of_a_device_and_no_more_than_its_prompts(prompts, group_size, ways, sizes):
    assert gathered_sizes(prompts, group_size, ways) == sizes


def test_rows_that_are_open_are_taken_with_their_prompts_and_put_back():
    """Four prompts of two devices; the group lies on the second axis of the state and on the third of a cache."""
    is_done = np.ones((4, 3), bool)
    is_done[1, 2] = is_done[2, 0] = is_done[3, 1] = False
    assert most_open(jnp.asarray(is_done), 2) == 2 and most_open(jnp.asarray(is_done), 1) == 3
    numbers = np.arange(12).reshape(4, 3)
    places = find_open(jnp.asarray(is_done), 2, 2)
    taken = np.asarray(take_rows(numbers, places))
    assert taken.shape == (4, 1)
    assert taken[0] == 5 and set(taken[2:, 0]) == {6, 10}  # the first device has one: an ended one fills up
    assert taken[1] in (0, 1, 2, 3, 4)
    np.testing.assert_array_equal(take_prompts(numbers[:, 0], places), taken[:, 0] // 3 * 3)
    cache = np.broadcast_to(numbers[:, None, :, None], (4, 5, 3, 7))
    np.testing.assert_array_equal(
        take_rows(cache, places, axis=2), np.broadcast_to(taken[:, None, :, None], (4, 5, 1, 7))
    )
    expected = numbers.copy()
    expected.ravel()[taken[:, 0]] += 100
    np.testing.assert_array_equal(put_rows(numbers, taken + 100, places), expected)
