"""HOST: the declarative operator t = decl(q, a) (paper Eq. 1): question and answer become one factual statement.

A versioned, deterministic table of rules, tried in order; never a language model, so that the same words always give
the same evidence. The paper gives no rules; these are read off VQA-RAD, SLAKE and the phantom world. Statements are
lower case (the judge's tokenizer lowers them anyway) and hold at most 32 words of the answer, from its first 4,096
characters.

Different answers to one question give different statements. Where two of them mean the same ("left" and "left side" to
"... on the left or right side?") the sentence is the same and a final full stop or a colon tells them apart.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from reflex_jax.statements import choices, grammar, how, polar, what, where
from reflex_jax.statements.question import Question, Rule
from reflex_jax.text.normalise import LETTERS, clean_text, match_option, trim_answer

DECL_VERSION = "1"
MAX_ANSWER_WORDS = 32
LONGEST_QUESTION = 4096  # characters that the rules read; some need time that grows with their square
FALLBACK = "fallback"

# Tried in this order; the first that returns a statement wins.
RULES: tuple[tuple[str, Rule], ...] = (
    ("polar", polar.declare_polar),
    ("alternative", choices.declare_alternative),
    ("state", polar.declare_state),
    ("where", where.declare_where),
    ("count", how.declare_count),
    ("measure", how.declare_measure),
    ("how", how.declare_how),
    ("describe", how.declare_describe),
    ("why", how.declare_why),
    ("in_question", where.declare_in_question),
    ("what_is", what.declare_what_is),
    ("finite", what.declare_finite),
    ("subject_question", what.declare_subject_question),
    ("what_does", what.declare_what_does),
    ("in_place", where.declare_in_place),
    ("named", what.declare_named),
)


def decl(question: str, answer: str, options: Sequence[str] | None = None) -> str:
    """Turns a question and an answer into a statement (Eq. 1).

    Args:
      question: any text; lettered options in it ("A. cyst B. nodule", "(A) cyst (B) nodule") are recognised. Without them
        it may have `LONGEST_QUESTION` characters; a longer one is served by the fallback.
      answer: what was answered; a letter or the text of an option stands for the option.
      options: texts behind the letters A, B, ...; default: those found in the question.
    Raises:
      ValueError: the answer has no visible character.
    """
    return _declare(question, answer, options)[1]


def decl_rule(question: str, answer: str, options: Sequence[str] | None = None) -> str:
    """Name of the rule that makes the statement, `fallback` where none of the table fits."""
    return _declare(question, answer, options)[0]


def decl_coverage(questions: Iterable[tuple[str, str, Sequence[str] | None]]) -> dict[str, int]:
    """Counts how many of (question, answer, options) each rule serves, most frequent first."""
    return dict(Counter(decl_rule(*question) for question in questions).most_common())


def _declare(question: str, answer: str, options: Sequence[str] | None) -> tuple[str, str]:
    stem, lettered = _read(question)
    offered = options or lettered or ()
    chosen = match_option(answer, offered) if offered else None
    words = trim_answer(answer if chosen is None else offered[chosen])
    if not words:
        raise ValueError(f"decl: expected an answer with visible characters; got {answer!r} to {question!r}.")
    words = " ".join(words.split()[:MAX_ANSWER_WORDS])
    is_only_articles = set(words.split()) <= grammar.ARTICLES  # rules add and drop them
    if not stem or len(stem) > LONGEST_QUESTION or is_only_articles:
        return FALLBACK, f"{stem} {words}".strip()
    asked = Question(text=stem, has_options=bool(offered))
    clauses = polar.polar_clauses(asked.text)
    for name, rule in RULES:
        statement = rule(asked, words)
        if statement is not None and (name == "polar" or clauses is None or statement not in clauses):
            return name, _mend(statement)
    return FALLBACK, f"{asked.text} {words}".strip()


@functools.lru_cache(maxsize=4096)
def _read(question: str) -> tuple[str, tuple[str, ...] | None]:
    stem, lettered = split_options(question)
    return _tidy(stem), lettered


def split_options(question: str) -> tuple[str, tuple[str, ...] | None]:
    """Separates a question from the lettered options A, B, ... written after it ("A. cyst", "(A) cyst", "A cyst").

    Returns:
      The question alone and the texts of at least two options, or the whole question and None.
    """
    text = clean_text(question)
    marks: list[re.Match[str]] = []
    for letter in LETTERS:
        # a lone "A" may be an article: it opens a list only behind a full stop, a question mark, ...
        bare = rf"(?<=[?:.;,] ){letter}(?:[.:]|(?= ))" if not marks else rf"(?<=\s){letter}(?:[.:]|(?= ))"
        mark = re.compile(rf"(?:{bare}|(?<=\s)(?ai:\({letter}\)|{letter}\)))\s*").search(
            text, marks[-1].end() if marks else 0
        )
        if mark is None:
            break
        marks.append(mark)
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    options = (
        tuple(text[mark.end() : end].strip(" ,;.") for mark, end in zip(marks, ends, strict=True)) if marks else ()
    )
    if len(options) < 2 or not all(options):
        return text, None
    stem = re.sub(r"\s*(?:choices|options)\s*:?$", "", text[: marks[0].start()].strip(), flags=re.IGNORECASE)
    return stem, options


def _tidy(text: str) -> str:
    lowered = clean_text(text).lower().replace('"', "")
    lowered = re.sub(r"\b(?:is/are|are/is)\b", "is", lowered)
    lowered = re.sub(r"\borgans/organ\b", "organ", re.sub(r"^doe\b", "does", lowered))
    lowered = re.sub(r"\b(?:the|this) (image|picture|scan|film) above\b", r"the above \1", lowered)
    # only up to the last ")": behind it every "(" would be followed to the end of the text in vain
    head, closing, tail = lowered.rpartition(")")
    lowered = re.sub(r"\s*\([^)]*\)", "", head + closing) + tail
    lowered = re.sub(r"\s*,\s*", ", ", lowered).strip(" ?.:,;!")
    return re.sub(r"^(besides [^,]+), (.+)$", r"\2 \1", lowered)


def _mend(statement: str) -> str:
    return " ".join(grammar.mend_articles(statement).replace("the both ", "both ").replace("the the ", "the ").split())
