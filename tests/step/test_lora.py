"""Adapters in the step: they alone train and are kept, the policy is its own reference, and sampling reads their sum."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reflex_jax.config import ConfigError, MeshConfig
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.models.attention_choice import XLA
from reflex_jax.models.lora import merge_adapters, whole_policy
from reflex_jax.models.qwen_decoder import Embedded, row_stack
from reflex_jax.models.qwen_vl import init_policy_params, prompt_logits
from reflex_jax.planning.hlo_costs import count_costs
from reflex_jax.records import PackedRows
from reflex_jax.sharding import make_mesh, path_name
from reflex_jax.step.abstract_run import abstract_run
from reflex_jax.step.offload import is_on_host
from reflex_jax.step.program import build_program
from reflex_jax.step.state import reference_policy
from reflex_jax.step.trained import adapted_layers, draw_adapters, linear_layers
from tests.laid_out import laid_out, log_probs_in_rows, sequences_in_rows
from tests.step.conftest import ALLOWED, POLICY, TinyWorld, tiny_shapes

RANK = 3
NO_JUDGE = "rewards.components={answer: 1, format: 1}"  # compiles in half of the time
# the default targets, and layers of the tower: a stacked one and one that is not
LORA = (
    f"policy.lora.rank={RANK}", "policy.lora.alpha=6", "policy.lora.targets=layers/(q|k|v|o),vision/(layers/up|merger/fc2)",
    "memory.remat=true", NO_JUDGE,
)  # fmt: skip
LAYERS = ("layers/k", "layers/o", "layers/q", "layers/v", "vision/layers/up", "vision/merger/fc2")


@functools.cache
def program_of(*overrides: str, shape: tuple[int, int, int] | None = None):
    """One program per configuration and mesh, shared by the tests."""
    mesh = shape and make_mesh(MeshConfig(data=shape[0], fsdp=shape[1], tensor=shape[2]))
    return build_program(TinyWorld.config(*overrides), dataclasses.replace(tiny_shapes(mesh), judge=None))


def start(world, *overrides: str, shape: tuple[int, int, int] | None = None, adapters=None):
    """The program, and the state and frozen parameters as a run begins."""
    program = program_of(*overrides, shape=shape)
    place = program.shapes.policy_shardings(world.policy_params)
    params = jax.device_put(jax.tree.map(jnp.copy, world.policy_params), place)
    if adapters is not None:
        adapters = jax.device_put(adapters, program.shapes.policy_shardings(adapters))
    return program, *program.start(params, with_reference=True, adapters=adapters)


def two_steps(world, *overrides: str, shape: tuple[int, int, int] | None = None):
    """States after one and two steps of the same batch, on the host, and the metrics of both."""
    program, state, frozen = start(world, *overrides, shape=shape)
    batch = dataclasses.replace(world.batch(), judge=None)
    batch = laid_out(batch, world.config(*overrides), program.shapes.mesh)
    states, said = [], []
    for _ in range(2):
        state, _, metrics = program.train_step(state, frozen, batch)
        states.append(jax.device_get(state))
        said.append(jax.device_get(metrics))
    return states, said, jax.device_get(frozen)


def paths(tree) -> dict[str, np.ndarray]:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def drawn_by(world, *overrides: str, seed: int = 0):
    """The adapters a run draws, as one program."""
    policy = world.config(*overrides).policy
    shapes = jax.eval_shape(lambda: world.policy_params)
    return jax.device_get(jax.jit(lambda: draw_adapters(shapes, policy, seed))())


def some_adapters(world, seed: int = 0):
    """Pairs of which neither is zero."""
    drawn = drawn_by(world, *LORA)
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: (0.2 * random.normal(size=leaf.shape)).astype(np.float32), drawn)


@pytest.fixture(scope="module")
def trained(tiny_world):
    """Two steps on one device."""
    return two_steps(tiny_world, *LORA)


def test_adapters_begin_as_peft_begins_them_on_every_mesh(tiny_world):
    drawn = paths(drawn_by(tiny_world, *LORA))
    assert drawn.keys() == {f"{layer}/lora_{matrix}" for layer in LAYERS for matrix in "ab"}
    for name, leaf in drawn.items():
        if name.endswith("lora_b"):
            assert not np.any(leaf)
            continue
        bound = 1 / np.sqrt(leaf.shape[-2])  # U(+-sqrt(6 / ((1 + 5) in)))
        assert leaf.shape[-1] == RANK and 0.9 * bound < np.abs(leaf).max() <= bound
        assert leaf.std() == pytest.approx(bound / np.sqrt(3), rel=0.2)
    assert drawn["layers/q/lora_a"].shape == (2, 32, RANK) and drawn["layers/k/lora_b"].shape == (2, RANK, 8)
    assert np.any(np.asarray(drawn["layers/q/lora_a"]) != np.asarray(drawn["layers/k/lora_a"]))
    one = drawn_by(tiny_world, "policy.lora.rank=3", "policy.lora.targets=layers/q")
    np.testing.assert_array_equal(one["layers"]["q"]["lora_a"], drawn["layers/q/lora_a"])  # whatever else has one
    _, state, _ = start(tiny_world, *LORA, shape=(2, 2, 2))
    chex.assert_trees_all_equal(paths(jax.device_get(state.params)), drawn)
    another = drawn_by(tiny_world, *LORA, seed=1)
    assert np.any(np.asarray(another["layers"]["q"]["lora_a"]) != np.asarray(drawn["layers/q/lora_a"]))


def test_adapters_are_cut_as_their_kernels_but_along_the_rank(tiny_world):
    _, state, frozen = start(tiny_world, *LORA, shape=(2, 2, 2))
    found = {path: leaf.sharding.spec for path, leaf in paths(state.params).items()}
    kernels = {path.removesuffix("/kernel"): leaf.sharding.spec for path, leaf in paths(frozen.fixed).items()}
    for layer in LAYERS:
        *stack, into, out = kernels[layer]
        assert found[f"{layer}/lora_a"] == jax.sharding.PartitionSpec(*stack, into, None)
        assert found[f"{layer}/lora_b"] == jax.sharding.PartitionSpec(*stack, None, out)


def test_steps_change_adapters_alone_and_hold_nothing_else(tiny_world, trained):
    states, metrics, frozen = trained
    begun = paths(drawn_by(tiny_world, *LORA))
    first, second = (paths(state.params) for state in states)
    assert first.keys() == second.keys() == begun.keys()
    for name, leaf in begun.items():
        # B is zero at first, so the first step gives A no gradient
        assert np.array_equal(first[name], leaf) == name.endswith("lora_a"), name
        assert np.any(second[name] != first[name]), name
    chex.assert_trees_all_equal(frozen.fixed, jax.device_get(tiny_world.policy_params))
    assert metrics[0]["grad_norm"] > 1e-3 and metrics[0]["kl"] < 1e-10 < 1e-6 < metrics[1]["kl"]
    planned = abstract_run(
        TinyWorld.config(*LORA, "optimizer.name=adamw"), program_of(*LORA).shapes, PromptSizes(10, 1)
    )
    moments = sum(leaf.size for leaf in jax.tree.leaves(planned.state.optimizer_state) if leaf.ndim)
    assert moments == 2 * sum(map(np.size, begun.values()))


def test_the_policy_without_adapters_is_the_reference_and_is_there_once(tiny_world):
    _, _, frozen = start(tiny_world, *LORA)
    assert frozen.reference == {}
    whole = reference_policy(frozen)
    assert {id(leaf) for leaf in jax.tree.leaves(whole)} == {id(leaf) for leaf in jax.tree.leaves(frozen.fixed)}
    chex.assert_trees_all_equal(whole, tiny_world.policy_params)


def test_what_samples_says_what_the_update_reads(tiny_world):
    """The sum of kernel and adapter, and both apart, give the same log-probs; another scale gives others."""
    adapters, batch = some_adapters(tiny_world), tiny_world.batch()
    program, state, frozen = start(tiny_world, *LORA, adapters=adapters)
    chex.assert_trees_all_equal(jax.device_get(state.params), adapters)
    merged = dict(program.gather(state.params, frozen.fixed))
    assert not any("lora" in name for name in paths(merged))
    merged["layers"] = jax.tree.map(lambda *layers: jnp.stack(layers), *merged["layers"])
    chex.assert_trees_all_close(merged, merge_adapters(whole_policy(adapters, frozen.fixed, lora_scale=2.0)), rtol=1e-6)
    kernel = frozen.fixed["layers"]["o"]["kernel"][1]
    pair = adapters["layers"]["o"]
    by_hand = kernel + 6 / RANK * pair["lora_a"][1] @ pair["lora_b"][1]
    np.testing.assert_allclose(merged["layers"]["o"]["kernel"][1], by_hand, rtol=1e-5, atol=1e-6)

    sequences = sequences_in_rows(batch.prompts, batch.rollout.tokens, batch.rollout.mask)

    @jax.jit
    def log_probs(params):
        return log_probs_in_rows(params, sequences, POLICY, allowed=ALLOWED, temperature=1.0)[0]

    apart = log_probs(whole_policy(adapters, frozen.fixed, lora_scale=2.0))
    np.testing.assert_allclose(apart, log_probs(merged), rtol=1e-4, atol=2e-5)
    other = log_probs(whole_policy(adapters, frozen.fixed, lora_scale=2.5))
    assert np.abs(np.asarray(other) - np.asarray(apart)).max() > 1e-2
    assert tiny_world.config(*LORA).policy.lora.scale == 2.0
    rslora = tiny_world.config("policy.lora.rank=4", "policy.lora.alpha=6", "policy.lora.scaling=rslora").policy.lora
    assert rslora.scale == 3.0  # 6 / sqrt(4)


@pytest.mark.slow  # compiles a step for each; where adapters lie, and that they begin alike, is tested above
@pytest.mark.parametrize(
    ("shape", "overrides"),
    [
        ((2, 2, 2), []),
        *((shape, ["memory.microbatch_prompts=8"]) for shape in ((8, 1, 1), (1, 8, 1), (1, 1, 8))),
        (None, ["memory.microbatch_prompts=2"]),  # rounds of the tower's adapters
    ],
)
def test_a_mesh_changes_nothing(tiny_world, trained, shape, overrides):
    (_, alone), said, _ = trained
    (_, spread), on_mesh, _ = two_steps(tiny_world, *LORA, *overrides, shape=shape)
    chex.assert_trees_all_close(spread.params, alone.params, rtol=1e-4, atol=2e-6)
    chex.assert_trees_all_close(on_mesh[1], said[1], rtol=1e-3, atol=1e-5)


def test_no_gradients_of_kernels_are_computed_beside_adapters():
    """Forward 1, gradients of activations 1, of kernels 1: of a stack whose linear layers are nearly all of its work."""
    text = dataclasses.replace(POLICY.text, hidden=512)
    params = jax.eval_shape(lambda: init_policy_params(dataclasses.replace(POLICY, text=text), jax.random.key(0)))
    adapters = jax.eval_shape(lambda: draw_adapters(params, TinyWorld.config("policy.lora.rank=1").policy, 0))
    numbers = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    rows = PackedRows(
        **dict.fromkeys(("tokens", "segments", "roots", "targets", "predicting"), numbers),
        positions=jax.ShapeDtypeStruct((2, 16, 3), jnp.int32), is_image=jax.ShapeDtypeStruct((2, 16), jnp.bool_),
        most_predicted=jax.ShapeDtypeStruct((), jnp.int32),
    )  # fmt: skip
    x = jax.ShapeDtypeStruct((2, 16, text.width), jnp.float32)

    def loss(trained, fixed, x, rows):
        layers = whole_policy(trained, fixed, lora_scale=2.0)["layers"]
        return row_stack(layers, Embedded(x), rows, text, implementation=XLA, remat=False).sum()

    def flops(trained, fixed) -> float:
        return count_costs(jax.jit(jax.grad(loss)).lower(trained, fixed, x, rows).compile().as_text()).flops

    layers = {"layers": params["layers"]}
    assert flops(adapters, layers) < 0.75 * flops(layers, {})


@pytest.mark.slow  # compiles two updates of the step
def test_an_update_of_adapters_costs_less_arithmetic():
    flops = {}
    for name, overrides in (("all", ["policy.trainable=language"]), ("adapters", ["policy.lora.rank=1"])):
        config = TinyWorld.config(*overrides, "memory.remat=false", "sft.batch_size=8", "mesh.data=1")
        wide = dataclasses.replace(POLICY, text=dataclasses.replace(POLICY.text, hidden=512))
        shapes = dataclasses.replace(program_of(*LORA).shapes, policy=wide)
        function, arguments = abstract_run(config, shapes, PromptSizes(64, 1), supervised=True).functions()["update"]
        flops[name] = count_costs(function.lower(*arguments).compile().as_text()).flops
    assert flops["adapters"] < 0.8 * flops["all"]


def test_moments_and_masters_of_adapters_can_wait_on_the_host():
    for offload, waits in (("optimizer", (False, True)), ("optimizer+masters", (True, True))):
        config = TinyWorld.config(*LORA, "optimizer.name=adamw", f"memory.offload={offload}")
        state = abstract_run(config, program_of(*LORA).shapes, PromptSizes(10, 1)).state
        for part, is_there in zip((state.params, state.optimizer_state), waits, strict=True):
            assert all(is_on_host(leaf) == is_there for leaf in jax.tree.leaves(part) if leaf.ndim > 1)


def test_every_layer_that_can_have_an_adapter_reads_it(tiny_world):
    """Else its adapter would train on nothing, and be added to its kernel all the same."""
    params, config = tiny_world.policy_params, TinyWorld.config("policy.lora.rank=1", "policy.lora.targets=.*")
    adapters = jax.jit(lambda: draw_adapters(params, config.policy, 0))()
    names = {"layers": "q k v o gate up down", "vision/layers": "q k v o gate up down", "vision/merger": "fc1 fc2"}
    assert {*linear_layers(params)} == {f"{stack}/{name}" for stack, layers in names.items() for name in layers.split()}
    prompts = tiny_world.batch(prompts=2).prompts
    weights = np.random.default_rng(0).normal(size=(POLICY.text.vocabulary,)).astype(np.float32)

    def loss(adapters):
        return (prompt_logits(whole_policy(adapters, params, lora_scale=1.0), prompts, POLICY) * weights).sum()

    for path, gradient in paths(jax.jit(jax.grad(loss))(adapters)).items():
        assert np.any(gradient) == path.endswith("lora_b"), path  # B is zero, so A has none yet


def test_targets_that_match_no_linear_layer_are_refused_with_the_nearest(tiny_world):
    lora = tiny_world.config(
        "policy.lora.rank=1", "policy.lora.targets=layers/qq, embed,layers/q, vision/patch_embed"
    ).policy.lora
    with pytest.raises(ConfigError) as caught:
        adapted_layers(tiny_world.policy_params, lora)
    lines = str(caught.value).splitlines()
    assert [line.split("'")[1] for line in lines] == ["layers/qq", "embed", "vision/patch_embed"]
    assert "Nearest are layers/q, " in lines[0]


def test_settings_that_adapters_cannot_have_are_refused():
    for override, said in (
        ("policy.lora.dropout=0.1", "policy.lora.dropout: expected 0; got 0.1"),
        ("policy.trainable=language", "policy.trainable: expected none beside policy.lora.rank=3"),
        ("policy.lora.scaling=other", "policy.lora.scaling: expected one of standard, rslora"),
        ("policy.lora.targets=(", "policy.lora.targets: '(' is no regular expression"),
        ("policy.lora.alpha=0", "policy.lora.alpha: expected > 0"),
    ):
        with pytest.raises(ConfigError) as caught:
            TinyWorld.config("policy.lora.rank=3", override)
        assert said in str(caught.value)
    with pytest.raises(ConfigError, match="policy.lora.path: expected policy.lora.rank to be that of the adapter"):
        TinyWorld.config("policy.lora.path=somewhere")
