"""Words about phantoms: questions with balanced answers, the completions a teacher would write, and true statements.

Answers are balanced inside each template (yes and no, left and right, the letters, the organs are equally frequent), so
that no policy gains from knowing the template alone: whoever answers well has looked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.random import Generator

from reflex_jax.data.phantom_world import KINDS, LEVELS, MODALITIES, ORGANS, SIDES, Facts, Finding

CLOSED_TEMPLATES = ("presence", "side", "level", "modality_check", "choice")
OPEN_TEMPLATES = ("what", "where", "organ", "modality")
# Lesions a picture must hold so that the template has exactly one right answer; None: any number.
LESION_COUNTS: dict[str, tuple[int, ...] | None] = {
    "presence": None,
    "side": (1, 2),
    "level": (1, 2),
    "modality_check": None,
    "choice": (1,),
    "what": (0, 1),
    "where": (1, 2),
    "organ": None,
    "modality": None,
}
SCANS = {"ct": "a ct scan", "mri": "an mri scan", "x-ray": "an x-ray"}
LETTERS = "ABCD"

# Habits of the imperfect teacher: what it takes for what, and the side it prefers.
_KIND_HABIT = {"nodule": "cyst", "calcification": "abscess"}
_SIDE_HABIT = {"right": "left"}


@dataclass(frozen=True)
class Question:
    """A question about one picture with its only right answer."""

    template: str
    text: str
    answer: str
    subject: str | None = None  # lesion kind or modality that the question names
    options: tuple[str, ...] | None = None  # texts behind the letters A-D

    @property
    def answer_type(self) -> str:
        """Closed (exact match) or open (overlap of words)."""
        return "closed" if self.template in CLOSED_TEMPLATES else "open"


def with_article(kind: str) -> str:
    """A kind of lesion with "a" or "an"."""
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def ask(facts: Facts, template: str, random: Generator, *, is_affirmative: bool = True) -> Question:
    """Asks one question about a picture.

    Args:
      facts: of the picture; must hold a number of lesions that `LESION_COUNTS` allows.
      template: one of `CLOSED_TEMPLATES` or `OPEN_TEMPLATES`.
      random: chooses the lesion asked about and the order of options.
      is_affirmative: the answer wanted from yes/no templates; the caller alternates it.
    Raises:
      ValueError: the picture cannot be asked this.
    """
    allowed = LESION_COUNTS[template]
    if allowed is not None and len(facts.findings) not in allowed:
        raise ValueError(f"{template}: expected a picture with {allowed} lesions; got {len(facts.findings)}.")
    if template == "presence":
        present = [finding.kind for finding in facts.findings]
        candidates = present if is_affirmative else [kind for kind in KINDS if kind not in present]
        if not candidates:
            raise ValueError("presence: expected a lesion to affirm; the picture has none.")
        subject = str(random.choice(candidates))
    elif template in ("side", "level", "where"):
        subject = facts.findings[random.integers(len(facts.findings))].kind
    elif template == "modality_check":
        others = [modality for modality in MODALITIES if modality != facts.modality]
        subject = facts.modality if is_affirmative else str(random.choice(others))
    else:
        subject = None
    options = tuple(str(kind) for kind in random.permutation(KINDS)) if template == "choice" else None
    question = Question(template, _question_text(template, subject, options), "", subject, options)
    return replace(question, answer=answer_from(facts, question, random))


def phantom_questions(facts: Facts, random: Generator) -> list[Question]:
    """Every template that can be asked of this picture, once; yes/no ones both ways where possible."""
    questions = []
    for template in CLOSED_TEMPLATES + OPEN_TEMPLATES:
        allowed = LESION_COUNTS[template]
        if allowed is not None and len(facts.findings) not in allowed:
            continue
        if template == "modality_check" or (template == "presence" and facts.findings):
            questions.append(ask(facts, template, random, is_affirmative=True))
        questions.append(ask(facts, template, random, is_affirmative=False))
    return questions


def _question_text(template: str, subject: str | None, options: tuple[str, ...] | None) -> str:
    subject, options = subject or "", options or ()
    if template == "choice":
        listed = " ".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
        return f"Which abnormality is seen? {listed}"
    return {
        "presence": lambda: f"Is there {with_article(subject)}?",
        "side": lambda: f"Is the {subject} on the left or the right side?",
        "level": lambda: f"Is the {subject} in the upper or the lower part?",
        "modality_check": lambda: f"Is this {SCANS[subject]}?",
        "what": lambda: "What abnormality is seen?",
        "where": lambda: f"Where is the {subject}?",
        "organ": lambda: "Which organ is shown?",
        "modality": lambda: "Which modality is this?",
    }[template]()


def answer_from(facts: Facts, question: Question, random: Generator) -> str:
    """Answers a question from facts, true or misperceived; guesses where the facts do not say."""
    named = facts.find(question.subject) if question.subject in KINDS else None
    seen = named or (facts.findings[0] if facts.findings else None)
    if question.template == "presence":
        return "yes" if named else "no"
    if question.template == "modality_check":
        return "yes" if facts.modality == question.subject else "no"
    if question.template == "organ":
        return f"the {facts.organ}"
    if question.template == "modality":
        return facts.modality
    if question.template == "what":
        return f"{with_article(seen.kind)} in the {seen.region} region" if seen else "no abnormality"
    if seen is None:
        seen = _guess(random)
    if question.template == "choice":
        return LETTERS[(question.options or ()).index(seen.kind)]
    return {"side": seen.side, "level": seen.level, "where": f"in the {seen.region} region"}[question.template]


def _guess(random: Generator) -> Finding:
    return Finding(KINDS[random.integers(len(KINDS))], SIDES[random.integers(2)], LEVELS[random.integers(2)])


def misperceive(facts: Facts, random: Generator, *, noise: float) -> Facts:
    """What an imperfect observer sees.

    It has habits: with probability `noise` a nodule is taken for a cyst, a calcification for an abscess, and the
    right side for the left; beyond noise 0.5 its most likely answer is wrong there, so sharpening alone does not repair
    it. It also slips at random: the level in noise/3 of cases, modality and organ in noise/4, and noise/6 of lesions
    are missed.
    """

    def slip(share: float) -> bool:
        return random.random() < noise * share

    findings = []
    for finding in facts.findings:
        kind, side, level = finding.kind, finding.side, finding.level
        taken_for = _KIND_HABIT.get(kind, kind)
        if slip(1.0) and facts.find(taken_for) is None:
            kind = taken_for
        if slip(1.0):
            side = _SIDE_HABIT.get(side, side)
        if slip(1 / 3):
            level = LEVELS[1 - LEVELS.index(level)]
        if not slip(1 / 6):
            findings.append(Finding(kind, side, level))
    modality = MODALITIES[random.integers(len(MODALITIES))] if slip(1 / 4) else facts.modality
    organ = ORGANS[random.integers(len(ORGANS))] if slip(1 / 4) else facts.organ
    return Facts(modality, organ, tuple(findings))


def describe(facts: Facts) -> str:
    """The thought of the teacher: scan, organ and findings, these in reading order."""
    scan = SCANS[facts.modality].split(" ", 1)[1]
    in_order = sorted(facts.findings, key=lambda finding: (finding.level == "lower", finding.side == "right"))
    seen = " and ".join(f"{with_article(f.kind)} in the {f.region} region" for f in in_order)
    return f"{scan} of the {facts.organ}. i see {seen or 'no abnormality'}."


def teacher_completion(facts: Facts, question: Question, random: Generator, *, noise: float = 0.0) -> str:
    """A completion that answers consistently with what the teacher perceived; noise 0 is the truth.

    With probability noise/16 one of the four tags is missing.
    """
    perceived = misperceive(facts, random, noise=noise)
    answer = answer_from(perceived, question, random)
    completion = f"<think> {describe(perceived)} </think> <answer> {answer} </answer>"
    if random.random() < noise / 16:
        tags = ("<think>", "</think>", "<answer>", "</answer>")
        completion = completion.replace(tags[random.integers(4)], "", 1)
    return completion


@dataclass(frozen=True)
class Claim:
    """One thing that can be true of a picture, in several wordings; the first is the plainest."""

    wordings: tuple[str, ...]
    is_true: Callable[[Facts], bool]


def all_claims() -> list[Claim]:
    """Everything that can be said about a phantom: 50 claims, each with an exact truth function of the facts."""
    claims = [
        Claim(
            ("there is no abnormality", "no abnormality is seen", "the abnormality is no abnormality"),
            lambda facts: not facts.findings,
        )
    ]
    for kind in KINDS:
        claims += _claims_about(kind)
    for modality in MODALITIES:
        scan = SCANS[modality]
        claims.append(
            Claim(
                (f"this is {scan}", f"the modality is {modality}", f"the image is {scan}"),
                partial(_has_modality, modality=modality),
            )
        )
        claims.append(
            Claim(
                (f"this is not {scan}", f"the modality is not {modality}", f"the image is not {scan}"),
                partial(_lacks_modality, modality=modality),
            )
        )
    for organ in ORGANS:
        wordings = (f"the organ shown is the {organ}", f"the image shows the {organ}", f"the organ is the {organ}")
        claims.append(Claim(wordings, partial(_has_organ, organ=organ)))
    return claims


def _has_modality(facts: Facts, modality: str) -> bool:
    return facts.modality == modality


def _lacks_modality(facts: Facts, modality: str) -> bool:
    return facts.modality != modality


def _has_organ(facts: Facts, organ: str) -> bool:
    return facts.organ == organ


def _is_seen(facts: Facts, kind: str, side: str | None = None, level: str | None = None) -> bool:
    seen = facts.find(kind)
    return seen is not None and side in (None, seen.side) and level in (None, seen.level)


def _claims_about(kind: str) -> list[Claim]:
    """Presence, absence, side, level and region of one kind of lesion."""
    lesion = with_article(kind)
    claims = [
        Claim(
            (f"there is {lesion}", f"the abnormality is {lesion}", f"{lesion} is seen", f"the image shows {lesion}"),
            lambda facts: facts.find(kind) is not None,
        ),
        Claim(
            (f"there is no {kind}", f"no {kind} is seen", f"there is not {lesion}"),
            lambda facts: facts.find(kind) is None,
        ),
    ]
    for side in SIDES:
        wordings = (
            f"the {kind} is on the {side} side",
            f"there is {lesion} on the {side} side",
            f"the {kind} is {side}",
        )
        claims.append(Claim(wordings, partial(_is_seen, kind=kind, side=side)))
    for level in LEVELS:
        claims.append(
            Claim(
                (f"the {kind} is in the {level} part", f"there is {lesion} in the {level} part"),
                partial(_is_seen, kind=kind, level=level),
            )
        )
    for side in SIDES:
        for level in LEVELS:
            place = f"in the {level} {side} region"
            claims.append(
                Claim(
                    (f"there is {lesion} {place}", f"the {kind} is {place}", f"{lesion} {place} is seen"),
                    partial(_is_seen, kind=kind, side=side, level=level),
                )
            )
    return claims


def truth_matrix(claims: list[Claim], pictures: list[Facts]) -> np.ndarray:
    """Bool[pictures, claims]: which claim holds for which picture."""
    return np.array([[claim.is_true(facts) for claim in claims] for facts in pictures])
