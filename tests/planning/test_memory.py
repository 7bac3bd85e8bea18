"""The memory estimate against what compilers count: programs of both recipes for TPUs, and of small models for a CPU."""

import dataclasses
import json

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType

from reflex_jax.config_reader import load_config
from reflex_jax.planning.device_memory import GIB, GPU_SHARE
from reflex_jax.planning.memory import COMPILERS_SHARE, estimate_memory
from reflex_jax.planning.plan import plan_run
from reflex_jax.planning.topology import Topology, find_topology
from reflex_jax.sharding import MESH_AXES
from reflex_jax.step.abstract_run import abstract_run
from reflex_jax.step.shapes import named_shapes

SHORT = ["data.max_prompt_tokens=512", "rollout.max_new_tokens=256", "data.max_pixels=262144", "data.min_pixels=3136"]


def _estimate(recipe: str, mesh: tuple[int, int, int], *overrides: str):
    config = load_config(f"configs/reflex_med_{recipe}.yaml", ["data.root=unread", *overrides])
    abstract_mesh = AbstractMesh(mesh, MESH_AXES, axis_types=(AxisType.Auto,) * 3)
    return estimate_memory(abstract_run(config, named_shapes(config, abstract_mesh)))


@pytest.mark.parametrize(
    ("recipe", "mesh", "overrides", "sampling", "updating"),
    [
        # GiB in all, by `reflex plan --topology` with libtpu 0.0.42: v5p (the first three) and v5e
        ("7b", (1, 32, 2), [], 11.28, 8.19),
        ("3b", (1, 8, 1), ["policy.trainable=language"], 18.72, 14.36),
        ("3b", (1, 1, 1), ["memory.microbatch_prompts=1"], 99.93, 88.21),
        ("3b", (1, 64, 1), ["memory.microbatch_prompts=0"], 9.80, 7.12),
    ],
)
def test_the_estimate_lies_below_tpu_programs_by_at_most_a_fifth(recipe, mesh, overrides, sampling, updating):
    estimate = _estimate(recipe, mesh, *overrides)
    assert 0.85 <= estimate.of("generate")[1] / GIB / sampling <= 1.0
    assert 0.8 <= estimate.of("update")[1] / GIB / updating <= 1.0


def test_the_terms_of_the_3b_recipe_on_one_card_are_those_of_a_hand_count():
    estimate = _estimate("3b", (1, 1, 1), "memory.microbatch_prompts=1", "memory.attention=xla")
    numbers = 3_754_622_976  # of Qwen2.5-VL-3B
    assert estimate.resident["float32 masters"] == 4 * numbers
    assert estimate.resident["moments"] == pytest.approx(8 * numbers, rel=1e-6)
    assert estimate.resident["reference"] == 2 * numbers
    sampling, updating = estimate.phases["generate: tokens"], estimate.phases["update: pictures"]
    assert sampling["weights to sample with"] == updating["weights in bfloat16"] == updating["gradients"] == 2 * numbers
    assert updating["gradients so far"] == 4 * numbers
    keys_and_values = 36 * 2 * (2 * 128) * 2  # layers, heads of 128 numbers, both, bytes
    assert sampling["keys and values of the prompts"] == 64 * 2048 * keys_and_values
    assert sampling["keys and values of the completions"] == 64 * 8 * 1024 * keys_and_values
    assert updating["attention scores"] == 2 * 16 * (91 * 64) ** 2 * 4  # twice: probabilities and their gradients
    reading = estimate.phases["update: language model"]
    assert reading["saved by the decoder"] == 36 * (2048 + 8 * 1024) * 2048 * 2
    assert (
        "gradients so far" not in _estimate("3b", (1, 1, 1), "memory.microbatch_prompts=0").phases["update: pictures"]
    )


@pytest.mark.parametrize("attention", ["auto", "blocked"])
def test_an_attention_without_scores_is_not_charged_for_them(attention):
    def phases(name: str):
        return _estimate("3b", (1, 1, 1), "memory.microbatch_prompts=1", f"memory.attention={name}").phases

    held, free = phases("xla"), phases(attention)
    for phase in ("update: pictures", "generate: pictures"):
        scores = next(name for name in held[phase] if name.startswith("attention scores"))
        assert held[phase][scores] > 0 and not free[phase].get(scores)
    assert not any("attention scores" in name and size for name, size in free["update: language model"].items())


def test_every_setting_that_saves_memory_lowers_its_own_phase():
    def needs(function: str, *overrides: str, mesh=(1, 8, 1)) -> float:
        return _estimate("3b", mesh, "memory.microbatch_prompts=16", *overrides).of(function)[1]

    for override in ("memory.microbatch_prompts=8", "grpo.kl_coefficient=0", "policy.trainable=language"):
        assert needs("update", override) < needs("update"), override
    assert needs("update", "memory.remat=false") > needs("update") < needs("update", "policy.dtype=float32")
    assert needs("generate", "memory.rollout_weights=sharded") < needs("generate")
    assert needs("generate", mesh=(1, 8, 2)) < needs("generate") < needs("generate", mesh=(1, 4, 1))


def test_a_state_is_counted_in_its_dtype_and_where_it_waits():
    numbers = 3_754_622_976
    wide = _estimate("3b", (1, 1, 1))
    narrow = _estimate("3b", (1, 1, 1), "optimizer.moments_dtype=bfloat16", "policy.master_dtype=bfloat16")
    assert narrow.resident["bfloat16 masters"] == 2 * numbers
    assert narrow.resident["moments"] == pytest.approx(4 * numbers, rel=1e-6)
    assert "weights in bfloat16" not in narrow.phases["update: pictures"]  # the masters are just that
    for offload, on_host in (("optimizer", 8), ("optimizer+masters", 12)):
        waiting = _estimate("3b", (1, 1, 1), f"memory.offload={offload}")
        assert waiting.on_host == pytest.approx(on_host * numbers, rel=2e-3)  # vectors stay on the device
        assert waiting.on_host + waiting.resident_bytes == wide.resident_bytes
        table = 4 * 151_936 * 2048  # bytes of the largest array that is no stack of layers
        assert waiting.phases["update: optimiser"]["state on its way"] == 2 * on_host / 4 * table
    shared = _estimate("3b", (1, 1, 1), "policy.trainable=language")
    assert shared.resident["reference"] == shared.resident["float32 masters"] / 2
    assert shared.resident["fixed parameters"] == 2 * numbers - shared.resident["reference"]


def test_wide_sums_are_counted_where_they_are_wider():
    """The feed-forward kernels and the table of 3B, the largest of a layer and of all; vision layers have 1280 x 3420."""
    settings = ("memory.microbatch_prompts=8", "memory.gradient_sums=float32")
    plain, wide = (_estimate("3b", (1, 8, 1), *settings[:count]).phases for count in (1, 2))
    more = {phase: sum(wide[phase].values()) - sum(plain[phase].values()) for phase in wide}
    assert {phase: size for phase, size in more.items() if size} == {
        "update: log-probs": 4 * 151_936 * 2048 / 8,
        "update: language model": 4 * 2048 * 11_008,
        "update: pictures": 4 * 1280 * 3420,
    }
    plain, wide = (
        _estimate("3b", (1, 8, 1), "policy.dtype=float32", *settings[:count]).of("update") for count in (1, 2)
    )
    assert plain == wide


def test_adapters_leave_one_policy_on_the_device_and_a_state_of_themselves():
    """Rank 8 beside q, k, v and o of 36 layers, of width 2048 with 2 key heads of 128: 8 x (2048 + 2048) and so on."""
    numbers, adapters = 3_754_622_976, 36 * 8 * 2 * ((2048 + 2048) + (2048 + 256))
    estimate = _estimate("3b", (1, 1, 1), "policy.lora.rank=8", "memory.microbatch_prompts=1")
    assert estimate.resident["float32 adapters"] == 4 * adapters
    assert estimate.resident["moments"] == pytest.approx(8 * adapters, rel=1e-5)
    assert estimate.resident["reference"] == 0 and estimate.resident["fixed parameters"] == 2 * numbers
    reading = estimate.phases["update: language model"]
    assert (reading["gradients so far"], reading["gradients"]) == (4 * adapters, 2 * adapters)
    assert estimate.phases["update: log-probs"].get("gradient of the head", 0) == 0
    assert estimate.of("update")[1] < 0.15 * _estimate("3b", (1, 1, 1), "memory.microbatch_prompts=1").of("update")[1]
    assert "saved by the vision tower" not in reading and "update: pictures" not in estimate.phases


def test_a_run_that_asks_no_judge_has_an_estimate_of_every_function():
    config = load_config("configs/reflex_med_3b.yaml", ["data.root=unread", "rewards.components={answer: 1}"])
    mesh = AbstractMesh((1, 1, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 3)
    run = abstract_run(config, named_shapes(config, mesh, with_judge=False))
    estimate = estimate_memory(run)
    assert run.functions().keys() == {"gather_weights", "generate", "score_rollout", "update"}
    assert all(estimate.of(function)[1] >= estimate.resident_bytes for function in run.functions())
    assert estimate.of("score_rollout")[1] == estimate.resident_bytes and estimate.resident["judge"] == 0


def test_the_setting_for_a_card_of_40_gb_has_room_there(repository):
    """As docs/lora.md has it, with what compilers take beyond the estimate; without adapters it has none."""
    manual = (repository / "docs" / "lora.md").read_text()
    command = next(line for line in manual.splitlines() if line.startswith("reflex train configs/reflex_med_3b.yaml"))
    overrides = [word for word in command.split()[3:] if "=DIR" not in word]
    assert "policy.lora.rank=8" in overrides
    room = GPU_SHARE * 39.4 * GIB
    for settings, has_room in ((overrides, True), ([*overrides, "policy.lora.rank=0"], False)):
        estimate = _estimate("3b", (1, 1, 1), *settings)
        assert all(share * estimate.of(name)[1] <= room for name, share in COMPILERS_SHARE.items()) == has_room
    estimate = _estimate("3b", (1, 1, 1), *overrides)
    for function, said in (("generate", "22.2 while sampling"), ("update", "17.0 in the update")):
        assert f"{estimate.of(function)[1] / GIB:.1f}" == said.split()[0] and said in " ".join(manual.split())


@pytest.mark.parametrize(
    ("recipe", "mesh", "card"),
    [("rarl_2b", (1, 1, 1), 39.4), *((f"medix_r1_8b{variant}", (1, 8, 1), 79.6) for variant in ("", "_dapo", "_gspo"))],
)
def test_recipes_have_room_on_the_machines_that_they_name(recipe, mesh, card):
    """One card of 40 GB, eight of 80; with what compilers take beyond the estimate, of what JAX takes of a card."""
    config = load_config(f"configs/{recipe}.yaml", ["data.root=unread"])
    shapes = named_shapes(config, AbstractMesh(mesh, MESH_AXES, axis_types=(AxisType.Auto,) * 3))
    estimate = estimate_memory(abstract_run(config, shapes))
    for name, share in COMPILERS_SHARE.items():
        assert share * estimate.of(name)[1] <= GPU_SHARE * card * GIB, name
    if config.memory.rollout_prompts:  # all at once have none: the caches of 2,560 completions
        together = dataclasses.replace(config, memory=dataclasses.replace(config.memory, rollout_prompts=0))
        assert estimate_memory(abstract_run(together, shapes)).of("generate")[1] > 3 * GPU_SHARE * card * GIB


@pytest.fixture(scope="module")
def small_policy(tmp_path_factory):
    """A directory with the sizes of a policy whose towers repeat, as the published ones do."""
    directory = tmp_path_factory.mktemp("policy")
    sizes = {
        "model_type": "qwen2_5_vl", "hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 512, "rms_norm_eps": 1e-6,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "image_token_id": 500, "video_token_id": 501,
        "vision_start_token_id": 502, "vision_end_token_id": 503, "eos_token_id": 1, "pad_token_id": 0,
        "vision_config": {
            "hidden_size": 32, "depth": 8, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": 64,
            "fullatt_block_indexes": [3, 7], "window_size": 56,
        },
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(sizes))
    return directory


@pytest.fixture(scope="module")
def other_policies(tmp_path_factory, small_policy):
    """The same decoder with the towers of the other families, by family."""
    flat = json.loads((small_policy / "config.json").read_text())
    text_keys = [key for key in flat if not key.startswith(("vision_", "image_", "video_"))]
    sizes = {
        "qwen2_vl": {**flat, "model_type": "qwen2_vl", "vision_config": {
            "embed_dim": 32, "depth": 8, "num_heads": 2, "mlp_ratio": 2, "hidden_size": 64,
        }},
        "qwen3_vl": {
            **{key: value for key, value in flat.items() if key not in text_keys}, "model_type": "qwen3_vl",
            "text_config": {
                **{key: flat[key] for key in text_keys}, "head_dim": 32,
                "rope_scaling": {"mrope_section": [6, 5, 5], "mrope_interleaved": True},
            },
            "vision_config": {
                "hidden_size": 32, "depth": 8, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": 64,
                "num_position_embeddings": 64, "deepstack_visual_indexes": [1, 3],
            },
        },
        "smolvlm": {
            **{key: flat[key] for key in ("image_token_id",)}, "model_type": "smolvlm", "scale_factor": 4,
            "text_config": {
                "model_type": "llama", **{key: flat[key] for key in text_keys if key not in ("model_type", "rope_scaling")},
            },
            "vision_config": {
                "hidden_size": 32, "num_hidden_layers": 8, "num_attention_heads": 2, "intermediate_size": 64,
                "image_size": 112, "patch_size": 7,
            },
        },
    }  # fmt: skip
    directories = {family: tmp_path_factory.mktemp(family) for family in sizes}
    for family, directory in directories.items():
        (directory / "config.json").write_text(json.dumps(sizes[family]))
    return directories


@pytest.mark.slow  # compiles eight functions for each
@pytest.mark.parametrize("remat", ["true", "false"])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "smolvlm"])
def test_the_estimate_lies_below_cpu_programs_of_every_family(other_policies, family, remat):
    # patches of 1536 pixels before a tower of width 32 are not counted
    check_estimate(other_policies[family], 1, [f"memory.remat={remat}"], least=0.5)


@pytest.mark.slow  # compiles two dozen functions
@pytest.mark.parametrize(
    ("devices", "overrides"),
    [
        (1, []),
        (1, ["memory.remat=false", "memory.microbatch_prompts=4"]),
        (
            4,
            [
                "mesh.data=1",
                "mesh.fsdp=2",
                "mesh.tensor=2",
                "memory.microbatch_prompts=4",
                "data.max_prompt_tokens=256",
            ],
        ),
        (4, ["mesh.data=1", "mesh.tensor=4"]),  # more devices than key heads
        (4, ["mesh.data=1", "mesh.fsdp=4", "grpo.epochs=2", "grpo.minibatches=2"]),
        (4, ["policy.trainable=language", "grpo.kl_coefficient=0", "rollout.max_new_tokens=256"]),
        (1, ["policy.lora.rank=4"]),
        (1, ["policy.lora.rank=4", "policy.lora.targets=layers/.*,vision/layers/up", "memory.remat=false"]),
        (1, ["policy.trainable=merger", "memory.microbatch_prompts=4"]),
        (1, ["policy.trainable=final_norm"]),
    ],
)
def test_the_estimate_lies_below_cpu_programs(small_policy, devices, overrides):
    check_estimate(small_policy, devices, overrides, least=0.6)


def check_estimate(policy, devices: int, overrides: list[str], *, least: float) -> None:
    """Below what is compiled, and at least such a share of the largest function."""
    config = load_config(
        "configs/phantom.yaml",
        [
            f"policy.path={policy}", "grpo.prompts_per_step=8", "grpo.group_size=4", "rollout.max_new_tokens=64",
            "data.max_prompt_tokens=128", "data.max_pixels=50176", "memory.remat=true", "memory.log_prob_chunk=64",
            "judge.max_statement_tokens=16", *overrides,
        ],
    )  # fmt: skip
    plan = plan_run(config, Topology("this machine", find_topology(None).chip, jax.devices()[:devices]))
    for function in plan.functions:
        assert plan.estimate.of(function.name)[1] <= function.total, function.name
    assert plan.estimate.of()[1] >= least * max(function.total for function in plan.functions)
