"""Held-out questions with different numbers of pictures, all of which the judge looks at."""

import json

import numpy as np
import pytest
from PIL import Image

from reflex_jax.cli import main
from reflex_jax.evaluation.generate import ANSWER_KEYS

pytestmark = pytest.mark.slow  # models, a sampler and the judge are compiled


@pytest.mark.parametrize("probe", ["real", "other_patient"])
def test_the_judge_sees_all_pictures_of_each_question(tmp_path, repository, capsys, probe):
    rng = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (112, 112), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    pictures = [["0.png"], ["1.png", "2.png"], ["3.png", "4.png", "5.png"], ["2.png"]]
    rows = [{"question": "Is there a cyst?", "answer": "yes", "images": names} for names in pictures]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [
        "data.source=jsonl", f"data.root={tmp_path}", f"data.cache={tmp_path / 'cache'}", "judge.picture=mean",
        "data.phases=[{answer_type: closed}]", "data.max_prompt_tokens=512", "rollout.max_new_tokens=24",
        "training.evaluation_questions=0",
    ]  # fmt: skip
    policy = repository / "reflex_jax" / "assets" / "phantom" / "policy"
    command = ["evaluate", str(policy), *settings, "--config", str(repository / "configs" / "phantom.yaml")]
    assert main([*command, "--to", str(tmp_path / "out"), "--probe", probe]) == 0, capsys.readouterr().err
    (answers,) = (tmp_path / "out").glob("answers*.jsonl")
    found = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(found) == 4 and all(set(ANSWER_KEYS) <= row.keys() for row in found)
    assert any("visual_fidelity" in name for row in found for name in row["eval"])
