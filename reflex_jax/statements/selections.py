"""HOST: questions that choose from a list: "which of the following is seen", "which statement is not true"."""

from __future__ import annotations

import re
from dataclasses import replace

from reflex_jax.statements import clauses, grammar, verbs
from reflex_jax.statements.phrases import noun_phrase
from reflex_jax.statements.question import Question

_OF_THESE = re.compile(
    r"^(what|which)(?: one)?(?: of| among| from)? (?:the|these|those|them)"
    r"(?: (?:following|above|below|listed|given|four|five|three|two))*"
    r"(?: (?:options|choices|answers|answer choices|possibilities|items)\b)?(?: (?:below|above|given|listed|provided))?(?: |$)"
)
_OF_FOLLOWING = re.compile(
    r"\b(?:(?:one )?of |from |among |amongst |out of )?(?:the following|these options|the options below|the given options|"
    r"the above(?= is\b| are\b|$))"
    r"(?: (?:options|choices|answers))?\b ?"
)
_TRUE = re.compile(
    r"^(?:what|which)(?: one)?(?: (?:statements?|descriptions?|claims?|assertions?|sentences?|conclusions?|"
    r"findings?|interpretations?|"
    r"options?|answers?|assessments?|things?))?(?: (?:below|above|about [\w -]+?|regarding [\w -]+?))? "
    r"(is|are|can be|would be|must be)(?: the| an?)?( most| best| least)?( not)? "
    r"(true|correct|false|incorrect|right|wrong|accurate|inaccurate|untrue|supported|consistent|valid|appropriate)"
    r"(?: (?:statement|description|one|answer|option|interpretation))?\b"
    r"(?: (?=about|regarding|of |for |concerning|with |in |on |from |based |according )(.*))?$"
)
_DESCRIBES = re.compile(
    r"^(?:what|which)(?: one)?(?: (?:statements?|descriptions?|sentences?|options?|claims?))?"
    r"(?: best| most accurately| correctly| accurately)? "
    r"(?:describes?|applies|apply|summari[sz]es|characteri[sz]es|reflects?|matche?s?)\b.*$"
)
_HOW_KNOWN = re.compile(r"how (?:can|do|does|did|could|would|to|is|was)\b")  # answered by a reason or a way
_FALSE = frozenset({"false", "incorrect", "wrong", "inaccurate", "untrue"})
# Said of things as well as of statements: what is wrong with the heart is so, which of these is wrong is not.
_FAULTY = frozenset({"wrong", "incorrect", "inaccurate", "not right", "not correct", "not accurate"})
_STATEMENT = re.compile(
    r"\b(?:statement|description|claim|assertion|sentence|conclusion|interpretation|option|answer|one)s?\b"
)


def without_choice(question: Question) -> Question:
    """The question without the list that it chooses from, marked as a choice."""
    text = without_list(question.text)
    return replace(question, text=text, is_choice=text != question.text or text.startswith("which "))


def without_list(text: str) -> str:
    """`which of the following structures is marked` -> `which structure is marked`; `which of these is it` -> `what is it`."""
    text = re.sub(r"^(?:what|which) one (?=is\b|are\b|was\b)", "what ", text)
    text = re.sub(r"^(?:what|which) (?:option|choice|answer)(?= \w)", "what", text)
    match = _OF_THESE.match(text)
    if match and (re.search(r" (?:of|among|from) ", f" {match[0]}") or " following" in match[0] or " one " in match[0]):
        rest = text[match.end() :]
        words = rest.split()
        if not words:
            return "what is it"
        if (
            words[0] in grammar.AUXILIARIES
            or grammar.is_finite(words[0])
            or words[0] in grammar.ADVERBS | {"best", "least"}
        ):
            return f"what {rest}"
        if verbs.is_plainly_base(words[0]) and not grammar.is_plural(words[0]):
            return f"what {rest}"
        end = next(
            (i for i, w in enumerate(words) if i and verbs.is_third(w) and grammar.is_plural(words[i - 1])), None
        )
        end = end or grammar.noun_phrase_end(words)
        verb = words[end : end + 1]
        noun = grammar.singular(" ".join(words[:end])) if verb in (["is"], ["was"], ["has"], ["does"]) or (
            verb and verbs.is_third(verb[0])
        ) else " ".join(words[:end])  # fmt: skip
        return f"which {noun} {' '.join(words[end:])}".strip()
    text = re.sub(r"(?<=\w )(what|which)(?: one)? of (?:the following|these|those)\b", r"\1", text)
    if re.match(r"^(?:what|which|in which|on which|at which)\b", text):
        return " ".join(_OF_FOLLOWING.sub("", text).split())
    return text


def declare_true(question: Question, answer: str) -> str | None:
    """`which is true about the image`, `which statement is not correct`: the answer is a statement by itself."""
    match = _TRUE.match(question.text)
    if match is None:
        if _DESCRIBES.match(question.text) and clauses.is_sentence(answer):
            return f"{answer}."
        return None
    if _asks_for_fault(question, match):
        return None
    is_false = (match[4] in _FALSE) != bool(match[3]) or (match[2] or "").strip() == "least"
    if clauses.is_sentence(answer):
        return f"{clauses.deny(answer) if is_false else answer}."
    if not question.has_options and match[4] in {"wrong", "right", "consistent", "appropriate"}:
        return None
    if match[4] in {"consistent", "appropriate", "supported"}:
        return None
    about = re.sub(r"^(?:about|regarding|of|for|concerning|with respect to|in|with) ", "", match[5] or "")
    end = f" of {about}" if about else ""
    return f"{noun_phrase(answer)} is {'not ' if is_false else ''}true{end}"


def _asks_for_fault(question: Question, match: re.Match[str]) -> bool:
    """Whether what is wrong with a thing is asked, not which statement is wrong."""
    if f"{(match[3] or '').strip()} {match[4]}".strip() not in _FAULTY:
        return False
    if re.match(r"with (?!(?:respect|regard|reference)s? to\b)", match[5] or ""):
        return True
    asked = question.text.removesuffix(match[5] or "")
    if question.is_choice or _STATEMENT.search(asked):
        return False
    return bool(match[5]) or match[4] in {"wrong", "right"} or not question.has_options


def declare_sentence(question: Question, answer: str) -> str | None:
    """An answer that is a statement by itself: `there is no lesion`, to whatever was asked."""
    if not clauses.is_sentence(answer) or question.words[:1] == ["why"]:
        return None
    if _HOW_KNOWN.match(question.text) and not answer.startswith("there "):
        return None
    return f"{answer}."
