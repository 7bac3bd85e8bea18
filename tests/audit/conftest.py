"""A run directory with evidence of completions by hand: the shipped judge scores them, no policy is run."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from reflex_jax.audit import replay as replay_module
from reflex_jax.config import Config, MeshConfig, RunConfig
from reflex_jax.config_reader import load_config, save_config
from reflex_jax.data.sources import load_training, load_validation
from reflex_jax.evidence.chain import Head
from reflex_jax.evidence.groups import ScoredBatch
from reflex_jax.evidence.log import EvidenceLog
from reflex_jax.evidence.recorder import EvidenceRecorder, Occasion
from reflex_jax.evidence.records import EVALUATION, BatchRecord
from reflex_jax.rewards.answered import Failed
from reflex_jax.rewards.user_file import UserRewards
from reflex_jax.run.identity import checkpoint_fingerprint
from reflex_jax.sharding import make_mesh
from reflex_jax.step import models as models_module
from reflex_jax.step.batch import judged_pictures
from reflex_jax.step.models import load_models, make_host_bridge
from reflex_jax.step.program import build_program
from reflex_jax.text.tokenizer import encode_template

PROMPTS, GROUP, RECORDED = 4, 3, 2


class OwnRewards(UserRewards):
    """In the place of the process that runs a user's file: 1 for short completions, and one row fails."""

    def __init__(self, *_, **__):
        pass

    def score(self, name, rows, options):
        results = [float(row.tokens <= options["longest"]) for row in rows]
        results[1] = Failed("ValueError", "no luck", "short.py:3")
        return results

    def close(self):
        pass


@dataclasses.dataclass
class RecordedRun:
    """A run directory, and how to make more of it."""

    directory: Path
    config: Config

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in (self.directory / "evidence.jsonl").read_text().splitlines()]

    def forged(self, target: Path, change: Callable[[list[dict]], None]) -> Path:
        """Copies the run with records that somebody changed, hashes and head made anew."""
        shutil.copytree(self.directory, target)
        records = [line["record"] for line in self.lines()]
        change(records)
        (target / "evidence.jsonl").unlink()
        log = EvidenceLog(target, head=Head(), step=0, is_writing=True)
        log.append(1, records)
        log.close()
        return target


@pytest.fixture(scope="session")
def recorded(repository, tmp_path_factory) -> RecordedRun:
    """Two groups of four questions of step 3, and of held-out questions before the first step."""
    directory = tmp_path_factory.mktemp("recorded") / "run"
    directory.mkdir()
    own = directory.parent / "own.py"
    own.write_text(
        "from reflex_jax.rewards import reward\n@reward\ndef short(answered, *, longest: int = 14) -> float:\n    return 1.0\n"
    )
    config = load_config(
        repository / "configs" / "phantom.yaml",
        [
            f"run.dir={directory}", "data.size=16", f"grpo.prompts_per_step={PROMPTS}", f"grpo.group_size={GROUP}",
            "evidence.every=3", f"evidence.groups={RECORDED}", "evidence.saliency=true", f"rewards.files=[{own}]",
            "rewards.components={answer: 1, short: 0.5, format: 1, visual_fidelity: 1, provenance: 1}",
            "rewards.components.provenance.image_threshold=0.4",
            "judge.max_statement_tokens=16",  # one length of statements to compile
        ],
    )  # fmt: skip
    save_config(config, directory / "config.yaml")
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    models = load_models(config, mesh)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models_module, "UserRewards", OwnRewards)
        bridge = make_host_bridge(config, models)
    program = build_program(config, models.shapes)
    log = EvidenceLog(directory, head=Head(), step=0, is_writing=True)
    identity = {
        "policy": "sha256:p",
        "judge": checkpoint_fingerprint(Path(models_module.resolve_checkpoint("phantom", "judge"))),
    }
    recorder = EvidenceRecorder(config, models.shapes, log, identity=identity, phase_name=lambda done: f"after {done}")
    rows = models.shapes.rows(PROMPTS)

    def score(examples) -> ScoredBatch:
        # right; another answer than that; none
        answers = [(e.answer, ["no", "cyst", "right", "the left lung"][i], None) for i, e in enumerate(examples)]
        texts = [
            ["<think> i see. </think>" + (f" <answer> {a} </answer>" if a else "") for a in group] for group in answers
        ]
        ids = [[[*encode_template(models.processor.tokenizer, text), 1] for text in group] for group in texts]
        longest = max(len(row) for group in ids for row in group)
        tokens = np.zeros((PROMPTS, GROUP, longest), np.int32)
        mask = np.zeros(tokens.shape, bool)
        for p, group in enumerate(ids):
            for g, row in enumerate(group):
                tokens[p, g, : len(row)], mask[p, g, : len(row)] = row, True
        pixels = np.stack([judged_pictures(e.load_images(), models.judge, config.judge)[0] for e in examples])
        bridged = bridge(examples, tokens, mask, pixels)
        scored = program.score(models.judge.params, *rows.place((bridged.judge, bridged.scores)))
        return ScoredBatch(examples, pixels, tokens, mask.sum(-1), bridged, rows.fetch(scored), rows)

    held_out = load_validation(config.data, seed=0)[:PROMPTS]
    recorder.record(Occasion(0, EVALUATION), [dataclasses.replace(score(held_out), questions=1)])
    recorder.record(Occasion(3), [score(load_training(config.data, seed=0)[:PROMPTS])])
    log.close()
    return RecordedRun(directory, config)


@pytest.fixture(scope="session", autouse=True)
def built_once():
    """Models and programs of replays that differ in nothing but where the run lies."""
    machines: dict[tuple[str, str], replay_module._Machine] = {}
    make = replay_module._Machine

    def machine(config: Config, batch: BatchRecord) -> replay_module._Machine:
        key = (repr(dataclasses.replace(config, run=RunConfig())), json.dumps([batch.device["mesh"], batch.shape]))
        if key not in machines:
            machines[key] = make(config, batch)
        return machines[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay_module, "_Machine", machine)
        yield
