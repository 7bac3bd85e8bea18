"""The answer reward: exact match for closed questions, overlap of words for open ones."""

import math
import warnings
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import sentence_bleu
from rouge_score import rouge_scorer

from reflex_jax.data.examples import Example
from reflex_jax.data.phantom import phantom_examples
from reflex_jax.evaluation.metrics import mean_scores, score_answer
from reflex_jax.rewards.answer import answer_reward, closed_answer_reward, open_answer_reward
from reflex_jax.rewards.answer_measures import bleu1, rouge1, token_recall
from reflex_jax.text.contrasts import disagree
from reflex_jax.text.normalise import LONGEST_ANSWER
from reflex_jax.text.words import words_of

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


class SameWords:
    """Gives the reference implementation the words that are compared here."""

    def tokenize(self, text):
        return list(words_of(text))


@given(SENTENCES | st.text(max_size=20), SENTENCES | st.text(max_size=20))
def test_rouge1_equals_the_reference_implementation_on_the_same_words(candidate, reference):
    scorer = rouge_scorer.RougeScorer(["rouge1"], tokenizer=SameWords())
    expected = scorer.score(reference, candidate)["rouge1"].fmeasure
    assert math.isclose(rouge1(candidate, reference), expected, abs_tol=1e-12)


@given(SENTENCES, SENTENCES)
def test_bleu1_equals_nltk_on_the_same_words(candidate, reference):
    words = [list(words_of(text)) for text in (candidate, reference)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nltk warns where no word overlaps
        expected = sentence_bleu([words[1]], words[0], weights=(1.0,)) if words[0] and words[1] else 0.0
    assert math.isclose(bleu1(candidate, reference), expected, abs_tol=1e-12)


def test_a_short_answer_pays_the_brevity_penalty_and_a_repeated_word_is_clipped():
    assert bleu1("lung", "left lung") == pytest.approx(math.exp(-1))
    assert bleu1("lung lung lung lung", "left lung") == pytest.approx(1 / 4)


@given(SENTENCES, SENTENCES.filter(bool), st.floats(0.1, 5), st.floats(0, 5), st.booleans())
def test_the_open_reward_is_a_weighted_mean_inside_its_parts(answer, truth, first, second, contrasts):
    parts = {"bleu1": first, "rouge1": second}
    reward = open_answer_reward(answer, truth, parts=parts, contrasts=contrasts)
    low, high = sorted([bleu1(answer, truth), rouge1(answer, truth)])
    is_same = closed_answer_reward(answer, truth) == 1
    is_refused = contrasts and disagree(answer, truth)
    assert is_same and reward == 1 or is_refused and reward == 0 or low - 1e-12 <= reward <= high + 1e-12


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


@pytest.mark.parametrize(
    ("question", "echo", "statement"),
    [
        ("Is there a nodule?", "is there a nodule", "there is a nodule"),
        ("Is the trachea midline?", "Is the trachea midline?", "the trachea is midline"),
    ],
)
def test_the_question_said_back_is_no_yes(question, echo, statement):
    assert closed_answer_reward(echo, "yes", question=question) == 0.0
    assert closed_answer_reward(statement, "yes", question=question) == 1.0  # the same words as a sentence are


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


# answer | truth | R_ans of an open question: the same thing, another thing, or (to two digits) what words they share
PAIRS = """
Left Lung | Right Lung | 0
Lower Right Lung | Lower Left Lung | 0
There is no pleural effusion | There is a pleural effusion | 0
2.5 cm | 3.5 cm | 0
HER2+ | HER2- | 0
-5 | 5 | 0
> 3 cm | < 3 cm | 0
T1 weighted image | T2 weighted image | 0
upper lobe | lower lobe | 0
anterior mediastinum | posterior mediastinum | 0
CT with contrast | CT without contrast | 0
no acute fracture | acute fracture | 0
grade 2 glioma | grade 3 glioma | 0
low grade glioma | high grade glioma | 0
5 mm nodule | 5 cm nodule | 0
two nodules | three nodules | 0
L4 fracture | L5 fracture | 0
both lungs | left lung | 0
left and right lung | left lung | 0
Left Lung, Right | Right Lung, Left | 0
coronal plane | axial plane | 0
hyperdense lesion | hypodense lesion | 0
type A dissection | type B dissection | 0
effusion is absent | effusion is present | 0
mass with calcification | mass without calcification | 0
mild edema | severe edema | 0
CT scan | MRI scan | 0
3rd ventricle | 4th ventricle | 0
benign tumor | malignant tumor | 0
mediastinal mass | liver cyst | 0
Hepatitis | Cirrhosis | 0
ileum | ilium | 0
4+3=7 | 3+4=7 | 0
120/80 | 80/120 | 0
1:2 | 2:1 | 0
nodules | nodule | 1
oedema | edema | 1
two | 2 | 1
3.5cm | 3.5 cm | 1
\u5de6\u80ba | \u5de6\u80ba | 1
\u0444\u0438\u0431\u0440\u043e\u0437 | \u0424\u0438\u0431\u0440\u043e\u0437 | 1
the nodule | A nodule. | 1
metastases | metastasis | 1
vertebrae | vertebra | 1
haemorrhage | hemorrhage | 1
x-ray | Xray | 1
grade II | grade 2 | 1
left lower lung | Lower Left Lung | 1
left side | Left | 1
Coronal Plane | coronal | 1
in the left lung | left lung | 1
HER2 positive | HER2+ | 1
more than 3 cm | > 3 cm | 1
it is a nodule | nodule | 1
The answer is nodule | nodule | 1
yes, there is | yes | 1
absent | no | 1
Crohn's disease | Crohn disease | 1
12 mm | 1.2 cm | 1
0.3 m | 300 mm | 1
3 x 2 cm nodule | 30 x 20 mm nodule | 1
12 mm | 12 cm | 0
bilateral lungs | both lungs | 1
left and right lungs | both lungs | 1
left lung and right lung | both lungs | 1
lung | left lung | 0.52
left | left lung | 0.52
left lower lobe | left lung | 0.37
pleural effusion | right sided pleural effusion | 0.52
small nodule in the left lung | left lung | 0.49
Hepatitis | Hepatitis A | 0.52
"""


@pytest.mark.parametrize("pair", PAIRS.strip().splitlines())
def test_an_open_answer_is_paid_for_what_it_says(pair):
    answer, truth, expected = pair.split(" | ")
    reward = answer_reward(answer, truth, answer_type="open", options=None, parts=PARTS)
    assert reward == pytest.approx(float(expected), abs=0.005)


SIDES = ("Left", "Right", "Both", "Neither")
LISTED = ("cyst", "mass", "abscess", "None of the above")
COUNTED = "Diagnosis?\n1. cyst\n2. abscess"


@pytest.mark.parametrize(
    "question, options, answer, truth, reward",
    [
        *[("Which lung?", SIDES, a, "Both", 1) for a in ("bilateral", "left and right", "Right and left", "L and R")],
        *[("Which lung?", SIDES, a, "Both", 0) for a in ("left", "R", "neither", "left or right")],
        *[("Which lung?", SIDES, a, "Left", r) for a, r in (("L", 1), ("l.", 1), ("R", 0), ("bilateral", 0))],
        ("Which side is it on?", None, "R", "right", 1),
        ("Is it left or right?", None, "L", "left", 1),
        *[
            ("Which?", LISTED, a, "A, C", r)
            for a, r in (("C, A", 1), ("c and a", 1), ("A and C", 1), ("A, B", 0), ("A", 0), ("A, B, C", 0))
        ],
        *[("Which?", LISTED, a, "D", r) for a, r in (("none", 1), ("None of these", 1), ("all", 0))],
        *[
            ("CT or MRI?", None, a, "MRI", 1)
            for a in ("It is an MRI, not a CT", "MRI rather than CT", "Not a CT but an MRI")
        ],
        ("CT or MRI?", None, "It is a CT, not an MRI", "MRI", 0),
        *[("Which?", ("CT", "MRI"), a, "B", 1) for a in ("an MRI, not a CT", "B, not A")],
        ("Which?", ("", "MRI"), "none", "B", 0),
        *[(COUNTED, None, a, t, 1) for a in ("2", "2.", "(2)", "2. abscess", "abscess") for t in ("2", "abscess")],
        *[(COUNTED, None, a, "abscess", 0) for a in ("1", "2. cyst", "3")],
        ("How large?", ("1.2 cm", "12 cm"), "12 mm", "A", 1),
        ("How large?", ("1.2 cm", "12 cm"), "12 mm", "B", 0),
    ],
)
@pytest.mark.parametrize("answer_type", ["closed", "open"])
def test_other_ways_to_name_a_side_an_option_or_a_length(answer_type, question, options, answer, truth, reward):
    paid = answer_reward(answer, truth, answer_type=answer_type, options=options, parts=PARTS, question=question)
    assert (paid == 1) == reward


def test_without_contrasts_an_overlap_of_words_is_paid():
    assert open_answer_reward("left lung", "right lung", parts=PARTS) == 0.0
    assert open_answer_reward("left lung", "right lung", parts=PARTS, contrasts=False) == 0.5


@pytest.mark.parametrize(
    "answer, truth, options, reward",
    [
        ("A. nodule", "B", ("cyst", "nodule"), 0.0),
        ("B. nodule", "B", ("cyst", "nodule"), 1.0),
        ("Hepatitis", "Hepatitis A", None, 0.0),
        ("left", "Left side", None, 1.0),
        ("The answer is B", "B", ("cyst", "nodule"), 1.0),
        ("[B]", "nodule", ("cyst", "nodule"), 1.0),
        ("yes, there is", "yes", None, 1.0),
        ("no evidence", "no", None, 1.0),
        ("unknown", "no", None, 0.0),
        ("notice", "no", None, 0.0),
        ("normal", "no", None, 0.0),
        ("yes or no", "no", None, 0.0),
        ("", "A", ("cyst", "nodule"), 0.0),
        ("A careful look says B", "A", ("cyst", "nodule"), 0.0),
    ],
)
def test_a_closed_answer_is_compared_by_what_it_means(answer, truth, options, reward):
    """Several of them are paid by public scorers the wrong way round."""
    assert closed_answer_reward(answer, truth, options) == reward


def test_the_question_says_what_an_answer_means():
    question = "Which is seen? A. cyst B. nodule"
    for answer in ("B", "B. nodule", "(B)", "nodule"):
        assert closed_answer_reward(answer, "B", question=question) == 1.0
        assert closed_answer_reward(answer, "nodule", ("cyst", "nodule"), question=question) == 1.0
    assert closed_answer_reward("there is a fracture", "yes", question="Is there a fracture?") == 1.0
    assert closed_answer_reward("Yes, it is abnormal", "yes", question="Is the heart normal?") == 0.0
    assert closed_answer_reward("Yes, it is abnormal", "yes", question="Is the heart abnormal?") == 1.0


@pytest.mark.parametrize("answer_type", ["closed", "open"])
def test_the_best_of_several_accepted_answers_counts(answer_type):
    settings = {"answer_type": answer_type, "options": None, "parts": PARTS}
    assert answer_reward("pneumonia", "infiltrate", **settings) == 0
    assert answer_reward("pneumonia", "infiltrate", accepted=("lung infection", "Pneumonia"), **settings) == 1
    assert answer_reward("left", "right", accepted=("both",), **settings) == 0


def test_recall_counts_different_words_and_repeating_pays_nothing():
    assert token_recall("left left left left", "left lung") == 0.5
    assert token_recall("a left lung nodule", "left lung") == 1.0
    assert token_recall("", "left lung") == token_recall(".", "left lung") == 0.0
    assert rouge1("left left lung", "left lung") < 1 and bleu1("lung", "lung") == 1.0


OPEN = Example(id="o", question="where?", answer="left lung", answer_type="open", accepted=("left hemithorax",))
CLOSED = [
    Example(id="y", question="is it there?", answer="Yes.", answer_type="closed"),
    Example(id="c", question="what?", answer="B", answer_type="closed", options=("cyst", "nodule")),
]


def test_no_metric_is_of_closed_and_open_answers_at_once():
    assert score_answer("left lung", OPEN) == dict.fromkeys(
        ("open/exact_match", "open/recall", "open/bleu1", "open/rouge1"), 1.0
    )
    assert score_answer("hemithorax", OPEN)["open/recall"] == 0.5
    assert set(score_answer(None, OPEN).values()) == {0.0}
    assert score_answer("right lung", OPEN)["open/rouge1"] == 0.5  # as it is defined elsewhere
    scores = [score_answer(answer, e) for answer, e in zip(("yes", "(A)"), CLOSED, strict=True)]
    assert scores == [{"accuracy": 1.0, "accuracy_yes_no": 1.0}, {"accuracy": 0.0, "accuracy_choice": 0.0}]
    assert mean_scores([*scores, score_answer("lung", OPEN)]) == {
        "accuracy": 0.5, "accuracy_yes_no": 1.0, "accuracy_choice": 0.0, "open/exact_match": 0.0, "open/recall": 0.5,
        "open/bleu1": pytest.approx(math.exp(-1)), "open/rouge1": pytest.approx(2 / 3),
    }  # fmt: skip


def test_in_the_phantom_world_no_fixed_answers_reach_half_of_the_informed_ones():
    """The best fixed answer to each open question, of all pieces of true answers and of all lists of a template's words."""
    answers = defaultdict(Counter)
    for example in phantom_examples("test", 250, 0):
        if example.answer_type == "open":
            answers[example.question][example.answer] += 1
    blind, exact = 0.0, 0
    for question, truths in answers.items():
        words = [truth.split() for truth in truths]
        pieces = {" ".join(w[i:j]) for w in words for i in range(len(w)) for j in range(i + 1, len(w) + 1)}
        lists = {" ".join(sorted(truths)[:n]) for n in range(1, 5)}
        blind += max(
            sum(n * open_answer_reward(fixed, truth, parts=PARTS, question=question) for truth, n in truths.items())
            for fixed in pieces | lists
        )
        exact += max(truths.values())
    total = sum(sum(truths.values()) for truths in answers.values())
    assert blind / total < 0.45 and exact / total < 0.4
