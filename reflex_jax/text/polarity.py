"""HOST: whether an answer says yes or no to a question, by that word, by a sentence, or by both in agreement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reflex_jax.text.words import SEPARATORS, tokens_of

YES = frozenset("yes yeah yep yea true correct affirmative".split())
NO = frozenset("no nope false incorrect".split())
NEGATIONS = frozenset(
    "no not without none never absent absence isnt arent wasnt werent doesnt dont didnt hasnt havent cannot cant couldnt nor "
    "neither nothing nobody lack lacking non".split()
)
_STATUS = {"positive": True, "negative": False}  # of what is asked, where they stand alone
AUXILIARIES = frozenset(
    "is are was were be been does doe do did has have had can could will would should may might isnt arent wasnt doesnt dont "
    "didnt hasnt cannot cant".split()
)
# What "there is", "it does" and "is seen in this image" are made of: it says nothing of its own.
_FUNCTION = AUXILIARIES | frozenset(
    "there it they this that these those he she image picture scan film photo radiograph in on of at to for by with and or any "
    "some as such here now seen see visible visualized present presence noted note identified identify shown show appear appears "
    "evidence evident detected found find demonstrated sign signs also we you i patient yes definitely clearly indeed so "
    "a an the be being most likely appreciable appreciated significant apparent".split()
)
_UNABLE, _PICTURES = (
    frozenset("cannot cant couldnt".split()),
    frozenset("image picture scan film photo radiograph".split()),
)
_ASSERTIONS = AUXILIARIES | frozenset(
    "present presence seen visible noted identified detected evident found shown".split()
)
_OPENERS = AUXILIARIES | frozenset("any evidence anything".split())
_HEADED_BY_NOUN = frozenset("there any evidence".split())
# One of a pair denies the other.
_OPPOSITES = (
    ("left", "right"), ("upper", "lower"), ("superior", "inferior"), ("anterior", "posterior"), ("normal", "abnormal"),
    ("benign", "malignant"), ("acute", "chronic"), ("increased", "decreased"), ("high", "low"), ("symmetric", "asymmetric"),
    ("symmetrical", "asymmetrical"), ("regular", "irregular"), ("enlarged", "small"), ("open", "closed"), ("male", "female"),
    ("large", "small"), ("positive", "negative"), ("homogeneous", "heterogeneous"), ("unilateral", "bilateral"),
    ("medial", "lateral"), ("proximal", "distal"), ("complete", "incomplete"), ("hyperdense", "hypodense"),
    ("hyperintense", "hypointense"), ("single", "multiple"), ("solid", "cystic"),
)  # fmt: skip
_OPPOSITE_OF: dict[str, frozenset[str]] = {}
for _pair in _OPPOSITES:
    for _word, _other in (_pair, _pair[::-1]):
        _OPPOSITE_OF[_word] = _OPPOSITE_OF.get(_word, frozenset()) | {_other}


@dataclass(frozen=True)
class PolarQuestion:
    """What of a question decides whether a sentence affirms or denies it."""

    is_polar: bool  # it wants yes or no; also where nothing is known of the question
    content: frozenset[str]  # its words that say something
    focus: str  # the one that is asked for
    is_negated: bool
    is_choice: bool  # it lets one choose: a sentence that repeats a part of it affirms nothing


@dataclass(frozen=True)
class Polarity:
    """What an answer says to a question."""

    says: bool | None  # None: neither
    is_said: bool = False  # by the word itself
    is_contradictory: bool = False


def read_polar(asked: Sequence[str], *, is_choice: bool, is_offered: bool) -> PolarQuestion:
    """Reads a question.

    Args:
      asked: the words of its sentence, none where it is unknown.
      is_choice: it holds alternatives ("A or B").
      is_offered: yes or no is among its options.
    """
    content = [word for word in asked if word not in _FUNCTION and word not in NEGATIONS]
    is_about_noun = bool(asked) and (asked[0] in _HEADED_BY_NOUN or any(w in _HEADED_BY_NOUN for w in asked[1:2]))
    return PolarQuestion(
        is_polar=is_offered or not asked or asked[0] in _OPENERS,
        content=frozenset(content),
        focus=(content[0] if is_about_noun else content[-1]) if content else "",
        is_negated=is_negated(asked),
        is_choice=is_choice,
    )


def read_polarity(tokens: Sequence[str], question: PolarQuestion) -> Polarity:
    """Reads an answer.

    "yes" with a sentence that denies, "no" with one that affirms, and both words at once are contradictory.

    Args:
      tokens: of the answer, with its separators.
      question: what it answers.
    """
    tokens = tokens[next((i for i, token in enumerate(tokens) if token not in SEPARATORS), len(tokens)) :]
    if not tokens:
        return Polarity(None)
    words = [token for token in tokens if token not in SEPARATORS]
    if len(words) == 1 and words[0] in _STATUS and question.is_polar and not question.is_choice:
        return Polarity(_STATUS[words[0]])
    particle, rest = _particle(tokens)
    if {*rest[:2]} & (NO if particle else YES) and set(rest) <= YES | NO | {"and", "or"} and particle is not None:
        return Polarity(None, is_contradictory=True)
    if particle is None and len({word in YES for word in words if word in YES | {"no"}}) == 2:
        return Polarity(None, is_contradictory=True)
    if particle is not None and rest and set(rest) <= YES | NO:
        return Polarity(None)  # "yes yes"
    if not question.is_polar and particle is None:
        return Polarity(None)
    sentence = _sentence(rest, question) if rest else None
    if particle is None or (question.is_negated and sentence is not None):
        return Polarity(sentence, is_said=particle is not None)
    if sentence is not None and sentence != particle:
        return Polarity(None, is_contradictory=True)
    return Polarity(particle, is_said=True)


def _particle(tokens: Sequence[str]) -> tuple[bool | None, list[str]]:
    """The yes or no that an answer opens (or, alone of its kind, closes) with, and the other words."""
    first, words = tokens[0], [token for token in tokens[1:] if token not in SEPARATORS]
    if first in YES:
        return True, words
    if first in NO:
        # "no fracture" and "no evidence of one" deny by a determiner, they hold no "no" of their own
        pronouns = {"it", "there", "they", "this", "he", "she", "and", "or"}
        if first != "no" or not words or tokens[1] in SEPARATORS or words[0] in pronouns:
            return False, words
    everything = [token for token in tokens if token not in SEPARATORS]
    if everything[-1] in {"yes", "no"} and len(everything) > 1:
        return everything[-1] == "yes", everything[:-1] if {*everything[:-1]} & (YES | NO) else []
    if "yes" in everything and "no" not in everything:
        return True, [word for word in everything if word != "yes"]
    return None, everything


def _sentence(words: Sequence[str], question: PolarQuestion) -> bool | None:
    """Whether a sentence affirms (True) or denies what is asked; None where it speaks of something else."""
    content = {word for word in words if word not in _FUNCTION and word not in NEGATIONS}
    denies = is_negated(words)
    if {"i", "we"} & {*words} and _UNABLE & {*words} and _PICTURES & {*words}:
        return None  # "I cannot see the image" denies nothing
    if not content and set(words) <= AUXILIARIES - NEGATIONS:
        return None  # "is"
    if not content:
        is_said = not (_ASSERTIONS | NEGATIONS).isdisjoint(words)
        return not denies if is_said else None
    if question.is_choice and not denies:
        return None
    opposed = {
        word for word in content if not _OPPOSITE_OF.get(word, frozenset()).isdisjoint(question.content - content)
    }
    if opposed:
        denies = not denies
        content -= opposed
    shares = content & question.content
    if content and not shares:
        return None
    is_whole = bool(opposed) or question.focus in content or denies or not _ASSERTIONS.isdisjoint(words)
    if is_whole and (content <= question.content or question.content <= content):
        return denies == question.is_negated
    return None


def is_negated(words: Iterable[str]) -> bool:
    """Whether a clause denies; "not absent" and "no lack of" do not."""
    negations = [word for word in words if word in NEGATIONS]
    return bool(negations) and not (len(negations) == 2 and negations[1] in {"absent", "absence", "lack", "without"})


def says_polarity(text: str) -> bool | None:
    """True or False for a text that is yes or no by its first word alone: an option, a true answer."""
    tokens = tokens_of(text)
    return {"yes": True, "no": False, "true": True, "false": False}.get(tokens[0]) if len(tokens) == 1 else None
