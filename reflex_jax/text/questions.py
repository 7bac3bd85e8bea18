"""HOST: what of a question asks: without the instructions, labels, image marks, options and context around it.

Questions of data sets come with more than the question: "<image> Question: A 60-year-old man coughs. What is the diagnosis?
(A) cyst (B) nodule. Answer with the letter." The sentence that asks is the last one that does; the rest is context.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from reflex_jax.text.normalise import clean_text
from reflex_jax.text.option_lists import find_options, join_lines

LONGEST_QUESTION = 16384  # characters that are read, from the end: there stands what asks
_READ_SENTENCES = 32  # sentences that may ask, from the end

ASKING_WORDS = "what|which|where|when|who|whom|whose|why|how"
AUXILIARY_WORDS = (
    "is|are|was|were|am|do|does|did|has|have|had|can|could|will|would|shall|should|may|might|must|"
    "(?:is|are|was|were|do|does|did|has|have|had|ca|could|wo|would|should|must)n[' ]?t"
)
_PREPOSITIONS = "in|on|at|from|to|by|with|for|of|within|under|during|through|along|into|over|behind|between|near"
BLANK = r"_{2,}|\[\s?blank\s?\]|<\s?blank\s?>|\(\s*blank\s*\)|\u2026|\.{4,}|\[\s*\]|\(\s{2,}\)|\[mask\]"

_IMAGE = r"(?:image|images|picture|pictures|photo|photograph|figure|figures|scan|scans|x-?ray|radiograph|ct|mri|mr|slide|film|" \
    r"ultrasound|study|micrograph|specimen|section|slice|view|ecg|ekg|above|below|information|findings)"  # fmt: skip
_IMAGE_MARK = re.compile(
    r"<\|?\s?/?\s?(?:image|img|vision|video|picture|figure|pad|imagehere)[^<>\n]{0,24}>|\[\s?(?:image|img)[ _-]?\d{0,3}\s?\]",
    re.IGNORECASE,
)
_IMAGE_MARK_INSIDE = re.compile(
    rf"\b(in|of|from|on|to|with|by|does|is|and|see) (?:{_IMAGE_MARK.pattern})", re.IGNORECASE
)
_LABEL = re.compile(
    r"^(?:(?:#+\s*)?(?:question|query|prompt|task|instruction|user|human|context|case|clinical (?:history|information|data)|"
    r"history|patient|vignette|scenario|q)\s*(?:no\.?\s*)?\d{0,4}\s*[:.)\-\u2013])\s*(?=\S)",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"^\d{1,3}[.)]\s+(?=[A-Za-z])")
_ANSWER_LABEL = re.compile(
    r"\s*\b(?:the answer is|answer|a|response|assistant|solution|options?|choices)\s?:\s*$", re.IGNORECASE
)
_YES_NO = (
    r"(?:['\"(]{0,2}\b(?:yes|true|y|t)\b['\")]{0,2}\s?(?:,|or|/|and|\bvs\.?)\s?(?:or )?"
    r"['\"(]{0,2}\b(?:no|false|n|f)\b['\")]{0,2})"
)
_YES_NO_TAIL = re.compile(
    rf"[\s,;:\u2013-]{{0,4}}(?:\(\s?{_YES_NO}\s?\)|(?<=[,\s:(-]){_YES_NO})\s*(?=[?.!]*$)", re.IGNORECASE
)
_YES_NO_HEAD = re.compile(rf"^[(\[]?{_YES_NO}[)\]]?\s?[:,.?\u2013-]+\s*(?=\S)", re.IGNORECASE)
_POLITE = r"(?:(?:please|kindly|now|then|you (?:must|should|are to|have to)|only|briefly|just|carefully|be sure to) )*"
# Sentences that say how to answer, and ask nothing.
_FORMAT = re.compile(
    rf"^{_POLITE}(?:"
    r"(?:answer|respond|reply)\b(?! to what)|"
    rf"{_YES_NO}\W*$|(?:correct|right|agree) or (?:incorrect|wrong|disagree|not)\W*$|"
    r"(?:state|decide|determine|indicate|say|judge|tell) (?:whether|if) (?:the following|this|it|the statement)"
    r"(?: statement| sentence)?(?: is)?(?: true| correct| right)?(?: or (?:false|incorrect|wrong|not))?\W*$|"
    r"is (?:this|that|it|the (?:above |following )?(?:statement|claim|sentence))(?: statement| claim)?"
    r"(?: (?:true|correct|right|false))?"
    r"(?: or (?:false|incorrect|wrong|true|not))?\W*$|"
    r"(?:choose|select|pick|mark|indicate|provide|give|write|output|return|state)\b.{0,40}\b(?:answers?|options?|choices?|"
    r"letters?|response|reasoning|explanation|yes|sentence)\b(?! to the question).*$|"
    r"(?:choose|select|pick) (?:one|from|among|all|the (?:best|correct|right) one)\b|"
    r"(?:fill in|complete)\b.{0,40}$|(?:explain|justify|elaborate|explanation)\b.{0,40}$|"
    r"(?:think|reason|let's think|use|keep|limit|do not|don't|note|hint|remember|your (?:answer|task|response))\b|"
    rf"(?:look (?:closely |carefully )?at|examine|inspect|review|study|observe|view|consider|analy[sz]e|refer to|see|read|use)\b"
    rf".{{0,40}}\b(?:{_IMAGE}|question)(?: carefully| closely| below| above| provided| shown)*\W*$|"
    r"(?:you are (?:a|an|given|provided|shown)|here is|here are|below is|i am|as an?)\b.{0,80}$"
    r")",
    re.IGNORECASE,
)
# The same in front of a question: "Answer with yes or no: is it", "Look at the image and tell me", "Based on the CT, what".
_FORMAT_HEAD = re.compile(
    rf"^{_POLITE}(?:"
    rf"(?:answer|respond|reply)\b[^:?\n]{{0,100}}(?:[:,]| [-\u2013])\s+(?:and |then )?(?=\S)|"
    rf"(?:answer|respond|reply) (?:with |in )?{_YES_NO}\s?(?:whether|if|to)?\s+(?=(?:{AUXILIARY_WORDS}|{ASKING_WORDS})\b)|"
    r"(?:state|decide|determine|indicate|say|judge) (?:whether|if) (?:the following|this|the statement)"
    r"(?: statement| sentence)? is "
    r"(?:true|correct|right)(?: or (?:false|incorrect|wrong|not))?\s*[:.,-]\s*(?=\S)|"
    rf"(?:with|using|by)(?: only| just)?(?: saying)?(?: a)? {_YES_NO},?\s+(?:only,?\s+)?(?:answer )?(?=\S)|"
    rf"(?:fill in|complete)\b[^:.]{{0,40}}:\s+|in (?:one|a single|a few|two|three) "
    rf"(?:word|sentence|phrase|words)s?(?: or (?:phrase|less|fewer))?,?\s+|"
    rf"(?:looking|look|examine|inspect|review|study|observe|view|consider|analy[sz]e|read|see|take a look|have a look)"
    rf"(?: closely| carefully)?(?: at)? (?:the |this |these |that |both |given |provided )*(?:[\w/-]+ ){{0,3}}{_IMAGE}s?"
    rf"(?: (?:carefully|closely|below|above|provided|shown|given))*\s?(?:,? ?and(?: then)? |,? then |, |: |; |to )"
    rf"(?:answer (?:the |this )?(?:following )?question\s?[:,.]?\s*)?|"
    rf"(?:based (?:up)?on|according to|given|from|using|use|judging (?:by|from)|considering|by (?:looking at|examining)|"
    rf"with (?:reference|respect|regard) to|referring to|in view of|"
    rf"in light of|with the (?:help|aid) of|by means of|on the basis of|as (?:seen|shown|depicted) (?:in|on)|in|on|"
    rf"after (?:reviewing|examining|viewing))"
    rf" (?:the |this |these |that |an? |all |only |given |provided |attached |following |accompanying |above |shown )*"
    rf"(?:[\w/-]+ ){{0,2}}{_IMAGE}s?"
    rf"(?: (?:of|in|on|from) (?:the |this )?[\w-]+(?: [\w-]+)?)?"
    rf"(?: (?:above|below|provided|shown|given|alone|here|attached|presented))*"
    rf"(?:,? (?:please )?answer[^:?,]{{0,40}}[:,])?\s?[,:]\s+"
    r")",
    re.IGNORECASE,
)
_LEAD_IN = re.compile(
    r"^(?:as an? [\w -]{3,50}|so|and|now|then|also|well|ok|okay|hello|hi|hey|please|kindly)\s?,?\s+(?=[a-z])",
    re.IGNORECASE,
)
_ASKS = re.compile(
    rf"^(?:(?:and|or|so|if so|if yes|if present|if any),? )?(?:{ASKING_WORDS}|{AUXILIARY_WORDS})\b|"
    rf"^(?:{_PREPOSITIONS}) (?:what|which|whom|whose|where|how)\b|{BLANK}|"
    rf",\s(?:the |an? )?(?:{ASKING_WORDS}) |"
    r"\bexcept(?: for)?(?: one)?\W*$|\b(?:except|excluding|is|are|was|were|to|the|an?|of|by|as|in|with)\s?:?\W*$|\?\W*$|:$",
    re.IGNORECASE,
)
_REQUESTS = re.compile(
    rf"^{_POLITE}(?:identify|name|describe|state|give|tell|determine|decide|assess|check|find|specify|list|report|classify|"
    r"diagnose|estimate|count|locate|choose|select|pick|indicate|provide|say|grade|measure|judge|see|evaluate|point out|"
    r"label|recogni[sz]e|mention|confirm|detect|predict|show|verify)\b",
    re.IGNORECASE,
)
_FOLLOW_UP = re.compile(
    rf"^(?:and |or |if (?:so|yes|not|present|any|there is)\b.{{0,10}})|^(?:(?:on |in |at )?(?:{ASKING_WORDS})(?: \w+)?\W*$)|"
    r"^\w+\W*$",
    re.IGNORECASE,
)
_ALTERNATIVES = re.compile(rf"^(?!(?:{AUXILIARY_WORDS}|{ASKING_WORDS})\b)(?:\S+ ){{1,12}}or [^?]+\?$", re.IGNORECASE)
_END = re.compile(r"\n+|(?<=[?!])[\"')\]]*\s+|(?<=\.)[\"')\]]*\s+(?=\S)")
_ABBREVIATION = re.compile(
    r"(?:\b(?:dr|mr|mrs|ms|prof|vs|figs?|e\.?g|i\.?e|etc|approx|cf|resp|yrs?|y\.o|wks?|pts?|st|spp?|var|nos?|vol|inc|jr|sr|"
    r"dept|est|max|min|avg|incl|a\.k\.a)|\b[a-z])\.$",
    re.IGNORECASE,
)
_SURELY_NEW = re.compile(
    rf"(?:{ASKING_WORDS}|{AUXILIARY_WORDS}|the|this|these|there|it|he|she|answer|please|choose|select|based|given)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ReadQuestion:
    """A question taken apart; all parts as they were written."""

    asked: str  # the sentence that asks, without instructions, image marks, labels, options and context
    context: str  # the other sentences, "" where there are none
    options: tuple[str, ...]  # texts behind A, B, ...: the given ones, else those of a list in the question; () if none
    labels: tuple[str, ...] = ()  # marks of the list in the question as written: "A", "1"; () if there is no such list


@functools.lru_cache(maxsize=4096)  # all answers to a question ask for it
def read_question(question: str, options: tuple[str, ...] | None = None) -> ReadQuestion:
    """Takes a question apart.

    Args:
      question: any text. Of a very long one the last `LONGEST_QUESTION` characters are read.
      options: texts behind the letters A, B, ...; None or empty: those of a list at the end of the question, if any.
    Returns:
      `asked` is empty only for a question without visible characters other than marks and labels. A "true or false?"
      is dropped like an instruction and leaves the sentence it is about.
    """
    lines = [clean_text(line) for line in question[-LONGEST_QUESTION:].splitlines()]
    text = _IMAGE_MARK_INSIDE.sub(r"\1 the image", join_lines(lines))
    text = _IMAGE_MARK.sub(" ", text).replace("**", "")
    text = join_lines(" ".join(_strip_label(line).split()) for line in text.split("\n"))
    text = _ANSWER_LABEL.sub("", text)
    listed = find_options(text)
    body = text if listed is None else listed.rest
    asked, context = _split_context(_NUMBER.sub("", _ANSWER_LABEL.sub("", body)))
    given = tuple(options or ()) or (listed.options if listed else ())
    return ReadQuestion(asked, context, given, listed.labels if listed else ())


def _strip_label(line: str) -> str:
    for _ in range(3):
        stripped = _LABEL.sub("", line.strip(), count=1)
        if stripped == line:
            break
        line = stripped
    return line


def _sentences(text: str) -> list[str]:
    sentences, start = [], 0
    for end in _END.finditer(text):
        before = text[start : end.start()].strip()
        is_new_line = "\n" in end[0]
        if not is_new_line and before.count("(") > before.count(")"):
            continue
        if not is_new_line and _ABBREVIATION.search(before[-12:]):
            is_letter = re.search(r"(?:^|[\s(])[A-Za-z]\.$", before[-12:])
            if not (is_letter and _SURELY_NEW.match(text, end.end())):
                continue
        sentences.append(before)
        start = end.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _split_context(text: str) -> tuple[str, str]:
    """The sentence that asks, bared, and all others but instructions."""
    found = _sentences(text)
    before, sentences = found[:-_READ_SENTENCES], [_strip_label(sentence) for sentence in found[-_READ_SENTENCES:]]
    kinds = [_kind(sentence) for sentence in sentences]
    for wanted in ("asks", "requests", "says"):
        position = max((i for i, kind in enumerate(kinds) if kind == wanted), default=None)
        if position is not None:
            break
    else:
        return (_bare(sentences[-1]) if sentences else ""), ""
    while position and _FOLLOW_UP.match(sentences[position]) and kinds[position - 1] == wanted == "asks":
        position -= 1  # "Is there a mass? If so, where?" is answered as the first of the two
    if position and kinds[position - 1] == wanted == "asks" and _ALTERNATIVES.match(sentences[position]):
        position -= 1  # "Which is more likely? Cancer or hemorrhage?" is one question
        sentences[position : position + 2] = [f"{sentences[position]} {sentences[position + 1]}"]
        del kinds[position + 1]
    context = [s for i, s in enumerate(sentences) if i != position and kinds[i] != "instructs"]
    return _bare(sentences[position]), " ".join(before + context)


def _kind(sentence: str) -> str:
    bare = _bare(sentence)
    if _FORMAT.match(bare) and not re.search(BLANK, bare):
        return "instructs"
    if bare[0] == "(" and bare[-1] == ")":
        return "says"  # an afterthought
    if _ASKS.search(bare):
        return "asks"
    return "requests" if _REQUESTS.match(bare) else "says"


def _bare(sentence: str) -> str:
    """A sentence without the instructions before and behind what it asks."""
    for pattern in (_YES_NO_HEAD, _LEAD_IN, _FORMAT_HEAD, _LEAD_IN, _YES_NO_HEAD, _FORMAT_HEAD):
        sentence = _drop(pattern, sentence)
    return _drop(_YES_NO_TAIL, sentence)


def _drop(pattern: re.Pattern[str], sentence: str) -> str:
    shorter = pattern.sub("", sentence, count=1).strip()
    return shorter if re.search(r"\w", shorter) else sentence
