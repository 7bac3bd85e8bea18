"""What `dtype: float32` promises: every float32 matrix product of a step asks for full precision, whatever the device.

Checked in the programs as they go to the compiler; no accelerator is needed, and none was at hand to measure.
"""

import re

import jax
import jax.numpy as jnp
import pytest

from reflex_jax.config import SALIENCY_METHODS
from reflex_jax.models.biomedclip import init_judge_params
from reflex_jax.models.qwen_vl import init_policy_params
from reflex_jax.records import Draws
from reflex_jax.step.program import build_program
from reflex_jax.step.score import score_rollout
from reflex_jax.step.state import FrozenParams, init_state
from reflex_jax.step.trained import split_trainable
from tests.laid_out import laid_out
from tests.step.conftest import JUDGE, POLICY, TinyWorld, tiny_shapes


def _products(lowered) -> list[tuple[str, str, bool]]:
    """(dtype of the left operand, of the right one, is full precision) of every matrix product of a program."""
    lines = [line for line in lowered.as_text().splitlines() if "stablehlo.dot_general" in line]
    found = []
    for line in lines:
        left, right = re.search(r": \(tensor<(?:\d+x)*(\w+)>, tensor<(?:\d+x)*(\w+)>\)", line).groups()
        found.append((left, right, "precision = [HIGHEST, HIGHEST]" in line))
    return found


@pytest.fixture(scope="module")
def tiny_world() -> TinyWorld:
    """Shapes are enough to lower a program."""
    key = jax.random.key(0)
    return TinyWorld(
        jax.eval_shape(lambda: init_policy_params(POLICY, key)), jax.eval_shape(lambda: init_judge_params(JUDGE, key))
    )


def _abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _lower_step(world: TinyWorld, dtype: str):
    config = world.config(f"policy.dtype={dtype}", "judge.saliency_block=-2", "memory.remat=true")
    program = build_program(config, tiny_shapes())
    params = _abstract(world.policy_params)
    trainable, fixed = split_trainable(params, config.policy)
    cast = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype)), trainable)
    frozen = FrozenParams(fixed=fixed, reference=cast, judge=_abstract(world.judge_params))
    state = jax.eval_shape(lambda p: init_state(p, program.optimizer), trainable)
    batch = laid_out(world.batch(), config, program.shapes.mesh)
    return program.train_step.lower(state, frozen, _abstract(batch))


def _lower_generate(world: TinyWorld, dtype: str):
    program = build_program(world.config(f"policy.dtype={dtype}"), tiny_shapes())
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype)), _abstract(world.policy_params))
    draws = Draws(jax.random.key(0), jax.ShapeDtypeStruct((8,), jnp.int32))
    return program.sample.lower(params, _abstract(world.batch().prompts), draws)


@pytest.mark.parametrize("lower", [_lower_step, _lower_generate])
def test_every_float32_product_of_a_step_asks_for_full_precision(tiny_world, lower):
    products = _products(lower(tiny_world, "float32"))
    assert len(products) > 20
    assert all(product == ("f32", "f32", True) for product in products)


@pytest.mark.parametrize("lower", [_lower_step, _lower_generate])
def test_bfloat16_products_ask_for_nothing(tiny_world, lower):
    products = _products(lower(tiny_world, "bfloat16"))
    of_policy = [product for product in products if "bf16" in product[:2]]
    assert len(of_policy) > 20
    assert not any(is_full for *_, is_full in of_policy)


@pytest.mark.parametrize("saliency", SALIENCY_METHODS)
def test_every_product_of_a_float32_judge_asks_for_full_precision(tiny_world, saliency):
    """Its masks and similarities are compared with thresholds; saliency's pullbacks are products too."""
    config, batch = tiny_world.config(f"judge.saliency={saliency}", "judge.saliency_block=-2"), tiny_world.batch()
    score = jax.jit(lambda judge, inputs, scores: score_rollout(judge, inputs, scores, config, JUDGE))
    products = _products(score.lower(*_abstract((tiny_world.judge_params, batch.judge, batch.scores))))
    assert len(products) > 40
    assert all(product == ("f32", "f32", True) for product in products)
