"""Batches that a step draws as it needs them: in order inside of a phase, and resumed by a cursor."""

import itertools

import pytest

from reflex_jax.data.draws import Draws
from reflex_jax.data.pipeline import training_batches
from tests.data.test_pipeline import CLOSED_THEN_OPEN, ids_of, make_examples


def batches():
    return training_batches(make_examples(), CLOSED_THEN_OPEN, prompts_per_step=4, steps=8, seed=0)


def ids(examples):
    return [e.id for e in examples]


def drawn(counts, *, first_step=0, cursor=None):
    """The batches of each step that draws so many, and the cursor behind it."""
    draws = Draws(batches(), ids, first_step=first_step, cursor=cursor)
    found = []
    for step, count in zip(draws, counts, strict=False):
        found.append((list(itertools.islice(step, count)), draws.cursor))
    return found


def test_steps_of_one_draw_each_have_the_batches_of_the_curriculum():
    assert [batch for (batch,), _ in drawn([1] * 8)] == ids_of(batches(), range(8))


def test_a_phase_draws_its_batches_in_order_over_its_steps_and_begins_with_its_own():
    laid_out, counts = batches(), [3, 1, 2, 1, 2, 1, 1, 1]
    found, number = drawn(counts), {0: 0, 1: 0}
    assert laid_out.phase_steps[0] < 8  # both phases have steps
    for step, (of_step, cursor) in enumerate(found):
        phase = laid_out.phase_of(step)
        expected = [ids(laid_out.of_phase(phase, number[phase] + k)) for k in range(counts[step])]
        number[phase] += counts[step]
        assert of_step == expected and cursor == {"phase": phase, "drawn": number[phase]}


@pytest.mark.parametrize("step", [1, 2, 3, 4, 6])
def test_a_run_that_goes_on_from_its_cursor_draws_what_it_would_have_drawn(step):
    counts = [3, 1, 2, 1, 2, 1, 1, 1]
    whole = drawn(counts)
    assert drawn(counts[step:], first_step=step, cursor=whole[step - 1][1]) == whole[step:]
