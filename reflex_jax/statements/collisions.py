"""HOST: options that the judge cannot tell from the true one: their statements are one row of ids where it cuts them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reflex_jax.statements.operator import decl
from reflex_jax.text.answers import resolve_answer
from reflex_jax.text.normalise import has_visible_character
from reflex_jax.text.questions import read_question


def colliding_options(
    question: str, answer: str, options: Sequence[str] | None, encode: Callable[[str], tuple[int, ...]]
) -> list[str]:
    """The options other than the true one whose statements end in the same ids.

    Args:
      question: any text, also with its list of options.
      answer: the data set's.
      options: texts behind the letters; None: those of a list in the question.
      encode: a statement -> the ids that the judge reads, cut.
    Returns:
      Texts of options; empty where the question offers none.
    """
    read = read_question(question, tuple(options) if options else None)
    if not read.options:
        return []
    truth = encode(decl(question, answer, options))
    true_key = resolve_answer(answer, read).key
    return [
        option
        for option in read.options
        if has_visible_character(option)
        and resolve_answer(option, read).key != true_key
        and encode(decl(question, option, options)) == truth
    ]
