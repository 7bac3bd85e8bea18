"""Each metric beside an implementation of somebody else's, on 500 random pairs; values by hand; the version of the matcher."""

import hashlib
import itertools
import json
import math
import warnings

import numpy as np
import pytest
from nltk.translate.bleu_score import sentence_bleu
from rouge_score.rouge_scorer import RougeScorer

from reflex_jax.evaluation import score
from reflex_jax.evaluation.conventions import _bleu
from reflex_jax.evaluation.llava_med import counted_precision_recall, counted_recall, llava_med_words
from reflex_jax.evaluation.metrics import MATCHER_VERSION, Asked, is_parsed, measure, measure_samples, pass_at
from reflex_jax.rewards.answer_measures import bleu1, rouge1, rouge_l, token_f1, token_recall

# words that the comparison leaves as they are: no articles, numbers, plurals
WORDS = "left lung upper lobe nodule cyst region kidney liver mass opacity pleural effusion cardiac border".split()


def pairs(count: int = 500) -> list[tuple[str, str]]:
    """Texts of 1 to 9 words, often sharing some, with repetitions."""
    generator = np.random.default_rng(0)

    def text() -> str:
        return " ".join(generator.choice(WORDS[:6] if generator.random() < 0.7 else WORDS, generator.integers(1, 10)))

    return [(text(), text()) for _ in range(count)]


class Splitting:
    """A tokenizer of rouge_score that splits at spaces, as the words above are."""

    def tokenize(self, text):
        return text.split()


def test_overlaps_of_500_pairs_are_those_of_nltk_rouge_score_and_numpy():
    scorer = RougeScorer(["rouge1", "rougeL"], tokenizer=Splitting())
    warnings.simplefilter("ignore")
    for said, true in pairs():
        expected = scorer.score(true, said)
        assert rouge1(said, true) == pytest.approx(expected["rouge1"].fmeasure, abs=1e-12)
        assert rouge_l(said, true) == pytest.approx(expected["rougeL"].fmeasure, abs=1e-12)
        words, others = said.split(), true.split()
        assert bleu1(said, true) == pytest.approx(sentence_bleu([others], words, weights=(1, 0, 0, 0)), abs=1e-12)
        for order in (1, 2, 3, 4):
            own = sentence_bleu([others], words, weights=[1 / order] * order)
            assert _bleu(words, others, order) == pytest.approx(own, abs=1e-12)
        in_said, in_true = (np.isin(WORDS, part) for part in (words, others))
        shared = (in_said & in_true).sum()
        assert token_recall(said, true) == pytest.approx(shared / in_true.sum())
        assert token_f1(said, true) == pytest.approx(2 * shared / (in_said.sum() + in_true.sum()))
        counts = np.array([words.count(word) for word in WORDS]), np.array([others.count(word) for word in WORDS])
        found, missing = counts[0][in_true].sum(), counts[1][~in_said].sum()
        assert counted_precision_recall(said, true) == pytest.approx(
            (found / len(words), found / (found + missing)) if found else (0, 0)
        )


def test_overlaps_by_hand():
    # left left lung | left lung: 2 of 3 words match, and the pair is a subsequence: F = 2*2/(3+2)
    assert rouge1("left left lung", "left lung") == rouge_l("left left lung", "left lung") == pytest.approx(4 / 5)
    # the same words in another order: all are shared, and one stands in order
    assert rouge1("lung left", "left lung") == 1 and rouge_l("lung left", "left lung") == pytest.approx(2 * 1 / 4)
    assert token_f1("left left lung", "left lung") == 1 and token_recall("left left left", "left lung") == 1 / 2
    for of_pair in (bleu1, rouge1, rouge_l, token_f1, token_recall, counted_recall):
        assert of_pair("", "left") == of_pair("!", "left") == 0.0
        assert of_pair("left lung", "left lung") == 1.0


@pytest.mark.parametrize(("text", "words"), [
    ("The left-sided, none.", ["left", "sided", "0"]), ("A 2.5 cm mass.", ["2.5", "cm", "mass"]), ("1,000 x,y", ["1000", "xy"]),
    ("dont know", ["don't", "know"]), ("two/three", ["2", "3"]), ("a / b/c", ["bc"]),
])  # fmt: skip
def test_llava_med_normalisation_by_hand(text, words):
    """A mark becomes a space unless it touches one somewhere in the text, or a comma stands between digits."""
    assert llava_med_words(text) == words


def test_llava_meds_recall_rises_with_repetition_and_plain_recall_does_not():
    """left x 4 beside left lung: tp 4, fn 1."""
    assert counted_recall("left left left left", "left lung") == 4 / 5 and counted_recall("left", "left lung") == 1 / 2
    assert token_recall("left left left left", "left lung") == 1 / 2


CLOSED = Asked("Is there a cyst?", "yes", "closed")
CHOICE = Asked("Which is it? A) cyst B) nodule", "B", "closed", options=("cyst", "nodule"))
OPEN = Asked("Where is it?", "left lung", "open", accepted=("left side",))


@pytest.mark.parametrize(("asked", "answer", "scores", "parsed"), [
    (CLOSED, "Yes, there is.", 1, True), (CLOSED, "no", 0, True), (CLOSED, "a scan", 0, False), (CLOSED, None, 0, False),
    (CLOSED, "normal", 0, False), (CLOSED, "unknown", 0, False), (CLOSED, "x" * 5000, 0, False),
    (CHOICE, "(B)", 1, True), (CHOICE, "the nodule", 1, True), (CHOICE, "A", 0, True), (CHOICE, "a mass", 0, False),
    (CHOICE, "A. nodule", 0, False), (CHOICE, "", 0, False),
    (OPEN, "the left lung", 1, True), (OPEN, "left side", 1, True), (OPEN, "right lung", 0, True), (OPEN, None, 0, False),
])  # fmt: skip
def test_an_answer_is_right_wrong_or_unread_and_never_guessed(asked, answer, scores, parsed):
    assert measure(asked, answer)[asked.exact] == scores and is_parsed(asked, answer) == parsed


def test_an_open_answer_is_held_against_every_truth_and_no_answer_is_zero_in_all():
    found = measure(OPEN, "left side of it")
    assert found["open/recall"] == 1.0 and found["open/bleu1"] == pytest.approx(2 / 4)
    assert set(measure(OPEN, None).values()) == {0.0} and measure(OPEN, None).keys() == found.keys()
    assert {CLOSED.kind, CHOICE.kind, OPEN.kind} == {"yes_no", "choice", "open"}


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(count):
    for right, k in itertools.product(range(count + 1), range(1, count + 1)):
        flags = [i < right for i in range(count)]
        subsets = list(itertools.combinations(flags, k))
        assert pass_at(k, count, right) == pytest.approx(sum(map(any, subsets)) / math.comb(count, k))


def test_samples_are_counted_together_and_what_cannot_be_read_has_no_vote():
    found = measure_samples(CHOICE, ["B", "cyst", "the nodule", None, None])
    assert found == {
        "choice/pass@1": pytest.approx(2 / 5), "choice/pass@2": pytest.approx(1 - 3 / 10), "choice/pass@4": 1.0,
        "choice/pass@5": 1.0, "choice/majority": 1.0,
    }  # fmt: skip
    assert measure_samples(CHOICE, ["cyst", "B"])["choice/majority"] == 0.0  # a tie goes to the first
    assert measure_samples(CHOICE, [None, None])["choice/majority"] == 0.0


class Encoder:
    """Stands in for BERT: the share of letters in common."""

    def problems(self, *, pooling=None, layer=None):
        return []

    def cosines(self, pairs, *, pooling):
        raise AssertionError("nobody asks for these")

    def greedy_f1(self, pairs, *, layer):
        return [len(set(said) & set(true)) / max(len(set(said) | set(true)), 1) for said, true in pairs]


def test_bertscore_is_of_open_questions_the_best_over_the_truths():
    scoring = score.Scoring(encoder=Encoder(), encoder_identity="letters")
    texts = [(OPEN, "left side", ""), (OPEN, None, ""), (CLOSED, "yes", "")]
    first, none, closed = score.measure_texts(texts, scoring)
    assert first["open/bertscore"] == 1.0 and none["open/bertscore"] == 0.0 and closed == {"yes_no/accuracy": 1.0}


def test_the_version_of_the_matcher_moves_with_the_scores_it_gives():
    """Where this fails and the new scores are meant, move MATCHER_VERSION and the hash: stored scores are then made anew."""
    answers = [
        "yes",
        "No.",
        "B",
        "(b) nodule",
        "the cyst",
        "2",
        "two",
        "Left lung",
        "oedema",
        "none of the above",
        "A or B",
        "",
    ]
    questions = [CLOSED, CHOICE, OPEN, Asked("How many?", "2", "open"), Asked("What?", "edema of the lung", "open")]
    found = [
        [sorted((k, round(v, 9)) for k, v in measure(q, a).items()), is_parsed(q, a)]
        for q in questions
        for a in answers
    ]
    digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]
    assert (MATCHER_VERSION, digest) == ("1", "2b778750506bd509")
