"""The supervised phase through the command line: taken up bit for bit, exported, kept apart from runs of GRPO."""

import os

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from reflex_jax.cli import main
from reflex_jax.config_reader import load_config
from reflex_jax.run.checkpoint import RunCheckpoints
from reflex_jax.sharding import make_mesh
from reflex_jax.step.models import load_models, load_params
from reflex_jax.stops import PREEMPTED
from reflex_jax.training.objectives import POLICY_FOLDER
from reflex_jax.training.trainer import SupervisedTrainer
from tests.training.test_faults import cut_back, metrics, saved, sigterm_in

pytestmark = pytest.mark.usefixtures("programs_once")

STEPS = 3
QUICK = [
    f"training.steps={STEPS}", "training.save_every=1", "training.keep_checkpoints=9", "training.evaluate_every=0",
    "sft.batch_size=8", "data.size=32", "rollout.max_new_tokens=44", "logging.progress=false", "logging.tensorboard=false",
    "optimizer.schedule=constant",
]  # fmt: skip


@pytest.fixture(scope="module")
def phantom(repository) -> str:
    return str(repository / "configs" / "phantom.yaml")


def imitate(phantom: str, directory, *overrides: str) -> int:
    """Runs the command line; returns its exit code."""
    return main(["sft", phantom, *QUICK, f"run.dir={directory}", *overrides])


def tensors(directory) -> dict[str, bytes]:
    return {name: t.tobytes() for file in directory.glob("*.safetensors") for name, t in load_file(file).items()}


@pytest.fixture(scope="module")
def undisturbed(phantom, tmp_path_factory):
    """A run that nothing disturbed, all checkpoints kept."""
    directory = tmp_path_factory.mktemp("supervised") / "run"
    os.environ.setdefault("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    assert imitate(phantom, directory) == 0
    return directory


def test_imitation_lowers_its_loss_and_asks_no_judge(undisturbed):
    rows = metrics(undisturbed)
    assert [row["step"] for row in rows] == [1, 2, 3] and {row["phase"] for row in rows} == {"supervised"}
    assert all(row["skipped"] == 0 and row["tokens"] > 8 for row in rows)
    checkpoints = RunCheckpoints(undisturbed, keep=9, is_owner=False)
    facts = checkpoints.read_facts(STEPS)
    checkpoints.close()
    assert facts["objective"] == "supervised" and "judge" not in facts
    assert facts["layout"] == {"phases": [["supervised", STEPS]], "prompts_per_step": 8}


def test_an_interrupted_supervised_run_ends_with_the_same_bytes(undisturbed, phantom, tmp_path, capsys):
    with sigterm_in(SupervisedTrainer, 2):
        assert imitate(phantom, tmp_path / "run") == PREEMPTED
    assert "SIGTERM after step 2" in capsys.readouterr().err and not (tmp_path / "run" / POLICY_FOLDER).exists()
    assert imitate(phantom, tmp_path / "run") == 0
    assert metrics(tmp_path / "run") == metrics(undisturbed)
    for got, expected in zip(saved(tmp_path / "run", STEPS), saved(undisturbed, STEPS), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert tensors(tmp_path / "run" / POLICY_FOLDER) == tensors(undisturbed / POLICY_FOLDER)
    # the same policy by the other way out
    assert main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "out"), "--dtype", "float32"]) == 0
    assert tensors(tmp_path / "out") == tensors(undisturbed / POLICY_FOLDER)
    # complete: nothing is done again; longer: its policy is replaced
    capsys.readouterr()
    assert imitate(phantom, tmp_path / "run") == 0 and "Nothing left to do" in capsys.readouterr().out
    shorter = tensors(undisturbed / POLICY_FOLDER)
    assert imitate(phantom, tmp_path / "run", "training.steps=4", "memory.microbatch_prompts=8") == 0
    assert [row["step"] for row in metrics(tmp_path / "run")] == [1, 2, 3, 4]
    assert tensors(tmp_path / "run" / POLICY_FOLDER) != shorter
    assert imitate(phantom, tmp_path / "run") == 2 and "laid out for 4 steps" in capsys.readouterr().err


def test_the_policy_of_a_shorter_run_is_gone_before_more_steps_are_done(undisturbed, phantom, tmp_path, monkeypatch):
    """Else one that is killed between its last checkpoint and its policy would keep it, and pass for complete."""
    directory = cut_back(undisturbed, tmp_path / "run", STEPS)
    monkeypatch.setattr(SupervisedTrainer, "run_step", lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        imitate(phantom, directory, "training.steps=4")
    assert not (directory / POLICY_FOLDER).exists()


@pytest.mark.slow  # the step itself is held to meshes and microbatches in tests/step/test_imitate.py
def test_a_supervised_run_continues_on_another_mesh_in_microbatches(undisturbed, phantom, tmp_path):
    directory = cut_back(undisturbed, tmp_path / "run", 1)
    assert (
        imitate(phantom, directory, "mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2", "memory.microbatch_prompts=4") == 0
    )
    for got, expected in zip(metrics(directory), metrics(undisturbed), strict=True):
        assert got.keys() == expected.keys()
        for name in ("loss", "log_prob_per_token", "grad_norm"):
            np.testing.assert_allclose(got[name], expected[name], rtol=1e-4, err_msg=name)


def test_neither_phase_goes_on_with_a_run_of_the_other(undisturbed, phantom, tmp_path, capsys):
    directory = cut_back(undisturbed, tmp_path / "run", STEPS)
    assert main(["train", phantom, *QUICK, f"run.dir={directory}", "grpo.prompts_per_step=8"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert main(["train", phantom, *QUICK, f"run.dir={directory}"]) == 2
    message = capsys.readouterr().err
    assert "is a run of `reflex sft`, which `reflex train` does not continue" in message and message.count("\n") == 1


def test_a_microbatch_must_divide_the_batch_of_the_phase_that_runs(phantom, tmp_path, capsys):
    assert imitate(phantom, tmp_path / "run", "sft.batch_size=24", "memory.microbatch_prompts=16") == 2
    message = capsys.readouterr().err
    assert "memory.microbatch_prompts" in message and "24 prompts" in message and "sft.batch_size" in message
    assert (
        load_config(phantom, ["memory.microbatch_prompts=12"]).memory.microbatch_prompts == 12
    )  # 32 is another phase's


def test_training_starts_from_the_policy_that_imitation_left(undisturbed, phantom):
    """As `train` reads it, on its mesh."""
    config = load_config(phantom, [f"policy.path={undisturbed / POLICY_FOLDER}", "mesh.fsdp=4"])
    params = load_params(load_models(config, make_mesh(config.mesh), with_judge=False))
    checkpoint = saved(undisturbed, STEPS)
    for leaf in jax.tree.leaves(params):
        assert any(leaf.shape == array.shape and np.array_equal(leaf, array) for array in checkpoint)
