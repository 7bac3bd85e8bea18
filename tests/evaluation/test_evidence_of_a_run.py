"""Evaluations of a run, sampled and judged for real, and replayed exactly."""

import json

import pytest

from reflex_jax.cli import main
from reflex_jax.evidence.chain import Head
from reflex_jax.evidence.log import EvidenceLog
from reflex_jax.evidence.reader import read_evidence, read_head
from reflex_jax.stops import NOT_AS_RECORDED

LOOKS = {
    "a run as the recipe, maps and pictures": ["evidence.saliency=true", "evidence.pictures=true"],
    "all axes of a mesh, few at a time, a part of the questions": [
        "mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2", "memory.microbatch_prompts=4", "evidence.groups=3", "judge.centered=true",
    ],
}  # fmt: skip


@pytest.mark.slow  # trains, samples and judges, of programs that no other test compiles
@pytest.mark.parametrize("settings", LOOKS.values(), ids=LOOKS)
def test_an_evaluation_of_a_run_is_replayed_bit_for_bit(repository, tmp_path, capsys, settings):
    """The run says that evidence is recorded, so its evaluations record it too; forged with all its hashes, computing tells."""
    directory = tmp_path / "run"
    train = [
        "training.steps=2", "training.evaluate_every=0", "grpo.prompts_per_step=8", "grpo.group_size=2", "mesh.data=8",
        "data.size=64", "rollout.max_new_tokens=30", "logging.progress=false", "logging.tensorboard=false",
        "training.evaluation_questions=10", "evidence.every=1", f"run.dir={directory}",
    ]  # fmt: skip
    assert main(["train", str(repository / "configs" / "phantom.yaml"), *train, *settings]) == 0
    few = "evidence.groups=3" in settings
    asked = [] if few else ["evidence.every=1", "evidence.groups=0"]
    assert main(["evaluate", str(directory), *asked, "--probe", "real,blank", "--samples", "3"]) == 0
    folder = directory / "evaluation" / "test-step-2"
    head = read_head(folder)
    assert f"evidence.jsonl has {head.count} lines and ends with {head.hash}" in capsys.readouterr().out
    assert main(["replay", str(folder)]) == 0
    told = capsys.readouterr().out
    questions = 3 if few else 10
    assert f"{5 * questions} answers to {3 * questions} questions" in told and "out again, bit for bit" in told
    groups = [group for _, _, group in read_evidence(folder)]
    assert all(answer.iou is not None for group in groups for answer in group.answers)
    assert bool([*folder.glob("evidence_pictures/*.png")]) == ("evidence.pictures=true" in settings)
    assert (groups[0].statements[0].saliency is not None) == ("evidence.saliency=true" in settings)
    assert main(["replay", str(directory)]) == 0 and "in 2 batches;" in capsys.readouterr().out
    assert main(["replay", str(folder), "--answer", "2/greedy.blank/0/0"]) == 0
    assert "held-out questions, greedy.blank" in capsys.readouterr().out

    records = [json.loads(line)["record"] for line in (folder / "evidence.jsonl").read_text().splitlines()]
    answer = records[1]["answers"][0]
    answer["iou"] = 0.75 if answer["iou"] != 0.75 else 0.5
    (folder / "evidence.jsonl").unlink()
    log = EvidenceLog(folder, head=Head(), step=2, is_writing=True)
    log.append(2, records)
    log.close()
    assert main(["replay", str(folder)]) == NOT_AS_RECORDED
    assert f"line 2, {answer['id']}: iou was 0." in capsys.readouterr().err
