"""Runs of the command line that differ in nothing that is compiled share their program inside a file of tests."""

import dataclasses
from collections.abc import Callable

import pytest

from reflex_jax.config import Config, EvidenceConfig, RunConfig
from reflex_jax.step.program import Program, build_program
from reflex_jax.step.shapes import Shapes
from reflex_jax.training import loop


@pytest.fixture(scope="module", autouse=True)
def build_once():
    """`build_program` for runs of this file: one that is taken up again traces nothing anew.

    Tracing and lowering are two thirds of a short run whose compiled programs the cache holds. What differs in settings,
    places of the weights included, is built anew: so a test that goes on from moved weights compares two programs.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "build_program", build := _build_once())
        yield build


def _build_once() -> Callable[..., Program]:
    built: dict[tuple, Program] = {}

    def build(config: Config, shapes: Shapes, *, updates: int) -> Program:
        grpo = dataclasses.replace(config.grpo, dynamic_sampling=0)  # how often programs run enters none of them
        run, evidence = RunConfig(seed=config.run.seed), EvidenceConfig()
        settings = dataclasses.replace(config, run=run, grpo=grpo, evidence=evidence)
        allowed, ends = shapes.vocabulary.allowed.tobytes(), (shapes.vocabulary.eos_ids, shapes.vocabulary.pad_id)
        key = (repr(settings), shapes.mesh, shapes.policy, repr(shapes.judge), allowed, ends, updates)
        if key not in built:
            built[key] = build_program(config, shapes, updates=updates)
        return built[key]

    return build
