"""The declarative operator: natural statements, one for each answer, for nearly every question of the real sets."""

import random
from collections import defaultdict

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from reflex_jax.statements.operator import (
    DECL_VERSION,
    FALLBACK,
    MAX_ANSWER_WORDS,
    RULES,
    decl,
    decl_coverage,
    decl_rule,
)
from reflex_jax.text.answers import resolve_answer
from reflex_jax.text.normalise import clean_text
from reflex_jax.text.questions import read_question
from reflex_jax.text.tokenizer import load_bert_tokenizer

KINDS = ("cyst", "nodule", "abscess", "calcification")

# question, answer, options, rule, statement: one row at least for each rule, most of them from VQA-RAD and SLAKE
GOLDEN = [
    # the phantom world
    ("is there a nodule ?", "yes", None, "polar", "there is a nodule"),
    ("Is there an abscess?", "No", None, "polar", "there is no abscess"),
    ("Is the cyst on the left or the right side?", "left", None, "alternative", "the cyst is on the left side"),
    ("is the cyst in the upper or the lower part ?", "lower", None, "alternative", "the cyst is in the lower part"),
    ("is this a ct scan ?", "yes", None, "polar", "this is a ct scan"),
    ("is this an x-ray?", "no", None, "polar", "this is not an x-ray"),
    ("Which abnormality is seen? A. cyst B. nodule C. abscess D. calcification", "B", KINDS, "subject_question",
     "the abnormality is a nodule"),
    ("what abnormality is seen ?", "a nodule in the upper left region", None, "subject_question",
     "there is a nodule in the upper left region"),
    ("what abnormality is seen ?", "no abnormality", None, "subject_question", "there is no abnormality"),
    ("where is the cyst ?", "in the lower right region", None, "where", "the cyst is in the lower right region"),
    ("which organ is shown ?", "the brain", None, "subject_question", "the organ shown is the brain"),
    ("which modality is this ?", "ct", None, "subject_question", "the modality is ct"),
    # yes or no
    ("Are the costophrenic angles blunted?", "No", None, "polar", "the costophrenic angles are not blunted"),
    ("Is the appendix seen in this image inflamed?", "Yes", None, "polar",
     "the appendix seen in this image is inflamed"),
    ("Does the lung look normal?", "No", None, "polar", "the lung does not look normal"),
    ("Does this image show edema?", "Yes", None, "polar", "this image shows edema"),
    ("Has the left lung collapsed?", "Yes", None, "polar", "the left lung has collapsed"),
    ("Can you see the abdominal fat pads?", "No", None, "polar", "the abdominal fat pads cannot be seen"),
    ("Are any of the ribs fractured?", "No", None, "polar", "none of the ribs are fractured"),
    ("Is/Are there abnormalities in the patient's left lung?", "No", None, "polar",
     "there are no abnormalities in the patient's left lung"),
    ("Is there no evidence of blunting?", "No", None, "polar", "there is evidence of blunting"),
    ("Evidence of hemorrhage in the kidneys?", "No", None, "polar",
     "there is no evidence of hemorrhage in the kidneys"),
    ("Is the liver not healthy?", "No", None, "polar", "the liver is healthy"),
    ("Did this patient receive IV contrast?", "Yes", None, "polar", "this patient received iv contrast"),
    ("Is the spleen present?", "On the patient's left", None, "state", "the spleen is on the patient's left"),
    # one of two
    ("Is this a solid or cystic lesion?", "Solid", None, "alternative", "this is a solid lesion"),
    ("Is this a CT or an MRI?", "MRI", None, "alternative", "this is an mri"),
    ("Is this a T1 weighted, T2 weighted, or FLAIR image?", "FLAIR", None, "alternative", "this is a flair image"),
    ("Is gray or white matter highlighted in this image?", "gray", None, "alternative",
     "gray matter is highlighted in this image"),
    ("Was this image taken with or without contrast?", "With contrast", None, "alternative",
     "this image was taken with contrast"),
    ("Which is bigger in this image, heart or lung?", "Lung", None, "what_is", "the lung is bigger in this image"),
    # open
    ("Where is the mass located?", "Posterior fossa", None, "where", "the mass is located in the posterior fossa"),
    ("Where is the liver?", "Not seen", None, "where", "the liver is not seen"),
    ("How many kidneys does the image have?", "2", None, "count", "there are 2 kidneys in the image"),
    ("How many lesions are in the spleen?", "one", None, "count", "there is one lesion in the spleen"),
    ("How large is the mass?", "5cm", None, "measure", "the size of the mass is 5cm"),
    ("How was this image taken?", "X-Ray", None, "how", "this image was taken using x-ray"),
    ("How would you describe the liver?", "Shrunken and nodular", None, "describe",
     "the liver is shrunken and nodular"),
    ("Why is the right kidney enlarged?", "ureteral obstruction", None, "why",
     "the right kidney is enlarged due to ureteral obstruction"),
    ("In which lobe is the nodule?", "Left upper", None, "in_question", "the nodule is in the left upper lobe"),
    ("What side of the brain is the lesion on?", "Right", None, "in_question",
     "the lesion is on the right side of the brain"),
    ("What plane is this image in?", "Axial", None, "in_question", "this image is in the axial plane"),
    ("What is in the left apex?", "A bullous lesion", None, "what_is", "there is a bullous lesion in the left apex"),
    ("What is wrong with the pancreas?", "Enlarged", None, "what_is", "the pancreas is enlarged"),
    ("Which kidney is abnormal?", "Right", None, "subject_question", "the right kidney is abnormal"),
    ("What organ is the black hole on the top of body?", "Stomach", None, "subject_question",
     "the black hole on the top of body is the stomach"),
    ("What does the hypodensity suggest?", "metastasis", None, "what_does", "the hypodensity suggests metastasis"),
    ("Which organ contains the air-fluid level?", "Stomach", None, "finite",
     "the organ that contains the air-fluid level is the stomach"),
    ("The mass is located in what region?", "suprasellar", None, "in_place", "the mass is located in the suprasellar"),
    ("Size of the mass?", "3.4 cm", None, "named", "the size of the mass is 3.4 cm"),
    ("Fracture where exactly please", "left rib", None, FALLBACK,
     "the answer to fracture where exactly is left rib"),
    # the second version
    ("The patient has a pneumothorax. True or false?", "false", None, "claim",
     "the patient does not have a pneumothorax"),
    ("The lesion is located in the ___.", "A", ("frontal lobe", "parietal lobe"), "blank",
     "the lesion is located in the frontal lobe"),
    ("The arrow points to the", "B", ("liver", "spleen"), "unfinished", "the arrow points to the spleen"),
    ("All of the following are visible except", "A", ("the liver", "the spleen"), "except", "the liver is not visible"),
    ("Which statement is false?", "A", ("The lungs are clear", "There is no effusion"), "true",
     "the lungs are not clear."),
    ("Where is the lesion?", "there is no lesion", None, "sentence", "there is no lesion."),
    ("When was contrast given?", "before the scan", None, "when", "contrast was given before the scan"),
    ("Who is most at risk?", "smokers", None, "who", "smokers are most at risk"),
    ("Whose skin does this image show?", "a child", None, "whose", "this image shows the skin of a child"),
]  # fmt: skip


@pytest.mark.parametrize(("question", "answer", "options", "rule", "statement"), GOLDEN)
def test_statements_read_as_radiology_sentences(question, answer, options, rule, statement):
    assert decl(question, answer, options) == statement
    assert decl_rule(question, answer, options) == rule


def test_every_rule_has_a_golden_case():
    assert {row[3] for row in GOLDEN} == {entry.name for entry in RULES} | {FALLBACK}
    assert DECL_VERSION == "2"  # a changed statement needs a new version: evidence records it


def test_ninety_nine_of_a_hundred_real_questions_are_served_by_a_rule(real_questions, capsys):
    for name, questions in real_questions.items():
        counts = decl_coverage(questions)
        with capsys.disabled():
            table = "\n".join(f"  {rule:<18}{count:>6}{count / len(questions):>8.1%}" for rule, count in counts.items())
            print(f"\ndecl version {DECL_VERSION} on {name}, {len(questions)} questions\n{table}")
        assert sum(counts.values()) == len(questions)
        assert 1 - counts.get(FALLBACK, 0) / len(questions) >= 0.99


def key_of(question, answer):
    return resolve_answer(answer, read_question(question)).key


def test_real_answers_to_a_real_question_never_share_a_statement(real_questions):
    rows = [row for questions in real_questions.values() for row in questions]
    questions = sorted({question for question, _, _ in rows})
    said = {answer for _, answer, _ in rows if len(answer.split()) <= MAX_ANSWER_WORDS}
    awkward = {
        "left side",
        "on the left",
        "on the left side",
        "in the left lobe",
        "left lobe",
        "both",
        "none",
        "not seen",
    }
    awkward |= {
        "yes, small",
        "yes small",
        "i think no",
        "no, large",
        "2 kidneys",
        "two",
        "t2 image",
        "an mri",
        "midline",
    }
    randomness = random.Random(0)
    for question in randomness.sample(questions, 60):
        answers = awkward | {"yes", "no", "left", "right"} | set(randomness.sample(sorted(said), 100))
        statements = defaultdict(set)
        for answer in answers:
            statements[decl(question, answer)].add(key_of(question, answer))
        assert all(len(normals) == 1 for normals in statements.values()), question


ANSWER_WORDS = "yes no left right side in the a on not lobe t2 2 one lung , . : of and seen located".split()
QUESTION_WORDS = (
    "is are does can what which where how why many the a left right or in on lobe lung abnormal seen ? , there any "
    "this image located to"
).split()
ANSWERS = st.one_of(
    st.text(min_size=1, max_size=30), st.lists(st.sampled_from(ANSWER_WORDS), min_size=1, max_size=5).map(" ".join)
)
QUESTIONS = st.one_of(
    st.sampled_from([row[0] for row in GOLDEN]),
    st.text(max_size=40),
    st.lists(st.sampled_from(QUESTION_WORDS), max_size=9).map(" ".join),
)


@given(question=QUESTIONS, answer=ANSWERS)
@example(question="is it b or a", answer="b")
@example(question="", answer="yes")
@example(question="which", answer="left")
def test_any_question_with_a_visible_answer_gives_a_clean_statement(question, answer):
    assume(clean_text(answer))
    statement = decl(question, answer)
    assert statement and statement == " ".join(statement.split())
    assert statement == decl(question, answer)


@given(question=st.sampled_from([row[0] for row in GOLDEN]), first=ANSWERS, second=ANSWERS)
@example(question="Is this an AP or PA film?", first="pa", second="pa film")
@example(question="Is there a nodule?", first="no", second="there is no nodule")
@example(question="Where is the cyst?", first="left lobe", second="in the left lobe")
@example(question="How many kidneys are there?", first="2", second="2 kidneys")
@example(question="In which lobe is the nodule?", first="left", second="left lobe")
def test_answers_of_different_keys_give_different_statements(question, first, second):
    assume(clean_text(first) and clean_text(second))
    if key_of(question, first) != key_of(question, second):
        assert decl(question, first) != decl(question, second)


@given(first=ANSWERS, second=ANSWERS, question=QUESTIONS)
def test_different_answers_differ_whatever_the_question(question, first, second):
    assume(clean_text(first) and clean_text(second))
    if key_of(question, first) != key_of(question, second):
        assert decl(question, first) != decl(question, second)


@pytest.mark.parametrize("answer", ["", "  ", "\u200b", "\x00"])
def test_an_invisible_answer_is_refused(answer):
    with pytest.raises(ValueError, match="expected an answer with visible characters"):
        decl("is there a nodule?", answer)


def test_answers_are_cut_to_32_words():
    words = [f"w{i}" for i in range(40)]
    statement = decl("what is the pathology?", " ".join(words))
    assert statement == "the pathology is " + " ".join(words[:32])


@pytest.mark.parametrize("answer", ["B", "(b)", "B. nodule", "Nodule", "a nodule"])
@pytest.mark.parametrize(
    "question",
    [
        "Which abnormality is seen? A. cyst B. nodule C. abscess D. calcification",
        "which abnormality is seen ? A cyst B nodule C abscess D calcification",
        "Which abnormality is seen?\nA) cyst\nB) nodule\nC) abscess\nD) calcification",
        "Which abnormality is seen (a) cyst (b) nodule (c) abscess (d) calcification",
        "Which abnormality is seen? Options: A: cyst, B: nodule, C: abscess, D: calcification",
    ],
)
def test_letters_and_texts_of_options_make_one_statement(question, answer):
    assert read_question(question).options == KINDS
    assert decl(question, answer) == decl(question, answer, KINDS) == "the abnormality is a nodule"
    assert len({decl(question, letter) for letter in "ABCDE"}) == 5


@pytest.mark.parametrize(
    "question", ["A nodule is seen. Is it a B cell lymphoma?", "Is vitamin A or vitamin B low?", "Is it A?"]
)
def test_letters_that_open_no_list_are_left_alone(question):
    assert read_question(question).options == ()


def test_a_letter_beyond_ascii_opens_no_list_of_options():
    letters = "abcdefgh\u0131"
    question = "which is it ? " + " ".join(f"({letter}) w{i}" for i, letter in enumerate(letters))
    assert len(read_question(question).options) == 8


def test_no_answer_smuggles_a_special_token_into_the_judge(data_root):
    tokenizer = load_bert_tokenizer(data_root / "tokenizers" / "biomedclip")
    specials = set(tokenizer.all_special_ids)
    for token in tokenizer.all_special_tokens:
        ids = tokenizer(decl("what is this?", f"{token} a {token}"), padding="do_not_pad")["input_ids"]
        assert not set(ids[1:-1]) & specials
