"""What is stored in bfloat16 moves as float32 does, on average; rounded to the nearest it would not move at all."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from reflex_jax.config import ConfigError, MeshConfig, OptimizerConfig
from reflex_jax.run.checkpoint import RunCheckpoints
from reflex_jax.sharding import make_mesh
from reflex_jax.step.layerwise import update_layerwise
from reflex_jax.step.narrow import round_stochastically
from reflex_jax.step.state import init_state, make_optimizer

ROUND = jax.jit(round_stochastically)
COUNT = 2**16


@pytest.mark.parametrize("number", [1.0 + 1e-6, -(1.0 + 2**-9), 3.3e-5, 255.7])
def test_rounding_keeps_the_mean_and_takes_a_neighbour(number):
    x = np.full(COUNT, number, np.float32)
    rounded = np.asarray(ROUND(jax.random.key(0), x)).astype(np.float64)
    below, above = np.unique(rounded)
    assert below < number < above
    assert above == np.nextafter(below.astype(jnp.bfloat16), jnp.bfloat16(np.inf)).astype(np.float64)
    share = (number - below) / (above - below)
    deviation = (above - below) * np.sqrt(share * (1 - share) / COUNT)
    assert abs(rounded.mean() - x[0].astype(np.float64)) < 4 * deviation


def test_what_bfloat16_holds_and_what_is_no_number_stays():
    exact = np.array([0.0, -0.0, 1.0, -3.5, 2**-120, np.inf, -np.inf, np.nan], np.float32)
    no_number = np.array([0x7FFFFFFF], np.uint32).view(np.float32)  # a carry would make a zero of it
    x = np.concatenate([exact, no_number])
    np.testing.assert_array_equal(np.asarray(ROUND(jax.random.key(0), x)).astype(np.float32), x)


def test_every_device_rounds_its_part_as_one_device_would():
    x = np.linspace(-1, 1, COUNT, dtype=np.float32)
    mesh = make_mesh(MeshConfig(data=8))
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_array_equal(ROUND(jax.random.key(3), x), ROUND(jax.random.key(3), spread))


def updating(gradient, *, master_dtype: str, updates: int = 1, seed: int = 0, **settings):
    """A function that makes so many updates of a state with the same gradient, and the optimiser."""
    optimizer = make_optimizer(OptimizerConfig(**settings), 1, master_dtype=master_dtype, seed=seed)

    def update(state, _):
        norm = optax.global_norm(gradient)
        return update_layerwise(state, gradient, optimizer, grad_norm=norm, is_applied=jnp.bool_(True)), None

    return jax.jit(lambda state: jax.lax.scan(update, state, length=updates)[0]), optimizer


def trained(params, gradient, *, master_dtype: str, **settings):
    """The state after so many updates with the same gradient."""
    update, optimizer = updating(gradient, master_dtype=master_dtype, **settings)
    return update(init_state(params, optimizer, master_dtype))


def test_masters_move_at_a_learning_rate_of_a_millionth_as_those_in_float32_do():
    random = np.random.default_rng(0)
    start = random.uniform(0.5, 2, COUNT).astype(jnp.bfloat16).astype(np.float32)
    gradient = {"w": np.ones(COUNT, np.float32)}
    settings = {"updates": 100, "learning_rate": 1e-6, "weight_decay": 0.0}
    moved = {}
    for dtype in ("float32", "bfloat16"):
        state = trained({"w": start}, gradient, master_dtype=dtype, **settings)
        assert state.params["w"].dtype == jnp.dtype(dtype)
        moved[dtype] = np.asarray(state.params["w"]).astype(np.float64) - start
    # a millionth is 8.4 places of a float32 of 1, of which 8 are taken
    assert moved["float32"].mean() == pytest.approx(-1e-4, rel=0.05)
    # each moves by nothing or by a whole place: a standard error of 3 % of the mean over so many
    assert moved["bfloat16"].mean() == pytest.approx(-1e-4, rel=0.12)
    nearest = (start.astype(jnp.bfloat16) - jnp.bfloat16(1e-6)).astype(np.float32)
    np.testing.assert_array_equal(nearest, start)  # what a plain cast would do, at every update


def test_the_second_moment_fades_as_that_in_float32_does():
    gradient = {"w": np.ones(COUNT // 16, np.float32)}
    nothing = jax.tree.map(np.zeros_like, gradient)
    settings = OptimizerConfig(moments_dtype="bfloat16")
    optimizer = make_optimizer(settings, 1)
    state = optimizer.init(nothing)
    _, state = jax.jit(partial(optimizer.update, grad_norm=jnp.float32(0)))(gradient, state, nothing)
    (moments,) = [s for s in jax.tree.leaves(state, is_leaf=_is_adam) if _is_adam(s)]
    assert moments.mu["w"].dtype == moments.nu["w"].dtype == jnp.bfloat16
    first = np.asarray(moments.nu["w"]).astype(np.float64)
    assert first.mean() == pytest.approx(1e-3, rel=1e-3)

    def fade(state, _):
        return optimizer.update(nothing, state, nothing, grad_norm=jnp.float32(0))[1], None

    state, _ = jax.jit(lambda state: jax.lax.scan(fade, state, length=200))(state)
    (faded,) = [s for s in jax.tree.leaves(state, is_leaf=_is_adam) if _is_adam(s)]
    assert np.asarray(faded.nu["w"]).astype(np.float64).mean() == pytest.approx(1e-3 * 0.999**200, rel=5e-3)
    assert jnp.bfloat16(1e-3 * 0.999) == jnp.bfloat16(1e-3)  # rounded to the nearest it would stay for good


def _is_adam(node) -> bool:
    return isinstance(node, optax.ScaleByAdamState)


def test_the_same_seed_rounds_alike_and_another_does_not():
    start, gradient = {"w": np.ones(256, np.float32)}, {"w": np.ones(256, np.float32)}
    settings = {"updates": 20, "learning_rate": 1e-4, "master_dtype": "bfloat16"}
    first, again, other = (
        np.asarray(trained(start, gradient, seed=seed, **settings).params["w"]) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_a_narrow_state_goes_on_from_its_checkpoint_bit_for_bit(tmp_path):
    gradient = {"w": np.linspace(-1, 1, 256, dtype=np.float32)}
    update, optimizer = updating(gradient, master_dtype="bfloat16", moments_dtype="bfloat16", learning_rate=1e-3)
    begun = init_state({"w": np.ones(256, np.float32)}, optimizer, "bfloat16")
    first = update(begun)
    second = update(first)
    checkpoints = RunCheckpoints(tmp_path, keep=1)
    checkpoints.save(first, 1, {}, {})
    checkpoints.wait()
    restored, _ = checkpoints.restore(begun, 1)
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, first)
    chex.assert_trees_all_equal(update(restored), second)
    like = {"w": jax.ShapeDtypeStruct((256,), jnp.float32, sharding=first.params["w"].sharding)}
    checkpoints.close()
    reader = RunCheckpoints(tmp_path, keep=1, is_owner=False)
    read = reader.restore_params(like, 1)  # as `reflex evaluate` and `reflex export` read the policy
    np.testing.assert_array_equal(read["w"], np.asarray(first.params["w"]).astype(np.float32))
    reader.close()


def test_moments_of_an_optimiser_without_any_are_refused():
    with pytest.raises(ConfigError, match="sgd has no moments"):
        OptimizerConfig(name="sgd", moments_dtype="bfloat16")
