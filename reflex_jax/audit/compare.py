"""What differs between a group as it is recorded and as it was computed again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reflex_jax.audit.rebuild import failed_in, takes_advantages
from reflex_jax.evidence.records import Answer, BatchRecord, Group, Statement, unpack
from reflex_jax.rewards.components import REWARDS

# By how much numbers may differ where the bits may: on another machine, version of JAX or mesh; absolute, for a judge in
# float32. Maps have no scale of their own, so theirs is over the largest value. A cell at the cut may fall on either side of it.
TOLERANCES = {
    "embedding": 1e-4, "similarity": 1e-4, "saliency": 1e-2, "mask": 0.03, "iou": 0.06, "score": 1e-4, "reward": 1e-4,
    "advantage": 1e-3,
}  # fmt: skip
HALF_PRECISION = 30.0  # times that of a judge in bfloat16
ROUNDING = 1e-5  # of what a text encoder said, whose batches were others; and of advantages that were computed over several draws


_OF_THE_DATA = (
    "source", "question", "answer", "answer_type", "options", "modality", "organ", "category", "picture_id",
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """One value that was recorded and is now another."""

    line: int  # of the evidence
    where: str  # id of an answer, or of the question
    field: str
    recorded: Any
    now: Any
    size: float | None = None  # None: no number, so it has to be equal
    tolerance: float = 0.0  # what it may be

    @property
    def is_within(self) -> bool:
        """Whether it may be that large."""
        return self.size is not None and self.size <= self.tolerance

    def __str__(self) -> str:
        """One line."""
        by = "" if self.size is None else f" (by {self.size:.3g})"
        return f"line {self.line}, {self.where}: {self.field} was {_short(self.recorded)}, is {_short(self.now)}{by}"


@dataclass(frozen=True)
class Flip:
    """A component of the reward that decides otherwise now."""

    line: int
    where: str  # id of the answer
    component: str
    recorded: float
    now: float
    margin: float | None  # the smallest distance from a threshold, as recorded
    is_at_border: bool  # whether it lay so close to a threshold that rounding can decide

    def __str__(self) -> str:
        """One line."""
        margin = "" if self.margin is None else f"; it was {self.margin:.3g} from its threshold"
        return f"line {self.line}, {self.where}: {self.component} paid {self.recorded:g}, pays {self.now:g}{margin}"


@dataclass(frozen=True)
class Exactness:
    """What a comparison may let pass."""

    is_exact: bool  # the same machine, versions and mesh: every bit
    factor: float = 1.0  # on the tolerances
    rounded: frozenset[str] = frozenset()  # fields that may differ by `ROUNDING` even so
    takes_advantages: bool = False  # which are not computed again

    def tolerance(self, kind: str, field: str) -> float:
        """Of a number."""
        if field in self.rounded:
            return ROUNDING if self.is_exact else max(ROUNDING, TOLERANCES[kind] * self.factor)
        return 0.0 if self.is_exact else TOLERANCES[kind] * self.factor


def exactness_of(batch: BatchRecord, *, is_exact: bool) -> Exactness:
    """What a replay of a batch may let pass; is_exact: it runs where the batch was scored."""
    factor = HALF_PRECISION if batch.judge and batch.judge["dtype"] != "float32" else 1.0
    encoded = {
        f"components.{name}"
        for name in batch.rewards["components"]
        if name in REWARDS and REWARDS[name].needs == "text_encoders"
    }
    rounded = encoded | ({"reward", "advantage"} if encoded else set()) | ({"advantage"} if batch.draws > 1 else set())
    return Exactness(is_exact, factor, frozenset(rounded), takes_advantages(batch))


def compare(
    line: int, recorded: Group, now: Group, exactness: Exactness, *, taken: Sequence[str]
) -> Iterator[Difference | Flip]:
    """Everything that differs.

    Args:
      line: of the recorded group.
      recorded: as it stands in the evidence.
      now: as it was computed again.
      exactness: what may differ, and by how much.
      taken: components that were not computed again.
    """
    compared = _Comparison(line, recorded.id, exactness)
    for field in (*_OF_THE_DATA, "picture", "anchor"):
        yield from compared.equal(field, getattr(recorded, field), getattr(now, field))
    yield from compared.arrays("image_embedding", "embedding", recorded.image_embedding, now.image_embedding)
    yield from compared.equal("number of statements", len(recorded.statements), len(now.statements))
    for s, (was, found) in enumerate(zip(recorded.statements, now.statements, strict=False)):
        yield from _statement(compared, f"statements[{s}]", was, found)
    for answer, other in zip(recorded.answers, now.answers, strict=True):
        other = replace(other, advantage=answer.advantage) if exactness.takes_advantages else other
        yield from _answer(replace(compared, where=answer.id), answer, other, taken)


def _statement(compared: _Comparison, name: str, was: Statement, now: Statement) -> Iterator[Difference]:
    yield from compared.equal(f"{name}.ids", was.ids, now.ids)
    yield from compared.arrays(f"{name}.embedding", "embedding", was.embedding, now.embedding)
    if was.mask != now.mask:
        packed = [unpack(text, np.uint8) for text in (was.mask, now.mask)]
        bits = [np.unpackbits(array) for array in packed if array is not None]
        share = float((bits[0] != bits[1]).mean()) if len(bits) == 2 and len(bits[0]) == len(bits[1]) else None
        yield compared.difference(f"{name}.mask", "mask", was.mask, now.mask, share)
    if was.saliency is not None:
        yield from compared.arrays(f"{name}.saliency", "saliency", was.saliency, now.saliency)
    if compared.exactness.is_exact:  # else it says no more than the map
        yield from compared.numbers(f"{name}.cut", "saliency", was.cut, now.cut)


def _answer(compared: _Comparison, was: Answer, now: Answer, taken: Sequence[str]) -> Iterator[Difference | Flip]:
    for field in ("completion", "parsed_answer", "statement", "statement_index", "is_correct", "is_valid"):
        yield from compared.equal(field, getattr(was, field), getattr(now, field))
    if not failed_in(was, taken):
        yield from compared.equal("failure", was.failure, now.failure)
    if compared.exactness.is_exact:
        yield from compared.equal("is_degenerate", was.is_degenerate, now.is_degenerate)
    kinds = {
        "iou": "iou", "chance_corrected_iou": "iou", "tied_fraction": "mask", "text_text_similarity": "similarity",
        "image_text_similarity": "similarity", "loop_tightness": "similarity",
    }  # fmt: skip
    for field, kind in kinds.items():
        yield from compared.numbers(field, kind, getattr(was, field), getattr(now, field))
    flips = []
    yield from compared.equal("components", sorted(was.components), sorted(now.components))
    for name in sorted(was.components.keys() & now.components.keys()):
        one, other = was.components[name], now.components[name]
        yield from compared.equal(f"components.{name}.applies", one.applies, other.applies)
        found = list(compared.numbers(f"components.{name}", "score", one.score, other.score))
        if compared.exactness.is_exact:  # else they say no more than the values
            yield from compared.equal(f"components.{name}.margins", one.margins, other.margins)
        flip = _flip(compared, name, was, found)
        flips += [flip] if flip else []
        yield from [] if flip else found
    yield from flips
    if not flips:  # else the total and what is made of it follow
        yield from compared.numbers("reward", "reward", was.reward, now.reward)
        yield from compared.numbers("advantage", "advantage", was.advantage, now.advantage)


def _flip(compared: _Comparison, name: str, was: Answer, found: list[Difference]) -> Flip | None:
    """A component that was decided by a threshold and is decided otherwise, where the bits may differ."""
    margins = was.components[name].margins
    if compared.exactness.is_exact or not found or found[0].is_within or name not in REWARDS:
        return None
    if REWARDS[name].kind != "device":
        return None
    size = {m: abs(float(value)) for m, value in margins.items()}
    limits = {m: compared.exactness.tolerance("iou" if m == "iou" else "similarity", m) for m in size}
    return Flip(
        compared.line, compared.where, name, float(found[0].recorded), float(found[0].now), min(size.values(), default=None),
        is_at_border=any(size[m] <= limits[m] for m in size),
    )  # fmt: skip


@dataclass(frozen=True)
class _Comparison:
    """Where values are compared, and how."""

    line: int
    where: str
    exactness: Exactness

    def difference(self, field: str, kind: str, was: Any, now: Any, size: float | None) -> Difference:
        return Difference(self.line, self.where, field, was, now, size, self.exactness.tolerance(kind, field))

    def equal(self, field: str, was: Any, now: Any) -> Iterator[Difference]:
        if was != now:
            yield Difference(self.line, self.where, field, was, now)

    def numbers(self, field: str, kind: str, was: Any, now: Any) -> Iterator[Difference]:
        if was == now:
            return
        size = None if was is None or now is None else abs(float(was) - float(now))
        yield self.difference(field, kind, was, now, size if size is not None and np.isfinite(size) else None)

    def arrays(self, field: str, kind: str, was: str | None, now: str | None) -> Iterator[Difference]:
        if was == now:
            return
        one, other = unpack(was, "<f4"), unpack(now, "<f4")
        size = None
        if one is not None and other is not None and one.shape == other.shape:
            size = float(np.max(np.abs(one - other), initial=0.0))
            if kind == "saliency":
                size /= max(float(np.max(np.abs(one), initial=0.0)), 1e-30)
        yield self.difference(field, kind, was, now, size)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]}...{text[-1]}"
