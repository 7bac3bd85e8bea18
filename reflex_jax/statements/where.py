"""HOST: questions about a place: the answer follows a preposition, or stands where the question word stood.

"where is the cyst", "in which lobe is the nodule located", "the mass is located in what region".
"""

from __future__ import annotations

import re

from reflex_jax.statements import grammar, verbs
from reflex_jax.statements.phrases import MODIFIERS, PLANES, head_noun, noun_phrase, specify
from reflex_jax.statements.polar import polar_clauses
from reflex_jax.statements.question import ASKING, Question, find_core, split_at_auxiliary

# The preposition of an asked noun: on the right side, in the left lobe.
_PLACES = (
    {"side": "on", "level": "at"}
    | dict.fromkeys(
        "lobe lobes hemisphere part region area territory fissure ventricle location plane section".split(), "in"
    )
    | {"orientation": "in", "view": "in"}
)
# What something is "seen in" without being a place.
_NO_PLACES = frozenset(
    "disease diseases disorder condition conditions syndrome patients patient population case cases".split()
)
_BEFORE_WHAT = "in|on|at|from|to|with|by|for|through|into|under|within|of|during|along|using|via"
_TRAILING_PLACE = re.compile(
    r"\s*\b(?:in|on|of|from) (?:this|the)(?: above| shown)? (?:image|picture|scan|film|view|patient)$"
)


def declare_where(question: Question, answer: str) -> str | None:
    """`where is the mass located`, `where do you see the mass`, `where does the vein drain`."""
    core = _TRAILING_PLACE.sub("", find_core(question))
    core = re.sub(r" in the (?:human )?body$", "", core)
    if re.match(r"no [a-z]", answer):
        return f"there {grammar.be_for(answer)} {answer}" if core.startswith("where") else None
    match = re.match(r"^where(?: (in|on) (.+?))? (is|are|was|were) (.+)$", core)
    if match:
        be = match[3]
        subject = re.sub(r"^there (?:any )?|^(?:is|are) ", "", match[4])
        subject = re.sub(r" (?:located|seen|found|placed|identified|visualized|visible|present)\b", "", subject)
        if subject.endswith((" from", " at", " in", " on")) and not grammar.begins_with_preposition(answer):
            return f"{subject.rpartition(' ')[0]} {be} {subject.rpartition(' ')[2]} {noun_phrase(answer)}"
        if answer in {"none", "nothing"} and subject.startswith(("the ", "any ")):
            return f"there {be} no {subject.partition(' ')[2]}" + ("." if answer == "none" else f": {answer}")
        if re.match(r"the location of", subject):
            return f"{subject} is {noun_phrase(answer)}"
        compared = re.match(r"^(\S+ .+?) ((?:most|more) .+)$", subject)
        return _placed(compared[1], be, answer, compared[2]) if compared else _placed(subject, be, answer)
    match = re.match(r"^where (do|does|did|can) (.+)$", core)
    if not match:
        return None
    seen = re.match(r"^(?:you see|you find) (.+)$|^(.+) be (?:seen|found|identified)$", match[2])
    if seen:
        subject = seen[1] or _TRAILING_PLACE.sub("", seen[2])
        return _placed(subject, grammar.be_for(subject), answer)
    clauses = polar_clauses(f"{match[1]} {match[2]}")
    if clauses is None:
        return None
    place = answer if grammar.begins_with_preposition(answer) else "the " + re.sub(r"^(?:a|an|the) ", "", answer)
    preposition = _TOWARDS.get(match[2].split()[-1], "") if not grammar.begins_with_preposition(answer) else ""
    return f"{clauses[0]} {preposition} {place}"


# What follows a verb of motion that asks for its place: the arrow points to, the tube ends in.
_TOWARDS = (
    dict.fromkeys("point lead go extend spread radiate project travel connect attach belong".split(), "to")
    | dict.fromkeys("drain empty open insert".split(), "into")
    | dict.fromkeys("arise originate come branch".split(), "from")
    | dict.fromkeys("end terminate stop start begin lie sit occur stand grow".split(), "in")
)


def declare_in_question(question: Question, answer: str) -> str | None:
    """`in which lobe is the nodule located`, `what side is the lesion on`: the answer is the place of the subject."""
    core = _TRAILING_PLACE.sub("", find_core(question))
    match = re.match(rf"^({_BEFORE_WHAT}) (?:what|which) ?(.+)$", core)
    if match:
        noun, be, rest = split_at_auxiliary(match[2])
        preposition = match[1]
        rest = rest[:-1] if rest[-1:] == [preposition] else rest
    else:
        match = re.match(r"^(?:what|which) (.+)$", core)
        noun, be, rest = split_at_auxiliary(match[1]) if match else ("", "", [])
        if not noun or not rest or be not in grammar.BE or rest[0] not in grammar.DETERMINERS:
            return None
        preposition = _PLACES.get(head_noun(noun), "")
        if rest[-1] in grammar.PREPOSITIONS - {"above", "below"}:
            preposition, rest = rest[-1], rest[:-1]
        elif rest[-1].endswith("ing"):
            preposition = ""
        elif not preposition:
            return None
    if not rest:
        return None
    clause = _clause_after(be, rest)
    if grammar.begins_with_preposition(answer) or answer.split()[0] == "not":
        return f"{clause}: {answer}"
    if not noun or preposition in {"for", "with", "of", "by", "using", "via"}:
        return (
            f"{clause} {preposition} {specify(noun, answer)[0] if noun and answer in PLANES else noun_phrase(answer)}"
        )
    phrase, mark = specify(noun, answer)
    return f"{clause} {'on' if head_noun(noun) == 'side' else preposition} {phrase}{mark}"


def declare_in_place(question: Question, answer: str) -> str | None:
    """`the mass is located in what region`: the answer takes the place of the question word."""
    if ASKING.match(question.text) or question.text.split()[0] in grammar.AUXILIARIES:
        return None
    match = re.match(r"^(.+?) (?:(what|which)(?: (.+))?|(where)(?: .+)?)$", question.text)
    if not match:
        return None
    said = match[1].split()
    if " else " in question.text or not any(
        w in grammar.AUXILIARIES or verbs.is_third(w) or verbs.is_plainly_base(w) for w in said[1:]
    ):
        return None
    if match[4]:
        return f"{match[1]}: {answer}" if grammar.begins_with_preposition(answer) else f"{match[1]} in the {answer}"
    asked = match[3] or ""
    asked = re.sub(r"^(?:type|kind|form|sort)s? of ", "", asked)
    words = asked.split()
    end = grammar.noun_phrase_end(words) if words else 0
    noun, rest = " ".join(words[:end]), " ".join(words[end:])
    if grammar.begins_with_preposition(answer):
        return f"{match[1]}: {answer}"
    phrase, mark = specify(noun, answer) if noun else (answer, "")
    is_place = said[-1] in {"in", "on", "at"}
    is_thing = head_noun(noun) in _NO_PLACES if noun else False
    if (not is_place or is_thing) and not mark and not all(word in MODIFIERS for word in answer.split()):
        phrase, rest = noun_phrase(answer), re.sub(r"^of .*", "", rest)
    return f"{match[1]} {phrase} {rest}".strip() + mark


def _placed(subject: str, be: str, answer: str, said: str = "located") -> str:
    """`the cyst is located in the left lobe`; an answer that brings its preposition follows the verb directly."""
    words = answer.split()
    is_adjective = len(words) == 1 and re.search(r"(?:ac|ar|oid|use|al|ine)$", answer)
    if words[0] in {"not", "nowhere"} or grammar.begins_with_preposition(answer) or is_adjective:
        return f"{subject} {be} {answer}" if said == "located" else f"{subject} {be} {said}: {answer}"
    bare = re.sub(r"^(?:a|an|the) ", "", answer)
    if not bare[0].isalpha():
        return f"{subject} {be} {said} at {bare}"
    words = bare.split(",")[0].split()
    on_a_side = words[-1] in {"side", "left", "right"} and not {"upper", "lower"} & set(words)
    preposition = "on" if on_a_side else "at" if bare in {"top", "bottom"} else "in"
    return f"{subject} {be} {said} {preposition} the {bare}"


def _clause_after(auxiliary: str, words: list[str]) -> str:
    """`the nodule is located` from is and `the nodule located`."""
    if auxiliary in grammar.BE:
        if words[0] == "there":
            return f"there {auxiliary} {' '.join(words[1:])}"
        border = grammar.subject_length(words, guess=False)
        if border is None:
            return f"{' '.join(words)} {auxiliary}"
        return f"{' '.join(words[:border])} {auxiliary} {' '.join(words[border:])}"
    if words[:2] == ["you", "see"]:
        thing = " ".join(words[2:])
        return f"{thing} {grammar.be_for(thing)} seen"
    if auxiliary in grammar.MODALS and "be" in words:
        return f"{' '.join(words[: words.index('be')])} {auxiliary} {' '.join(words[words.index('be') :])}"
    clauses = polar_clauses(f"{auxiliary} {' '.join(words)}")
    return clauses[0] if clauses else " ".join(words)
