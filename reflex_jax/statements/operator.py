"""HOST: the declarative operator t = decl(q, a) (paper Eq. 1): question and answer become one factual statement.

A versioned, deterministic table of rules, tried in order; never a language model, so that the same words always give
the same evidence. The paper gives no rules; these are read off VQA-RAD, SLAKE and the phantom world. Statements are
lower case (the judge's tokenizer lowers them anyway) and hold at most 32 words of the answer, from its first 4,096
characters.

Different answers to one question give different statements. Where two of them mean the same ("left" and "left side" to
"... on the left or right side?") the sentence is the same and a final full stop or a colon tells them apart.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from reflex_jax.statements import grammar
from reflex_jax.statements.choices import choose_alternative
from reflex_jax.statements.polar import polar_clauses
from reflex_jax.text.normalise import LETTERS, clean_text, match_option, normalise_answer, trim_answer

DECL_VERSION = "1"
MAX_ANSWER_WORDS = 32
LONGEST_QUESTION = 4096  # characters that the rules read; some need time that grows with their square
FALLBACK = "fallback"

_PLANES = frozenset("axial coronal sagittal saggital transverse pa ap lateral posteroanterior anteroposterior".split())
_MODIFIERS = grammar.SIDES | _PLANES | {"gray", "grey", "white", "and", "or"}
# Answers with these heads are things every body has one or two of.
_DEFINITE = frozenset(
    "brain lung lungs heart liver spleen kidney kidneys stomach chest abdomen head neck pancreas appendix trachea "
    "esophagus colon bladder gallbladder aorta diaphragm jejunum cecum duodenum thorax pelvis bowel lobe lobes "
    "hemisphere ventricle ventricles artery vein gland fossa thalamus ganglia cerebellum fissure hilum apex rib "
    "side plane region rectus".split()
)
# `what organ is the black hole`: the thing itself is asked for, not a property of it.
_IDENTITIES = frozenset("organ organs structure structures".split())
_FINDINGS = frozenset("abnormality abnormalities finding findings pathology lesion lesions disease diseases".split())
_SHOWN = frozenset(
    "seen shown present visible found noted demonstrated depicted identified visualized included".split()
)
_PLACES = (
    {"side": "on", "level": "at"}
    | dict.fromkeys(
        "lobe lobes hemisphere part region area territory fissure ventricle location plane section".split(), "in"
    )
    | {"orientation": "in", "view": "in"}
)
_TRAILING_PLACE = re.compile(
    r"\s*\b(?:in|on|of|from) (?:this|the)(?: above| shown)? (?:image|picture|scan|film|view|patient)$"
)
_ASKING = re.compile(r"^(?:what|which|where|how|why|whose)\b")


@dataclass(frozen=True)
class _Question:
    """A question as the rules read it: lower case, without its question mark and its list of options."""

    text: str
    has_options: bool

    @property
    def words(self) -> list[str]:
        return self.text.split()


_Rule = Callable[[_Question, str], str | None]


def decl(question: str, answer: str, options: Sequence[str] | None = None) -> str:
    """Turns a question and an answer into a statement (Eq. 1).

    Args:
      question: any text; lettered options in it ("A. cyst B. nodule", "(A) cyst (B) nodule") are recognised. Without them
        it may have `LONGEST_QUESTION` characters; a longer one is served by the fallback.
      answer: what was answered; a letter or the text of an option stands for the option.
      options: texts behind the letters A, B, ...; default: those found in the question.
    Raises:
      ValueError: the answer has no visible character.
    """
    return _declare(question, answer, options)[1]


def decl_rule(question: str, answer: str, options: Sequence[str] | None = None) -> str:
    """Name of the rule that makes the statement, `fallback` where none of the table fits."""
    return _declare(question, answer, options)[0]


def decl_coverage(questions: Iterable[tuple[str, str, Sequence[str] | None]]) -> dict[str, int]:
    """Counts how many of (question, answer, options) each rule serves, most frequent first."""
    return dict(Counter(decl_rule(*question) for question in questions).most_common())


def _declare(question: str, answer: str, options: Sequence[str] | None) -> tuple[str, str]:
    stem, lettered = _read(question)
    choices = options or lettered
    chosen = match_option(answer, choices) if choices else None
    words = trim_answer(answer if chosen is None else choices[chosen])
    if not words:
        raise ValueError(f"decl: expected an answer with visible characters; got {answer!r} to {question!r}.")
    words = " ".join(words.split()[:MAX_ANSWER_WORDS])
    is_only_articles = set(words.split()) <= grammar.ARTICLES  # rules add and drop them
    if not stem or len(stem) > LONGEST_QUESTION or is_only_articles:
        return FALLBACK, f"{stem} {words}".strip()
    asked = _Question(text=stem, has_options=bool(choices))
    polar = polar_clauses(asked.text)
    for name, rule in RULES:
        statement = rule(asked, words)
        if statement is not None and (name == "polar" or polar is None or statement not in polar):
            return name, _mend(statement)
    return FALLBACK, f"{asked.text} {words}".strip()


@functools.lru_cache(maxsize=4096)
def _read(question: str) -> tuple[str, tuple[str, ...] | None]:
    stem, lettered = split_options(question)
    return _tidy(stem), lettered


def split_options(question: str) -> tuple[str, tuple[str, ...] | None]:
    """Separates a question from the lettered options A, B, ... written after it ("A. cyst", "(A) cyst", "A cyst").

    Returns:
      The question alone and the texts of at least two options, or the whole question and None.
    """
    text = clean_text(question)
    marks: list[re.Match[str]] = []
    for letter in LETTERS:
        # a lone "A" may be an article: it opens a list only behind a full stop, a question mark, ...
        bare = rf"(?<=[?:.;,] ){letter}(?:[.:]|(?= ))" if not marks else rf"(?<=\s){letter}(?:[.:]|(?= ))"
        mark = re.compile(rf"(?:{bare}|(?<=\s)(?ai:\({letter}\)|{letter}\)))\s*").search(
            text, marks[-1].end() if marks else 0
        )
        if mark is None:
            break
        marks.append(mark)
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    options = (
        tuple(text[mark.end() : end].strip(" ,;.") for mark, end in zip(marks, ends, strict=True)) if marks else ()
    )
    if len(options) < 2 or not all(options):
        return text, None
    stem = re.sub(r"\s*(?:choices|options)\s*:?$", "", text[: marks[0].start()].strip(), flags=re.IGNORECASE)
    return stem, options


def _tidy(text: str) -> str:
    lowered = clean_text(text).lower().replace('"', "")
    lowered = re.sub(r"\b(?:is/are|are/is)\b", "is", lowered)
    lowered = re.sub(r"\borgans/organ\b", "organ", re.sub(r"^doe\b", "does", lowered))
    lowered = re.sub(r"\b(?:the|this) (image|picture|scan|film) above\b", r"the above \1", lowered)
    # only up to the last ")": behind it every "(" would be followed to the end of the text in vain
    head, closing, tail = lowered.rpartition(")")
    lowered = re.sub(r"\s*\([^)]*\)", "", head + closing) + tail
    lowered = re.sub(r"\s*,\s*", ", ", lowered).strip(" ?.:,;!")
    return re.sub(r"^(besides [^,]+), (.+)$", r"\2 \1", lowered)


def _mend(statement: str) -> str:
    return " ".join(grammar.mend_articles(statement).replace("the both ", "both ").replace("the the ", "the ").split())


# --- yes or no -------------------------------------------------------------------------------------------------------


def _polarity(answer: str) -> tuple[bool, str] | None:
    """(is it affirmed?, what to add to the bare statement), or None where the answer says neither yes nor no."""
    bare = re.fullmatch(r"(yes|no)(?:\s*[.,;:!-]\s*(.+))?", answer)
    if bare:
        return bare[1] == "yes", f", {trim_answer(bare[2])}" if bare[2] else ""
    said = next((word for word in normalise_answer(answer).split() if word in {"yes", "no"}), None)
    return None if said is None else (said == "yes", f": {answer}")


def _polar(question: _Question, answer: str) -> str | None:
    polarity, clauses = _polarity(answer), polar_clauses(question.text)
    if polarity is None or clauses is None:
        return None
    return clauses[0 if polarity[0] else 1] + polarity[1]


def _alternative(question: _Question, answer: str) -> str | None:
    return None if _ASKING.match(question.text) else choose_alternative(question.text, answer)


def _state(question: _Question, answer: str) -> str | None:
    """A yes/no question answered by a place: `is the spleen present` + on the left -> the spleen is on the left."""
    words = question.words
    if (
        len(words) < 3
        or words[0] not in grammar.BE
        or words[1] == "there"
        or not grammar.begins_with_preposition(answer)
    ):
        return None
    border = grammar.subject_length(words[1:])
    return border and f"{' '.join(words[1 : border + 1])} {words[0]} {answer}"


# --- what, which, where, how, why ------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)  # most rules ask for it, for each of the G answers
def _core(question: _Question) -> str:
    """The question without a list of alternatives or an afterthought behind a comma."""
    core = re.sub(r"[,?:] (?:and (?:what|where)\b.*|if any$|(?:[^,]+, )*[^,]+ or .+)$", "", question.text)
    return re.sub(r"\?.*$", "", core).strip(" ,")


def _noun(answer: str, *, is_new: bool = False) -> str:
    """The answer as the end of `the organ is ...`: with an article where its head is known to need one.

    Args:
      answer: any phrase.
      is_new: for `there is ...`, where "the" would be wrong.
    """
    words = re.split(r" (?:of|in|with|for) ", answer)[0].split()
    if words[0] in grammar.DETERMINERS | {"not"} or grammar.begins_with_preposition(answer) or "," in answer:
        return answer
    if words[-1] in _DEFINITE and len(words) <= 4 and not is_new:
        return f"the {answer}"
    if words[-1] in grammar.COUNT_NOUNS and words[0][0].isalpha() and "and" not in words:
        return grammar.indefinite(answer)
    return answer


def _specify(noun: str, answer: str) -> tuple[str, str]:
    """(`the right lobe`, mark) from `lobe` and right, right lobe or anything else."""
    bare = re.sub(r"^(?:a|an|the) ", "", answer)
    noun = re.sub(r"^(?:type|kind|form|sort)s? of ", "", noun)
    words, head = bare.replace(",", "").split(), re.split(r" (?:of|in) ", noun)[0].split()[-1]
    if all(word in _MODIFIERS for word in words):
        return f"the {bare} {noun}", ""
    mark = "." if words[-1] == head and all(word in _MODIFIERS for word in words[:-1]) else ""
    return (bare if re.match(r"[a-z]?\d+(?!\d|st|nd|rd|th)", bare) else f"the {bare}"), mark


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


def _where(question: _Question, answer: str) -> str | None:
    core = _TRAILING_PLACE.sub("", _core(question))
    core = re.sub(r" in the (?:human )?body$", "", core)
    match = re.match(r"^where(?: (in|on) (.+?))? (is|are|was|were) (.+)$", core)
    if match:
        be = match[3]
        subject = re.sub(r"^there (?:any )?|^(?:is|are) ", "", match[4])
        subject = re.sub(r" (?:located|seen|found|placed|identified|visualized|visible|present)\b", "", subject)
        if re.match(r"the location of", subject):
            return f"{subject} is {_noun(answer)}"
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
    return f"{clauses[0]} {place}"


def _count(question: _Question, answer: str) -> str | None:
    match = re.match(r"^how many (.+)$", _core(question))
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
    counted = answer.split()
    if counted[-1] == noun.split()[-1]:
        return f"there {'is' if counted[0] in {'1', 'one', 'a'} else 'are'} {answer} {rest}".strip() + "."
    if answer in {"1", "one"}:
        return f"there is {answer} {grammar.singular(noun)} {rest}"
    return f"there are {answer} {noun} {rest}"


def _measure(question: _Question, answer: str) -> str | None:
    core = re.sub(r"^approximately ", "", _core(question))
    match = re.match(r"^how (much|long) (.+)$", core)
    noun, auxiliary, rest = _split_at_auxiliary(match[2]) if match else ("", "", [])
    if noun and rest:
        return f"the amount of {noun} that {auxiliary} {' '.join(rest)} is {answer}"
    if rest and auxiliary in grammar.DO:
        clauses = polar_clauses(f"{auxiliary} {' '.join(rest)}")
        return clauses and f"the {'time' if match[1] == 'long' else 'amount'} that {clauses[0]} is {answer}"
    match = re.match(r"^how (big|large|small|wide|long|tall|thick|high|much) (?:is|are|was) (.+)$", core)
    if not match:
        return None
    quality = {
        "wide": "width",
        "long": "length",
        "tall": "height",
        "high": "height",
        "thick": "thickness",
        "much": "amount",
    }
    return f"the {quality.get(match[1], 'size')} of {match[2]} is {answer}"


def _describe(question: _Question, answer: str) -> str | None:
    core = _core(question)
    match = re.match(
        r"^(?:how (?:would|do|can|could) (?:you|we) (?:describe|call)|(?:please )?(?:describe|identify|name)|"
        r"can you (?:name|identify|describe)) (.+)$",
        core,
    )
    if match:
        return f"{match[1]} {grammar.be_for(match[1])} {_noun(answer)}"
    match = re.match(
        r"^how (is|are|can) (.+?)(?: (?:be )?(described|characterized|categorized|oriented|positioned)\b(.*))?$", core
    )
    if not match:
        return None
    be = "can be" if match[1] == "can" else match[1]
    return f"{match[2]} {be} {match[3]}{match[4]} as {answer}" if match[3] else f"{match[2]} {be} {answer}"


def _how(question: _Question, answer: str) -> str | None:
    core = _core(question)
    match = re.match(r"^how (was|is|were) (.+?) (taken|obtained|acquired|made)$", core)
    if match:
        if answer.split()[0] in grammar.PREPOSITIONS:
            return f"{match[2]} {match[1]} {match[3]} {answer}"
        return f"{match[2]} {match[1]} {match[3]} " + (
            f"in the {answer} plane" if answer in _PLANES else f"using {answer}"
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
    return None


def _why(question: _Question, answer: str) -> str | None:
    match = re.match(r"^why (.+)$", _core(question))
    clauses = match and polar_clauses(re.sub(r"^do you not see", "are there no", match[1]))
    if not clauses:
        return None
    is_clause = re.match(r"^(?:there|it|this|they|because|due|the .+ (?:is|are)\b|.+ is not\b)", answer)
    return f"{clauses[0]} {'because' if is_clause else 'due to'} {answer}"


def _in_question(question: _Question, answer: str) -> str | None:
    """`in which lobe is the nodule located`, `what side is the lesion on`: the answer is the place of the subject."""
    core = _TRAILING_PLACE.sub("", _core(question))
    match = re.match(r"^(in|on|at|from) (?:what|which) ?(.+)$", core)
    if match:
        noun, be, rest = _split_at_auxiliary(match[2])
        preposition = match[1]
        rest = rest[:-1] if rest[-1:] == [preposition] else rest
    else:
        match = re.match(r"^(?:what|which) (.+)$", core)
        noun, be, rest = _split_at_auxiliary(match[1]) if match else ("", "", [])
        if not noun or not rest or be not in grammar.BE or rest[0] not in grammar.DETERMINERS:
            return None
        preposition = _PLACES.get(_head(noun), "")
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
    if not noun or preposition in {"for", "with", "of"}:
        return f"{clause} {preposition} {_specify(noun, answer)[0] if noun and answer in _PLANES else _noun(answer)}"
    phrase, mark = _specify(noun, answer)
    return f"{clause} {'on' if _head(noun) == 'side' else preposition} {phrase}{mark}"


def _head(noun: str) -> str:
    """`side` of "side of the brain"."""
    return re.split(r" (?:of|in) ", noun)[0].split()[-1]


def _split_at_auxiliary(text: str) -> tuple[str, str, list[str]]:
    """("lobe", "is", ["the", "nodule", "located"]) of "lobe is the nodule located"."""
    words = text.split()
    position = next((i for i, word in enumerate(words) if word in grammar.AUXILIARIES), None)
    return ("", "", []) if position is None else (" ".join(words[:position]), words[position], words[position + 1 :])


def _clause_after(auxiliary: str, words: list[str]) -> str:
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


def _subject_question(question: _Question, answer: str) -> str | None:
    """`which kidney is abnormal`, `what organ system is imaged`, `what modality is this`."""
    match = re.match(r"^(?:what|which) (.+)$", _core(question))
    noun, be, rest = _split_at_auxiliary(match[1]) if match else ("", "", [])
    if not noun or noun == "else" or be not in grammar.BE or not rest:
        return None
    head = _head(noun)
    if rest[0] in grammar.DETERMINERS:
        if head in _IDENTITIES:
            return f"{' '.join(rest)} {be} {_noun(answer)}"
        said = next(
            (i for i, w in enumerate(rest) if i and (grammar.is_participle(w) or w in {"taken", "most"})), len(rest)
        )
        thing = " ".join(rest[:said])
        whose = "" if thing in {"this", "these", "that"} or set(thing.split()) & set(noun.split()) else f" of {thing}"
        return f"the {noun}{whose} {grammar.be_for(noun)} {_noun(answer)}"
    said = " ".join(rest)
    if head in _FINDINGS and rest[0] in _SHOWN:
        if question.has_options:
            return f"the {noun} is {grammar.indefinite(_noun(answer)) if _is_bare_singular(answer) else _noun(answer)}"
        return f"there {grammar.be_for(answer)} {_noun(answer, is_new=True)} {' '.join(rest[1:])}"
    bare = re.sub(r"^(?:a|an|the) ", "", answer)
    if all(word in grammar.SIDES for word in bare.split()) and rest[0] not in grammar.PREPOSITIONS:
        return f"the {bare} {noun} {be} {said}"
    linked = said if rest[0] in _SHOWN | {"used", "imaged", "pictured", "displayed", "being"} else f"that {be} {said}"
    return f"the {noun} {linked} {be if be in {'is', 'are'} else 'is'} {_noun(answer)}"


def _is_bare_singular(answer: str) -> bool:
    return _noun(answer) == answer and " " not in answer and answer in grammar.COUNT_NOUNS


def _what_is(question: _Question, answer: str) -> str | None:
    """`what is the location of the mass`, `what is in the left apex`, `which is bigger`."""
    match = re.match(r"^(?:what|which) (is|are|was|were) (.+)$", _core(question))
    if not match:
        return None
    be, rest, words = match[1], match[2], match[2].split()
    wrong = re.match(r"^(?:most )?(abnormal|wrong|alarming|going on) (about|in|with) (.+)$", rest)
    if wrong and " " not in answer and (grammar.is_participle(answer) or answer in grammar.ADJECTIVES):
        return f"{wrong[3]} {be} {answer}"
    if wrong:
        return f"the abnormality {'in' if wrong[2] == 'in' else 'of'} {wrong[3]} is {_noun(answer)}"
    likely = re.match(
        r"^(.+?) (most likely|called|indicative of|consistent with|suggestive of|signifying)(?: to be)?$", rest
    )
    if likely:
        return f"{likely[1]} {be} {likely[2]} {_noun(answer)}"
    if words[0] in grammar.PREPOSITIONS or (words[0] in _SHOWN | {"located"} and len(words) > 1):
        return f"there {grammar.be_for(answer)} {_noun(answer, is_new=True)} {rest}"
    if words[-1] in grammar.PREPOSITIONS - {"above", "below"}:
        border = grammar.subject_length(words)
        return border and f"{' '.join(words[:border])} {be} {' '.join(words[border:])} {answer}"
    if grammar.is_participle(words[0]) or words[0] in grammar.ADVERBS | {"meant"}:
        if words[0] != "more":
            return f"what {be} {rest} is {_noun(answer)}"
    if words[0] in grammar.ADJECTIVES | {"more"} and words[0] not in {"white", "gray", "grey", "black"}:
        return f"{_noun(answer)} {grammar.be_for(answer)} {rest}"
    needs_article = be == "is" and words[0] not in grammar.DETERMINERS and not words[0].endswith("'s")
    return f"{'the ' if needs_article else ''}{rest} {be} {_noun(answer)}"


def _what_does(question: _Question, answer: str) -> str | None:
    """`what does the hyperdensity suggest`, `what color does the lung show`, `what can cause these findings`."""
    match = re.match(r"^(?:what|which)(?: (.+))?$", _core(question))
    noun, auxiliary, rest = _split_at_auxiliary(match[1] or "") if match else ("", "", [])
    if not rest or noun == "else" or auxiliary in grammar.BE:
        return None
    if auxiliary in grammar.HAVE:
        return (
            f"{_head_of(noun)}{auxiliary} {' '.join(rest)} {grammar.be_for(noun)} {_noun(answer)}"
            if noun
            else f"{answer} {auxiliary} {' '.join(rest)}"
        )
    if rest[:2] == ["you", "see"]:
        return (
            f"{_head_of(noun).replace(' that ', ' ')}seen {' '.join(rest[2:])} {grammar.be_for(noun)} {_noun(answer)}"
        )
    if auxiliary in grammar.MODALS and (rest[0] in grammar.BASE_VERBS or rest[0] in {"be", "most", "typically"}):
        if noun or rest[0] == "be":
            return f"{_head_of(noun)}{auxiliary} {' '.join(rest)} {grammar.be_for(noun)} {_noun(answer)}"
        return f"{answer} {auxiliary} {' '.join(rest)}"
    clauses = polar_clauses(f"{auxiliary} {' '.join(rest)}")
    if clauses is None:
        return None
    return f"{_head_of(noun)}{clauses[0]} {grammar.be_for(noun)} {_noun(answer)}" if noun else f"{clauses[0]} {answer}"


def _head_of(noun: str) -> str:
    return f"the {noun} that " if noun else "what "


def _finite(question: _Question, answer: str) -> str | None:
    """`which organ contains the fluid level`, `what caused the lesion`."""
    match = re.match(r"^(?:what|which) (.+)$", _core(question))
    words = match[1].split() if match else []
    finite = (i for i, w in enumerate(words) if w in grammar.FINITE_VERBS or w in grammar.AUXILIARIES)
    position = next(finite, None)
    if position is None or words[position] not in grammar.FINITE_VERBS or len(words) < 2:
        return None
    said = " ".join(words[position:])
    if position == 0:
        return f"{answer} {said}"
    noun = " ".join(words[:position])
    if not grammar.is_plural(noun):
        said = re.sub(r"^(belong|appear)\b", r"\1s", said)
    if all(word in grammar.SIDES for word in answer.split()):
        return f"the {answer} {noun} {said}"
    return f"the {noun} that {said} {grammar.be_for(noun)} {_noun(answer)}"


def _in_place(question: _Question, answer: str) -> str | None:
    """`the mass is located in what region`: the answer takes the place of the question word."""
    if _ASKING.match(question.text) or question.text.split()[0] in grammar.AUXILIARIES:
        return None
    match = re.match(r"^(.+?) (?:(what|which)(?: (.+))?|(where)(?: .+)?)$", question.text)
    if not match:
        return None
    said = match[1].split()
    if " else " in question.text or not any(
        w in grammar.AUXILIARIES or grammar.is_verb_form(w) or w in grammar.BASE_VERBS for w in said
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
    phrase, mark = _specify(noun, answer) if noun else (answer, "")
    is_place = said[-1] in {"in", "on", "at"}
    if not is_place and not mark and not all(word in _MODIFIERS for word in answer.split()):
        phrase, rest = _noun(answer), re.sub(r"^of .*", "", rest)
    return f"{match[1]} {phrase} {rest}".strip() + mark


def _named(question: _Question, answer: str) -> str | None:
    """`pathology seen in this image`: a noun phrase without a verb."""
    words = question.words
    if not words or _ASKING.match(question.text) or words[0] in grammar.AUXILIARIES:
        return None
    if any(word in grammar.AUXILIARIES | grammar.FINITE_VERBS | {"what", "which", "where"} for word in words):
        return None
    subject = question.text if words[0] in grammar.DETERMINERS else f"the {question.text}"
    return f"{subject} is {_noun(answer)}"


# Tried in this order; the first that returns a statement wins.
RULES: tuple[tuple[str, _Rule], ...] = (
    ("polar", _polar),
    ("alternative", _alternative),
    ("state", _state),
    ("where", _where),
    ("count", _count),
    ("measure", _measure),
    ("how", _how),
    ("describe", _describe),
    ("why", _why),
    ("in_question", _in_question),
    ("what_is", _what_is),
    ("finite", _finite),
    ("subject_question", _subject_question),
    ("what_does", _what_does),
    ("in_place", _in_place),
    ("named", _named),
)
