"""Runs of adapters through the command line: what they keep, how they are taken up, and the two ways out."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.cli import main
from reflex_jax.models.qwen_vl import read_qwen_config
from reflex_jax.run.checkpoint import RunCheckpoints
from reflex_jax.training.objectives import POLICY_FOLDER
from tests.training.test_faults import cut_back, metrics, saved

pytestmark = pytest.mark.usefixtures("programs_once")

RANK, ALPHA, STEPS = 2, 8, 2
QUICK = [
    f"training.steps={STEPS}", "training.save_every=1", "training.keep_checkpoints=9", "training.evaluate_every=0",
    "sft.batch_size=8", "data.size=32", "rollout.max_new_tokens=44", "logging.progress=false", "logging.tensorboard=false",
    "optimizer.schedule=constant", "optimizer.learning_rate=1e-2", f"policy.lora.rank={RANK}", f"policy.lora.alpha={ALPHA}",
    "policy.lora.targets=layers/(q|v|up)",
]  # fmt: skip


def imitate(repository, directory, *overrides: str) -> int:
    """Runs the command line; returns its exit code."""
    return main(["sft", str(repository / "configs" / "phantom.yaml"), *QUICK, f"run.dir={directory}", *overrides])


def tensors(directory) -> dict[str, np.ndarray]:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


def bytes_of(directory) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in tensors(directory).items()}


@pytest.fixture(scope="module")
def run(repository, tmp_path_factory):
    """Two steps of the supervised phase."""
    directory = tmp_path_factory.mktemp("lora") / "run"
    assert imitate(repository, directory) == 0
    return directory


@pytest.fixture(scope="module")
def adapter(run, tmp_path_factory):
    """What the run learnt, as peft has it."""
    directory = tmp_path_factory.mktemp("exported") / "adapter"
    assert main(["export", str(run), "--to", str(directory), "--layout", "peft"]) == 0
    return directory


def test_a_checkpoint_holds_adapters_and_their_moments_alone(run):
    arrays = saved(run, STEPS)
    adapters = sum(leaf.size for leaf in arrays if leaf.ndim) / 3  # A and B, and two moments of each
    text = read_qwen_config(resolve_checkpoint("phantom", "policy")).text
    keys = text.key_heads * text.head_width
    sides = (text.width + text.width) + (text.width + keys) + (text.width + text.hidden)  # of q, v and up: in + out
    assert adapters == text.layers * RANK * sides
    size = sum(path.stat().st_size for path in (run / "checkpoints" / str(STEPS)).rglob("*") if path.is_file())
    weights = sum(path.stat().st_size for path in resolve_checkpoint("phantom", "policy").glob("*.safetensors"))
    # of numbers; what orbax says of its own is more, and a state of the whole policy is six times its bfloat16 weights
    assert 3 * 4 * adapters < 100_000 and size < weights / 4


def test_an_interrupted_run_of_adapters_ends_with_the_same_bytes(run, repository, tmp_path):
    directory = cut_back(run, tmp_path / "run", 1)
    shutil.rmtree(directory / POLICY_FOLDER)
    assert imitate(repository, directory) == 0
    assert metrics(directory) == metrics(run)
    for got, expected in zip(saved(directory, STEPS), saved(run, STEPS), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert bytes_of(directory / POLICY_FOLDER) == bytes_of(run / POLICY_FOLDER)


def test_an_export_adds_adapters_to_their_kernels_and_leaves_the_rest(run, adapter, tmp_path):
    assert main(["export", str(run), "--to", str(tmp_path / "merged"), "--dtype", "float32"]) == 0
    merged, base, pairs = (
        tensors(path) for path in (tmp_path / "merged", resolve_checkpoint("phantom", "policy"), adapter)
    )
    assert bytes_of(tmp_path / "merged") == bytes_of(run / POLICY_FOLDER)  # the other way out
    found = set()
    for name, tensor in pairs.items():
        if "lora_B" in name:
            found.add(
                hub := name.removeprefix("base_model.model.").replace("language_model.", "").replace("lora_B.", "")
            )
            change = ALPHA / RANK * tensor @ pairs[name.replace("lora_B", "lora_A")]
            np.testing.assert_allclose(merged[hub], base[hub].astype(np.float32) + change, rtol=1e-5, atol=1e-6)
            assert np.abs(change).max() > 1e-3
    assert {name.split(".")[-2] for name in found} == {"q_proj", "v_proj", "up_proj"}
    for name in base.keys() - found:
        np.testing.assert_array_equal(merged[name], base[name].astype(np.float32))
    written = json.loads((adapter / "adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"], written["base_model_name_or_path"]) == (RANK, ALPHA, "phantom")


@pytest.mark.slow  # two more runs
def test_a_run_starts_from_an_adapter_and_knows_it_by_content(run, adapter, repository, tmp_path, capsys):
    directory, source = tmp_path / "run", tmp_path / "adapter"
    shutil.copytree(adapter, source)
    quick = [f"policy.lora.path={source}", "training.steps=1"]
    assert imitate(repository, directory, *quick) == 0
    assert main(["export", str(directory), "--to", str(tmp_path / "out"), "--layout", "peft"]) == 0
    before, after = tensors(adapter), tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    # Adam's first step is the learning rate at most, and its decay (0.01 of the rate) of each number
    assert 1e-4 < max(np.abs(after[name] - before[name]).max() for name in before) < 0.0101 + 1e-4
    assert max(np.abs(tensor).max() for tensor in before.values()) > 0.05
    checkpoints = RunCheckpoints(directory, keep=9, is_owner=False)
    assert checkpoints.read_facts(1)["adapter"].startswith("sha256:")
    checkpoints.close()
    shutil.move(source, tmp_path / "moved")
    content = bytearray((tmp_path / "moved" / "adapter_model.safetensors").read_bytes())
    content[-3] ^= 1
    (tmp_path / "moved" / "adapter_model.safetensors").write_bytes(content)
    quick[0] = f"policy.lora.path={tmp_path / 'moved'}"
    assert imitate(repository, directory, *quick) == 2
    assert "policy.lora.path holds other weights" in capsys.readouterr().err


def test_the_layout_of_an_export_is_refused_where_it_does_not_fit(run, tmp_path, capsys):
    assert main(["export", str(run), "--to", str(tmp_path / "out"), "--layout", "gguf"]) == 2
    assert "--layout: expected one of merged, peft; got 'gguf'" in capsys.readouterr().err
    assert main(["export", str(run), "policy.lora.rank=0", "--to", str(tmp_path / "out"), "--layout", "peft"]) == 2
    assert "--layout peft: expected a run with adapters" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow  # compiles the sampler for the adapters and for what they were merged into
def test_adapters_are_evaluated_as_what_they_are_merged_into(run, adapter, repository, tmp_path):
    from reflex_jax.evaluation.evaluate import evaluate_run
    from reflex_jax.run.directory import load_run_config

    settings = ["training.evaluation_questions=16", "rollout.max_new_tokens=24"]
    learnt = evaluate_run(load_run_config(run, settings))
    start = imitate(repository, tmp_path / "next", f"policy.lora.path={adapter}", "training.steps=1")
    assert start == 0 and evaluate_run(load_run_config(tmp_path / "next", settings), initial=True) == learnt
    merged = [f"policy.path={run / POLICY_FOLDER}", "policy.lora.rank=0", "training.steps=1"]
    assert imitate(repository, tmp_path / "merged", *merged) == 0
    assert evaluate_run(load_run_config(tmp_path / "merged", settings), initial=True) == pytest.approx(learnt, abs=1e-4)
