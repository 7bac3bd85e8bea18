"""HOST: the declarative operator t = decl(q, a) (paper Eq. 1): question and answer become one factual statement.

A versioned, deterministic table of rules, tried in order; never a language model, so that the same words always give
the same evidence. The paper gives no rules; these are read off VQA-RAD, SLAKE and the phantom world. Statements are
lower case (the judge's tokenizer lowers them anyway) and hold at most 32 words of the answer, from its first 4,096
characters. What may be too long for the judge says the answer first, see `budget`; what no rule takes still affirms,
denies or names.

Different answers to one question give different statements. Where two of them mean the same ("left" and "left side" to
"... on the left or right side?") the sentence is the same and a final full stop or a colon tells them apart.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from reflex_jax.statements import blanks, choices, clauses, grammar, how, people, polar, selections, what, where
from reflex_jax.statements.budget import name_answer, place_claim
from reflex_jax.statements.question import CAPITAL_A, Question, Rule, prepare_question, protect_letters
from reflex_jax.text.answers import resolve_answer
from reflex_jax.text.normalise import LONGEST_ANSWER, clean_text, trim_answer
from reflex_jax.text.questions import ReadQuestion, read_question

DECL_VERSION = "2"
MAX_ANSWER_WORDS = 32
LONGEST_QUESTION = 4096  # characters that the rules read; some need time that grows with their square
FALLBACK = "fallback"

_WHICH = frozenset({"what", "which"})
_BESIDE_ASKING = frozenset({"what", "which", "where", "how", "why", "whose", "when", "who", "whom"})
_POLAR = grammar.AUXILIARIES | {"any", "anything", "evidence", "notice"}


@dataclass(frozen=True)
class Entry:
    """A rule and the questions it is asked for: those that open with one of some words, or with none of some."""

    name: str
    rule: Rule
    opens: frozenset[str] = frozenset()  # empty: any word
    never: frozenset[str] = frozenset()

    def may_serve(self, first: str) -> bool:
        """Whether a question with this first word can be one of the rule's."""
        return first not in self.never and (not self.opens or first in self.opens)


# Tried in this order; the first that returns a statement wins.
RULES: tuple[Entry, ...] = (
    Entry("polar", polar.declare_polar, opens=_POLAR),
    Entry("blank", blanks.declare_blank),
    Entry("claim", polar.declare_claim, never=grammar.AUXILIARIES | _BESIDE_ASKING),
    Entry("except", blanks.declare_except, never=grammar.AUXILIARIES | _BESIDE_ASKING),
    Entry("true", selections.declare_true, opens=_WHICH),
    Entry("sentence", selections.declare_sentence),
    Entry("alternative", choices.declare_alternative, never=_BESIDE_ASKING),
    Entry("state", polar.declare_state, opens=grammar.BE),
    Entry("where", where.declare_where, opens=frozenset({"where"})),
    Entry("when", people.declare_when, opens=frozenset({"when", "since", "until", "at"})),
    Entry("who", people.declare_who, opens=frozenset({"who"})),
    Entry("whose", people.declare_whose, opens=frozenset({"whose", "in", "on", "from", "of"})),
    Entry("count", how.declare_count, opens=frozenset({"how"})),
    Entry("measure", how.declare_measure, opens=frozenset({"how", "approximately"})),
    Entry("how", how.declare_how, opens=frozenset({"how"})),
    Entry("describe", how.declare_describe, never=_BESIDE_ASKING - {"how"}),
    Entry("why", how.declare_why, opens=frozenset({"why"})),
    Entry("in_question", where.declare_in_question, opens=_WHICH | grammar.PREPOSITIONS | {"using"}),
    Entry("what_is", what.declare_what_is, opens=_WHICH),
    Entry("finite", what.declare_finite, opens=_WHICH),
    Entry("subject_question", what.declare_subject_question, opens=_WHICH),
    Entry("what_does", what.declare_what_does, opens=_WHICH),
    Entry("in_place", where.declare_in_place, never=grammar.AUXILIARIES | _BESIDE_ASKING),
    Entry("unfinished", blanks.declare_unfinished, never=grammar.AUXILIARIES | _BESIDE_ASKING),
    Entry("named", what.declare_named, never=grammar.AUXILIARIES | (_BESIDE_ASKING - _WHICH)),
)
# Rules whose statement may be one of the two that a yes or a no would make.
_SAID_BEFORE_MORE = re.compile(
    r"yes\b|no *[,.;:!-]"
)  # what else such an answer says is kept, "true" is a word of its own
_AFFIRMING = frozenset({"polar"})


def decl(question: str, answer: str, options: Sequence[str] | None = None) -> str:
    """Turns a question and an answer into a statement (Eq. 1).

    Args:
      question: any text; a list of options in it ("A. cyst B. nodule", "1) cyst") is recognised, and what only leads to
        the sentence that asks is left out, see `text.questions`. Of a longer sentence the last `LONGEST_QUESTION`
        characters are read.
      answer: what was answered; a letter or the text of an option stands for the option.
      options: texts behind the letters A, B, ...; default: those found in the question.
    Raises:
      ValueError: the answer has no visible character.
    """
    return decl_and_rule(question, answer, options)[1]


def decl_rule(question: str, answer: str, options: Sequence[str] | None = None) -> str:
    """Name of the rule that makes the statement, `fallback` where none of the table fits."""
    return decl_and_rule(question, answer, options)[0]


def decl_coverage(questions: Iterable[tuple[str, str, Sequence[str] | None]]) -> dict[str, int]:
    """Counts how many of (question, answer, options) each rule serves, most frequent first."""
    return dict(Counter(decl_rule(*question) for question in questions).most_common())


def decl_and_rule(question: str, answer: str, options: Sequence[str] | None = None) -> tuple[str, str]:
    """(name of the rule, statement); see `decl_rule` and `decl`."""
    asked, read = _read(question, tuple(options) if options else None)
    words = _answer_words(answer, asked, read)
    if asked.request and polar.polarity_of(words) is None:
        asked = replace(asked, text=asked.request)
    if not words:
        raise ValueError(f"decl: expected an answer with visible characters; got {answer!r} to {question!r}.")
    is_only_articles = set(words.split()) <= grammar.ARTICLES  # rules add and drop them
    if not asked.text or is_only_articles:
        return FALLBACK, _finish(name_answer(asked, words))
    pair = polar.polar_clauses(asked.text)
    for entry in _rules_for(asked.text.split(" ", 1)[0]):
        statement = entry.rule(asked, words)
        if statement is not None and (entry.name in _AFFIRMING or pair is None or statement not in pair):
            said = clauses.deny(statement) if asked.has_exception else statement
            return entry.name, _finish(place_claim(asked, words, said))
    return FALLBACK, _finish(name_answer(asked, words))


def _answer_words(answer: str, asked: Question, read: ReadQuestion) -> str:
    """The words of the answer that are stated, in lower case: an option's text where one is named, else its own.

    "There is a fracture" to "is there a fracture?" is a yes, and says no more than that.
    """
    said = _counted_option(answer, read)
    if said is None:
        resolved = resolve_answer(answer, read)
        said, words = (answer if resolved.option is None else read.options[resolved.option]), resolved.text
        is_clear = resolved.option is None and not asked.is_open and not {"not", "no"} & set(asked.words)
        if resolved.key in {"yes", "no"} and is_clear and not _SAID_BEFORE_MORE.match(words):
            return resolved.key
    else:
        words = trim_answer(said)
    return " ".join(_mark_letters(words, said).split()[:MAX_ANSWER_WORDS])


@functools.lru_cache(maxsize=4096)
def _rules_for(first: str) -> tuple[Entry, ...]:
    return tuple(entry for entry in RULES if entry.may_serve(first))


def _counted_option(answer: str, read: ReadQuestion) -> str | None:
    """The option of a list that counts "1.", "2.", where the answer gives its number."""
    if not read.labels or read.labels[0] in {"A", "a"}:
        return None
    match = re.fullmatch(r"\W{0,3}(\w{1,4})(?:\W{1,4}(.*))?", clean_text(answer[:LONGEST_ANSWER]).lower())
    if match is None or match[1] not in read.labels:
        return None
    option = read.options[read.labels.index(match[1])]
    return option if not match[2] or trim_answer(match[2]) == trim_answer(option) else None


def _mark_letters(lowered: str, said: str) -> str:
    """Puts the mark of a capital A that is a letter into the words that were lowered."""
    if "A" not in said:
        return lowered
    words = lowered.split()
    letters = protect_letters(clean_text(said[:LONGEST_ANSWER])).split()[-len(words) :]
    if CAPITAL_A not in "".join(letters) or len(words) != len(letters):
        return lowered
    return " ".join(
        CAPITAL_A + word[1:] if letter[0] == CAPITAL_A else word for word, letter in zip(words, letters, strict=True)
    )


@functools.lru_cache(maxsize=4096)
def _read(question: str, options: tuple[str, ...] | None) -> tuple[Question, ReadQuestion]:
    read = read_question(question, options)
    asked = prepare_question(read.asked[-LONGEST_QUESTION:], has_options=bool(read.options))
    return selections.without_choice(blanks.without_exception(asked)), read


def _finish(statement: str) -> str:
    mended = grammar.mend_articles(statement).replace("the both ", "both ").replace("the the ", "the ")
    return " ".join(mended.replace(CAPITAL_A, "a").split())
