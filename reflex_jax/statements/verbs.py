"""HOST: what a lexicon of English (`lemminflect`) knows of a word: whether it is a verb, in which form, and its other forms.

Many words are nouns and verbs ("show", "point", "mass"); the lexicon says so, and where they stand decides.
"""

from __future__ import annotations

import functools
import re

# Words that are nouns too, but that questions about images use as verbs.
_OFTEN_VERBS = frozenset(
    "show look use cause need play view lie suspect support display exhibit point drain highlight measure fill help cross "
    "start end cover do have see make get take hi-light".split()
)
# Nouns in questions about images, where the lexicon has a verb alone or the form of one.
NOT_PARTICIPLES = frozenset(
    "bleeding finding findings imaging swelling stranding lining opening red bed thickening narrowing shifting blunting aging "
    "enhancing descending ascending underlying bleed need left wound ground bound staging marking markings staining".split()
)


@functools.lru_cache(maxsize=16384)
def _lemmas(word: str) -> dict[str, tuple[str, ...]]:
    import lemminflect  # reads its tables at the first look-up

    return lemminflect.getAllLemmas(word) if word.isascii() else {}


@functools.lru_cache(maxsize=16384)
def _inflect(verb: str, tag: str) -> str:
    import lemminflect

    found = lemminflect.getInflection(verb, tag)
    return found[-1 if tag == "VBN" and verb == "get" else 0] if found else verb


@functools.lru_cache(maxsize=16384)
def is_base(word: str) -> bool:
    """Whether a word can be the base form of a verb: show, invade; also "point", but not "left" or "shows"."""
    return word in _OFTEN_VERBS or word in _lemmas(word).get("VERB", ()) + _lemmas(word).get("AUX", ())


@functools.lru_cache(maxsize=16384)
def is_plainly_base(word: str) -> bool:
    """Whether a word is the base form of a verb and rarely anything else: invade, appear, show; not "mass"."""
    if not is_base(word):
        return False
    return word in _OFTEN_VERBS or not {"NOUN", "ADJ", "ADV", "PROPN"} & _lemmas(word).keys()


@functools.lru_cache(maxsize=16384)
def is_third(word: str) -> bool:
    """Whether a word can follow he, she or it as a verb: shows, invades, points; nouns like "masses" too."""
    return any(lemma != word and _inflect(lemma, "VBZ") == word for lemma in _lemmas(word).get("VERB", ()))


@functools.lru_cache(maxsize=16384)
def is_plainly_third(word: str) -> bool:
    """Whether a word is the form of a verb after he, she or it, and hardly a plural: shows, invades; not "masses"."""
    if word in {"has", "does"}:
        return True
    return is_third(word) and any(is_plainly_base(lemma) for lemma in _lemmas(word)["VERB"])


@functools.lru_cache(maxsize=16384)
def is_past(word: str) -> bool:
    """Whether a word can be a simple past, and not only a participle: caused, led, received."""
    return any(lemma != word and _inflect(lemma, "VBD") == word for lemma in _lemmas(word).get("VERB", ()))


@functools.lru_cache(maxsize=16384)
def is_participle(word: str) -> bool:
    """Whether a word is a participle: dilated, growing, torn; also unknown words that look like one."""
    if word in NOT_PARTICIPLES:
        return False
    known = _lemmas(word)
    verbs = [lemma for lemma in known.get("VERB", ()) if lemma != word]
    if re.fullmatch(r"[a-z-]{2,}(?:ed|ing)", word):
        return bool(verbs) or not known or "ADJ" in known
    return "NOUN" not in known and any(_inflect(lemma, "VBN") == word for lemma in verbs)


def is_past_participle(word: str) -> bool:
    """Whether a word can follow "has": dilated, torn, also spread; not "growing"."""
    if word.endswith("ing"):
        return False
    return is_participle(word) or (is_base(word) and _inflect(word, "VBN") == word)


@functools.lru_cache(maxsize=16384)
def is_plainly_adjective(word: str) -> bool:
    """Whether a word is an adjective and no noun or verb: dense, severe; not "lateral" or "clear"."""
    known = _lemmas(word)
    return "ADJ" in known and not {"NOUN", "VERB", "AUX", "PROPN"} & known.keys()


@functools.lru_cache(maxsize=16384)
def can_be_adjective(word: str) -> bool:
    """Whether a word has a reading as an adjective: free, clear."""
    return "ADJ" in _lemmas(word)


@functools.lru_cache(maxsize=16384)
def is_noun(word: str) -> bool:
    """Whether a word is a noun and no adjective: tumor, bone; not "lateral"."""
    return "NOUN" in _lemmas(word) and "ADJ" not in _lemmas(word)


@functools.lru_cache(maxsize=16384)
def is_adverb(word: str) -> bool:
    """Whether a word is an adverb in -ly or a known one without other readings: heterogeneously, often."""
    known = _lemmas(word)
    return (word.endswith("ly") and "NOUN" not in known) or set(known) == {"ADV"}


@functools.lru_cache(maxsize=4096)
def plural(noun: str) -> str:
    """The plural of a noun phrase without prepositions: lower lobe -> lower lobes."""
    import lemminflect

    *before, head = noun.split()
    return " ".join([*before, (lemminflect.getInflection(head, "NNS") or (head + "s",))[0]])


def base(word: str) -> str:
    """The base form of a verb: shows -> show."""
    found = _lemmas(word).get("VERB") or _lemmas(word).get("AUX") or (word,)
    return found[0]


def third_person(verb: str) -> str:
    """The verb after he, she or it: look -> looks."""
    return _inflect(verb, "VBZ")


def past(verb: str) -> str:
    """The simple past: receive -> received."""
    return _inflect(verb, "VBD")


def participle(verb: str) -> str:
    """The past participle: see -> seen."""
    return _inflect(verb, "VBN")
