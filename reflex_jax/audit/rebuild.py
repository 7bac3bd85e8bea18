"""From the lines of a batch back to what the judge was asked: the same arrays, in the same places of the same shapes.

Only the recorded questions of a batch are known. The places of the others are filled with copies that have as many statements
of the same length as theirs had, because the judge computes as many columns and tokens as its batch needs: so every recorded
row goes through the program it went through then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int, UInt8

from reflex_jax.config import Component, Config, compares_groups
from reflex_jax.data.examples import Example
from reflex_jax.evidence.groups import ScoredBatch
from reflex_jax.evidence.records import Answer, BatchRecord, Group
from reflex_jax.records import HostScores, JudgeInputs
from reflex_jax.rewards.components import REWARDS, asks_endpoint
from reflex_jax.step.bridge import BridgedRollout, HostBridge
from reflex_jax.step.program import Program
from reflex_jax.trees import Params


def recomputed_components(config: Config) -> dict[str, Component]:
    """The components of a run's reward that are computed again: neither a language model nor code of the run's own is asked."""
    return {
        name: component
        for name, component in config.rewards.components.items()
        if name in REWARDS and not asks_endpoint(name)
    }


def taken_components(batch: BatchRecord) -> list[str]:
    """The others, which stand as they are recorded."""
    return [name for name in sorted(batch.rewards["components"]) if name not in REWARDS or asks_endpoint(name)]


def takes_advantages(batch: BatchRecord) -> bool:
    """Whether advantages stand as they are recorded: they compare groups, and those of the step were drawn in several batches."""
    return batch.draws > 1 and compares_groups(batch.rewards["normalise"], batch.rewards["advantage"])


@dataclass(frozen=True, eq=False)
class Asked:
    """The recorded questions of a batch, found again in the data."""

    examples: Sequence[Example]
    pixels: UInt8[np.ndarray, "R H W 3"] | None  # None: nothing asks a judge


def rescore(
    batch: BatchRecord,
    groups: Sequence[Group],
    asked: Asked,
    program: Program,
    judge: Params | None,
    bridge: HostBridge,
) -> ScoredBatch:
    """Scores the recorded groups of a batch again, strings on the host and evidence by the program's `score`.

    Args:
      batch: as recorded.
      groups: its recorded groups, R of them.
      asked: their questions.
      program: of the run, on the mesh that the result is for.
      judge: its parameters; None: nothing asks it.
      bridge: of `recomputed_components`.
    Returns:
      All P rows; those at the places of the groups mean something.
    """
    tokens, mask = _tokens(groups)
    bridged = bridge(asked.examples, tokens, mask, asked.pixels)
    scores = _with_recorded(bridged.scores, groups, taken_components(batch))
    bridged = dataclasses.replace(bridged, scores=scores)
    prompts = batch.shape["P"]
    source = np.zeros(prompts, int)  # which of the recorded groups stands at a place: its own, else the first
    source[[group.place for group in groups]] = np.arange(len(groups))
    is_own = np.zeros(prompts, bool)
    is_own[[group.place for group in groups]] = True
    bridged = _spread(bridged, source)
    if bridged.judge is not None and program.shapes.judge is not None:
        filled = _filled(bridged.judge, batch, is_own, program.shapes.judge.text.pad_token_id)
        bridged = dataclasses.replace(bridged, judge=filled)
    rows = program.shapes.rows(prompts)
    inputs, scores = rows.place((bridged.judge, bridged.scores))
    scored = rows.fetch(program.score(judge, inputs, scores))
    return ScoredBatch(
        examples=[asked.examples[r] for r in source],
        pixels=None if asked.pixels is None else asked.pixels[source],
        tokens=tokens[source],
        lengths=mask.sum(-1)[source],
        bridged=bridged,
        scored=scored,
        rows=rows,
    )


def _tokens(groups: Sequence[Group]) -> tuple[Int[np.ndarray, "R G Lc"], Bool[np.ndarray, "R G Lc"]]:
    """What was sampled, padded to the longest."""
    rows = [[answer.token_ids for answer in group.answers] for group in groups]
    longest = max((len(ids) for row in rows for ids in row), default=0)
    tokens = np.zeros((len(rows), len(rows[0]), max(longest, 1)), np.int32)
    mask = np.zeros(tokens.shape, bool)
    for r, row in enumerate(rows):
        for g, ids in enumerate(row):
            tokens[r, g, : len(ids)] = ids
            mask[r, g, : len(ids)] = True
    return tokens, mask


def _with_recorded(scores: HostScores, groups: Sequence[Group], taken: Sequence[str]) -> HostScores:
    """With the components that are not computed again as they are recorded."""
    is_valid = np.array(scores.is_valid)
    components, applies = dict(scores.components), dict(scores.applies)
    failed = np.array([[failed_in(answer, taken) for answer in group.answers] for group in groups], bool)
    for name in applies:  # what came after the one that failed was not asked
        recorded_applies = [[answer.components[name].applies for answer in group.answers] for group in groups]
        applies[name] = np.where(failed, np.array(recorded_applies, bool), applies[name])
    is_valid &= ~failed
    for name in taken:
        recorded = [[answer.components[name] for answer in group.answers] for group in groups]
        components[name] = np.array([[float(score.score) for score in row] for row in recorded], np.float32)
        applies[name] = np.array([[score.applies for score in row] for row in recorded], bool)
    components = {name: np.where(is_valid, values, np.float32(np.nan)) for name, values in components.items()}
    return dataclasses.replace(
        scores, components=components, applies=applies, is_valid=is_valid, is_correct=scores.is_correct & is_valid
    )


def failed_in(answer: Answer, names: Sequence[str]) -> bool:
    """Whether one of these components is what failed of an answer."""
    return answer.failure is not None and answer.failure.startswith(tuple(f"{name}: " for name in names))


def _spread(bridged: BridgedRollout, source: Int[np.ndarray, "P"]) -> BridgedRollout:
    """Each place with the recorded group that stands there."""
    parts: dict[str, Any] = {
        name: [getattr(bridged, name)[r] for r in source]
        for name in ("completions", "answers", "statements", "anchors", "failures")
    }
    arrays = jax.tree.map(lambda leaf: np.asarray(leaf)[source], (bridged.judge, bridged.scores))
    return BridgedRollout(**parts, judge=arrays[0], scores=arrays[1])


def _filled(judge: JudgeInputs, batch: BatchRecord, is_own: Bool[np.ndarray, "P"], pad_id: int) -> JudgeInputs:
    """With rows of the right sizes where nothing is recorded; what they say does not matter."""
    statements, counts = np.array(judge.statements), np.array(judge.statement_count)
    index = np.array(judge.statement_index)
    for p in np.flatnonzero(~is_own):
        counts[p] = batch.statement_counts[p]
        word = statements[p, 0, 0]
        statements[p] = pad_id
        for row, length in zip(statements[p], batch.statement_lengths[p], strict=False):
            row[:length] = word
        index[p] = 0
    return dataclasses.replace(judge, statements=statements, statement_count=counts, statement_index=index)
