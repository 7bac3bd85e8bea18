"""`policy.trainable`: what its patterns match moves, everything else stays as it is to the byte and exists once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from reflex_jax.config import ConfigError
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.step.abstract_run import abstract_run
from reflex_jax.step.program import build_program
from reflex_jax.step.state import reference_policy
from reflex_jax.step.trained import split_trainable
from tests.laid_out import laid_out
from tests.step.conftest import TinyWorld, tiny_shapes


def split(world: TinyWorld, trainable: str) -> tuple[set[str], set[str]]:
    parts = split_trainable(world.policy_params, world.config(f"policy.trainable={trainable}").policy)
    return tuple(set(flatten_dict(part, sep="/")) for part in parts)


def test_names_and_patterns_choose_whole_paths(tiny_world):
    everything = set(flatten_dict(tiny_world.policy_params, sep="/"))
    of_tower = {path for path in everything if path.startswith("vision/")}
    expected = {
        "all": everything,
        "language": everything - of_tower,
        "vision": of_tower,
        "merger": {path for path in everything if path.startswith("vision/merger/")},
        "layers/(q|v)": {f"layers/{name}/{leaf}" for name in "qv" for leaf in ("kernel", "bias")},
        ".*/scale, head": {path for path in everything if path.endswith("/scale")} | {"head/kernel"},
        r"layers/.*/bias,layers/q/kernel": {*(f"layers/{name}/bias" for name in "qkv"), "layers/q/kernel"},
    }
    for trainable, chosen in expected.items():
        assert split(tiny_world, trainable) == (chosen, everything - chosen), trainable


def test_patterns_that_match_nothing_are_all_refused_with_the_nearest_paths(tiny_world):
    with pytest.raises(ConfigError) as caught:
        split(tiny_world, "vison/merger,layers/q/kernel, layers/q/kernels,languages")
    lines = str(caught.value).splitlines()
    assert [line.split("'")[1] for line in lines] == ["vison/merger", "layers/q/kernels", "languages"]
    for line, nearest in zip(lines, ("vision/merger", "layers/q/kernel", "language"), strict=True):
        assert line.startswith("policy.trainable: ") and f"Nearest are {nearest}, " in line
    for trainable, said in (("layers/(q", "is no regular expression"), (" , ", "expected at least one pattern")):
        with pytest.raises(ConfigError, match=said):
            tiny_world.config(f"policy.trainable={trainable}")


def test_a_step_changes_every_byte_that_is_matched_and_no_other(tiny_world):
    """Of parts of both towers; the plan has the same state."""
    overrides = ["policy.trainable=merger,layers/(q|v)/kernel,final_norm", "rewards.components={answer: 1, format: 1}"]
    overrides += ["optimizer.name=adamw"]
    config, before = tiny_world.config(*overrides), flatten_dict(jax.device_get(tiny_world.policy_params), sep="/")
    program = build_program(config, dataclasses.replace(tiny_shapes(), judge=None))
    state, frozen = program.start(jax.tree.map(jnp.copy, tiny_world.policy_params), with_reference=True)
    chosen = {path for path in before if path.startswith("vision/merger/")}
    chosen |= {"layers/q/kernel", "layers/v/kernel", "final_norm/scale"}
    planned = abstract_run(config, program.shapes, PromptSizes(10, 1))
    for tree in (state.params, frozen.reference, planned.state.params, planned.frozen.reference):
        assert set(flatten_dict(tree, sep="/")) == chosen
    assert set(flatten_dict(planned.frozen.fixed, sep="/")) == before.keys() - chosen
    numbers = sum(before[path].size for path in chosen)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.optimizer_state) if leaf.ndim)
    assert moments == 2 * numbers
    fixed = {id(leaf) for leaf in jax.tree.leaves(frozen.fixed)}
    assert len(fixed & {id(leaf) for leaf in jax.tree.leaves(reference_policy(frozen))}) == len(before) - len(chosen)
    batch = laid_out(dataclasses.replace(tiny_world.batch(), judge=None), config, program.shapes.mesh)
    state, _, metrics = program.train_step(state, frozen, batch)
    assert metrics["skipped"] == 0 and metrics["kl_max"] < 1e-10
    after = flatten_dict(jax.device_get(state.params), sep="/")
    assert all(np.any(after[path] != before[path]) for path in chosen)
    weights = dict(program.gather(state.params, frozen.fixed))
    weights["layers"] = jax.tree.map(lambda *layers: jnp.stack(layers), *weights["layers"])
    sampled = flatten_dict(jax.device_get(weights), sep="/")
    for path, leaf in before.items():
        assert (sampled[path].tobytes() == leaf.tobytes()) == (path not in chosen), path
