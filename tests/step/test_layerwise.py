"""An update layer by layer is that of the whole, wherever the state lies."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from reflex_jax.config import OptimizerConfig
from reflex_jax.step.layerwise import update_layerwise
from reflex_jax.step.offload import HOST
from reflex_jax.step.state import TrainState, init_state, make_optimizer

SETTINGS = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1, clip_norm=0.5, schedule="linear", warmup_steps=3)


def tree(seed: int, layers: int = 3):
    """Parameters of the form of a policy: two stacks of layers, and arrays beside them."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    return {
        "embed": {"embedding": normal(8, 4)},
        "layers": {"q": {"kernel": normal(layers, 4, 4), "bias": normal(layers, 4)}, "norm": {"scale": normal(layers, 4)}},
        "vision": {"layers": {"up": {"kernel": normal(2, 4, 6)}}, "merger": {"fc1": {"kernel": normal(4, 4)}}},
    }  # fmt: skip


def updated(state: TrainState, optimizer, gradients, *, is_applied: bool = True) -> TrainState:
    """The state after one update, and after one of which nothing may stay."""
    norm = optax.global_norm(gradients)
    return update_layerwise(state, gradients, optimizer, grad_norm=norm, is_applied=jnp.bool_(is_applied))


@pytest.fixture(scope="module")
def optimizer():
    return make_optimizer(SETTINGS, 10)


@pytest.fixture(scope="module")
def update(optimizer):
    return jax.jit(lambda state, gradients, is_applied: updated(state, optimizer, gradients, is_applied=is_applied))


def test_three_updates_are_those_of_the_same_optax_chain(optimizer, update):
    """Of optax alone, which measures the norm itself and sees all parameters at one time."""
    schedule = optax.join_schedules([optax.linear_schedule(0.0, 1e-2, 3), optax.linear_schedule(1e-2, 0.0, 7)], [3])
    whole = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(schedule, weight_decay=0.1))
    params = tree(0)
    state, expected = init_state(params, optimizer), whole.init(params)
    for seed in range(1, 4):
        state = update(state, tree(seed), True)
        with jax.numpy_dtype_promotion("standard"):
            changes, expected = whole.update(tree(seed), expected, params)
        params = optax.apply_updates(params, changes)
    chex.assert_trees_all_close(state.params, params, rtol=1e-6, atol=1e-7)
    chex.assert_trees_all_close(jax.tree.leaves(state.optimizer_state), jax.tree.leaves(expected), rtol=1e-5, atol=1e-9)
    moved = jax.tree.map(lambda new, old: np.median(np.abs(new - old)) > 1e-3, state.params, tree(0))
    assert all(jax.tree.leaves(moved))


def test_an_update_that_is_not_applied_changes_nothing(optimizer, update):
    state = update(init_state(tree(0), optimizer), tree(1), True)
    broken = jax.tree.map(lambda x: x * np.float32(np.nan), tree(2))
    chex.assert_trees_all_equal(update(state, broken, False), state)


def test_every_layer_is_rounded_with_numbers_of_its_own():
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-3), 1, master_dtype="bfloat16")
    ones = {"layers": {"q": np.ones((2, 512), np.float32)}, "vision": {"layers": {"q": np.ones((1, 512), np.float32)}}}
    state = updated(init_state(ones, optimizer, "bfloat16"), optimizer, ones)
    rows = [*np.asarray(state.params["layers"]["q"]), *np.asarray(state.params["vision"]["layers"]["q"])]
    assert all(0.05 < np.mean(row != 1) < 0.5 for row in rows)
    assert all(np.any(rows[i] != rows[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("of_run", [("float32", "float32"), ("bfloat16", "bfloat16")])
def test_a_state_on_the_host_is_updated_to_the_same_bits_and_stays_there(of_run):
    """On two devices which cut it, as a step's jit does it: donated, and put back where it was."""
    moments, masters = of_run
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2, moments_dtype=moments), 1, master_dtype=masters)
    mesh = Mesh(np.array(jax.devices()[:2]), ("fsdp",), axis_types=(AxisType.Auto,))

    def place(leaf, kind: str) -> NamedSharding:
        spec = [None] * (leaf.ndim - 1) + ["fsdp"] if leaf.ndim > 1 else []
        return NamedSharding(mesh, PartitionSpec(*spec), memory_kind=kind if leaf.ndim > 1 else "device")

    def two_updates(kind: str) -> TrainState:
        start = partial(init_state, optimizer=optimizer, master_dtype=masters)
        places = jax.tree.map(partial(place, kind=kind), jax.eval_shape(start, tree(0)))
        state = jax.jit(start, out_shardings=places)(tree(0))
        step = jax.jit(partial(updated, optimizer=optimizer), donate_argnums=0, out_shardings=places)
        for seed in (1, 2):
            state = step(state, gradients=tree(seed))
        assert step._cache_size() == 1
        assert state.params["layers"]["q"]["kernel"].sharding.memory_kind == kind
        return jax.device_get(state)

    chex.assert_trees_all_equal(two_updates("device"), two_updates(HOST))
