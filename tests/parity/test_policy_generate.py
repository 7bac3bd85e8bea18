"""Greedy completions of a group equal those of transformers' generate(), token by token."""

from functools import partial

import jax
import numpy as np
import pytest

from reflex_jax.checkpoints.huggingface import load_policy_params
from reflex_jax.data.images import prompt_inputs_from_huggingface
from reflex_jax.models.qwen_vl import read_qwen_config
from reflex_jax.records import Draws
from reflex_jax.step.generate import generate
from reflex_jax.step.sampling import Sampling, Vocabulary
from tests.parity import qwen_reference as reference

STEPS = 24


@pytest.mark.parametrize(
    ("family", "is_tied"),
    [
        ("qwen2_5_vl", True),
        ("qwen2_5_vl", False),
        pytest.param("qwen2_vl", True, marks=pytest.mark.slow),
        ("qwen3_vl", False),
        pytest.param("smolvlm", False, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_greedy_tokens_are_those_of_transformers(tmp_path, family, is_tied):
    directory = reference.write_checkpoint(tmp_path, family=family, is_tied=is_tied, seed=5)
    model, config = reference.load_torch(directory), read_qwen_config(directory)
    inputs = reference.batch_of(config, padding="left", seed=7)
    free = _torch_generate(model, inputs, eos_ids=[reference.EOS])
    eos_ids = (reference.EOS, int(free[0, 9]), int(free[2, 15]))  # several, and some that do occur
    expected = _torch_generate(model, inputs, eos_ids=list(eos_ids))
    sample = jax.jit(
        partial(
            generate,
            config=config,
            vocabulary=Vocabulary(np.ones(config.text.vocabulary, bool), eos_ids, reference.PAD),
            sampling=Sampling(group_size=2, max_new_tokens=STEPS, temperature=0.0),
        )
    )
    rollout = sample(
        load_policy_params(directory, config),
        prompt_inputs_from_huggingface(**inputs, config=config),
        Draws(jax.random.key(0), np.arange(3)),
    )
    assert (expected == reference.PAD).any()  # some row did end early
    for place in range(2):
        np.testing.assert_array_equal(rollout.tokens[:, place, : expected.shape[1]], expected)
        is_end = np.isin(expected, eos_ids)
        lengths = np.where(is_end.any(1), is_end.argmax(1) + 1, STEPS)
        np.testing.assert_array_equal(rollout.mask[:, place].sum(-1), lengths)


def _torch_generate(model, inputs, *, eos_ids: list[int]) -> np.ndarray:
    tokens = model.generate(
        **reference.torch_inputs(inputs),
        max_new_tokens=STEPS,
        do_sample=False,
        eos_token_id=eos_ids,
        pad_token_id=reference.PAD,
    )
    return tokens[:, inputs["input_ids"].shape[1] :].numpy()
