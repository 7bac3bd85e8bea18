"""The lines of samples.jsonl: one per completion, with every score and why it was paid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from reflex_jax.processes import gather
from reflex_jax.step.batch import HostBatch
from reflex_jax.step.bridge import BridgedRollout
from reflex_jax.step.score import Scored


def completion_rows(
    batch: HostBatch, *, rollout_tokens: np.ndarray, bridged: BridgedRollout, scored: Scored
) -> list[dict[str, Any]]:
    """One row per completion: what was asked, what came, what the judge read, and every score.

    A row that failed has no reward, and `failure` says why; a component that does not apply to a row has none there.
    """
    rows = []
    for p, example in enumerate(batch.examples):
        for g, completion in enumerate(bridged.completions[p]):
            failure = failure_of(bridged, scored, p, g)
            rows.append(
                {
                    "id": example.id,
                    "question": example.question,
                    "true_answer": example.answer,
                    "completion": completion,
                    "parsed_answer": bridged.answers[p][g],
                    "statement": bridged.statements[p][g],
                    "anchor_statement": bridged.anchors[p],
                    "tokens": int(rollout_tokens[p, g].sum()),
                    "failure": failure,
                    "reward": None if failure else float(scored.rewards[p, g]),
                    "advantage": float(scored.advantages[p, g]),
                    **{
                        f"reward/{name}": float(values[p, g]) if scored.applies[name][p, g] else None
                        for name, values in scored.components.items()
                    },
                    **_evidence_of(scored, p, g),
                }
            )
    return rows


def failure_of(bridged: BridgedRollout, scored: Scored, p: int, g: int) -> str | None:
    """Why a completion has no reward: what failed on the host, else on the device; None: it has one."""
    if failure := bridged.failures[p][g]:
        return str(failure)
    if scored.is_valid[p, g]:
        return None
    return "; ".join(
        f"{name}: {values[p, g]} is no score"
        for name, values in scored.components.items()
        if not np.isfinite(values[p, g])
    )


def _evidence_of(scored: Scored, p: int, g: int) -> dict[str, Any]:
    evidence = scored.evidence
    if evidence is None:
        return {}
    return {
        "iou": float(evidence.iou[p, g]),
        "text_text_similarity": float(evidence.text_text_similarity[p, g]),
        "image_text_similarity": float(evidence.image_text_similarity[p, g]),
        "is_degenerate": bool(evidence.is_degenerate[p, g]),
    }


def all_rows(rows: list[dict[str, Any]], places: Sequence[int]) -> list[dict[str, Any]]:
    """The completions of all processes in the order of the prompts, each once.

    Args:
      rows: of this process, group after group.
      places: of their prompts in the batch.
    """
    if jax.process_count() == 1:
        return rows
    group = len(rows) // max(len(places), 1)
    parts = gather([[place, rows[i * group : (i + 1) * group]] for i, place in enumerate(places)])
    by_prompt = {number: group_rows for part in parts for number, group_rows in part}
    return [row for number in sorted(by_prompt) for row in by_prompt[number]]
