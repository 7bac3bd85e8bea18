"""HOST: questions for a time or a person: "when was contrast given", "whose skin does this show", "who is at risk"."""

from __future__ import annotations

import re

from reflex_jax.statements import grammar, verbs
from reflex_jax.statements.phrases import noun_phrase
from reflex_jax.statements.polar import polar_clauses
from reflex_jax.statements.question import Question, find_core, split_at_auxiliary

_TIME = re.compile(
    r"^(?:late|early|last|next|every|shortly|right|just|soon|approximately|about|around)\b.*|"
    r"^(?:\d|(?:one|two|three|four|five|six|seven|eight|nine|ten|several|a few|some)\b).*|"
    r".*\b(?:ago|later|earlier|now|today|yesterday|tomorrow|soon|never|always|once|twice|immediately|daily|before|after)$"
)


def declare_when(question: Question, answer: str) -> str | None:
    """`when was contrast given` + before the scan -> contrast was given before the scan."""
    since = re.match(r"^(since|until) when (.+)$", find_core(question))
    if since:
        pair = polar_clauses(since[2])
        return f"{pair[0]} {since[1]} {answer}" if pair else None
    core = re.sub(
        r"^when (?:in|during|within|on) .+? (?=(?:is|are|was|were|do|does|did|has|have|can|should) )",
        "when ",
        find_core(question),
    )
    match = re.match(r"^(?:when|at what (?:time|point|stage)) (.+)$", core)
    pair = match and polar_clauses(match[1])
    if not pair:
        return None
    words = answer.split()
    is_said = grammar.begins_with_preposition(answer) or _TIME.match(answer) or verbs.is_adverb(words[0])
    if re.fullmatch(r"(?:1[89]|20)\d\d", answer):
        return f"{pair[0]} in {answer}"
    if is_said or words[0] in {
        "when",
        "if",
        "while",
        "once",
        "as",
        "until",
        "since",
        "because",
        "upon",
        "only",
        "whenever",
    }:
        return f"{pair[0]} {answer}"
    return f"{pair[0]} at the time of {answer}"


def declare_who(question: Question, answer: str) -> str | None:
    """`who is at risk`, `who performed the scan`: the answer is the subject."""
    match = re.match(r"^who (.+)$", find_core(question))
    if not match:
        return None
    words = match[1].split()
    if words[0] in grammar.BE and len(words) > 1:
        if words[1] in grammar.DETERMINERS:
            return f"{' '.join(words[1:])} {words[0]} {noun_phrase(answer)}"
        be = grammar.be_for(answer) if words[0] in {"is", "are"} else words[0]
        return f"{answer} {be} {' '.join(words[1:])}"
    if words[0] in grammar.DO:
        pair = polar_clauses(match[1])
        return f"{pair[0]} {answer}" if pair else None
    return f"{answer} {match[1]}"


def declare_whose(question: Question, answer: str) -> str | None:
    """`whose skin does this image show` + a child -> this image shows the skin of a child."""
    match = re.match(r"^(?:in |on |from |of )?whose (.+)$", find_core(question))
    noun, auxiliary, rest = split_at_auxiliary(match[1]) if match else ("", "", [])
    if not match:
        return None
    owner = re.sub(r"['\u2019]s?$", "", answer)
    mark = "" if owner == answer else "."
    if not noun:
        words = match[1].split()
        position = next((i for i, word in enumerate(words) if i and verbs.is_plainly_third(word)), None)
        if position is None:
            return None
        return f"the {' '.join(words[:position])} of {owner} {' '.join(words[position:])}{mark}"
    if not rest:
        return None
    thing = f"the {noun} of {owner}"
    preposition = question.words[0]
    if preposition != "whose":
        pair = polar_clauses(f"{auxiliary} {' '.join(rest)}")
        return f"{pair[0]} {preposition} {thing}{mark}" if pair else None
    if auxiliary in grammar.BE:
        if rest[0] in {"this", "that", "these", "those", "it"} and (len(rest) == 1 or rest[0] != "that"):
            return f"{rest[0]} {auxiliary} {thing} {' '.join(rest[1:])}".strip() + mark
        return f"{thing} {auxiliary} {' '.join(rest)}{mark}"
    pair = polar_clauses(f"{auxiliary} {' '.join(rest)}")
    return f"{pair[0]} {thing}{mark}" if pair else f"{thing} {auxiliary} {' '.join(rest)}{mark}"
