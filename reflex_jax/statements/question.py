"""HOST: a question as the rules read it: in lower case, direct, without what leads to it; and where its words are cut."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

from reflex_jax.statements import grammar
from reflex_jax.statements.clauses import verb_of
from reflex_jax.text.normalise import clean_text
from reflex_jax.text.questions import ASKING_WORDS

ASKING = re.compile(r"^(?:what|which|where|how|why|whose|when|who|whom)\b")
CAPITAL_A = "\ue000"  # stands for "A" as a letter ("type A"), until the statement is ready
_LONGEST_LEAD = 8  # words of a leading phrase that are kept, behind the claim

_AUXILIARY = "is|are|was|were|do|does|did|has|have|had|can|could|will|would|shall|should|may|might|must"
_STARTS = rf"(?:{ASKING_WORDS}|{_AUXILIARY}|(?:in|on|at|from|to|with|for|of|by) (?:what|which|whom|whose))\b"
_CONTRACTED = re.compile(rf"^({_AUXILIARY}|ca|wo)n['\u2019 ]?t\b")
_IS = re.compile(r"\b(what|where|who|how|when|which|why|there|it|that|he|she)['\u2019]s\b")
_NOT = re.compile(rf"\b({_AUXILIARY})n['\u2019]t\b")
_TAG = re.compile(
    rf", (?:(?:{_AUXILIARY})(?:n['\u2019]?t| not)? (?:it|there|they|he|she|this|that)(?: not)?|right|correct)$"
)
_ASKING_FOR = (
    r"(?:please |kindly )?(?:tell|determine|decide|state|say|identify|name|assess|describe|check|answer|choose|select|"
    r"pick)\b"
)
_LEAD = re.compile(rf"^(.*\S)(?:, (?:and |then |so )?|[;:] |\. )(?={_STARTS}|{_ASKING_FOR})")
_LEADING = re.compile(
    r"^(?:in|on|at|from|for|within|after|before|during|under|among|if|when|while|because|since|although|despite|compared)\b"
    r"(?! (?:light|view|terms) of)"
)
_ASIDE = re.compile(r"^(.+?), ((?:in|on|at|from|within|by|with) [^,]{2,50}?), (?!or |and )(.+)$")
# "can you tell if", "determine whether", "is it true that": what follows is a clause
_WHETHER = r"(?:whether or not|whether|if|that)"
_SAYING = (
    r"(?:tell|let|inform)(?: (?:me|us))?(?: know)?|say|determine|decide|confirm|identify|see|state|explain|judge|assess|"
    r"show|know|"
    r"check|evaluate|verify|find out|find|report|specify|predict|detect|indicate|describe|name|answer|recogni[sz]e|think|"
    r"ascertain|establish|figure out|estimate|point out|comment on|conclude"
)
_INDIRECT = re.compile(
    rf"^(?:(?:can|could|would|will|are) (?:you|we|one|it)(?: be)?(?: able to)? (?:please |kindly |be |also )?|"
    r"is it possible to |do (?:you|we) |"
    rf"(?:please |kindly |just |now )*(?:try to )?|(?:i|we) (?:want|would like|need|wish|wonder|ask)(?: to)?(?: you to)? ?)"
    rf"(?:{_SAYING}|seen|told|said|determined|concluded|wonder)?"
    rf"(?:,? (?:from|in|on|based on|by|using|for|to|with) (?:the |this |these )?[\w -]{{2,40}}?)?"
    rf",? ({_WHETHER}|(?={ASKING_WORDS}))\b ?(.+)$"
)
_TRUE_THAT = re.compile(
    r"^(?:is it|is this|would it be|was it|can it be)(?: not)? (true|correct|right|accurate|fair|the case|a fact|false|"
    r"likely|possible|wrong|"
    r"incorrect|said|concluded|assumed)(?: to (?:say|state|conclude|assume))? that (.+)$"
)
_BELIEVED = re.compile(
    r"^(?:do|would|can|could) (?:you|we) (?:think|say|believe|agree|conclude|suspect|suppose|assume|consider|feel)(?: that)? "
    r"((?:the|this|there|it|these|those|a|an|both|all|any|he|she|they)\b.+)$"
)
_INVERTED = (
    (
        re.compile(r"^(where|who|why|when|how \w+|how) ((?!is |are |was |were ).+?) (is|are|was|were)( .*)?$"),
        r"\1 \3 \2\4",
    ),
    (
        re.compile(
            r"^(what|which)((?: (?!the |this |that |these |those |it |a |an |he |she |is |are |was |were )\w[\w-]*)*)"
            r" ((?:the|this|that|these|those|it|a|an|he|she)\b(?:(?! is | are | was | were ).)*?) (is|are|was|were)( .+)?$"
        ),
        r"\1\2 \4 \3\5",
    ),
)
_EXPECTED = re.compile(r"\b(would) (?:you|one|we) expect (?!to )(.{2,60}?) to (\w+)")
_RATED = re.compile(
    r"^how (\w+) (?:would|do|can|should) (?:you|we) (?:rate|grade|judge|consider|call|assess|deem) (.+)$"
)
# Requests that ask like a question: the verb and what it asks for.
_REQUEST = re.compile(
    r"^(?:(?:can|could|would) you )?(?:please |kindly )?(identify|name|describe|state|give|specify|list|report|"
    r"choose|select|pick|"
    r"indicate|provide|mention|label|recogni[sz]e|diagnose|classify|grade|stage|locate|find|point out|estimate|count|measure|"
    r"determine|tell|say|detect|predict|characteri[sz]e|assess|evaluate)(?: me| us| out)? (.+)$"
)


@dataclass(frozen=True)
class Question:
    """A question as the rules read it: lower case, direct, without its question mark, options and lead."""

    text: str
    has_options: bool
    request: str = ""  # "what is the organ" of "can you name the organ", where the answer is neither yes nor no
    lead: str = ""  # "in a child" of "in a child, what is this?"; may stand behind the claim
    has_exception: bool = False  # "which is true EXCEPT": what would be said of the others is denied of the answer
    is_choice: bool = False  # "which", also of a list that the text no longer has: "which of these is wrong"

    @property
    def words(self) -> list[str]:
        """The words of the text."""
        return self.text.split()

    @property
    def is_open(self) -> bool:
        """Whether a question word opens it, so that neither yes nor no answers it."""
        return ASKING.match(self.text) is not None


# The statement of a question and an answer in lower case, None where the rule does not fit.
Rule = Callable[[Question, str], str | None]


def prepare_question(asked: str, *, has_options: bool) -> Question:
    """The question behind the words that ask: "Can you tell me where the cyst is?" -> "where is the cyst"."""
    text = tidy(asked)
    tag = _TAG.search(text)
    if tag and not ASKING.match(text) and text.split()[0] not in grammar.AUXILIARIES:
        text = text[: tag.start()]
    text, lead = _split_lead(text)
    aside = _ASIDE.match(text)
    if aside and not ASKING.match(aside[3]) and " or " not in aside[3]:
        text = f"{aside[1]} {aside[3]} {aside[2]}"
    for _ in range(2):  # "can you tell me if it is true that ..."
        text = _direct(text)
    request = _from_request(text)
    if request != text and text.split()[0] not in grammar.AUXILIARIES:
        return Question(request, has_options, "", lead)
    return Question(text, has_options, request if request != text else "", lead)


def protect_letters(text: str) -> str:
    """Marks each "A" that is a letter and no article, before the text is lowered."""
    if text.strip(" .?!()") == "A":
        return text.replace("A", CAPITAL_A)
    if " A" not in text or text.isupper():
        return text
    words = text.split()
    long_words = [word for word in words if len(word) > 3]
    if len(words) > 3 and sum(word[0].isupper() for word in long_words) > len(long_words) / 2 and len(long_words) > 2:
        return text  # A Title Like This
    return re.sub(r"(?<=[\w,)] )A(?=$|[\s,.;:)?!-])", CAPITAL_A, text)


def tidy(text: str) -> str:
    """Lower case, without brackets, quotes and end marks."""
    lowered = protect_letters(clean_text(text)).lower().replace('"', "")
    lowered = re.sub(r"\b(?:is/are|are/is|is\(are\))", "is", lowered)
    lowered = re.sub(r"\borgans/organ\b", "organ", re.sub(r"^doe\b", "does", lowered))
    lowered = re.sub(r"\b(?:the|this) (image|picture|scan|film) above\b", r"the above \1", lowered)
    # only up to the last ")": behind it every "(" would be followed to the end of the text in vain
    lowered = re.sub(r"(?<=\s)\(([a-h1-9])\)(?=\W|$)", r"\1", lowered)  # the letter of a panel
    head, closing, tail = lowered.rpartition(")")
    lowered = re.sub(r"\s*\([^)]*\)", "", head + closing) + tail
    lowered = re.sub(r"\s*,\s*", ", ", lowered).strip(" ?.:,;!")
    lowered = _NOT.sub(r"\1 not", _IS.sub(r"\1 is", _CONTRACTED.sub(_without_not, lowered)))
    lowered = re.sub(r"\bcan['\u2019]t\b", "cannot", re.sub(r"\bany ?one of\b", "any of", lowered))
    return re.sub(r"^(besides [^,]+), (.+)$", r"\2 \1", lowered)


def _without_not(match: re.Match[str]) -> str:
    """ "Isn't there a mass?" asks what "is there a mass?" asks, and is answered alike."""
    return {"ca": "can", "wo": "will"}.get(match[1], match[1])


def _split_lead(text: str) -> tuple[str, str]:
    """(the question, a short phrase that stood before it)."""
    lead = ""
    for _ in range(4):
        match = _LEAD.match(text)
        if not match or re.match(_STARTS, match[1]) or match[1].split()[0] in grammar.AUXILIARIES:
            break
        lead, text = match[1], text[match.end() :]
    is_kept = _LEADING.match(lead) and len(lead.split()) <= _LONGEST_LEAD and " following" not in lead
    return text, lead if is_kept else ""


def _direct(text: str) -> str:
    text = _EXPECTED.sub(r"\1 \2 \3", _RATED.sub(r"how \1 is \2", text))
    text = re.sub(r",? or not$", "", re.sub(r"^(?:and|so|then|now|please|kindly),? ", "", text))
    text = re.sub(r",? (?:please|if any|if present)$", "", text)
    text = re.sub(r"^(?:whether or not|whether) ", "", text)
    match = _TRUE_THAT.match(text)
    if match:
        return f"it is not the case that {match[2]}" if match[1] in {"false", "wrong", "incorrect"} else match[2]
    match = _BELIEVED.match(text)
    if match and verb_of(match[1]) is not None:
        return match[1]
    match = _INDIRECT.match(text)
    if match and (match[1] != "that" or text.split()[0] not in grammar.BE):
        return _invert(match[2]) if not match[1] else match[2]
    return text


def _from_request(text: str) -> str:
    match = _REQUEST.match(text)
    if not match or not re.match(
        r"(?:the|this|that|these|those|an?|one|any|two|its?|all|which|what|most|correct|best)\b", match[2]
    ):
        return text
    verb, thing = match[1], re.sub(r"^(?:all|any) (?:the |of the )?", "the ", match[2])
    thing = re.sub(r"^(?:one|an?) ", "the ", thing)
    if verb in {"locate", "find", "point out"}:
        return f"where {grammar.be_for(thing)} {thing}"
    if verb == "count":
        head, *place = re.split(r"(?= (?:in|on|within|of)\b)", re.sub("^the ", "", thing), maxsplit=1)
        return f"how many {head} are there{''.join(place)}"
    if verb in {"grade", "stage"}:
        return f"how would you {verb} {thing}"
    of = re.match(r"^the (?:number of|count of) (.+)$", thing)
    if of:
        return f"how many {of[1]} are there"
    return f"what {grammar.be_for(thing)} {thing}" if verb != "describe" else f"how would you describe {thing}"


def _invert(text: str) -> str:
    """`where the lesion is` -> `where is the lesion`; a question that is direct already stays."""
    for pattern, direct in _INVERTED:
        match = pattern.match(text)
        if match:
            return match.expand(direct) if match[match.lastindex or 1] is not None else pattern.sub(direct, text)
    return text


def find_core(question: Question) -> str:
    """The question without a list of alternatives or an afterthought behind a comma."""
    return _find_core(question.text)


@functools.lru_cache(maxsize=4096)  # most rules ask for it, for each of the G answers
def _find_core(text: str) -> str:
    core = re.sub(r"[,?:] (?:and (?:what|where)\b.*|if any$|(?:[^,]+, )*[^,]+ or .+)$", "", text)
    return re.sub(r"\?.*$", "", core).strip(" ,")


def split_at_auxiliary(text: str) -> tuple[str, str, list[str]]:
    """("lobe", "is", ["the", "nodule", "located"]) of "lobe is the nodule located"."""
    words = text.split()
    position = next((i for i, word in enumerate(words) if word in grammar.AUXILIARIES), None)
    return ("", "", []) if position is None else (" ".join(words[:position]), words[position], words[position + 1 :])
