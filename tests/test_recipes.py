"""The recipes under configs/: what they say is what the papers say, and every key of theirs changes something."""

import dataclasses
import re
from pathlib import Path

import jax
import pytest
import yaml

from reflex_jax.config import Config, ConfigError, MeshConfig
from reflex_jax.config_reader import load_config
from reflex_jax.data.images import smart_resize
from reflex_jax.data.pipeline import training_batches
from reflex_jax.data.sources import load_examples
from reflex_jax.evaluation.validation import chosen_questions
from reflex_jax.sharding import make_mesh
from reflex_jax.step.abstract_run import abstract_run
from reflex_jax.step.batch import prompt_rungs
from reflex_jax.step.models import completion_shape
from reflex_jax.step.rows import plan_rows
from reflex_jax.step.shapes import largest_prompt, named_shapes
from reflex_jax.text.completion import parse_completion

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def load(name: str, *overrides: str) -> Config:
    return load_config(CONFIGS / f"{name}.yaml", ["data.root=.", *overrides])


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_read_and_says_its_command_first(name):
    config, lines = load(name), (CONFIGS / f"{name}.yaml").read_text().splitlines()
    assert config.run.name == name
    assert len(lines[0]) > 40
    assert any(re.match(rf"#   reflex (train|sft) configs/{name}.yaml( |$)", line) for line in lines[:4])


def keys_of(name: str) -> dict[str, object]:
    """Dotted keys of a recipe as its file has them, and their values."""

    def flatten(tree, prefix):
        for key, value in tree.items():
            path = f"{prefix}{key}"
            # the entries of these are values; their options are held to their rewards by name
            if isinstance(value, dict) and path not in ("rewards.components",):
                yield from flatten(value, f"{path}.")
            else:
                yield path, value

    return dict(flatten(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()), ""))


# (recipe, key) -> what the paper or its code says: REFERENCE of every number that is not ours
PUBLISHED = {
    "reflex_med_7b": {
        "grpo.group_size": 8, "grpo.prompts_per_step": 64, "grpo.kl_coefficient": 0.01, "rollout.temperature": 1.0,
        "optimizer.learning_rate": 1e-6,
    },
    "medvlm_r1_2b": {
        "grpo.group_size": 4, "grpo.kl_coefficient": 0.04, "rollout.max_new_tokens": 512, "rollout.temperature": 1.0,
        "data.max_pixels": 401408, "optimizer.learning_rate": 1e-6, "training.save_every": 50,
        "rewards.components": {"letter": 1, "format": 1},
    },
    "medix_r1_8b": {
        "grpo.group_size": 5, "grpo.prompts_per_step": 512, "grpo.minibatches": 4, "grpo.clip_low": 0.2, "grpo.clip_high": 0.3,
        "grpo.dual_clip": 3.0, "grpo.aggregation": "token", "grpo.kl_coefficient": 0.01, "rollout.max_new_tokens": 4096,
        "data.max_prompt_tokens": 4352, "data.min_pixels": 262144, "data.max_pixels": 4194304,
        "optimizer.learning_rate": 1e-6, "optimizer.weight_decay": 0.01, "optimizer.clip_norm": 1.0,
        "training.keep_checkpoints": 3, "endpoint.max_tokens": 4, "endpoint.enable_thinking": False,
    },
    "rarl_2b": {"policy.lora.rank": 8, "policy.lora.alpha": 16, "training.save_every": 100},
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_stand_in_the_recipe(name):
    found = keys_of(name)
    assert {key: found.get(key) for key in PUBLISHED[name]} == PUBLISHED[name]
    config = load(name)
    if name == "medix_r1_8b":
        weights = config.rewards.weights
        expected = {
            "llm_judge": 0.9 * 0.575,
            "embedding_similarity": 0.9 * 0.375,
            "modality": 0.9 * 0.05,
            "format": 0.1,
        }
        assert weights == pytest.approx(expected) and sum(weights.values()) == pytest.approx(1)
        assert completion_shape(config) == completion_shape(load_config(None, ["data.prompt=medix"]))
    epochs = {"reflex_med_7b": [1, 1], "medvlm_r1_2b": [2], "medix_r1_8b": [2], "rarl_2b": [5]}
    assert [phase.epochs for phase in config.data.phases] == epochs[name]


def test_variants_differ_from_their_recipe_in_what_their_name_says():
    def differences(name, other):
        one, two = (dataclasses.asdict(load(n)) for n in (name, other))
        return {
            f"{section}.{key}"
            for section in one
            for key in one[section]
            if one[section][key] != two[section][key] and section != "run"
        }

    assert differences("reflex_med_7b", "reflex_med_7b_no_vfr") == {"rewards.components"}
    assert differences("reflex_med_7b", "reflex_med_7b_no_bpr") == {"rewards.components"}
    assert differences("reflex_med_7b", "grpo_vanilla_7b") == {"rewards.components", "judge.path"}
    of_dapo = {"grpo.preset", "grpo.clip_high", "grpo.kl_coefficient", "grpo.dynamic_sampling"}
    assert differences("medix_r1_8b", "medix_r1_8b_dapo") == of_dapo
    of_gspo = {
        "grpo.preset", "grpo.clip_low", "grpo.clip_high", "grpo.kl_coefficient", "grpo.ratio_level", "grpo.aggregation",
        "grpo.dual_clip",
    }  # fmt: skip
    assert differences("medix_r1_8b", "medix_r1_8b_gspo") == of_gspo


# --- every key of every recipe changes something: key -> (another value, where it is seen)

# by content or place, which a run compares itself (tests/run): what they name is not a setting of the computation
PLACES = ("run.name", "policy.path", "judge.path", "data.root", "endpoint.url")
FLIPS: dict[str, tuple[str, str]] = {
    "policy.dtype": ("bfloat16", "update"),
    "policy.lora.rank": ("4", "update"),
    "policy.lora.alpha": ("3", "lora"),
    "policy.lora.targets": ("layers/q", "lora"),
    "judge.saliency_block": ("-2", "score"),
    "judge.quantile": ("0.7", "score"),
    "judge.max_statement_tokens": ("16", "score"),
    "data.source": ("slake", "sources"),
    "data.sources": ("[{name: slake}]", "sources"),
    "data.split": ("test", "sources"),
    "data.size": ("32", "questions"),
    "data.prompt": ("medix", "completions"),
    "data.min_pixels": ("40000", "pictures"),
    "data.max_pixels": ("20000", "pictures"),
    "data.max_prompt_tokens": ("160", "update"),
    "data.phases": ("[{answer_type: open}]", "questions"),
    "completion.thought": ("none", "completions"),
    "completion.preamble": ("true", "completions"),
    "completion.fallback": ("true", "completions"),
    "completion.compact": ("true", "completions"),
    "rollout.temperature": ("0.7", "sample"),
    "rollout.top_p": ("0.9", "sample"),
    "rollout.max_new_tokens": ("20", "sample"),
    "grpo.preset": ("gspo", "update"),
    "grpo.group_size": ("4", "sample"),
    "grpo.prompts_per_step": ("4", "sample"),
    "grpo.minibatches": ("2", "update"),
    "grpo.aggregation": ("token", "update"),
    "grpo.clip_low": ("0.1", "two updates"),
    "grpo.clip_high": ("0.3", "two updates"),
    "grpo.dual_clip": ("3", "two updates"),
    "grpo.kl_coefficient": ("0.04", "update"),
    "rewards.components": ("{answer: 1}", "score"),
    "optimizer.learning_rate": ("3.0e-3", "update"),
    "optimizer.weight_decay": ("0.1", "update"),
    "optimizer.b2": ("0.9", "update"),
    "optimizer.clip_norm": ("0.3", "update"),
    "optimizer.schedule": ("cosine", "update"),
    "optimizer.warmup_steps": ("3", "update"),
    "sft.batch_size": ("4", "imitate"),
    "memory.remat": ("true", "update"),
    "memory.log_prob_chunk": ("8", "update"),
    "memory.microbatch_prompts": ("2", "update"),
    "memory.rollout_prompts": ("4", "sample"),
    "memory.row_lengths": ("3", "rows"),
    "memory.prompt_rungs": ("3", "rungs"),
    "mesh.data": ("2", "mesh"),
    "mesh.fsdp": ("4", "mesh"),
    "mesh.tensor": ("2", "mesh"),
    "mesh.preset": ("1-gpu", "mesh"),
    "training.steps": ("7", "questions"),
    "training.evaluation_questions": ("5", "held out"),
}
# of the loop and its files; each is held to what it does by the test named
ELSEWHERE = {
    "training.save_every": "tests/training/test_faults.py::test_an_interrupted_run_ends_bit_for_bit_like_an_undisturbed_one",
    "training.keep_checkpoints": "tests/training/test_faults.py::test_the_best_checkpoint_stays",
    "training.evaluate_every": "tests/training/test_faults.py::test_the_best_checkpoint_stays",
    "endpoint.model": "tests/chat/test_client.py",
    "endpoint.max_tokens": "tests/chat/test_client.py",
    "endpoint.enable_thinking": "tests/chat/test_client.py",
}
PARTS = {
    "sample": "generate", "score": "score_rollout", "update": "update", "two updates": "update", "imitate": "update",
    "lora": "update",
}  # fmt: skip
COMPLETIONS = (
    "<think>a</think> <answer>b</answer>",
    "x <think>a</think><answer>b / c</answer>",
    "<answer>b</answer>",
    "b.",
)
BASE = (
    "policy.path=phantom", "judge.path=phantom", "data.source=phantom", "data.root=.", "data.prompt=bare", "data.size=64",
    "data.max_prompt_tokens=96", "data.min_pixels=3136", "data.max_pixels=50176", "grpo.prompts_per_step=8", "grpo.group_size=2",
    "rollout.max_new_tokens=12", "data.phases=[{answer_type: closed}]", "training.steps=4", "judge.max_statement_tokens=32",
    "memory.row_lengths=1", "memory.prompt_rungs=1", "sft.batch_size=8", "memory.remat=false", "memory.log_prob_chunk=100000",
)  # fmt: skip


def seen(where: str, config: Config) -> object:
    """What a run with this configuration computes or reads, as text that two configurations can be told apart by."""
    if where == "questions":
        batches = training_batches(
            load_examples(config.data, "train", seed=0),
            config.data,
            prompts_per_step=8,
            steps=config.training.steps,
            seed=0,
        )
        return [[example.id for example in batches[step]] for step in range(len(batches))]
    if where == "sources":
        return [(source.name, source.split or config.data.split) for source in config.data.mixture]
    if where == "completions":
        return [parse_completion(text, shape=completion_shape(config)) for text in COMPLETIONS]
    if where == "held out":
        examples = load_examples(config.data, "validation", seed=0)
        return [example.id for example in chosen_questions(config, examples)]
    if where == "pictures":
        limits = {"min_pixels": config.data.min_pixels, "max_pixels": config.data.max_pixels}
        return [smart_resize(*sides, **limits) for sides in ((100, 120), (400, 500))]
    if where == "mesh":
        try:
            return make_mesh(config.mesh).shape
        except ConfigError as error:  # other devices than the 8 that are here
            return str(error)
    shapes = named_shapes(config, make_mesh(MeshConfig(data=1), jax.devices()[:1]))
    if where == "rungs":
        return prompt_rungs(largest_prompt(config.data, shapes.policy.vision), config.memory.prompt_rungs)
    if where == "rows":
        return plan_rows(config, shapes.mesh, largest_prompt(config.data, shapes.policy.vision))
    run = abstract_run(config, shapes, supervised=where == "imitate")
    function, arguments = run.functions()[PARTS.get(where, "update")]
    # as written by Python: numbers stand in it, and places in memory do not
    return re.sub(r"0x[0-9a-f]+", "", str(function.trace(*arguments).jaxpr)) + str(arguments)


def before(key: str) -> tuple[str, ...]:
    """Settings without which a key has nothing to change."""
    if key.startswith("policy.lora."):
        return ("policy.lora.rank=8",)
    if key == "memory.row_lengths":
        return ("rollout.max_new_tokens=80",)
    if key == "optimizer.warmup_steps":
        return ("optimizer.schedule=cosine",)
    return ("grpo.minibatches=2",) if FLIPS[key][1] == "two updates" else ()


def flips():
    # tracing an update takes 2 s, which is no computation; the other flips are seen by what the host does
    slow = PARTS.keys()
    return [pytest.param(key, marks=pytest.mark.slow if FLIPS[key][1] in slow else ()) for key in FLIPS]


@pytest.mark.parametrize("key", flips())
def test_a_key_that_a_recipe_sets_changes_something(key):
    other, where = FLIPS[key]
    as_it_was = load_config(None, [*BASE, *before(key)])
    flipped = load_config(None, [*BASE, *before(key), f"{key}={other}"])
    assert seen(where, as_it_was) == seen(where, load_config(None, [*BASE, *before(key)]))
    assert seen(where, flipped) != seen(where, as_it_was)


@pytest.mark.parametrize("name", RECIPES)
def test_every_key_of_a_recipe_is_one_that_is_seen_to_change_something(name):
    unknown = sorted(key for key in keys_of(name) if key not in FLIPS and key not in ELSEWHERE and key not in PLACES)
    assert not unknown, f"say in FLIPS how {', '.join(unknown)} can be seen to change something"


def test_what_is_said_to_be_seen_elsewhere_is_there(repository):
    for place in ELSEWHERE.values():
        file, _, name = place.partition("::")
        assert name in (repository / file).read_text(), place
    assert not {*FLIPS} & {*ELSEWHERE, *PLACES}
