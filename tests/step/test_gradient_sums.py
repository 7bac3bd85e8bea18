"""`memory.gradient_sums`: what bfloat16 adds up over tokens and devices, beside sums in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reflex_jax.config import ConfigError, MeshConfig
from reflex_jax.grpo.objective import TokenMetrics
from reflex_jax.models.layers import Dense, RMSNorm, apply, look_up, rms_norm, rows_product, widened
from reflex_jax.models.qwen_vl import HowToCompute, init_policy_params
from reflex_jax.records import PromptInputs
from reflex_jax.sharding import batch_sharding, make_mesh, path_name, replicated
from reflex_jax.step.rounds import RowReader, Sequences
from reflex_jax.step.update import by_minibatch, first_minibatch, row_reader
from tests.laid_out import laid_out, sequences_in_rows
from tests.step.conftest import ALLOWED, GROUP, NEW_TOKENS, POLICIES, POLICY, TinyWorld, tiny_shapes

ROWS, IN, OUT = 512, 24, 16
# else a CPU, which has no product of bfloat16, would not round between a product and a sum over devices
AS_WRITTEN = {"xla_allow_excess_precision": False}
ONCE = 2**-8  # a number rounded to bfloat16 once is off by at most so much of itself


def bfloat16(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), tree)


def float64(x):
    return np.asarray(x.astype(jnp.float32), np.float64)


def _normed(x: np.ndarray, *, is_centred: bool) -> np.ndarray:
    x = x - x.mean(-1, keepdims=True) * is_centred
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


RANDOM = np.random.default_rng(0)
INPUTS, GRADIENTS = bfloat16((RANDOM.normal(1, 1, (ROWS, IN)), RANDOM.normal(0.3, 1, (ROWS, OUT))))
TOKENS = RANDOM.integers(0, 3, ROWS).astype(np.int32)
SCALE = bfloat16({"scale": np.ones(IN)})
# what is applied, its parameters, the gradient of its outputs, and that of the parameters in float64
SUMS = {
    "a kernel": (
        partial(apply, Dense(OUT, use_bias=False)), bfloat16({"kernel": np.ones((IN, OUT))}),
        GRADIENTS, lambda x, g: x.T @ g,
    ),
    "a bias": (
        lambda p, x: apply(Dense(OUT, use_bias=True), {"kernel": jnp.zeros((IN, OUT), x.dtype), **p}, x),
        bfloat16({"bias": np.ones(OUT)}), GRADIENTS, lambda x, g: g.sum(0),
    ),
    "a head": (
        lambda p, x: rows_product(x, p["kernel"], jnp.float32), bfloat16({"kernel": np.ones((IN, OUT))}),
        GRADIENTS.astype(jnp.float32), lambda x, g: x.T @ g,
    ),
    "an RMS norm": (
        partial(apply, RMSNorm(1e-6)), SCALE, INPUTS,
        lambda x, g: (g * float64(bfloat16(_normed(x, is_centred=False)))).sum(0),
    ),
    "a table": (
        lambda p, x: look_up(p["table"], jnp.asarray(TOKENS), x.dtype), bfloat16({"table": np.ones((4, OUT))}),
        GRADIENTS, lambda x, g: np.stack([g[TOKENS == token].sum(0) for token in range(4)]),
    ),
}  # fmt: skip


def error(name: str, *, wide: bool, devices: int) -> float:
    """Of the gradient beside that of float64: the largest, of the largest number."""
    function, params, gradients, exact = SUMS[name]
    mesh = make_mesh(MeshConfig(data=devices), jax.devices()[:devices])

    @partial(jax.jit, out_shardings=replicated(mesh), compiler_options=AS_WRITTEN)
    def gradient(params, x, g):
        return jax.vjp(lambda p: function(widened(p, wide=wide), x), params)[1](g)[0]

    of_rows = batch_sharding(mesh)
    (found,) = jax.tree.leaves(gradient(params, *jax.device_put((INPUTS, gradients), of_rows)))
    assert found.dtype == jnp.bfloat16
    expected = exact(float64(INPUTS), float64(gradients))
    return float(np.abs(float64(found) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", SUMS)
def test_a_wide_sum_is_rounded_once(name):
    assert all(error(name, wide=True, devices=devices) <= ONCE for devices in (1, 8))
    assert error(name, wide=False, devices=8) > 1.2 * error(name, wide=True, devices=8)


def test_wide_sums_of_float32_are_what_they_were():
    x, g, kernel = (jnp.asarray(RANDOM.normal(size=shape), jnp.float32) for shape in ((9, 4), (9, 3), (4, 3)))

    def loss(params, *, wide: bool):
        return (g * rows_product(x, widened(params, wide=wide)["kernel"])).sum()

    wide, narrow = (jax.grad(partial(loss, wide=wide))({"kernel": kernel})["kernel"] for wide in (True, False))
    np.testing.assert_array_equal(wide, narrow)


def summed(log_probs, entropies, is_here):
    return jnp.where(is_here, log_probs, 0.0).sum(), TokenMetrics({}, {}, is_here.sum().astype(jnp.float32))


def test_a_token_that_occurs_600_times_is_learned_from_600_times(tiny_world):
    """Layers that add nothing, so that every occurrence of one token before itself has the same gradient."""
    params = jax.tree.map(jnp.asarray, tiny_world.policy_params)
    for name in ("o", "down"):
        params["layers"][name]["kernel"] = jnp.zeros_like(params["layers"][name]["kernel"])
    token, rows = 7, np.ones((1, 1), np.int32)
    prompts = PromptInputs(
        tokens=token * rows, is_valid=rows > 0, positions=np.zeros((1, 3, 1), np.int32), feature_index=-rows, vision=None
    )  # fmt: skip
    sequences = sequences_in_rows(prompts, np.full((1, 2, 300), token, np.int32))

    def of_token(*, wide_sums: bool) -> np.ndarray:
        reader = RowReader(POLICY, ALLOWED, 1.0, HowToCompute(wide_sums=wide_sums), ways=1)
        own = bfloat16(params)
        vision = {"vision": own.pop("vision")}
        gradients = jax.jit(partial(reader.gradients, sequences=sequences, loss_of=summed))(own, vision)[2]
        return np.asarray(gradients["embed"]["embedding"][token])

    def log_prob(embedded):
        scale, head = (x.astype(jnp.float32) for x in jax.tree.leaves(bfloat16((params["final_norm"], params["head"]))))
        logits = rms_norm(embedded, scale, epsilon=POLICY.text.epsilon) @ head
        return jax.nn.log_softmax(jnp.where(ALLOWED, logits, -jnp.inf))[token]

    one = bfloat16(params["embed"]["embedding"])[token].astype(jnp.float32)
    exact = 600 * np.asarray(jax.jit(jax.grad(log_prob))(one))
    # what reads and writes rows is bfloat16 all the same
    assert np.linalg.norm(of_token(wide_sums=True) - exact) < ONCE * np.linalg.norm(exact)
    # 256 parts, and of further ones those that were rounded up
    assert np.linalg.norm(of_token(wide_sums=False)) < 0.7 * np.linalg.norm(exact)


def gradients_on(mesh, world: TinyWorld, *overrides: str):
    """Of the whole policy in bfloat16, at random weights of the tokens: a function, and what it is called with."""
    config = TinyWorld.config("memory.log_prob_chunk=16", "policy.dtype=bfloat16", *overrides)
    shapes = tiny_shapes(mesh, world.policy)
    batch = laid_out(world.batch(), config, mesh)
    reader = row_reader(config, shapes, 1.0, every_round=False)
    params = bfloat16(world.policy_params)
    weights = jnp.asarray(np.random.default_rng(3).normal(size=(8, GROUP, NEW_TOKENS)), jnp.float32)

    @partial(jax.jit, out_shardings=replicated(mesh), compiler_options=AS_WRITTEN)
    def gradients(params, batch, weights):
        given = (batch.prompts, batch.rollout.tokens, batch.rollout.mask, weights)
        prompts, tokens, mask, weights = first_minibatch(by_minibatch(given, batch.rows, reader.ways))

        def loss_of(log_probs, entropies, is_here):
            return summed(weights * log_probs, entropies, is_here & mask)

        return reader.gradients(params, {}, Sequences(prompts, tokens, first_minibatch(batch.rows)), loss_of)[2]

    placed = jax.device_put(params, shapes.policy_shardings(params))
    return gradients, (placed, batch, jax.device_put(weights, batch_sharding(mesh)))


@pytest.mark.parametrize(
    "family", ["qwen2_5_vl", *(pytest.param(f, marks=pytest.mark.slow) for f in POLICIES if f != "qwen2_5_vl")]
)
def test_the_setting_reaches_every_parameter_of_the_policy(family):
    """Each gradient is rounded where its sum has ended; read in the program before it is compiled."""
    policy = POLICIES[family]
    params = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, np.float32),
        jax.eval_shape(lambda: init_policy_params(policy, jax.random.key(0))),
    )  # fmt: skip
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    rounded = {}
    for sums in ("compute", "float32"):
        gradients, inputs = gradients_on(mesh, TinyWorld(params, None, policy), f"memory.gradient_sums={sums}")
        rounded[sums] = str(gradients.trace(*inputs).jaxpr).count(" = reduce_precision[")
    # the tower's two layers are a loop each where they differ, by what they read or by deepstack
    loops = 2 if family in ("qwen2_5_vl", "qwen3_vl") else 1
    sums = len(jax.tree.leaves(params)) + (loops - 1) * len(jax.tree.leaves(params["vision"]["layers"]))
    # a layer that is recomputed rounds some of its inputs as well, with either setting
    assert rounded["float32"] - rounded["compute"] == sums


@pytest.mark.slow  # compiles three backward passes
def test_eight_devices_add_up_what_one_does(tiny_world):
    """In float32: what they differ by is then a rounding here and there; else each device's part is rounded too."""

    def on(data: int, fsdp: int, sums: str):
        mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp), jax.devices()[: data * fsdp])
        gradients, inputs = gradients_on(mesh, tiny_world, f"memory.gradient_sums={sums}")
        return jax.device_get(gradients(*inputs))

    def apart(one, other) -> dict[str, float]:
        errors = jax.tree.map(lambda a, b: float(np.linalg.norm(a - b) / np.linalg.norm(a)), one, other)
        return {path_name(path): error for path, error in jax.tree_util.tree_leaves_with_path(errors)}

    one = on(1, 1, "float32")
    wide, narrow = (apart(one, on(2, 4, sums)) for sums in ("float32", "compute"))
    one_row = {f"vision/merger/{layer}/bias" for layer in ("fc1", "fc2")}  # on each device: nothing to round
    assert {name for name in wide if wide[name] >= narrow[name]} <= one_row
    of_decoder = [name for name in wide if name.startswith(("layers", "head", "final_norm"))]
    assert all(wide[name] < 0.7 * narrow[name] for name in of_decoder)


def test_only_known_sums_are_taken():
    with pytest.raises(ConfigError, match=r"memory\.gradient_sums: expected .*compute.*float32.*bfloat16"):
        TinyWorld.config("memory.gradient_sums=bfloat16")
