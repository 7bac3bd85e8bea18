"""The answer reward: exact match for closed questions, overlap of words for open ones."""

import math
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import sentence_bleu
from rouge_score import rouge_scorer

from reflex_jax.rewards.answer import answer_reward, bleu1, closed_answer_reward, open_answer_reward, rouge1
from reflex_jax.text.normalise import LONGEST_ANSWER

PARTS = {"bleu1": 0.5, "rouge1": 0.5}
OPTIONS = ("cyst", "nodule", "abscess", "calcification")
SENTENCES = st.lists(st.sampled_from("the left right lung Lung, nodule. t2 5 x-ray of a".split()), max_size=9).map(
    " ".join
)


@pytest.mark.parametrize(
    ("answer", "truth"),
    [("Yes", "yes"), ("No.", "no"), (" the left lung", "Left lung"), ("X-Ray", "x ray"), ("A", "a")],
)
def test_a_closed_answer_matches_in_normal_form(answer, truth):
    assert closed_answer_reward(answer, truth) == 1.0


@pytest.mark.parametrize("answer", [None, "", "  ", "\u200b", "yes and no", "yes yes", "maybe", "<think>", ".", "the"])
def test_empty_hedging_and_wrong_closed_answers_are_paid_nothing(answer):
    assert closed_answer_reward(answer, "yes") == 0.0


@pytest.mark.parametrize("truth", ["B", "nodule", "B. nodule"])
@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ("B", 1.0),
        ("(b)", 1.0),
        ("a nodule", 1.0),
        ("C", 0.0),
        ("B cyst", 0.0),
        ("A B C D", 0.0),
        ("cyst nodule abscess calcification", 0.0),
        ("E", 0.0),
    ],
)
def test_options_match_by_letter_or_text_on_both_sides(truth, answer, reward):
    assert closed_answer_reward(answer, truth, OPTIONS) == reward


@given(SENTENCES, SENTENCES)
def test_rouge1_equals_the_reference_implementation(candidate, reference):
    expected = rouge_scorer.RougeScorer(["rouge1"]).score(reference, candidate)["rouge1"].fmeasure
    assert math.isclose(rouge1(candidate, reference), expected, abs_tol=1e-12)


@given(st.text(max_size=20), st.text(max_size=20))
def test_rouge1_equals_the_reference_implementation_on_any_text(candidate, reference):
    expected = rouge_scorer.RougeScorer(["rouge1"]).score(reference, candidate)["rouge1"].fmeasure
    assert math.isclose(rouge1(candidate, reference), expected, abs_tol=1e-12)


@given(SENTENCES, SENTENCES)
def test_bleu1_equals_nltk_on_the_same_words(candidate, reference):
    words = [
        text.lower().replace("-", " ").replace(",", "").replace(".", "").split() for text in (candidate, reference)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nltk warns where no word overlaps
        expected = sentence_bleu([words[1]], words[0], weights=(1.0,)) if words[0] and words[1] else 0.0
    assert math.isclose(bleu1(candidate, reference), expected, abs_tol=1e-12)


def test_a_short_answer_pays_the_brevity_penalty_and_a_repeated_word_is_clipped():
    assert bleu1("lung", "left lung") == pytest.approx(math.exp(-1))
    assert bleu1("lung lung lung lung", "left lung") == pytest.approx(1 / 4)


@given(SENTENCES, SENTENCES.filter(bool), st.floats(0.1, 5), st.floats(0, 5))
def test_the_open_reward_is_a_weighted_mean_inside_its_parts(answer, truth, first, second):
    parts = {"bleu1": first, "rouge1": second}
    reward = open_answer_reward(answer, truth, parts=parts)
    low, high = sorted([bleu1(answer, truth), rouge1(answer, truth)])
    assert low - 1e-12 <= reward <= high + 1e-12 and 0 <= reward <= 1


@given(SENTENCES.filter(bool))
def test_the_truth_itself_is_paid_in_full(truth):
    assert open_answer_reward(truth, truth, parts=PARTS) == pytest.approx(1.0)


@pytest.mark.parametrize("answer", [None, "", "   ", "?", "..."])
def test_an_empty_open_answer_is_paid_nothing(answer):
    assert open_answer_reward(answer, "left lung", parts=PARTS) == 0.0


def test_a_list_of_every_answer_is_paid_less_than_the_answer():
    hedge = "left lung right lung liver heart brain kidney spleen nodule mass effusion"
    assert open_answer_reward(hedge, "left lung", parts=PARTS) < 0.5


def test_the_answer_type_chooses_the_rule():
    assert answer_reward("left", "left lung", answer_type="closed", options=None, parts=PARTS) == 0.0
    assert 0 < answer_reward("left", "left lung", answer_type="open", options=None, parts=PARTS) < 1
    with pytest.raises(ValueError, match="expected closed or open; got 'CLOSED'"):
        answer_reward("left", "left", answer_type="CLOSED", options=None, parts=PARTS)


def test_a_closed_answer_with_its_second_half_out_of_reach_is_wrong():
    assert closed_answer_reward("left" + "." * 100, "left") == 1.0
    assert closed_answer_reward("left" + "." * LONGEST_ANSWER + "right", "left") == 0.0
    assert closed_answer_reward("B) nodule" + " " * LONGEST_ANSWER + "or cyst", "B", OPTIONS) == 0.0


@pytest.mark.parametrize("answer", ["\u0130", "\u0131", "(\u0130)", "\u0130: left", "left \u0130"])
def test_a_letter_beyond_ascii_is_a_wrong_answer_like_any_other(answer):
    assert answer_reward(answer, "left", answer_type="closed", options=["left", "right"], parts=PARTS) == 0.0


@pytest.mark.parametrize("parts", [{}, {"bleu1": 0.0}, {"bleu1": -1.0, "rouge1": 3.0}, {"bleu2": 1.0}])
def test_weights_that_cannot_be_used_are_refused(parts):
    with pytest.raises(ValueError, match="expected weights >= 0"):
        open_answer_reward("a", "b", parts=parts)


@pytest.mark.parametrize("score", [closed_answer_reward, lambda a, t: open_answer_reward(a, t, parts=PARTS)])
def test_a_question_without_a_true_answer_is_refused(score):
    with pytest.raises(ValueError, match="expected a true answer"):
        score("yes", " ")
