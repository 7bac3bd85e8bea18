"""HOST: the letter accuracy of MedVLM-R1 (arXiv:2502.19634): an answer to options is one letter, or a letter and more."""

from __future__ import annotations

import re

from reflex_jax.rewards.answer import read_asked
from reflex_jax.rewards.answered import Answered
from reflex_jax.text.answers import resolve_answer
from reflex_jax.text.normalise import LETTERS, LONGEST_ANSWER

_LETTER = re.compile(f"[{LETTERS}]")


def letter_score(answered: Answered, *, with_text: float = 0.5) -> float | None:
    """1 for the right letter alone, `with_text` for it beside other text without a letter of A to J, else 0.

    As published, any letter from A to J counts wherever it stands, those inside of words too: "A) fracture" holds an F, a
    second A and more, and is paid nothing; "A)" and "(a)" are the letter with other text. Here a completion without exactly
    one answer block is paid nothing; there, the whole of it stood in for the answer.

    Args:
      answered: one answer; it does not apply to questions without options.
      with_text: what the right letter is worth that does not stand alone.
    """
    if not answered.options:
        return None
    right = resolve_answer(answered.truth, read_asked(answered.question, answered.options)).option
    if right is None:
        raise ValueError(f"the true answer {answered.truth[:80]!r} is none of the options.")
    answer = (answered.answer or "")[:LONGEST_ANSWER].strip().upper()
    if _LETTER.findall(answer) != [LETTERS[right]]:
        return 0.0
    return 1.0 if answer == LETTERS[right] else with_text


def check_with_text(*, with_text: float) -> None:
    """Refuses to pay a letter with text more than one alone, or less than a wrong one.

    Raises:
      ValueError: out of range.
    """
    if not 0 <= with_text <= 1:
        raise ValueError(f"with_text: expected a number in [0, 1]; got {with_text}.")
