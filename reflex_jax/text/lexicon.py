"""HOST: what a lexicon of English knows of one word: its singular, and its American spelling.

Nouns are looked up in `lemminflect`; what it does not hold (most terms of anatomy) follows the endings of Latin and Greek. Two
different words never become one: where a plural has two singulars (axes: axis and axe) it stays as it is.
"""

from __future__ import annotations

import functools
import re

# Words whose ending is none of a plural, and plurals that the endings below do not decide.
_AS_THEY_ARE = frozenset(
    "does this thus yes less plus minus always perhaps besides towards whereas versus across".split()
)
_SINGULARS = {
    "bases": "base", "hila": "hilum", "haustra": "haustrum", "diverticula": "diverticulum", "diverticuli": "diverticulum",
    "ostia": "ostium", "acetabula": "acetabulum", "labra": "labrum", "omenta": "omentum", "foramina": "foramen",
    "lumina": "lumen", "stomata": "stoma", "larynges": "larynx", "ganglia": "ganglion", "diverticulae": "diverticulum",
    "minutes": "minute", "cts": "ct", "mris": "mri",
}  # fmt: skip
# (ending, what takes its place), tried in this order for nouns that the lexicon does not hold
_ENDINGS = (
    ("ss", "ss"), ("us", "us"), ("is", "is"), ("os", "os"), ("mata", "ma"), ("ae", "a"), ("oses", "osis"), ("ases", "asis"),
    ("yses", "ysis"), ("eses", "esis"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("shes", "sh"), ("ies", "y"), ("i", "us"),
    ("s", ""),
)  # fmt: skip
_SHORTEST_PLURAL = 4  # letters; shorter ones are abbreviations or no nouns ("is", "gas", "us", "mri")
_SHORTEST_UNKNOWN = 6  # letters of a plural in -s that the lexicon does not hold: "pons" and "psoas" are none

_AMERICAN = tuple(
    (re.compile(british), american)
    for british, american in (
        (r"(?:(?<=o)|^)oesoph", "esoph"),
        (r"(?<!angi)oedem", "edem"),
        (r"oestr|^estr", "estr"),
        (r"foet", "fet"),
        (r"coeli", "celi"),
        (r"rrhoe", "rrhe"),
        (r"pnoe", "pne"),
        (r"amoeb", "ameb"),
        (r"haem", "hem"),
        (r"aemi", "emi"),
        (r"caec", "cec"),
        (r"caes(?=[ai])", "ces"),
        (r"faec", "fec"),
        (r"paed", "ped"),
        (r"gynae", "gyne"),
        (r"aetiol", "etiol"),
        (r"(an|par|hyper|dys)aesth", r"\1esth"),
        (r"sulph", "sulf"),
        (r"\b(re|dis)?(tum|col|lab|vap|behavi|od|harb|fav|hum|rig)our", r"\1\2or"),
        (r"(cent|fib|lit|calib|tit|goit|met|scept|meag)re(s|d)?$", r"\1er\2"),
        (r"^(cent|fib)re", r"\1er"),
        (r"^grey", "gray"),
        (r"(?<!^)(al|il|im|gn|an|er|ar|or|ol)is(e[ds]?|ing|ations?)$", r"\1iz\2"),
        (r"(ana|para|hydro|dia|cata|electro)lys(ed?|ing)$", r"\1lyz\2"),
        (r"(label|level|model|signal|channel|travel|cancel|funnel|tunnel|equal|panel|dial)l(ed|ing)$", r"\1\2"),
        (r"^artefact", "artifact"),
        (r"^catheteris", "catheteriz"),
        (r"(ae)?geing$", r"\1ging"),
        (r"^programme", "program"),
        (r"^mould", "mold"),
        (r"^disc(?=s?$)", "disk"),
    )
)


@functools.lru_cache(maxsize=65536)
def american_spelling(word: str) -> str:
    """A word as it is spelt in American English: oedema -> edema, centre -> center, localised -> localized."""
    if not word.isascii():
        return word
    for british, american in _AMERICAN:
        word = british.sub(american, word)
    return word


@functools.lru_cache(maxsize=65536)
def singular(word: str) -> str:
    """The singular of a noun in lower case: nodules -> nodule, metastases -> metastasis; any other word as it is."""
    if word in _SINGULARS:
        return _SINGULARS[word]
    if len(word) < _SHORTEST_PLURAL or not word.isascii() or not word.isalpha() or word in _AS_THEY_ARE:
        return word
    lemmas = _noun_lemmas(word)
    if lemmas:
        return lemmas[0] if len(lemmas) == 1 else word
    ending, instead = next(((e, i) for e, i in _ENDINGS if word.endswith(e)), ("", ""))
    if ending == "s" and len(word) < _SHORTEST_UNKNOWN:
        return word
    return word.removesuffix(ending) + instead


def _noun_lemmas(word: str) -> tuple[str, ...]:
    """The singulars that the lexicon knows, none for a word that it does not know as a noun."""
    import lemminflect  # reads its tables at the first look-up

    found = lemminflect.getAllLemmas(word)
    if "NOUN" in found:
        return found["NOUN"]
    # "abscesses" stands there as a verb alone, as do participles, which have no other form
    return found.get("VERB", ()) if word.endswith("s") else (word,) if found else ()
