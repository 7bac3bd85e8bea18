"""The phantom world: repeatable pictures, exact masks, balanced answers, a teacher who errs as told."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reflex_jax.config import ConfigError
from reflex_jax.data.phantom import SPLITS, phantom_examples, split_world
from reflex_jax.data.phantom_text import (
    CLOSED_TEMPLATES,
    LESION_COUNTS,
    OPEN_TEMPLATES,
    all_claims,
    answer_from,
    ask,
    misperceive,
    phantom_questions,
    teacher_completion,
    truth_matrix,
)
from reflex_jax.data.phantom_world import KINDS, MODALITIES, ORGANS, draw_facts, make_phantom, mask_cells
from reflex_jax.rewards.format import format_reward
from reflex_jax.statements.operator import decl
from reflex_jax.text.completion import parse_completion

MANY = 3000


@pytest.fixture(scope="module")
def phantoms():
    return [make_phantom(5, index) for index in range(150)]


@pytest.fixture(scope="module")
def examples():
    return phantom_examples("train", MANY, 3)


def test_same_numbers_same_picture_other_numbers_other_picture():
    first, again, other = make_phantom(1, 7), make_phantom(1, 7), make_phantom(1, 8)
    np.testing.assert_array_equal(first.image, again.image)
    assert first.facts == again.facts == draw_facts(1, 7)
    assert (first.image != other.image).mean() > 0.5


def test_pixels_of_one_picture_are_pinned():
    # Shipped weights were trained on these pictures: a change of the world needs new weights.
    phantom = make_phantom(0, 0)
    assert phantom.image.dtype == np.uint8 and phantom.image.shape == (112, 112)
    assert (phantom.facts.modality, phantom.facts.organ) == ("x-ray", "lung")
    assert int(phantom.image.astype(np.int64).sum()) == pytest.approx(1174051, rel=1e-4)


def test_every_modality_organ_kind_and_count_occurs(phantoms):
    facts = [phantom.facts for phantom in phantoms]
    assert {f.modality for f in facts} == set(MODALITIES)
    assert {f.organ for f in facts} == set(ORGANS)
    assert {finding.kind for f in facts for finding in f.findings} == set(KINDS)
    assert {len(f.findings) for f in facts} == {0, 1, 2}


def test_lesions_are_small_apart_and_in_their_quadrant(phantoms):
    for phantom in phantoms:
        assert len(phantom.masks) == len(phantom.facts.findings)
        for finding, mask in zip(phantom.facts.findings, phantom.masks, strict=True):
            rows, columns = np.nonzero(mask)
            assert 0.004 < mask.mean() <= 0.05
            assert (columns.mean() < 56) == (finding.side == "left")
            assert (rows.mean() < 56) == (finding.level == "upper")
            assert 1 <= mask_cells(mask).sum() <= 20
        if len(phantom.masks) == 2:
            assert not (phantom.masks[0] & phantom.masks[1]).any()
            assert len({f.kind for f in phantom.facts.findings}) == len({f.region for f in phantom.facts.findings}) == 2


def test_kinds_look_as_described():
    brighter = {kind: [] for kind in KINDS}
    for index in range(200):
        phantom = make_phantom(2, index, lesion_count=1)
        mask = phantom.masks[0]
        rim = mask_cells(mask, cells=28, coverage=0.0).repeat(4, 0).repeat(4, 1) & ~mask
        inside = np.asarray(phantom.image[mask], float) - phantom.image[rim].mean()
        brighter[phantom.facts.findings[0].kind].append((inside.mean(), np.ptp(inside)))
    mean = {kind: np.mean([values[0] for values in rows]) for kind, rows in brighter.items()}
    spread = {kind: np.mean([values[1] for values in rows]) for kind, rows in brighter.items()}
    assert mean["nodule"] > 40 and mean["cyst"] < 0 < mean["calcification"]
    assert spread["abscess"] > spread["nodule"] and spread["calcification"] > spread["nodule"]


def test_forced_lesion_count():
    for count in (0, 1, 2):
        assert len(draw_facts(4, 11, lesion_count=count).findings) == count


def test_answers_are_balanced_inside_each_template(examples):
    answers = defaultdict(Counter)
    for example in examples:
        words = example.question.split()
        if words[0] == "Which":
            answers[words[1]][example.answer] += 1
        elif words[0] == "Is":
            # "Is the cyst on the left ...": per kind and place; "Is there a cyst?", "Is this a ct scan?": per question
            answers[example.question][example.answer] += 1
    assert len(answers) == 3 + 4 + 4 + 4 + 3
    for question, counts in answers.items():
        total, expected = sum(counts.values()), 1 / len(counts)
        error = np.sqrt(expected * (1 - expected) / total)
        assert all(abs(count / total - expected) < 4 * error for count in counts.values()), (question, counts)


def test_closed_and_open_in_every_ten(examples):
    for start in range(0, 100, 10):
        assert Counter(e.answer_type for e in examples[start : start + 10]) == {"closed": 6, "open": 4}


def test_a_split_grows_without_changing_and_splits_share_no_picture():
    short, long = phantom_examples("test", 30, 0), phantom_examples("test", 60, 0)
    assert [e.id for e in long[:30]] == [e.id for e in short] and short == long[:30]
    worlds = [split_world(split, seed) for split in SPLITS for seed in range(5)]
    assert len(set(worlds)) == len(worlds)
    assert {e.image_id for e in phantom_examples("train", 30, 0)}.isdisjoint(e.image_id for e in short)
    with pytest.raises(ConfigError, match="validation"):
        phantom_examples("valid", 4, 0)


def test_example_pictures_are_rgb_and_match_their_question(examples):
    for example in examples[:10]:
        (image,) = example.load_images()
        assert image.mode == "RGB" and image.size == example.images[0].measure() == (112, 112)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(example.load_images()[0]))


@settings(max_examples=60)
@given(index=st.integers(0, 10**6), noise=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 9))
def test_teacher_without_noise_is_right_and_with_noise_well_formed_or_short_of_a_tag(index, noise, seed):
    facts, random = draw_facts(seed, index), np.random.default_rng((seed, index))
    for question in phantom_questions(facts, random):
        completion = teacher_completion(facts, question, random, noise=noise)
        if noise == 0:
            assert format_reward(completion) == 1.0
            assert parse_completion(completion).answer == question.answer
        elif format_reward(completion) == 0:
            assert sum(completion.count(tag) for tag in ("<think>", "</think>", "<answer>", "</answer>")) == 3


def test_habits_of_the_teacher():
    facts = [draw_facts(1, index, lesion_count=1) for index in range(4000)]
    seen = [misperceive(f, np.random.default_rng(index), noise=0.6) for index, f in enumerate(facts)]
    pairs = [(f.findings[0], s.findings[0]) for f, s in zip(facts, seen, strict=True) if s.findings]
    assert abs(len(pairs) / len(facts) - 0.9) < 0.02
    for kind, habit in (("nodule", "cyst"), ("calcification", "abscess")):
        assert abs(np.mean([s.kind == habit for f, s in pairs if f.kind == kind]) - 0.6) < 0.05
    assert all(s.kind == f.kind for f, s in pairs if f.kind in ("cyst", "abscess"))
    assert abs(np.mean([s.side == "left" for f, s in pairs if f.side == "right"]) - 0.6) < 0.05
    assert all(s.side == "left" for f, s in pairs if f.side == "left")
    assert misperceive(facts[0], np.random.default_rng(0), noise=0.0) == facts[0]


def test_a_question_the_picture_cannot_answer_is_refused():
    empty, random = draw_facts(0, 0, lesion_count=0), np.random.default_rng(0)
    for template in CLOSED_TEMPLATES + OPEN_TEMPLATES:
        if LESION_COUNTS[template] is None or 0 in LESION_COUNTS[template]:
            assert ask(empty, template, random, is_affirmative=False).answer
        else:
            with pytest.raises(ValueError, match=template):
                ask(empty, template, random)
    with pytest.raises(ValueError, match="presence"):
        ask(empty, "presence", random, is_affirmative=True)


def test_claims_are_true_exactly_when_the_facts_say_so():
    claims = all_claims()
    facts = [draw_facts(0, index) for index in range(300)]
    truth = truth_matrix(claims, facts)
    assert truth.shape == (300, 50) and truth.any(0).all() and not truth.all(0).any()
    wordings = [wording for claim in claims for wording in claim.wordings]
    assert len(set(wordings)) == len(wordings)
    by_name = {claim.wordings[0]: truth[:, column] for column, claim in enumerate(claims)}
    for kind in KINDS:
        article = "an" if kind == "abscess" else "a"
        present = by_name[f"there is {article} {kind}"]
        assert (present ^ by_name[f"there is no {kind}"]).all()
        sides = [by_name[f"the {kind} is on the {side} side"] for side in ("left", "right")]
        np.testing.assert_array_equal(present, sides[0] | sides[1])
    assert sum(by_name[f"the organ shown is the {organ}"].sum() for organ in ORGANS) == 300


def test_answers_from_misperceived_facts_fit_the_question():
    facts, random = draw_facts(0, 3, lesion_count=1), np.random.default_rng(0)
    blind = misperceive(facts, np.random.default_rng(0), noise=1.0)
    for question in phantom_questions(facts, random):
        answer = answer_from(blind, question, random)
        if question.answer in ("yes", "no"):
            assert answer in ("yes", "no")
        if question.options:
            assert answer in "ABCD"


def test_declared_true_answers_are_true_claims():
    """What `decl` makes of a question and its true answer is a statement the judge was trained on, and it is true."""
    claims = all_claims()
    column = {wording: number for number, claim in enumerate(claims) for wording in claim.wordings}
    for index in range(200):
        facts = draw_facts(8, index)
        truth = truth_matrix(claims, [facts])[0]
        for question in phantom_questions(facts, np.random.default_rng(index)):
            statement = decl(question.text, question.answer, question.options).lower().rstrip(" .")
            assert statement in column, (question.text, question.answer, statement)
            assert truth[column[statement]], statement
