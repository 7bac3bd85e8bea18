"""Prompts by name: one text a question, the shape that they ask for, and room for whichever text is drawn."""

from collections import Counter
from pathlib import Path

import pytest

from reflex_jax.config_reader import load_config
from reflex_jax.data.examples import Example
from reflex_jax.data.prompt_texts import MODALITY_TAGS, PROMPTS, QUESTION
from reflex_jax.data.prompts import load_processor
from reflex_jax.step.models import completion_shape
from reflex_jax.text.completion import CompletionShape

PHANTOM = Path(__file__).resolve().parents[2] / "reflex_jax" / "assets" / "phantom" / "policy"


def processor_of(prompt, seed=0):
    return load_processor(PHANTOM, min_pixels=3136, max_pixels=64 * 28 * 28, prompt=prompt, seed=seed)


@pytest.mark.parametrize("name", PROMPTS)
def test_every_text_shows_the_question_once_and_the_tags_it_asks_for(name):
    prompt = PROMPTS[name]
    for text in prompt.texts:
        assert text.count(QUESTION) == 1
        assert name == "bare" or all(tag in text for tag in prompt.shape.tags)
        assert prompt.shape.thought != "none" or "<think" not in text
    assert len(set(prompt.texts)) == len(prompt.texts)


def test_medix_names_its_sixteen_kinds_of_image():
    (text,) = PROMPTS["medix"].texts
    assert len(set(MODALITY_TAGS)) == 16 and all(f"<{tag}>" in text for tag in MODALITY_TAGS)
    assert text.index("<CT_SCAN>") < text.index("<thinking>") < text.index("<answer>") < text.index(QUESTION)


def test_a_question_draws_one_of_three_texts_by_its_id_and_the_seed():
    prompt, ids = PROMPTS["rarl"], [f"q{i}" for i in range(3000)]
    drawn = [prompt.text_of(name, 0) for name in ids]
    assert drawn == [prompt.text_of(name, 0) for name in ids]
    counts = Counter(drawn)
    assert len(counts) == 3 and all(900 < count < 1100 for count in counts.values())  # 1000 +- 4 standard deviations
    other = [prompt.text_of(name, 1) for name in ids]
    assert 0.25 < sum(a == b for a, b in zip(drawn, other, strict=True)) / 3000 < 0.42  # chance: a third
    assert prompt.text_of("\ud800", 0) in prompt.texts  # half of a surrogate pair, which JSON can hold


def test_what_is_encoded_and_measured_is_the_text_that_was_drawn():
    processor = processor_of("rarl")
    names = ["q0", "q1", "q2", "q3", "q4"]
    assert len({PROMPTS["rarl"].text_of(name, 0) for name in names}) == 3
    lengths = set()
    for name in names:
        ids = processor.encode([], "Is it?", example_id=name).ids
        example = Example(id=name, question="Is it?", answer="yes", answer_type="closed")
        text = PROMPTS["rarl"].text_of(name, 0).replace(QUESTION, "Is it?")
        encoded = processor.encode_text("Is it?", example_id=name)
        assert processor.tokenizer.decode(encoded) == text
        assert processor.size_of(example)[0] == len(ids) and len(encoded) < len(ids)
        lengths.add(len(ids))
    assert len(lengths) == 3


def test_another_seed_of_the_run_draws_other_texts():
    texts = [
        [processor.encode_text("?", example_id=str(i)) for i in range(12)]
        for processor in (processor_of("rarl", seed) for seed in (0, 1, 0))
    ]
    assert texts[0] == texts[2] != texts[1]


def test_completions_are_read_as_the_prompt_asks_unless_the_configuration_says_otherwise():
    def shape(*settings):
        return completion_shape(load_config(None, list(settings)))

    assert shape() == shape("data.prompt=bare") == shape("data.prompt=rarl") == CompletionShape()
    assert shape("data.prompt=answer_only") == shape("data.prompt=rarl_direct") == CompletionShape(thought="none")
    medix = CompletionShape(thought="thinking", preamble=True, fallback=True, compact=True)
    assert shape("data.prompt=medix") == medix
    said = [
        "completion.thought=think",
        "completion.preamble=false",
        "completion.fallback=false",
        "completion.compact=false",
    ]
    assert shape("data.prompt=medix", *said) == CompletionShape()
    assert shape(*(setting.replace("false", "true").replace("=think", "=thinking") for setting in said)) == medix
