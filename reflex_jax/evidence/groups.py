"""What a line of evidence says of one group: the question, what the judge read and saw, and why each completion was paid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from reflex_jax.config import Config
from reflex_jax.data.examples import Example
from reflex_jax.evidence.pictures import picture_digest
from reflex_jax.evidence.records import Answer, Group, Number, Score, Statement, number, pack_array, pack_mask
from reflex_jax.records import Evidence, JudgeInputs
from reflex_jax.rewards.components import REWARDS, is_of_device
from reflex_jax.rewards.visual_fidelity import kept_cells
from reflex_jax.run.samples import failure_of
from reflex_jax.sharding import BatchRows
from reflex_jax.step.bridge import OPEN_CORRECT_AT, BridgedRollout
from reflex_jax.step.score import Scored


@dataclass(frozen=True, eq=False)
class ScoredBatch:
    """This process's part of a batch as it was scored, on the host."""

    examples: Sequence[Example]
    pixels: UInt8[np.ndarray, "p H W 3"] | None  # as the judge saw them; None: nothing asks one
    tokens: Int[np.ndarray, "p G Lc"]
    lengths: Int[np.ndarray, "p G"]
    bridged: BridgedRollout
    scored: Scored  # with the judge's maps
    rows: BatchRows
    questions: int | None = None  # how many of the batch's are asked, the rest fills it up; None: all


def group_record(
    batch: ScoredBatch, p: int, *, number: int, name: str, advantages: Float[np.ndarray, "G"] | None, settings: Config,
    pad_id: int,
) -> Group:  # fmt: skip
    """The record of one group.

    Args:
      batch: as it was scored.
      p: which of this process's groups.
      number: of the group in the batch that was learned from.
      name: how the ids of its answers begin.
      advantages: of its completions; None: nobody learns from them.
      settings: of the run.
      pad_id: which token of the judge fills statements up.
    """
    example, bridged, evidence, pixels = batch.examples[p], batch.bridged, batch.scored.evidence, batch.pixels
    statements: tuple[Statement, ...] = ()
    if evidence is not None and bridged.judge is not None:
        statements = _statements(bridged.judge, evidence, p, settings, pad_id)
    return Group(
        place=int(batch.rows.local[p]),
        number=number,
        id=example.id,
        source=example.source,
        question=example.question,
        answer=example.answer,
        answer_type=example.answer_type,
        options=example.options,
        modality=example.modality,
        organ=example.organ,
        category=example.category,
        picture=None if pixels is None else picture_digest(pixels[p]),
        picture_id=example.image_id,
        anchor=bridged.anchors[p],
        image_embedding=None if evidence is None else pack_array(evidence.image_embeddings[p], "<f4"),
        statements=statements,
        answers=tuple(
            _answer(
                batch,
                p,
                g,
                name=f"{name}/{number}/{g}",
                advantage=None if advantages is None else advantages[g],
                settings=settings,
            )
            for g in range(len(bridged.completions[p]))
        ),
    )


def cut_of(saliency: Float[np.ndarray, "h w"], quantile: float) -> float:
    """The lowest value that the quantile of Eq. 3 keeps of a map; not a number where a cell is none and was ordered last."""
    cells = np.sort(saliency, axis=None)
    return float(cells[len(cells) - kept_cells(len(cells), quantile)])


def _statements(judge: JudgeInputs, evidence: Evidence, p: int, settings: Config, pad_id: int) -> tuple[Statement, ...]:
    """The distinct statements of a question; the embedding and the map of one come from a completion that says it."""
    index, says = np.asarray(judge.statement_index[p]), np.asarray(judge.has_statement[p])
    found = []
    for s in range(int(judge.statement_count[p])):
        speakers = np.flatnonzero((index == s) & says)
        arrays: dict[str, np.ndarray] = {}
        if s == 0:
            arrays = {
                "embedding": evidence.anchor_embeddings[p], "mask": evidence.anchor_masks[p],
                "map": evidence.anchor_saliency[p],
            }  # fmt: skip
        elif speakers.size:
            g = speakers[0]
            arrays = {
                "embedding": evidence.statement_embeddings[p, g], "mask": evidence.masks[p, g],
                "map": evidence.saliency[p, g],
            }  # fmt: skip
        row = np.asarray(judge.statements[p, s])
        found.append(_statement(row[: statement_length(row, pad_id)].tolist(), arrays, settings))
    return tuple(found)


def statement_length(ids: Int[np.ndarray, "T"], pad_id: int) -> int:
    """Tokens of a statement, without what fills it up."""
    return int((ids != pad_id).nonzero()[0].max(initial=-1)) + 1


def _statement(ids: list[int], arrays: dict[str, np.ndarray], settings: Config) -> Statement:
    if not arrays:
        return Statement(ids=tuple(ids), embedding=None, mask=None, cut=None)
    return Statement(
        ids=tuple(ids),
        embedding=pack_array(arrays["embedding"], "<f4"),
        mask=pack_mask(arrays["mask"]),
        cut=number(cut_of(arrays["map"], settings.judge.quantile)),
        saliency=pack_array(arrays["map"], "<f4") if settings.evidence.saliency else None,
    )


def _answer(batch: ScoredBatch, p: int, g: int, *, name: str, advantage: Any, settings: Config) -> Answer:
    bridged, scored, evidence = batch.bridged, batch.scored, batch.scored.evidence
    judge = bridged.judge if evidence is not None else None
    says = judge is not None and bool(judge.has_statement[p, g])

    def judged(field: str) -> Number | None:
        return None if evidence is None else number(getattr(evidence, field)[p, g])

    return Answer(
        id=name,
        completion=bridged.completions[p][g],
        tokens=pack_array(batch.tokens[p, g, : batch.lengths[p, g]], "<i4"),
        parsed_answer=bridged.answers[p][g],
        statement=bridged.statements[p][g],
        statement_index=int(judge.statement_index[p, g]) if judge is not None and says else None,
        is_degenerate=None if evidence is None else bool(evidence.is_degenerate[p, g]),
        tied_fraction=judged("tied_fraction"),
        iou=judged("iou"),
        chance_corrected_iou=judged("chance_corrected_iou"),
        text_text_similarity=judged("text_text_similarity"),
        image_text_similarity=judged("image_text_similarity"),
        loop_tightness=None if scored.loop_tightness is None else number(scored.loop_tightness[p, g]),
        components={
            component: Score(
                score=number(values[p, g]), applies=bool(scored.applies[component][p, g]),
                margins=_margins(component, scored, p, g, settings) if says or not is_of_device(component) else {},
            )
            for component, values in scored.components.items()
        },
        reward=number(scored.rewards[p, g]),
        advantage=None if advantage is None else number(advantage),
        is_correct=bool(bridged.scores.is_correct[p, g]),
        is_valid=bool(scored.is_valid[p, g]),
        failure=failure_of(bridged, scored, p, g),
    )  # fmt: skip


def _margins(component: str, scored: Scored, p: int, g: int, settings: Config) -> dict[str, Number]:
    """Value minus threshold of one completion; {} for a component that has none."""
    if component == "answer":
        return {"is_correct": number(scored.components[component][p, g] - np.float32(OPEN_CORRECT_AT))}
    rule = REWARDS[component].margins if component in REWARDS else None
    if rule is None or scored.evidence is None:
        return {}
    margins = rule(scored.evidence, **settings.rewards.components[component].options)
    return {name: number(values[p, g]) for name, values in margins.items()}
