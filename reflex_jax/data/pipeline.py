"""HOST: which questions a training step sees, as a pure function of the step.

The curriculum is an ordering of the data: phases one after the other, each shuffled anew in every pass. Nothing is kept
between steps, so a run resumes by its step number alone, on any number of hosts or threads. Steps that are added to a run
lengthen its last phase; no batch before them changes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import grain
import numpy as np
from jaxtyping import Int

from reflex_jax.config import ConfigError, DataConfig, PhaseConfig
from reflex_jax.data.examples import Example, list_offenders
from reflex_jax.data.order import ShuffledPasses, WeightedPasses, stream_generator

Prepared = TypeVar("Prepared")


class Batches(ABC):
    """Batches of examples by global step, in phases laid end to end."""

    phase_names: tuple[str, ...]
    phase_steps: tuple[int, ...]
    prompts_per_step: int
    repeating: Sequence[str] = ()  # phases whose steps cannot do without holding a question twice, in words

    def __len__(self) -> int:
        """Number of steps."""
        return sum(self.phase_steps)

    @abstractmethod
    def __getitem__(self, step: int) -> list[Example]:
        """The P examples of a step."""

    def phase_of(self, step: int) -> int:
        """Index of the curriculum phase a step belongs to."""
        return int(np.searchsorted(np.cumsum(self.phase_steps), step, side="right"))

    def phase_name(self, step: int) -> str:
        """Name of the phase of a step, counted from 0."""
        return self.phase_names[self.phase_of(step)]

    @property
    def layout(self) -> dict[str, Any]:
        """What decides which questions a step sees, beside the questions and the seed; plain values for JSON."""
        phases = [[name, steps] for name, steps in zip(self.phase_names, self.phase_steps, strict=True)]
        return {"phases": phases, "prompts_per_step": self.prompts_per_step}

    def iterate(
        self, first_step: int, prepare: Callable[[list[Example]], Prepared], *, threads: int = 2
    ) -> Iterator[Prepared]:
        """Yields `prepare(batch)` for every step from `first_step` on, computed ahead of time in threads.

        Args:
          first_step: where a resumed run goes on.
          prepare: pure function of a batch, e.g. decoding and patching of its pictures.
          threads: how many batches are prepared at one time, or wait prepared.
        """
        if first_step >= len(self):
            return
        dataset = grain.MapDataset.range(len(self)).map(lambda step: prepare(self[int(step)]))
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
        iterator = iter(dataset.to_iter_dataset(options))
        grain.experimental.set_next_index(iterator, first_step)
        yield from iterator


class TrainingBatches(Batches):
    """The curriculum."""

    def __init__(
        self,
        examples: Sequence[Example],
        phases: Sequence[Sequence[int]],
        phase_steps: Sequence[int],
        *,
        replay: Sequence[float] | None = None,
        names: Sequence[str] | None = None,
        weights: Mapping[str, float] | None = None,
        prompts_per_step: int,
        seed: int,
    ):
        """Lays the phases end to end.

        Args:
          examples: all questions.
          phases: the questions of each phase, as indices.
          phase_steps: how many steps each phase takes.
          replay: for each phase the share of its prompts that come from the phases before it; None: 0.
          names: of the phases; None: their numbers.
          weights: of the sources, which share the prompts of each phase in proportion; None: by their numbers of questions.
          prompts_per_step: P.
          seed: of the shuffles; each phase draws from a hash of the seed and its number.
        """
        self.examples = examples
        self.phase_steps, self.prompts_per_step = tuple(phase_steps), prompts_per_step
        self.phase_names = tuple(names or (str(k + 1) for k in range(len(phases))))
        self.phase_sizes = tuple(len(questions) for questions in phases)
        self.repeating: list[str] = []
        self._weights = dict(weights or {})
        self._phases = []
        for k, (questions, share) in enumerate(zip(phases, replay or [0.0] * len(phases), strict=True)):
            earlier = sorted({i for part in phases[:k] for i in part}) if share else []
            groups = self._group(questions)
            self._phases.append(_Phase(questions, earlier, share, groups, size=prompts_per_step, seed=seed, number=k))
            for label, (members, part) in groups.items():
                if len(members) < (places := int(np.ceil(prompts_per_step * (1 - share) * part))):
                    self.repeating.append(f"phase {k + 1} has {len(members)} questions of {label} for {places} prompts")
            own, again = int(np.ceil(prompts_per_step * (1 - share))), int(np.ceil(prompts_per_step * share))
            # so many of the earlier ones may be in a batch as its own already
            shared = min(prompts_per_step - again, len({*questions} & {*earlier}))
            if len(questions) < own or (share and len(earlier) - shared < again):
                self.repeating.append(
                    f"phase {k + 1} has {len(questions)} questions"
                    + (f" and {len(earlier)} to replay" if share else "")
                    + f" for the {prompts_per_step} prompts of a step"
                )

    @property
    def layout(self) -> dict[str, Any]:
        """As of all batches, and the weights of the sources."""
        return {**super().layout, **({"weights": self._weights} if self._weights else {})}

    def _group(self, questions: Sequence[int]) -> dict[str, tuple[Int[np.ndarray, "n"], float]]:
        """By label the places of a source's questions among `questions`, and its share of the prompts; empty: no weights."""
        if not self._weights:
            return {}
        labels = np.array([self.examples[i].source for i in questions])
        weights = {label: weight for label, weight in self._weights.items() if (labels == label).any()}
        total = sum(weights.values())
        return {label: (np.flatnonzero(labels == label), weight / total) for label, weight in weights.items()}

    def __getitem__(self, step: int) -> list[Example]:
        """The P examples of a step."""
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of {len(self)}")
        phase = self.phase_of(step)
        return self.of_phase(phase, step - sum(self.phase_steps[:phase]))

    def of_phase(self, phase: int, number: int) -> list[Example]:
        """The P examples of a batch of a phase; there are as many as are asked for, pass after pass."""
        return [self.examples[i] for i in self._phases[phase].batch(number)]


class SupervisedBatches(Batches):
    """All questions in every pass, none left out."""

    phase_names = ("supervised",)

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        batch_size: int,
        steps: int | None,
        seed: int,
        laid_out: Sequence[int] | None = None,
    ):
        """Lays the batches end to end.

        Args:
          examples: all questions.
          batch_size: of a step, over all devices.
          steps: of the run; None: one pass.
          seed: of the shuffles.
          laid_out: the steps of the run that is continued; more may follow them.
        Raises:
          ConfigError: fewer steps than laid out.
        """
        self.examples, self.prompts_per_step = examples, batch_size
        steps = steps or -(-len(examples) // batch_size)
        if laid_out is not None and steps < laid_out[0]:
            raise ConfigError(
                f"training.steps: this run is laid out for {laid_out[0]} steps, and more may follow; got {steps}. Set "
                "run.name for a shorter run."
            )
        self.phase_steps = (steps,)
        self._order = ShuffledPasses(
            len(examples), lambda step: step * batch_size, batch_rate=batch_size, seed=seed, stream="supervised"
        )

    def __getitem__(self, step: int) -> list[Example]:
        """The examples of a step."""
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of {len(self)}")
        return [self.examples[i] for i in self._order.batch(step)]


class _Phase:
    """The batches of one phase: its own questions, with a share of earlier ones spread evenly among them."""

    def __init__(
        self,
        questions: Sequence[int],
        earlier: Sequence[int],
        share: float,
        groups: Mapping[str, tuple[Int[np.ndarray, "n"], float]],
        *,
        size: int,
        seed: int,
        number: int,
    ):
        self._questions, self._earlier = np.asarray(questions), np.asarray(earlier)
        self._share, self._size, self._seed = share, size, seed
        self._name = f"phase {number}"

        def own_before(batch: int) -> int:
            return batch * size - int(self._replayed_before(batch * size))

        def again_before(batch: int) -> int:
            return int(self._replayed_before(batch * size))

        rate = size * (1 - share)
        self._own: ShuffledPasses | WeightedPasses
        if groups:
            members, shares = zip(*groups.values(), strict=True)
            self._own = WeightedPasses(members, shares, own_before, batch_rate=rate, seed=seed, stream=self._name)
        else:
            self._own = ShuffledPasses(len(questions), own_before, batch_rate=rate, seed=seed, stream=self._name)
        self._again = ShuffledPasses(
            max(len(earlier), 1), again_before, batch_rate=size * share or 1.0, seed=seed, stream=f"{self._name} again"
        )

    def batch(self, number: int) -> Int[np.ndarray, "P"]:
        own = self._questions[self._own.batch(number)]
        if not self._share:
            return own
        places = np.arange(number * self._size, (number + 1) * self._size)
        is_again = self._replayed_before(places + 1) > self._replayed_before(places)
        batch = np.empty(self._size, np.int64)
        batch[~is_again] = own
        batch[is_again] = self._without_own(self._earlier[self._again.batch(number)], own, number)
        return batch

    def _replayed_before(self, place: int | Int[np.ndarray, "n"]) -> int | Int[np.ndarray, "n"]:
        """How many of the prompts before a place of the phase are replayed."""
        count = np.floor(np.asarray(place) * self._share + 1e-9).astype(np.int64)
        return int(count) if np.ndim(place) == 0 else count

    def _without_own(self, again: Int[np.ndarray, "n"], own: Int[np.ndarray, "m"], number: int) -> Int[np.ndarray, "n"]:
        """Replaces replayed questions that the batch has as its own by other earlier ones, where there are any."""
        is_double = np.isin(again, own)
        if is_double.any():
            others = np.setdiff1d(self._earlier, np.concatenate([own, again]))
            others = stream_generator(self._seed, f"{self._name} instead", number).permutation(others)
            doubles = np.flatnonzero(is_double)[: len(others)]
            again[doubles] = others[: len(doubles)]
        return again


def training_batches(
    examples: Sequence[Example],
    data: DataConfig,
    *,
    prompts_per_step: int,
    steps: int | None,
    seed: int,
    laid_out: Sequence[int] | None = None,
) -> TrainingBatches:
    """Orders the examples into the curriculum of `data.phases`.

    Args:
      examples: the training split.
      data: gives the phases.
      prompts_per_step: P, over all devices.
      steps: total, shared by the phases in proportion, each at least one; None: every phase takes its epochs.
      seed: of the shuffles.
      laid_out: the steps of each phase of the run that is continued; more steps lengthen the last one.

    Raises:
      ConfigError: a phase without questions, nothing to replay, steps that cannot be shared, or fewer than laid out.
    """
    if data.phases[0].replay > 0:
        raise ConfigError(f"data.phases: the first phase has nothing to replay; got replay {data.phases[0].replay:g}.")
    phases = [[i for i, example in enumerate(examples) if _belongs(example, phase)] for phase in data.phases]
    empty = [phase_name(phase) for phase, questions in zip(data.phases, phases, strict=True) if not questions]
    if empty:
        found = sorted({f"{e.answer_type} {e.source}{f' {e.modality}' if e.modality else ''}" for e in examples})
        raise ConfigError(
            f"data.phases: no training question belongs to {', '.join(empty)}; there are {list_offenders(found)}."
        )
    sizes = [len(questions) for questions in phases]
    phase_steps = share_steps(data.phases, sizes, prompts_per_step=prompts_per_step, steps=steps)
    return TrainingBatches(
        examples,
        phases,
        phase_steps if laid_out is None else _lengthen(data.phases, laid_out, sum(phase_steps)),
        replay=[phase.replay for phase in data.phases],
        names=[phase_name(phase) for phase in data.phases],
        weights={s.label: s.weight for s in data.mixture if s.weight is not None} or None,
        prompts_per_step=prompts_per_step,
        seed=seed,
    )


def phase_name(phase: PhaseConfig) -> str:
    """What metrics and messages call a phase: its answer type, and what else it chooses by."""
    options = {None: "", True: "with options", False: "without options"}[phase.options]
    chosen = [part for part in ("+".join(phase.sources), "+".join(phase.modalities), options) if part]
    return f"{phase.answer_type} ({', '.join(chosen)})" if chosen else phase.answer_type


def asked_questions(examples: Sequence[Example], data: DataConfig) -> list[Example]:
    """The questions that some phase of a run asks."""
    return [example for example in examples if any(_belongs(example, phase) for phase in data.phases)]


def _belongs(example: Example, phase: PhaseConfig) -> bool:
    return (
        phase.answer_type in ("any", example.answer_type)
        and (not phase.sources or example.source in phase.sources)
        and (not phase.modalities or example.modality in phase.modalities)
        and (phase.options is None or phase.options == (example.options is not None))
    )


def share_steps(
    phases: Sequence[PhaseConfig], sizes: Sequence[int], *, prompts_per_step: int, steps: int | None
) -> tuple[int, ...]:
    """How many steps each phase takes, at least one; what a phase replays comes on top of its own questions.

    Without `steps` a phase takes its epochs; its last batch is filled from the next pass, so that one epoch sees every
    question. With it, phases that name a fraction get that share and the others divide the rest in proportion to
    epochs x questions.

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
        return tuple(max(1, int(np.ceil(count / prompts_per_step - 1e-9))) for count in passes)
    if steps < len(phases):
        raise ConfigError(f"training.steps: expected at least one step for each of {len(phases)} phases; got {steps}.")
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


def _lengthen(phases: Sequence[PhaseConfig], laid_out: Sequence[int], steps: int) -> tuple[int, ...]:
    """The phases of a run that goes on, the last one lengthened: another layout would take back what was trained."""
    if steps < sum(laid_out):
        parts = ", ".join(f"{phase_name(phase)} {count}" for phase, count in zip(phases, laid_out, strict=True))
        raise ConfigError(
            f"training.steps: this run is laid out as {parts} steps, and more lengthen the last phase; expected at least "
            f"{sum(laid_out)}; got {steps}. Set run.name for a shorter run."
        )
    return (*laid_out[:-1], laid_out[-1] + steps - sum(laid_out))


def _largest_remainders(fractions: np.ndarray, steps: int) -> tuple[int, ...]:
    """Whole numbers >= 1 that add up to `steps`, as near to the fractions as can be."""
    ideal = fractions / fractions.sum() * steps
    shares = np.maximum(np.floor(ideal + 1e-9), 1).astype(int)
    while shares.sum() < steps:
        shares[np.argmax(ideal - shares)] += 1
    while shares.sum() > steps:  # phases lifted to one step are paid for by those with most to spare
        shares[np.argmax(np.where(shares > 1, shares - ideal, -np.inf))] -= 1
    return tuple(int(share) for share in shares)
