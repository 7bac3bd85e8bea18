"""HOST: questions for a thing or a property: "what is in the left apex", "which organ contains the fluid level"."""

from __future__ import annotations

import re

from reflex_jax.statements import grammar, verbs
from reflex_jax.statements.phrases import head_noun, is_command, noun_phrase
from reflex_jax.statements.polar import polar_clauses
from reflex_jax.statements.question import ASKING, Question, find_core, split_at_auxiliary

# `what organ is the black hole`: the thing itself is asked for, not a property of it.
_IDENTITIES = frozenset("organ organs structure structures".split())
_FINDINGS = frozenset("abnormality abnormalities finding findings pathology lesion lesions disease diseases".split())
_SHOWN = frozenset(
    "seen shown present visible found noted demonstrated depicted identified visualized included".split()
)


def declare_what_is(question: Question, answer: str) -> str | None:
    """`what is the location of the mass`, `what is in the left apex`, `which is bigger`."""
    match = re.match(r"^(?:what|which) (is|are|was|were) (.+)$", find_core(question))
    if not match:
        return None
    be, rest, words = match[1], match[2], match[2].split()
    wrong = re.match(
        r"^(?:most )?(abnormal|wrong|incorrect|inaccurate|not (?:right|correct|accurate|normal)|alarming|going on) "
        r"(about|in|with) (.+)$",
        rest,
    )
    if wrong and " " not in answer and (verbs.is_participle(answer) or grammar.is_adjective(answer)):
        return f"{wrong[3]} {be} {answer}"
    if wrong:
        return f"the abnormality {'in' if wrong[2] == 'in' else 'of'} {wrong[3]} is {noun_phrase(answer)}"
    likely = re.match(
        r"^(.+?) (most likely|called|indicative of|consistent with|suggestive of|signifying)(?: to be)?$", rest
    )
    if likely:
        return f"{likely[1]} {be} {likely[2]} {noun_phrase(answer)}"
    if words[0] in grammar.PREPOSITIONS or (words[0] in _SHOWN | {"located"} and len(words) > 1):
        return f"there {grammar.be_for(answer)} {noun_phrase(answer, is_new=True)} {rest}"
    if words[-1] in grammar.PREPOSITIONS - {"above", "below"}:
        border = grammar.subject_length(words)
        return f"{' '.join(words[:border])} {be} {' '.join(words[border:])} {answer}" if border else None
    if words[0] == "not" and len(words) > 1:
        return f"{noun_phrase(answer)} {grammar.be_for(answer)} {rest}"
    if words[0] == "meant":
        return f"what {be} {rest} is {noun_phrase(answer)}"
    if verbs.is_participle(words[0]) or (words[0] in grammar.ADVERBS and words[0] != "more"):
        be = be if be in {"was", "were"} else grammar.be_for(answer)
        return f"{noun_phrase(answer)} {be} {rest}"
    if (grammar.is_adjective(words[0]) or words[0] == "more") and words[0] not in {"white", "gray", "grey", "black"}:
        return f"{noun_phrase(answer)} {grammar.be_for(answer)} {rest}"
    needs_article = (
        be == "is" and words[0] not in grammar.DETERMINERS | {"it", "he", "she"} and not words[0].endswith("'s")
    )
    return f"{'the ' if needs_article else ''}{rest} {be} {noun_phrase(answer)}"


def declare_finite(question: Question, answer: str) -> str | None:
    """`which organ contains the fluid level`, `what caused the lesion`."""
    match = re.match(r"^(?:what|which) (.+)$", find_core(question))
    words = match[1].split() if match else []
    position = next((i for i, word in enumerate(words) if _is_said(words, i)), None)
    if position is None or words[position] in grammar.AUXILIARIES - {"has", "have"} or len(words) < 2:
        return None
    said = " ".join(words[position:])
    if position == 0:
        return f"{answer} {said}"
    if all(w in grammar.ADVERBS or verbs.is_adverb(w) or w in {"best", "least"} for w in words[:position]):
        return f"{answer} {' '.join(words)}"
    while position > 1 and verbs.is_adverb(words[position - 1]):
        position -= 1
        said = f"{words[position]} {said}"
    noun = " ".join(words[:position])
    if not grammar.is_plural(noun):
        said = re.sub(r"^(belong|appear)\b", r"\1s", said)
    if all(word in grammar.SIDES for word in answer.split()):
        return f"the {answer} {noun} {said}"
    return f"the {noun} that {said} {grammar.be_for(noun)} {noun_phrase(answer)}"


def declare_subject_question(question: Question, answer: str) -> str | None:
    """`which kidney is abnormal`, `what organ system is imaged`, `what modality is this`."""
    match = re.match(r"^(?:what|which) (.+)$", find_core(question))
    noun, be, rest = split_at_auxiliary(match[1]) if match else ("", "", [])
    if not noun or noun == "else" or be not in grammar.BE or not rest:
        return None
    head = head_noun(noun)
    if rest[0] in grammar.DETERMINERS | {"it", "he", "she"}:
        if head in _IDENTITIES:
            return f"{' '.join(rest)} {be} {noun_phrase(answer)}"
        end = next(
            (i for i, w in enumerate(rest) if i and (verbs.is_participle(w) or w in {"taken", "most"})), len(rest)
        )
        thing = " ".join(rest[:end])
        whose = (
            "" if thing in {"this", "these", "that", "it"} or set(thing.split()) & set(noun.split()) else f" of {thing}"
        )
        return f"the {noun}{whose} {grammar.be_for(noun)} {noun_phrase(answer)}"
    said = " ".join(rest)
    if answer in {"both", "neither"} and not question.has_options:
        nouns = verbs.plural(noun) if answer == "both" and not grammar.is_plural(noun) else noun
        return f"{answer} {nouns} {'are' if answer == 'both' and be == 'is' else be} {said}"
    if answer == "none" and head in _FINDINGS | _IDENTITIES and rest[0] in _SHOWN:
        return f"there {be} no {noun} {' '.join(rest[1:])}".strip() + "."
    if head in _FINDINGS and rest[0] in _SHOWN:
        if question.has_options:
            phrase = noun_phrase(answer)
            return f"the {noun} is {grammar.indefinite(phrase) if _is_bare_singular(answer) else phrase}"
        return f"there {grammar.be_for(answer)} {noun_phrase(answer, is_new=True)} {' '.join(rest[1:])}"
    bare = re.sub(r"^(?:a|an|the) ", "", answer)
    if all(word in grammar.SIDES for word in bare.split()) and rest[0] not in grammar.PREPOSITIONS:
        return f"the {bare} {noun} {be} {said}"
    linked = said if rest[0] in _SHOWN | {"used", "imaged", "pictured", "displayed", "being"} else f"that {be} {said}"
    return f"the {noun} {linked} {be if be in {'is', 'are'} else 'is'} {noun_phrase(answer)}"


def declare_what_does(question: Question, answer: str) -> str | None:
    """`what does the hyperdensity suggest`, `what color does the lung show`, `what can cause these findings`."""
    match = re.match(r"^(?:what|which)(?: (.+))?$", find_core(question))
    noun, auxiliary, rest = split_at_auxiliary(match[1] or "") if match else ("", "", [])
    if not rest or noun == "else" or auxiliary in grammar.BE:
        return None
    if auxiliary in grammar.HAVE:
        return (
            f"{_opening(noun)}{auxiliary} {' '.join(rest)} {grammar.be_for(noun)} {noun_phrase(answer)}"
            if noun
            else f"{answer} {auxiliary} {' '.join(rest)}"
        )
    if rest[:2] == ["you", "see"] and not noun:
        return f"{noun_phrase(answer, is_new=True)} {grammar.be_for(answer)} seen {' '.join(rest[2:])}"
    if rest[:2] == ["you", "expect"]:
        expected = re.sub(r"^to (?:see|find|observe)\b", "to be seen", " ".join(rest[2:]))
        return f"{noun_phrase(answer)} {auxiliary if auxiliary in grammar.MODALS else 'would'} be expected {expected}"
    if rest[:2] == ["you", "see"]:
        return f"{_opening(noun).replace(' that ', ' ')}seen {' '.join(rest[2:])} {grammar.be_for(noun)} {noun_phrase(answer)}"
    if not noun and (auxiliary == "cannot" or rest[0] == "not"):
        return f"{noun_phrase(answer)} {auxiliary} {' '.join(rest)}"
    if auxiliary in grammar.MODALS and (verbs.is_base(rest[0]) or rest[0] in {"be", "most", "typically"}):
        if noun or (rest[0] == "be" and is_command(answer)):
            return f"{_opening(noun)}{auxiliary} {' '.join(rest)} {grammar.be_for(noun)} {noun_phrase(answer)}"
        return f"{noun_phrase(answer) if rest[0] == 'be' else answer} {auxiliary} {' '.join(rest)}"
    clauses = polar_clauses(f"{auxiliary} {' '.join(rest)}")
    if clauses is None:
        return None
    if noun and all(word in grammar.SIDES for word in answer.split()):
        return f"{clauses[0]} the {answer} {noun}"
    return (
        f"{_opening(noun)}{clauses[0]} {grammar.be_for(noun)} {noun_phrase(answer)}"
        if noun
        else _with_object(clauses[0], rest, answer)
    )


def _with_object(clause: str, rest: list[str], answer: str) -> str:
    """`the film shows a mass at the apex` of "the film shows at the apex" and a mass; else the answer ends the clause."""
    position = grammar.verb_position(rest)
    tail = rest[position + 1 :] if position is not None else []
    stranded = (
        1 if tail[:1] and tail[0] in grammar.PREPOSITIONS and (tail[1:2] and tail[1] in grammar.PREPOSITIONS) else 0
    )
    place = " ".join(tail[stranded:])
    if len(tail) > stranded + 1 and tail[stranded] in grammar.PREPOSITIONS and clause.endswith(f" {place}"):
        return f"{clause.removesuffix(place)}{answer} {place}"
    return f"{clause} {answer}"


def declare_named(question: Question, answer: str) -> str | None:
    """`pathology seen in this image`: a noun phrase without a verb."""
    words = question.words
    if words[:1] in (["what"], ["which"]) and len(words) > 1:  # "which side"
        words = words[1:]
    if not words or ASKING.match(" ".join(words)) or words[0] in grammar.AUXILIARIES:
        return None
    if any(grammar.is_finite(word) or word in {"what", "which", "where"} for word in words):
        return None
    subject = f"{'' if words[0] in grammar.DETERMINERS else 'the '}{' '.join(words)}"
    return f"{subject} is {noun_phrase(answer)}"


def _is_said(words: list[str], position: int) -> bool:
    """Whether the verb of "what caused the lesion" or "which organs contain fluid" stands there."""
    word = words[position]
    if grammar.is_finite(word):
        return True
    if position == 0:
        return verbs.is_past(word) and words[1:2] != ["by"]
    if verbs.is_third(word) and not grammar.is_plural(words[position - 1]):
        return (
            words[position + 1 : position + 2] != []
            and words[position + 1] in grammar.DETERMINERS | grammar.PREPOSITIONS
        )
    return verbs.is_plainly_base(word) and not grammar.is_adjective(words[position - 1])


def _opening(noun: str) -> str:
    return f"the {noun} that " if noun else "what "


def _is_bare_singular(answer: str) -> bool:
    return noun_phrase(answer) == answer and " " not in answer and answer in grammar.COUNT_NOUNS
