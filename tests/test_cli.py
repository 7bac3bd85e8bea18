"""The command line as a user meets it: what works says where to look, what is wrong says what to do and exits with 2."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.cli import main
from reflex_jax.config_reader import load_config, save_config
from reflex_jax.data.phantom import phantom_examples
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.run.checkpoint import RunCheckpoints
from reflex_jax.run.directory import load_run_config
from reflex_jax.sharding import make_mesh
from reflex_jax.step import models, program
from reflex_jax.step.shapes import named_shapes
from reflex_jax.training.metric_names import metric_names
from reflex_jax.training.objectives import Grpo

pytestmark = pytest.mark.usefixtures("programs_once")

QUICK = ["training.steps=2", "training.evaluate_every=0", "grpo.prompts_per_step=8", "grpo.group_size=2",
         "rollout.max_new_tokens=6", "data.size=64", "logging.progress=false"]  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Prepared data and compiled programs, shared by the tests of this file."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


def refused(capsys, *arguments: str) -> str:
    """Runs a command that must be refused; returns its message."""
    assert main(list(arguments)) == 2
    message = capsys.readouterr().err
    assert (
        message.startswith(f"reflex {arguments[0]}: " if len(arguments) > 1 else "reflex")
        and "Traceback" not in message
    )
    return message


@pytest.fixture
def phantom(repository) -> str:
    """Path of the phantom configuration."""
    return str(repository / "configs" / "phantom.yaml")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("grpo.group_sise=4", ["group_sise", "group_size"]),
        ("grpo.group_size=four", ["grpo.group_size", "'four'"]),
        ("grpo.group_size=1", ["grpo.group_size", ">= 2"]),
        ("mesh.fsdp=3", ["mesh", "3", "found 8"]),
        ("mesh.tensor=16", ["mesh", "16", "found 8"]),
        ("grpo.prompts_per_step=6", ["prompts_per_step", "8"]),
        ("policy.path=nowhere", ["policy.path", "nowhere"]),
        ("judge.path=nowhere", ["judge.path", "nowhere"]),
        ("data.max_prompt_tokens=8", ["data.max_prompt_tokens=8", "phantom-train"]),
        ("data.prompt=haiku", ["data.prompt", "haiku"]),
        ("data.split=holidays", ["holidays", "train"]),
        ("rollout.eos_ids=[999999]", ["rollout.eos_ids", "999999"]),
        ("judge.max_statement_tokens=65", ["judge.max_statement_tokens", "64", "65"]),
        ("training.best_metric=reward/totl", ["training.best_metric", "Did you mean 'reward/total'?", "judge/iou"]),
        ("training.best_metric=eval/greedy/accuracy", ["training.best_metric", "training.evaluate_every"]),
    ],
)
def test_a_wrong_setting_is_named(capsys, phantom, override, words):
    message = refused(capsys, "train", phantom, *QUICK, override)
    for word in words:
        assert word in message


def test_the_split_that_chooses_a_checkpoint_is_not_the_one_that_scores_it(capsys, phantom):
    settings = [
        "training.best_metric=eval/greedy/accuracy",
        "data.evaluation_split=validation",
        "training.evaluate_every=1",
    ]
    message = refused(capsys, "train", phantom, *QUICK, *settings)
    assert (
        "data.evaluation_split: 'validation' is also data.validation_split" in message and "Name two splits" in message
    )


def test_a_missing_tensor_and_a_misshaped_one_are_both_named(capsys, phantom, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(resolve_checkpoint("phantom", "policy"), broken)
    (weights,) = broken.glob("*.safetensors")
    tensors = load_file(weights)
    names = sorted(tensors)
    del tensors[names[0]]
    tensors[names[1]] = np.zeros((3, 5), np.float32)
    tensors["surplus.weight"] = np.zeros(2, np.float32)
    save_file(tensors, weights)
    message = refused(capsys, "train", phantom, *QUICK, f"policy.path={broken}")
    for word in (names[0], names[1], "surplus.weight", "3, 5"):
        assert word in message


def test_a_checkpoint_without_weights_is_named(capsys, phantom, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(resolve_checkpoint("phantom", "policy"), bare, ignore=shutil.ignore_patterns("*.safetensors"))
    assert "safetensors" in refused(capsys, "train", phantom, *QUICK, f"policy.path={bare}")


@pytest.fixture(scope="module")
def trained(repository, cache, tmp_path_factory):
    """A finished run of two steps; to be copied, not written into."""
    directory = tmp_path_factory.mktemp("trained") / "run"
    settings = [*QUICK, "optimizer.schedule=constant", f"run.dir={directory}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        assert main(["train", str(repository / "configs" / "phantom.yaml"), *settings]) == 0
    return directory


def vqa_rad_folder(tmp_path, images: dict[str, bytes], answer: str = "Yes") -> str:
    """A folder in VQA-RAD's layout, one closed and one open question for each image file."""
    root = tmp_path / "vqa"
    (root / "VQA_RAD Image Folder").mkdir(parents=True)
    rows = []
    for number, (name, content) in enumerate(images.items()):
        (root / "VQA_RAD Image Folder" / name).write_bytes(content)
        for kind in ("CLOSED", "OPEN"):
            rows.append({
                "qid": f"{number}{kind}", "phrase_type": "freeform", "image_name": name, "image_organ": "HEAD",
                "question": "Is this a scan?",
                "question_rephrase": "NULL", "question_type": "PRES", "answer": answer, "answer_type": kind,
            })  # fmt: skip
    (root / "VQA_RAD Dataset Public.json").write_text(json.dumps(rows))
    return str(root)


@pytest.mark.slow  # whole runs; each picture is held in tests/data/test_images.py and test_picture_fuzz.py
def test_odd_images_are_converted_or_refused_by_name_before_the_first_step(capsys, repository, tmp_path, data_root):
    config = str(repository / "configs" / "vqa_rad_tiny.yaml")
    odd = data_root / "odd-images"
    good = ["i_trns.png", "pil_sample_cmyk.jpg", "pil123p.png", "hopper_orientation_6.jpg"]
    bad = ["truncated_jpeg.jpg", "truncated_image.png"]
    root = vqa_rad_folder(tmp_path, {name: (odd / name).read_bytes() for name in [*good, *bad]})
    message = refused(capsys, "train", config, f"data.root={root}", *QUICK)
    assert all(name in message for name in bad) and not any(name in message for name in good)
    shutil.rmtree(root)
    root = vqa_rad_folder(tmp_path, {name: (odd / name).read_bytes() for name in good})
    assert main(["train", config, f"data.root={root}", *QUICK]) == 0


def test_a_question_without_an_answer_is_named(capsys, repository, tmp_path):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 64), (9, 9, 9)).save(picture)
    root = vqa_rad_folder(tmp_path, {"a.png": picture.read_bytes()}, answer=" ")
    message = refused(capsys, "train", str(repository / "configs" / "vqa_rad_tiny.yaml"), f"data.root={root}", *QUICK)
    assert "answer" in message and "0CLOSED" in message


def test_a_root_without_the_official_files_is_named(capsys, repository, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("vqa_rad", "slake"):
        message = refused(capsys, "train", str(repository / "configs" / f"{name}_tiny.yaml"), "data.root=empty", *QUICK)
        assert "json" in message


def test_training_again_continues_and_other_mathematics_is_refused(capsys, phantom, trained):
    quick = [*QUICK, "optimizer.schedule=constant"]
    shutil.copytree(trained, "out")
    assert main(["train", phantom, *quick, "run.dir=out", "training.steps=3"]) == 0
    assert "continuing after step 2" in capsys.readouterr().out
    with open("out/metrics.jsonl") as lines:
        rows = [json.loads(line) for line in lines]
    assert [(row["step"], row["phase"]) for row in rows] == [
        (1, "closed"),
        (2, "open"),
        (3, "open"),
    ]  # longer, not anew
    message = refused(capsys, "train", phantom, *quick, "run.dir=out")
    assert "closed 1, open 2 steps" in message and "at least 3; got 2" in message and message.count("\n") == 1
    timings = {name for name in rows[0] if name.startswith(("time/", "rows/"))} | {"tokens_per_second", "compilations"}
    written = {name for row in rows for name in row} - timings - {"step", "phase"}
    assert (
        "open/recall" not in rows[0] and "open/recall" in rows[1]
    )  # a step of closed questions says nothing of open ones
    config = load_config(phantom, quick)
    shapes = named_shapes(config, make_mesh(config.mesh))
    assert written == set(metric_names(Grpo(config), shapes, PromptSizes(64, 4), []))
    assert main(["train", phantom, *quick, "run.dir=out", "training.steps=3"]) == 0
    said = f"Nothing left to do, the run is complete: 3 steps, reward {rows[-1]['reward/total']:.2f}."
    assert said in capsys.readouterr().out
    message = refused(capsys, "train", phantom, *quick, "run.dir=out", "grpo.clip_low=0.3")
    assert "grpo.clip_low" in message and "0.2" in message and "0.3" in message


def test_a_schedule_that_ends_cannot_be_continued_past_its_end(capsys, phantom, trained):
    shutil.copytree(trained, "out")
    quick = [*QUICK, "optimizer.schedule=linear", "run.dir=out"]
    save_config(load_config(phantom, quick), Path("out/config.yaml"))  # as if it had been that of the two steps
    message = refused(capsys, "train", phantom, *quick, "training.steps=3")
    assert "training.steps" in message and "linear" in message and "2" in message


def test_a_run_directory_in_other_use_is_refused(capsys, phantom, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert "mine" in refused(capsys, "train", phantom, *QUICK, "run.dir=mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_evaluating_what_is_no_run_is_refused(capsys):
    assert "nowhere" in refused(capsys, "evaluate", "nowhere")


def test_evaluate_prints_greedy_and_sampled_scores_also_without_seeing(capsys, trained, monkeypatch):
    """It reads weights: neither the moments of a checkpoint, nor a second copy for a reference."""
    shutil.copytree(trained, "out")
    monkeypatch.setattr(RunCheckpoints, "restore", lambda *_: pytest.fail("the whole state was restored"))
    monkeypatch.setattr(program, "_start", lambda *_, **settings: pytest.fail("moments or a reference were made"))
    assert main(["evaluate", "out", "training.evaluation_questions=8"]) == 0
    seeing = capsys.readouterr().out
    printed = {line.split()[0] for line in seeing.splitlines() if line.startswith("eval/")}
    config = load_run_config("out", ["training.evaluation_questions=8"])
    shapes = named_shapes(config, make_mesh(config.mesh))
    names = metric_names(Grpo(config), shapes, PromptSizes(64, 4), phantom_examples("test", 64, 0))
    assert printed == {name for name in names if name.startswith("eval/")}
    assert "eval/greedy/accuracy" in seeing and "eval/sampled/reward/total" in seeing
    assert main(["evaluate", "out", "training.evaluation_questions=8", "--blank-image"]) == 0


def test_a_step_is_evaluated_without_rewards(capsys, trained, monkeypatch):
    """Neither judge nor samples: greedy answers alone, in a folder of the run that is named after split and step."""
    shutil.copytree(trained, "out")
    monkeypatch.setattr(models, "load_judge", lambda *_, **settings: pytest.fail("a judge was loaded"))
    assert main(["evaluate", "out", "training.evaluation_questions=8", "--no-rewards", "--step", "2"]) == 0
    printed = capsys.readouterr().out
    assert "eval/greedy/reward/answer" in printed and "sampled" not in printed and "visual_fidelity" not in printed
    folder = Path("out/evaluation/test-step-2")
    names = {"answers.jsonl", "scores.jsonl", "manifest.json", "table.md", "table.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert json.loads((folder / "manifest.json").read_text())["about"]["step"] == 2
    assert "yes_no" in printed and "constant" in printed and "question_only" in printed
    message = refused(capsys, "evaluate", "out", "--step", "7")
    assert "no checkpoint of step 7" in message and message.count("\n") == 1


# --- arguments


WRONG_ARGUMENTS = [
    ([], "command"),
    (["trian"], "trian"),
    (["train"], "config"),
    (["train", "c.yaml", "--steps", "4"], "--steps"),
    (["sft", "nowhere.yaml"], "nowhere.yaml"),
    (["plan", "."], "'.'"),
    (["evaluate", "file"], "'file'"),
    (["evaluate", "file/x"], "'file/x'"),
    (["evaluate", ""], "''"),
    (["evaluate", "x" * 400], "xxx"),
    (["evaluate", "run", "--split"], "--split"),
    (["evaluate", "run", "--seed", "-1"], "at least 0"),
    (["compare", "a", "b", "--seed", "-1"], "at least 0"),
    (["table", "sets", "a", "--seed", "-1"], "at least 0"),
    (["evaluate", "run", "--split", ""], "data.evaluation_split"),
    (["evaluate", "run", "run.dir=elsewhere"], "run.dir=elsewhere"),
    (["evaluate", "run", "--blank-image", "grpo.nosuch=1"], "grpo.nosuch"),
    (["export", "run"], "--to"),
    (["export", "run", "--t", "x"], "--to"),
    (["export", "run", "--to", ""], "--to"),
    (["export", "run", "--to", "x", "nonsense"], "'nonsense'"),
    (["export", "run", "--to", "x", "--step", "1.5"], "'1.5'"),
    (["export", "run", "--to", "x", "--step", "newest"], "'newest'"),
    (["export", "run", "--to", "x", "--dtype", "int8"], "int8"),
    *[(["export", "run", "--to", "x", "--shard-size", s], f"'{s}'") for s in ("nan", "inf", "-1", "0", "1e-12", "5GB")],
]


@pytest.mark.parametrize(("arguments", "word"), WRONG_ARGUMENTS)
def test_wrong_arguments_are_refused_in_one_line(capsys, tmp_path, arguments, word):
    (tmp_path / "file").write_text("no run")
    (tmp_path / "run").mkdir()
    save_config(load_config(), tmp_path / "run" / "config.yaml")
    message = refused(capsys, *arguments)
    assert word in message and message.count("\n") == 1


def test_help_is_no_error(capsys):
    assert main(["export", "--help"]) == 0
    assert "--shard-size" in capsys.readouterr().out


ODD_NAMES = [
    "1.10",
    "1.1",
    "007",
    "7",
    "2024_01_02",
    "1e5",
    "s/exp #2",
    "s/exp",
    "a: b",
    "[x]",
    "@x",
    "${x}",
    "x ",
    '"x"',
    "null",
]


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_a_run_directory_is_the_one_that_was_named(capsys, tmp_path, command):
    for name in ODD_NAMES:
        (tmp_path / name).mkdir(parents=True)
        save_config(load_config(None, [f"run.name=trained as {name}"]), tmp_path / name / "config.yaml")
    for name in ODD_NAMES:
        config = load_run_config(name, [])
        assert (config.run.name, str(config.run.directory)) == (f"trained as {name}", name)
        if command == "export":
            assert f"{tmp_path / name / 'checkpoints'};" in refused(capsys, "export", name, "--to", "target")


def test_a_home_folder_is_found_by_every_argument(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "run").mkdir(parents=True)
    save_config(load_config(), tmp_path / "home" / "run" / "config.yaml")
    assert load_run_config("~/run", []).run.directory == tmp_path / "home" / "run"
    (tmp_path / "home" / "c.yaml").write_text("grpo: {group_sise: 4}")
    assert "group_sise" in refused(capsys, "train", "~/c.yaml")
    assert f"'{tmp_path}/home/run' is in use" in refused(capsys, "export", "~/run", "--to", "~/run")


@pytest.mark.parametrize("length", [0, 40, -300, -5])
def test_a_run_whose_settings_were_cut_off_is_refused(capsys, phantom, tmp_path, length):
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "config.yaml"
    save_config(load_config(phantom), path)
    path.write_bytes(path.read_bytes()[:length])
    for arguments in (["evaluate", "run"], ["export", "run", "--to", "x"]):
        message = refused(capsys, *arguments)
        assert "config.yaml" in message and "cut off" in message and message.count("\n") == 1


# --- the machine


def test_a_missing_accelerator_and_an_unwritable_cache_take_a_line_each(repository, phantom, tmp_path):
    (tmp_path / "file").touch()
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cuda",
        "XDG_CACHE_HOME": str(tmp_path / "file"),
        "PYTHONPATH": str(repository),
    }
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    result = subprocess.run(
        [sys.executable, "-m", "reflex_jax.cli", "train", phantom],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    cache, device = result.stderr.strip().splitlines()
    assert result.returncode == 2
    assert "compiled programs are not kept" in cache and str(tmp_path / "file") in cache
    assert device.startswith("reflex train: JAX_PLATFORMS") and "'cuda'" in device


def test_fused_attention_is_refused_where_no_kernel_is(capsys, phantom):
    fused = ["memory.attention=fused", "policy.dtype=bfloat16"]
    for command in ("train", "plan"):
        message = refused(capsys, command, phantom, *QUICK, *fused)
        assert "memory.attention" in message and "cpu" in message and message.count("\n") == 1


def test_a_cache_that_cannot_be_written_is_named(capsys, repository, tmp_path):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 64), (9, 9, 9)).save(picture)
    root = vqa_rad_folder(tmp_path, {"a.png": picture.read_bytes()})
    config = str(repository / "configs" / "vqa_rad_tiny.yaml")
    message = refused(capsys, "train", config, f"data.root={root}", f"data.cache={picture}", *QUICK)
    assert "data.cache" in message and str(picture) in message and message.count("\n") == 1


def test_commands_that_touch_no_device_say_nothing_of_what_is_not_installed(capsys, monkeypatch):
    """transformers tells whoever imports it that torch is not there, unless it was told to be quiet before."""
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)
    assert "nowhere" in refused(capsys, "compare", "nowhere", "elsewhere")
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "error"
