"""A question is taken apart: the sentence that asks, its context, its options; panels and numbers open no list."""

import pytest

from reflex_jax.text.questions import read_question

ABC = "cyst", "nodule", "abscess"
# question, what asks, context, options
CASES = [
    ("<image>\nQuestion: What is it?\nOptions:\nA. cyst\nB. nodule\nC. abscess\nAnswer with the letter.", "What is it?", "", ABC),
    ("What is it? (a) cyst; (b) nodule; (c) abscess", "What is it?", "", ABC),
    ("What is it? [A] cyst [B] nodule [C] abscess. Choose the best answer.", "What is it?", "", ABC),
    ("What is it? 1. cyst 2. nodule 3. abscess", "What is it?", "", ABC),
    ("What is it?\n1) cyst\n2) nodule\n3) abscess", "What is it?", "", ABC),
    ("What is it? A: cyst, B: nodule, C: abscess", "What is it?", "", ABC),
    ("What is it? i) cyst ii) nodule iii) abscess", "What is it?", "", ABC),
    ("What is it? Choices: cyst, nodule, abscess", "What is it?", "", ABC),
    ("A) cyst B) nodule C) abscess. Which of these is it?", "Which of these is it?", "", ABC),
    ("A 62-year-old woman coughs. Dr. Smith sees 2.5 cm. What is it?", "What is it?",
     "A 62-year-old woman coughs. Dr. Smith sees 2.5 cm.", ()),
    ("this is an x-ray. is it broken? answer yes or no", "is it broken?", "this is an x-ray.", ()),
    ("Chest X-ray (a) and CT (b) are shown. Is there a mass?", "Is there a mass?", "Chest X-ray (a) and CT (b) are shown.", ()),
    ("(A) CT. (B) MRI. What is the diagnosis?", "What is the diagnosis?", "(A) CT. (B) MRI.", ()),
    ("What do (A) and (B) show?", "What do (A) and (B) show?", "", ()),
    ("Which vitamin is low: A, B or C?", "Which vitamin is low: A, B or C?", "", ()),
    ("Findings: 1. mass 2. effusion. Is there a fracture?", "Is there a fracture?", "Findings: 1. mass 2. effusion.", ()),
    ("Yes or no: is it torn?", "is it torn?", "", ()),
    ("True or false: the heart is enlarged.", "the heart is enlarged.", "", ()),
    ("There is a mass. True or false?", "There is a mass.", "", ()),
    ("Look at the image carefully and answer the question: is it torn?", "is it torn?", "", ()),
    ("Based on the CT of the chest, is it torn?", "is it torn?", "", ()),
    ("Is there a mass? If so, where?", "Is there a mass?", "If so, where?", ()),
    ("", "", "", ()),
]  # fmt: skip


@pytest.mark.parametrize(("question", "asked", "context", "options"), CASES)
def test_a_question_is_taken_apart(question, asked, context, options):
    read = read_question(question)
    assert (read.asked, read.context, read.options) == (asked, context, options)


def test_given_options_stand_before_those_of_the_list():
    read = read_question("What is it? (A) cyst (B) nodule", ("left", "right"))
    assert read.options == ("left", "right") and read.asked == "What is it?" and read.labels == ("A", "B")
