"""Programs that are traced once in a file of tests: commands on equal settings and shapes share their jitted functions.

A program is a function of settings and shapes alone, so sharing it changes nothing but time: of a run of four tiny steps whose
programs lie compiled in the cache, half is tracing and lowering them again. What is not part of a program's settings is left
out of what tells two apart: where a run lies, its data, how long it goes on.
"""

import contextlib
import json
from collections.abc import Iterator

import pytest

from reflex_jax.config import Config, config_to_dict
from reflex_jax.step import program
from reflex_jax.step.shapes import Shapes

USERS = ("reflex_jax.step.abstract_run", "reflex_jax.training.loop", "reflex_jax.evaluation.evaluate")
_NO_PART = ("training", "logging", "data")


@contextlib.contextmanager
def programs_once() -> Iterator[None]:
    """Within it, whoever builds a program gets the one that was built from the same settings and shapes before."""
    build, made = program.build_program, {}

    def build_once(config: Config, shapes: Shapes, *, updates: int = 1, every_round: bool = False) -> program.Program:
        # what a test puts in the place of a part of the program makes another one
        key = (_key(config, shapes, updates), every_round, program._start, program.generate)
        if key not in made:
            made[key] = build(config, shapes, updates=updates, every_round=every_round)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        for user in USERS:
            patch.setattr(f"{user}.build_program", build_once)
        yield


def _key(config: Config, shapes: Shapes, updates: int) -> tuple:
    settings = {name: section for name, section in config_to_dict(config).items() if name not in _NO_PART}
    settings["run"] = config.run.seed
    settings["rewards"] = {**settings["rewards"], "files": None}  # their rewards come from the host
    settings["policy"] = {**settings["policy"], "path": None}
    settings["judge"] = {**settings["judge"], "path": None}
    ends = updates if config.optimizer.schedule != "constant" else None
    words = shapes.vocabulary
    return (
        json.dumps(settings, sort_keys=True, default=repr), ends, shapes.mesh, shapes.policy, shapes.judge,
        words.allowed.tobytes(), words.eos_ids, words.pad_id,
    )  # fmt: skip
