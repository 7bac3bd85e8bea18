"""What the judge is shown: other words are other words, wrong answers are wrong, a minimal pair differs in one thing."""

import numpy as np
import pytest

from reflex_jax.audit.minimal_pairs import other_count, other_level, other_side
from reflex_jax.audit.paraphrases import paraphrase
from reflex_jax.audit.variants import draw_variants
from reflex_jax.audit.wrong_answers import WrongAnswers, is_right
from reflex_jax.data.examples import Example, Picture
from reflex_jax.data.phantom import phantom_examples
from reflex_jax.data.phantom_text import all_claims
from reflex_jax.statements.operator import decl


def example(question: str, answer: str, kind: str = "open", **fields) -> Example:
    return Example(id=question, question=question, answer=answer, answer_type=kind, **fields)


@pytest.mark.parametrize(
    ("asked", "origin", "words"),
    [
        (example("Is there a mass?", "no", paraphrases=("Is a mass visible?",)), "question_rephrase", "a mass is not visible"),
        (example("Is there a mass?", "no", paraphrases=("Is there a mass?",)), "seen", "no mass is seen"),  # no other words
        (example("Where is the cyst?", "in the upper left region"), "second_wording",
         "there is a cyst in the upper left region"),
        (example("How many kidneys in this image?", "2"), "seen", "2 kidneys are seen in this image"),
        (example("Does the picture contain lung?", "No"), "contains", "lung is not seen in the picture"),
        (example("Where is the tumor?", "Left Lobe"), "lies", "the tumor lies in the left lobe"),
        (example("What modality is used to take this image?", "CT"), "exchanged", "ct is the modality used to take this image"),
        (example("Which part of the body does this image belong to?", "Chest"), "exchanged",
         "the chest is the part of the body that this image belongs to"),
        (example("Is the mass calcified?", "Yes", "closed"), "framed", "it can be seen that the mass is calcified"),
    ],
)  # fmt: skip
def test_the_true_answer_is_said_in_other_words(asked, origin, words):
    assert paraphrase(asked) == (origin, words)


def test_a_side_a_level_and_a_number_are_exchanged_alone():
    assert other_side("the cyst is on the left side") == "the cyst is on the right side"
    assert other_side("a Right-sided effusion") == "a left-sided effusion"
    assert other_side("left and right lung") is None and other_side("the leftover") is None
    assert other_level("the superior part") == "the inferior part" and other_level("the liver") is None
    assert other_count("there are 2 lungs") == "there are 3 lungs" and other_count("t2 weighted") is None


def test_a_wrong_answer_is_of_the_same_type_and_wrong():
    asked = [
        example("Is there a mass?", "Yes", "closed"),
        example("Which organ? A. liver B. lung", "A", "closed", options=("liver", "lung")),
        example("Is the cyst on the left or the right side?", "left", "closed"),
        example("Where is the mass?", "left lung"),
        example("Where is the mass?", "in the liver"),
        example("Where is the mass?", "the left lung"),
        example("What modality is this?", "ct"),
    ]
    pick = WrongAnswers(asked).pick
    found = [pick(one, np.random.default_rng(0)) for one in asked]
    assert found[:3] == ["no", "lung", "right"]
    assert found[3] == found[5] == "in the liver"  # "the left lung" is right
    assert found[4] in ("left lung", "the left lung")
    assert all(not is_right(one, wrong) for one, wrong in zip(asked, found, strict=True))
    assert WrongAnswers(asked[6:]).pick(asked[6], np.random.default_rng(0)) is None  # it has no other


@pytest.fixture(scope="module")
def phantoms():
    return phantom_examples("train", 120, 0)


def test_variants_of_phantoms_are_known_to_be_true_or_false(phantoms):
    """Held against the exact claims of the world: paraphrases say the same claim, wrong statements another one."""
    place = {text: number for number, claim in enumerate(all_claims()) for text in claim.wordings}
    for found in draw_variants(phantoms, count=60, seed=1):
        assert place[found.texts["paraphrase"]] == place[found.anchor] and found.texts["paraphrase"] != found.anchor
        assert found.texts["truth"] == found.anchor == decl(
            found.example.question, found.example.answer, found.example.options
        )  # fmt: skip
        for group in ("wrong", "flipped", "side", "level"):
            text = found.texts[group]
            assert text is None or place[text] != place[found.anchor], group
        assert found.other.image_id != found.example.image_id
        letters = found.texts["letters"]
        assert [len(w) for w in letters.split()] == [len(w) for w in found.anchor.split()] and letters not in place


def test_the_same_seed_draws_the_same_sample_and_another_another(phantoms):
    first, again, other = (draw_variants(phantoms, count=20, seed=seed) for seed in (4, 4, 5))
    assert first == again and [v.example.id for v in first] != [v.example.id for v in other]
    assert len(draw_variants(phantoms[:7], count=20, seed=0)) == 7


def test_another_picture_is_none_of_which_the_statement_is_known_to_be_true():
    picture = [Picture(id=name, data=b"") for name in "abc"]
    asked = [example("What is this?", "ct", images=(picture[0],)), example("What is this?", "ct", images=(picture[1],))]
    assert [v.other for v in draw_variants(asked, count=2, seed=0)] == [None, None]
    third = example("What is this?", "mri", images=(picture[2],))
    assert [v.other for v in draw_variants([*asked, third], count=3, seed=0)][:2] == [third, third]


@pytest.mark.slow  # prepares two real data sets
@pytest.mark.parametrize(("name", "folder", "by_rule"), [("vqa_rad", "vqa-rad", 0.35), ("slake", "slake", 1.0)])
def test_real_questions_have_true_answers_in_other_words(data_root, repository, tmp_path, name, folder, by_rule):
    from reflex_jax.audit.judge_audit import load_questions
    from reflex_jax.config_reader import load_config

    config = load_config(
        repository / "configs" / f"{name}_tiny.yaml", [f"data.root={data_root / folder}", f"data.cache={tmp_path}"]
    )
    found = draw_variants(load_questions(config), count=400, seed=0)
    assert all(v.texts["paraphrase"] and v.texts["paraphrase"] != v.anchor for v in found)
    assert sum(v.texts["wrong"] is not None for v in found) > 0.98 * len(found)
    assert np.mean([v.origin != "question_rephrase" for v in found]) <= by_rule
    assert np.mean([v.origin == "framed" for v in found]) < 0.25
