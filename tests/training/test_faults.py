"""A run cannot be lost: whatever ends it, the same command goes on, and the numbers are those of an undisturbed run."""

import contextlib
import dataclasses
import json
import os
import resource
import shutil
import signal
from contextlib import contextmanager
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.cli import main
from reflex_jax.config import ConfigError
from reflex_jax.config_reader import load_config
from reflex_jax.evidence.reader import check_evidence, read_evidence
from reflex_jax.run.checkpoint import RunCheckpoints
from reflex_jax.run.directory import load_run_config
from reflex_jax.run.logs import SilentLogger
from reflex_jax.run.ownership import sole_owner
from reflex_jax.step.bridge import HostBridge
from reflex_jax.step.state import TrainState
from reflex_jax.stops import NOT_FINITE, PREEMPTED, SAVE_FAILED, RunStopped
from reflex_jax.text.completion import parse_completion
from reflex_jax.training import loop
from reflex_jax.training.faults import SkippedSteps
from reflex_jax.training.trainer import GrpoTrainer, StepResult
from reflex_jax.training.watchdog import Watchdog
from tests.unchecked import types_unchecked

pytestmark = pytest.mark.usefixtures("programs_once")

STEPS = 4  # two of the closed phase, two of the open one
QUICK = [
    f"training.steps={STEPS}", "training.save_every=1", "training.keep_checkpoints=9", "training.evaluate_every=0",
    "grpo.prompts_per_step=8", "grpo.group_size=4", "rollout.max_new_tokens=24", "data.size=64", "logging.progress=false",
    "logging.tensorboard=false",
    # as runs are by default, and the short recipe is not: rows and prompts of several lengths
    "memory.row_lengths=3", "memory.prompt_rungs=2",
    "evidence.every=1", "evidence.groups=3",
]  # fmt: skip
KINDS = ("policy", "judge")
TINY = TrainState(step=jnp.int32(0), params={"w": jnp.ones(2)}, optimizer_state=None)
TIMES = ("time/", "tokens_per_second", "compilations")


@pytest.fixture(scope="module")
def phantom(repository) -> str:
    return str(repository / "configs" / "phantom.yaml")


@pytest.fixture(scope="module")
def undisturbed(phantom, tmp_path_factory):
    """A run of four steps that nothing disturbed, all checkpoints kept."""
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    os.environ.setdefault("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    assert train(phantom, directory) == 0
    return directory


def train(phantom: str, directory, *overrides: str) -> int:
    """Runs the command line; returns its exit code."""
    return main(["train", phantom, *QUICK, f"run.dir={directory}", *overrides])


def saved(directory, step: int = STEPS) -> list[np.ndarray]:
    """Every array of a checkpoint's state, in one order."""
    tree = ocp.StandardCheckpointer().restore((directory / "checkpoints" / str(step) / "state").absolute())
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def metrics(directory) -> list[dict]:
    """Rows of metrics.jsonl without what depends on the clock."""
    with open(directory / "metrics.jsonl") as lines:
        rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if not k.startswith(TIMES)} for row in rows]


def completions(directory) -> list[tuple]:
    with open(directory / "samples.jsonl") as lines:
        return [(row["step"], row["id"], row["completion"]) for row in map(json.loads, lines)]


def cut_back(directory, target, step: int):
    """Copies a run as it stood when `step` was saved and the machine died during the next one."""
    shutil.copytree(directory, target)
    for path in (target / "checkpoints").iterdir():
        if path.name.isdigit() and int(path.name) > step:
            shutil.rmtree(path)
    return target


# inside the first phase, with its weights moved, and at its border to the second
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_an_interrupted_run_ends_bit_for_bit_like_an_undisturbed_one(undisturbed, phantom, tmp_path, step):
    """Also where its policy and its judge have moved: it is their content that counts."""
    directory = cut_back(undisturbed, tmp_path / "run", step)
    moved = [f"{kind}.path={shutil.copytree(resolve_checkpoint('phantom', kind), tmp_path / kind)}" for kind in KINDS]
    assert train(phantom, directory, *(moved if step == 1 else [])) == 0
    found = load_run_config(directory, [])
    assert (found.policy.path, found.judge.path) == (
        tuple(str(tmp_path / kind) for kind in KINDS) if step == 1 else ("phantom", "phantom")
    )
    assert [row["step"] for row in metrics(directory)] == [1, 2, 3, 4]
    assert metrics(directory) == metrics(undisturbed) and completions(directory) == completions(undisturbed)
    # its evidence too; what the dead machine wrote behind the checkpoint is kept apart
    whole = (undisturbed / "evidence.jsonl").read_bytes()
    assert (directory / "evidence.jsonl").read_bytes() == whole and check_evidence(directory, {}) == []
    behind = (directory / f"evidence.orphan-{step}.jsonl").read_bytes()
    assert whole.endswith(behind) and len(behind.splitlines()) == (STEPS - step) * (1 + 3)
    for got, expected in zip(saved(directory), saved(undisturbed), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.slow  # two more runs; which draw comes next is held in test_dynamic_sampling.py
def test_a_run_that_samples_until_rewards_differ_goes_on_with_the_next_draw(undisturbed, phantom, tmp_path):
    """Bit for bit; its checkpoint says how many batches of its phase were drawn."""
    sampling = ["grpo.dynamic_sampling=2"]  # beside these the programs of the others
    whole, directory = tmp_path / "whole", tmp_path / "run"
    assert train(phantom, whole, *sampling) == 0
    rows = [json.loads(line) for line in (whole / "samples.jsonl").read_text().splitlines()]
    groups = [rows[i : i + 4] for i in range(0, len(rows), 4)]
    flat = [len({row["reward"] for row in group}) == 1 for group in groups]
    assert len(groups) == STEPS * 8 and all(len({row["id"] for row in group}) == 1 for group in groups)
    assert sum(flat[:8]) / 8 == metrics(whole)[0]["frac_zero_std"] < metrics(undisturbed)[0]["frac_zero_std"]
    assert metrics(whole)[0]["draws/count"] > 1
    cut_back(whole, directory, 1)  # inside of a phase, of which two batches are drawn by then
    assert train(phantom, directory, *sampling) == 0
    assert metrics(directory) == metrics(whole) and completions(directory) == completions(whole)
    assert (directory / "evidence.jsonl").read_bytes() == (whole / "evidence.jsonl").read_bytes()
    # the groups that were learned from, whichever draw they came from, with the advantages that they have there
    evidence = [record for record in read_evidence(whole) if record.batch.step == 1]
    assert {record.batch.draws for record in evidence} == {int(metrics(whole)[0]["draws/count"])}
    recorded = {record.group.number: [a.advantage for a in record.group.answers] for record in evidence}
    assert recorded == {n: [row["advantage"] for row in group] for n, group in enumerate(groups[:3])}
    for got, expected in zip(saved(directory), saved(whole), strict=True):
        np.testing.assert_array_equal(got, expected)


# the mesh that has all axes is the one of multiprocess/test_two_processes.py, so its programs compile once
MESHES = [
    ["mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2", "memory.microbatch_prompts=4"],  # in as many rounds as it takes
    *(pytest.param([axis], marks=pytest.mark.slow) for axis in ("mesh.fsdp=8", "mesh.tensor=2")),
]


@pytest.mark.parametrize("mesh", MESHES, ids="-".join)
def test_a_run_continues_on_another_mesh(undisturbed, phantom, tmp_path, mesh):
    directory = cut_back(undisturbed, tmp_path / "run", 2)
    assert train(phantom, directory, *mesh) == 0
    assert completions(directory) == completions(undisturbed)
    for got, expected in zip(metrics(directory), metrics(undisturbed), strict=True):
        assert got.keys() == expected.keys()
        for name in ("loss", "reward/total", "kl", "accuracy", "judge/iou"):
            np.testing.assert_allclose(got[name], expected[name], atol=1e-5, err_msg=name)


@contextmanager
def sigterm_in(trainer, step: int):
    """Sends this process a signal while a trainer takes a step."""
    run_step = trainer.run_step

    def with_signal(self, state, batch, number):
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return run_step(self, state, batch, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "run_step", with_signal)
        yield


def test_a_signal_ends_the_step_saves_and_says_how_to_go_on(undisturbed, phantom, tmp_path, capsys):
    """Of what it saved before and after, the last checkpoint stays and the best."""
    metric = "judge/degenerate_rate"  # largest in the first step
    kept = ["training.keep_checkpoints=1", f"training.best_metric={metric}"]
    with sigterm_in(GrpoTrainer, 2):
        assert train(phantom, tmp_path / "run", *kept) == PREEMPTED
    message = capsys.readouterr().err
    assert "SIGTERM after step 2" in message and "same command" in message
    assert train(phantom, tmp_path / "run", *kept) == 0
    assert metrics(tmp_path / "run") == metrics(undisturbed)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    values = {row["step"]: row[metric] for row in metrics(undisturbed)}
    best = max(values, key=values.get)
    assert best < STEPS and {int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir()} == {best, STEPS}


FAULTY = """
from reflex_jax.rewards import reward
calls = 0

@reward
def short(answered, *, longest: int = 20) -> float | None:
    global calls
    calls += 1  # 32 in a step
    if calls == 6 or calls > 64 and calls % 5 < 3:
        raise LookupError("no such word")
    if calls == 9:
        return float("nan")
    return None if answered.answer is None else float(answered.tokens <= longest)
"""


def test_rows_that_fail_are_left_out_and_steps_that_cannot_be_taken_end_the_run(phantom, tmp_path, monkeypatch, capsys):
    """A reward of a user's own file, turned on by one override: it fails for 6 % of a step, then for 60 %."""
    score = HostBridge.__call__
    now = {"step": 0}

    def broken_bridge(self, *inputs):
        """Its rewards are not numbers in the second step."""
        now["step"] += 1
        bridged = score(self, *inputs)
        if now["step"] != 2:
            return bridged
        answer = np.full_like(bridged.scores.components["answer"], np.nan)
        scores = dataclasses.replace(bridged.scores, components=bridged.scores.components | {"answer": answer})
        return dataclasses.replace(bridged, scores=scores)

    monkeypatch.setattr(HostBridge, "__call__", broken_bridge)
    directory, file = tmp_path / "run", tmp_path / "my_rewards.py"
    file.write_text(FAULTY)
    own = [f"rewards.files=[{file}]", "rewards.components.short=0.5", "memory.row_lengths=1", "memory.prompt_rungs=1"]
    assert train(phantom, directory, *own, "training.save_every=50") == NOT_FINITE
    message = capsys.readouterr().err
    assert message.count("1 of 32 completions have no reward") == 2 and "no such word" in message
    last = message.splitlines()[-1]
    assert "step 3 had 20 completions without a reward: 20 times short: LookupError at my_rewards.py:" in last
    assert "rewards.max_failure_rate allows 8" in last
    rows = metrics(directory)
    assert [row["skipped"] for row in rows] == [0.0, 1.0, 1.0] and rows[1]["loss"] is None
    assert [row["failed_rows"] for row in rows] == [2.0, 0.0, 20.0] and rows[2]["loss"] == 0
    with open(directory / "samples.jsonl") as lines:
        samples = [json.loads(line) for line in lines]
    failed = [row for row in samples if row["failure"]]
    assert [row["step"] for row in failed] == [1] * 2 + [3] * 20
    assert failed[:2] == [samples[5], samples[8]] and failed[0]["failure"].endswith("no such word")
    assert all(row["reward"] is None and row["advantage"] == 0 and row["reward/short"] is None for row in failed)
    counted = [row for row in samples if row["step"] == 1 and not row["failure"]]
    assert all(row["reward"] is not None for row in counted)  # also beside a row that failed
    assert all((row["reward/short"] is None) == (row["parsed_answer"] is None) for row in counted)
    short = [row["reward/short"] for row in counted if row["reward/short"] is not None]
    assert rows[0]["reward/short"] == pytest.approx(np.mean(short)) and len(short) < len(counted)
    assert {path.name for path in (directory / "skipped").iterdir()} == {
        f"step-00000{step}.process-0.{kind}" for step in (2, 3) for kind in ("npz", "jsonl")
    }
    with np.load(directory / "skipped" / "step-000002.process-0.npz") as arrays:
        assert np.isnan(arrays["reward_answer"]).all() and arrays["tokens"].shape == (8, 4, 24)
    assert "NaN" not in (directory / "skipped" / "step-000003.process-0.jsonl").read_text()
    monkeypatch.setattr(HostBridge, "__call__", score)
    file.write_text(f"{FAULTY}# mended\n")
    assert train(phantom, directory, *own) == 2
    assert "rewards.files hold other code" in (message := capsys.readouterr().err) and message.count("\n") == 1
    file.rename(tmp_path / "elsewhere.py").write_text(FAULTY)  # the same code in another place
    own[0] = f"rewards.files=[{tmp_path / 'elsewhere.py'}]"
    assert train(phantom, directory, *own) == 0  # saved at step 3, so one step is left
    assert [row["step"] for row in metrics(directory)] == [1, 2, 3, 4]
    with pytest.raises(ConfigError, match=r"Look at it, and name it again .*'rewards.files=.*elsewhere\.py"):
        load_run_config(directory, [])
    assert load_run_config(directory, own[:1]).rewards.components["short"].weight == 0.5
    found = load_run_config(directory, [], runs_rewards=False)
    assert found.rewards.files == (str(tmp_path / "elsewhere.py"),)  # as the run went on last


@pytest.mark.parametrize("start", [0, 2])
def test_what_has_learned_nothing_leaves_no_checkpoint(tmp_path, start):
    """So a reward of one's own that failed at once can be mended; after steps that were taken it belongs to the run."""
    settings = [f"run.dir={tmp_path}", "logging.progress=false", "training.save_every=1"]
    row = {"failure": "mine: x", "question": "Is it?", "true_answer": "yes", "completion": "yes", "parsed_answer": None}
    failed = StepResult({"skipped": 1.0, "loss": 0.0, "grad_norm": 0.0, "failed_rows": 512}, [row], {})
    run = SimpleNamespace(
        config=load_config(None, settings), start=start, evaluator=None, checkpoints=SimpleNamespace(wait=lambda: None),
        batches=_Batches(), iterate=lambda: iter(range(start, 9)),
        trainer=SimpleNamespace(build=None, rows=None, run_step=lambda state, *_: (state, failed)),
    )  # fmt: skip
    saved = []
    with types_unchecked(), pytest.raises(RunStopped) as stopped:
        loop._run_steps(run, None, SilentLogger(), lambda *_, is_saved, is_last: saved.append(is_saved))
    assert saved == [start > 0]
    assert ("nothing has been learned yet, so nothing is saved" in str(stopped.value)) == (start == 0)


class _Batches:
    def __len__(self):
        return 9

    def phase_name(self, step):
        return "closed"


@pytest.mark.parametrize(
    ("loss", "failure", "expected"),
    [(float("nan"), None, "not a number"), (0.0, "answer: KeyError at answer.py:1: x", "2 times answer: KeyError")],
)
def test_a_run_without_updates_says_why_it_ends(tmp_path, loss, failure, expected):
    skipped = SkippedSteps(tmp_path, limit=2, most_failed=2)
    skip = StepResult(
        {"skipped": 1.0, "loss": loss, "grad_norm": 0.0, "failed_rows": 2}, [{"failure": failure}] * 2, {}
    )
    taken = StepResult({"skipped": 0.0, "loss": 1.0, "grad_norm": 1.0, "failed_rows": 0}, [], {})
    for step, result in enumerate([skip, taken, skip], 1):
        skipped.note(step, result)
        assert not skipped.is_hopeless
    skipped.note(4, skip)
    assert skipped.is_hopeless and expected in str(skipped.as_stop(4)) and "step 4" in str(skipped.as_stop(4))


def test_a_checkpoint_that_cannot_be_read_is_refused_by_name(undisturbed, phantom, tmp_path, capsys):
    directory = cut_back(undisturbed, tmp_path / "run", 3)
    for path in (directory / "checkpoints" / "3" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    before = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file() and "heartbeats" not in p.parts}
    assert train(phantom, directory) == 2
    message = capsys.readouterr().err
    assert "checkpoints/3" in message and "go on from step 2" in message and "Traceback" not in message
    assert {p: p.read_bytes() for p in before} == before
    shutil.rmtree(directory / "checkpoints" / "3")
    assert train(phantom, directory) == 0
    assert metrics(directory) == metrics(undisturbed)


def test_a_half_written_checkpoint_is_not_one(undisturbed, phantom, tmp_path):
    directory = cut_back(undisturbed, tmp_path / "run", 3)
    half = directory / "checkpoints" / "4.orbax-checkpoint-tmp-0"
    shutil.copytree(directory / "checkpoints" / "3", half)
    assert train(phantom, directory) == 0
    assert metrics(directory) == metrics(undisturbed)


def test_a_full_disk_keeps_the_older_checkpoints(undisturbed, phantom, tmp_path, monkeypatch, capsys):
    directory = cut_back(undisturbed, tmp_path / "run", 2)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    assert train(phantom, directory) == SAVE_FAILED
    message = capsys.readouterr().err
    assert "step 3" in message and "No space left" in message and "stand" in message
    monkeypatch.undo()
    assert train(phantom, directory) == 0
    assert metrics(directory) == metrics(undisturbed)


def test_a_disk_that_fills_while_a_checkpoint_is_written_is_one_line_with_its_step(tmp_path, capfd):
    state = TrainState(step=jnp.int32(0), params={"w": jnp.arange(300_000.0) % 1.7}, optimizer_state=None)
    checkpoints = RunCheckpoints(tmp_path, keep=9)
    checkpoints.save(state, 1, {"step": 1}, {})
    checkpoints.wait()
    with file_size_limit(100_000):
        checkpoints.save(state, 2, {"step": 2}, {})  # beside the next step
        with pytest.raises(RunStopped) as stop:
            checkpoints.save(state, 3, {"step": 3}, {})
    assert stop.value.code == SAVE_FAILED and "the checkpoint of step 2 could not be written" in str(stop.value)
    assert "\n" not in str(stop.value) and len(str(stop.value)) < 700
    assert capfd.readouterr().err == ""  # no traceback of any thread
    checkpoints.close()
    reader = RunCheckpoints(tmp_path, keep=9, is_owner=False)
    assert reader.steps() == [1] and list((tmp_path / "checkpoints").glob("2*tmp*"))  # reading cleans nothing up
    reader.close()
    checkpoints = RunCheckpoints(tmp_path, keep=9)
    checkpoints.save(state, 2, {"step": 2}, {})
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2] and not list((tmp_path / "checkpoints").glob("*tmp*"))
    assert checkpoints.read_facts(2) == {"step": 2, "metrics": {}}
    checkpoints.close()


BEST = [([4, 3, 2, 1], {1, 4}), ([1, 2, 3, 4], {4}), ([1, None, 2, 0], {3, 4}), ([None, None, None, None], {4})]


@pytest.mark.parametrize(("values", "expected"), BEST)
def test_the_best_checkpoint_stays_also_when_a_run_goes_on(tmp_path, values, expected):
    for steps in ((1, 2), (3, 4)):
        checkpoints = RunCheckpoints(tmp_path, keep=1, best_metric="reward/total")
        for step in steps:
            value = values[step - 1]
            found = {"loss": 1.0} if value is None else {"loss": 1.0, "reward/total": value}
            checkpoints.save(TINY, step, {"step": step}, found)
        checkpoints.wait()
        checkpoints.close()
    assert {int(path.name) for path in (tmp_path / "checkpoints").iterdir()} == expected


NO_NUMBERS = ["[1, 2]", "null", '{"reward/total": "5.0"}', '{"reward/total": NaN}', '{"reward/total": Infinity}']
UNREADABLE = ['{"reward/', "[" * 9**5]


@pytest.mark.parametrize("written", [*NO_NUMBERS, *UNREADABLE])
def test_a_checkpoint_whose_metric_is_no_number_is_not_the_best(tmp_path, written):
    """Of the others the best stays, whatever one of them says; one that cannot be read stays beside it."""

    def save(*values) -> list[int]:
        checkpoints = RunCheckpoints(tmp_path, keep=1, best_metric="reward/total")
        for step, value in values:
            checkpoints.save(TINY, step, {"step": step}, {"reward/total": value})
        checkpoints.wait()
        steps = checkpoints.steps()
        checkpoints.close()
        return steps

    stays = [2] if written in UNREADABLE else []
    assert save((1, 5.0), (2, 1.0)) == [1, 2]
    (file,) = (tmp_path / "checkpoints" / "2" / "facts").glob("metadata")
    file.write_text(f'{{"step": 2, "metrics": {written}}}')
    assert save((3, 2.0)) == [1, *stays, 3]
    assert save((4, 5.0)) == [*stays, 4]  # of equal ones the later


@pytest.mark.parametrize("content", [b'{"step": ', b"[1]", None])
def test_facts_that_cannot_be_read_are_refused_by_name(tmp_path, content):
    checkpoints = RunCheckpoints(tmp_path, keep=9)
    checkpoints.save(TINY, 1, {"step": 1}, {})
    checkpoints.wait()
    (facts,) = (tmp_path / "checkpoints" / "1" / "facts").glob("metadata")
    facts.unlink()
    if content is not None:
        facts.write_bytes(content)
    with pytest.raises(ConfigError, match="checkpoints/1: this checkpoint cannot be read") as error:
        checkpoints.read_facts(1)
    assert "\n" not in str(error.value)
    checkpoints.close()


def test_a_checkpoint_that_the_run_replaces_while_it_is_exported_is_said(tmp_path):
    checkpoints = RunCheckpoints(tmp_path, keep=1)
    checkpoints.save(TINY, 1, {"step": 1}, {})
    checkpoints.wait()
    reader = RunCheckpoints(tmp_path, keep=1, is_owner=False)
    assert reader.find_step() == 1
    checkpoints.save(TINY, 2, {"step": 2}, {})
    checkpoints.wait()
    with pytest.raises(ConfigError, match="checkpoints/1: .* run the command again if the run is under way") as error:
        reader.read_facts(1)
    assert "\n" not in str(error.value)
    reader.close()
    checkpoints.close()


@contextlib.contextmanager
def file_size_limit(size: int):
    """What a file cannot grow beyond, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_run_that_is_under_way_or_of_an_earlier_version_is_refused(
    undisturbed, phantom, tmp_path, monkeypatch, capsys
):
    directory = cut_back(undisturbed, tmp_path / "run", 2)
    with sole_owner(directory), monkeypatch.context() as patch:
        # the first one has the devices and their memory
        patch.setattr(loop, "make_mesh", lambda _: pytest.fail("devices were asked for"))
        assert train(phantom, directory) == 2
    message = capsys.readouterr().err
    assert f"in process {os.getpid()} on" in message and message.count("\n") == 1
    facts = directory / "checkpoints" / "2" / "facts" / "metadata"
    kept = json.loads(facts.read_text())
    layout = {"phases": [["closed", 2], ["open", 2]], "prompts_per_step": 8}
    assert kept.pop("layout") == layout
    facts.write_text(json.dumps(kept))
    assert train(phantom, directory) == 2
    assert "ordered the questions otherwise" in (message := capsys.readouterr().err) and message.count("\n") == 1
    facts.write_text(json.dumps(kept | {"layout": layout | {"prompts_per_step": 16}}))
    assert train(phantom, directory) == 2
    assert "laid out as" in (message := capsys.readouterr().err) and message.count("\n") == 1
    assert [row["step"] for row in metrics(directory)] == [1, 2, 3, 4]  # nothing was touched


def test_what_a_full_disk_keeps_from_being_written_is_named_with_its_step(tmp_path):
    watchdog = Watchdog(tmp_path, process=0, stall_seconds=0)
    skipped = SkippedSteps(tmp_path, limit=9, most_failed=2)
    metrics = {"skipped": 1, "loss": np.nan, "grad_norm": 1.0, "failed_rows": 0}
    result = StepResult(metrics, [{"id": "1"}], {"tokens": np.random.default_rng(0).random(5000)})
    with file_size_limit(10):
        for write, words in (
            (lambda: watchdog.beat(7), "the heartbeat of step 7"),
            (lambda: skipped.note(7, result), "the skipped step 7"),
        ):
            with pytest.raises(RunStopped, match=f"{words} could not be written to .* same command again") as stop:
                write()
            assert stop.value.code == SAVE_FAILED and "\n" not in str(stop.value)
    skipped.note(7, result)
    watchdog.beat(7)


def test_a_sample_keeps_its_answer_beside_the_reward_of_that_name(undisturbed):
    with open(undisturbed / "samples.jsonl") as lines:
        rows = [json.loads(line) for line in lines]
    assert all(row["parsed_answer"] == parse_completion(row["completion"]).answer for row in rows)
    assert any(row["parsed_answer"] for row in rows)
    rewards = {name for name in rows[0] if name.startswith("reward/")}
    assert rewards == {f"reward/{name}" for name in ("answer", "format", "visual_fidelity", "provenance")}
    assert all(row["reward"] == pytest.approx(sum(row[name] for name in rewards), abs=1e-5) for row in rows)
