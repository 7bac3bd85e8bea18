"""HOST: which questions a training step sees, as a pure function of the step (grain).

The curriculum is an ordering of the data: phases one after the other, each shuffled anew in every pass. Nothing
is kept between steps, so a run resumes by its step number alone, on any number of hosts or threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import grain
import numpy as np

from reflex_jax.config import ConfigError, DataConfig, PhaseConfig
from reflex_jax.data.examples import Example

Prepared = TypeVar("Prepared")


class TrainingBatches:
    """Batches of examples by global step."""

    def __init__(
        self,
        examples: Sequence[Example],
        phases: Sequence[Sequence[int]],
        phase_steps: Sequence[int],
        *,
        replay: Sequence[float] | None = None,
        prompts_per_step: int,
        seed: int,
    ):
        """Lays the phases end to end.

        Args:
          examples: all questions.
          phases: the questions of each phase, as indices.
          phase_steps: how many steps each phase takes.
          replay: for each phase the share of its prompts that come from the phases before it; None: 0.
          prompts_per_step: P.
          seed: of the shuffles; phase k uses seed + k.
        """
        self.examples = examples
        self.phase_steps = tuple(phase_steps)
        shares = replay or [0.0] * len(phases)
        self._indices = grain.MapDataset.concatenate(
            [
                _mix_in(questions, sorted({i for earlier in phases[:k] for i in earlier}), share, seed=seed + k)
                .batch(prompts_per_step, drop_remainder=True)
                .slice(slice(0, steps))
                for k, (questions, share, steps) in enumerate(zip(phases, shares, phase_steps, strict=True))
            ]
        )

    def __len__(self) -> int:
        """Number of steps."""
        return len(self._indices)

    def __getitem__(self, step: int) -> list[Example]:
        """The P examples of a step."""
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of {len(self)}")
        return self._take(self._indices[step])

    def _take(self, indices: np.ndarray) -> list[Example]:
        return [self.examples[int(index)] for index in indices]

    def phase_of(self, step: int) -> int:
        """Index of the curriculum phase a step belongs to."""
        return int(np.searchsorted(np.cumsum(self.phase_steps), step, side="right"))

    def iterate(
        self, first_step: int, prepare: Callable[[list[Example]], Prepared], *, threads: int = 2
    ) -> Iterator[Prepared]:
        """Yields `prepare(batch)` for every step from `first_step` on, computed ahead of time in threads.

        Args:
          first_step: where a resumed run goes on.
          prepare: pure function of a batch, e.g. decoding and patching of its pictures.
          threads: how many batches are prepared at one time.
        """
        if first_step >= len(self):
            return
        dataset = self._indices.map(lambda indices: prepare(self._take(indices)))
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        iterator = iter(dataset.to_iter_dataset(options))
        grain.experimental.set_next_index(iterator, first_step)
        yield from iterator


def _mix_in(questions: Sequence[int], earlier: Sequence[int], share: float, *, seed: int) -> grain.MapDataset:
    """An endless order of `questions`, reshuffled in every pass, with a share of `earlier` ones spread evenly in it."""
    # A phase shorter than its steps starts over; a batch may span two passes.
    own = grain.MapDataset.source(list(questions)).seed(seed).shuffle().repeat()
    if share == 0:
        return own
    again = grain.MapDataset.source(list(earlier)).seed(seed).shuffle().repeat()
    return grain.MapDataset.mix([own, again], weights=[1 - share, share])


def training_batches(
    examples: Sequence[Example], data: DataConfig, *, prompts_per_step: int, steps: int | None, seed: int
) -> TrainingBatches:
    """Orders the examples into the curriculum of `data.phases`.

    Args:
      examples: the training split.
      data: gives the phases.
      prompts_per_step: P, over all devices.
      steps: total, shared by the phases in proportion, each at least one; None: every phase takes its epochs.
      seed: of the shuffles.

    Raises:
      ConfigError: a phase without questions, nothing to replay, or steps that cannot be shared.
    """
    if data.phases[0].replay > 0:
        raise ConfigError(f"data.phases: the first phase has nothing to replay; got replay {data.phases[0].replay:g}.")
    phases = [
        [i for i, example in enumerate(examples) if phase.answer_type in ("any", example.answer_type)]
        for phase in data.phases
    ]
    empty = [phase.answer_type for phase, questions in zip(data.phases, phases, strict=True) if not questions]
    if empty:
        raise ConfigError(
            f"data.phases: the {data.split} split of {data.source} has no question of type {', '.join(empty)}."
        )
    sizes = [len(questions) for questions in phases]
    return TrainingBatches(
        examples,
        phases,
        share_steps(data.phases, sizes, prompts_per_step=prompts_per_step, steps=steps),
        replay=[phase.replay for phase in data.phases],
        prompts_per_step=prompts_per_step,
        seed=seed,
    )


def share_steps(
    phases: Sequence[PhaseConfig], sizes: Sequence[int], *, prompts_per_step: int, steps: int | None
) -> tuple[int, ...]:
    """How many steps each phase takes, at least one; what a phase replays comes on top of its own questions.

    Without `steps` a phase takes its epochs, the last incomplete batch dropped. With it, phases that name a
    fraction get that share and the others divide the rest in proportion to epochs x questions.

    Raises:
      ConfigError: fewer steps than phases, fractions without steps, or fractions that do not add up to the whole.
    """
    passes = np.array([phase.epochs * size / (1 - phase.replay) for phase, size in zip(phases, sizes, strict=True)])
    named = np.array([phase.fraction is not None for phase in phases])
    if steps is None:
        if named.any():
            raise ConfigError(
                "data.phases: a fraction is a share of training.steps, which is not set; set it, or use epochs."
            )
        return tuple(max(1, int(count / prompts_per_step + 1e-9)) for count in passes)
    if steps < len(phases):
        raise ConfigError(
            f"training.steps: expected at least one step for each of {len(phases)} phases; got {steps}."
        )
    fractions = np.array([phase.fraction or 0.0 for phase in phases])
    rest = 1.0 - fractions.sum()
    if rest < -1e-6 or (named.all() and rest > 1e-6) or (not named.all() and rest < 1e-6):
        raise ConfigError(
            "data.phases: expected fractions that add up to 1, or to less where a phase names none; "
            f"got {fractions.sum():g}."
        )
    if not named.all():
        fractions = np.where(named, fractions, rest * passes / passes[~named].sum())
    return _largest_remainders(fractions, steps)


def _largest_remainders(fractions: np.ndarray, steps: int) -> tuple[int, ...]:
    """Whole numbers >= 1 that add up to `steps`, as near to the fractions as can be."""
    ideal = fractions / fractions.sum() * steps
    shares = np.maximum(np.floor(ideal + 1e-9), 1).astype(int)
    while shares.sum() < steps:
        shares[np.argmax(ideal - shares)] += 1
    while shares.sum() > steps:  # phases lifted to one step are paid for by those with most to spare
        shares[np.argmax(np.where(shares > 1, shares - ideal, -np.inf))] -= 1
    return tuple(int(share) for share in shares)
