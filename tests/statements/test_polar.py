"""Yes/no questions: what is affirmed differs from what is denied, and all that an answer says is kept."""

from reflex_jax.statements.operator import FALLBACK, decl, decl_rule
from reflex_jax.statements.polar import polar_clauses


def test_negation_differs_from_affirmation_on_every_real_yes_no_question(real_questions):
    rows = [row for questions in real_questions.values() for row in questions]
    asked = {question for question, answer, _ in rows if answer.strip().lower() in {"yes", "no"}}
    for question in asked:
        yes, no = decl(question, "yes"), decl(question, "no")
        assert yes != no
        if decl_rule(question, "yes") == "polar":
            negations = {"no", "not", "nothing", "none", "cannot"}
            assert (negations & set(yes.split())) != (negations & set(no.split())), (yes, no)


def test_several_questions_in_one_are_affirmed_and_denied_together():
    assert decl("is it left and is it big and are they round?", "yes") == "it is left and it is big and they are round"
    assert decl("is it left and is it big?", "no") == "it is not so that it is left and it is big"
    assert decl("is a and " * 400 + "is it left?", "yes")  # longer than Python's stack is deep


def test_free_text_around_yes_and_no_is_kept():
    question = "Is there a nodule?"
    assert decl(question, "Yes, in the left lung.") == "there is a nodule, in the left lung"
    assert decl(question, "No nodule") == "there is no nodule"
    assert decl(question, "I would say yes") == "there is a nodule"
    assert decl_rule(question, "maybe") == FALLBACK
    assert decl(question, "maybe") == "the answer to whether there is a nodule is maybe"


def test_clauses_of_what_is_not_a_yes_no_question_are_none():
    assert polar_clauses("what is this") is None
    assert polar_clauses("") is None
    assert polar_clauses("is") is None
