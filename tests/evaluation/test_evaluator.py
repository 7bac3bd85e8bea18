"""Held-out questions in batches of their own size: every question once, with its own draws, whatever the batch."""

import dataclasses

import jax
import numpy as np
import pytest

from reflex_jax.config import ConfigError
from reflex_jax.config_reader import load_config
from reflex_jax.data.sources import load_examples
from reflex_jax.evaluation.validation import Evaluator, chosen_questions, evaluation_batch
from reflex_jax.records import Rollout
from reflex_jax.sharding import make_mesh
from reflex_jax.step.batch import measure_prompts
from reflex_jax.step.models import load_models, make_host_bridge
from reflex_jax.step.program import build_program

STRINGS = "rewards.components={answer: 1, format: 1}"  # no judge is asked
SETTINGS = [STRINGS, "grpo.group_size=2", "rollout.max_new_tokens=8", "data.size=16", "mesh.data=1", "mesh.fsdp=2"]


@pytest.mark.parametrize(
    ("questions", "overrides", "expected"),
    [
        (5, [], 6),  # no more than there are, as the two devices divide
        (100, [], 8),  # as many as a step has prompts
        (100, ["training.evaluation_batch=64"], 64),
        (5, ["training.evaluation_batch=3"], 4),
        (5, ["training.evaluation_batch=5", "memory.microbatch_prompts=4"], 8),
        (100, ["training.evaluation_batch=10", "memory.microbatch_prompts=3"], 12),
        (3, ["memory.rollout_prompts=4"], 4),  # no more than are sampled together
        (3, ["memory.rollout_prompts=3"], 6),  # 4, of which 3 are no part: all would be sampled together
    ],
)
def test_a_batch_holds_what_is_asked_for_and_what_devices_divide(questions, overrides, expected):
    config = load_config(None, [*SETTINGS, "grpo.prompts_per_step=8", *overrides])
    assert evaluation_batch(config, make_mesh(config.mesh, jax.devices()[:2]), questions) == expected


@pytest.mark.parametrize(("phases", "kept"), [
    ("[{options: true}]", [True]), ("[{options: false}, {options: false}]", [False]),
    ("[{options: true}, {options: false}]", [True, False]), ("[{answer_type: closed}]", [True, False]),
])  # fmt: skip
def test_a_run_on_questions_with_options_is_asked_those(phases, kept):
    config = load_config(
        "configs/phantom.yaml", [f"data.phases={phases}", "data.size=64", "training.evaluation_questions=0"]
    )
    examples = load_examples(config.data, "test", seed=0)
    chosen = chosen_questions(config, examples)
    assert chosen == [example for example in examples if (example.options is not None) in kept]
    with pytest.raises(ConfigError, match="all ask for questions with options, and none of the 1 held-out"):
        chosen_questions(
            load_config(None, ["data.phases=[{options: true}]"]), [e for e in examples if e.options is None][:1]
        )


def test_scores_do_not_depend_on_the_size_of_a_batch():
    """Answers that follow from the global number of a question and from nothing else; the last batch is filled up."""
    numbers, sizes = [], set()

    def metrics(size: int) -> dict[str, float]:
        config = load_config(
            "configs/phantom.yaml",
            [*SETTINGS, f"training.evaluation_batch={size}", "training.evaluation_questions=5"],
        )  # fmt: skip
        models = load_models(config, make_mesh(config.mesh, jax.devices()[:2]), with_judge=False)
        examples = load_examples(config.data, "test", seed=0)
        texts = [f"<think>{word}</think><answer>{word}</answer>" for word in ("yes", "no")]
        rows = [models.processor.tokenizer.encode(text, add_special_tokens=False) for text in texts]

        def answer(group: int, weights, prompts, draws) -> Rollout:
            ids = np.asarray(draws.prompt_ids)
            numbers.append(ids[ids < 5])
            sizes.add(len(ids))
            tokens = np.zeros((len(ids), group, max(map(len, rows))), np.int32)
            mask = np.zeros(tokens.shape, bool)
            for place, number in enumerate(ids):
                row = rows[number % 2]
                tokens[place, :, : len(row)], mask[place, :, : len(row)] = row, True
            rollout = Rollout(tokens=tokens, log_probs=np.zeros(tokens.shape, np.float32), mask=mask)
            return jax.device_put(rollout, models.shapes.rows(len(ids)).sharding)

        program = build_program(config, models.shapes)
        stand_in = {
            name: lambda *inputs, group=group: answer(group, *inputs) for name, group in (("sample", 2), ("greedy", 1))
        }
        program = dataclasses.replace(program, **stand_in)
        with_sizes = measure_prompts(config, models.processor, examples, with_judge=False)
        bridge = make_host_bridge(config, models)
        evaluator = Evaluator(config, models, program, bridge, examples, with_sizes)
        found = evaluator.run({}, None)
        bridge.close()
        return found

    small, large = metrics(2), metrics(64)
    assert sizes == {2, 6}
    np.testing.assert_array_equal(np.sort(np.concatenate(numbers)), np.repeat(np.arange(5), 4))
    assert small == pytest.approx(large, rel=1e-6) and 0 < small["eval/sampled/reward/answer"] < 1
