"""`reflex replay`: the recorded rewards of a run computed again, by the program that paid them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from reflex_jax.audit.compare import Difference, Flip, compare, exactness_of
from reflex_jax.audit.rebuild import Asked, recomputed_components, rescore, taken_components
from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.config import Config, ConfigError, EvidenceConfig, MeshConfig
from reflex_jax.data.examples import Example, list_offenders
from reflex_jax.data.sources import load_evaluation, load_training, load_validation
from reflex_jax.evidence.chain import Fault, Head
from reflex_jax.evidence.facts import device_facts, judge_facts, reward_facts
from reflex_jax.evidence.groups import group_record
from reflex_jax.evidence.log import head_of
from reflex_jax.evidence.reader import EVIDENCE_FILE, Recorded, check_evidence, read_evidence
from reflex_jax.evidence.records import TRAINING, BatchRecord, Group
from reflex_jax.judge.batch import stack_pictures
from reflex_jax.run.checkpoint import RunCheckpoints
from reflex_jax.run.identity import checkpoint_fingerprint
from reflex_jax.sharding import make_mesh
from reflex_jax.statements.operator import DECL_VERSION
from reflex_jax.step.batch import judged_pictures
from reflex_jax.step.bridge import HostBridge
from reflex_jax.step.models import Models, load_models, make_host_bridge
from reflex_jax.step.program import Program, build_program
from reflex_jax.step.score import needs_judge


@dataclass(frozen=True)
class Selection:
    """Which of the recorded groups are replayed."""

    answer: str | None = None  # the group of this answer
    step: int | None = None  # what was scored at this step

    def takes(self, recorded: Recorded) -> bool:
        """Whether a group is among them."""
        is_asked = self.answer is None or any(answer.id == self.answer for answer in recorded.group.answers)
        return is_asked and self.step in (None, recorded.batch.step)


@dataclass(frozen=True)
class Replayed:
    """A group as it is recorded and as it was computed again."""

    recorded: Recorded
    now: Group
    elsewhere: dict[
        str, tuple[Any, Any]
    ]  # what of the machine is another: recorded, here; {}: every bit has to be the same
    taken: list[str]  # components that were not computed again
    found: list[Difference | Flip]


def chain_faults(directory: Path) -> list[Fault]:
    """Everything that is wrong with the chain of a run, held against its head and the checkpoints that are there.

    Raises:
      ConfigError: the run has no evidence, or a checkpoint cannot be read.
    """
    if not (directory / EVIDENCE_FILE).is_file():
        next(read_evidence(directory))
    known = heads_of_checkpoints(directory)
    return check_evidence(directory, known) or [*_unlike_their_batch(directory)]


def heads_of_checkpoints(directory: Path) -> dict[str, Head]:
    """Who vouches for the chain of a run beside its own head: each checkpoint that is left, with the head it holds."""
    known: dict[str, Head] = {}
    if (directory / "checkpoints").is_dir():
        checkpoints = RunCheckpoints(directory, keep=1, is_owner=False)
        try:
            for step in checkpoints.steps():
                head = head_of(checkpoints.read_facts(step), directory)
                if head.count:
                    known[f"the checkpoint of step {step}"] = head
        finally:
            checkpoints.close()
    return known


def _unlike_their_batch(directory: Path) -> Iterator[Fault]:
    """Groups that the batch before them cannot have had."""
    for line, batch, group in read_evidence(directory):
        completions, prompts = batch.shape.get("G"), batch.shape.get("P")
        if len(group.answers) != completions:
            yield Fault(line, f"it has {len(group.answers)} answers, and its batch {completions} to each question")
        elif not isinstance(prompts, int) or not 0 <= group.place < prompts:
            yield Fault(line, f"it stands at place {group.place} of a batch of {prompts} questions")


def replay(config: Config, selection: Selection, *, is_run: bool = True) -> Iterator[Replayed]:
    """Scores recorded groups again, batch after batch.

    Args:
      config: of the run, `run.dir` pointing at it; neither an endpoint nor its own files are asked.
      selection: which groups.
      is_run: False: it is an evaluation, whose questions are those of `data.evaluation_split`.
    Raises:
      ConfigError: none is selected; the judge, the settings, `decl` or the questions are not those of the record, all named.
    """
    directory = config.run.directory
    chosen = (recorded for recorded in read_evidence(directory) if selection.takes(recorded))
    batches = itertools.groupby(chosen, key=lambda recorded: (recorded.batch.name, recorded.batch.draw))
    questions, count = _Questions(config, is_run=is_run), 0
    machines: dict[str, _Machine] = {}
    try:
        for _, group in batches:
            recorded = list(group)
            batch = recorded[0].batch
            key = json.dumps([batch.device["mesh"], batch.shape["microbatch"]], sort_keys=True)
            if key not in machines:
                machines[key] = _Machine(config, batch)
            count += len(recorded)
            yield from machines[key].replay(recorded, questions)
    finally:
        for machine in machines.values():
            machine.close()
    if not count:
        raise ConfigError(_nothing_selected(directory, selection))


def _nothing_selected(directory: Path, selection: Selection) -> str:
    steps = sorted({recorded.batch.step for recorded in read_evidence(directory)})
    told = f"{directory}: its evidence is of the steps {list_offenders([str(step) for step in steps])}"
    if selection.answer is not None:
        return (
            f"--answer: expected the id of a recorded answer, STEP/GROUP/NUMBER (evaluations: STEP/greedy/GROUP/NUMBER); got "
            f"{selection.answer[:80]!r}. {told}."
        )
    if selection.step is None:
        return f"{directory}: {EVIDENCE_FILE} has no recorded answer yet."
    return f"--step: nothing is recorded of step {selection.step}. {told}."


class _Questions:
    """The questions of a run by id, read when they are asked for."""

    def __init__(self, config: Config, *, is_run: bool):
        self._config, self._is_run, self._read = config, is_run, dict[str, dict[str, Example]]()

    def find(self, batch: BatchRecord, groups: Sequence[Group]) -> list[Example]:
        """Those of some groups.

        Raises:
          ConfigError: they are not in the data set any more, by id.
        """
        found = self._of(batch.set)
        missing = [group.id for group in groups if group.id not in found]
        if missing:
            raise ConfigError(
                f"data: the questions {list_offenders(missing)} are not in the data set that the run names now; point at the one "
                f"it was {'trained' if self._is_run else 'evaluated'} on (data.root=DIR)."
            )
        return [found[group.id] for group in groups]

    def _of(self, kind: str) -> dict[str, Example]:
        if kind not in self._read:
            data, seed = self._config.data, self._config.run.seed
            # whatever is held out while training now: all that the record names is looked for
            held_out = load_validation if self._is_run else load_evaluation
            load = load_training if kind == TRAINING else held_out
            self._read[kind] = {example.id: example for example in load(data, seed=seed)}
        return self._read[kind]


class _Machine:
    """Models and program of a run on the mesh that some batches were scored on, as far as there are devices for it."""

    def __init__(self, config: Config, batch: BatchRecord):
        mesh_sizes = batch.device["mesh"]
        devices = math.prod(mesh_sizes.values())
        here = jax.devices()[:devices] if devices <= jax.device_count() else jax.devices()[:1]
        sizes = mesh_sizes if len(here) == devices else {"data": 1, "fsdp": 1, "tensor": 1}
        mesh = make_mesh(MeshConfig(**sizes), here)
        memory = dataclasses.replace(config.memory, microbatch_prompts=batch.shape["microbatch"])
        # maps are compared where they are recorded
        self._config = dataclasses.replace(config, memory=memory, evidence=EvidenceConfig(saliency=True))
        self._models: Models = load_models(config, mesh, with_judge=needs_judge(config))
        self._program: Program = build_program(self._config, self._models.shapes)
        self._bridge: HostBridge = make_host_bridge(config, self._models, components=recomputed_components(config))
        self._device = device_facts(mesh)
        self._judge_fingerprint = (
            checkpoint_fingerprint(resolve_checkpoint(config.judge.path, "judge")) if self._models.judge else None
        )

    def close(self) -> None:
        """Lets go of what the rewards hold."""
        self._bridge.close()

    def replay(self, recorded: Sequence[Recorded], questions: _Questions) -> Iterator[Replayed]:
        """The recorded groups of one batch."""
        batch = recorded[0].batch
        self._check(batch)
        groups = [found.group for found in recorded]
        asked = self._ask(questions.find(batch, groups))
        models, judge = self._models, self._models.judge
        scored = rescore(batch, groups, asked, self._program, judge.params if judge else None, self._bridge)
        keys = sorted(self._device.keys() | batch.device.keys())
        elsewhere = {
            key: (batch.device.get(key), self._device.get(key))
            for key in keys
            if batch.device.get(key) != self._device.get(key)
        }
        exactness, taken = exactness_of(batch, is_exact=not elsewhere), taken_components(batch)
        for found in recorded:
            place = found.group.place
            advantages = scored.scored.advantages[place] if batch.set == TRAINING else None
            now = group_record(
                scored, place, number=found.group.number, name=batch.name, advantages=advantages,
                settings=self._config, pad_id=models.judge.config.text.pad_token_id if models.judge else 0,
            )  # fmt: skip
            differences = list(compare(found.line, found.group, now, exactness, taken=taken))
            yield Replayed(found, now, elsewhere, taken, differences)

    def _ask(self, examples: list[Example]) -> Asked:
        judge = self._models.judge
        if judge is None:
            return Asked(examples, None)
        looks = self._config.judge
        return Asked(
            examples, stack_pictures([judged_pictures(e.load_images(), judge, looks) for e in examples], room=None)
        )

    def _check(self, batch: BatchRecord) -> None:
        """Refuses to compare with what another judge, other settings or other rules would say."""
        complaints = []
        if batch.code["decl"] != DECL_VERSION:
            complaints.append(
                f"statements are those of decl {batch.code['decl']}, and this version of reflex_jax makes those of "
                f"{DECL_VERSION}: use version {batch.code['version']} (commit {batch.code['commit']})"
            )
        if batch.identity.get("judge") != self._judge_fingerprint:
            complaints.append(
                f"judge.path={self._config.judge.path} holds other weights or settings than the judge that looked; name it"
            )
        for name, then, now in (
            ("judge", batch.judge, judge_facts(self._config)),
            ("rewards", batch.rewards, reward_facts(self._config)),
        ):
            # as they come back from a file: tuples are lists there
            if differing := _differing(json.loads(json.dumps(then)), json.loads(json.dumps(now)), name):
                complaints.append(f"settings are not those of the record: {', '.join(differing)}")
        if complaints:
            raise ConfigError(f"step {batch.name} cannot be replayed: " + "; ".join(complaints) + ".")


def _differing(then: Any, now: Any, name: str) -> list[str]:
    """What differs between two trees of settings, by name."""
    if isinstance(then, dict) and isinstance(now, dict):
        keys = sorted(then.keys() | now.keys())
        return [text for key in keys for text in _differing(then.get(key), now.get(key), f"{name}.{key}")]
    return [] if then == now else [f"{name} is {now!r}, was {then!r}"]
