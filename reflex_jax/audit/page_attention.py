"""The drift meter of the page: attention of the shown answers before training and after, held against the judge's masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reflex_jax.audit.page_run import PageRun
from reflex_jax.audit.page_samples import spread
from reflex_jax.audit.policy_attention import (
    Overlap,
    PictureAttention,
    Reading,
    onto_grid,
    overlap_with_judge,
    picture_attention,
    read_again,
)
from reflex_jax.config import Config
from reflex_jax.data.examples import Example
from reflex_jax.judge.batch import judged_part
from reflex_jax.models.biomedclip import BiomedClipConfig
from reflex_jax.run.checkpoint import RunCheckpoints
from reflex_jax.run.weights import restored_policy, weights_to_sample
from reflex_jax.sharding import make_mesh
from reflex_jax.step.models import Models, load_models
from reflex_jax.step.program import build_program
from reflex_jax.trees import Params

WHOLE = (0.0, 0.0, 1.0, 1.0)
MEASURES = ("share", "entropy", "inside", "area", "iou")


@dataclass(frozen=True)
class Looked:
    """What the policy of one checkpoint does on the same answers."""

    step: int  # 0: before training
    measures: Mapping[str, np.ndarray]  # of `MEASURES`, one number an answer; those of the judge NaN without its mask


def measure_attention(
    run: PageRun, questions: Mapping[tuple[str, str], Example], judge: BiomedClipConfig | None, *, most: int
) -> list[Looked]:
    """Reads at most `most` shown answers again with the first policy and the newest, and notes their maps in the samples.

    Args:
      run: its samples receive the maps.
      questions: of `find_questions`.
      judge: sizes of the judge; None: nothing asked one.
      most: answers.
    Returns:
      One entry for each checkpoint; [] where no shown answer has a picture.
    """
    config = run.config
    models = load_models(config, make_mesh(config.mesh), with_judge=False, with_rewards=False)
    rows = _readings(run, questions, models, most)
    if not rows:
        return []
    numbers, readings, parts, masks = _columns(rows, run, judge)
    looked = []
    for label, step, weights in policies_of(config, models):
        maps = picture_attention(models, weights, readings)
        overlaps = [
            None if mask is None else overlap_with_judge(seen, mask, part, quantile=config.judge.quantile)
            for seen, mask, part in zip(maps, masks, parts, strict=True)
        ]
        looked.append(Looked(step, _measures(maps, overlaps)))
        for number, seen, part in zip(numbers, maps, parts, strict=True):
            # over the picture as it is shown
            shown = onto_grid(seen.weights, seen.weights.shape if judge is None else _grid_of(judge), part)
            noted = run.samples.answers[number].setdefault("attention", {})
            noted[label] = [[float(f"{value:.3g}") for value in row] for row in shown.tolist()]
    return looked


def policies_of(config: Config, models: Models) -> list[tuple[str, int, Params]]:
    """(what it is called, step, weights) of the policy before training, and of the newest checkpoint where there is one."""
    program = build_program(config, models.shapes)
    policies = [("before training", 0, weights_to_sample(config, models, program, None))]
    checkpoints = RunCheckpoints(config.run.directory, keep=1, is_owner=False)
    try:
        if checkpoints.steps():
            step = checkpoints.find_step()
            restored = restored_policy(config, models, checkpoints, step)
            policies.append((f"after step {step}", step, weights_to_sample(config, models, program, restored)))
    finally:
        checkpoints.close()
    return policies


@dataclass(frozen=True)
class _Row:
    number: int  # of the answer in the samples
    group: int
    reading: Reading
    size: tuple[int, int]  # of the picture


def _readings(run: PageRun, questions: Mapping[tuple[str, str], Example], models: Models, most: int) -> list[_Row]:
    """One answer of as many groups as there may be."""
    first: dict[int, int] = {}
    for number, answer in enumerate(run.samples.answers):
        group = run.groups[answer["group"]]
        example = questions.get((group.batch.set, group.group.id))
        if example is not None and example.images and answer["tokens"]:
            first.setdefault(answer["group"], number)
    places = list(first)
    rows = []
    for place in (places[index] for index in spread([1] * len(places), most)):
        number, recorded = first[place], run.groups[place]
        example = questions[recorded.batch.set, recorded.group.id]
        images = example.load_images()
        picture = run.config.judge.looks_at(len(images)).start
        inside = [answer["id"] for answer in run.samples.answers if answer["group"] == place]
        whole = recorded.group.answers[inside.index(run.samples.answers[number]["id"])].completion
        if not whole:
            continue
        reading = read_again(
            models.processor, images, example.question, whole, picture=picture, example_id=example.id
        )  # fmt: skip
        rows.append(_Row(number, place, reading, images[picture].size))
    return rows


def _columns(
    rows: Sequence[_Row], run: PageRun, judge: BiomedClipConfig | None
) -> tuple[list[int], list[Reading], list[Any], list[Any]]:
    masks: list[Any] = []
    parts: list[Any] = []
    for row in rows:
        recorded, answer = run.groups[row.group], run.samples.answers[row.number]
        own = next(found for found in recorded.group.answers if found.id == answer["id"])
        statement = recorded.group.statement_of(own)
        mask = statement.mask_cells(recorded.batch.grid) if statement is not None and judge is not None else None
        masks.append(mask if mask is not None and mask.any() else None)
        parts.append(WHOLE if judge is None else judged_part(row.size, judge, run.config.judge.resize))
    return [row.number for row in rows], [row.reading for row in rows], parts, masks


def _grid_of(judge: BiomedClipConfig) -> tuple[int, int]:
    return judge.vision.grid_size, judge.vision.grid_size


def _measures(maps: Sequence[PictureAttention], overlaps: Sequence[Overlap | None]) -> dict[str, np.ndarray]:
    columns: dict[str, list[float]] = {name: [] for name in MEASURES}
    for seen, overlap in zip(maps, overlaps, strict=True):
        of_judge = dict.fromkeys(("inside", "area", "iou"), float("nan"))
        values = {"share": seen.share, "entropy": seen.entropy}
        for name, value in (values | (dataclasses.asdict(overlap) if overlap else of_judge)).items():
            columns[name].append(value)
    return {name: np.asarray(values) for name, values in columns.items()}
