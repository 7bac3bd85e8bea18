"""Evidence as a function: equal to one by one, blind to padding, order and other groups, no gradient to the judge."""

import dataclasses
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reflex_jax.config import ConfigError
from reflex_jax.judge import evidence as evidence_module
from reflex_jax.judge.batch import StatementTokenizer, prepare_judge_batch
from reflex_jax.judge.evidence import (
    EvidenceSettings,
    gather_evidence,
)
from reflex_jax.judge.saliency import image_evidence
from reflex_jax.judge.statements import encode_statements
from reflex_jax.models.biomedclip import encode_text, init_judge_params, read_judge_config
from reflex_jax.records import JudgeInputs
from reflex_jax.rewards.visual_fidelity import quantile_mask, visual_fidelity_reward
from tests.parity.judge_reference import write_judge_directory
from tests.unchecked import types_unchecked

SETTINGS = EvidenceSettings()
STATEMENTS = [
    ["there is a nodule", "there is a cyst", "there is a nodule", "no effusion is seen"],
    ["there is a cyst in the left lung", "", None, "there is a cyst in the left lung"],
]
ANCHORS = ["there is a cyst", "there is no nodule"]
TOKENS = 24
QUESTIONS = ["is there a nodule", "there is no nodule"]


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    directory = write_judge_directory(tmp_path_factory.mktemp("judge"))
    config = read_judge_config(directory)
    init = jax.jit(lambda key: jax.tree.map(lambda x: 2 * x, init_judge_params(config, key)))
    return init(jax.random.key(0)), config, StatementTokenizer(directory)


def prepare(judge, statements=STATEMENTS, anchors=ANCHORS, *, tokens=TOKENS, questions=None, pixels=None):
    if pixels is None:
        pixels = np.random.default_rng(0).integers(0, 256, (len(anchors), 112, 112, 3), np.uint8)
    return prepare_judge_batch(pixels, statements, anchors, judge[2], max_statement_tokens=tokens, questions=questions)


gather_jitted = jax.jit(gather_evidence, static_argnames=("shape", "settings"))
encode_jitted = jax.jit(encode_statements, static_argnames="config")
explain_jitted = jax.jit(image_evidence, static_argnames=("config", "method", "block"))


@pytest.fixture(scope="module")
def gather(judge):
    return lambda inputs, **changes: gather_jitted(judge[0], inputs, judge[1], replace(SETTINGS, **changes))


def random_inputs(config):
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(2, 112, 112, 3)).astype(np.float32)
    return pixels, rng.normal(size=(2, 4, config.embed_dim)).astype(np.float32)


def assert_same(one, other, atol=1e-5):
    for field in dataclasses.fields(one):
        a, b = np.asarray(getattr(one, field.name)), np.asarray(getattr(other, field.name))
        np.testing.assert_allclose(a.astype(float), b.astype(float), atol=atol, err_msg=field.name)


def test_jit_equals_eager_and_the_masks_to_the_bit(judge):
    params, config, _ = judge
    pixels, directions = random_inputs(config)
    settings = {"method": "attention_gradient", "block": -1}
    embeddings, maps = image_evidence(params, pixels, directions, config, **settings)
    jitted_embeddings, jitted_maps = explain_jitted(params, pixels, directions, config, **settings)
    np.testing.assert_allclose(embeddings, jitted_embeddings, atol=1e-5)
    np.testing.assert_allclose(maps, jitted_maps, atol=1e-5 * np.abs(maps).max())
    masks = [quantile_mask(m, quantile=0.5, tie_rule="strict") for m in (maps, jitted_maps)]
    np.testing.assert_array_equal(*masks)


def test_a_batch_equals_its_prompts_one_by_one(judge, gather):
    inputs = prepare(judge)
    together = gather(inputs)
    for p in range(len(ANCHORS)):
        alone = gather(jax.tree.map(lambda x, p=p: x[p : p + 1], inputs))
        assert_same(alone, jax.tree.map(lambda x, p=p: x[p : p + 1], together))


def test_shared_statements_equal_a_row_for_every_completion(judge, gather):
    inputs = prepare(judge, [["there is a nodule"] * 3 + ["no effusion is seen"]], ANCHORS[:1])
    tokens = [judge[2](text, TOKENS) for text in (ANCHORS[0], *["there is a nodule"] * 3, "no effusion is seen")]
    tokens = np.stack([np.pad(row, (0, TOKENS - len(row))) for row in tokens]).astype(np.int32)
    repeated = dataclasses.replace(
        inputs,
        statements=tokens[None],
        statement_count=np.array([5], np.int32),
        statement_index=np.array([[1, 2, 3, 4]], np.int32),
    )
    assert inputs.statement_count[0] == 3
    assert_same(gather(inputs), gather(repeated))


def test_the_order_of_a_group_and_the_other_groups_do_not_matter(judge, gather):
    evidence = gather(prepare(judge))
    order = [2, 0, 3, 1]
    other = [[STATEMENTS[0][g] for g in order], ["there is no chest"] * 4]
    permuted = gather(prepare(judge, other, [ANCHORS[0], "a lung"]))
    for name in ("iou", "text_text_similarity", "image_text_similarity"):
        ours = np.asarray(getattr(evidence, name))[0][order]
        np.testing.assert_allclose(getattr(permuted, name)[0], ours, atol=1e-5)


def test_the_anchors_own_words_agree_fully(judge, gather):
    evidence = gather(prepare(judge))
    assert evidence.iou[0, 1] == 1.0 and not evidence.is_degenerate[0, 1]
    np.testing.assert_allclose(evidence.text_text_similarity[0, 1], 1.0, rtol=1e-6)


def test_a_completion_without_a_statement_has_no_evidence(judge, gather):
    evidence = gather(prepare(judge))
    for name in ("iou", "chance_corrected_iou", "text_text_similarity", "image_text_similarity", "saliency", "masks",
                 "statement_embeddings", "has_statement"):  # fmt: skip
        assert not np.asarray(getattr(evidence, name))[1, 2].any(), name
    assert evidence.is_degenerate[1, 2] and not evidence.is_degenerate[0].any()


def test_nothing_is_differentiated_through_the_judge(judge):
    inputs = prepare(judge)

    def total(params):
        evidence = gather_evidence(params, inputs, judge[1], SETTINGS)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(evidence) if leaf.dtype == jnp.float32)

    gradients = jax.jit(jax.grad(total))(judge[0])
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("tokens", [16, 17])
def test_the_padding_changes_nothing(judge, tokens):
    params, config, _ = judge
    inputs = prepare(judge, tokens=tokens)
    ours = encode_jitted(params, inputs, config)
    for p, count in enumerate(inputs.statement_count):
        theirs = jax.jit(encode_text, static_argnums=2)(params, inputs.statements[p], config)[:count]
        theirs = theirs / jnp.linalg.norm(theirs, axis=-1, keepdims=True)
        np.testing.assert_allclose(ours[p, :count], theirs, atol=1e-5)


def test_a_statement_reads_the_same_whatever_the_longest_beside_it(judge):
    """One compiled function; statements that fill a chunk to a multiple of 64 tokens, to one less and to one more."""
    params, config, tokenizer = judge
    words = ("there is a nodule seen on the left side of the lung " * 9).split()
    alone = jax.jit(encode_text, static_argnums=2)
    expected = None
    for length in (8, 16, 17, 24, 25, 33, 41, 49, 57, 63, 64):
        statements = [["there is a cyst"], [" ".join(words)]]
        inputs = prepare(judge, statements, ANCHORS, tokens=length)  # cut to so many
        ids = np.pad(inputs.statements, ((0, 0), (0, 0), (0, 64 - length)))
        assert (ids[1, 1] != config.text.pad_token_id).sum() == length
        found = encode_jitted(params, dataclasses.replace(inputs, statements=ids), config)
        expected = found[0, 0] if expected is None else expected
        np.testing.assert_allclose(found[0, 0], expected, atol=1e-6)
        long = alone(params, ids[1, 1:], config)[0]
        np.testing.assert_allclose(found[1, 1], long / jnp.linalg.norm(long), atol=1e-5)  # another program


def test_many_statements_are_encoded_in_chunks_and_only_as_many_as_there_are(judge):
    params, config, _ = judge
    group = 30  # 2 prompts x 31 statements x 24 tokens: several chunks
    letters = [f"{letter} nodule seen on the left side" for letter in "abcdefghijklmnopqrstuvwxyz0123"]
    inputs = prepare(judge, [letters, letters], ANCHORS)
    assert list(inputs.statement_count) == [group + 1] * 2
    whole = np.asarray(encode_jitted(params, inputs, config))
    theirs = jax.jit(encode_text, static_argnums=2)(params, inputs.statements[0], config)
    np.testing.assert_allclose(whole[0], theirs / jnp.linalg.norm(theirs, axis=-1, keepdims=True), atol=1e-5)
    few = encode_jitted(params, dataclasses.replace(inputs, statement_count=np.array([2, 1], np.int32)), config)
    np.testing.assert_allclose(few[0, :2], whole[0, :2], atol=1e-5)
    np.testing.assert_allclose(few[1, 0], whole[1, 0], atol=1e-5)
    assert not np.asarray(few)[:, 2:].any() and not few[1, 1].any()  # never computed


def test_one_compilation_serves_every_length_and_number_of_statements(judge, gather):
    gather(prepare(judge))
    before = gather_jitted._cache_size()
    for statements in ([["a"] * 4, [None] * 4], [["there is a nodule seen on the left side of the lung"] * 4] * 2):
        gather(prepare(judge, statements))
    assert gather_jitted._cache_size() == before


@pytest.mark.parametrize("method", ["gradient_activation", "gradcam"])
def test_signed_saliency_is_linear_in_the_statement(judge, method):
    params, config, _ = judge
    pixels, directions = random_inputs(config)
    u = directions[:, :1]
    directions = np.concatenate([u, -u, 4 * u, 0 * u], axis=1)
    _, maps = explain_jitted(params, pixels, directions, config, method=method, block=-1)
    tolerance = 1e-5 * np.abs(maps[:, 0]).max()
    np.testing.assert_allclose(maps[:, 1], -maps[:, 0], atol=tolerance)
    np.testing.assert_allclose(maps[:, 2], 4 * maps[:, 0], atol=4 * tolerance)
    assert not np.asarray(maps[:, 3]).any()


def test_gradient_activation_is_no_rounding_residue(judge):
    # At the block's *input* the same product is 0 up to the norm's epsilon: the map would be noise.
    params, config, _ = judge
    pixels, u = random_inputs(config)
    _, maps = explain_jitted(params, pixels, u, config, method="gradient_activation", block=-1)
    _, weights = explain_jitted(params, pixels, u, config, method="gradcam", block=-1)
    assert np.abs(maps).max() > 1e-3 * np.abs(weights).max() > 0


def test_centred_evidence_is_blind_to_what_the_question_says(judge, gather):
    inputs = prepare(judge, questions=QUESTIONS)
    evidence = gather(inputs, centered=True)
    u = np.asarray(encode_jitted(judge[0], inputs, judge[1]))
    expected = u[0, inputs.statement_index[0]] - u[0, 1]
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(evidence.statement_embeddings[0], expected, atol=1e-4)
    # the second anchor only repeats its question: it says nothing, so nothing can agree with it
    assert not np.asarray(evidence.anchor_embeddings)[1].any()
    assert evidence.is_degenerate[1].all()


@pytest.mark.parametrize(("changes", "message"), [
    ({"saliency": "gradCAM"}, "judge.saliency: expected one of"),
    ({"saliency_block": 2}, "expected -2 to 1, this judge has 2 blocks; got 2"),
])  # fmt: skip
def test_unknown_methods_and_blocks_are_refused(judge, changes, message):
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(
            lambda p, i: gather_evidence(p, i, judge[1], replace(SETTINGS, **changes)), judge[0], prepare(judge)
        )


# --- several pictures of a prompt

MEANS = (
    "image_embeddings", "iou", "chance_corrected_iou", "text_text_similarity", "image_text_similarity", "tied_fraction",
)  # fmt: skip
MAPS = ("saliency", "masks")


def several(judge, counts, most=3):
    """Inputs with room for so many pictures of each prompt, noise where there is none; and each of the pictures alone."""
    pixels = np.random.default_rng(1).integers(0, 256, (len(counts), most, 112, 112, 3), np.uint8)
    inputs = prepare_judge_batch(
        pixels, STATEMENTS, ANCHORS, judge[2], max_statement_tokens=TOKENS, picture_counts=counts
    )
    return inputs, [prepare(judge, pixels=pixels[:, k]) for k in range(most)]


def test_evidence_of_several_pictures_is_the_mean_of_theirs_one_by_one(judge, gather):
    counts = [3, 1]
    inputs, alone = several(judge, counts)
    together, apart = gather(inputs), [gather(one) for one in alone]
    for p, count in enumerate(counts):
        own = [jax.tree.map(lambda x, p=p: np.asarray(x)[p], one) for one in apart[:count]]
        for name in MEANS:
            expected = np.mean([getattr(one, name) for one in own], axis=0)
            np.testing.assert_allclose(getattr(together, name)[p], expected, atol=1e-5, err_msg=name)
        for name in MAPS:
            for k, one in enumerate(own):
                found, anchor = getattr(together, name)[p, :, k], getattr(together, f"anchor_{name}")[p, k]
                np.testing.assert_allclose(np.float32(found), np.float32(getattr(one, name)), atol=1e-5, err_msg=name)
                np.testing.assert_allclose(np.float32(anchor), np.float32(getattr(one, f"anchor_{name}")), atol=1e-5)
            assert not np.any(getattr(together, name)[p, :, count:])
        np.testing.assert_array_equal(together.is_degenerate[p], np.all([one.is_degenerate for one in own], axis=0))
    assert np.ptp([one.iou[0, 0] for one in apart]) > 0.01  # else any picture would do


@pytest.mark.slow  # compiles the judge once more; the mean of one number is that number
def test_of_one_picture_the_mean_is_the_same_to_the_bit(judge, gather):
    inputs, (alone, *_) = several(judge, [1, 1])
    together = gather(replace(inputs, pixels=inputs.pixels[:, :1]))
    alone = gather(alone)
    for name in MEANS:
        np.testing.assert_array_equal(getattr(together, name), getattr(alone, name), err_msg=name)
    for name in MAPS:
        np.testing.assert_array_equal(getattr(together, name)[:, :, 0], getattr(alone, name), err_msg=name)


def test_what_stands_where_there_is_no_picture_changes_no_bit(judge, gather):
    inputs, _ = several(judge, [2, 1])
    other = inputs.pixels.copy()
    other[0, 2], other[1, 1:] = 0, 255
    for one, another in zip(
        jax.tree.leaves(gather(inputs)), jax.tree.leaves(gather(replace(inputs, pixels=other))), strict=True
    ):
        np.testing.assert_array_equal(one, another)


def test_two_pictures_agree_by_half_where_one_of_them_does_by_hand(monkeypatch):
    """Maps of 2 x 2 cells, of which half is kept. Of the first picture the statement keeps the anchor's cells, IoU 1; of the
    second one of its two, IoU 1/3; the third cannot be cut, 0. The fourth is none. Mean 4/9; of the second prompt nothing can be
    cut. Image embeddings (1, 0), (0, 1) and (0.6, 0.8) with the statement (0.6, 0.8): cosines 0.6, 0.8 and 1, their mean 0.8.
    """
    anchor, one_of_two = [[4, 3], [2, 1]], [[4, 1], [3, 2]]
    maps = np.float32([[anchor, [[8, 7], [1, 2]]], [anchor, one_of_two], [anchor, [[1, 1], [1, 1]]], [anchor, anchor]])
    maps = np.stack([maps.swapaxes(0, 1), np.ones((2, 4, 2, 2), np.float32)])  # [P, S, K, h, w]
    images = np.float32([[[1, 0], [0, 1], [0.6, 0.8], [1, 0]]] * 2)
    is_picture = np.array([[True, True, True, False]] * 2)
    monkeypatch.setattr(evidence_module, "_look_at_pictures", lambda *_: (is_picture, images, maps))
    texts = np.float32([[[1, 0], [0.6, 0.8]]] * 2)
    monkeypatch.setattr(evidence_module, "encode_statements", lambda *_: jnp.asarray(texts))
    inputs = JudgeInputs(
        pixels=np.zeros((2, 4, 8, 8, 3), np.uint8), statements=np.zeros((2, 2, 4), np.int32),
        statement_count=np.full(2, 2, np.int32), statement_index=np.ones((2, 1), np.int32),
        has_statement=np.ones((2, 1), bool), picture_count=np.full(2, 3, np.int32),
    )  # fmt: skip
    shape = SimpleNamespace(vision=SimpleNamespace(image_size=8))
    with types_unchecked():
        found = gather_evidence({}, inputs, shape, SETTINGS)
    np.testing.assert_allclose(found.iou[:, 0], [4 / 9, 0], rtol=1e-6)
    np.testing.assert_array_equal(found.is_degenerate[:, 0], [False, True])
    np.testing.assert_allclose(found.image_text_similarity[:, 0], [0.8, 0.8], rtol=1e-6)
    np.testing.assert_allclose(found.image_embeddings[0], np.float32([1.6, 1.8]) / 3, rtol=1e-6)
    np.testing.assert_array_equal(visual_fidelity_reward(found, iou_threshold=0.4)[:, 0], [1, 0])
    np.testing.assert_array_equal(visual_fidelity_reward(found, iou_threshold=0.5)[:, 0], [0, 0])
