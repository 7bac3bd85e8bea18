"""A training run needs none of the packages that only convert weights or serve as oracles, and leaves torch alone."""

import importlib.util
import os
import subprocess
import sys
from importlib.metadata import entry_points

from reflex_jax import cli

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


def test_commands_leave_an_installed_torch_alone(monkeypatch):
    """As a command they do; called from a notebook, which may want it, they do not hide it."""
    monkeypatch.setitem(sys.modules, "torch", sys)  # puts back afterwards what is there now
    seen = []
    monkeypatch.setattr(cli, "main", lambda: seen.append(sys.modules["torch"]) or 7)
    (command,) = entry_points(group="console_scripts", name="reflex")
    assert command.load()() == 7 and seen == [None]
    assert importlib.util.find_spec("torch") is None  # what transformers asks before it imports one
