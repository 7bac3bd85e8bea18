"""Published ways to count, by hand, and each known mistake of public scorers, which is not made here."""

import pytest

from reflex_jax.config import ConfigError
from reflex_jax.evaluation.conventions import CONVENTIONS
from reflex_jax.evaluation.metrics import Asked, measure
from reflex_jax.evaluation.mmmu import is_right_open, parse_choice
from reflex_jax.evaluation.score import Scoring, measure_texts, said_of
from reflex_jax.rewards.answer_measures import rouge1

OPTIONS = ("cyst", "nodule", "mass")


def asked(truth, answer_type="closed", options=None, accepted=()):
    return Asked("What is it?", truth, answer_type, options=options, accepted=accepted)


def of(name, question, said):
    return CONVENTIONS[name].score(question, said)


@pytest.mark.parametrize(("name", "question", "said", "scores"), [
    # closed by answer_type; the truth within the answer, which has a yes or a no in it
    ("llava_med", asked("yes"), "Yes, it is.", {"closed/accuracy": 1}),
    ("llava_med", asked("Left"), "left", {"closed/accuracy": 0}),  # nothing of yes or no
    ("llava_med", asked("Left"), "No, left.", {"closed/accuracy": 1}),
    ("llava_med", asked("left lung", "open"), "left", {"open/precision": 1, "open/recall": 1 / 2, "open/f1": 2 / 3}),
    ("quilt_llava", asked("No, it is benign."), "It is not.", {"closed/accuracy": 1}),
    ("quilt_llava", asked("Yes."), "perhaps", {"closed/accuracy": 1}),  # anything that is no no is a yes
    ("quilt_llava", asked("Yes."), "", {"closed/accuracy": 0}),
    ("quilt_llava", asked("Left"), "left", {}),
    ("medevalkit", asked("yes"), "Yes, certainly", {"yes_no/accuracy": 1}),
    ("medevalkit", asked("yes"), "yes or no", {"yes_no/accuracy": 0}),
    ("medevalkit", asked("B", options=OPTIONS), r"\boxed{B}", {"choice/accuracy": 1}),
    ("medevalkit", asked("B", options=OPTIONS), "B. nodule", {"choice/accuracy": 1}),
    ("medevalkit", asked("B", options=OPTIONS), "It is (C)", {"choice/accuracy": 0}),
    ("medevalkit", asked("Left."), "left", {"closed/accuracy": 1}),
    ("mmmu", asked("nodule", options=OPTIONS), "The answer is (B).", {"choice/accuracy": 1}),
    ("mmmu", asked("12.50", "open"), "So the volume is 12.5 ml.", {"open/accuracy": 1}),
    ("medxpertqa", asked("B", options=OPTIONS), "Thus the answer is B", {"choice/accuracy": 1}),
    ("medxpertqa", asked("B", options=OPTIONS), "Bone? the answer is C. Not B", {"choice/accuracy": 0}),
    ("medxpertqa", asked("B", options=OPTIONS), "option b", {"choice/accuracy": 0}),  # upper case alone
    ("medxpertqa", asked("A", options=OPTIONS), "A careful look at B", {"choice/accuracy": 1}),  # the first one, as published
    ("medxpertqa", asked("yes"), "yes", {}),
])  # fmt: skip
def test_a_convention_counts_as_published(name, question, said, scores):
    assert of(name, question, said) == pytest.approx(scores)


@pytest.mark.parametrize(("said", "index"), [
    ("(B) or (C)", 2), ("B", 1), (" A.", 0), ("It is B, I think C", 2), ("I would say it is most likely a Mass", 2),
    ("a mass", None), ("D", None), ("", None), ("Anything at all", None),
])  # fmt: skip
def test_mmmus_choice_is_the_last_one_and_what_cannot_be_read_is_none_ten_times_of_ten(said, index):
    """Its own scorer draws an option where it reads none (MMMU-Benchmark/MMMU#72)."""
    assert {parse_choice(said, OPTIONS) for _ in range(10)} == {index}


@pytest.mark.parametrize(("response", "truth", "is_right"), [
    ("Thus the answer is 1,200.", "1200", True), ("The result is 0.333333", "0.33", True), ("It is 12", "2", False),
    ("This could be the left kidney.", "left kidney", True), ("x = 4", "4", True),
    ("It was 3. So the final answer is 5", "3", False),
    ("", "3", False), ("liver", "liver", True), ("A spleen, not a liver. So it is a spleen", "liver", False),
])  # fmt: skip
def test_mmmus_open_answer_is_looked_for_where_a_sentence_concludes(response, truth, is_right):
    assert is_right_open(response, [truth]) == is_right


# --- the mistakes


def test_columns_of_precision_recall_and_f1_are_not_exchanged_and_an_empty_answer_is_no_error():
    """MedEvalKit's calculate_f1 returns (f1, precision, recall), read as precision, recall, f1; it raises on ""."""
    found = of("medevalkit", asked("left upper lung lobe", "open"), "left")
    assert (found["open/precision"], found["open/recall"], found["open/f1"]) == (1.0, 1 / 4, 2 * 0.25 / 1.25)
    assert set(of("medevalkit", asked("left", "open"), "").values()) == {0.0}


@pytest.mark.parametrize("said", ["normal", "unknown", "not seen", "notice"])
def test_a_word_with_no_in_it_is_no_no(said):
    """judge_judgement counts these as "no", MME's scorer "notice"."""
    assert of("medevalkit", asked("no"), said) == {"yes_no/accuracy": 0.0}
    assert measure(asked("no"), said) == {"yes_no/accuracy": 0.0} or said == "not seen"


def test_a_yes_beside_an_abnormal_is_a_yes():
    """ "Yes, it is abnormal" holds the letters of "no"."""
    assert of("medevalkit", asked("yes"), "Yes, it is abnormal") == {"yes_no/accuracy": 1.0}
    assert measure(asked("yes"), "Yes, it is abnormal") == {"yes_no/accuracy": 1.0}


def test_an_empty_answer_is_not_the_first_option():
    """judge_multi_choice has it right whenever the key is A."""
    for name in ("medevalkit", "mmmu", "medxpertqa"):
        assert of(name, asked("A", options=OPTIONS), "") == {"choice/accuracy": 0.0}
    assert measure(asked("A", options=OPTIONS), "") == {"choice/accuracy": 0.0}


def test_every_question_is_in_the_mean_once_whatever_the_answer():
    """run_eval.py left wrong closed answers out of the denominator; with a judge closed ones were counted as 0, or twice."""
    questions = [asked("yes"), asked("no"), asked("left lung", "open"), asked("B", options=OPTIONS)]
    for said in ("yes", "what?", ""):
        scores = measure_texts([(q, said or None, said) for q in questions], Scoring(conventions=tuple(CONVENTIONS)))
        for name in ("llava_med", "medevalkit", "mmmu"):
            kinds = [{k.partition("/")[0] for k in score if k.startswith(f"{name}:")} for score in scores]
            assert all(len(kind) == 1 for kind in kinds), (name, kinds)
        assert all(0 <= value <= 1 for score in scores for value in score.values())


def test_a_word_said_twice_counts_as_often_as_both_have_it():
    """The package rouge takes sets of n-grams: "left left lung" beside "left lung" is 1 there, and "." raises."""
    assert rouge1("left left lung", "left lung") == pytest.approx(4 / 5) and rouge1(".", "left lung") == 0.0


def test_a_short_exact_answer_is_not_worth_nothing():
    """BLEU-4 without smoothing is 0 for one word; BLEU-1 is what is reported."""
    assert measure(asked("left", "open"), "left")["open/bleu1"] == 1.0
    found = of("medevalkit", asked("left", "open"), "left")
    assert (found["open/bleu1"], found["open/bleu4"]) == (1.0, 0.0)


def test_an_open_answer_is_compared_by_words_and_not_letter_by_letter():
    """lmms-eval holds one element of an unordered set against the truth by characters: right open answers score 0."""
    assert of("mmmu", asked("left kidney", "open", accepted=("kidney",)), "The answer is the kidney") == {
        "open/accuracy": 1.0
    }
    assert of("mmmu", asked("k", "open"), "The answer is 7") == {"open/accuracy": 0.0}


def test_a_completion_without_an_answer_block_gives_what_stands_behind_its_thought():
    row = {"prediction": "<think> yes or no? </think> It is no cyst", "answer": None}
    assert said_of(row) == "It is no cyst" and said_of(row | {"answer": "yes"}) == "yes"


def test_a_convention_that_nobody_published_is_named():
    with pytest.raises(ConfigError, match="got mmlu.* Did you mean 'mmmu'"):
        Scoring(conventions=("mmlu",))
