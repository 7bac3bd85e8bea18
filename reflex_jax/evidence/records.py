"""What a line of evidence holds: a batch as it was scored, and after it a line for each recorded group of completions.

Every field is plain JSON, and a reader gets the arrays out of it when asked. Arrays are base64 of their bytes, little-endian and
in C order; numbers are float32 written so that reading gives the same bits back; a number that is none is the text "nan", "inf"
or "-inf". `docs/evidence.md` lists the fields with units and ranges.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

FORMAT = 2  # of the records; a reader knows the one before, in which a batch has fewer lengths, and refuses others
TRAINING, EVALUATION = "training", "evaluation"  # `BatchRecord.set`
SAMPLED, GREEDY = "sampled", "greedy"  # `BatchRecord.sampling`
BATCH, GROUP = "batch", "group"  # kinds of lines

Number = float | str  # a float32, or how one that is not finite is written


def number(value: Any) -> Number:
    """A number as records hold it."""
    plain = float(value)
    return plain if math.isfinite(plain) else str(plain)


def pack_array(array: np.ndarray, dtype: str) -> str:
    """The bytes of an array as text, as a little-endian dtype."""
    return base64.b64encode(np.ascontiguousarray(array, dtype).tobytes()).decode("ascii")


def pack_mask(mask: Bool[np.ndarray, "h w"]) -> str:
    """A mask, eight cells a byte, the first in the highest bit."""
    return base64.b64encode(np.packbits(mask, axis=None).tobytes()).decode("ascii")


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one component of the reward gave a completion."""

    score: Number  # before its weight; 0 where it does not apply
    applies: bool  # False: nothing was to be scored
    margins: dict[str, Number] = field(default_factory=dict)  # value minus threshold, for each threshold it has


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A distinct statement about a picture, as the judge read it and where it looked."""

    ids: tuple[int, ...]  # tokens of the judge, [CLS] and [SEP] included, cut to `shape.T`
    embedding: str | None  # float32 [D] of length 1; None: no completion says this (the question alone)
    mask: str | None  # bits of the cells kept, row by row of `shape.grid`
    cut: Number | None  # value of the saliency map at the cut of Eq. 3: the lowest that the quantile keeps
    saliency: str | None = None  # float32 [h w], raw; only with `evidence.saliency`

    @property
    def embedding_values(self) -> Float[np.ndarray, "D"] | None:
        """The embedding as an array."""
        return unpack(self.embedding, "<f4")

    def mask_cells(self, grid: tuple[int, int]) -> Bool[np.ndarray, "h w"] | None:
        """The mask as an array of `shape.grid`."""
        packed = unpack(self.mask, np.uint8)
        return None if packed is None else np.unpackbits(packed, count=math.prod(grid)).astype(bool).reshape(grid)

    def saliency_map(self, grid: tuple[int, int]) -> Float[np.ndarray, "h w"] | None:
        """The saliency map as an array of `shape.grid`."""
        values = unpack(self.saliency, "<f4")
        return None if values is None else values.reshape(grid)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One completion and everything it was paid by."""

    id: str  # STEP/GROUP/NUMBER in training, STEP/sampled/GROUP/NUMBER or STEP/greedy/... in an evaluation
    completion: str  # decoded, without special tokens
    tokens: str  # int32 [L]: what was sampled, the end included
    parsed_answer: str | None  # content of its single answer block
    statement: str | None  # decl(question, parsed_answer); None: no answer
    statement_index: int | None  # of `Group.statements`, where the judge read it; 0: in the words of the anchor
    is_degenerate: bool | None  # its map or the anchor's cannot be cut; None: nothing asked a judge
    tied_fraction: Number | None  # share of cells tied at the cut, in [0, 1]
    iou: Number | None  # of its mask with the anchor's, in [0, 1]
    chance_corrected_iou: Number | None  # 0 is chance, 1 agreement
    text_text_similarity: Number | None  # s_tt, cosine of statement and anchor
    image_text_similarity: Number | None  # s_it, cosine of picture and statement
    loop_tightness: Number | None  # Eq. 8, where provenance is among the components
    components: dict[str, Score]
    reward: Number  # the weighted total; not a number where a component failed
    advantage: (
        Number | None
    )  # 0 where the row failed or its group has no spread; None: an evaluation, nobody learns from it
    is_correct: bool
    is_valid: bool  # False: it failed, and left every statistic
    failure: str | None  # why

    @property
    def token_ids(self) -> Int[np.ndarray, "L"]:
        """What was sampled."""
        return np.frombuffer(base64.b64decode(self.tokens), "<i4")


@dataclass(frozen=True, kw_only=True)
class Group:
    """The completions of one question, and what they share."""

    place: int  # of the question in the batch as it was scored
    # of the group in the batch that was learned from, the same but with `grpo.dynamic_sampling`; counted through an evaluation
    number: int
    id: str  # of the question
    source: str  # label of the data source; empty: it has none
    question: str
    answer: str  # of the data set: the anchor is made of it
    answer_type: str  # closed | open
    options: tuple[str, ...] | None  # texts behind the letters A, B, ...
    modality: str | None
    organ: str | None
    category: str | None
    picture: str | None  # SHA-256 of the picture as the judge saw it (`picture_digest`); None: nothing asked a judge
    picture_id: str  # of the question's first picture in its data set; empty: there is none
    anchor: str  # decl(question, answer)
    image_embedding: str | None  # float32 [D] of length 1
    statements: tuple[Statement, ...]  # what the judge read; 0 is the anchor
    answers: tuple[Answer, ...]

    @property
    def image_embedding_values(self) -> Float[np.ndarray, "D"] | None:
        """The picture's embedding as an array."""
        return unpack(self.image_embedding, "<f4")

    def statement_of(self, answer: Answer) -> Statement | None:
        """What the judge read of an answer."""
        return None if answer.statement_index is None else self.statements[answer.statement_index]


@dataclass(frozen=True, kw_only=True)
class BatchRecord:
    """A batch as it was scored: what its groups have in common, and what the same computation needs again."""

    step: int  # of training; an evaluation has that of the policy it looked at
    set: str  # training | evaluation
    sampling: str  # sampled | greedy; greedy.blank and the like: the policy saw another picture
    # number of this batch among those its step drew, 0 without `grpo.dynamic_sampling`; or of those of an evaluation
    draw: int
    draws: int  # how many its step drew; 1 in an evaluation
    phase: str | None  # of the curriculum; None: an evaluation
    policy: dict[str, Any]  # fingerprints of what the run started from (policy, adapter), steps learned since
    identity: dict[str, str]  # fingerprints of everything else by content: data, judge, encoders, rewards, evaluation
    code: dict[str, str | None]  # version, commit (None: not of a clone), decl
    device: dict[str, Any]  # jax, jaxlib, backend, kind, mesh, processes, xla_flags
    judge: dict[str, Any] | None  # how it looks; None: nothing asked it
    rewards: dict[str, Any]  # components (weight, when, options), normalise, advantage
    shape: dict[str, Any]  # P, G, S, T of the judge's batch, grid (h, w) of its maps, pixels (H, W), microbatch
    statement_counts: tuple[int, ...]  # [P] distinct statements of each question of the batch, recorded or not
    statement_lengths: tuple[tuple[int, ...], ...]  # [P] tokens of each of them

    @property
    def name(self) -> str:
        """How answers and messages name it: "12" or "12/greedy"."""
        return str(self.step) if self.set == TRAINING else f"{self.step}/{self.sampling}"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the judge's maps; (0, 0) without a judge."""
        height, width = self.shape.get("grid") or (0, 0)
        return height, width


def unpack(text: str | None, dtype: Any) -> np.ndarray | None:
    """The array behind base64."""
    return None if text is None else np.frombuffer(base64.b64decode(text), dtype)


def as_json(record: BatchRecord | Group) -> dict[str, Any]:
    """A record as a line holds it."""
    kind = BATCH if isinstance(record, BatchRecord) else GROUP
    return {"kind": kind, "format": FORMAT, **_plain(record)}


def _plain(value: Any) -> Any:
    """Dicts and lists of what JSON has; `dataclasses.asdict` would copy every word as well, which takes five times as long."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if dataclasses.is_dataclass(value):
        return {name: _plain(part) for name, part in vars(value).items()}
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def from_json(content: Mapping[str, Any]) -> BatchRecord | Group:
    """The record that a line holds.

    Raises:
      ValueError: another format, or fields that are missing, unknown or of another kind.
    """
    fields = dict(content)
    kind, version = fields.pop("kind", None), fields.pop("format", None)
    if version not in (1, FORMAT) or kind not in (BATCH, GROUP):
        raise ValueError(f"expected a batch or group of format 1 or {FORMAT}; got {kind!r} of format {version!r}")
    try:
        if kind == BATCH:
            counts, lengths = fields["statement_counts"], fields["statement_lengths"]
            if version == 1:  # of the longest alone
                lengths = [(most,) * count for most, count in zip(lengths, counts, strict=True)]
            return BatchRecord(
                **{**_with_tuples(fields, "statement_counts"), "statement_lengths": tuple(map(tuple, lengths))}
            )
        statements = tuple(Statement(**_with_tuples(part, "ids")) for part in fields.pop("statements"))
        answers = tuple(_answer(part) for part in fields.pop("answers"))
        return Group(**_with_tuples(fields, "options"), statements=statements, answers=answers)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"its fields are not those of a {kind}: {error}") from error


def _answer(fields: dict[str, Any]) -> Answer:
    scores = {name: Score(**score) for name, score in fields["components"].items()}
    return Answer(**{**fields, "components": scores})


def _with_tuples(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: tuple(value) if name in names and value is not None else value for name, value in fields.items()}
