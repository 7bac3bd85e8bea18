"""The letter accuracy of MedVLM-R1, by hand."""

import pytest

from reflex_jax.rewards.answered import Answered
from reflex_jax.rewards.components import REWARDS
from reflex_jax.rewards.letter import letter_score

OPTIONS = ("Fracture", "Effusion", "Mass", "Normal")


def answered(answer, truth="Mass", options=OPTIONS):
    return Answered(
        question="What is shown?", completion="", answer=answer, truth=truth, answer_type="closed", options=options
    )


@pytest.mark.parametrize(
    ("answer", "paid"),
    [
        ("C", 1.0),
        (" c\n", 1.0),
        ("C)", 0.5),
        ("(c).", 0.5),
        ("C) Mss", 0.5),  # no other letter of A to J
        ("C) Mass", 0.0),  # the a of "Mass" is a second letter
        ("A) Fracture", 0.0),
        ("Mass", 0.0),  # its a is the only letter of A to J, and names the first option
        ("B", 0.0),
        ("C C", 0.0),
        ("K", 0.0),
        ("", 0.0),
        (None, 0.0),  # no answer block, or two
    ],
)
def test_one_letter_is_paid_and_nothing_else(answer, paid):
    assert letter_score(answered(answer)) == paid


def test_the_truth_may_be_a_letter_or_a_text():
    for truth in ("C", "Mass", "C) Mass", "mass"):
        assert letter_score(answered("C", truth)) == 1.0
        assert letter_score(answered("A", truth)) == 0.0
    with pytest.raises(ValueError, match=r"the true answer 'Cyst' is none of the options"):
        letter_score(answered("C", "Cyst"))


def test_it_does_not_apply_without_options_and_the_half_is_an_option():
    assert letter_score(answered("C", options=None)) is None
    assert letter_score(answered("C)"), with_text=0.0) == 0.0
    assert REWARDS["letter"].score([answered("C"), answered("x", options=None)], {"with_text": 0.5}) == [1.0, None]
    with pytest.raises(ValueError, match=r"with_text: expected a number in \[0, 1\]; got 1.5"):
        REWARDS["letter"].check(with_text=1.5)
