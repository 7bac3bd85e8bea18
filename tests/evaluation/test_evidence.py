"""Evidence of an evaluation: a chain in its folder, resumed to the byte, computed again by `reflex replay`."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from reflex_jax.cli import main
from reflex_jax.config import ConfigError
from reflex_jax.config_reader import load_config
from reflex_jax.evaluation.evaluate import Answerer, generate_answers
from reflex_jax.evaluation.generate import Pass
from reflex_jax.evaluation.line_files import LineFile
from reflex_jax.evidence.reader import read_evidence, read_head
from reflex_jax.stops import NOT_AS_RECORDED

SETTINGS = [
    "training.evaluation_questions=10", "training.evaluation_batch=4", "grpo.group_size=2", "rollout.max_new_tokens=30",
    "data.size=24", "mesh.fsdp=1", "logging.progress=false", "evidence.every=1",
]  # fmt: skip
STRINGS = "rewards.components={answer: 1, format: 1}"  # no judge is asked
PASSES = [Pass(), Pass("blank"), Pass(samples=2)]
NAMES = ("answers.jsonl", "answers.blank.jsonl", "samples.jsonl", "evidence.jsonl", "evidence.head.json")


def answerer(*overrides: str) -> Answerer:
    settings = [*SETTINGS, "mesh.data=2", STRINGS, *overrides]
    return Answerer(config=load_config("configs/phantom.yaml", settings), is_run=False)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, stand_in):
    """A folder of an uninterrupted evaluation with the evidence of eight of ten questions; to be copied."""
    folder = tmp_path_factory.mktemp("recorded") / "of"
    generate_answers(answerer(), PASSES, folder)
    return folder


@pytest.fixture
def copy(recorded, tmp_path):
    """The folder, to be changed."""
    return shutil.copytree(recorded, tmp_path / "copy")


def contents(folder) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in NAMES}


def answered(folder, name: str) -> dict[str, dict]:
    return {row["id"]: row for row in map(json.loads, (folder / f"{name}.jsonl").read_text().splitlines())}


def test_every_look_has_its_evidence_and_it_is_that_of_the_answers(recorded):
    """In the order in which they were asked, numbered through; the same eight questions, chosen by their ids."""
    files = {"greedy": "answers", "greedy.blank": "answers.blank", "sampled": "samples"}
    lines = [*read_evidence(recorded)]
    assert [*dict.fromkeys(batch.sampling for _, batch, _ in lines)] == [*files]
    for sampling, name in files.items():
        rows = answered(recorded, name)
        found = [(batch, group) for _, batch, group in lines if batch.sampling == sampling]
        assert [group.id for _, group in found] == [i for i in rows if i in {group.id for _, group in found}]
        assert len(found) == 8 and [group.number for _, group in found] == [*range(8)]
        assert {batch.draw for batch, _ in found} == {0, 1, 2} and {batch.set for batch, _ in found} == {"evaluation"}
        for batch, group in found:
            row = rows[group.id]
            assert [a.completion for a in group.answers] == row.get("samples", [row.get("prediction")])
            assert [a.id for a in group.answers] == [
                f"0/{sampling}/{group.number}/{g}" for g in range(batch.shape["G"])
            ]
            scores = [float(a.components["answer"].score) for a in group.answers]
            assert sum(scores) / len(scores) == row["eval"]["reward/answer"]
    policy = json.loads((recorded / "manifest.json").read_text())["policy"]
    assert batch.policy == {"policy": policy["directory"], "weights": policy["weights"], "steps": 0}
    assert len({frozenset(g.id for _, b, g in lines if b.sampling == sampling) for sampling in files}) == 1


@pytest.mark.parametrize(
    "kept",
    ["nothing", "lines without their head", "a line that was cut off", "a batch without its answers"],
)
def test_what_a_kill_leaves_goes_on_to_the_same_bytes(recorded, copy, kept, stand_in):
    """Killed at each moment of the third batch: before it, before the head or within its lines, before its answers."""
    whole = contents(recorded)
    (copy / "samples.jsonl").unlink()
    (copy / "answers.blank.jsonl").unlink()
    (copy / "answers.jsonl").write_bytes(b"".join(whole["answers.jsonl"].splitlines(keepends=True)[:8]))
    lines = whole["evidence.jsonl"].splitlines(keepends=True)
    ends = [n for n, line in enumerate(lines) if json.loads(line)["record"]["kind"] == "batch"]
    before, after = ends[2], ends[3]
    held = after if kept == "a batch without its answers" else before
    (copy / "evidence.head.json").write_text(
        json.dumps({"count": held, "hash": json.loads(lines[held - 1])["hash"]}, separators=(",", ":")) + "\n"
    )
    left = {
        "nothing": lines[:before], "a line that was cut off": [*lines[:before], lines[before][:40]],
    }.get(kept, lines[:after])  # fmt: skip
    (copy / "evidence.jsonl").write_bytes(b"".join(left))
    stand_in.clear()
    generate_answers(answerer(), PASSES, copy)
    assert [len(ids) for ids in stand_in] == [2] + [4, 4, 2] * 2
    assert contents(copy) == whole
    orphans = [*copy.glob("evidence.orphan-*")]
    assert [path.read_bytes() for path in orphans] == (
        [b"".join(lines[before:after])] if kept == "lines without their head" else []
    )


def test_what_is_recorded_is_not_asked_again_and_what_is_not_is(copy, stand_in):
    """Evidence that is asked for later, of more questions; nothing is written twice, and no two answers have one name."""
    whole = contents(copy)
    stand_in.clear()
    generate_answers(answerer(), PASSES, copy)
    assert stand_in == [] and contents(copy) == whole
    generate_answers(answerer("evidence.groups=0", "training.evaluation_questions=12"), PASSES[:1], copy)
    assert (copy / "evidence.jsonl").read_bytes().startswith(whole["evidence.jsonl"])
    assert (copy / "answers.jsonl").read_bytes().startswith(whole["answers.jsonl"])
    greedy = [group for _, batch, group in read_evidence(copy) if batch.sampling == "greedy"]
    assert sorted(group.id for group in greedy) == sorted(answered(copy, "answers"))
    assert [group.number for group in greedy] == [*range(12)]
    assert main(["replay", str(copy)]) == 0


def test_there_is_no_evidence_of_answers_that_others_gave(copy, stand_in):
    """An answer on disk that is not what is said now is named, and nothing is written."""
    for name in ("evidence.jsonl", "evidence.head.json"):
        (copy / name).unlink()
    text = (copy / "answers.jsonl").read_text()
    (row, *_) = map(json.loads, text.splitlines())
    (copy / "answers.jsonl").write_text(text.replace(json.dumps(row), json.dumps(row | {"prediction": "forged"})))
    with pytest.raises(ConfigError, match=f"has other answers to {row['id']} than are given now"):
        generate_answers(answerer("evidence.groups=0"), PASSES, copy)
    assert not [*read_evidence(copy)] and read_head(copy).count == 0
    generate_answers(answerer("evidence.every=0"), PASSES, copy)


def test_a_chain_has_one_owner_and_does_not_go_on_where_it_was_changed(copy):
    with LineFile(copy / "evidence.jsonl").owned(), pytest.raises(ConfigError, match="another process writes"):
        generate_answers(answerer(), PASSES, copy)
    whole = (copy / "evidence.jsonl").read_bytes()
    (copy / "evidence.jsonl").write_bytes(whole.replace(b'"is_correct":true', b'"is_correct":trve', 1))
    with pytest.raises(ConfigError, match=r"evidence.jsonl, line \d+: it is no JSON"):
        generate_answers(answerer(), PASSES, copy)
    (copy / "evidence.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    with pytest.raises(ConfigError, match=r"lines that evidence.head.json knows the end of; it has 2 lines"):
        generate_answers(answerer(), PASSES, copy)
    (copy / "evidence.head.json").unlink()
    with pytest.raises(ConfigError, match=r"expected evidence.head.json beside it.*remove both to record anew"):
        generate_answers(answerer(), PASSES, copy)


def test_replay_computes_it_again_names_a_changed_byte_and_explains_an_answer(recorded, copy, capsys):
    assert main(["replay", str(recorded)]) == 0
    told = capsys.readouterr().out
    assert "32 answers to 24 questions in 9 batches; every value came out again, bit for bit" in told
    assert "of an evaluation no checkpoint vouches for the chain" in told
    assert main(["replay", str(recorded), "--answer", "0/sampled/7/1"]) == 0
    told = capsys.readouterr().out
    assert "answer 0/sampled/7/1 (line " in told and "held-out questions, sampled)" in told
    assert "nobody learns from held-out questions" in told and "computed again: the same, bit for bit" in told
    assert main(["replay", str(recorded), "run.dir=elsewhere"]) == 2
    assert "name another one in its place" in capsys.readouterr().err
    raw = bytearray((copy / "evidence.jsonl").read_bytes())
    ends = [n for n, byte in enumerate(raw) if byte == ord("\n")]
    raw[ends[4] + 200] ^= 1
    (copy / "evidence.jsonl").write_bytes(raw)
    assert main(["replay", str(copy)]) == NOT_AS_RECORDED
    told = capsys.readouterr().err
    assert "nothing is replayed" in told and "line 6: " in told and "line 5" not in told


def test_replay_names_answers_that_are_not_those_of_the_evidence(copy, capsys):
    """The chain is whole: somebody made a better table by changing what it is made of."""
    path = copy / "samples.jsonl"
    first, second, *others = [json.loads(line) for line in path.read_text().splitlines()]
    lines = {group.id: line for line, batch, group in read_evidence(copy) if batch.sampling == "sampled"}
    (one, two), left = [row for row in (first, second, *others) if row["id"] in lines][:2], 1
    rows = [row for row in (first, second, *others) if row["id"] != two["id"]]
    for row in rows:
        if row["id"] == one["id"]:
            row["answers"][left] = row["truth"] + "!"
            row["eval"]["reward/total"] += 0.5
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["replay", str(copy)]) == NOT_AS_RECORDED
    told = capsys.readouterr().err
    assert f"line {lines[one['id']]}: samples.jsonl says another answers, reward of {one['id']} than" in told
    assert f"line {lines[two['id']]}: samples.jsonl has no line of {two['id']}: it was taken out" in told
    assert told.count("samples.jsonl") == 2 and "answers.jsonl" not in told


def test_without_rewards_there_is_no_evidence(tmp_path, capsys):
    command = ["evaluate", "phantom", "--to", str(tmp_path / "to"), "--no-rewards", "evidence.every=1"]
    assert main(command) == 2
    assert "evidence.every=1: without rewards there is no evidence" in (told := capsys.readouterr().err)
    assert told.count("\n") == 1


@pytest.mark.slow  # starts the command three times and kills it
def test_a_command_that_is_killed_records_in_the_end_what_one_that_is_not_does(repository, tmp_path, capsys):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(repository)}
    environment.pop("XLA_FLAGS", None)
    settings = [*SETTINGS, "training.evaluation_questions=12", "training.evaluation_batch=2", "evidence.groups=0"]
    command = [sys.executable, "-m", "reflex_jax.cli", "evaluate", "phantom", "--config", "configs/phantom.yaml", *settings,
               "--samples", "2"]  # fmt: skip

    def start(folder):
        words = [*command, "--to", str(folder)]
        return subprocess.Popen(words, cwd=repository, env=environment, stdout=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait() == 0
    running, path = start(tmp_path / "killed"), tmp_path / "killed" / "evidence.jsonl"
    while running.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < 6):
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "samples.jsonl").exists()
    assert start(tmp_path / "killed").wait() == 0
    for name in ("answers.jsonl", "samples.jsonl", "evidence.jsonl", "evidence.head.json", "table.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert main(["replay", str(tmp_path / "killed")]) == 0
    assert "36 answers to 24 questions in 12 batches" in capsys.readouterr().out
