"""HOST: statements that keep their claim when they are cut, and the sentence for what no rule takes.

The judge reads `judge.max_statement_tokens` word pieces (64 by default) and no more. How many pieces a word has is its
tokenizer's business; here it is estimated, on the safe side. What may be too long says the answer first and the question
behind it.
"""

from __future__ import annotations

from reflex_jax.statements import grammar
from reflex_jax.statements.polar import polar_clauses, polarity_of
from reflex_jax.statements.question import Question

MOST_PIECES = 56  # of a statement that is left as it is; 62 fit
_LETTERS_OF_A_PIECE = 6


def count_pieces(text: str) -> int:
    """How many pieces a tokenizer is thought to make of a text; more than most do."""
    bound = text.count(" ") + 1 + len(text) // _LETTERS_OF_A_PIECE
    if bound <= MOST_PIECES and text.isascii():
        return bound
    pieces = sum(1 + (len(word) - 1) // _LETTERS_OF_A_PIECE for word in text.split())
    return pieces if text.isascii() else pieces + sum(not c.isascii() for c in text)


def place_claim(question: Question, answer: str, statement: str) -> str:
    """The statement with what led to the question behind it, if both fit; else its claim first."""
    if count_pieces(statement) > MOST_PIECES:
        return claim_first(question, answer)
    if not question.lead or count_pieces(question.lead) + count_pieces(statement) > MOST_PIECES:
        return statement
    mark = "." if statement.endswith(".") else ""
    return f"{statement.removesuffix('.')} {question.lead}{mark}"


def claim_first(question: Question, answer: str) -> str:
    """`the answer is bronchoscopy: what is the next step ...`, `it is not the case that ...`: a cut loses no answer."""
    polarity, pair = polarity_of(answer), polar_clauses(question.text)
    if polarity is not None and not question.is_open:
        said = pair[0] if pair else _as_clause(question.words)
        case = f"it is {'' if polarity[0] else 'not '}the case"
        return _within(f"{case}{polarity[1]}: {said}" if polarity[1] else f"{case} that {said}")
    return _within(f"the {'exception' if question.has_exception else 'answer'} is {answer}: {question.text}")


def _within(statement: str) -> str:
    """The words of a statement that surely are read; what is dropped stands behind the claim."""
    words, pieces = statement.split(), 0
    for position, word in enumerate(words):
        pieces += count_pieces(word)
        if pieces > MOST_PIECES:
            return " ".join(words[:position]).rstrip(" ,;:")
    return statement


def name_answer(question: Question, answer: str) -> str:
    """A sentence that affirms, denies or names where no rule fits: `the answer to ... is ...`."""
    if not question.text:
        return f"the answer is {answer}"
    polarity, pair = polarity_of(answer), polar_clauses(question.text)
    if polarity is not None and not question.is_open:
        return claim_first(question, answer)
    is_place = pair is not None and grammar.begins_with_preposition(answer) and not pair[0].endswith(answer)
    if pair is not None and is_place and pair[0].startswith("there "):
        statement = f"{pair[0]} {answer}"
    elif pair is not None and f" {pair[0]}".endswith(f" {answer}"):
        statement = f"{pair[0]}: {answer}"
    else:
        kind = "exception" if question.has_exception else "answer"
        statement = f"the {kind} to {f'whether {pair[0]}' if pair else question.text} is {answer}"
    return statement if count_pieces(statement) <= MOST_PIECES else claim_first(question, answer)


def _as_clause(words: list[str]) -> str:
    """Words of a yes/no question in the order of a statement, as well as can be done without its grammar."""
    if words[0] not in grammar.AUXILIARIES or len(words) < 2:
        return " ".join(words)
    end = max(1, grammar.noun_phrase_end(words[1:])) + 1
    return " ".join([*words[1:end], words[0], *words[end:]])
