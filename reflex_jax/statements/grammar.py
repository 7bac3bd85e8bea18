"""HOST: the little English that turns questions about images into statements. Word lists and pure string functions.

There is no parser here. Questions about radiology images are short, and the few places that matter (where the subject
of a clause ends, which word is its verb) are found by closed lists of words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from reflex_jax.statements import verbs

BE = frozenset({"is", "are", "was", "were"})
DO = frozenset({"do", "does", "did"})
HAVE = frozenset({"has", "have", "had"})
MODALS = frozenset({"can", "cannot", "could", "will", "would", "should", "may", "might", "must"})
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
    "superficial round oval open unremarkable alive dead elevated".split()
)
# Adjectives that stand before a noun, and words that the lexicon takes for adjectives alone.
_NOT_PREDICATES = frozenset(
    "upper lower left right inner outer main major minor other same such many few several own first second third last most "
    "more cerebral cardiac pulmonary renal hepatic pleural thoracic abdominal pelvic frontal occipital temporal parietal "
    "dorsal ventral distal proximal lumbar cervical spinal coronary cranial vertebral gastric costophrenic mediastinal which "
    "what whose this that these those".split()
)
ADVERBS = frozenset(
    "not too well also only just very more most less clearly properly abnormally normally mostly prominently "
    "probably easily likely almost completely appropriately inappropriately primarily best better entirely ring "
    "still all".split()
)
THIS_NOUNS = frozenset(
    "image images patient lesion lesions film picture mass masses modality xray x-ray scan mri ct radiograph cxr "
    "study plane section view person chest pathology abnormality finding findings brain structure slice x "
    "patient's image's".split()
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
_SOUNDS_LIKE_VOWEL = re.compile(r"[fhlmnrsx](?= |$)|[aeio]|u(?!ni|se)|mri?\b|ap |x-ray|xray|x ray|nm |ng ")


def is_adjective(word: str) -> bool:
    """Whether a word can begin what is said about a subject: the words listed here, else what the lexicon holds for one."""
    return word in ADJECTIVES or (word not in _NOT_PREDICATES and verbs.is_plainly_adjective(word))


def is_finite(word: str) -> bool:
    """Whether a word is plainly a verb that a subject stands before: contains, showed; not "masses" or "dilated"."""
    return word in AUXILIARIES or verbs.is_plainly_third(word)


def begins_with_preposition(phrase: str) -> bool:
    """Whether a phrase says a place or a relation by itself: "in the lung", "adjacent to the liver"."""
    words = phrase.split()
    return words[0] in PREPOSITIONS or (words[0] in DIRECTIONS and words[1:2] == ["to"])


def is_plural(phrase: str) -> bool:
    """Whether a noun phrase takes "are"; decided by its head, the last word before a preposition."""
    words = phrase.split()
    if phrase == "both" or " and " in phrase or "," in phrase or words[:1] in (["these"], ["those"]):
        return True
    words = words[: next((i for i, word in enumerate(words) if i and word in PREPOSITIONS), len(words))]
    while len(words) > 1 and (is_adjective(words[-1]) or verbs.is_participle(words[-1])):
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
        if not position or words[position - 1] in DETERMINERS or is_adjective(words[position - 1]):
            continue
        if (
            word in PREPOSITIONS | ADJECTIVES
            or is_finite(word)
            or verbs.is_participle(word)
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
    if is_pronoun and words[0] != "it" and len(words) > 2 and verbs.is_noun(words[1]):  # "this tumor benign"
        is_pronoun = _final_predicate(words) in {None, 1} and words[1] not in COUNT_NOUNS
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


def _begins_predicate(words: Sequence[str], position: int) -> bool:
    word, after = words[position], words[position + 1 : position + 2]
    if word == "both":  # "the lungs | both clear"
        return bool(after) and (is_adjective(after[0]) or verbs.is_participle(after[0]))
    if word in ADJECTIVES | ADVERBS | ARTICLES | {"this", "these"} or verbs.is_participle(word):
        return True
    if after and after[0] in {
        "of",
        "from",
        "or",
    }:  # "the lung | free of consolidation", "the contrast | oral or intravenous"
        return verbs.can_be_adjective(word) and word not in _NOT_PREDICATES
    return is_adjective(word) and (not after or after[0] in PREPOSITIONS | {"and", "or", "than", "enough", "compared"})


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
        if _begins_predicate(words, position) and not (is_adjective(before) and before not in _COLOURS):
            return position
    return aside


def _said_after_place(words: Sequence[str], place: int) -> int | None:
    """`the mass in the liver | irregular in contour`: the place belongs to the subject if an adjective follows it."""
    for position in range(place + 2, len(words)):
        before = words[position - 1]
        if is_adjective(words[position]) and not is_adjective(before) and _can_end_noun_phrase(words, position - 1):
            return position
    return None


_COLOURS = frozenset({"white", "gray", "grey", "black"})


def _final_predicate(words: Sequence[str]) -> int | None:
    """Start of an adjective or participle, with its adverbs and its "x and y" partner, that ends the clause."""
    words = list(words)
    if len(words) > 4 and words[-3] in {"in", "on", "at"} and words[-1] in IMAGES:
        words = words[:-3]
    last = len(words) - 1
    if not (is_adjective(words[last]) or verbs.is_participle(words[last]) or words[last] == "enhancing"):
        return None
    start = last
    while start > 1:
        before = words[start - 1]
        is_partner = words[start] in {"and", "or"} and (is_adjective(before) or verbs.is_participle(before))
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
    return None if words[-2] in PREPOSITIONS | DETERMINERS or is_adjective(words[-2]) else len(words) - 1


def verb_position(words: Sequence[str]) -> int | None:
    """Where the base form of a verb stands after "do", "does", "did" or a modal; None where there is none.

    Words that are mostly verbs come first, wherever they stand; "mass" or "point" is the verb only where no other is.
    """
    guess = None
    for position in range(1, len(words)):
        word, before = words[position], words[position - 1]
        if word == "be":
            return position
        if not verbs.is_base(word) or before == "to" or (before in {"and", "or"} and guess is not None):
            continue
        is_plain = verbs.is_plainly_base(word)
        is_pronoun = is_plain and position == 1 and before in {"this", "that", "these", "those"}
        if (before in DETERMINERS and not is_pronoun) or (
            not is_plain and (before in PREPOSITIONS or is_adjective(before))
        ):
            continue
        if is_plain:
            return position
        guess = position if guess is None else guess
    return guess
