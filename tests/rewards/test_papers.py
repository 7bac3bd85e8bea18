"""The rewards of four papers, case by case: what each component pays and what it adds up to, computed by hand.

Completions go through the bridge of a run whose configuration says what the paper does; what a model would say (an encoder's
cosine or F1, a language model's verdict, the judge's evidence) is given with each case.
"""

from dataclasses import dataclass, field
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from reflex_jax.config_reader import load_config
from reflex_jax.data.examples import Example
from reflex_jax.rewards.combine import combine_rewards
from reflex_jax.rewards.components import REWARDS
from reflex_jax.step.bridge import HostBridge
from reflex_jax.step.models import completion_shape
from reflex_jax.text.completion import parse_completion
from tests.judge_evidence import evidence_of


@dataclass
class Case:
    completion: str
    truth: str
    pays: dict  # component -> its score by hand; what is left out is 0, None: it does not apply
    total: float
    measured: float = 0.0  # what the encoder says of every pair that it is asked about
    tokens: int = 1
    answer_type: str = "open"
    options: tuple | None = None
    modality: str | None = None
    reasoning: str | None = None
    evidence: dict = field(default_factory=dict)  # of the judge
    given: dict = field(default_factory=dict)  # components that others compute


class GivenEncoder:
    def __init__(self, measured):
        self._measured = measured

    def cosines(self, pairs, *, pooling):
        return [self._measured] * len(pairs)

    def greedy_f1(self, pairs, *, layer):
        return [self._measured] * len(pairs)


def paid(case, *settings, weights=None):
    """(component -> score, total) of a case under a configuration."""
    config = load_config(None, list(settings))
    components = config.rewards.components
    bridge = HostBridge(
        decode=lambda ids: case.completion, components=components, statement_tokenizer=None, max_statement_tokens=16,
        centered=False, parse=partial(parse_completion, shape=completion_shape(config)),
        resources={"text_encoders": {"judge": GivenEncoder(case.measured)}},
    )  # fmt: skip
    example = Example(
        id="q", question="What is shown?", answer=case.truth, answer_type=case.answer_type, options=case.options,
        modality=case.modality, reasoning=case.reasoning,
    )  # fmt: skip
    mask = np.ones((1, 1, case.tokens), bool)
    bridged = bridge([example], mask.astype(np.int32), mask, None)
    assert bridged.failures == [[None]], bridged.failures
    found = {name: values[0, 0] for name, values in bridged.scores.components.items()}
    evidence = evidence_of(**{name: jnp.full((1, 1), value) for name, value in ({"iou": 0.0} | case.evidence).items()})
    for name, component in components.items():
        if REWARDS[name].kind == "device":
            found[name] = REWARDS[name].function(evidence, **component.options)[0, 0]
    found |= case.given
    arrays = {name: jnp.full((1, 1), value, jnp.float32) for name, value in found.items()}
    total = combine_rewards(arrays, config.rewards.weights | (weights or {}))
    applies = {name: bool(values[0, 0]) for name, values in bridged.scores.applies.items()}
    return {name: None if not applies.get(name, True) else float(v) for name, v in found.items()}, float(total[0, 0])


def check(case, *settings, weights=None):
    found, total = paid(case, *settings, weights=weights)
    expected = {name: case.pays.get(name, 0) for name in found if name not in case.given}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5), case.completion
    assert total == pytest.approx(case.total, abs=1e-5), case.completion


def think(thought, answer):
    return f"<think>{thought}</think><answer>{answer}</answer>"


# --- REFLEX-Med (Eq. 5, 7, 9): R_ans + R_fmt + R_VFR + R_BPR, thresholds 0.5, 0.8, 0.5, all strict

ALL, NOTHING = {"iou": 1.0, "text_text_similarity": 1.0, "image_text_similarity": 0.6}, {}
CLOSED = {"answer_type": "closed"}
REFLEX_MED = [
    Case(think("t", "yes"), "yes", {"answer": 1, "format": 1, "visual_fidelity": 1, "provenance": 1}, 4, evidence=ALL, **CLOSED),
    # at the thresholds nothing is paid
    Case(think("t", "no"), "yes", {"format": 1}, 1, **CLOSED,
         evidence={"iou": 0.5, "text_text_similarity": 0.8, "image_text_similarity": 0.5}),
    Case(think("t", "no"), "yes", {"format": 1, "visual_fidelity": 1, "provenance": 0.5}, 2.5, **CLOSED,
         evidence={"iou": 0.51, "text_text_similarity": 0.81, "image_text_similarity": 0.3}),
    # a right answer outside of its tags is none, and a completion without an answer has no statement to judge
    Case("<think>t</think>yes", "yes", {}, 0, evidence={"has_statement": False}, **CLOSED),
    Case("yes", "yes", {}, 0, evidence={"has_statement": False}, **CLOSED),
    Case("First. " + think("t", "yes"), "yes", {"answer": 1}, 1, **CLOSED),
    Case(think("t", "yes") + "<answer>no</answer>", "yes", {}, 0, evidence={"has_statement": False}, **CLOSED),
    # a letter, its text and both are one answer; a letter with another option's text is wrong
    Case(think("t", "B) mass"), "mass", {"answer": 1, "format": 1}, 2, options=("cyst", "mass"), **CLOSED),
    Case(think("t", "A) mass"), "mass", {"format": 1}, 1, options=("cyst", "mass"), **CLOSED),
    # open: 2 of 2 words, of 3 in the truth: BLEU-1 = exp(1 - 3/2) = 0.60653, ROUGE-1 = 2 * 1 * (2/3) / (5/3) = 0.8
    Case(think("t", "left lung"), "left lung nodule", {"answer": 0.703265, "format": 1}, 1.703265),
    # another side: words in common, and wrong
    Case(think("t", "right lung nodule"), "left lung nodule", {"format": 1}, 1),
]  # fmt: skip


@pytest.mark.parametrize("case", REFLEX_MED, ids=lambda case: case.completion[:40])
def test_reflex_med(case):
    check(case)


# --- MedVLM-R1: letter accuracy in {0, 0.5, 1} + format

FOUR = {"options": ("Fracture", "Effusion", "Mass", "Normal"), "answer_type": "closed", "truth": "Mass"}
MEDVLM = ("rewards.components={letter: 1, format: 1}",)
MEDVLM_R1 = [
    Case(completion=think("t", "C"), pays={"letter": 1, "format": 1}, total=2, **FOUR),
    Case(completion="<think>t</think>\n<answer> c </answer>\n", pays={"letter": 1, "format": 1}, total=2, **FOUR),
    Case(completion=think("t", "C)"), pays={"letter": 0.5, "format": 1}, total=1.5, **FOUR),
    Case(completion=think("t", "(C) it is!"), pays={"letter": 0, "format": 1}, total=1, **FOUR),  # the I of "it" and "is"
    Case(completion=think("t", "C) Mss"), pays={"letter": 0.5, "format": 1}, total=1.5, **FOUR),
    Case(completion=think("t", "C) Mass"), pays={"format": 1}, total=1, **FOUR),  # the A of "Mass"
    Case(completion=think("t", "Mass"), pays={"format": 1}, total=1, **FOUR),  # its A is the only letter, and wrong
    Case(completion=think("t", "A) Fracture"), pays={"format": 1}, total=1, **FOUR | {"truth": "Fracture"}),  # A F A C E
    Case(completion=think("t", "B"), pays={"format": 1}, total=1, **FOUR),
    Case(completion=think("t", "K"), pays={"format": 1}, total=1, **FOUR),
    Case(completion="<answer>C</answer>", pays={"letter": 1}, total=1, **FOUR),  # no thought: no format
    Case(completion="<think>t</think>C", pays={}, total=0, **FOUR),  # no answer tags
    Case(completion=think("t", "C") + ".", pays={"letter": 1}, total=1, **FOUR),
    Case(completion="C", pays={}, total=0, **FOUR),
]  # fmt: skip


@pytest.mark.parametrize("case", MEDVLM_R1, ids=lambda case: case.completion[:40])
def test_medvlm_r1(case):
    check(case, *MEDVLM)


def test_medvlm_r1_takes_the_whole_completion_for_an_answer_where_it_is_told_to():
    check(Case(completion="C", pays={"letter": 1}, total=1, **FOUR), *MEDVLM, "completion.fallback=true")


# --- MediX-R1: 0.9 (0.575 llm + 0.375 embedding + 0.05 modality) + 0.1 format = 0.5175, 0.3375, 0.045, 0.1

MEDIX = (
    "data.prompt=medix",
    "rewards.components={embedding_similarity: {weight: 0.3375, valid_only: true}, modality: 0.045, format: 0.1}",
)
LLM = 0.5175


def medix(completion, pays, total, *, truth="liver abscess", llm=0, **more):
    return Case(completion, truth, pays, total, modality="CT_SCAN", given={"llm": llm}, **more)


BEGIN = "<CT_SCAN><thinking>t</thinking>"
E, M, F = "embedding_similarity", "modality", "format"
MEDIX_R1 = [
    medix(f"{BEGIN}<answer>liver abscess</answer>", {E: 1, M: 1, F: 1}, 1, llm=1),
    medix(" <ct_scan>\n<thinking>t</thinking>\n <answer> liver abscess. </answer>\n", {E: 1, M: 1, F: 1}, 1, llm=1),
    medix("<thinking>t</thinking><answer>liver abscess</answer>", {E: 1, F: 1}, 0.955, llm=1),  # no tag
    medix("<X_RAY><thinking>t</thinking><answer>abscess</answer>", {E: 1, F: 1}, 0.955, llm=1, measured=0.8),  # reached
    medix(f"{BEGIN}<answer>abscess</answer>", {M: 1, F: 1}, 0.6625, llm=1, measured=0.79),
    # text before the thought is not checked by the format, and is no tag
    medix("It is a <CT_SCAN><thinking>t</thinking><answer>liver abscess</answer>", {E: 1, F: 1}, 0.955, llm=1),
    # no answer tags: the whole response is compared; 0.3375 + 0.045
    medix(f"{BEGIN}liver abscess", {E: 1, M: 1}, 0.3825, measured=0.9),
    # no thought: neither tag nor format
    medix("<CT_SCAN><answer>liver abscess</answer>", {E: 1}, 0.855, llm=1),
    # one letter, question marks, colons and blanks to fill in are no answers: 0.045 + 0.1
    medix(f"{BEGIN}<answer>B</answer>", {M: 1, F: 1}, 0.145, truth="B", measured=1.0),
    medix(f"{BEGIN}<answer>liver abscess?</answer>", {M: 1, F: 1}, 0.145, measured=1.0),
    medix(f"{BEGIN}<answer>answer: liver abscess</answer>", {M: 1, F: 1}, 0.145, measured=1.0),
    medix(f"{BEGIN}<answer>a __ abscess</answer>", {M: 1, F: 1}, 0.145, measured=1.0),
    medix(f"{BEGIN}<answer></answer>", {M: 1, F: 1}, 0.145),  # the format asks for tags alone
    # white space around / goes, so "and / or" is "and/or"
    medix(f"{BEGIN}<answer>cyst and / or abscess</answer>", {E: 1, M: 1, F: 1}, 1, truth="cyst and/or abscess", llm=1),
    # it goes around > too, but not in the truth: no longer the same text, the encoder is asked
    medix(f"{BEGIN}<answer>size > 3 cm</answer>", {M: 1, F: 1}, 0.6625, truth="size > 3 cm", llm=1, measured=0.7),
    medix(f"{BEGIN}<answer>size > 3 cm</answer>", {E: 1, M: 1, F: 1}, 1, truth="size > 3 cm", llm=1, measured=0.99),
    # the first of two answers counts, and the format sees the outermost tags
    medix(f"{BEGIN}<answer>liver abscess</answer><answer>cyst</answer>", {E: 1, M: 1, F: 1}, 1, llm=1),
    medix(f"{BEGIN}<answer>cyst</answer><answer>liver abscess</answer>", {M: 1, F: 1}, 0.145),
    medix(f"{BEGIN}<answer>liver abscess</answer> Good luck.", {E: 1, M: 1}, 0.9, llm=1),  # something behind
    medix(f"{BEGIN}<answer>Liver abscess</answer>", {M: 1, F: 1}, 0.145),  # another case is another text
]  # fmt: skip


@pytest.mark.parametrize("case", MEDIX_R1, ids=lambda case: case.completion[:60])
def test_medix_r1(case):
    check(case, *MEDIX, weights={"llm": LLM})


def test_medix_r1_leaves_white_space_where_it_is_told_to():
    case = medix(f"{BEGIN}<answer>cyst and / or abscess</answer>", {M: 1, F: 1}, 0.145, truth="cyst and/or abscess")
    check(case, *MEDIX, "completion.compact=false", weights={"llm": LLM})


# --- RARL: format {1, 0.1, 0} + min(0.001 tokens, 1) + exact match or BERTScore-F1 + reasoning where there is a reference

RARL_REWARDS = (
    "data.prompt=rarl",
    "rewards.components={format: {partial: 0.1}, length: 1, bertscore: 1, reasoning: 1}",
)
NO_REFERENCE = {"reasoning": None}
RARL = [
    Case(think("t", "yes"), "yes", {"format": 1, "length": 0.2, "bertscore": 1, **NO_REFERENCE}, 2.2, tokens=200, **CLOSED),
    Case(think("t", "no"), "yes", {"format": 1, "length": 0.1, **NO_REFERENCE}, 1.1, tokens=100, measured=0.99, **CLOSED),
    Case(think("t", "B"), "mass", {"format": 1, "length": 0.001, "bertscore": 1, **NO_REFERENCE}, 2.001,
         options=("cyst", "mass"), **CLOSED),
    Case(think("t", "left lung"), "lung", {"format": 1, "length": 1, "bertscore": 0.7, "reasoning": 0.7}, 3.4, tokens=1500,
         measured=0.7, reasoning="the left side is dark"),
    Case("<think>t yes", "yes", {"format": 0.1, "length": 0.05, **NO_REFERENCE}, 0.15, tokens=50, **CLOSED),  # tags in part
    Case("yes", "yes", {"length": 0.003, **NO_REFERENCE}, 0.003, tokens=3, **CLOSED),  # no tags
    Case("<answer>left</answer>", "left lung", {"format": 0.1, "length": 0.01, "bertscore": 0.8}, 0.91, tokens=10,
         measured=0.8, reasoning="the left side is dark"),  # no thought to compare
]  # fmt: skip


@pytest.mark.parametrize("case", RARL, ids=lambda case: case.completion[:40])
def test_rarl(case):
    check(case, *RARL_REWARDS)
