"""A policy for tests of evaluation that compiles nothing."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.data.prompts import load_processor
from reflex_jax.evaluation import evaluate
from reflex_jax.records import Rollout
from reflex_jax.sharding import make_mesh


@pytest.fixture(scope="module")
def stand_in():
    """A policy that answers by the number of a question and the place in its group; gives the ids of each batch asked.

    On two of the eight devices. The real samplers are in the slow tests, and in what tests/test_cli.py evaluates.
    """
    batches: list[list[str]] = []
    build_program = evaluate.build_program

    def build(config, shapes):
        tokenizer = load_processor(
            resolve_checkpoint("phantom", "policy"), min_pixels=1, max_pixels=9**6, prompt="bare"
        ).tokenizer
        texts = [f"<think> i see it. </think> <answer> {said} </answer>" for said in ("yes", "no", "cyst", "left")]
        rows = [tokenizer.encode(text, add_special_tokens=False) for text in [*texts, "no format"]]

        def answer(group, weights, prompts, draws):
            ids = np.asarray(draws.prompt_ids)
            tokens = np.zeros((len(ids), group, max(map(len, rows))), np.int32)
            mask = np.zeros(tokens.shape, bool)
            for place, number in enumerate(ids):
                for g in range(group):
                    row = rows[(number + 3 * g) % 5]
                    tokens[place, g, : len(row)], mask[place, g, : len(row)] = row, True
            rollout = Rollout(tokens=tokens, log_probs=np.zeros(tokens.shape, np.float32), mask=mask)
            return jax.device_put(rollout, shapes.rows(len(ids)).sharding)

        samplers = {"greedy": partial(answer, 1), "sample": partial(answer, config.grpo.group_size)}
        return dataclasses.replace(build_program(config, shapes), gather=lambda trained, fixed: trained, **samplers)

    ask = evaluate.Asker.ask
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "make_mesh", lambda settings: make_mesh(settings, jax.devices()[:2]))
        patch.setattr(evaluate, "build_program", build)
        patch.setattr(
            evaluate.Asker,
            "ask",
            lambda self, *given, **how: batches.append([e.id for e in given[2]]) or ask(self, *given, **how),
        )
        yield batches
