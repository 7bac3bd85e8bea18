"""HOST: whether two answers contradict each other in a word that turns the finding: left and right, with and without, 2 and 3.

A contrast set holds words of which one excludes the others. Two answers disagree where both say something of a set and not the
same, where a word that both have is denied by one of them, and where the words of a set stand beside other nouns ("right lung,
lower left" and "left lung, lower right"). So do numbers that a
mark joins in another order: 120/80 and 80/120. What only one of them says is no disagreement.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from reflex_jax.text.normalise import LONGEST_ANSWER, clean_text
from reflex_jax.text.polarity import NEGATIONS, is_negated
from reflex_jax.text.words import SEPARATORS, fold_lengths, is_number, tokens_of, words_of

# name of a set -> its values, each with the words that say it
_SETS = {
    "side": ("left leftward leftmost", "right rightward rightmost"),
    "height": ("upper superior top", "lower inferior bottom", "middle mid"),
    "depth": ("anterior ventral front", "posterior dorsal back"),
    "lateral": ("medial", "lateral"),
    "course": ("proximal", "distal"),
    "layer": ("superficial", "deep"),
    "inside": ("internal inner intra", "external outer extra"),
    "centre": ("central", "peripheral"),
    "plane": ("axial transverse transaxial", "coronal", "sagittal"),
    "modality": ("ct", "mri", "ray radiograph xr", "ultrasound ultrasonography sonography", "pet"),
    "view": ("ap", "pa"),
    "sign": ("positive", "negative"),
    "order": ("<", ">", "\u2264", "\u2265"),
    "grade": ("low", "intermediate", "high"),
    "severity": ("mild", "moderate", "severe"),
    "course of time": ("acute", "subacute", "chronic"),
    "growth": ("benign", "malignant"),
    "norm": ("normal", "abnormal"),
    "change": ("increased", "decreased"),
    "size": ("small", "large"),
    "count": ("single solitary", "multiple"),
    "sex": ("male man", "female woman"),
    "content": ("cystic", "solid"),
    "vessel": ("artery arterial", "vein venous"),
    "course of the colon": ("ascending", "descending"),
    "timing": ("pre before", "post after"),
    "symmetry": ("symmetric symmetrical", "asymmetric asymmetrical"),
    "texture": ("homogeneous homogenous", "heterogeneous heterogenous"),
}
_VALUES = {
    word: (name, values.split()[0])
    for name, all_values in _SETS.items()
    for values in all_values
    for word in values.split()
}
_BOTH = frozenset("both bilateral bilaterally".split())
_LETTERED_NUMBER = re.compile(r"([a-z]{1,4})(\d+)[a-z]?")  # T2, L4, HER2
_ORDINAL = re.compile(r"\d+(?:st|nd|rd|th)")
# hyperdense and hypodense, supratentorial and infratentorial: one stem, another beginning
_PREFIXED = re.compile(r"(hyper|hypo|iso|supra|infra|intra|extra)(\w{4,})|(pre|post)(\w{6,})")
_LABELLED = frozenset(
    "type grade stage class group hepatitis influenza vitamin category level option segment zone".split()
)
_UNITS = frozenset("mm cm m ml l mg g kg hu % mhz khz hz t ms s min hour day week month year".split())
_JOINED = frozenset({"and", "or", ",", "x", "&"})
# 120/80, 3 + 4, 1:2, 5 cm x 3 cm, "120 over 80"; not L4-5, whose number belongs to a letter
_NUMBERS_JOINED = re.compile(
    r"(?<![\w.])\d+(?:\.\d+)?"
    r"(?: ?(?:[mc]?m )?(?:[+/:x*\u00d7\u2212\u2013-]| (?:to|over|out of|of|by|plus|minus) ) ?\d+(?:\.\d+)?)+",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"\d+(?:\.\d+)?")
_MOST_KEPT = 48  # words of a text whose contrasts are kept
_NEAR = 12  # words that are looked at for what belongs to a mark, and for how a list goes on
# Scope of a negation: it ends here, unless a list goes on ("no mass, fracture or effusion").
_SCOPE_ENDS = frozenset({";", ".", ",", "but", "however", "though", "although", "except", "with"})
_FUNCTION = frozenset(
    "there is are was were be been of to in on at by for from it this that evidence sign seen and or".split()
)


@dataclass(frozen=True)
class _Marks:
    """What a text says of contrasts."""

    values: Mapping[str, frozenset[str]]  # set -> what of it is said
    beside: Mapping[
        tuple[str, str], frozenset[str]
    ]  # (set, value) of sets of which two are said -> the words behind it
    affirmed: frozenset[str]  # words that are nowhere denied
    denied: frozenset[str]
    is_negated: bool


def disagree(answer: str, truth: str) -> bool:
    """Whether two answers contradict each other in a contrast; never an answer with itself.

    Args:
      answer: any text; the first `LONGEST_ANSWER` characters are read.
      truth: likewise.
    """
    if _is_reordered(answer, truth):
        return True
    said, meant = (_read_marks(tokens_of(text)) for text in (answer, truth))
    if {"unit"} <= said.values.keys() & meant.values.keys() and said.values["unit"] != meant.values["unit"]:
        said, meant = (_read_marks(fold_lengths(tokens_of(text))) for text in (answer, truth))
    for name in said.values.keys() & meant.values.keys():
        if said.values[name] != meant.values[name] or _is_exchanged(name, said, meant):
            return True
    if said.affirmed & meant.denied or said.denied & meant.affirmed:
        return True
    is_related = (said.affirmed | said.denied) & (meant.affirmed | meant.denied)
    return not is_related and said.is_negated != meant.is_negated


def _is_reordered(answer: str, truth: str) -> bool:
    """Whether the numbers of a joined row stand in another order: 4+3 and 3+4, 1:2 and 2:1."""
    said = _joined_numbers(answer)
    meant = _joined_numbers(truth) if said else frozenset()
    kinds = {tuple(sorted(row)) for row in said} & {tuple(sorted(row)) for row in meant}
    return any({r for r in said if tuple(sorted(r)) == k} != {r for r in meant if tuple(sorted(r)) == k} for k in kinds)


def _joined_numbers(text: str) -> frozenset[tuple[str, ...]]:
    found = _NUMBERS_JOINED.findall(clean_text(text[:LONGEST_ANSWER]))
    return frozenset(tuple(" ".join(words_of(n)) for n in _DIGITS.findall(row)) for row in found)


def _is_exchanged(name: str, said: _Marks, meant: _Marks) -> bool:
    """Whether the words of a set would fit better the other way round: both texts have the same two of them."""
    values = sorted(value for key, value in meant.beside if key == name)
    if len(values) != 2 or values != sorted(value for key, value in said.beside if key == name):
        return False
    first, second = ((name, value) for value in values)
    straight = len(said.beside[first] & meant.beside[first]) + len(said.beside[second] & meant.beside[second])
    crossed = len(said.beside[first] & meant.beside[second]) + len(said.beside[second] & meant.beside[first])
    return crossed > straight


def _read_marks(tokens: tuple[str, ...]) -> _Marks:
    return (_marks if len(tokens) <= _MOST_KEPT else _marks.__wrapped__)(tokens)


@functools.lru_cache(maxsize=8192)
def _marks(tokens: tuple[str, ...]) -> _Marks:
    pairs = list(zip(tokens, ("", *tokens), strict=False))  # of each word and the one before it
    found_of = {pair: _value(*pair) for pair in set(pairs)}  # in a long text most occur many times
    read = [found_of[pair] for pair in pairs]
    values: dict[str, set[str]] = {}
    beside: dict[tuple[str, str], set[str]] = {}
    for found in read:
        for name, value in found:
            values.setdefault(name, set()).add(value)
    paired = {name for name, said in values.items() if len(said) == 2}
    for position, found in enumerate(read if paired else ()):
        for name, value in found:
            if name in paired and tokens[position] not in _BOTH:
                beside.setdefault((name, value), set()).update(_words_behind(position, name, tokens, read))
    denied, affirmed = _scopes(tokens)
    return _Marks(
        values={name: frozenset(said) for name, said in values.items()},
        beside={mark: frozenset(words) for mark, words in beside.items()},
        affirmed=frozenset(affirmed - denied),
        denied=frozenset(denied - affirmed),
        is_negated=is_negated(tokens),
    )


def _value(token: str, before: str) -> tuple[tuple[str, str], ...]:
    """(set, value) of a word; two of "both"."""
    if token in _VALUES:
        return (_VALUES[token],)
    if token in _BOTH:
        return (("side", "left"), ("side", "right"), ("extent", "bilateral"))
    if token in {"unilateral", "unilaterally"}:
        return (("extent", "unilateral"),)
    if token[0] in "-0123456789" and (is_number(token) or _ORDINAL.fullmatch(token)):
        return (("number", token),)
    if token in _UNITS and is_number(before):
        return (("unit", token),)
    if len(token) == 1 and (before in _LABELLED or (token in "abcd" and is_number(before))):
        return (("label", token),)
    prefixed = _PREFIXED.fullmatch(token)
    if prefixed:
        return ((f"before {prefixed[2] or prefixed[4]}", prefixed[1] or prefixed[3]),)
    lettered = _LETTERED_NUMBER.fullmatch(token)
    return ((f"number of {lettered[1]}", lettered[2]),) if lettered else ()


def _words_behind(
    position: int, name: str, tokens: tuple[str, ...], read: list[tuple[tuple[str, str], ...]]
) -> set[str]:
    """The words that a mark belongs to: up to the next of its set; "left and right lung" share theirs."""
    near = tokens[position + 1 : position + 1 + _NEAR]
    is_mark = [any(other == name for other, _ in found) for found in read[position + 1 : position + 1 + _NEAR]]
    start = 0
    while start + 1 < len(near) and near[start] in _JOINED and is_mark[start + 1]:
        start += 2
    end = start
    while end < len(near) and not is_mark[end] and near[end] not in SEPARATORS:
        end += 1
    return {word for word in near[start:end] if word not in _JOINED}


def _scopes(tokens: tuple[str, ...]) -> tuple[set[str], set[str]]:
    """(words that are denied, words that are not), function words aside."""
    scopes: tuple[set[str], set[str]] = (set(), set())
    if NEGATIONS.isdisjoint(tokens):
        return set(), {token for token in tokens if token not in _FUNCTION and token not in SEPARATORS}
    clause: list[str] = []
    is_denied = False
    for position, token in enumerate(tokens):
        if token in _SCOPE_ENDS and not (token == "," and is_denied and _goes_on(position, tokens)):
            is_denied = False
            clause = [] if token != "with" else clause
        elif token in {"absent", "not"} and position + 2 >= len(tokens) - 1 and clause:
            # "the effusion is absent", "a mass is not seen"
            scopes[1].difference_update(clause)
            scopes[0].update(clause)
            is_denied = True
        elif token in NEGATIONS:
            is_denied = not (is_denied and token in {"absent", "absence", "lack", "without"})
        elif token not in _FUNCTION and token not in SEPARATORS:
            scopes[0 if is_denied else 1].add(token)
            clause.append(token)
    return scopes


def _goes_on(position: int, tokens: tuple[str, ...]) -> bool:
    """Whether a list continues behind a comma: an "or" or "nor" comes before its clause ends."""
    for token in tokens[position + 1 : position + 1 + _NEAR]:
        if token in {"or", "nor"}:
            return True
        if token in {";", ".", "but", "however"} or token in NEGATIONS:
            return False
    return False
