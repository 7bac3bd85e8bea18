"""From a scored batch to lines of evidence: which groups are recorded, and what is said of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from reflex_jax.config import Config
from reflex_jax.evidence.facts import code_facts, device_facts, judge_facts, reward_facts, shape_facts
from reflex_jax.evidence.groups import ScoredBatch, group_record, statement_length
from reflex_jax.evidence.log import EvidenceLog
from reflex_jax.evidence.pictures import keep_picture
from reflex_jax.evidence.records import SAMPLED, TRAINING, BatchRecord, as_json
from reflex_jax.processes import gather
from reflex_jax.step.shapes import Shapes
from reflex_jax.stops import not_written

_OF_POLICY = ("policy", "adapter", "weights")  # what of an identity says whose answers these are


@dataclass(frozen=True)
class Occasion:
    """When a batch was scored, and for what."""

    step: int
    set: str = TRAINING
    sampling: str = SAMPLED
    batches: int = 0  # of this name that are recorded before; only where it is asked in several
    groups: int = 0  # that are recorded in them

    @property
    def name(self) -> str:
        """How the ids of answers begin: "12" or "12/greedy"."""
        return str(self.step) if self.set == TRAINING else f"{self.step}/{self.sampling}"


class EvidenceRecorder:
    """Records batches of one run; all processes call it at the same points."""

    def __init__(
        self,
        config: Config,
        shapes: Shapes,
        log: EvidenceLog,
        *,
        identity: Mapping[str, str],
        phase_name: Callable[[int], str] | None = None,
    ):
        """Reads what all batches have in common.

        Args:
          config: of the run.
          shapes: of the run.
          log: where the lines go.
          identity: fingerprints of what the run belongs to.
          phase_name: of the curriculum, by the number of steps before; None: nothing is trained.
        """
        self._config, self._settings, self._shapes, self._log = config, config.evidence, shapes, log
        self._identity, self._phase_name = identity, phase_name
        self._code, self._device = code_facts(), device_facts(shapes.mesh)
        self._pad_id = shapes.judge.text.pad_token_id if shapes.judge else 0

    def is_due(self, step: int) -> bool:
        """Whether a step of training is recorded."""
        return step % self._settings.every == 0

    def record(
        self,
        occasion: Occasion,
        batches: Sequence[ScoredBatch],
        *,
        sources: Int[np.ndarray, "P"] | None = None,
        advantages: Float[np.ndarray, "P G"] | None = None,
    ) -> None:
        """Writes the first groups of what was scored.

        Args:
          occasion: when, and for what.
          batches: the draws of a step; of anything else one batch.
          sources: for each group that was learned from its number among those of all draws; None: those of the one batch.
          advantages: of the groups that were learned from; None: as they were scored.
        Raises:
          RunStopped: the disk takes no more.
        """
        count = batches[0].rows.count
        sources = np.arange(batches[0].questions or count) if sources is None else sources
        sources = sources[: self._settings.groups or None]
        for draw, batch in enumerate(batches):
            numbered = enumerate(sources, occasion.groups)
            chosen = {int(n) - draw * count: number for number, n in numbered if n // count == draw}
            groups = [
                self._group(occasion, batch, p, chosen[place], advantages)
                for p, place in enumerate(batch.rows.local.tolist())
                if place in chosen
            ]
            head = dataclasses.replace(self._batch(occasion, batch), draw=occasion.batches + draw, draws=len(batches))
            self._append(occasion.step, gather([as_json(head), batch.rows.local.tolist(), groups]))

    def _batch(self, occasion: Occasion, batch: ScoredBatch) -> BatchRecord:
        """What the groups have in common; sizes are of this process's part of the questions."""
        config, judge = self._config, batch.bridged.judge
        counts: list[int] = []
        lengths: list[tuple[int, ...]] = []
        if judge is not None:
            counts = np.asarray(judge.statement_count).tolist()
            lengths = [
                tuple(statement_length(ids, self._pad_id) for ids in rows[:count])
                for rows, count in zip(np.asarray(judge.statements), counts, strict=True)
            ]
        is_training = occasion.set == TRAINING
        return BatchRecord(
            step=occasion.step,
            set=occasion.set,
            sampling=occasion.sampling,
            draw=0,
            draws=1,
            phase=self._phase_name(occasion.step - 1) if is_training and self._phase_name else None,
            policy={
                **{key: self._identity[key] for key in _OF_POLICY if key in self._identity},
                "steps": occasion.step - 1 if is_training else occasion.step,
            },
            identity={key: value for key, value in self._identity.items() if key not in _OF_POLICY},
            code=self._code,
            device=self._device,
            judge=judge_facts(config),
            rewards=reward_facts(config),
            shape=shape_facts(config, self._shapes.judge, batch.rows.count, batch.tokens.shape[1]),
            statement_counts=tuple(counts),
            statement_lengths=tuple(lengths),
        )

    def _group(
        self, occasion: Occasion, batch: ScoredBatch, p: int, number: int, advantages: np.ndarray | None
    ) -> dict[str, Any]:
        """A group of this process, and its picture, if pictures are kept."""
        pixels = batch.pixels
        if self._settings.pictures and pixels is not None:
            directory = self._log.directory
            try:
                keep_picture(directory, pixels[p])
            except OSError as error:
                raise not_written(f"a picture of step {occasion.step}", directory, error) from error
        paid = batch.scored.advantages[p] if advantages is None else advantages[number]
        learned = paid if occasion.set == TRAINING else None
        return as_json(
            group_record(
                batch, p, number=number, name=occasion.name, advantages=learned, settings=self._config,
                pad_id=self._pad_id,
            )
        )  # fmt: skip

    def _append(self, step: int, parts: list[Any]) -> None:
        """Writes what all processes found: groups in their order, each once, also where several processes have it."""
        (batch, _, _), *_ = parts
        groups = {group["number"]: group for _, _, found in parts for group in found}
        if not groups:
            return
        for name in ("statement_counts", "statement_lengths"):
            of_place = {
                place: size
                for part, places, _ in parts
                for place, size in zip(places, part[name], strict=bool(part[name]))
            }
            batch = {**batch, name: [of_place[place] for place in sorted(of_place)]}
        self._log.append(step, [batch, *(groups[number] for number in sorted(groups))])


def open_recorder(
    config: Config,
    shapes: Shapes,
    log: EvidenceLog,
    *,
    identity: Mapping[str, str],
    phase_name: Callable[[int], str],
) -> EvidenceRecorder | None:
    """The recorder of a run, see `EvidenceRecorder`; None: it records nothing."""
    if not config.evidence.every:
        return None
    return EvidenceRecorder(config, shapes, log, identity=identity, phase_name=phase_name)
