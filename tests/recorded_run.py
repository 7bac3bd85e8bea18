"""A run directory made by hand: settings, metrics and evidence of as many answers as a test wants, without a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reflex_jax.config_reader import load_config, save_config
from reflex_jax.data.sources import load_training
from reflex_jax.evidence.chain import Head
from reflex_jax.evidence.log import EvidenceLog
from reflex_jax.evidence.records import (
    TRAINING,
    Answer,
    BatchRecord,
    Group,
    Score,
    Statement,
    as_json,
    pack_array,
    pack_mask,
)

GRID = (14, 14)


def record_run(
    directory: Path, *, steps: int = 4, groups: int = 2, answers: int = 4, texts: Sequence[str] = (), size: int = 8
) -> Path:
    """Writes config.yaml, metrics.jsonl and evidence.jsonl.

    Args:
      directory: new.
      steps: of training, each recorded.
      groups: questions recorded of a step; they are those of the phantom data, from the first on.
      answers: completions of each.
      texts: completions, used in turn before ordinary ones.
      size: phantom questions there are.
    """
    directory.mkdir(parents=True)
    config = load_config(None, [f"data.size={size}", f"run.dir={directory}", "run.name=recorded"])
    save_config(config, directory / "config.yaml")
    rng, examples = np.random.default_rng(0), load_training(config.data, seed=config.run.seed)
    rows, log, left = [], EvidenceLog(directory, head=Head(), step=0, is_writing=True), list(texts)
    for step in range(1, steps + 1):
        batch = _batch(step, groups, answers)
        recorded: list[BatchRecord | Group] = [batch]
        for number in range(groups):
            example = examples[((step - 1) * groups + number) % len(examples)]
            words = (["yes", "no"] * answers)[:answers]
            given = [left.pop(0) if left else f"<think>{step}</think><answer>{word}</answer>" for word in words]
            recorded.append(_group(rng, example, number, step, given))
        log.append(step, [as_json(record) for record in recorded])
        rewards = [
            float(answer.reward) for record in recorded if isinstance(record, Group) for answer in record.answers
        ]
        rows.append(
            {
                "step": step, "phase": "closed", "reward/total": float(np.mean(rewards)), "reward/answer": rng.random(),
                "reward/visual_fidelity": rng.random(), "pass_rate/visual_fidelity/correct": 1.0,
                "pass_rate/visual_fidelity/wrong": None if step == 1 else rng.random(), "kl": rng.random() * 1e-3,
                **({"not_finite": {"pass_rate/visual_fidelity/wrong": "nan"}} if step == 1 else {}),
            }
        )  # fmt: skip
    log.close()
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def _batch(step: int, groups: int, answers: int) -> BatchRecord:
    return BatchRecord(
        step=step, set=TRAINING, sampling="sampled", draw=0, draws=1, phase="closed" if step < 3 else "open",
        policy={"policy": "0" * 64, "steps": step - 1}, identity={}, code={"version": "1", "commit": None, "decl": "1"},
        device={"kind": "cpu", "jax": "0", "mesh": {"data": 1, "fsdp": 1, "tensor": 1}}, judge=None,
        rewards={"components": {}}, shape={"P": groups, "G": answers, "grid": list(GRID), "pixels": [112, 112], "T": 8},
        statement_counts=(2,) * groups, statement_lengths=((4, 4),) * groups,
    )  # fmt: skip


def _group(rng: np.random.Generator, example, number: int, step: int, texts: list[str]) -> Group:
    masks = rng.random((2, *GRID)) > 0.9
    statements = tuple(
        Statement(ids=(2, 7, 3), embedding=pack_array(np.ones(4) / 2, "<f4"), mask=pack_mask(mask), cut=0.5)
        for mask in masks
    )
    return Group(
        place=number, number=number, id=example.id, source="", question=example.question, answer=example.answer,
        answer_type=example.answer_type, options=None, modality=example.modality, organ=example.organ, category=None,
        picture="a" * 63 + str(number), picture_id=example.image_id, anchor=f"{example.answer} it is",
        image_embedding=None, statements=statements,
        answers=tuple(_answer(rng, g, f"{step}/{number}/{g}", text) for g, text in enumerate(texts)),
    )  # fmt: skip


def _answer(rng: np.random.Generator, g: int, name: str, text: str) -> Answer:
    iou, right = float(np.float32(rng.random())), g % 2 == 0
    reward = float(np.float32(right + (iou > 0.5)))
    return Answer(
        id=name, completion=text, tokens=pack_array(np.arange(5), "<i4"), parsed_answer=text[-40:-9] or None,
        statement=text[:60], statement_index=1, is_degenerate=False, tied_fraction=0.0, iou=iou,
        chance_corrected_iou=iou - 0.05, text_text_similarity=0.25 * g, image_text_similarity=0.5, loop_tightness=0.0,
        components={
            "answer": Score(score=float(right), applies=True),
            "visual_fidelity": Score(score=float(iou > 0.5), applies=True, margins={"iou": iou - 0.5}),
        },
        reward=reward, advantage=float(np.float32(reward - 1)), is_correct=right, is_valid=g != 3,
        failure="TimeoutError: <b>slow</b>" if g == 3 else None,
    )  # fmt: skip
