"""What an answer means: options, alternatives, yes and no, and one key for one answer."""

import json
import unicodedata
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex_jax.text.answers import resolve_answer
from reflex_jax.text.contrasts import disagree
from reflex_jax.text.normalise import normalise_answer
from reflex_jax.text.questions import read_question
from tests.unchecked import types_unchecked

OPTIONS = ("cyst", "a nodule", "Abscess", "renal mass with calcification")
FRACTURE = "Is there a fracture in the left femur?"


def resolve(answer, question="", options=None):
    return resolve_answer(answer, read_question(question, options))


@pytest.mark.parametrize(
    "answer",
    "B|b|(B)|[B]|{B}|B.|B)|**B**|$B$|\\boxed{B}|\\text{B}|Option B|option (B)|The answer is B|Answer: B|B is correct|"
    "The correct answer is (B).|Final answer: B|I think the answer is B|So, the answer is B) a nodule|\uff22|"
    "B. nodule|B: a nodule|(b) nodules|B - nodule|B, nodule|B nodule|nodule|The nodule.|nodules|NODULE|It is a nodule|"
    "There is a nodule|the answer is nodule|It is B|nodule (B)|nodule, B|B/nodule|"
    "B because it is round|B. the nodule is round".split("|"),
)
def test_an_option_is_named_by_letter_by_text_or_by_both(answer):
    resolved = resolve(answer, "What is shown?", OPTIONS)
    assert (resolved.option, resolved.key, resolved.text) == (1, "nodule", "a nodule")
    assert not resolved.is_contradictory


@pytest.mark.parametrize(
    "answer",
    [
        "A. nodule",
        "(A) a nodule",
        "A: nodules",
        "C) cyst",
        "B) cyst",
        "The answer is C, nodule",
        "B cyst",
        "nodule (A)",
    ],
)
def test_letter_and_text_that_disagree_are_contradictory(answer):
    resolved = resolve(answer, "What is shown?", OPTIONS)
    assert resolved.option is None and resolved.is_contradictory


@pytest.mark.parametrize(
    "answer",
    [
        "E",
        "B or C",
        "A, B",
        "A and B",
        "A B C D",
        "AB",
        "BB",
        "cyst or nodule",
        "big nodule",
        "not a nodule",
        "calcification",
        "?",
    ],
)
def test_what_names_no_option_or_several_names_none(answer):
    resolved = resolve(answer, "What is shown?", OPTIONS)
    assert resolved.option is None and not resolved.is_contradictory and resolved.key


def test_an_article_is_no_letter_and_a_letter_no_article():
    options = ("cyst", "nodule")
    assert resolve("A nodule", "", options).option == 1
    assert resolve("a cyst", "", options).option == resolve("A", "", options).option == 0
    assert resolve("B", "", ("B", "A")).option == 1  # a letter is the letter before it is a text
    assert resolve("Hepatitis A", "", ("Hepatitis", "Hepatitis A")).option == 1


def test_options_are_read_in_the_question_where_none_are_given():
    question = "Which is seen? A. cyst B. nodule"
    for options in (None, ("cyst", "nodule")):
        assert [resolve(a, question, options).option for a in ("B", "(B)", "B. nodule", "nodule")] == [1] * 4


@pytest.mark.parametrize(
    "options, answer, index",
    [
        (("left side", "right side"), "left", 0),
        (("Left", "Right"), "on the left side", 0),
        (("Axial plane", "Coronal Plane"), "coronal", 1),
        (("left lung", "right lung", "both lungs"), "both", 2),
        (("left lung", "right lung", "both lungs"), "lung", None),
        (("Yes", "No"), "there is none", 1),
        (("No", "Yes"), "yes, there is", 1),
        (("2", "3"), "three", 1),
        (("3.5 cm", "2.5 cm"), "2.5cm", 1),
        (("oedema", "mass"), "edema", 0),
        (("S. aureus", "C. difficile", "A. fumigatus", "B. cereus", "E. coli"), "E. coli", 4),
        (("S. aureus", "C. difficile", "A. fumigatus", "B. cereus", "E. coli"), "B. cereus", 3),
    ],
)
def test_the_words_that_options_share_may_be_left_out(options, answer, index):
    assert resolve(answer, "Which one is it?", options).option == index


@pytest.mark.parametrize(
    "answer", ["\u0130", "\u0131", "(\u0130)", "\u0130. cyst", "opt\u0130on B", "\u00df", "\u00e4"]
)
def test_only_ascii_letters_name_an_option(answer):
    """Python's IGNORECASE takes the Turkish i's for i, which no table of letters holds."""
    options = (*OPTIONS, "edema", "effusion", "fracture", "hernia", "mass")  # I is the ninth
    assert resolve(answer, "", options).option is None


@pytest.mark.parametrize("answer", ["\uff22", "\u24b7", "\u1d401", "\U0001d401", "\u249d nodule"])
def test_letters_that_unicode_calls_a_form_of_b_are_b(answer):
    expected = 1 if unicodedata.normalize("NFKC", answer)[0] in "B(" else None
    assert resolve(answer, "", OPTIONS).option == expected


@pytest.mark.parametrize(
    "answer",
    "no|No.|no, there is not|No, it isn't|no evidence|no evidence of a fracture|absent|it is absent|not seen|none|No fracture|"
    "There is no fracture|no fracture is seen|no - it is absent|No (absent)|negative|nope|false|"
    "No, the fracture is in the right femur|"
    "the answer is no|there isn't|No. There is no fracture.|without fracture".split("|"),
)
def test_no_is_said_in_many_ways(answer):
    resolved = resolve(answer, FRACTURE)
    assert (resolved.key, resolved.polarity, resolved.is_contradictory) == ("no", False, False)


@pytest.mark.parametrize(
    "answer",
    "yes|Yes.|yes, there is|Yes, there is a fracture|There is a fracture|yes it is|present|it is present|not absent|true|correct|"
    "I think yes|Yes, in the left femur|A fracture is seen|the answer is yes|yes - a fracture is visible".split("|"),
)
def test_yes_is_said_in_many_ways(answer):
    resolved = resolve(answer, FRACTURE)
    assert (resolved.key, resolved.polarity, resolved.is_contradictory) == ("yes", True, False)


@pytest.mark.parametrize(
    "answer", ["yes and no", "yes no", "no, yes", "yes, there is no fracture", "no, there is a fracture", "yes/no"]
)
def test_yes_with_a_sentence_that_denies_is_contradictory(answer):
    assert resolve(answer, FRACTURE).is_contradictory


@pytest.mark.parametrize(
    "answer",
    [
        "maybe",
        "unknown",
        "I cannot see the image",
        "No idea",
        "not enough information",
        "is",
        "not sure",
        "normal",
        "notice",
        "yes yes",
        "a dislocation",
        "left",
    ],
)
def test_what_says_neither_yes_nor_no_is_neither(answer):
    resolved = resolve(answer, FRACTURE)
    assert resolved.polarity is None and resolved.key not in ("yes", "no") and not resolved.is_contradictory


@pytest.mark.parametrize(
    "answer, key, is_contradictory",
    [
        ("Yes, it is normal", "yes", False),
        ("No, it is abnormal", "no", False),
        ("abnormal", "no", False),
        ("not normal", "no", False),
        ("the heart is normal", "yes", False),
        ("No, the heart is enlarged", "no", False),
        ("Yes, it is abnormal", None, True),
        ("No, it is normal", None, True),
    ],
)
def test_an_opposite_denies(answer, key, is_contradictory):
    resolved = resolve(answer, "Is the heart normal?")
    assert resolved.is_contradictory == is_contradictory and (is_contradictory or resolved.key == key)


EQUAL = [
    ("Is it on the left or the right side?", "left|Left side|on the left|the left side.|it is on the left side|Left"),
    ("Which side is it on?", "left|left side|on the left side"),
    ("What is the plane?", "coronal|Coronal Plane|the coronal plane"),
    ("Is this a T1 or T2 weighted image?", "T2|T2 weighted|T2-weighted image|t2"),
    ("Is this a T1 weighted, T2 weighted, or FLAIR image?", "FLAIR|flair|it is a FLAIR image"),
    ("Was it taken with or without contrast?", "with contrast|With contrast."),
    ("Is this lung cancer or a lung abscess?", "lung cancer|cancer|Lung cancer."),
    ("Is the mass cystic or solid?", "cystic|a cystic mass|it is cystic"),
    ("Which is bigger in this image, kidney or liver?", "liver|the liver|Liver."),
    ("Where is the lesion?", "lower left lung|left lower lung|in the lower left lung|Lower Left Lungs"),
    ("How many nodules are there?", "two|2|2 nodules|two nodules."),
    ("How many nodules are there?", "none|no|0|zero"),
    ("How large is it?", "3.5cm|3.5 cm|3.50 centimeters"),
    ("What is seen?", "a nodule|nodules|The nodule.|it is a nodule|there is a nodule"),
    ("What is seen?", "oedema|edema|Oedema."),
    ("Is the pneumonia left vs. right sided?", "right|right-sided|on the right"),
]
ALL_EQUAL = [
    (question, *(answers.split("|")[i] for i in (0, n)))
    for question, answers in EQUAL
    for n in range(1, answers.count("|") + 1)
]


@pytest.mark.parametrize("question, first, second", ALL_EQUAL)
def test_one_answer_in_other_words_has_one_key(question, first, second):
    assert resolve(first, question).key == resolve(second, question).key


@pytest.mark.parametrize(
    "question, answers",
    [
        ("Is it on the left or the right side?", "left|right|both|neither"),
        ("Is this lung cancer or a lung abscess?", "lung cancer|lung abscess|lung"),
        ("Was it taken with or without contrast?", "with contrast|without contrast"),
        ("Where is the lesion?", "left lung|right lung|left upper lung|lung|left of the lung"),
        ("What is seen?", "Hepatitis|Hepatitis A|Hepatitis B|HER2+|HER2-|5|-5|2.5|25|> 3 cm|< 3 cm|3 cm|ileum|ilium"),
        ("How many are there?", "2|3|0|12"),
        ("Is there a fracture?", "yes|no|a dislocation"),
    ],
)
def test_different_answers_have_different_keys(question, answers):
    assert len({resolve(answer, question).key for answer in answers.split("|")}) == answers.count("|") + 1


@given(st.text(max_size=40), st.sampled_from(["", FRACTURE, "left or right?", "what? A. x B. y"]))
def test_any_text_is_read_and_only_an_invisible_one_has_no_key(text, question):
    resolved = resolve(text, question)
    assert bool(resolved.key) == bool(normalise_answer(text))
    assert resolve(text, question) == resolved


def test_true_answers_of_real_sets_keep_their_polarity_and_never_contradict_themselves(real_rows):
    by_question = defaultdict(set)
    with types_unchecked():  # thousands of calls, whose types other tests look at
        _check_rows(real_rows, by_question)
        merged = {
            tuple(sorted({normalise_answer(a) for a in group}))
            for question, answers in by_question.items()
            for group in _by_key(question, answers).values()
        }
    assert {group for group in merged if len(group) > 1} == {
        ("in midline", "midline", "yes"), ("chest x ray", "chest xray"), ("ring enhancing", "ring enhancing lesion"),
    }  # fmt: skip


def _check_rows(rows, by_question):
    for question, answer in rows:
        resolved = resolve(answer, question)
        normal = normalise_answer(answer)
        assert not resolved.is_contradictory, (question, answer)
        assert not disagree(answer, answer), answer
        if normal in {"yes", "no"} and not question.lower().startswith("how many"):
            assert resolved.key == normal, (question, answer)
        by_question[question].add(answer)


def _by_key(question, answers):
    keys = defaultdict(list)
    for answer in answers:
        keys[resolve(answer, question).key].append(answer)
    return keys


@pytest.fixture(scope="module")
def real_rows(data_root):
    """(question, answer) of VQA-RAD and SLAKE in English."""
    rows = json.loads((data_root / "vqa-rad" / "VQA_RAD Dataset Public.json").read_text())
    for split in ("train", "validate", "test"):
        rows += [r for r in json.loads((data_root / "slake" / f"{split}.json").read_text()) if r["q_lang"] == "en"]
    return {(str(row["question"]), str(row["answer"])) for row in rows if str(row["answer"]).strip()}
