"""HOST: the answer reward R_ans (paper Eq. 9): exact match for closed questions, overlap of words for open ones.

The paper names "exact match" and "BLEU/ROUGE/BERTScore" without weights or normalisation. Here an exact match compares what
answers mean (`text.answers`): letters, texts, yes and no, numbers and spellings resolve to one key. The open reward is 1 for
the same key, else the weighted mean of BLEU-1 with brevity penalty and the ROUGE-1 F-measure, and 0 where answer and truth
disagree in a contrast (left and right, with and without, 2 and 3 cm), which an overlap of words hardly sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from reflex_jax.rewards.answer_measures import bleu1, rouge1
from reflex_jax.rewards.answered import Answered
from reflex_jax.text.answers import resolve_answer
from reflex_jax.text.contrasts import disagree
from reflex_jax.text.normalise import LONGEST_ANSWER, has_visible_character
from reflex_jax.text.polarity import AUXILIARIES
from reflex_jax.text.questions import ReadQuestion, read_question
from reflex_jax.text.words import words_of

OPEN_ANSWER_PARTS = {"bleu1": 0.5, "rouge1": 0.5}
OPEN_ANSWER_MEASURES: dict[str, Callable[[str, str], float]] = {"bleu1": bleu1, "rouge1": rouge1}


def answer_score(
    answered: Answered,
    *,
    parts: dict[str, float] = OPEN_ANSWER_PARTS,
    contrasts: bool = True,
) -> float:
    """The component `answer`.

    Args:
      answered: one answer; the best of what its truth and its accepted answers pay counts.
      parts: weights of the measures of an open answer.
      contrasts: an open answer that disagrees with the truth in a contrast is paid nothing.
    """
    return answer_reward(
        answered.answer, answered.truth, answer_type=answered.answer_type, options=answered.options, parts=parts,
        question=answered.question, accepted=answered.accepted, contrasts=contrasts,
    )  # fmt: skip


def answer_reward(
    answer: str | None,
    truth: str,
    *,
    answer_type: str,
    options: Sequence[str] | None,
    parts: Mapping[str, float],
    question: str = "",
    accepted: Sequence[str] = (),
    contrasts: bool = True,
) -> float:
    """Scores one answer in [0, 1].

    Args:
      answer: content of the answer block; None or blank scores 0.
      truth: the dataset's answer, not blank.
      answer_type: closed (exact match) or open (overlap of words).
      options: texts behind the letters A, B, ... of a multiple-choice question; without them those in the question count.
      parts: weights of the measures of the open reward.
      question: what is answered; empty: nothing is known of it.
      accepted: other answers that are right as well; the best counts.
      contrasts: see `open_answer_reward`.
    Raises:
      ValueError: unknown answer type, blank truth, or weights that cannot be used.
    """
    truths = (truth, *accepted)
    if answer_type == "closed":
        return max(closed_answer_reward(answer, right, options, question=question) for right in truths)
    if answer_type == "open":
        read = read_asked(question, options)
        return max(_open_reward(answer, right, read, parts=parts, contrasts=contrasts) for right in truths)
    raise ValueError(f"answer_type: expected closed or open; got {answer_type!r}.")


def closed_answer_reward(
    answer: str | None, truth: str, options: Sequence[str] | None = None, *, question: str = ""
) -> float:
    """1 if both mean the same, see `text.answers.resolve_answer`; 0 otherwise, and for an answer that contradicts itself.

    An answer of more than `LONGEST_ANSWER` characters is wrong, whatever its first ones say.
    """
    _check_truth("closed_answer_reward", truth)
    if answer is None or len(answer) > LONGEST_ANSWER:
        return 0.0
    return float(is_same_answer(answer, truth, read_asked(question, options)))


def open_answer_reward(
    answer: str | None, truth: str, *, parts: Mapping[str, float], question: str = "", contrasts: bool = True
) -> float:
    """1 for the same answer in other words, else a weighted mean of overlap measures, in [0, 1].

    Args:
      answer: None or blank scores 0.
      truth: the dataset's answer, not blank.
      parts: measure -> weight; weights are divided by their sum.
      question: what is answered; empty: nothing is known of it.
      contrasts: score 0 where the two disagree in one, see `text.contrasts.disagree`.
    """
    return _open_reward(answer, truth, read_asked(question, None), parts=parts, contrasts=contrasts)


def is_same_answer(answer: str, truth: str, question: ReadQuestion) -> bool:
    """Whether two answers to a question have one key; one that contradicts itself is the same as nothing.

    So is the question itself, said back: "is there a mass" has the words of a yes.
    """
    if _is_echo(answer, question):
        return False
    said, meant = resolve_answer(answer, question), resolve_answer(truth, question)
    if not said.key or said.is_contradictory or meant.is_contradictory:
        return False
    return said.key == meant.key


def _is_echo(answer: str, question: ReadQuestion) -> bool:
    asked = words_of(question.asked)
    return bool(asked) and asked[0] in AUXILIARIES and words_of(answer) == asked


def check_options(*, parts: Mapping[str, float], contrasts: bool = True) -> None:
    """Refuses weights that no mean can be made of.

    Raises:
      ValueError: unknown measures, weights below 0, or none above.
    """
    unknown = sorted(set(parts) - set(OPEN_ANSWER_MEASURES))
    if unknown or any(weight < 0 for weight in parts.values()) or not sum(parts.values()) > 0:
        raise ValueError(
            f"parts: expected weights >= 0, not all 0, for some of {', '.join(OPEN_ANSWER_MEASURES)}; got {dict(parts)}."
        )


def _open_reward(
    answer: str | None, truth: str, question: ReadQuestion, *, parts: Mapping[str, float], contrasts: bool
) -> float:
    check_options(parts=parts)
    _check_truth("open_answer_reward", truth)
    if answer is None or not has_visible_character(answer[:LONGEST_ANSWER]):
        return 0.0
    if len(answer) <= LONGEST_ANSWER and is_same_answer(answer, truth, question):
        return 1.0
    if resolve_answer(answer, question).is_contradictory or (contrasts and disagree(answer, truth)):
        return 0.0
    total = sum(weight * OPEN_ANSWER_MEASURES[name](answer, truth) for name, weight in parts.items())
    return total / sum(parts.values())


def read_asked(question: str, options: Sequence[str] | None) -> ReadQuestion:
    """A question with its options; without given ones, with those of a list in it."""
    return read_question(question, tuple(options) if options else None)


def _check_truth(name: str, truth: str) -> None:
    if not has_visible_character(truth[:LONGEST_ANSWER]):
        raise ValueError(f"{name}: expected a true answer with visible characters; got {truth!r}.")
