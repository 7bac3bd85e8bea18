"""HOST: the little English that turns questions about images into statements. Word lists and pure string functions.

There is no parser here. Questions about radiology images are short, and the few places that matter (where the subject
of a clause ends, which word is its verb) are found by closed lists of words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

BE = frozenset({"is", "are", "was", "were"})
DO = frozenset({"do", "does", "did"})
HAVE = frozenset({"has", "have", "had"})
MODALS = frozenset({"can", "could", "will", "would", "should", "may", "might", "must"})
AUXILIARIES = BE | DO | HAVE | MODALS
ARTICLES = frozenset({"a", "an", "the"})
DETERMINERS = ARTICLES | set("this these that those any both no each every all some its their his her".split())
PREPOSITIONS = frozenset(
    "in on at of from to with without within under underneath above below near along around behind between beside "
    "besides inside outside into through across over via by for about during after before against beyond upon".split()
)
PLACE_PREPOSITIONS = PREPOSITIONS - {"of", "for", "about", "during", "after", "before", "by", "via", "besides"}
# Prepositions only with a "to" behind them: "posterior to the heart", but "posterior fossa".
DIRECTIONS = frozenset(
    "adjacent anterior posterior lateral medial superior inferior superficial secondary next close right left".split()
)
IMAGES = frozenset("image images picture film scan xray x-ray section view study".split())
SIDES = frozenset(
    "left right upper lower middle mid both bilateral top bottom center central rightmost leftmost anterior "
    "posterior lateral medial 1st 2nd 3rd 4th 5th 6th 7th 8th 9th 10th 11th 12th one two 1 2".split()
)
# Words that can begin what is said about a subject.
ADJECTIVES = frozenset(
    "abnormal normal midline patent open clear sharp flat small large big wide healthy unhealthy cystic solid "
    "present absent visible evident obvious identifiable recognizable complex irregular regular intact able "
    "possible difficult similar consistent indicative suggestive suspicious sufficient adequate symmetric "
    "symmetrical asymmetric asymmetrical homogenous homogeneous heterogenous heterogeneous uniform pathologic "
    "hemorrhagic cirrhotic edematous hyperdense hypodense hyperintense hypointense isointense isodense hyper hypo "
    "radiolucent radioopaque focal diffuse bilateral unilateral supratentorial infratentorial male female greater "
    "less more larger smaller bigger wider higher lower brighter darker denser dense enough safe responsible "
    "likely wedge-shaped well-defined well-circumscribed non-enlarged white gray grey black genetic vascular "
    "wrong backwards broken shrunk seen shown taken given made found contained underexposed loculated singular "
    "multilobulated synonymous supine upright edema-free inflamed mirror equivalent bright dark meant adjacent "
    "superficial".split()
)
ADVERBS = frozenset(
    "not too well also only just very more most less clearly properly abnormally normally mostly prominently "
    "probably easily likely almost completely appropriately inappropriately primarily best better entirely ring "
    "still all".split()
)
NOT_PARTICIPLES = frozenset(
    "bleeding finding findings imaging swelling stranding lining opening red bed thickening narrowing shifting "
    "blunting aging enhancing descending ascending underlying bleed need".split()
)
THIS_NOUNS = frozenset(
    "image images patient lesion lesions film picture mass masses modality xray x-ray scan mri ct radiograph cxr "
    "study plane section view person chest pathology abnormality finding findings brain structure slice x "
    "patient's image's".split()
)
BASE_VERBS = frozenset(
    "look appear exist contain have show display enhance demonstrate represent involve affect depict use extend "
    "belong exceed include seem cause indicate constitute suspect recommend receive ingest sustain hi-light "
    "highlight suggest mean signify drain connect see notice play lie occupy compress touch cross produce reveal "
    "support administer complain need take make perform describe get detect assess identify visualize appreciate "
    "diagnose evaluate view locate undergo require differ bring present tell reveal".split()
)
FINITE_VERBS = frozenset(
    "contains has have shows demonstrates demonstrate exhibits indicates indicate causes caused suggests "
    "determines belong belongs tells differentiates appears appear represents represent affects affect involves "
    "drains contain exhibit signifies".split()
)
COUNT_NOUNS = frozenset(
    "nodule cyst mass abscess calcification tumor tumour lesion catheter hematoma aneurysm fracture hernia "
    "effusion embolus abnormality opacity density hypodensity hyperdensity tube clot thrombus infarct stone "
    "gallstone polyp granuloma pneumothorax ulcer scan image film bolus shunt obstruction".split()
)
_SINGULAR_WITH_S = frozenset("ascites pancreas lens gas always biceps".split())
_PLURAL_WITHOUT_S = frozenset(
    "sulci gyri foci diverticuli ganglia thalami bronchi nuclei hila vertebrae bullae".split()
)
_IRREGULAR_THIRD = {"have": "has", "do": "does", "be": "is"}
_IRREGULAR_PAST = {
    "have": "had",
    "see": "saw",
    "take": "took",
    "make": "made",
    "get": "got",
    "show": "showed",
    "mean": "meant",
    "undergo": "underwent",
    "be": "was",
}
_SOUNDS_LIKE_VOWEL = re.compile(r"[aeio]|u(?!ni|se)|mri?\b|ap |x-ray|xray|x ray|nm |ng ")
_PARTICIPLES = {
    "see": "seen",
    "take": "taken",
    "make": "made",
    "show": "shown",
    "find": "found",
    "identify": "identified",
    "diagnose": "diagnosed",
    "get": "obtained",
}


def is_participle(word: str) -> bool:
    """Whether a word looks like "dilated" or "growing"."""
    return word not in NOT_PARTICIPLES and re.fullmatch(r"[a-z-]{2,}(?:ed|ing)", word) is not None


def third_person(verb: str) -> str:
    """The verb after he, she or it: look -> looks."""
    if verb in _IRREGULAR_THIRD:
        return _IRREGULAR_THIRD[verb]
    if re.search(r"(?:s|x|z|ch|sh)$", verb):
        return verb + "es"
    return re.sub(r"(?<![aeiou])y$", "ie", verb) + "s"


def past(verb: str) -> str:
    """The simple past: receive -> received."""
    return _IRREGULAR_PAST.get(verb) or _with_ed(verb)


def participle(verb: str) -> str:
    """The past participle: see -> seen."""
    return _PARTICIPLES.get(verb) or _with_ed(verb)


def _with_ed(verb: str) -> str:
    if verb.endswith("e"):
        return verb + "d"
    return re.sub(r"(?<![aeiou])y$", "i", verb) + "ed"


def is_verb_form(word: str) -> bool:
    """Whether a word is one of the known verbs in the form that follows he, she or it."""
    return word in FINITE_VERBS or (word.endswith("s") and any(third_person(base) == word for base in BASE_VERBS))


def begins_with_preposition(phrase: str) -> bool:
    """Whether a phrase says a place or a relation by itself: "in the lung", "adjacent to the liver"."""
    words = phrase.split()
    return words[0] in PREPOSITIONS or (words[0] in DIRECTIONS and words[1:2] == ["to"])


def is_plural(phrase: str) -> bool:
    """Whether a noun phrase takes "are"; decided by its head, the last word before a preposition."""
    words = phrase.split()
    if " and " in phrase or "," in phrase or words[:1] in (["these"], ["those"]):
        return True
    words = words[: next((i for i, word in enumerate(words) if i and word in PREPOSITIONS), len(words))]
    while len(words) > 1 and (words[-1] in ADJECTIVES or is_participle(words[-1])):
        words = words[:-1]
    head = words[-1] if words else ""
    if head in _SINGULAR_WITH_S:
        return False
    return head in _PLURAL_WITHOUT_S or (head.endswith("s") and not head.endswith(("ss", "is", "us", "'s")))


def singular(phrase: str) -> str:
    """One of what a plural noun phrase names: "masses" -> "mass", "kinds of lesions" -> "kind of lesions"."""
    head, of, rest = phrase.partition(" of ")
    return re.sub(r"(ss)es$|(?<!s)s$", r"\1", re.sub(r"ies$", "y", head)) + of + rest


def be_for(phrase: str) -> str:
    """`is` or `are`, as the noun phrase wants."""
    return "are" if is_plural(phrase) else "is"


def indefinite(phrase: str) -> str:
    """Puts a or an before a phrase."""
    return f"{'an' if _SOUNDS_LIKE_VOWEL.match(phrase) else 'a'} {phrase}"


def mend_articles(text: str) -> str:
    """Chooses between a and an again after words were exchanged."""
    return re.sub(r"\b(?:a|an) (?=([a-z0-9]))(\S+(?: \S+)?)", lambda m: indefinite(m[2]), text)


def noun_phrase_end(words: Sequence[str]) -> int:
    """How many words belong to the noun phrase at the start: up to the first word that cannot be inside one."""
    for position, word in enumerate(words):
        if not position or words[position - 1] in DETERMINERS | ADJECTIVES:
            continue
        if (
            word in PREPOSITIONS | AUXILIARIES | ADJECTIVES | FINITE_VERBS
            or is_participle(word)
            or word == "that"
            or words[position - 1].endswith(",")
        ):
            return position
    return len(words)


def subject_length(words: Sequence[str], *, guess: bool = True) -> int | None:
    """How many of the words after a form of "be" are the subject; None where no border is found.

    "the borders of the mass well-defined" -> 5, "this an mri scan" -> 1, "any of the ribs fractured" -> 4.

    Args:
      words: at least two are needed.
      guess: take the last word for the predicate where nothing looks like one.
    """
    if len(words) < 2:
        return None
    is_pronoun = words[0] in {"this", "that", "it", "these", "those"} and words[1] not in THIS_NOUNS
    if is_pronoun or words[0] in {"there", "anything", "something", "nothing"}:
        return 1
    first, ending = _first_predicate(words), _final_predicate(words)
    if ending is not None and (first is None or first > ending or _is_aside(words, first, ending)):
        return ending
    if first is not None or not guess:
        return first
    return _guess(words)


def _is_aside(words: Sequence[str], first: int, ending: int) -> bool:
    """Whether an early candidate only specifies the subject: "the appendix seen in this image | inflamed"."""
    if first == ending:
        return False
    between = words[first + 1 : ending]
    return words[first] in _SEEN or words[first] in PREPOSITIONS or any(w in PREPOSITIONS | ARTICLES for w in between)


_SEEN = frozenset("seen shown noted found visualized identified demonstrated depicted".split())


def _can_end_noun_phrase(words: Sequence[str], position: int) -> bool:
    word = words[position]
    if word in DETERMINERS | PREPOSITIONS | {"and", "or", "than", "more"} or word.endswith(","):
        return False
    return position > 0 or word not in ADJECTIVES | {"left", "right"}


def _begins_predicate(word: str) -> bool:
    return word in ADJECTIVES | ADVERBS | ARTICLES | {"this", "these"} or is_participle(word)


def _first_predicate(words: Sequence[str]) -> int | None:
    """The first word that can begin a predicate after a noun; a place only if nothing else comes before it."""
    aside = None
    for position in range(1, len(words)):
        word, before = words[position], words[position - 1]
        if not _can_end_noun_phrase(words, position - 1):
            continue
        if word in PLACE_PREPOSITIONS:
            if set(words[position + 1 : position + 3]) & IMAGES and position + 3 < len(words):
                aside = position if aside is None else aside
                continue
            return _said_after_place(words, position) or position
        if _begins_predicate(word) and before not in ADJECTIVES - _COLOURS:
            return position
    return aside


def _said_after_place(words: Sequence[str], place: int) -> int | None:
    """`the mass in the liver | irregular in contour`: the place belongs to the subject if an adjective follows it."""
    for position in range(place + 2, len(words)):
        before = words[position - 1]
        if words[position] in ADJECTIVES and before not in ADJECTIVES and _can_end_noun_phrase(words, position - 1):
            return position
    return None


_COLOURS = frozenset({"white", "gray", "grey", "black"})


def _final_predicate(words: Sequence[str]) -> int | None:
    """Start of an adjective or participle, with its adverbs and its "x and y" partner, that ends the clause."""
    words = list(words)
    if len(words) > 4 and words[-3] in {"in", "on", "at"} and words[-1] in IMAGES:
        words = words[:-3]
    last = len(words) - 1
    if not (words[last] in ADJECTIVES or is_participle(words[last]) or words[last] == "enhancing"):
        return None
    start = last
    while start > 1:
        before = words[start - 1]
        is_partner = words[start] in {"and", "or"} and (before in ADJECTIVES or is_participle(before))
        if not (before in ADVERBS or before in {"and", "or"} or is_partner):
            break
        start -= 1
    return start if _can_end_noun_phrase(words, start - 1) and start < len(words) else None


def _guess(words: Sequence[str]) -> int | None:
    if "or" in words:  # the list of alternatives is the predicate
        return next((i for i in range(1, len(words)) if words[i].endswith(",") or words[i + 1 : i + 2] == ["or"]), None)
    if "of" in words[1:-1]:
        position = words.index("of", 1)
        if words[position - 1] in IMAGES or words[position + 1] in {"normal", "abnormal"}:
            return position
    return None if words[-2] in PREPOSITIONS | DETERMINERS | ADJECTIVES else len(words) - 1


def verb_position(words: Sequence[str]) -> int | None:
    """Where the base form of a verb stands after "do", "does", "did" or a modal; None where there is none."""
    for position in range(1, len(words)):
        word = words[position]
        if word in BASE_VERBS or word == "be":
            if word in {"show", "view", "use", "need", "cause", "play", "lie"} and words[position - 1] in DETERMINERS:
                continue
            return position
    return None
