"""Whatever a policy samples is a result: no completion raises, and none takes longer than its length explains."""

import random
import sys
import time
from contextlib import ExitStack

import pytest

from reflex_jax.rewards.answer import answer_reward
from reflex_jax.rewards.format import format_reward
from reflex_jax.statements.operator import decl
from reflex_jax.text.answers import _LETTER
from reflex_jax.text.completion import parse_completion
from reflex_jax.text.normalise import LONGEST_ANSWER, has_visible_character
from tests.unchecked import types_unchecked

OPTIONS = ("cyst", "a nodule", "Abscess", "calcification", "edema", "effusion", "fracture", "hernia", "mass", "none")
PARTS = {"bleu1": 0.5, "rouge1": 0.5}
# question, true answer, options, answer type: one at least for each way in which a statement is made
QUESTIONS = [
    ("is there a nodule ?", "yes", None, "closed"),
    ("Is the cyst on the left or the right side?", "left", None, "closed"),
    ("Which abnormality is seen? A. cyst B. nodule C. abscess D. calcification", "B", OPTIONS[:4], "closed"),
    ("what is it ?", "(j)", OPTIONS, "closed"),
    ("Where is the mass located?", "in the left lobe", None, "open"),
    ("How many kidneys are there?", "2", None, "open"),
    ("How was this image taken?", "x-ray", None, "open"),
    ("Why is the right kidney enlarged?", "ureteral obstruction", None, "open"),
    ("In which lobe is the nodule?", "left upper", None, "open"),
    ("What is wrong with the pancreas?", "enlarged", None, "open"),
    ("Which kidney is abnormal?", "right", None, "open"),
    ("Which organ contains the air-fluid level?", "stomach", None, "open"),
    ("The mass is located in what region?", "suprasellar", None, "open"),
    ("Size of the mass?", "3.4 cm", None, "open"),
]
FRAMES = (
    "<think>{0}</think><answer>{1}</answer>",
    "<think>{0}</think>\n<answer>({2}) {0}</answer>",
    "{0}<answer>{2}{0}</answer>",
    "<think></think><answer>option {2}. {0}</answer>",
    "<think>{0}</think> <answer>the {0} left {2}</answer>",
    "<answer>yes{2} {0}</answer>",
    "<think>no</think><answer>{2}</answer>{0}",
    "<think>{0}<answer>in {0} {1}</answer>",
)
WORDS = (
    "yes no the a an left right lobe in on of with not , . ; : ! ? - ( ) 1 2.5 1st .5 A B. (c) option or and is seen located "
    "side brain kidneys nodule <answer> </answer> <think> </think> & &#65; \u0130 \u0131 \u00df \ufdfa \u0301 \u200b \u00a8"
).split()

LETTERS = "ABJKabjk\u0130\u0131\uff22\u24b7\u0411"  # what names an option, and what looks like it


def score(completion: str, number: int) -> None:
    """Everything the host makes of one completion."""
    question, truth, options, answer_type = QUESTIONS[number % len(QUESTIONS)]
    answer = parse_completion(completion).answer
    rewards = [
        format_reward(completion),
        answer_reward(answer, truth, answer_type=answer_type, options=options, parts=PARTS),
    ]
    assert all(0 <= reward <= 1 for reward in rewards)
    if answer is not None:
        assert decl(question, answer, options)


def completions(count: int, seed: int):
    """Completions that together hold every code point of Unicode, half surrogates and unassigned ones too, and words."""
    draw = random.Random(seed)
    points = list(map(chr, range(sys.maxunicode + 1)))
    draw.shuffle(points)
    size = -(-len(points) // (count // 16 * 15))
    for number in range(count):
        turn = number // 16 * 15 + number % 16 - 1
        words = " ".join(draw.choices(WORDS, k=number % 7 + 1))
        some = points[turn * size : (turn + 1) * size] or draw.choices(points, k=size)
        middle = "".join(some) if number % 16 else words
        yield FRAMES[number // 2 % len(FRAMES)].format(middle, words, draw.choice(some if number % 3 else LETTERS))


@pytest.mark.parametrize("count", [6_000, pytest.param(60_000, marks=pytest.mark.slow)])
def test_no_completion_raises_and_each_has_its_rewards_and_statement(count):
    seen = set()
    with ExitStack() as unchecked:
        for number, completion in enumerate(completions(count, seed=count)):
            if number == 1_500:  # types have been seen by then, and looking at them takes longer than all the rest
                unchecked.enter_context(types_unchecked())
            seen.update(completion)
            try:
                score(completion, number)
            except Exception as error:
                raise AssertionError(f"{completion!r} to {QUESTIONS[number % len(QUESTIONS)]}") from error
    assert len(seen) == sys.maxunicode + 1


def test_no_character_but_ten_ascii_letters_and_their_forms_names_one_of_ten_options():
    forms = [c for c in map(chr, range(sys.maxunicode + 1)) if _LETTER.fullmatch(c)]
    assert "".join(forms) == "ABCDEFGHIJabcdefghij"


# What a tokenizer has in one token, what text is marked up with, what folds to more, and the words the rules look for.
UNITS = [
    *",;!?\".:'-()[]<>/&%0 \n\t_@#a", ". ", "? ", ", ", " , ", "-a", "1.", "A. ", "B) ", "(a)", " (", "a, ", "ab-", "aed ",
    "a or ", "or ", " or , ", "and ", "not ", "is the ", "left and ", "yes ", "yes, ", "no ", "the ", "of the ", "in the ",
    "option ", "is there a ", "what ", "is a and ", "\ud800", "\x00", "\u200b", "\u202e", "\u2019", "\u3000", "\u0130", "\u00df",
    "\u00a8", "\ufdfa", "\u3315", "\u0301", "\u0315\u0301", "\u0f71\u0f72", "\u0f73", "\uff9e\u0301",
    "\u0315\u200b\u0301", "\u1100\u1161",
    "&amp;", "&#1", "\u00c3\u00a9", "<answer>", "</answer>", "<think>", "</think>", "." * 64,
]  # fmt: skip
LENGTH = 100_000


def frames_of(run: str):
    yield f"<think></think><answer>yes {run}</answer>"
    yield f"<think></think><answer>B) {run} x</answer>"
    yield f"<think>{run}</think>{run}<answer>yes</answer>"
    yield f"<answer>{run}"


@pytest.mark.parametrize("unit", UNITS, ids=ascii)
def test_a_hundred_thousand_characters_of_one_kind_take_less_than_a_tenth_of_a_second(unit):
    run = unit * (LENGTH // len(unit))
    work = [(score, completion, number) for completion in frames_of(run) for number in (2, 8)]
    work += [(decl_and_reward, f"{start}{run} x", number) for start in ("yes ", "B) ") for number in (0, 3, 8, 12)]
    for function, text, number in work:
        # the time of this process alone, and the best of five: other work on the machine does not count
        assert any(seconds(function, text, number) < 0.1 for _ in range(5)), (function.__name__, text[:30], number)


def seconds(function, *arguments) -> float:
    started = time.process_time()
    function(*arguments)
    return time.process_time() - started


def decl_and_reward(answer: str, number: int) -> None:
    """The rewards and the statement, where no parser has looked at the answer before."""
    question, truth, options, answer_type = QUESTIONS[number % len(QUESTIONS)]
    answer_reward(answer, truth, answer_type=answer_type, options=options, parts=PARTS)
    if has_visible_character(answer[:LONGEST_ANSWER]):
        decl(question, answer, options)
