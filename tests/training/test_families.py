"""A tiny policy of each family through the commands: trained, exported, loaded by transformers."""

import json

import pytest

from reflex_jax.cli import main
from reflex_jax.models.qwen_config import MODEL_TYPES
from tests.parity import qwen_reference as reference
from tests.tiny_directories import write_tiny_policy

QUICK = [
    "training.steps=2", "training.evaluate_every=0", "grpo.prompts_per_step=8", "grpo.group_size=2",
    "rollout.max_new_tokens=6", "data.size=64", "logging.progress=false",
    "optimizer.learning_rate=1e-3", "grpo.kl_coefficient=0.1",
]  # fmt: skip


@pytest.mark.slow  # compiles a step and its sampling for each family
@pytest.mark.parametrize("family", MODEL_TYPES)
def test_a_policy_of_each_family_is_trained_exported_and_loaded_by_transformers(family, repository, tmp_path, capsys):
    policy = write_tiny_policy(tmp_path / "policy", family=family)
    run, out = tmp_path / "run", tmp_path / "out"
    overrides = [f"policy.path={policy}", f"run.dir={run}", *QUICK]
    assert main(["train", str(repository / "configs" / "phantom.yaml"), *overrides]) == 0, capsys.readouterr().err
    assert main(["export", str(run), "--to", str(out)]) == 0, capsys.readouterr().err
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len([step for step in steps if step.get("grad_norm", 0) >= 0]) >= 2
    _, report = type(reference.load_torch(out)).from_pretrained(out, output_loading_info=True)
    assert not any(report.values()), report
