"""HOST: what an answer means: which option it names, whether it says yes or no, and a key that equal answers share.

The one resolver behind statements, the answer reward and the metrics. It reads an answer beside its question: "B", "(B)",
"B. nodule" and "the nodule" are one answer where B is the nodule, "left" and "left side" one where sides are asked for, "yes",
"yes, there is" and "there is a fracture" one where a fracture is. Letter and text that disagree, or a yes with a sentence that
denies, are contradictory: never right.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from reflex_jax.text.normalise import LETTERS, LONGEST_ANSWER, clean_text, trim_answer
from reflex_jax.text.polarity import (
    AUXILIARIES,
    NEGATIONS,
    Polarity,
    PolarQuestion,
    read_polar,
    read_polarity,
    says_polarity,
)
from reflex_jax.text.questions import ReadQuestion
from reflex_jax.text.words import SEPARATORS, fold_lengths, fold_sides, is_number, tokens_of, words_of

DIRECTIONS = (
    "left", "right", "upper", "lower", "superior", "inferior", "anterior", "posterior", "medial", "lateral", "proximal", "distal",
)  # fmt: skip

_MARKS = r"[\s()\[\]{}<>*_\"'`.,:;!?$\\/=-]"
# "The answer is", "Final answer:", "I choose", "option"; the answer stands behind
_LEAD_IN = re.compile(
    r"(?:(?:so|thus|therefore|hence),? )?"
    r"(?:(?:i (?:think|believe|would say|choose|pick|select)|(?:i )?(?:would )?go with)(?: that)? )?"
    r"(?:(?:the |my )?(?:(?:correct|right|best|final|most likely) )*(?:answer|option|choice|letter)(?: is| would be| should be)?"
    r"(?: (?:option|choice|letter)(?= |$))?(?: ?[:=-])? |(?:answer|option|choice|letter)(?=[:(\[]):?)?",
    re.IGNORECASE | re.ASCII,
)
_BOXED = re.compile(r"\$?\\(?:boxed|text|mathrm)\{(.*)\}\$?")
_LETTER = re.compile(rf"{_MARKS}*([a-j]){_MARKS}*", re.IGNORECASE | re.ASCII)
_LETTERED = re.compile(
    r"[\s(\[{<*_\"]*([a-j])(?:[*_\"]*[).:\]}>,=/]+[*_\"]*| [-\u2013\u2014]+ )\s*(.+)", re.IGNORECASE | re.ASCII
)
_LETTER_BEHIND = re.compile(r"(.+?)[.)]?(?: ?[(\[]([a-jA-J])[)\]]|, ?([A-J]))\.?", re.ASCII)  # "nodule (B)"
_IS_LETTER = re.compile(
    r"(?:it is|it's|its|this is|that is) (\W{0,3}[b-j]\W{0,3}|\W{0,3}A\W{0,3})", re.IGNORECASE | re.ASCII
)
_BARE_LETTER = re.compile(r"([a-j]) +(.+)", re.IGNORECASE | re.ASCII)
_IS_CORRECT = re.compile(
    r"(.{1,80}?),? (?:is|would be) (?:the )?(?:correct|right|best)(?: (?:answer|option|choice|one))?", re.IGNORECASE
)
_LIST_MARKS = re.compile(r"[\s.,;/&+()\[\]*]+|\band\b", re.ASCII)  # "A, C and D"
_COUNTED = re.compile(r"\W{0,3}(\w{1,4})(?:\W{1,4}(.*))?")  # "2", "2. abscess" of a list that counts
# "an MRI, not a CT", "not a CT but an MRI": what is chosen and what is turned down
_TURNED_DOWN = (
    re.compile(r"(?P<chosen>.+?),? (?:and |but )?(?:not|rather than|instead of) (?P<other>.+)", re.IGNORECASE),
    re.compile(r"(?:it is |it's )?not (?P<other>.+?)(?:, ?but|[,;]| but) (?P<chosen>.+)", re.IGNORECASE),
)
_ABOVE = frozenset("none all both neither".split())  # "none" says "None of the above"
_REASON = re.compile(r",? (?:because|since|due to|as it|as the)\b")
# "It is a", "there are", "the image shows" before what is named
_COPULAS = tuple(
    tuple(phrase.split())
    for phrase in (
        "it is", "its", "this is", "that is", "thats", "there is", "there are", "these are", "they are", "this image show",
        "image show", "it show", "finding is", "it are",
    )
)  # fmt: skip
_PREPOSITIONS = frozenset("in on at within".split())
_LINKS = frozenset("of to in on at with by from than and or for between near above below behind".split())
_BORDERS = _LINKS | AUXILIARIES | {"without", "inside", "outside", "located", "seen", "taken", "using", "more"}
_POINTERS = frozenset("this these that those which what".split())
# Nouns that only say what kind of thing is named: "left side", "coronal plane", "T2 image".
_CLASSIFIERS = frozenset(
    "side plane view image scan section slice film picture weighted weighting imaging projection".split()
)
_PROTECTED = frozenset(DIRECTIONS) | NEGATIONS | {"both", "positive", "negative", "<", ">", "\u2264", "\u2265"}
_LONGEST_KEPT = 256  # characters of an answer whose resolution is kept
_NO_NUMBER = frozenset({("none",), ("no",), ("zero",), ("nothing",)})


@dataclass(frozen=True)
class Resolved:
    """An answer, read beside its question."""

    key: str  # equal keys: the same answer to this question; empty for an answer without a visible character
    text: str  # words for a statement: the option's text where one is named, else the answer's own, trimmed
    option: int | None  # index of the option that is named
    polarity: bool | None  # yes or no, where the answer says it
    is_contradictory: bool  # letter and text disagree, yes stands with a sentence that denies: never right


@dataclass(frozen=True)
class _Frame:
    """What of a question decides which answers are equal; read once for all its answers."""

    polar: PolarQuestion
    options: tuple[tuple[str, ...], ...]  # words of each
    option_polarities: tuple[bool | None, ...]
    alternatives: tuple[tuple[str, ...], ...]  # of "is it A or B?"
    idle: frozenset[str]  # words that tell no two of them apart
    tail: frozenset[str]  # nouns that an answer may leave out at its end
    is_count: bool
    labels: tuple[str, ...]  # marks of a list that counts its options: "1", "2"
    is_side: bool  # sides are asked for: "L" is left


def resolve_answer(answer: str, question: ReadQuestion) -> Resolved:
    """Reads an answer beside its question.

    Letters come first: where "B" is a letter and the text of another option, it is the letter. A capital A before a word is an
    article unless a mark sets it apart ("A. nodule"). What stands behind the first `LONGEST_ANSWER` characters is not read.

    Args:
      answer: content of an answer block, or a data set's answer. Without a visible character all of the result is empty.
      question: from `read_question`; with an empty `asked` nothing is known of it.
    """
    resolve = _resolve if len(answer) <= _LONGEST_KEPT else _resolve.__wrapped__
    return resolve(answer[:LONGEST_ANSWER], question)


@functools.lru_cache(maxsize=8192)
def _resolve(answer: str, question: ReadQuestion) -> Resolved:
    frame = _frame(question)
    said = _chosen(_said(clean_text(answer)), frame)
    trimmed = trim_answer(said)
    if not trimmed:
        return Resolved("", "", None, None, False)
    option, is_contradictory = _named_option(said, frame) if frame.options else (None, False)
    if option is not None:
        return Resolved(
            " ".join(frame.options[option]),
            trim_answer(question.options[option]),
            option,
            frame.option_polarities[option],
            False,
        )
    tokens = tokens_of(said)
    letters = set(_LIST_MARKS.sub(" ", said.lower()).upper().split())
    if len(letters) > 1 and letters <= set(LETTERS):
        return Resolved(" ".join(sorted(letters)), trimmed, None, None, False)
    words = fold_sides(tuple(token for token in tokens if token not in SEPARATORS) or tokens, frame.is_side)
    if frame.is_count and words in _NO_NUMBER:
        return Resolved("0", trimmed, None, None, False)
    chosen = _alternative(words, frame)
    if chosen is not None:
        return Resolved(" ".join(_in_order(chosen)), trimmed, None, None, False)
    polarity = Polarity(None) if is_contradictory else read_polarity(tokens, frame.polar)
    if polarity.says is not None and polarity.says in frame.option_polarities:
        option = frame.option_polarities.index(polarity.says)
        return Resolved(" ".join(frame.options[option]), trimmed, option, polarity.says, False)
    if polarity.says is not None and not frame.options and (frame.polar.is_polar or polarity.is_said):
        key = "yes" if polarity.says else "no"
    else:
        key = " ".join(_free_key(words, frame))
    return Resolved(key, trimmed, None, polarity.says, is_contradictory or polarity.is_contradictory)


def _said(text: str) -> str:
    """The answer itself, out of "The answer is B.", "B is correct", "\\boxed{B}"."""
    boxed = _BOXED.fullmatch(text.strip(" ."))
    text = boxed[1] if boxed else text
    said = (
        _LEAD_IN.sub("", text, count=1).lstrip() if text[:1].isascii() else text
    )  # it matches at the start, also nothing
    correct = _IS_CORRECT.fullmatch(said.rstrip(" .!"))
    return (correct[1] if correct else said) or text


def _chosen(said: str, frame: _Frame) -> str:
    """`an MRI` of "an MRI, not a CT", where both are among what is offered."""
    offered = frame.options or frame.alternatives
    for pattern in _TURNED_DOWN if offered else ():
        found = pattern.fullmatch(said.rstrip(" .!"))
        if found:
            chosen, other = (
                _named_option(found[part], frame)[0] if frame.options else _name(words_of(found[part]), offered, frame)
                for part in ("chosen", "other")
            )
            if None not in (chosen, other) and chosen != other:
                return found["chosen"]
    return said


def _counted_option(said: str, frame: _Frame) -> int | None:
    """The option of a list that counts "1.", "2.", where the answer gives its number, alone or with its text."""
    found = _COUNTED.fullmatch(said.lower()) if frame.labels else None
    if found is None or found[1] not in frame.labels:
        return None
    option = frame.labels.index(found[1])
    is_whole = not found[2] or _name(words_of(found[2]), frame.options, frame) == option
    return option if is_whole and option < len(frame.options) else None


def _named_option(said: str, frame: _Frame) -> tuple[int | None, bool]:
    """(option, whether letter and text disagree)."""
    counted = _counted_option(said, frame)
    if counted is not None:
        return counted, False
    is_letter = _IS_LETTER.fullmatch(said)
    said = is_letter[1] if is_letter else said
    letter = _LETTER.fullmatch(_REASON.split(said, maxsplit=1)[0])
    if letter and (index := LETTERS.index(letter[1].upper())) < len(frame.options):
        return index, False
    whole = words_of(said)
    lettered = _LETTERED.fullmatch(said)
    if lettered and whole in frame.options and whole[0] == lettered[1].lower():
        return frame.options.index(whole), False  # "E. coli", whose letter is a part of the text
    if lettered and (index := LETTERS.index(lettered[1].upper())) < len(frame.options):
        return _agree(index, lettered[2], frame)
    bare = _BARE_LETTER.fullmatch(said)
    if bare and (index := LETTERS.index(bare[1].upper())) < len(frame.options):
        named = _name(words_of(bare[2]), frame.options, frame)
        if named is not None and bare[1] not in "aA":
            return (index, False) if named == index else (None, True)
    named = _name(whole, frame.options, frame)
    behind = _LETTER_BEHIND.fullmatch(said) if named is None else None
    if behind and (index := LETTERS.index((behind[2] or behind[3]).upper())) < len(frame.options):
        return _agree(index, behind[1], frame)
    return named, False


def _agree(index: int, rest: str, frame: _Frame) -> tuple[int | None, bool]:
    """What a letter and the words behind it name together."""
    words = words_of(rest)
    named = _name(words, frame.options, frame)
    if named is None:
        mentioned = [i for i, option in enumerate(frame.options) if _holds(words, option)]
        own = [i for i in mentioned if _holds(frame.options[index], frame.options[i])]  # "mass" within "renal mass"
        if index in mentioned and len(own) == len(mentioned):
            return index, False
        return None, bool(mentioned)
    is_same = named == index or frame.options[named] == frame.options[index]
    return (index, False) if is_same else (None, True)


def _holds(words: tuple[str, ...], part: tuple[str, ...]) -> bool:
    """Whether `part` stands in `words` as it is."""
    return f" {' '.join(part)} " in f" {' '.join(words)} "


def _name(words: tuple[str, ...], named: tuple[tuple[str, ...], ...], frame: _Frame) -> int | None:
    """Which of some texts the words name: all of its words, or those that tell it from the others."""
    words = fold_sides(words, frame.is_side)
    for said in (words, _without_copula(words)):
        if said in named:
            return named.index(said)
    if words and words[0] in _ABOVE and words[1:2] in ((), ("of",)):
        above = [i for i, text in enumerate(named) if text[:2] == (words[0], "of")]
        if len(above) == 1:
            return above[0]
    residue = _residue(_without_copula(words), frame)
    found = {text: i for i, text in reversed([*enumerate(named)]) if residue and _residue(text, frame) == residue}
    if not found:  # "12 mm" of "1.2 cm"
        length = fold_lengths(_without_copula(words))
        found = {text: i for i, text in enumerate(named) if fold_lengths(text) == length}
    return next(iter(found.values())) if len(found) == 1 else None


def _residue(words: tuple[str, ...], frame: _Frame) -> tuple[str, ...]:
    return tuple(word for word in words if word not in frame.idle)


def _without_copula(words: tuple[str, ...]) -> tuple[str, ...]:
    """`nodule` of "it is a nodule"."""
    for copula in _COPULAS:
        if words[: len(copula)] == copula and len(words) > len(copula):
            return words[len(copula) :]
    return words


def _alternative(words: tuple[str, ...], frame: _Frame) -> list[str] | None:
    """The telling words of the alternative that is named, of those between which the question lets one choose."""
    if not frame.alternatives:
        return None
    named = _name(words, frame.alternatives, frame)
    residues = [_residue(alternative, frame) for alternative in frame.alternatives]
    if named is None:  # "enlarged" of "is the heart enlarged or normal size"
        said = _residue(_without_copula(words), frame)
        ending = [i for i, r in enumerate(residues) if said and said in (r[-len(said) :], r[: len(said)])]
        named = ending[0] if len(ending) == 1 else None
    return None if named is None else list(residues[named] or frame.alternatives[named])


def _free_key(words: tuple[str, ...], frame: _Frame) -> list[str]:
    """The words that make an answer, without "it is a" and "in" before, and without what the question says behind."""
    said = list(_without_copula(fold_lengths(fold_sides(words, frame.is_side))))
    said = said[next((i for i, word in enumerate(said) if word not in _PREPOSITIONS), len(said) - 1) :]
    while len(said) > 1 and said[-1] in frame.tail and said[-2] not in _LINKS:
        said.pop()
    return _in_order(said)


def _in_order(words: list[str]) -> list[str]:
    """ "lower left lung" and "left lower lung" are one place: directions that stand side by side are put in one order."""
    ordered: list[str] = []
    start = 0
    while start < len(words):
        end = start
        while end < len(words) and words[end] in DIRECTIONS:
            end += 1
        ordered += sorted(words[start:end], key=DIRECTIONS.index) + words[end : end + 1]
        start = end + 1
    return ordered


@functools.lru_cache(maxsize=4096)
def _frame(question: ReadQuestion) -> _Frame:
    tokens = tokens_of(question.asked.strip()) if question.asked.strip() else ()
    tokens = tokens[:-2] if tokens[-2:] == ("or", "not") else tokens
    asked = tuple(token for token in tokens if token not in SEPARATORS)
    options = tuple(words_of(option) for option in question.options)
    alternatives = () if options else _alternatives(tokens)
    heads = {word for text in options or alternatives for word in text[:1]}
    is_side = (
        {"left", "right"} <= heads or {"l", "r"} <= heads or not {"side", "laterality", "hemisphere"}.isdisjoint(asked)
    )
    options = tuple(fold_sides(option, is_side) for option in options)
    offered = options or alternatives
    telling = {word for text in offered for word in text if not all(word in other for other in offered)} - _CLASSIFIERS
    nouns = {word for word in asked if word not in AUXILIARIES and not is_number(word)} | _CLASSIFIERS
    shared = {word for text in offered for word in text} - telling
    polarities = tuple(says_polarity(option) for option in question.options)
    is_offered = any(polarity is not None for polarity in polarities)
    return _Frame(
        polar=read_polar(asked, is_choice=bool(alternatives), is_offered=is_offered),
        options=options,
        option_polarities=polarities,
        alternatives=alternatives,
        idle=frozenset((nouns | shared | _PREPOSITIONS) - telling - _PROTECTED) if offered else frozenset(),
        tail=frozenset(nouns - telling - _PROTECTED - _LINKS),
        is_count=asked[:2] == ("how", "many") or "number" in asked,
        labels=() if question.labels[:1] in ((), ("A",), ("a",)) else tuple(m.lower() for m in question.labels),
        is_side=is_side,
    )


def _alternatives(tokens: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """What a question lets one choose from: "is it in the left or right lung" -> (left lung), (right lung)."""
    wish = next((word for word in ("or", "vs", "versus") if word in tokens[1:-1]), None)
    if wish is None:
        return ()
    tokens = tuple(t for i, t in enumerate(tokens) if t != "." or tokens[i - 1] != wish)  # "vs."
    middle = len(tokens) - 1 - tokens[::-1].index(wish)
    end = middle + 2
    while end < len(tokens) and tokens[end] not in _BORDERS | SEPARATORS:
        end += 1
    right = tokens[middle + 1 : end]
    if tokens[middle - 1] in _BORDERS and right and right[0] in _BORDERS:  # "with or without contrast"
        return ((tokens[middle - 1], *right[1:]), right)
    start = middle
    while start > 0 and tokens[start - 1] not in _BORDERS:
        start -= 1
    listed = [item.split() for item in " ".join(tokens[start:middle]).split(" , ")]
    listed = [_behind_pointer([word for word in item if word != ","]) for item in listed]
    left = [tuple(item[-max(len(right), 1) :]) for item in listed if not _CLASSIFIERS.issuperset(item)]
    return (*(item + right[len(item) :] for item in left), right) if left and right else ()


def _behind_pointer(words: list[str]) -> list[str]:
    """`t1 weighted` of "this t1 weighted", and of "the image t1 weighted" all."""
    return words[max((i + 1 for i, word in enumerate(words) if word in _POINTERS), default=0) :]
