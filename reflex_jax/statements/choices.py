"""HOST: questions that offer alternatives ("A or B?"): the chosen one takes the place of the list."""

from __future__ import annotations

import re

from reflex_jax.statements import grammar, verbs
from reflex_jax.statements.polar import polar_clauses
from reflex_jax.statements.question import ASKING, Question
from reflex_jax.text.normalise import normalise_answer

# The last word of "cystic or solid mass" belongs to both sides of the "or".
_SHARED_HEADS = frozenset(
    "side sides kidney lobe lung matter film image scan scanner plane view lesion mass ct mri cxr x-ray section "
    "process part region hemisphere area quadrant position weighting".split()
)


def declare_alternative(question: Question, answer: str) -> str | None:
    """`is the cyst on the left or the right side`; where no question word stands first."""
    return None if ASKING.match(question.text) else choose_alternative(question.text, answer)


def choose_alternative(text: str, answer: str) -> str | None:
    """`is the cyst on the left or the right side` + left -> the cyst is on the left side.

    Args:
      text: question in lower case, without a question mark.
      answer: in lower case; an alternative may be named without the noun that all share.
    Returns:
      None where the question offers no alternatives, or the answer is yes or no.
    """
    if normalise_answer(answer) in {"yes", "no"}:
        return None
    closed = re.match(r"^(.+), (.+?),? or (?:both|neither|none|all)(?: of them| of these)?$", text)
    if closed:  # "the left lobe, the right lobe, or both"
        text = f"{closed[1]} or {closed[2]}"
    questions = re.split(r" or (?=(?:is|are|was|were|do|does|did|has|have|can) )", text)
    if len(questions) == 2 and all(polar_clauses(question) for question in questions):
        return _choose_clause(questions, answer)
    clauses = polar_clauses(text) or (text, "")
    words = re.sub(r",", " ,", re.sub(r"\bvs\.?(?= )", "or", clauses[0])).split()
    if "or" not in words[1:-1] or words[-1] == "or":
        return None
    middle = len(words) - 1 - words[::-1].index("or")
    start, end = _coordination(words, middle)
    verb = grammar.verb_position(text.split()[1:]) if text.split()[0] in grammar.DO and " you " not in text else None
    start = start if verb is None or verb >= middle else max(start, verb + 1)
    before, after = words[:start], words[end:]
    left, right = [word for word in words[start:middle] if word != ","], words[middle + 1 : end]
    if not before + after or not left:
        return None
    article = right[0] if right[0] in grammar.ARTICLES else ""
    right = right[1:] if article else right
    if not right:
        return None
    # "lateralized to one side" shares no noun with what stands before the "or"
    is_clause = verbs.is_participle(right[0]) and len(right) > 1 and right[1] in grammar.PREPOSITIONS
    head = "" if is_clause else _shared_head(left, right)
    listed = _listed(words[start:end], head)
    if normalise_answer(answer) in _TOGETHER and normalise_answer(answer) not in words[start:end]:
        return _join(before, words[start:end], after, normalise_answer(answer))
    return _fill_alternative(" ".join(before), " ".join(after), answer, listed, head, article)


# What is said of all alternatives together.
_TOGETHER = frozenset("both neither none either all".split()) | {
    "both of them", "neither of them", "all of them", "none of them", "neither one", "neither of these", "both of these",
}  # fmt: skip


def _choose_clause(questions: list[str], answer: str) -> str | None:
    """`is there an absence of villi or is there flattening`: the question that names the answer is affirmed."""
    pairs = [pair for question in questions if (pair := polar_clauses(question))]
    together = normalise_answer(answer)
    if together in _TOGETHER and together != "either":
        is_denied = together[0] == "n"
        mark = "" if together in {"both", "neither"} else "." if " " not in together else f": {answer}"
        return " and ".join(pair[1 if is_denied else 0] for pair in pairs) + mark
    said = set(together.split())
    named = [i for i, question in enumerate(questions) if said <= set(normalise_answer(question).split())]
    if len(named) != 1:
        return None
    return pairs[named[0]][0] + (f": {answer}" if len(said) < len(set(questions[named[0]].split())) - 3 else "")


def _join(before: list[str], words: list[str], after: list[str], together: str) -> str | None:
    """`there is both pneumothorax and effusion` of "there is", "pneumothorax or effusion" and both."""
    items = [item.strip(" ,") for item in re.split(r" , (?:or )?| or ", " ".join(words))]
    if together.startswith("n"):
        listed = f"neither {' nor '.join(items)}"
    elif together.startswith("either"):
        listed = f"either {' or '.join(items)}"
    else:
        listed = f"{'both ' if len(items) == 2 else ''}{', '.join(items[:-1])} and {items[-1]}"
    marks = {"both": "", "neither": "", "either": "", "none": "."}
    return " ".join([*before, listed, *after]) + marks.get(together, f": {together}")


def _coordination(words: list[str], middle: int) -> tuple[int, int]:
    """Where the alternatives around the `or` at `middle` begin and end."""
    borders = grammar.PREPOSITIONS | grammar.AUXILIARIES | {"than", "relative", "compared"}
    opening, last = words[middle + 1], words[middle - 1]
    is_said = grammar.is_adjective(opening) or verbs.is_participle(opening)
    is_place = grammar.begins_with_preposition(" ".join(words[middle + 1 :]))
    end = middle + 2
    while end < len(words) and (is_place or verbs.is_participle(opening) or words[end] not in borders):
        end += 1
    if is_said and grammar.is_adjective(last) and "," not in words[:middle]:
        return middle - (2 if words[middle - 2] in {"hyper", "hypo", "non"} else 1), end
    if is_place:
        begins, stops = grammar.PREPOSITIONS - {"of", "to"}, grammar.AUXILIARIES
    elif is_said and verbs.is_participle(opening):
        begins, stops = (
            frozenset(w for w in words if grammar.is_adjective(w) or verbs.is_participle(w)),
            grammar.AUXILIARIES,
        )
    elif opening in grammar.ARTICLES:
        begins, stops = grammar.ARTICLES, borders
    else:
        begins, stops = frozenset(), borders | grammar.DETERMINERS | {"located", "taken", "deviated", "seen"}
    for start in range(middle - 1, -1, -1):
        if words[start] in begins:
            if words[start - 1] == "," and start > 1:
                continue  # "an x-ray, a ct or an mri"
            return start, end
        if words[start] in stops or (not begins and verbs.is_plainly_third(words[start])):
            return start + 1, end
    return 0, end


def _shared_head(left: list[str], right: list[str]) -> str:
    """`side` of "left or right side", `mri image` of "t1 weighted or t2 weighted mri image"; empty: none."""
    if len(right) < 2 or right[-1] not in _SHARED_HEADS:
        return ""
    aligned = right.index(left[-1]) + 1 if left[-1] in right[:-1] else len(right) - 1
    return " ".join(right[aligned:])


def _listed(words: list[str], head: str) -> set[str]:
    """The alternatives in normal form, without the head they share."""
    items = re.split(r" , (?:or )?| or ", " ".join(words))
    return {normalise_answer(item.removesuffix(f" {head}") if head else item) for item in items}


def _fill_alternative(before: str, after: str, answer: str, listed: set[str], head: str, article: str) -> str:
    verb, _, preposition = before.rpartition(" ")
    if grammar.begins_with_preposition(answer) and preposition in grammar.PREPOSITIONS:
        return f"{verb}{' found' if verb.split()[-1:] and verb.split()[-1] in grammar.BE else ':'} {answer}"
    phrase, mark, normal = answer, "", normalise_answer(answer)
    if head and answer.split()[-1] == head.split()[-1]:
        mark = "."
    elif head and normal in listed:
        phrase = f"{answer} {head}"
    elif head and any(item.startswith(f"{normal} ") for item in listed):
        phrase = f"{answer} {head.split()[-1]}"
    if article and answer.split()[0] not in grammar.DETERMINERS and not grammar.begins_with_preposition(answer):
        phrase = f"the {phrase}" if article == "the" else grammar.indefinite(phrase)
    return f"{before} {phrase} {after}".strip() + mark
