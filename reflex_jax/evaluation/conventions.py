"""HOST: how published scorers count, as named alternatives beside this package's own metrics.

Each rule is what its scorer means to compute; where published code does something else by mistake (a draw for what it cannot
read, columns exchanged, "normal" taken for a no, wrong answers left out of the mean), that is not done here: an answer that
cannot be read is wrong and counted. A convention has its own idea of what is closed, so its numbers carry its name.

They are given the answer of a completion, and where it has none what stands behind its thought.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from reflex_jax.evaluation.llava_med import counted_precision_recall
from reflex_jax.evaluation.metrics import Asked
from reflex_jax.evaluation.mmmu import is_right_open, parse_choice
from reflex_jax.text.answers import resolve_answer
from reflex_jax.text.normalise import LETTERS

_WORD = re.compile(r"[a-z']+")
_NEGATIVE = frozenset(("no", "not"))
_TRIGGERS = ("the answer is", " answer is ")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_DOTTED = re.compile(r"(?<![A-Za-z])([A-J])[.):](?=\s|$)")


@dataclass(frozen=True)
class Convention:
    """One published way to count."""

    definition: str
    score: Callable[[Asked, str], dict[str, float]]  # (question, what was said) -> "kind/metric", {}: not of its kind


def _llava_med(asked: Asked, said: str) -> dict[str, float]:
    if asked.answer_type == "closed":
        text = said.lower()
        is_right = ("yes" in text or "no" in text) and any(truth.lower() in text for truth in asked.truths)
        return {"closed/accuracy": float(is_right)}
    return _best_overlap(asked, said)


def _quilt_llava(asked: Asked, said: str) -> dict[str, float]:
    if asked.answer_type != "closed":
        return _best_overlap(asked, said)
    gold = _WORD.findall(asked.truth.lower())[:1]
    if gold not in (["yes"], ["no"]):
        return {}
    is_no = not _NEGATIVE.isdisjoint(_WORD.findall(said.lower()))
    return {"closed/accuracy": float(bool(said.strip()) and is_no == (gold == ["no"]))}


def _medevalkit(asked: Asked, said: str) -> dict[str, float]:
    boxed = _BOXED.findall(said)
    said = boxed[-1] if boxed else said
    if asked.kind == "yes_no":
        spoken = {word for word in _WORD.findall(said.lower()) if word in ("yes", "no")}
        return {"yes_no/accuracy": float(spoken == {asked.truth.strip().strip(".").lower()})}
    if asked.read.options:
        return {"choice/accuracy": float(_choice(said, asked) == _gold(asked) is not None)}
    if asked.answer_type == "closed":
        return {"closed/accuracy": float(any(_bare(said) == _bare(truth) for truth in asked.truths))}
    scores = [_set_overlaps(said, truth) for truth in asked.truths]
    return {name: max(score[name] for score in scores) for name in scores[0]}


def _mmmu(asked: Asked, said: str) -> dict[str, float]:
    if asked.read.options:
        return {"choice/accuracy": float(parse_choice(said, asked.read.options) == _gold(asked) is not None)}
    return {"open/accuracy": float(is_right_open(said, asked.truths))} if said.strip() else {"open/accuracy": 0.0}


def _medxpertqa(asked: Asked, said: str) -> dict[str, float]:
    if not asked.read.options:
        return {}
    for trigger in _TRIGGERS:
        before, found, behind = said.rpartition(trigger)
        if found:
            said = behind
            break
    letter = re.search(rf"\b([A-{LETTERS[len(asked.read.options) - 1]}])\b", said)
    index = LETTERS.index(letter[1]) if letter else None
    return {"choice/accuracy": float(index is not None and index == _gold(asked))}


CONVENTIONS: dict[str, Convention] = {
    "llava_med": Convention(
        "closed: answer_type; the answer has yes or no in it, and the truth. Open: precision, recall and F1 of counted words "
        "after LLaVA-Med's normalisation",
        _llava_med,
    ),
    "quilt_llava": Convention(
        "closed: answer_type and a truth that begins with yes or no; an answer with the word no or not is a no, any other a yes. "
        "Open: as llava_med",
        _quilt_llava,
    ),
    "medevalkit": Convention(
        "yes_no: of these two words the answer has the true one alone. choice: a letter, of a boxed answer first. closed: equal "
        "but for case and full stops. Open: equality, BLEU, and precision, recall and F1 of sets of words as they stand",
        _medevalkit,
    ),
    "mmmu": Convention(
        "choice: (A), else A, else in more than five words the text, the last one; what cannot be read is wrong. open: an equal "
        "number of two decimals, or the truth within what a sentence concludes",
        _mmmu,
    ),
    "medxpertqa": Convention(
        "choice: the first upper-case letter of an option as a word, behind 'the answer is' where that stands",
        _medxpertqa,
    ),
}


def _gold(asked: Asked) -> int | None:
    """Which option is right."""
    return resolve_answer(asked.truth, asked.read).option


def _choice(said: str, asked: Asked) -> int | None:
    """A letter with its marks, then as MMMU finds one."""
    options = asked.read.options
    dotted = [LETTERS.index(letter) for letter in _DOTTED.findall(said) if LETTERS.index(letter) < len(options)]
    return dotted[0] if dotted else parse_choice(said, options)


def _bare(text: str) -> str:
    return " ".join(text.lower().replace(".", "").split())


def _best_overlap(asked: Asked, said: str) -> dict[str, float]:
    shares = [counted_precision_recall(said, truth) for truth in asked.truths]
    precision, recall = max(shares, key=lambda pair: pair[1])
    total = precision + recall
    f1 = 2 * precision * recall / total if total else 0.0
    return {"open/precision": precision, "open/recall": recall, "open/f1": f1}


def _set_overlaps(said: str, truth: str) -> dict[str, float]:
    """Of words as they stand, without any normalisation but case; each column is what its name says."""
    words, others = said.lower().split(), truth.lower().split()
    shared = len(set(words) & set(others))
    precision, recall = (shared / len(set(part)) if part else 0.0 for part in (words, others))
    f1 = 2 * precision * recall / (precision + recall) if shared else 0.0
    return {
        "open/exact_match": float(_bare(said) == _bare(truth)),
        "open/precision": precision,
        "open/recall": recall,
        "open/f1": f1,
        **{f"open/bleu{order}": _bleu(words, others, order) for order in (1, 2, 3, 4)},
    }


def _bleu(words: list[str], others: list[str], order: int) -> float:
    """BLEU of one sentence with equal weights for 1- to `order`-grams, without smoothing: 0 for a shorter text."""
    total = 0.0
    for size in range(1, order + 1):
        said, true = (Counter(zip(*(part[i:] for i in range(size)), strict=False)) for part in (words, others))
        matched = (said & true).total()
        if not matched:
            return 0.0
        total += math.log(matched / said.total()) / order
    return math.exp(total + min(0.0, 1 - len(others) / len(words)))
