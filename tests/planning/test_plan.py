"""Plans on fake CPU devices and, where the TPU compiler is installed, on slices nobody here has."""

import dataclasses
import importlib.util
import math

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType

from reflex_jax.cli import main
from reflex_jax.config import Component, ConfigError
from reflex_jax.config_reader import load_config
from reflex_jax.models.biomedclip import read_judge_config
from reflex_jax.models.published import POLICIES, published_judge, published_policy
from reflex_jax.models.qwen_vl import read_qwen_config
from reflex_jax.planning.device_memory import GIB
from reflex_jax.planning.frugal import (
    fewer_at_once,
    rounded_settings,
    said_of,
    sizes_at_once,
    waiting_settings,
    with_settings,
)
from reflex_jax.planning.memory import estimate_memory
from reflex_jax.planning.plan import (
    _compile,
    _differences,
    _frugal_settings,
    _shared_bytes,
    _with_room_to_sample,
    adapt,
    find_remedy,
    largest_microbatch,
    plan_run,
)
from reflex_jax.planning.report import describe_plan, describe_verdict
from reflex_jax.planning.text_work import text_work
from reflex_jax.planning.topology import Topology, find_topology
from reflex_jax.sharding import MESH_AXES, make_mesh
from reflex_jax.step.abstract_run import abstract_run, bytes_on_device
from reflex_jax.step.models import load_models, load_params
from reflex_jax.step.program import build_program
from reflex_jax.step.shapes import largest_prompt, named_shapes

SMALL = [
    "grpo.prompts_per_step=32", "grpo.group_size=4", "rollout.max_new_tokens=64", "data.max_prompt_tokens=64",
    "data.max_pixels=12544", "memory.remat=true", "mesh.fsdp=4", "mesh.tensor=2", "judge.max_statement_tokens=16",
]  # fmt: skip


# in billions, of the models' cards: with the embedding once where the head is tied to it
PARAMETERS = {
    "Qwen2-VL-2B-Instruct": 2.21, "Qwen2-VL-7B-Instruct": 8.29, "Qwen2.5-VL-3B-Instruct": 3.75,
    "Qwen2.5-VL-7B-Instruct": 8.29, "Qwen3-VL-2B-Instruct": 2.13, "Qwen3-VL-4B-Instruct": 4.44,
    "Qwen3-VL-8B-Instruct": 8.77, "SmolVLM2-256M-Video-Instruct": 0.257, "SmolVLM2-500M-Video-Instruct": 0.507,
    "SmolVLM2-2.2B-Instruct": 2.247,
}  # fmt: skip


@pytest.fixture(scope="module")
def config():
    return load_config("configs/phantom.yaml", SMALL)


def machine(*, memory: float | None = None, devices: int = 8) -> Topology:
    """The fake devices of the tests, with as much memory as asked."""
    here = find_topology(None)
    chip = here.chip if memory is None else dataclasses.replace(here.chip, memory_bytes=memory)
    return Topology("this machine", chip, here.devices[:devices])


@pytest.fixture(scope="module")
def plan(config):
    return plan_run(config, machine())


def test_a_run_that_fits_says_what_it_needs(plan):
    assert plan.fits and plan.changes == ()
    assert [f.name for f in plan.functions] == ["gather_weights", "generate", "score_rollout", "update"]
    text = describe_plan(plan)
    for name in ("8 devices", "fsdp=4 tensor=2", "generate", "TFLOP", "all-gather"):
        assert name in text
    assert "estimated, as a run does before step 0" in text and "loops whose length" not in text
    for function in plan.functions:  # a tiny model: rough, but never above
        assert 0.25 * function.total <= plan.estimate.of(function.name)[1] <= function.total, function.name
        assert function.costs.unknown_loops == ()
    assert largest_microbatch(plan) == 32  # all of them, nothing is compiled again
    assert describe_verdict(plan, microbatch=32).startswith("fits: this machine")


def test_the_plan_is_of_the_run_itself(config, plan):
    """Shapes and places of the abstract state are those that training makes."""
    models = load_models(config, make_mesh(config.mesh))
    start = build_program(config, models.shapes).start
    state, frozen = start(load_params(models), models.judge.params, with_reference=config.grpo.needs_reference)
    for abstract, real in ((plan.run.state, state), (plan.run.frozen, frozen)):
        assert jax.tree.structure(abstract) == jax.tree.structure(real)
        for planned, placed in zip(jax.tree.leaves(abstract), jax.tree.leaves(real), strict=True):
            assert (planned.shape, planned.dtype) == (placed.shape, placed.dtype)
            assert planned.sharding.is_equivalent_to(placed.sharding, placed.ndim)
    on_one = [leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves((state, frozen))]
    assert plan.resident == sum(on_one)


def test_memory_while_sampling_counts_the_optimiser_that_waits(plan):
    generate = next(f for f in plan.functions if f.name == "generate")
    moments = bytes_on_device(plan.run.state.optimizer_state)
    assert generate.resident >= moments
    update = next(f for f in plan.functions if f.name == "update")
    # moments are arguments there; the judge waits, and what it read of the batch
    judge = bytes_on_device(plan.run.frozen.judge)
    assert judge <= update.resident <= judge + bytes_on_device(plan.run.batch)


def test_weights_that_do_not_fit_are_refused_without_compiling(config):
    plan = plan_run(config, machine(memory=1e5))
    assert not plan.fits and plan.functions == ()
    verdict = describe_verdict(plan, remedy=find_remedy(config, plan))
    assert "weights, optimiser and frozen models alone need" in verdict and "shorten" in verdict
    assert "between steps" in describe_plan(plan)


class Refused:
    """A lowered function that the compiler finds too large."""

    def compile(self, **options):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 60.52G of 15.75G hbm. The size of temporaries "
            "(60.52G) exceeds available HBM (15.75G)."
        )


@pytest.mark.parametrize("name", ["gather_weights", "generate", "score_rollout", "update"])
def test_what_the_compiler_refuses_as_too_large_is_said_in_the_plan(plan, name):
    arguments = plan.run.functions()[name][1]
    refused = _compile(name, Refused(), arguments, plan.resident - _shared_bytes(plan.run, arguments))
    compiled = next(function for function in plan.functions if function.name == name)
    assert refused.temporary == int(60.52 * GIB) and refused.costs is None
    # the same beside the temporaries: also what a function is handed and does not read is there, the judge in the update
    there = compiled.resident + compiled.arguments
    assert there - 1024 <= refused.resident + refused.arguments <= 1.001 * there
    assert there > bytes_on_device((plan.run.state, plan.run.frozen.judge))


def test_a_run_that_asks_no_judge_is_planned_without_one(config):
    strings = dataclasses.replace(config.rewards, components={"answer": Component(), "format": Component()})
    plan = plan_run(dataclasses.replace(config, rewards=strings), machine(memory=1e5))
    assert plan.run.shapes.judge is None and plan.run.frozen.judge is None and plan.run.batch.judge is None
    assert plan.estimate.resident["judge"] == 0 and plan.estimate.phases["score_rollout"] == {}


ENCODERS = {
    "embedding_similarity": Component(options={"encoder": "judge", "pooling": None, "threshold": 0.8}),
    "bertscore": Component(options={"encoder": "x/MedEmbed-large-v0.1", "layer": None, "closed": "exact"}),
    "reasoning": Component(options={"encoder": "x/MedEmbed-large-v0.1", "layer": 3, "measure": "bertscore", "pooling": None}),
}  # fmt: skip


def with_components(config, components):
    return dataclasses.replace(config, rewards=dataclasses.replace(config.rewards, components=components))


def test_text_encoders_are_resident_and_their_work_is_said(config, plan):
    """A BERT of large size has (30522 + 512 + 2 + 2) rows of 1024, and 24 layers of 12 x 1024^2 + 13 x 1024 numbers.

    The judge's text tower is its own where the judge is there, and is counted where it is not. Of a text of 44 tokens a layer
    computes 2 x 44 x 12 x 1024^2 + 4 x 44^2 x 1024 FLOPs; 16 groups of 8 and what is true are 144 texts, in two ways.
    """
    mesh = make_mesh(config.mesh)
    large = 4 * (31038 * 1024 + 24 * (12 * 1024**2 + 13 * 1024))
    beside_judge = abstract_run(
        with_components(config, config.rewards.components | ENCODERS), named_shapes(config, mesh)
    )
    alone = abstract_run(with_components(config, ENCODERS), named_shapes(config, mesh, with_judge=False))
    tower = 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(plan.run.frozen.judge["text"]))
    assert estimate_memory(beside_judge).resident["text encoders"] == large
    assert estimate_memory(alone).resident["text encoders"] == large + tower
    assert plan.estimate.resident["text encoders"] == 0 and "texts of" not in describe_plan(plan)
    sizes = ["grpo.prompts_per_step=16", "grpo.group_size=8", "rollout.max_new_tokens=44"]
    asked = with_components(load_config("configs/phantom.yaml", sizes), ENCODERS)
    judge, encoder = text_work(asked, processes=1)
    assert (judge.encoder, judge.texts, judge.tokens) == ("judge", 144, 44)
    assert (encoder.texts, encoder.tokens) == (288, 44)
    assert encoder.flops == 288 * 24 * (2 * 44 * 12 * 1024**2 + 4 * 44**2 * 1024)
    assert text_work(asked, processes=4)[1].texts == 72
    said = describe_plan(dataclasses.replace(plan, config=asked))
    assert "at most: 288 texts of 44 tokens through the encoder x/MedEmbed-large-v0.1: 7.71 TFLOP" in said


def test_an_encoder_of_unknown_size_is_named(config):
    unknown = {"bertscore": Component(options={"encoder": "x/nowhere", "layer": None, "closed": "exact"})}
    with pytest.raises(ConfigError, match=r"rewards\.components\.bertscore\.encoder.*nowhere"):
        plan_run(with_components(config, unknown), machine())


def test_a_remedy_samples_fewer_prompts_at_one_time_before_it_leaves_weights_cut():
    """Caches of 2,560 completions of 4,096 tokens have no room beside the weights on eight cards.

    Those of 64 prompts take 65.8 GiB, and programs up to 1.16 times that; those of 32 have room, as in the recipe itself.
    """
    config = load_config("configs/medix_r1_8b.yaml", ["data.root=unread", "memory.rollout_prompts=0"])
    cards = machine(memory=79.6 * 0.92 * GIB)
    first = next(_frugal_settings(config, cards))
    assert (first.memory.rollout_prompts, first.memory.rollout_weights) == (32, "gathered")
    assert "memory.rollout_prompts=32" in _differences(config, first)
    tight = _with_room_to_sample(
        first, machine(memory=1e9)
    )  # nothing has room: the last resort, its prompts as they were
    assert (tight.memory.rollout_prompts, tight.memory.rollout_weights) == (32, "sharded")
    roomy = _with_room_to_sample(config, machine(memory=1e13))
    assert roomy == config


@pytest.mark.parametrize(
    ("prompts", "ways", "sizes"), [(16, 1, [1, 2, 4, 8, 16]), (16, 4, [4, 8, 16]), (12, 3, [3, 6, 12])]
)
def test_what_is_worked_on_at_one_time_divides_the_prompts_and_the_devices(prompts, ways, sizes):
    assert sizes_at_once(prompts, ways) == sizes
    assert fewer_at_once(0, prompts, ways) == sizes[-2::-1] == fewer_at_once(prompts, prompts, ways)
    assert fewer_at_once(sizes[1], prompts, ways) == sizes[:1]


def test_an_update_that_is_too_large_fits_with_a_smaller_microbatch(config, plan):
    update = next(f for f in plan.functions if f.name == "update")
    others = max(f.total for f in plan.functions if f.name != "update")
    if others >= update.total:
        pytest.fail("the sizes of this test no longer make the update the largest function")
    tight = machine(memory=max(others, update.total - 1))
    refused = dataclasses.replace(plan, topology=tight)
    assert refused.too_large() == ["update"]
    remedy = find_remedy(config, refused)
    assert remedy.plan.fits and "memory.microbatch_prompts=4" in remedy.overrides
    assert "What would: memory.microbatch_prompts=4" in describe_verdict(refused, remedy=remedy)


@pytest.mark.slow  # halves the range with a compilation each
def test_the_largest_microbatch_that_fits_is_found(plan):
    update = next(f for f in plan.functions if f.name == "update")
    tight = machine(memory=max(*(f.total for f in plan.functions if f.name != "update"), update.total - 1))
    assert largest_microbatch(dataclasses.replace(plan, topology=tight)) == 16  # half of all


def test_a_remedy_keeps_one_copy_of_the_weights(config):
    copies = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, data=8, fsdp=1, tensor=1))
    settings = list(_frugal_settings(copies, machine()))
    meshes = [(c.mesh.data, c.mesh.fsdp, c.mesh.tensor) for c in settings]
    assert meshes == 3 * [(1, 8, 1), (1, 4, 2)]
    stored = [(c.optimizer.moments_dtype, c.policy.master_dtype) for c in settings]
    narrow = [("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")]
    assert stored == [pair for pair in narrow for _ in range(2)]  # other numbers last


def test_a_state_waits_on_the_host_before_it_is_rounded_and_the_rounding_is_said(config):
    assert waiting_settings(config, "cpu") == []  # its host has the same memory
    waiting = waiting_settings(config, "tpu")
    assert waiting == [("memory.offload", "optimizer"), ("memory.offload", "optimizer+masters")]
    half = with_settings(config, waiting[0])
    assert waiting_settings(half, "gpu") == waiting[1:]
    assert rounded_settings(with_settings(config, ("optimizer.name", "sgd"))) == [("policy.master_dtype", "bfloat16")]
    assert said_of(["memory.offload=optimizer"]) == ""
    assert said_of(["policy.master_dtype=bfloat16"]) == " policy.master_dtype makes other numbers, the same on average."


def test_a_mesh_that_the_machine_cannot_have_is_replaced_and_said(config):
    wide = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, fsdp=32))
    adapted, changes = adapt(wide, machine())
    assert changes == ("mesh.data=1 mesh.fsdp=4 mesh.tensor=2",)
    assert (adapted.mesh.data, adapted.mesh.fsdp, adapted.mesh.tensor) == (1, 4, 2)
    split = dataclasses.replace(config, memory=dataclasses.replace(config.memory, microbatch_prompts=2))
    adapted, changes = adapt(split, machine())
    assert changes == ("memory.microbatch_prompts=4",)  # 2 prompts do not go round 4 devices


def test_published_sizes_are_those_of_their_config_files(data_root):
    tokenizers = data_root / "tokenizers"
    written = read_qwen_config(tokenizers / "qwen2.5-vl-7b-instruct")
    assert published_policy("somewhere/Qwen2.5-VL-7B-Instruct") == written
    judge = "BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
    assert published_judge(judge) == read_judge_config(tokenizers / "biomedclip")
    assert published_policy("elsewhere") is None


@pytest.mark.parametrize(("name", "billions"), PARAMETERS.items())
def test_every_published_policy_is_planned_by_its_name(name, billions):
    config = load_config("configs/reflex_med_3b.yaml", ["data.root=unread", f"policy.path=somewhere/{name}"])
    run = abstract_run(
        config, named_shapes(config, AbstractMesh((1, 1, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 3))
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(run.state.params)) / 1e9 == pytest.approx(billions, abs=0.01)
    estimate = estimate_memory(run)
    assert estimate.resident["float32 masters"] == pytest.approx(4e9 * billions, rel=0.01)
    for phase in ("update: pictures", "update: language model", "generate: tokens"):
        assert sum(estimate.phases[phase].values()) > min(1e9, 1e9 * billions)
    assert set(PARAMETERS) == POLICIES.keys()


def test_the_3b_policy_has_as_many_parameters_as_its_card_says():
    config = load_config("configs/reflex_med_3b.yaml", ["data.root=unread", "mesh.fsdp=8"])
    run = abstract_run(config, named_shapes(config, make_mesh(config.mesh, jax.devices())))
    assert sum(leaf.size for leaf in jax.tree.leaves(run.state.params)) == pytest.approx(3.75e9, rel=0.01)
    assert largest_prompt(config.data, run.shapes.policy.vision).windows == 91


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v5p", "expected one of v5e:2x2"),
        ("v9:2x2", "got 'v9:2x2'"),
        ("v5e:3x3", "v5e:3x3"),
        ("v5e:2x2x1", "v5e has 2 sides"),
        ("v5p:0x4x4", "v5p has 3 sides, e.g. 2x2x1 .* got 'v5p:0x4x4'"),
        ("v5p:4x4", "3 sides"),
        ("v6e:a", "2 sides"),
    ],
)
def test_unknown_slices_are_refused_with_the_known_ones(topology, message):
    with pytest.raises(ConfigError, match=message):
        find_topology(topology)


def test_a_model_that_is_neither_on_disk_nor_published_is_refused(capsys):
    assert main(["plan", "configs/phantom.yaml", "policy.path=nowhere/Qwen3-VL"]) == 2
    assert "'nowhere/Qwen3-VL' is no directory" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler (extra `tpu`)")
def test_the_tpu_compiler_plans_a_slice():
    config = load_config("configs/phantom.yaml", [*SMALL, "mesh.fsdp=2", "mesh.tensor=2"])
    plan = plan_run(config, find_topology("v5e:2x2"))
    assert plan.fits and all(f.costs.flops for f in plan.functions if f.name != "gather_weights")
