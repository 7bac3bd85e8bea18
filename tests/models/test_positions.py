"""Where tokens and patches are, by hand: the axes that frequencies turn with, and a table of learned positions."""

import jax.numpy as jnp
import numpy as np

from reflex_jax.models.qwen_vision import learned_positions
from reflex_jax.models.rope import axes_of_frequencies, multimodal_rotation


def test_frequencies_turn_with_the_axes_in_sections_or_in_turns():
    np.testing.assert_array_equal(axes_of_frequencies((2, 3, 3), is_interleaved=False), [0, 0, 1, 1, 1, 2, 2, 2])
    # height and width are left after two turns, time takes what follows
    np.testing.assert_array_equal(axes_of_frequencies((4, 2, 2), is_interleaved=True), [0, 1, 2, 0, 1, 2, 0, 0])
    published = axes_of_frequencies((24, 20, 20), is_interleaved=True)
    assert [int((published == axis).sum()) for axis in range(3)] == [24, 20, 20]
    assert (published[60:] == 0).all()


def test_an_interleaved_rotation_turns_by_the_coordinate_of_its_axis():
    """Head of 6, base 8: frequencies 1, 1/2, 1/4 turn with time 1, height 2, width 4 -> one radian each."""
    cosines, sines = multimodal_rotation(
        jnp.array([[1, 2, 4]]), head_width=6, sections=(1, 1, 1), theta=8.0, is_interleaved=True
    )
    np.testing.assert_allclose(cosines, np.full((1, 3), np.cos(1.0)), rtol=1e-6)
    np.testing.assert_allclose(sines, np.full((1, 3), np.sin(1.0)), rtol=1e-6)


def test_positions_are_read_between_the_rows_and_columns_of_their_table():
    table = jnp.array([[0.0], [10.0], [100.0], [110.0]])  # 2 x 2: ten a column, a hundred a row
    places = jnp.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.0], [0.25, 0.5]]).reshape(1, 1, 4, 2)
    found = learned_positions(table, places, side=2)
    np.testing.assert_allclose(found.reshape(-1), [0.0, 110.0, 50.0, 30.0], rtol=1e-6)  # 25 + 5
    assert learned_positions(table.astype(jnp.bfloat16), places, side=2).dtype == jnp.bfloat16
