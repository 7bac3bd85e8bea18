"""What is not recorded of a batch is filled so that what is recorded goes through the same program."""

import dataclasses

import numpy as np

from reflex_jax.audit import rebuild
from reflex_jax.audit.compare import Exactness, compare, exactness_of
from reflex_jax.evidence.groups import statement_length
from reflex_jax.records import JudgeInputs
from tests.evidence.test_records import ANSWER, BATCH, GROUP, STATEMENT


def test_places_that_are_not_recorded_have_as_many_statements_of_the_same_lengths():
    """Row 1 is recorded; the others need three statements, of five, two and four tokens, and one of two."""
    statements = np.zeros((3, 4, 6), np.int32)
    statements[:, :2, :3] = 7
    judge = JudgeInputs(
        pixels=np.zeros((3, 2, 2, 3), np.uint8), statements=statements, statement_count=np.full(3, 2, np.int32),
        statement_index=np.ones((3, 2), np.int32), has_statement=np.ones((3, 2), bool),
    )  # fmt: skip
    batch = dataclasses.replace(BATCH, statement_counts=(3, 2, 1), statement_lengths=((5, 2, 4), (3, 3), (2,)))
    filled = rebuild._filled(judge, batch, np.array([False, True, False]), pad_id=0)
    np.testing.assert_array_equal(filled.statement_count, [3, 2, 1])
    lengths = [[statement_length(ids, 0) for ids in rows] for rows in filled.statements]
    assert lengths == [[5, 2, 4, 0], [3, 3, 0, 0], [2, 0, 0, 0]]
    np.testing.assert_array_equal(filled.statements[1], statements[1])
    np.testing.assert_array_equal(filled.statement_index, [[0, 0], [1, 1], [0, 0]])
    np.testing.assert_array_equal(judge.statements, statements)


def test_tokens_come_back_padded_to_the_longest():
    other = dataclasses.replace(ANSWER, tokens="AQAAAAIAAAADAAAA")  # 1, 2, 3
    tokens, mask = rebuild._tokens([dataclasses.replace(GROUP, answers=(ANSWER, other))])
    np.testing.assert_array_equal(tokens, [[[5, 1, 0], [1, 2, 3]]])
    np.testing.assert_array_equal(mask.sum(-1), [[2, 3]])


def found(exactness: Exactness, **changes):
    """What is told of an answer of which something changed."""
    now = dataclasses.replace(GROUP, answers=(dataclasses.replace(ANSWER, **changes),))
    return [*compare(7, GROUP, now, exactness, taken=[])]


def test_a_number_may_differ_elsewhere_and_not_where_it_was_computed():
    exact, elsewhere = (exactness_of(BATCH, is_exact=flag) for flag in (True, False))
    for change, is_within in ((2e-5, True), (2e-3, False)):
        changed = {"image_text_similarity": ANSWER.image_text_similarity + change}
        (one,), (other,) = found(exact, **changed), found(elsewhere, **changed)
        assert not one.is_within and other.is_within == is_within
    assert str(
        one
    ) == "line 7, 4/0/1: image_text_similarity was 0.30000001192092896, is 0.3020000119209290 (by 0.002)".replace(
        "0.3020000119209290", repr(ANSWER.image_text_similarity + 2e-3)
    )
    # words are words anywhere
    (words,) = found(elsewhere, statement="es ist nicht so")
    assert not words.is_within and words.size is None
    # a number that became none is no small difference
    (gone,) = found(elsewhere, iou="nan")
    assert not gone.is_within
    assert found(exact) == found(elsewhere) == []


def test_a_mask_may_differ_in_a_cell_elsewhere():
    """One of eight bits is an eighth; of 200 it is within."""
    elsewhere = exactness_of(BATCH, is_exact=False)
    few = dataclasses.replace(GROUP, statements=(dataclasses.replace(STATEMENT, mask="pQ=="),))
    (one,) = compare(7, GROUP, few, elsewhere, taken=[])
    assert one.size == 1 / 8 and not one.is_within
    many = [dataclasses.replace(STATEMENT, mask=text) for text in ("/" * 33 + "w==", "/" * 32 + "+w==")]
    groups = [dataclasses.replace(GROUP, statements=(statement,)) for statement in many]
    (one,) = compare(7, *groups, elsewhere, taken=[])
    assert one.size == 1 / 200 and one.is_within


def test_advantages_that_compare_groups_of_several_draws_are_taken_from_the_record():
    rewards = {"components": {}, "normalise": "component_batch", "advantage": "sample_std"}
    for draws, told in ((1, 1), (2, 0)):
        batch = dataclasses.replace(BATCH, draws=draws, rewards=rewards)
        assert len(found(exactness_of(batch, is_exact=True), advantage=0.5)) == told
        assert rebuild.takes_advantages(dataclasses.replace(batch, rewards={**rewards, "normalise": "sum"})) is False


def test_what_a_text_encoder_said_may_differ_by_rounding_everywhere():
    batch = dataclasses.replace(
        BATCH, rewards={**BATCH.rewards, "components": {"bertscore": {}}}, judge={"dtype": "bfloat16"}
    )
    exact, elsewhere = (exactness_of(batch, is_exact=flag) for flag in (True, False))
    assert exact.tolerance("score", "components.bertscore") == 1e-5 and exact.tolerance("reward", "reward") == 1e-5
    assert exact.tolerance("similarity", "iou") == 0
    assert elsewhere.tolerance("similarity", "text_text_similarity") == 30 * 1e-4
    assert exactness_of(dataclasses.replace(BATCH, draws=2), is_exact=True).tolerance("advantage", "advantage") == 1e-5
