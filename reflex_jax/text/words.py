"""HOST: the words of an answer in the form in which they are compared: one spelling, one number, one unit.

"Two nodules of 3.50cm in the oesophagus" is (2, nodule, of, 3.5, cm, in, esophagus). A word is a run of letters of any script
with its combining marks; scripts without spaces are not cut. Numbers keep their sign, and <, >, + and - behind a word stay.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from decimal import Decimal

from reflex_jax.text.lexicon import american_spelling, singular
from reflex_jax.text.normalise import ARTICLES, LONGEST_ANSWER, trim_answer

SEPARATORS = frozenset(",;.")
POSITIVE, NEGATIVE = "positive", "negative"  # what + and - behind a word say: HER2+ is HER2 positive

_ONES = {
    word: number
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen".split()
    )
}
_TENS = {word: 10 * n for n, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}
_NUMBERS = _ONES | _TENS
_ORDINALS = dict(zip(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split(),
    "1st 2nd 3rd 4th 5th 6th 7th 8th 9th 10th 11th 12th".split(), strict=True,
))  # fmt: skip
_ROMAN = {r: str(n) for n, r in enumerate("i ii iii iv v vi vii viii ix x xi xii".split(), 1)}
# behind these a Roman numeral is a number, and "a" a letter
_GRADED = frozenset(
    "type grade stage class category group level zone segment degree phase cn nerve tier score lead factor hepatitis "
    "vitamin influenza protein figure panel box arrow label letter option choice answer "
    "immunoglobulin".split()
)
_UNITS = {
    unit: short
    for short, units in {
        "mm": "mm millimeter", "cm": "cm centimeter", "m": "meter", "ml": "ml milliliter", "l": "liter",
        "mg": "mg milligram", "g": "gram", "kg": "kg kilogram", "hu": "hu", "%": "% percent", "mhz": "mhz megahertz",
        "khz": "khz", "hz": "hz", "kv": "kv", "kvp": "kvp", "mas": "mas", "ms": "ms msec millisecond", "s": "sec",
        "min": "min minute",         "cc": "cc", "t": "tesla", "mmhg": "mmhg", "bpm": "bpm",
    }.items()
    for unit in units.split()
}  # fmt: skip
_ATTACHED_UNITS = frozenset(_UNITS) | {"m", "l", "g", "t", "s"}  # "3g", but "g" alone is a letter
_MORE, _LESS = (
    frozenset("more greater larger bigger higher longer".split()),
    frozenset("less fewer smaller lower shorter".split()),
)

_TABLES = frozenset(_NUMBERS) | frozenset(_ORDINALS) | frozenset(_UNITS)
_SPECIAL = _TABLES | ARTICLES | _GRADED | {"than", "r", "l"}  # where none of these stands, every word is read by itself
_SAME = {
    "sided": "side",
    "mr": "mri",
    "rt": "right",
    "lt": "left",
    "xray": "x-ray",
    "noncontrast": "non-contrast",
    "nonenhanced": "non-enhanced",
}
_SIDES = {"r": "right", "l": "left"}  # before a word: "R lung"; "L spine" is lumbar
_TOGETHER = {"bilateral": "both", "bilaterally": "both"}
_MILLIMETRES = {"mm": 0, "cm": 1, "m": 3}  # powers of ten
_LONGEST_NUMBER = 24  # characters; within what Decimal holds exactly
_ROMAN_STAGE = re.compile(r"(i{1,3}|iv|v)([a-d])")  # stage IIA
_LONGEST_KEPT = 256  # characters of a text whose words are kept
_LONGEST_WORD = 64  # characters; what is longer is none of a lexicon

_NUMBER = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)"
_NOT_APOSTROPHES = {ord(c): None for c in "'\u2018\u2019\u02bc`\u00b4"}
_DECIMAL_POINT = re.compile(r"(?<![^\W\d_])\.(?=\d)")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_SIGN = re.compile(r"(?<![\w%)])[-\u2212](?=[\d.\x00])")
# "HER2-", "ER -ve": behind a word, where it joins nothing to it ("T1- and T2-weighted" joins)
_NEGATIVE = re.compile(r"(?<=[^\W_])[-\u2212](?=\s*(?:$|[,;.)/]))|(?<=\w) ?[-\u2212]ve\b")
_POSITIVE = re.compile(r"(?<=[^\W_])\++(?=\s|$|[,;.)/])|(?<=\w) ?\+ve\b")
_DASH = re.compile(r"\s[-\u2013\u2014]+\s")
_POINT, _MINUS, _PLUS_BEHIND, _MINUS_BEHIND = "\x00\x01\x02\x03"  # no text holds them: control characters are dropped
_ASCII_MARKS = str.maketrans(
    {m: " " for m in "!\"#&')*-/?@[\\]_{}^`"} | {m: f" {m} " for m in ",;."} | {":": " , ", "(": " , "}
)
_PIECES = re.compile(
    rf"\d+(?:st|nd|rd|th)(?!\w)|{_NUMBER}|[<>]=?|(?<=\d)x(?=\d)|[^\W\d_][^\s<>=+%\u2264\u2265\u00d7~\u00b1\u00b0\x02\x03]*|."
)
_IS_NUMBER = re.compile(_NUMBER)
_FOLDED = {
    "<=": "\u2264",
    ">=": "\u2265",
    "\u00d7": "x",
    _PLUS_BEHIND: POSITIVE,
    _MINUS_BEHIND: NEGATIVE,
    "+": POSITIVE,
}


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text in their compared form, without articles.

    Never empty for a text with visible characters: what would vanish altogether ("the", "?") keeps its lower-case form. What
    stands behind the first `LONGEST_ANSWER` characters is not read.
    """
    return tuple(token for token in tokens_of(text) if token not in SEPARATORS) or tokens_of(text)


def tokens_of(text: str) -> tuple[str, ...]:
    """Words as `words_of` gives them, with the `SEPARATORS` between them."""
    return _tokens(text) if len(text) <= _LONGEST_KEPT else _long_tokens(text[:LONGEST_ANSWER])


@functools.lru_cache(maxsize=8192)
def _tokens(text: str) -> tuple[str, ...]:
    return _read_tokens(text)


@functools.lru_cache(maxsize=4)  # an answer and a truth are asked for several times in turn
def _long_tokens(text: str) -> tuple[str, ...]:
    return _read_tokens(text)


def _read_tokens(text: str) -> tuple[str, ...]:
    trimmed = trim_answer(text)
    tokens: list[str] = []
    for chunk in _marked(trimmed).split():
        tokens += _read_chunk(chunk) if len(chunk) <= _LONGEST_WORD else _read_long_chunk(chunk)
    if not _SPECIAL.isdisjoint(tokens):
        tokens = _read_sequence(tokens)
    return tuple(tokens) if any(token not in SEPARATORS for token in tokens) else (trimmed,) if trimmed else ()


def fold_sides(words: tuple[str, ...], is_side: bool) -> tuple[str, ...]:
    """ "bilateral" and "left and right" are both; where sides are asked for (`is_side`), "L" is left and "R" right."""
    folded: list[str] = []
    for word in words:
        folded.append(_SIDES.get(word, word) if is_side else _TOGETHER.get(word, word))
        folded[-1] = _TOGETHER.get(folded[-1], folded[-1])
        if len(folded) > 2 and folded[-2] == "and" and {folded[-3], folded[-1]} == {"left", "right"}:
            folded[-3:] = ["both"]
    half = len(folded) // 2  # "left lung and right lung"
    is_pair = half > 1 and folded[half] == "and" and {folded[0], *folded[half + 1 : half + 2]} == {"left", "right"}
    if is_pair and folded[1:half] == folded[half + 2 :]:
        folded = ["both", *folded[1:half]]
    return tuple(folded)


def fold_lengths(words: tuple[str, ...]) -> tuple[str, ...]:
    """Lengths in mm: 1.2 cm is 12 mm, and 3 x 2 cm 30 x 20 mm; exact in decimals."""
    folded = list(words)
    for position, unit in enumerate(words):
        if unit not in _MILLIMETRES or not position or not is_number(words[position - 1]):
            continue
        folded[position] = "mm"
        number = position - 1
        while True:
            length = (
                Decimal(words[number]).scaleb(_MILLIMETRES[unit]) if len(words[number]) <= _LONGEST_NUMBER else None
            )
            folded[number] = _plain_number(f"{length:f}") if length is not None else words[number] + unit
            if number < 2 or words[number - 1] != "x" or not is_number(words[number - 2]):
                break
            number -= 2
    return tuple(folded)


def is_number(word: str) -> bool:
    """Whether a word of `words_of` is a number, with or without its sign."""
    return _IS_NUMBER.fullmatch(word) is not None


def _marked(trimmed: str) -> str:
    """Chunks between spaces, in which signs and points that belong to a number are told from punctuation."""
    kept = _DASH.sub(" , ", trimmed.translate(_NOT_APOSTROPHES))
    if "," in kept:
        kept = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), kept)
    if "." in kept:
        kept = _DECIMAL_POINT.sub(_POINT, kept)
    if "-" in kept or "\u2212" in kept:
        kept = _NEGATIVE.sub(_MINUS_BEHIND, _SIGN.sub(_MINUS, kept))
    if "+" in kept:
        kept = _POSITIVE.sub(_PLUS_BEHIND, kept)
    if not kept.isascii():
        kept = kept.translate({ord(c): " " for c in set(kept) if not c.isascii() and _is_mark(c)})
    return kept.translate(_ASCII_MARKS).replace(_POINT, ".").replace(_MINUS, "-")


def _is_mark(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] == "P" or category == "Sk"


@functools.lru_cache(maxsize=16384)
def _read_chunk(chunk: str) -> tuple[str, ...]:
    return _read_long_chunk(chunk)


def _read_long_chunk(chunk: str) -> tuple[str, ...]:
    if chunk in SEPARATORS:
        return (chunk,)
    tokens: list[str] = []
    for piece in _PIECES.findall(chunk):
        if _IS_NUMBER.fullmatch(piece):
            tokens.append(_plain_number(piece))
        elif piece in _FOLDED:
            tokens.append(_FOLDED[piece])
        elif len(piece) > _LONGEST_WORD:
            tokens.append(piece)
        else:
            word = singular(american_spelling(piece))
            tokens += _SAME.get(word, word).split("-")
    return tuple(tokens)


def _plain_number(text: str) -> str:
    """03.50 -> 3.5, +5 -> 5, .5 -> 0.5; digits of any script."""
    sign = "-" if text[0] == "-" else ""
    if not text.isascii():
        text = "".join(str(unicodedata.digit(c)) if c.isdigit() else c for c in text)
    whole, _, fraction = text.lstrip("+-").partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    return number if number == "0" else sign + number


def _read_sequence(tokens: list[str]) -> list[str]:
    """What a word means beside its neighbours: articles go, "twenty five" is 25, "type II" 2, "3 centimeter" 3 cm."""
    read: list[str] = []
    for position, token in enumerate(tokens):
        before = read[-1] if read else ""
        following = tokens[position + 1] if position + 1 < len(tokens) else ""
        if token in ARTICLES:
            is_named = before in _GRADED or _IS_NUMBER.fullmatch(before) is not None  # "type A", "stage 2a"
            is_letter = token == "a" and (is_named or not following[:1].isalpha())
            if is_letter or (not read and not following):
                read.append(token)
        elif token in _ONES and 0 < _ONES[token] < 10 and position and tokens[position - 1] in _TENS:
            read[-1] = str(int(before) + _ONES[token])
        elif token in _NUMBERS or _IS_NUMBER.fullmatch(token):
            number = str(_NUMBERS.get(token, token))
            is_compared = before == "than" and len(read) > 1 and read[-2] in _MORE | _LESS
            read[-2 if is_compared else len(read) :] = ([">" if read[-2] in _MORE else "<"] if is_compared else []) + [
                number
            ]
        elif token in _ORDINALS:
            read.append(_ORDINALS[token])
        elif token in _ROMAN and before in _GRADED:
            read.append(_ROMAN[token])
        elif (
            token in _SIDES
            and following.isalpha()
            and following != "spine"
            and before not in _GRADED
            and not before.isdigit()
        ):
            read.append(_SIDES[token])
        elif before in _GRADED and (stage := _ROMAN_STAGE.fullmatch(token)):
            read += [_ROMAN[stage[1]], stage[2]]
        elif token in _ATTACHED_UNITS and _IS_NUMBER.fullmatch(before):
            read.append(_UNITS.get(token, token))
        else:
            read.append(token)
    return read if any(token not in SEPARATORS for token in read) else tokens
