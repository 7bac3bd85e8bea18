"""`reflex export`: a run's policy as a directory that transformers loads; every refusal leaves nothing behind."""

import json
import resource
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import reflex_jax as rx
from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.cli import main
from reflex_jax.config_reader import load_config, save_config
from reflex_jax.run.checkpoint import RunCheckpoints
from reflex_jax.run.directory import load_run_config
from reflex_jax.run.ownership import sole_owner
from reflex_jax.sharding import make_mesh
from reflex_jax.step.models import load_models, load_params
from reflex_jax.step.program import build_program
from tests.parity import qwen_reference as reference

pytestmark = pytest.mark.usefixtures("programs_once")

FIXED = "visual."  # names of what policy.trainable=language leaves as it was


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A link to the policy the run starts from, and one to its judge."""
    folder = tmp_path_factory.mktemp("start")
    for kind in ("policy", "judge"):
        (folder / kind).symlink_to(resolve_checkpoint("phantom", kind))
    return folder


@pytest.fixture(scope="module")
def run(repository, start, tmp_path_factory):
    """Two steps of the phantom recipe, a checkpoint after each."""
    directory = tmp_path_factory.mktemp("run") / "run"
    arguments = [
        "training.steps=2", "training.save_every=1", "training.evaluate_every=0", "grpo.prompts_per_step=8",
        "grpo.group_size=2", "rollout.max_new_tokens=6", "data.size=64", "logging.progress=false",
        "policy.trainable=language", f"policy.path={start}/policy", f"judge.path={start}/judge",
        # six tokens earn no reward, so it is the decay that moves the weights: by a tenth a step
        "optimizer.learning_rate=0.01", "optimizer.weight_decay=10", "optimizer.schedule=constant",
        "optimizer.warmup_steps=0",
    ]  # fmt: skip
    assert main(["train", str(repository / "configs" / "phantom.yaml"), *arguments, f"run.dir={directory}"]) == 0
    return directory


def refused(capsys, *arguments) -> str:
    """Runs an export that must be refused; returns its message."""
    assert main(["export", *map(str, arguments)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("reflex export: ") and len(message.splitlines()) == 1
    return message


def weights(directory) -> dict[str, np.ndarray]:
    return {name: t for file in directory.glob("*.safetensors") for name, t in load_file(file).items()}


def test_an_export_is_the_checkpoint_of_the_run(run, tmp_path):
    assert main(["export", str(run), "--to", str(tmp_path / "out"), "--dtype", "float32"]) == 0
    config = load_run_config(run, [])
    models = load_models(config, make_mesh(config.mesh))
    state, _ = build_program(config, models.shapes).start(load_params(models), None, with_reference=False)
    checkpoints = RunCheckpoints(run, keep=2)
    state, _ = checkpoints.restore(state)
    checkpoints.close()
    exported = rx.load_policy(tmp_path / "out").params
    for name, part in state.params.items():
        jax.tree.map(np.testing.assert_array_equal, exported[name], part)


def test_transformers_computes_the_logits_of_an_export(run, tmp_path):
    assert main(["export", str(run), "--to", str(tmp_path / "out"), "--dtype", "float32"]) == 0
    policy = rx.load_policy(tmp_path / "out")
    config = policy.config
    image = [config.vision_start_token_id, *[config.image_token_id] * 16, config.vision_end_token_id]
    inputs = {
        "input_ids": np.array([[5, 6, *image, 7, 8, 9], [11, 12, 13, *image, 14, 15]]),
        "attention_mask": np.ones((2, 23), np.int64),
        "pixel_values": np.random.default_rng(0).normal(size=(128, 1176)).astype(np.float32),
        "image_grid_thw": np.array([(1, 8, 8), (1, 4, 16)]),
    }
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    is_image = (tensors["input_ids"] == config.image_token_id).int()
    with torch.no_grad():
        expected = reference.load_torch(tmp_path / "out")(**tensors, mm_token_type_ids=is_image).logits.numpy()
    assert reference.relative_error(rx.policy_logits(policy, **inputs), expected) < 1e-4
    before = rx.policy_logits(rx.load_policy("phantom"), **inputs)
    assert reference.relative_error(before, expected) > 1e-2  # it is the trained policy that is compared


def test_by_default_tensors_have_the_dtype_the_run_started_from_and_fixed_ones_their_bytes(run, tmp_path):
    assert main(["export", str(run), "--to", str(tmp_path / "out"), "--shard-size", "0.001"]) == 0
    start, out = resolve_checkpoint("phantom", "policy"), tmp_path / "out"
    before, after = weights(start), weights(out)
    assert {n: (t.shape, t.dtype) for n, t in before.items()} == {n: (t.shape, t.dtype) for n, t in after.items()}
    same = {name for name in before if before[name].tobytes() == after[name].tobytes()}
    assert {name for name in before if name.startswith(FIXED)} <= same
    assert not {name for name in before if "proj.weight" in name and not name.startswith(FIXED)} & same
    companions = {path.name for path in start.iterdir() if path.suffix != ".safetensors"}
    assert companions == {p.name for p in out.iterdir() if ".safetensors" not in p.name}
    assert all((start / name).read_bytes() == (out / name).read_bytes() for name in companions)
    assert len(list(out.glob("model-*-of-*.safetensors"))) == 3


def test_an_earlier_step_and_a_directory_that_is_empty(run, tmp_path):
    for step in (1, 2):
        (tmp_path / str(step)).mkdir()
        assert main(["export", str(run), "--to", str(tmp_path / str(step)), "--step", str(step)]) == 0
    name = "model.layers.0.mlp.up_proj.weight"
    assert weights(tmp_path / "1")[name].tobytes() != weights(tmp_path / "2")[name].tobytes()


def test_a_step_that_is_not_there_is_refused_with_those_that_are(capsys, run, tmp_path):
    assert "step 7" in (message := refused(capsys, run, "--to", tmp_path / "out", "--step", 7)) and "1, 2" in message
    assert not list(tmp_path.iterdir())


def test_what_is_no_run_and_a_run_without_a_checkpoint_are_refused(capsys, repository, tmp_path):
    message = refused(capsys, tmp_path / "nowhere", "--to", tmp_path / "out")
    assert "nowhere" in message and "config.yaml" in message
    (tmp_path / "young").mkdir()
    save_config(load_config(repository / "configs" / "phantom.yaml", []), tmp_path / "young" / "config.yaml")
    assert "no checkpoint" in refused(capsys, tmp_path / "young", "--to", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_directory_in_use_is_refused(capsys, run, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    assert "in use" in refused(capsys, run, "--to", tmp_path)
    assert "in use" in refused(capsys, run, "--to", tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("option", [("--dtype", "int3"), ("--shard-size", "0")])
def test_an_unknown_dtype_and_an_empty_shard_are_refused(capsys, run, tmp_path, option):
    message = refused(capsys, run, "--to", tmp_path / "out", *option)
    assert option[0] in message and option[1] in message
    assert not list(tmp_path.iterdir())


def test_a_disk_that_takes_no_more_leaves_nothing_behind(capsys, run, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))  # the weights have 2.9 MB
    try:
        message = refused(capsys, run, "--to", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path / "out") in message and "could not be written" in message
    assert not list(tmp_path.iterdir())
    assert main(["export", str(run), "--to", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "qwen2_5_vl"


def test_an_empty_folder_a_link_to_one_and_a_link_to_nothing_are_places_to_export_to(run, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    inode = (tmp_path / "empty").stat().st_ino
    assert main(["export", str(run), "--to", str(tmp_path / "link")]) == 0
    assert (tmp_path / "empty").stat().st_ino == inode  # it may be a mount point
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link"]
    assert rx.load_policy(tmp_path / "link").config == rx.load_policy("phantom").config
    (tmp_path / "later").symlink_to("volume/out")
    assert main(["export", str(run), "--to", str(tmp_path / "later")]) == 0
    assert rx.load_policy(tmp_path / "volume" / "out").config == rx.load_policy("phantom").config


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_read(capsys, run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "reflex_jax.run.export.restore_policy", lambda *_, **settings: pytest.fail("the weights were restored")
    )
    (tmp_path / "file").write_text("precious")
    assert "nothing can be written to" in refused(capsys, run, "--to", tmp_path / "file" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def repointed(start, tmp_path):
    """Points one of the links at a checkpoint with another byte in the middle, for a while."""
    links = {}

    def repoint(kind: str) -> None:
        links[start / kind] = (start / kind).readlink()
        shutil.copytree(start / kind, tmp_path / kind)
        (weights,) = (tmp_path / kind).glob("*.safetensors")
        content = bytearray(weights.read_bytes())
        content[len(content) // 3] ^= 1
        weights.write_bytes(content)
        (start / kind).unlink()
        (start / kind).symlink_to(tmp_path / kind)

    yield repoint
    for link, target in links.items():
        link.unlink()
        link.symlink_to(target)


def test_another_policy_or_judge_under_the_same_path_is_refused_everywhere(capsys, run, repointed, tmp_path):
    repointed("judge")
    assert main(["export", str(run), "--to", str(tmp_path / "out")]) == 0  # which needs no judge
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 2
    message = capsys.readouterr().err
    assert "cannot be evaluated: judge.path holds other weights" in message and message.count("\n") == 1
    repointed("policy")
    message = refused(capsys, run, "--to", tmp_path / "out2")
    assert "cannot be exported: policy.path holds other weights" in message and not (tmp_path / "out2").exists()
    assert main(["evaluate", str(run), "--initial"]) == 2
    assert "policy.path holds other weights" in (message := capsys.readouterr().err) and "judge.path" in message
    before = (run / "metrics.jsonl").read_bytes()
    assert main(["train", str(run / "config.yaml"), f"run.dir={run}"]) == 2
    message = capsys.readouterr().err
    assert "cannot be continued: policy.path" in message and "judge.path" in message and message.count("\n") == 1
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_run_that_is_only_read_is_not_disturbed(run, tmp_path):
    unfinished = run / "checkpoints" / "3.orbax-checkpoint-tmp"
    unfinished.mkdir()
    try:
        with sole_owner(run):
            assert main(["export", str(run), "--to", str(tmp_path / "out")]) == 0
        assert unfinished.is_dir()
    finally:
        unfinished.rmdir()
