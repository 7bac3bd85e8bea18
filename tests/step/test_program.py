"""Every command compiles the same functions: what is planned is what trains, scores and evaluates."""

import dataclasses
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reflex_jax.config_reader import load_config
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.data.sources import load_examples
from reflex_jax.evaluation import validation
from reflex_jax.evaluation.validation import Evaluator
from reflex_jax.judge.batch import judge_pixels
from reflex_jax.models import layers
from reflex_jax.planning import plan as planning
from reflex_jax.planning.topology import find_topology
from reflex_jax.records import Draws, Rollout
from reflex_jax.sharding import BatchRows, batch_sharding, make_mesh, replicated
from reflex_jax.step import program as program_module
from reflex_jax.step.abstract_run import abstract_run
from reflex_jax.step.batch import BatchBuilder, measure_prompts, prompt_rungs
from reflex_jax.step.models import load_models, load_params, make_host_bridge
from reflex_jax.step.program import Program, build_program
from reflex_jax.step.rows import plan_rows
from reflex_jax.training.objectives import Grpo
from reflex_jax.training.preflight import check_memory
from reflex_jax.training.trainer import GrpoTrainer

SETTINGS = [
    "grpo.prompts_per_step=8", "grpo.group_size=2", "rollout.max_new_tokens=8", "data.size=16", "data.max_pixels=12544",
    "mesh.data=1", "mesh.fsdp=2", "judge.max_statement_tokens=24",
]  # fmt: skip


class Noted:
    """A jitted function that keeps what would be compiled for the arguments it is called with, and returns zeros there."""

    def __init__(self, function, texts: dict[str, str], name: str, place):
        self._function, self._texts, self._name, self._place = function, texts, name, place

    def __call__(self, *arguments):
        self._texts[self._name] = self._function.lower(*arguments).as_text()
        # of all that it returns, also what it hands on
        outputs = jax.eval_shape(self._function, *arguments)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), outputs)
        return jax.device_put(zeros, self._place(zeros))


def noted(program: Program) -> tuple[Program, dict[str, str]]:
    """A program that computes nothing; what it returns lies where the real one's results would."""
    texts: dict[str, str] = {}
    shapes = program.shapes
    batched = lambda _: batch_sharding(shapes.mesh)  # noqa: E731
    places = {
        "gather": lambda _: jax.tree.map(lambda leaf: leaf.sharding, program.gather.weights),
        "sample": batched, "greedy": batched, "score": batched, "train_step": lambda _: replicated(shapes.mesh),
    }  # fmt: skip
    functions = {n: Noted(getattr(program, n), texts, n, place) for n, place in places.items()}
    return dataclasses.replace(program, **functions), texts


@pytest.fixture(scope="module")
def run():
    """Config, models, sizes and questions of a small phantom run on two devices."""
    config = load_config("configs/phantom.yaml", SETTINGS)
    models = load_models(config, make_mesh(config.mesh, jax.devices()[:2]))
    examples = load_examples(config.data, "train", seed=0)
    return config, models, measure_prompts(config, models.processor, examples, with_judge=True), examples


def test_training_and_evaluation_run_what_is_planned(run, monkeypatch):
    monkeypatch.setattr(layers, "_LARGE_KERNEL", 1)  # of these, all are turned
    config, models, sizes, examples = run
    program, texts = noted(build_program(config, models.shapes))
    state, frozen = program.start(load_params(models), models.judge.params, with_reference=True)
    bridge = make_host_bridge(config, models)
    build = BatchBuilder(models, sizes, models.shapes.rows(8), judge=config.judge)
    trainer = GrpoTrainer(config, program, frozen, build, bridge, plan_rows(config, models.shapes.mesh, sizes))
    fetch, axes = BatchRows.fetch, []
    monkeypatch.setattr(BatchRows, "fetch", lambda rows, tree: axes.append(_most_axes(tree)) or fetch(rows, tree))
    trainer.run_step(state, build(examples[:8]), 1)
    assert axes == [3, 2]  # tokens, then one number for each completion: maps stay on the devices
    planned = abstract_run(config, models.shapes, sizes)
    functions, expected = planned.functions(), {}
    for name, function in (("gather", "gather_weights"), ("sample", "generate")):
        compiled, arguments = functions[function]
        expected[name] = compiled.lower(*arguments).as_text()
    assert texts.keys() == {"gather", "sample", "train_step"}
    assert {name: texts[name] for name in expected} == expected
    step = planned.program.train_step.lower(planned.state, planned.frozen, planned.batch)
    assert texts["train_step"] == step.as_text()

    texts.clear()
    monkeypatch.setattr(validation, "chosen_questions", lambda config, examples: examples[:8])
    Evaluator(config, models, program, bridge, examples, sizes).run(
        program.gather(state.params, frozen.fixed), frozen.judge
    )
    assert texts.keys() == {"gather", "sample", "greedy", "score"}
    assert {name: texts[name] for name in expected} == expected


def test_a_batch_of_a_smaller_prompt_size_makes_the_step_of_the_largest(run):
    """As a run is by default: prompts padded to less are sampled so, and rows of one length update with any of them."""
    config, models, sizes, examples = run
    larger = PromptSizes(2 * sizes.prompt_tokens, 2 * sizes.windows)
    plan, program = plan_rows(config, models.shapes.mesh, larger), build_program(config, models.shapes)
    plan = dataclasses.replace(plan, lengths=(96, *plan.lengths))
    bridge, steps, lengths = make_host_bridge(config, models), [], []
    for rungs in (1, 3):
        state, frozen = program.start(load_params(models), models.judge.params, with_reference=True)
        build = BatchBuilder(models, larger, models.shapes.rows(8), judge=config.judge, rungs=rungs)
        batch = build(examples[:8])
        lengths.append(batch.prompts.tokens.shape[1])
        steps.append(GrpoTrainer(config, program, frozen, build, bridge, plan).run_step(state, batch, 1))
    assert lengths[1] < lengths[0] == larger.prompt_tokens
    (whole, expected), (short, got) = steps
    np.testing.assert_array_equal(got.arrays["tokens"], expected.arrays["tokens"])
    chex.assert_trees_all_close(jax.device_get(short.params), jax.device_get(whole.params), rtol=1e-4, atol=2e-6)
    assert got.metrics["rows/slots_per_token"] == expected.metrics["rows/slots_per_token"]
    assert program.update.jitted._cache_size() == program.score.jitted._cache_size() == 1  # not for each prompt size
    assert program.train_step.jitted._cache_size() == 0  # the judge would be compiled for each length of rows


@pytest.mark.parametrize("in_stages", [True, False])
def test_stages_of_a_rollout_are_a_setting_of_memory(run, monkeypatch, in_stages):
    config, models, sizes, _ = run
    asked = []

    def generate(weights, prompts, draws, shape, vocabulary, sampling, **_) -> Rollout:
        asked.append(sampling)
        tokens = jnp.zeros((8, 2, 8), jnp.int32)
        return Rollout(tokens=tokens, log_probs=tokens.astype(jnp.float32), mask=tokens > 0)

    monkeypatch.setattr(program_module, "generate", generate)
    config = dataclasses.replace(config, memory=dataclasses.replace(config.memory, rollout_stages=in_stages))
    planned = abstract_run(config, models.shapes, sizes)
    planned.program.sample.lower(planned.weights, planned.batch.prompts, planned.draws)
    assert [sampling.in_stages for sampling in asked] == [in_stages]


def test_a_few_prompts_sampled_at_one_time_get_the_completions_of_all_together(run):
    config, models, sizes, examples = run
    rows = models.shapes.rows(8)
    build = BatchBuilder(models, sizes, rows, judge=config.judge)
    prompts, ids = rows.place((build(examples[:8]).prompts, rows.local.astype(np.int32)))
    rollouts, shapes_seen = [], []
    for few in (0, 4):
        some = dataclasses.replace(config, memory=dataclasses.replace(config.memory, rollout_prompts=few))
        program = build_program(some, models.shapes)
        state, frozen = program.start(load_params(models), None, with_reference=False)
        given = (program.gather(state.params, frozen.fixed), prompts, Draws(jax.random.key(3), ids))
        rollouts.append(program.sample(*given))
        # the logits of a token: of all prompts, or of those that are sampled together
        text = str(program.sample.trace(*given).jaxpr)
        shapes_seen.append([f"f32[{p},2,{models.shapes.policy.text.vocabulary}]" in text for p in (8, 4)])
    assert shapes_seen == [[True, False], [False, True]]
    whole, parts = jax.device_get(rollouts)
    np.testing.assert_array_equal(parts.tokens, whole.tokens)
    np.testing.assert_array_equal(parts.mask, whole.mask)
    np.testing.assert_allclose(parts.log_probs, whole.log_probs, atol=1e-5)


def test_a_batch_is_padded_to_the_smallest_size_that_holds_all_of_its_prompts(run):
    """Also those of other processes: all have to run the same program."""
    config, models, sizes, examples = run
    largest = PromptSizes(4 * sizes.prompt_tokens, 4 * sizes.windows)
    rungs = prompt_rungs(largest, 3)
    assert rungs == (sizes, PromptSizes(2 * sizes.prompt_tokens, 2 * sizes.windows), largest)
    assert prompt_rungs(largest, 1) == (largest,)
    rows = models.shapes.rows(2)
    rows = dataclasses.replace(rows, local=rows.local[:1])  # of the first of two processes
    build = BatchBuilder(models, largest, rows, judge=config.judge, rungs=3)
    longer = dataclasses.replace(examples[1], question=" ".join(["long"] * sizes.prompt_tokens))
    short, mixed = build(examples[:2]), build([examples[0], longer])
    for batch, (length, windows, _) in ((short, vars(rungs[0]).values()), (mixed, vars(rungs[1]).values())):
        assert batch.prompts.tokens.shape == (1, length) and batch.prompts.vision.image_ids.shape[1] == windows
    # the same prompt, further right
    np.testing.assert_array_equal(short.prompts.tokens[0], mixed.prompts.tokens[0, sizes.prompt_tokens :])


def _most_axes(tree) -> int:
    return max(leaf.ndim for leaf in jax.tree.leaves(tree))


def test_a_run_that_asks_no_judge_reads_none(run):
    _, _, _, examples = run
    strings = ["rewards.components={answer: 1, format: 1}", "judge.path=/nowhere"]
    config = load_config("configs/phantom.yaml", [*SETTINGS, *strings])
    objective, mesh = Grpo(config), make_mesh(config.mesh, jax.devices()[:2])
    assert not objective.with_judge
    check_memory(objective, mesh)
    models = load_models(config, mesh, with_judge=objective.with_judge)
    sizes = measure_prompts(config, models.processor, examples, with_judge=False)
    batch = BatchBuilder(models, sizes, models.shapes.rows(8), judge=config.judge)(examples[:8])
    tokens = np.zeros((8, 2, 8), np.int32)
    bridged = make_host_bridge(config, models)(batch.examples, tokens, tokens == 0, batch.judge_pixels)
    assert models.judge is None and batch.judge_pixels is None and bridged.judge is None
    assert bridged.scores.components.keys() == {"answer", "format"} and bridged.scores.is_valid.all()
    assert abstract_run(config, models.shapes, sizes).frozen.judge is None


def test_a_batch_holds_its_questions_in_order_whichever_is_read_first(run):
    config, models, sizes, examples = run

    def slow(picture, seconds):
        return dataclasses.replace(picture, data=lambda: time.sleep(seconds) or picture.read())

    few = examples[:4]
    late = [  # the first one is ready last
        dataclasses.replace(example, images=tuple(slow(picture, 0.05 * (3 - number)) for picture in example.images))
        for number, example in enumerate(few)
    ]
    batch = BatchBuilder(models, sizes, models.shapes.rows(4), judge=config.judge)(late)
    encoded = [models.processor.encode(example.load_images(), example.question) for example in few]
    expected = models.processor.collate(encoded, prompt_tokens=sizes.prompt_tokens, windows=sizes.windows)
    assert batch.prompts.vision.patches.dtype == np.uint8
    chex.assert_trees_all_equal(batch.prompts, expected)
    for seen, example in zip(batch.judge_pixels, few, strict=True):
        np.testing.assert_array_equal(seen, judge_pixels(example.load_images()[0], models.judge.config))


@pytest.mark.parametrize(
    ("picture", "seen"),
    [
        ("first", (0, 0)),
        ("0", (0, 0)),
        ("1", (1, 0)),
        ("2", (2, 0)),
        ("7", (2, 0)),
        ("-1", (2, 0)),
        ("-9", (0, 0)),
        ("last", (2, 0)),
    ],
)
def test_the_judge_looks_at_the_picture_that_the_configuration_names(run, picture, seen):
    """Of a question with three pictures and of one with a single one."""
    config, models, sizes, examples = run
    several = dataclasses.replace(examples[0], images=tuple(e.images[0] for e in examples[:3]))
    room = sizes.union(PromptSizes(*models.processor.size_of(several)))
    build = BatchBuilder(models, room, models.shapes.rows(2), judge=dataclasses.replace(config.judge, picture=picture))
    batch = build([several, examples[3]])
    expected = [several.images[seen[0]], examples[3].images[seen[1]]]
    for got, image in zip(batch.judge_pixels, expected, strict=True):
        np.testing.assert_array_equal(got, judge_pixels(image.load(), models.judge.config))


def test_the_judge_looks_at_all_pictures_where_it_is_asked_for_the_mean(run):
    """The run's question with most pictures says how much room there is; behind a question's own there is nothing."""
    config, models, _, examples = run
    config = dataclasses.replace(config, judge=dataclasses.replace(config.judge, picture="mean"))
    several = dataclasses.replace(examples[0], images=tuple(e.images[0] for e in examples[:3]))
    room = measure_prompts(config, models.processor, [several], examples[3:], with_judge=True)
    assert room.judged == 3
    asked = [several, examples[3]]
    batch = BatchBuilder(models, room, models.shapes.rows(2), judge=config.judge, rungs=3)(asked)
    side = models.judge.config.vision.image_size
    assert batch.judge_pixels.shape == (2, 3, side, side, 3) and not batch.judge_pixels[1, 1:].any()
    for p, k in ((0, 0), (0, 1), (0, 2), (1, 0)):
        expected = judge_pixels(asked[p].images[k].load(), models.judge.config)
        np.testing.assert_array_equal(batch.judge_pixels[p, k], expected)
    tokens = np.zeros((2, 1, 4), np.int32)
    seen = make_host_bridge(config, models)(asked, tokens, np.ones(tokens.shape, bool), batch.judge_pixels).judge
    assert seen.picture_count.tolist() == [3, 1]
    alone = dataclasses.replace(config, judge=dataclasses.replace(config.judge, picture="first"))
    assert measure_prompts(alone, models.processor, [several], with_judge=True).judged == 1


def test_a_plan_compiles_the_functions_of_the_program(run, monkeypatch):
    """Of the shapes that settings name; nothing is compiled here, only what goes to the compiler is compared."""
    config, *_ = run
    texts = {}

    def compile_nothing(name, lowered, arguments, held):
        texts[name] = lowered.as_text()
        return planning.FunctionPlan(name, held, 0, 0, 0, None, (), 0.0)

    monkeypatch.setattr(planning, "_compile", compile_nothing)
    plan = planning.plan_run(config, dataclasses.replace(find_topology(None), devices=jax.devices()[:2]))
    program = build_program(config, plan.run.shapes)
    of_program = {
        "gather_weights": program.gather, "generate": program.sample, "score_rollout": program.score,
        "update": program.update,
    }  # fmt: skip
    assert texts.keys() == of_program.keys()
    for name, (_, arguments) in plan.run.functions().items():
        assert texts[name] == of_program[name].lower(*arguments).as_text(), name
