"""A training run needs none of the packages that only convert weights or serve as oracles, and leaves torch alone."""

import os
import subprocess
import sys

PROGRAM = """
import sys
for name in ("torch", "torchvision", "open_clip", "timm", "tensorflow"):
    sys.modules[name] = None  # importing it raises ImportError
from reflex_jax.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_training_imports_no_torch_and_no_tensorflow(repository, tmp_path):
    command = [
        sys.executable, "-c", PROGRAM, "train", str(repository / "configs" / "phantom.yaml"), f"run.dir={tmp_path / 'run'}",
        "training.steps=1", "data.phases=[{answer_type: any}]",
        "training.evaluate_every=0", "grpo.prompts_per_step=2", "grpo.group_size=2",
        "rollout.max_new_tokens=4", "data.size=32",
    ]  # fmt: skip
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "run" / "metrics.jsonl").exists() and (tmp_path / "run" / "samples.jsonl").exists()


LOOK = """
import sys
from reflex_jax import cli
cli.main = lambda: 7
from importlib.metadata import entry_points
(command,) = entry_points(group="console_scripts", name="reflex")
assert command.load()() == 7
import reflex_jax.text.tokenizer
assert "torch" not in sys.modules  # neither imported nor hidden: scipy looks there
from scipy.stats import false_discovery_control
false_discovery_control([0.1, 0.2])
import torch
"""


def test_commands_leave_an_installed_torch_alone(repository):
    result = subprocess.run(
        [sys.executable, "-c", LOOK], capture_output=True, text=True, cwd=repository, check=False,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
