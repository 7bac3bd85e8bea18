"""HOST: how much of an open answer's words are the truth's: BLEU-1, ROUGE, recall and F1, over words in their compared form.

Words are those of `text.words`: of any script, numbers with their sign, one spelling and one number, without articles. Public
scorers differ in ways that pay for nothing: counted recall rises with each repetition, ROUGE over sets of n-grams does not see
one, BLEU-4 of one exact word is 0. None of that holds here.
"""

from __future__ import annotations

import math
from collections import Counter

from reflex_jax.text.words import words_of


def bleu1(candidate: str, reference: str) -> float:
    """BLEU of single words: clipped precision, times exp(1 - r / c) for a candidate of c < r words."""
    candidate_words, reference_words = words_of(candidate), words_of(reference)
    overlap = _overlap(candidate_words, reference_words)
    if overlap == 0:
        return 0.0
    precision = overlap / len(candidate_words)
    return precision * min(1.0, math.exp(1 - len(reference_words) / len(candidate_words)))


def rouge1(candidate: str, reference: str) -> float:
    """F-measure of the words two texts share, each counted as often as both have it; no stemming."""
    candidate_words, reference_words = words_of(candidate), words_of(reference)
    overlap = _overlap(candidate_words, reference_words)
    if overlap == 0:
        return 0.0
    precision, recall = overlap / len(candidate_words), overlap / len(reference_words)
    return 2 * precision * recall / (precision + recall)


def token_recall(candidate: str, reference: str) -> float:
    """Share of the reference's different words that the candidate has; saying one twice adds nothing."""
    reference_words = set(words_of(reference))
    return len(reference_words & set(words_of(candidate))) / len(reference_words) if reference_words else 0.0


def _overlap(candidate: tuple[str, ...], reference: tuple[str, ...]) -> int:
    return sum((Counter(candidate) & Counter(reference)).values())


def token_f1(candidate: str, reference: str) -> float:
    """F-measure of the different words of two texts: saying one twice neither adds nor takes anything."""
    candidate_words, reference_words = set(words_of(candidate)), set(words_of(reference))
    shared = len(candidate_words & reference_words)
    return 2 * shared / (len(candidate_words) + len(reference_words)) if shared else 0.0


def rouge_l(candidate: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words (ROUGE-L, beta 1); no stemming."""
    candidate_words, reference_words = words_of(candidate), words_of(reference)
    lengths = [0] * (len(reference_words) + 1)  # of the longest subsequence with each beginning of the reference
    for word in candidate_words:
        before = 0  # what stood left of `lengths[place]` before this word
        for place, other in enumerate(reference_words, 1):
            above = lengths[place]
            lengths[place] = before + 1 if word == other else max(above, lengths[place - 1])
            before = above
    return 2 * lengths[-1] / (len(candidate_words) + len(reference_words)) if lengths[-1] else 0.0
