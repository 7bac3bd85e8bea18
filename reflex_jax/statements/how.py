"""HOST: questions for a number, a measure, a manner or a reason: "how many kidneys", "how large", "how", "why"."""

from __future__ import annotations

import re

from reflex_jax.statements import grammar, verbs
from reflex_jax.statements.phrases import PLANES, noun_phrase
from reflex_jax.statements.polar import polar_clauses
from reflex_jax.statements.question import Question, find_core, split_at_auxiliary


def declare_count(question: Question, answer: str) -> str | None:
    """`how many kidneys does the image have`."""
    match = re.match(r"^how many (.+)$", find_core(question))
    if not match:
        return None
    words = [word for word in match[1].split() if word not in {"existing", "there"}]
    end = next(
        (i for i, w in enumerate(words) if i and (w in grammar.AUXILIARIES or w in {"in", "on", "within"})), len(words)
    )
    rest = re.sub(r"^(?:is|are|was|were|have|has|can|do|does)\b ?", "", " ".join(words[end:]))
    rest = re.sub(r"^(?:there|present|existed|be)\b ?", "", rest)
    rest = re.sub(
        r"^(?:you see|(the image|the picture|this image) have)$", lambda m: f"in {m[1]}" if m[1] else "", rest
    )
    noun = " ".join(words[:end])
    if noun.startswith("of ") and end < len(words) and words[end] in grammar.BE:
        return f"{answer} {noun} {words[end]} {' '.join(words[end + 1 :])}"
    pair = polar_clauses(" ".join(words[end:])) if end < len(words) and words[end] in grammar.DO else None
    if pair and not re.match(r"^(?:do|does|did) (?:you|we|the (?:image|picture)|this image) ", " ".join(words[end:])):
        return f"{pair[0]} {answer} {grammar.singular(noun) if answer in {'1', 'one'} else noun}"
    counted = answer.split()
    if counted[-1] == noun.split()[-1]:
        return f"there {'is' if counted[0] in {'1', 'one', 'a'} else 'are'} {answer} {rest}".strip() + "."
    if answer in {"1", "one"}:
        return f"there is {answer} {grammar.singular(noun)} {rest}"
    return f"there are {answer} {noun} {rest}"


def declare_measure(question: Question, answer: str) -> str | None:
    """`how large is the mass`, `how much fluid is seen`, `how long does the lesion last`."""
    core = re.sub(r"^approximately ", "", find_core(question))
    match = re.match(r"^how (much|long) (.+)$", core)
    noun, auxiliary, rest = split_at_auxiliary(match[2]) if match else ("", "", [])
    if noun and rest:
        return f"the amount of {noun} that {auxiliary} {' '.join(rest)} is {answer}"
    if match and rest and auxiliary in grammar.DO:
        clauses = polar_clauses(f"{auxiliary} {' '.join(rest)}")
        return clauses and f"the {'time' if match[1] == 'long' else 'amount'} that {clauses[0]} is {answer}"
    match = re.match(r"^how (\w+) (is|are|was|were) (.+)$", core)
    is_judged = " " not in answer and (grammar.is_adjective(answer) or verbs.is_participle(answer))
    if match and match[1] in _QUALITIES and not (is_judged and match[1] != "much"):
        return f"the {_QUALITIES[match[1]]} of {match[3]} is {answer}"
    match = match or re.match(r"^how (\w+) (do|does|did) (.+?) (?:look|appear|seem)$", core)
    if match and (verbs.can_be_adjective(match[1]) or verbs.is_adverb(match[1]) or verbs.is_participle(match[1])):
        return _graded(match[1], match[2], match[3].split(), answer)
    match = re.match(
        r"^how (often|frequently|quickly|fast|far|deep|long|soon|early|well|badly|commonly|likely) (.+)$", core
    )
    pair = match and polar_clauses(match[2])
    return f"{pair[0]} {answer}" if pair else None


_QUALITIES = {
    "big": "size", "large": "size", "small": "size", "wide": "width", "long": "length", "tall": "height", "high": "height",
    "thick": "thickness", "much": "amount", "old": "age", "deep": "depth", "heavy": "weight",
}  # fmt: skip


_DEGREES = frozenset(
    "heavily mildly moderately severely markedly minimally partially completely highly poorly well".split()
)


def _graded(quality: str, be: str, words: list[str], answer: str) -> str | None:
    """`the stenosis is severe` of "how severe is the stenosis"; a "very" gets the quality behind it."""
    is_this = len(words) == 2 and words[0] in grammar.DETERMINERS
    border = None if is_this else grammar.subject_length(words, guess=False)
    subject, rest = " ".join(words[:border]), " ".join(words[border:]) if border else ""
    verb = be if be in grammar.BE else grammar.be_for(subject)
    degree = f"{answer} {quality}" if answer in _DEGREES else answer
    return f"{subject} {verb} {degree} {rest}".strip()


def declare_how(question: Question, answer: str) -> str | None:
    """`how was this image taken`, `how can you tell that the heart is enlarged`."""
    core = find_core(question)
    match = re.match(r"^how (was|is|were) (.+?) (taken|obtained|acquired|made)$", core)
    if match:
        if answer.split()[0] in grammar.PREPOSITIONS:
            return f"{match[2]} {match[1]} {match[3]} {answer}"
        return f"{match[2]} {match[1]} {match[3]} " + (
            f"in the {answer} plane" if answer in PLANES else f"using {answer}"
        )
    match = re.match(r"^how to (.+)$", core)
    if match:
        return f"the way to {match[1]} is {answer}"
    match = re.match(
        r"^how (?:can|do|would|could) you (?:tell|know|confirm|determine)(?: that)?( if| whether| which)? (.+)$", core
    )
    if match:
        known = f"{match[1].strip().replace('if', 'whether')} {match[2]} is" if match[1] else match[2]
        return f"{known} shown by this: {answer}" if match[1] else f"{known}, as shown by this: {answer}"
    match = re.match(r"^how (?:do|does|did|can|could|should|would|has|have) .+$", core)
    pair = match and polar_clauses(core.removeprefix("how "))
    if pair is None or re.match(r"^how \w+ (?:you|we|one) ", core) or re.search(rf" be (?:\w+ )?(?:{_JUDGED})$", core):
        return None
    words = answer.split()
    is_said = grammar.begins_with_preposition(answer) or verbs.is_adverb(words[0]) or grammar.is_adjective(words[0])
    is_said = (
        is_said or verbs.is_participle(words[0]) or words[0] in {"as", "like", "by", "because", "more", "less", "not"}
    )
    seems = re.match(r"^(.+ (?:look|appear|seem)(?:s|ed)?)( .*)?$", pair[0])
    if seems:
        return f"{seems[1]} {answer}{seems[2] or ''}"
    if is_said:
        return f"{pair[0]} {answer}"
    return f"{pair[0]} {'with' if re.search('(?:treat|manag|present)ed$', pair[0]) else 'by'} {answer}"


def declare_describe(question: Question, answer: str) -> str | None:
    """`how would you describe the liver`, `how is the patient oriented`, `name the organ`."""
    core = find_core(question)
    match = re.match(
        rf"^how (?:would|do|can|could|should|will|did) (?:you|we|one) (?:best )?({_JUDGING})"
        r"(?: the (?:grade|stage|severity) of)? (.+)$",
        core,
    )
    if match:
        return _judged(match[1], match[2], answer)
    match = re.match(
        r"^(?:how (?:would|do|can|could) (?:you|we) (?:describe|call)|(?:please )?(?:describe|identify|name)|"
        r"can you (?:name|identify|describe)) (.+)$",
        core,
    )
    if match:
        return f"{match[1]} {grammar.be_for(match[1])} {noun_phrase(answer)}"
    match = re.match(
        rf"^how (is|are|was|were|can|should|would|could|may|might|must|will) (.+?)"
        rf"(?: (?:best )?(?:be )?(?:best )?({_JUDGED}|treated|managed|"
        r"diagnosed|confirmed|visualized|performed|corrected|repaired|removed|prevented|spread|transmitted|detected|identified)"
        r"\b(.*))?$",
        core,
    )
    if not match or (match[1] not in grammar.BE and not match[3]):
        return None
    be = match[1] if match[1] in grammar.BE else f"{match[1]} be"
    subject, _, last = match[2].rpartition(" ")
    if not match[3] and subject and verbs.is_past_participle(last) and not verbs.is_noun(last):
        first = answer.split()[0]
        is_manner = grammar.begins_with_preposition(answer) or verbs.is_adverb(first) or grammar.is_adjective(first)
        is_manner = is_manner or first == "by" or (" " not in answer and verbs.is_participle(first))
        return f"{subject} {be} {last} {answer if is_manner else 'by ' + answer}"
    if not match[3] or grammar.begins_with_preposition(answer) or answer.startswith("as "):
        return f"{match[2]} {be} {match[3] or ''}{match[4] or ''} {answer}"
    if match[3] in {"treated", "managed"}:
        return f"{match[2]} {be} {match[3]}{match[4]} with {answer}"
    if re.match(r"(?:diag|conf|vis|perf|corr|rep|rem|prev|spr|trans|det|ident)", match[3]):
        return f"{match[2]} {be} {match[3]}{match[4]} by {answer}"
    return f"{match[2]} {be} {match[3]}{match[4]} as {answer}"


_JUDGED = (
    "described|characterized|categorized|classified|graded|staged|scored|rated|labell?ed|interpreted|named|called|oriented|"
    "positioned"
)
_JUDGING = (
    "grade|stage|score|rate|classify|categori[sz]e|characteri[sz]e|interpret|label|define|quantify|assess|evaluate|treat|manage|"
    "diagnose|confirm|measure|approach|judge|rank|term|name"
)


def _judged(verb: str, thing: str, answer: str) -> str:
    """`the lesion is grade 3` of "how would you grade the lesion"."""
    if verb in {"treat", "manage", "approach"}:
        is_said = grammar.begins_with_preposition(answer)
        return f"{thing} would be {verbs.participle(verb)} {answer if is_said else 'with ' + answer}"
    if verb in {"confirm", "diagnose", "measure", "quantify"} and not answer[0].isdigit():
        is_said = grammar.begins_with_preposition(answer)
        return f"{thing} would be {verbs.participle(verb)} {answer if is_said else 'by ' + answer}"
    if verb in {"grade", "stage", "score"} and re.match(r"\d|[ivx]+$|[a-f]$", answer):
        return f"the {verb} of {thing} is {answer}"
    return f"{thing} {grammar.be_for(thing)} {noun_phrase(answer)}"


def declare_why(question: Question, answer: str) -> str | None:
    """`why is the right kidney enlarged`."""
    match = re.match(r"^why (.+)$", find_core(question))
    clauses = match and polar_clauses(re.sub(r"^do you not see", "are there no", match[1]))
    if not clauses:
        return None
    if re.match(r"(?:because|due|since|as|to|in order|for|from|owing|secondary|so)\b", answer):
        return f"{clauses[0]} {answer}"
    is_clause = re.match(r"^(?:there|it|this|they|because|due|the .+ (?:is|are)\b|.+ is not\b)", answer)
    return f"{clauses[0]} {'because' if is_clause else 'due to'} {answer}"
