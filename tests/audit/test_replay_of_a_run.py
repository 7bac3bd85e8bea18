"""Whole runs through the command line, replayed exactly."""

import json

import pytest

from reflex_jax.audit.replay import Selection, replay
from reflex_jax.cli import main
from reflex_jax.run.checkpoint import RunCheckpoints
from reflex_jax.run.directory import load_run_config
from reflex_jax.stops import NOT_AS_RECORDED

QUICK = [
    "training.steps=3", "training.evaluate_every=2", "training.evaluation_questions=5", "grpo.prompts_per_step=8",
    "grpo.group_size=4", "data.size=64", "logging.progress=false", "logging.tensorboard=false", "evidence.every=2",
    "evidence.groups=3",
]  # fmt: skip
RUNS = {
    "as the recipe": [],
    "all axes of a mesh, few at a time, centered": [
        "mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2", "memory.microbatch_prompts=4", "judge.centered=true",
    ],
    "several draws, rows of several lengths, maps": [
        "grpo.dynamic_sampling=2", "memory.row_lengths=3", "evidence.saliency=true", "evidence.pictures=true",
    ],
    "several draws, groups compared": [
        "grpo.dynamic_sampling=3", "grpo.advantage=batch_std", "evidence.groups=0",
    ],
    "no judge": ["rewards.components={answer: 1, format: 1}"],
    "a text encoder, groups compared": [
        "rewards.components={answer: 1, provenance: 1, embedding_similarity: 1}", "rewards.normalise=component_batch",
        "evidence.groups=0",
    ],
}  # fmt: skip


@pytest.mark.slow  # a training of three steps each, of programs that no other test compiles
@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS)
def test_a_run_is_replayed_bit_for_bit(repository, tmp_path, capsys, settings):
    directory = tmp_path / "run"
    mesh = [] if "mesh.data=2" in settings else ["mesh.data=8"]
    assert (
        main(["train", str(repository / "configs" / "phantom.yaml"), *QUICK, *mesh, f"run.dir={directory}", *settings])
        == 0
    )
    capsys.readouterr()
    assert main(["replay", str(directory)]) == 0
    told = capsys.readouterr().out
    # sampled and greedy before the first step, after the second and the last, and the second step
    assert " in 7 batches" in told or "dynamic" in str(settings)
    assert "bit for bit" in told or "embedding_similarity" in str(settings)
    config = load_run_config(directory, [])
    for group in replay(config, Selection()):
        assert not [found for found in group.found if not getattr(found, "is_within", False)] and not group.elsewhere
        judged = [answer.iou for answer in group.recorded.group.answers]
        assert (None in judged) == (settings == RUNS["no judge"])
    kept = [*(directory / "evidence_pictures").glob("*.png")]
    assert bool(kept) == ("evidence.pictures=true" in settings)


@pytest.mark.slow  # a training of three steps
def test_the_checkpoint_of_a_run_tells_of_a_chain_that_was_made_anew(repository, tmp_path, capsys):
    from reflex_jax.evidence.chain import Head
    from reflex_jax.evidence.log import EvidenceLog

    directory = tmp_path / "run"
    assert main(["train", str(repository / "configs" / "phantom.yaml"), *QUICK, f"run.dir={directory}"]) == 0
    checkpoints = RunCheckpoints(directory, keep=1, is_owner=False)
    facts = checkpoints.read_facts(checkpoints.find_step())
    checkpoints.close()
    path = directory / "evidence.jsonl"
    records = [json.loads(line)["record"] for line in path.read_text().splitlines()]
    assert facts["evidence"] == json.loads((directory / "evidence.head.json").read_text())
    records[1]["question"] += " "
    path.unlink()
    log = EvidenceLog(directory, head=Head(), step=0, is_writing=True)
    log.append(1, records)
    log.close()
    capsys.readouterr()
    assert main(["replay", str(directory)]) == NOT_AS_RECORDED
    assert "the checkpoint of step 3 holds the hash of" in capsys.readouterr().err
