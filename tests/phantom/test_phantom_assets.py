"""The judge and the policy that ship with the package: their files, their size, and what they can do."""

import filecmp
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest

from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.data.phantom import phantom_examples
from reflex_jax.data.phantom_text import all_claims, truth_matrix
from reflex_jax.data.phantom_world import draw_facts, make_phantom
from reflex_jax.judge.evidence import load_judge
from reflex_jax.models.biomedclip import encode_image, encode_text, init_judge_params, read_judge_config
from reflex_jax.models.qwen_vl import read_qwen_config
from reflex_jax.phantom import fitness
from reflex_jax.phantom.fitness import judge_fitness
from reflex_jax.phantom.judge import (
    JudgeStep,
    StatementCache,
    judge_loss,
    nonsense_statements,
    twin_facts,
    write_judge_directory,
)
from reflex_jax.phantom.policy import write_policy_directory
from reflex_jax.phantom.words import GENERAL_WORDS
from reflex_jax.rewards.visual_fidelity import intersection_over_union, quantile_mask
from reflex_jax.text.tokenizer import encode_template, encode_user_text, load_policy_tokenizer

WORLD = 777_777  # shown to no model that ships
PICTURES = 100
RANDOM = jax.jit(init_judge_params, static_argnums=0)


@pytest.fixture(scope="module", autouse=True)
def _compiled_whole():
    """What measures a judge runs op by op, as nobody waits for it; here four hundred ops would be compiled one by one."""
    with pytest.MonkeyPatch.context() as patch:
        for function in (encode_text, encode_image):
            patch.setattr(fitness, function.__name__, jax.jit(function, static_argnums=2))
        patch.setattr(fitness, "quantile_mask", jax.jit(quantile_mask, static_argnames=("quantile", "tie_rule")))
        patch.setattr(fitness, "intersection_over_union", jax.jit(intersection_over_union))
        yield


@pytest.fixture(scope="module")
def judge_directory() -> Path:
    return resolve_checkpoint("phantom", "judge")


@pytest.fixture(scope="module")
def policy_directory() -> Path:
    return resolve_checkpoint("phantom", "policy")


def test_files_are_what_the_package_writes(tmp_path, judge_directory, policy_directory):
    for write, shipped in ((write_judge_directory, judge_directory), (write_policy_directory, policy_directory)):
        rebuilt = tmp_path / shipped.name
        write(rebuilt)
        names = sorted(path.name for path in rebuilt.iterdir())
        assert filecmp.cmpfiles(rebuilt, shipped, names, shallow=False) == (names, [], [])
        extra = {path.name for path in shipped.iterdir()} - set(names)
        assert all(name.endswith(".safetensors") for name in extra) and len(extra) == 1


def test_weights_are_small(judge_directory, policy_directory):
    sizes = [p.stat().st_size for d in (judge_directory, policy_directory) for p in d.glob("*.safetensors")]
    assert len(sizes) == 2 and sum(sizes) < 6_000_000


def test_policy_tokenizer_knows_the_world(policy_directory):
    tokenizer, config = load_policy_tokenizer(policy_directory), read_qwen_config(policy_directory)
    assert len(tokenizer) <= 1000 <= config.text.vocabulary
    for example in phantom_examples("test", 200, 1):
        for text in (example.question, example.target):
            assert tokenizer.decode(encode_user_text(tokenizer, text)) == text
        words = example.target.replace("x-ray", "").replace(".", " ").split()
        assert all(len(encode_user_text(tokenizer, f" {word}")) == 1 for word in words if word.isalpha())
        assert len(encode_user_text(tokenizer, example.target)) < 48
    assert encode_template(tokenizer, "<|image_pad|>") == [config.image_token_id]
    assert np.mean([len(encode_user_text(tokenizer, f" {word}")) == 1 for word in GENERAL_WORDS]) > 0.9


@pytest.mark.slow  # of files that ship with the package and seldom change
def test_judge_points_at_the_lesion_it_reads_about(judge_directory):
    judge = load_judge(judge_directory)
    found = judge_fitness(judge.params, judge.config, StatementCache(judge_directory), world=WORLD, count=PICTURES)
    assert 0.01 < found["chance_one"] < 0.05
    assert found["pointing_presence_one"] >= 0.9
    assert found["pointing_presence_two"] >= 0.8
    assert found["pointing_other_presence_two"] <= 0.3
    assert found["auc"] > 0.95
    assert found["true_kept"] > 0.85 and found["false_rejected"] > 0.85
    assert found["vfr_paraphrase_one"] > 0.9 > 0.5 > found["vfr_wrong_kind_one"]


@pytest.mark.slow  # the control of the test before it, which says by how much the shipped judge beats chance
def test_random_judge_points_anywhere(judge_directory):
    config = read_judge_config(judge_directory)
    params = RANDOM(config, jax.random.key(0))
    found = judge_fitness(params, config, StatementCache(judge_directory), world=WORLD, count=PICTURES // 2)
    assert found["pointing_presence_one"] < 0.2 and found["pointing_presence_two"] < 0.2
    assert abs(found["auc"] - 0.5) < 0.2


def test_judge_loss_is_small_for_the_trained_and_large_for_the_random(judge_directory):
    judge, encode, claims = load_judge(judge_directory), StatementCache(judge_directory), all_claims()
    phantoms = [make_phantom(WORLD, index) for index in range(8)]
    wordings = [claim.wordings[0] for claim in claims] + [claim.wordings[1] for claim in claims]
    step = JudgeStep(
        np.stack([phantom.image for phantom in phantoms]),
        truth_matrix(claims, [phantom.facts for phantom in phantoms]),
        encode(wordings),
        encode(nonsense_statements(claims, np.random.default_rng(0), 6)),
        np.tile(np.arange(196), (8, 1)),
    )
    loss = jax.jit(judge_loss, static_argnums=2)
    trained = loss(judge.params, step, judge.config)
    random = loss(RANDOM(judge.config, jax.random.key(1)), step, judge.config)
    assert float(trained[0]) < 0.5 * float(random[0]) and float(trained[1]) < 0.5 * float(random[1])


def test_twins_differ_in_one_lesion():
    changes = Counter()
    for index in range(400):
        facts = draw_facts(2, index)
        twin = twin_facts(facts, np.random.default_rng(index))
        gone, come = set(facts.findings) - set(twin.findings), set(twin.findings) - set(facts.findings)
        assert (twin.modality, twin.organ) == (facts.modality, facts.organ)
        assert len(gone) <= 1 and len(come) <= 1 and gone != come and len(twin.findings) <= 2
        for names in ([f.kind for f in twin.findings], [f.region for f in twin.findings]):
            assert len(set(names)) == len(names)
        changes[len(gone), len(come)] += 1
    assert set(changes) == {(0, 1), (1, 0), (1, 1)}


def test_nonsense_is_no_claim():
    claims = all_claims()
    wordings = {wording for claim in claims for wording in claim.wordings}
    statements = nonsense_statements(claims, np.random.default_rng(0), 300)
    assert len(statements) == 300 and wordings.isdisjoint(statements)
