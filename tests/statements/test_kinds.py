"""Kinds of questions: the forms that were once wrong, variants of each, and what stays of a statement that is cut."""

import json
import re
from pathlib import Path

import pytest

from reflex_jax.judge.batch import StatementTokenizer
from reflex_jax.statements.collisions import colliding_options
from reflex_jax.statements.operator import decl, decl_rule

VARIANTS = Path(__file__).with_name("variants.txt")
VIGNETTE = (
    "A 62-year-old woman with a long history of hypertension, diabetes and hyperlipidemia comes to the emergency department "
    "with crushing substernal chest pain that radiates to her left arm, diaphoresis and nausea. Her blood pressure is 90/60 "
    "mm Hg and her pulse is 110/min. Lung fields are clear, jugular veins are distended, and an electrocardiogram shows "
    "ST-segment elevation in leads II, III and aVF. A radiograph of the chest is shown. "
)
OPTIONS = ("Left anterior descending artery", "Right coronary artery", "Left circumflex artery", "Left main artery")


def test_no_form_that_was_wrong_is_wrong(data_root):
    wrong = []
    for line in (data_root / "forms" / "statements.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        statement = decl(row["question"], row["answer"], row["options"])
        if not all(re.search(p, statement) for p in row["must"]) or any(
            re.search(p, statement) for p in row["must_not"]
        ):
            wrong.append((row["question"], row["answer"], statement))
    assert not wrong


def test_variants_of_the_forms_read_as_they_should():
    """A line of the table: question | options, divided by ; | answer | statement."""
    wrong, lines = [], VARIANTS.read_text(encoding="utf-8").splitlines()
    for line in lines:
        question, options, answer, expected = (part.strip() for part in line.split("|"))
        offered = tuple(option.strip() for option in options.split(";")) if options else None
        statement = decl(question.replace("\\n", "\n"), answer, offered)
        if statement != expected:
            wrong.append((question, answer, expected, statement))
    assert len(lines) > 400 and not wrong


def test_no_statement_echoes_its_question():
    for question in ("fracture where exactly please", "Zorp the blim?", "Is of the from?", "such a thing", "in which"):
        for answer in ("left rib", "yes", "no", "maybe"):
            assert decl(question, answer) not in {question.lower(), f"{question.lower()} {answer}"}
            assert decl(question, answer) != decl(question, "another")
        assert {"not", "no"} & set(re.findall(r"\w+", decl(question, "no")))


@pytest.fixture(scope="module")
def encode(data_root):
    tokenizer = StatementTokenizer(data_root / "tokenizers" / "biomedclip")
    return lambda text: tokenizer(text, 64)


@pytest.mark.parametrize(
    "question",
    [
        VIGNETTE + "Which artery is most likely occluded?",
        VIGNETTE + "Which of the following is the most likely cause?",
        VIGNETTE.replace(". ", ", ") + "which artery is most likely occluded?",
        "What is the artery that supplies the region of the heart that is shown in the picture of "
        + VIGNETTE.replace(". ", ", "),
        VIGNETTE + "All of the following are likely occluded except",
        "Is the artery that " + VIGNETTE.replace(". ", " and ") + " occluded by a thrombus?",
    ],
)
def test_a_cut_loses_no_answer(question, encode):
    answers = [*OPTIONS, "a clot", "yes", "no"]
    ids = [encode(decl(question, answer)) for answer in answers]
    assert len(set(ids)) == len(answers)
    lettered = question + " " + " ".join(f"({letter}) {text}" for letter, text in zip("ABCD", OPTIONS, strict=True))
    assert len({encode(decl(lettered, letter)) for letter in "ABCD"}) == 4
    assert colliding_options(question, "B", OPTIONS, encode) == []


def test_options_that_the_judge_cannot_tell_apart_are_named(encode):
    long = "a mass of the lung with " + "calcification and necrosis and " * 9
    options = (f"{long} edema", f"{long} effusion", "a cyst")
    assert colliding_options("What is seen?", "A", options, encode) == [options[1]]
    assert colliding_options("What is seen?", "C", options, encode) == []
    assert colliding_options("What is seen?", "a cyst", None, encode) == []


def test_a_capital_a_is_a_letter_and_no_article():
    assert decl("What is the diagnosis?", "Type A aortic dissection") == "the diagnosis is type a aortic dissection"
    assert decl("WHAT IS THE DIAGNOSIS?", "A ABSCESS").endswith("an abscess")


def test_several_readings_of_one_answer_make_one_statement():
    question = "Is there a fracture?"
    assert len({decl(question, answer) for answer in ("yes", "Yes.", "there is a fracture", "The answer is yes")}) == 1
    assert len({decl(question, answer) for answer in ("no", "No!", "there is no fracture", "absent")}) == 1
    listed = "Diagnosis?\n1. cyst\n2. abscess"
    assert {decl(listed, answer) for answer in ("2", "2.", "(2)", "2. abscess", "abscess")} == {
        "the diagnosis is an abscess"
    }
    assert decl_rule(listed, "2") == "named"
