"""Answers on disk: resumed to the byte, never mixed with those of another policy, readable by a judge, scored into a table."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from reflex_jax.cli import main
from reflex_jax.config import ConfigError, MeshConfig
from reflex_jax.config_reader import load_config
from reflex_jax.data.examples import Example
from reflex_jax.evaluation import evaluate
from reflex_jax.evaluation.evaluate import Answerer, evaluate_run, generate_answers, with_sets, without_rewards
from reflex_jax.evaluation.generate import Pass, name_groups, number_of
from reflex_jax.evaluation.line_files import LineFile
from reflex_jax.evaluation.manifest import pin_identity
from reflex_jax.run.weights import weights_fingerprint
from reflex_jax.sharding import make_mesh
from tests.chat_process import judge

SETTINGS = [
    "training.evaluation_questions=10", "training.evaluation_batch=4", "grpo.group_size=2", "rollout.max_new_tokens=30",
    "data.size=24", "mesh.data=2", "mesh.fsdp=1", "logging.progress=false",
]  # fmt: skip
PASSES = [Pass(), Pass(samples=2)]
pytestmark = pytest.mark.usefixtures("stand_in")


def answerer(*overrides: str) -> Answerer:
    config = load_config("configs/phantom.yaml", [*SETTINGS, *overrides])
    return Answerer(config=without_rewards(config), is_run=False)


@pytest.fixture(scope="module")
def answers(tmp_path_factory, stand_in):
    """A folder of an uninterrupted evaluation, and its metrics; to be copied."""
    folder = tmp_path_factory.mktemp("answers") / "of"
    stand_in.clear()
    metrics = generate_answers(answerer(), PASSES, folder)
    assert stand_in[:3] == stand_in[3:] and [len(ids) for ids in stand_in] == [4, 4, 2] * 2
    return folder, metrics


def rows_of(folder, name="answers"):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_each_question_has_one_line_with_all_that_a_reader_needs(answers):
    folder, metrics = answers
    rows, drawn = rows_of(folder), rows_of(folder, "samples")
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == len(ids) == 10 and ids == [row["id"] for row in drawn]
    assert all(isinstance(row["prediction"], str) and "<answer>" in row["prediction"] for row in rows if row["answer"])
    assert all(len(row["samples"]) == len(row["answers"]) == len(row["tokens"]) == 2 for row in drawn)
    assert all(row["task"] == "phantom" and row["pictures"] and row["modality"] for row in rows)
    for generator, lines in (("greedy", rows), ("sampled", drawn)):
        rewards = [row["eval"]["reward/answer"] for row in lines]
        assert metrics[f"eval/{generator}/reward/answer"] == pytest.approx(np.mean(rewards), rel=1e-6)


@pytest.mark.parametrize("kept", [0, 3, 7.5])
def test_what_a_kill_leaves_goes_on_to_the_same_bytes(answers, tmp_path, stand_in, kept):
    """Killed in the first batch, in the middle of one and of a line: a batch is asked as it was."""
    folder, metrics = answers
    shutil.copytree(folder, again := tmp_path / "again")
    whole = (folder / "answers.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    cut = b"".join(lines[: int(kept)]) + lines[int(kept)][: int(len(lines[int(kept)]) * (kept % 1))]
    (again / "answers.jsonl").write_bytes(cut)
    stand_in.clear()
    assert generate_answers(answerer(), PASSES, again) == metrics
    ids = [json.loads(line)["id"] for line in lines]
    assert stand_in == [ids[:4], ids[4:8], ids[8:]][int(kept) // 4 :]
    assert (again / "answers.jsonl").read_bytes() == whole
    assert (again / "samples.jsonl").read_bytes() == (folder / "samples.jsonl").read_bytes()


def test_a_finished_evaluation_asks_nothing_again_and_more_questions_are_added(answers, tmp_path, stand_in):
    folder, metrics = answers
    shutil.copytree(folder, again := tmp_path / "again")
    stand_in.clear()
    assert generate_answers(answerer(), PASSES, again) == metrics and stand_in == []
    generate_answers(answerer("training.evaluation_questions=12"), PASSES[:1], again)
    assert rows_of(again)[:10] == rows_of(folder) and len({row["id"] for row in rows_of(again)}) == 12


def test_answers_of_another_policy_prompt_or_data_are_refused_in_a_line(answers, tmp_path):
    folder, _ = answers
    shutil.copytree(folder, again := tmp_path / "again")
    before = (again / "answers.jsonl").read_bytes()
    with pytest.raises(ConfigError) as refusal:
        generate_answers(
            answerer("rollout.max_new_tokens=29", "data.size=25", "data.max_pixels=50176"), PASSES[:1], again
        )
    for words in (
        "other settings of prompts, pictures and answers (pixels)", "other questions (phantom)",
        "another sampling, such as another number of --samples (answers)",
    ):  # fmt: skip
        assert words in str(refusal.value) and "\n" not in str(refusal.value), refusal.value
    assert (again / "answers.jsonl").read_bytes() == before


@pytest.mark.parametrize(("override", "differs"), [
    ("data.prompt=think_answer", True), ("data.min_pixels=4000", True), ("completion.fallback=true", True),
    ("rollout.eos_ids=[2]", True), ("policy.dtype=bfloat16", True), ("run.seed=1", True),
    ("memory.rollout_prompts=2", False), ("training.evaluation_batch=3", False), ("mesh.data=1", False),
])  # fmt: skip
def test_what_a_prompt_and_an_answer_are_made_by_is_pinned_and_how_they_are_computed_is_not(override, differs):
    assert (evaluate._reading(answerer(override).config) != evaluate._reading(answerer().config)) == differs


def test_an_identity_is_extended_by_what_is_new_and_refused_where_it_differs(tmp_path):
    def identity(**entries):
        return {"policy": {"weights": "a"}, "reading": {}, "rewards": {}, "data": {}, "passes": {}} | entries

    pin_identity(tmp_path, identity(data={"slake": "1"}), {"step": 3})
    pin_identity(tmp_path, identity(data={"vqa_rad": "2"}), {"step": 3})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["data"] == {"slake": "1", "vqa_rad": "2"} and manifest["about"] == {"step": 3}
    with pytest.raises(ConfigError, match=r"another policy \(weights\); other questions \(slake\)"):
        pin_identity(tmp_path, identity(policy={"weights": "b"}, data={"slake": "3", "vqa_rad": "2"}), {})
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match="no manifest of `reflex evaluate`"):
        pin_identity(tmp_path, identity(), {})
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "answers.jsonl").touch()
    with pytest.raises(ConfigError, match="has answers and no manifest.json"):
        pin_identity(tmp_path, identity(), {})


def test_a_file_of_lines_has_one_owner_and_loses_a_torn_line(tmp_path):
    file = LineFile(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_bytes(b'{"id": 1}\n{"id"')
    with file.owned() as lines:
        assert lines == [b'{"id": 1}']
        file.add([{"id": 2}])
        with pytest.raises(ConfigError, match="another process writes"), LineFile(tmp_path / "a.jsonl").owned():
            pass
    assert (tmp_path / "a.jsonl").read_bytes() == b'{"id": 1}\n{"id": 2}\n'


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_bit_of_the_weights_is_in_their_fingerprint_and_where_they_lie_is_not(dtype):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    values = jax.random.normal(jax.random.key(0), (8, 4)).astype(dtype)

    def of(array, name="w"):
        return weights_fingerprint({name: array}, mesh)

    whole = of(values)
    for spec in (PartitionSpec("fsdp"), PartitionSpec(None, ("data", "tensor"))):
        assert of(jax.device_put(values, jax.sharding.NamedSharding(mesh, spec))) == whole
    bits = np.asarray(values).view(np.uint32 if dtype == jnp.float32 else np.uint16)
    others = {of(jnp.asarray((bits ^ (np.arange(32).reshape(8, 4) == 5) * bits.dtype.type(1 << b)).view(values.dtype)))
              for b in (0, 7, 15)}  # fmt: skip
    moved = of(values.at[0].set(values[1]).at[1].set(values[0]))
    assert len({whole, *others, moved, of(values.reshape(4, 8)), of(values, "v")}) == 7


def test_draws_follow_from_a_question_alone():
    assert number_of("slake-1") == number_of("slake-1") != number_of("slake-2")
    assert all(0 <= number_of(str(i)) < 2**31 for i in range(100))
    twice = [Example(id="a", question="?", answer="yes", answer_type="closed")] * 2
    with pytest.raises(ConfigError, match="several have a"):
        name_groups(twice)


def test_some_sets_are_chosen_by_their_labels():
    sources = "data.sources=[{name: phantom, label: a}, {name: phantom, label: b}]"
    config = load_config(None, [sources, "data.phases=[{sources: [a]}]"])
    assert [source.label for source in with_sets(config, ["b"]).data.mixture] == ["b"]
    assert with_sets(config, []) is config
    with pytest.raises(ConfigError, match="--sets: expected some of a, b; got c"):
        with_sets(config, ["c"])


def score_of(folder, *arguments: str) -> int:
    settings = ["--config", "configs/phantom.yaml", *SETTINGS, "--to", str(folder), "--stage", "score"]
    return main(["evaluate", "phantom", *settings, *arguments])


@pytest.mark.parametrize(("template", "metrics"), [
    ("base", {"judge score"}), ("rarl", {"judge reasoning_score", "judge prediction_score"})
])  # fmt: skip
def test_answers_are_judged_and_the_verdicts_stand_in_the_table(answers, tmp_path, capsys, template, metrics):
    """generate -> judge -> score, each by its command; the judge looks for the true words in the predicted ones."""
    shutil.copytree(answers[0], folder := tmp_path / "of")
    verdicts = folder / "verdicts.jsonl"
    with judge() as port:
        endpoint = [f"endpoint.url=http://127.0.0.1:{port}/v1", "endpoint.model=judge-marks"]
        assert (
            main(["judge", str(folder / "answers.jsonl"), *endpoint, "--template", template, "--to", str(verdicts)])
            == 0
        )
    assert score_of(folder, "--verdicts", str(verdicts)) == 0
    printed = capsys.readouterr().out
    rows = [row for row in json.loads((folder / "table.json").read_text())["rows"] if row["group"] == "all"]
    assert {row["metric"] for row in rows if row["metric"].startswith("judge")} == metrics and sorted(metrics)[
        0
    ] in printed
    answered = rows_of(folder)
    for kind, named in (("yes_no", {"yes", "no"}), ("open", None)):
        of_kind = [r for r in answered if (r["truth"] in named if named else r["answer_type"] == "open")]
        said = [float(r["truth"] in r["prediction"].rpartition("</think>")[2]) for r in of_kind]
        (row,) = [r for r in rows if r["kind"] == kind and r["metric"] in ("judge score", "judge prediction_score")]
        assert row["questions"] == len(of_kind) and row["value"] == pytest.approx(np.mean(said))
    assert score_of(folder, "--verdicts", f"{folder}/nowhere") == 2
    assert "--verdicts" in (message := capsys.readouterr().err) and message.count("\n") == 1
    other = {"id": "elsewhere-1", "question": "?", "truth": "x", "prediction": "x", "answer_type": "open", "eval": {}}
    verdicts.write_text(verdicts.read_text().replace(answered[0]["id"], other["id"]))
    assert score_of(folder, "--verdicts", str(verdicts)) == 2
    assert "is no question of these answers" in capsys.readouterr().err


def test_scoring_goes_on_where_it_was_cut_off_and_makes_the_same_table(answers, tmp_path):
    shutil.copytree(answers[0], folder := tmp_path / "of")
    assert score_of(folder) == 0
    table, scores = (folder / "table.json").read_bytes(), (folder / "scores.jsonl").read_bytes()
    assert len(scores.splitlines()) == 20  # ten answers, ten questions with samples
    assert score_of(folder) == 0
    assert (folder / "scores.jsonl").read_bytes() == scores
    (folder / "scores.jsonl").write_bytes(scores[: len(scores) * 2 // 3])
    assert score_of(folder) == 0
    assert sorted((folder / "scores.jsonl").read_bytes().splitlines()) == sorted(scores.splitlines())
    assert (folder / "table.json").read_bytes() == table
    row = json.loads((folder / "answers.jsonl").read_text().splitlines()[0])
    changed = (
        (folder / "answers.jsonl").read_text().replace(json.dumps(row), json.dumps(row | {"answer": row["truth"]}))
    )
    (folder / "answers.jsonl").write_text(changed)
    assert score_of(folder) == 0
    latest = json.loads((folder / "scores.jsonl").read_text().splitlines()[-1])
    assert latest["id"] == row["id"] and max(latest["scores"].values()) == 1.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["phantom", "--samples", "1", "--to", "x"], "--samples: expected 0 for none, or at least 2; got 1"),
        (["phantom", "--samples", "few", "--to", "x"], "'few'"),
        (["phantom"], "--to: expected a folder for the answers of phantom, which is no run"),
        (["phantom", "--to", "x", "--initial", "--step", "3"], "--initial, --step: phantom is a policy and no run"),
        (["phantom", "--to", "x", "--stage", "judge"], "--stage: expected one of generate, score"),
        (["phantom", "--to", "x", "--probe", "blnk"], "--probe: expected some of real, blank, shuffled, other_patient; got blnk"),
        (["phantom", "--to", "x", "--probe", ","], "--probe: expected at least one name"),
        (["phantom", "--to", "x", "--sets", "slake"], "--sets: expected some of phantom; got slake"),
        (["phantom", "--to", "x", "--convention", "llava"], "Did you mean 'llava_med'?"),
        (["phantom", "--to", "x", "--bertscore-layer", "3"], "--bertscore-layer: expected --bertscore DIR beside it"),
        (["phantom", "--to", "x", "--bertscore", "nowhere"], "--bertscore: expected a directory with config.json"),
        (["phantom", "--to", "x", "--stage", "score"], "--stage score: expected answers in x; there are none"),
        (["nowhere", "--to", "x"], "'nowhere'"),
        (["nowhere", "--to", "x", "--config", "configs/phantom.yaml"], "policy.path: expected a directory with config.json"),
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_refused_in_a_line(arguments, words, tmp_path, capsys, monkeypatch, repository):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(repository / "configs")
    assert main(["evaluate", *arguments]) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1, message


def test_metrics_of_a_policy_before_grey_pictures_are_those_of_a_probe(monkeypatch):
    """`evaluate_run`, which keeps nothing, asks the same."""
    asked = []
    monkeypatch.setattr(
        evaluate, "generate_answers", lambda *given: asked.append(given) or {"eval/greedy/accuracy": 1.0}
    )
    config = answerer().config
    assert evaluate_run(config, blank_image=True) == {"eval/greedy/accuracy": 1.0}
    ((who, passes, _),) = asked
    assert who == Answerer(config=config) and passes == [Pass("blank"), Pass("blank", 2)]
    assert dataclasses.replace(passes[1], samples=3).name == "samples.blank"


@pytest.mark.slow  # starts the command three times and kills it
def test_a_command_that_is_killed_writes_in_the_end_what_one_that_is_not_does(repository, tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(repository)}
    settings = [*SETTINGS, "training.evaluation_questions=24", "training.evaluation_batch=2"]
    settings = [text for text in settings if not text.startswith("mesh")] + ["mesh.data=1"]
    command = [sys.executable, "-m", "reflex_jax.cli", "evaluate", "phantom", "--config", "configs/phantom.yaml", *settings,
               "--samples", "2"]  # fmt: skip

    def start(folder):
        return subprocess.Popen(
            [*command, "--to", str(folder)], cwd=repository, env=environment, stdout=subprocess.DEVNULL
        )

    assert start(tmp_path / "whole").wait() == 0
    for lines in (3, 12):
        running = start(tmp_path / "killed")
        path = tmp_path / "killed" / "answers.jsonl"
        while running.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < lines):
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert start(tmp_path / "killed").wait() == 0
    for name in ("answers.jsonl", "samples.jsonl", "table.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
