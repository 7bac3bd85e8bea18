"""One decision in words: what was said, what the judge read and saw, what each component paid and why."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from reflex_jax.audit.replay import Replayed
from reflex_jax.evidence.records import Answer, BatchRecord, Group, Score
from reflex_jax.rewards.components import REWARDS, asks_endpoint

_VALUES = {  # of which number a margin is
    "iou": ("IoU of its mask with the anchor's", "iou", "iou_threshold"),
    "text_text": ("similarity of statement and anchor, s_tt", "text_text_similarity", "text_threshold"),
    "image_text": ("similarity of picture and statement, s_it", "image_text_similarity", "image_threshold"),
}


def explain(replayed: Replayed, answer_id: str) -> list[str]:
    """Lines that explain what one answer was paid.

    Args:
      replayed: its group.
      answer_id: of the answer, one of the group's.
    """
    line, batch, group = replayed.recorded
    answer = next(answer for answer in group.answers if answer.id == answer_id)
    where = f"phase {batch.phase}" if batch.phase is not None else f"held-out questions, {batch.sampling}"
    source = f", {group.source}" if group.source else ""
    return [
        f"answer {answer.id} (line {line}; step {batch.step}, {where})",
        *_indented("question", f"{group.question}   [{group.id}{source}, {group.answer_type}]"),
        *(_indented("options", " | ".join(group.options)) if group.options else []),
        *_indented("data set says", group.answer),
        *_indented("completion", answer.completion),
        *_indented(
            "answer", "none: there is no single answer block" if answer.parsed_answer is None else answer.parsed_answer
        ),
        *_indented("statement", answer.statement or "none, so there is nothing to look for"),
        *_indented("anchor", f"{group.anchor}   [both by decl {batch.code['decl']}]"),
        *_looked(batch, group, answer),
        *_paid(batch, answer, replayed.taken),
        *_advantage(batch, group, answer),
        *_verdict(replayed, answer),
    ]


def _looked(batch: BatchRecord, group: Group, answer: Answer) -> Iterator[str]:
    if batch.judge is None:
        yield "judge: nothing in the reward asks one"
        return
    side = " x ".join(map(str, batch.shape["pixels"]))
    yield (
        f"judge: {batch.identity.get('judge')}, {batch.judge['saliency']} of block {batch.judge['saliency_block']}, quantile "
        f"{batch.judge['quantile']:g}, ties {batch.judge['tie_rule']}; picture {group.picture_id}, {side} pixels, SHA-256 "
        f"{group.picture}"
    )
    statement = group.statement_of(answer)
    anchor = group.statements[0].mask_cells(batch.grid)
    if statement is None or anchor is None:
        return
    mask = statement.mask_cells(batch.grid)
    if mask is None:
        return
    if answer.statement_index == 0:
        yield "  it says what the anchor says, word for word as the judge reads: the masks are one"
    tied = 100 * float(answer.tied_fraction or 0)
    yield (
        f"  its mask keeps {mask.sum()} of {mask.size} cells (map values from {float(statement.cut or 0):.6g} on), the anchor's "
        f"{anchor.sum()}; they share {(mask & anchor).sum()} of {(mask | anchor).sum()}: IoU {_text(answer.iou)}, "
        f"chance-corrected {_text(answer.chance_corrected_iou)}; {tied:.0f} % of its cells tie "
        "at the cut"
    )
    if answer.is_degenerate:
        yield "  one of the two maps cannot be cut, so its mask says nothing and visual fidelity pays nothing"


def _paid(batch: BatchRecord, answer: Answer, taken: list[str]) -> Iterator[str]:
    components: dict[str, Any] = batch.rewards["components"]
    yield f"reward {_text(answer.reward)}, the sum of"
    for name in sorted(answer.components):
        score, component = answer.components[name], components[name]
        yield f"  {name}: {component['weight']:g} x {_text(score.score)}   {_why(name, score, component, answer, name in taken)}"
    if answer.failure:
        yield f"  it failed and is left out of every statistic: {answer.failure}"


def _why(name: str, score: Score, component: dict[str, Any], answer: Answer, is_taken: bool) -> str:
    if not score.applies:
        return f"(does not apply: it looks at {component['when']} answers, or has nothing to score here)"
    if is_taken:
        who = "a language model" if asks_endpoint(name) else "code of the run's own"
        return f"(taken from the record: {who} said so, who is not asked again)"
    if name not in REWARDS or REWARDS[name].kind != "device":
        right = ", right" if answer.is_correct else ", wrong"
        return f"(computed from the strings{right if name == 'answer' else ''})"
    if not score.margins:
        return "(there is no statement)"
    parts = []
    for margin, value in score.margins.items():
        what, field, option = _VALUES[margin]
        is_above = float(value) > 0
        parts.append(
            f"{what}, {_text(getattr(answer, field))} is {'above' if is_above else 'not above'} {component['options'][option]:g} "
            f"(margin {float(value):+.6g})"
        )
    return f"({'; '.join(parts)})"


def _advantage(batch: BatchRecord, group: Group, answer: Answer) -> Iterator[str]:
    if answer.advantage is None:
        yield "advantage: none, nobody learns from held-out questions"
        return
    rewards = [float(other.reward) for other in group.answers if other.is_valid]
    shown = ", ".join(f"{reward:.4g}" for reward in rewards)
    rule, how = batch.rewards["advantage"], batch.rewards["normalise"]
    told = f"advantage {_text(answer.advantage)} among the {len(rewards)} rewards of its group: {shown}"
    if not answer.is_valid:
        yield f"{told}; it failed, so it is none of them"
    elif how != "sum":
        yield f"{told}; each component is standardised by itself (rewards.normalise={how}, {rule})"
    elif len(rewards) < 2 or max(rewards) == min(rewards):
        yield f"{told}; they are all equal, which teaches nothing"
    elif rule in ("sample_std", "population_std"):
        mean, spread = np.mean(rewards), np.std(rewards, ddof=1 if rule == "sample_std" else 0)
        found = (float(answer.reward) - mean) / (spread + 1e-6)
        yield f"{told}; ({_text(answer.reward)} - mean {mean:.4g}) / standard deviation {spread:.4g} = {found:.4g} ({rule})"
    else:
        yield f"{told} (grpo.advantage={rule})"


def _verdict(replayed: Replayed, answer: Answer) -> Iterator[str]:
    own = [found for found in replayed.found if found.where == answer.id]
    others = [found for found in replayed.found if found not in own]
    if not own:
        yield "computed again: the same" + ("" if replayed.elsewhere else ", bit for bit")
    for found in own:
        yield f"computed again: {found}"
    for found in others:
        yield f"of its group: {found}"


def _indented(name: str, text: str) -> list[str]:
    first, *rest = text.splitlines() or [""]
    return [f"  {name + ':':14s} {first}", *(f"{'':17s}{line}" for line in rest)]


def _text(value: Any) -> str:
    if value is None:
        return "none"
    number = float(value)
    return f"{number:.6g}" if math.isfinite(number) else "not a number"
