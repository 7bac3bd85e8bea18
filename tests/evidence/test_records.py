"""What a record says comes back as it was, and the manual lists all of it."""

import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image

from reflex_jax.config import ConfigError
from reflex_jax.evidence.chain import Head
from reflex_jax.evidence.groups import cut_of, statement_length
from reflex_jax.evidence.log import EvidenceLog
from reflex_jax.evidence.pictures import keep_picture, picture_digest, picture_path
from reflex_jax.evidence.reader import read_evidence
from reflex_jax.evidence.records import (
    Answer,
    BatchRecord,
    Group,
    Score,
    Statement,
    as_json,
    from_json,
    number,
    pack_array,
    pack_mask,
)
from reflex_jax.rewards.visual_fidelity import quantile_mask

MASK = np.array([[True, False, True], [False, False, True]])
STATEMENT = Statement(
    ids=(2, 7, 3), embedding=pack_array(np.array([0.6, -0.8]), "<f4"), mask=pack_mask(MASK), cut=0.1,
    saliency=pack_array(np.arange(6), "<f4"),
)  # fmt: skip
ANSWER = Answer(
    id="4/0/1", completion="<answer>Ja\ud800</answer>", tokens=pack_array(np.array([5, 1]), "<i4"), parsed_answer="Ja",
    statement="es ist so", statement_index=0, is_degenerate=False, tied_fraction=0.0, iou=1.0, chance_corrected_iou=1.0,
    text_text_similarity=1.0, image_text_similarity=number(np.float32(0.3)), loop_tightness=0.0,
    components={"answer": Score(score=1.0, applies=True, margins={"is_correct": 0.5})}, reward=number(np.nan), advantage=0.0,
    is_correct=True, is_valid=False, failure="x",
)  # fmt: skip
GROUP = Group(
    place=0, number=0, id="q", source="", question="?", answer="Ja", answer_type="closed", options=("a", "b"), modality=None,
    organ=None, category=None, picture="0" * 64, picture_id="p", anchor="es ist so", image_embedding=None,
    statements=(STATEMENT,), answers=(ANSWER,),
)  # fmt: skip
BATCH = BatchRecord(
    step=4, set="training", sampling="sampled", draw=0, draws=1, phase="closed", policy={"policy": "sha256:0", "steps": 3},
    identity={}, code={"version": "0", "commit": None, "decl": "2"}, device={}, judge={}, rewards={"components": {},
    "normalise": "sum", "advantage": "sample_std"},
    shape={"P": 1, "G": 1, "grid": [2, 3]}, statement_counts=(1,), statement_lengths=((3,),),
)  # fmt: skip


def written(directory, *records: dict):
    log = EvidenceLog(directory, head=Head(), step=0, is_writing=True)
    log.append(4, records)
    log.close()
    return directory


@pytest.mark.parametrize("record", [BATCH, GROUP])
def test_a_record_comes_back_as_it_was(record):
    assert from_json(json.loads(json.dumps(as_json(record)))) == record


def test_arrays_and_numbers_come_back_bit_for_bit():
    np.testing.assert_array_equal(STATEMENT.mask_cells(BATCH.grid), MASK)
    # bits 101001 and two of nothing: 0b10100100 = 164 = base64 "pA=="
    assert STATEMENT.mask == "pA=="
    np.testing.assert_array_equal(STATEMENT.saliency_map((2, 3)), np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(STATEMENT.embedding_values, np.float32([0.6, -0.8]))
    np.testing.assert_array_equal(ANSWER.token_ids, [5, 1])
    assert np.float32(json.loads(json.dumps(ANSWER.image_text_similarity))) == np.float32(0.3)
    assert ANSWER.reward == "nan" and np.isnan(float(ANSWER.reward)) and number(-np.inf) == "-inf"
    none = dataclasses.replace(STATEMENT, mask=None, embedding=None, saliency=None)
    assert none.mask_cells((2, 3)) is none.embedding_values is none.saliency_map((2, 3)) is None


def test_the_reader_gives_each_group_with_its_batch(tmp_path):
    other = dataclasses.replace(BATCH, step=0, set="evaluation", sampling="greedy")
    written(tmp_path, as_json(BATCH), as_json(GROUP), as_json(GROUP), as_json(other), as_json(GROUP))
    assert [(r.line, r.batch.name, r.group) for r in read_evidence(tmp_path)] == [
        (2, "4", GROUP), (3, "4", GROUP), (5, "0/greedy", GROUP),
    ]  # fmt: skip
    assert GROUP.statement_of(ANSWER) is STATEMENT
    assert GROUP.statement_of(dataclasses.replace(ANSWER, statement_index=None)) is None


@pytest.mark.parametrize(
    "records, told",
    [
        ([as_json(GROUP)], "line 1: a group without a batch before it"),
        (
            [{**as_json(BATCH), "format": 3}],
            "line 1: expected a batch or group of format 1 or 2; got 'batch' of format 3",
        ),
        ([{**as_json(BATCH), "extra": 2}], "line 1: its fields are not those of a batch: .*extra"),
        ([as_json(BATCH), {**as_json(GROUP), "answers": [{}]}], "line 2: its fields are not those of a group"),
    ],
)
def test_what_is_no_record_is_refused_with_its_line(tmp_path, records, told):
    with pytest.raises(ConfigError, match=told):
        list(read_evidence(written(tmp_path, *records)))


def test_a_damaged_line_and_a_run_without_evidence_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is none. Train with evidence.every=N"):
        list(read_evidence(tmp_path))
    path = written(tmp_path, as_json(BATCH), as_json(GROUP)) / "evidence.jsonl"
    path.write_bytes(path.read_bytes().replace(b"closed", b"Closed", 1))
    with pytest.raises(ConfigError, match="line 1: what it holds is not what its hash was made of"):
        list(read_evidence(tmp_path))


def test_the_manual_lists_every_field(repository):
    manual = (repository / "docs" / "evidence.md").read_text()
    for title, record in (
        ("`batch`", BatchRecord),
        ("`group`", Group),
        ("`statements[]`", Statement),
        ("`answers[]`", Answer),
    ):
        table = manual[manual.index(f"**{title}**") :].split("\n\n")[1]
        first = [row.split("|")[1] for row in table.splitlines()[2:]]
        assert sorted(re.findall(r"`(\w+)`", " ".join(first))) == sorted(f.name for f in dataclasses.fields(record))


@pytest.mark.parametrize("quantile", [0.3, 0.5, 0.9])
def test_the_cut_is_the_lowest_value_that_the_mask_keeps(quantile):
    saliency = np.random.default_rng(0).permutation(30).reshape(5, 6).astype(np.float32)  # no ties
    kept = saliency[np.asarray(quantile_mask(saliency, quantile=quantile))]
    assert cut_of(saliency, quantile) == kept.min()


def test_a_statement_is_as_long_as_its_last_token():
    assert statement_length(np.array([2, 0, 3, 0, 0]), 0) == 3  # a padding inside counts
    assert statement_length(np.zeros(3, int), 0) == 0


def test_the_format_before_knew_the_longest_statement_alone():
    batch = dataclasses.replace(BATCH, statement_counts=(2, 1), statement_lengths=((5, 5), (3,)))
    assert from_json({**as_json(batch), "format": 1, "statement_lengths": [5, 3]}) == batch
    assert from_json(as_json(batch)) == batch


def test_pictures_are_told_apart_by_pixels_and_shape_and_kept_once(tmp_path):
    pixels = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    digest = picture_digest(pixels)
    assert digest != picture_digest(pixels.reshape(4, 2, 3)) and digest != picture_digest(pixels ^ 1)
    for _ in range(2):
        keep_picture(tmp_path, pixels)
    (path,) = (tmp_path / "evidence_pictures").iterdir()
    assert path == picture_path(tmp_path, digest)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)
