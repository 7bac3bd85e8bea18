"""Counted costs against hand counts: loops multiplied out, attention, vision tower and backward pass included."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from reflex_jax.config import MeshConfig
from reflex_jax.config_reader import load_config
from reflex_jax.grpo.objective import TokenMetrics
from reflex_jax.models.bert import BertConfig
from reflex_jax.models.biomedclip import BiomedClipConfig, init_judge_params
from reflex_jax.models.clip_vision import VisionTowerConfig
from reflex_jax.models.qwen_vl import HowToCompute, QwenVLConfig, init_policy_params
from reflex_jax.planning.hlo_costs import count_costs
from reflex_jax.records import Draws, HostScores, JudgeInputs, PromptInputs, VisionInputs
from reflex_jax.sharding import make_mesh
from reflex_jax.step.generate import generate
from reflex_jax.step.open_rows import SCOPE
from reflex_jax.step.rounds import RowReader
from reflex_jax.step.sampling import Sampling, Vocabulary
from reflex_jax.step.score import score_rollout
from tests.laid_out import sequences_in_rows
from tests.tiny_policy import CONFIG

PROMPTS, GROUP, PROMPT_TOKENS, STEPS, WINDOWS = 2, 4, 24, 16, 3


def _costs(function, *arguments):
    return count_costs(jax.jit(function).lower(*arguments).compile().as_text())


def test_a_product_counts_two_for_each_multiply_add():
    costs = _costs(lambda a, b: a @ b, jnp.zeros((64, 32)), jnp.zeros((32, 16)))
    assert costs.flops == 2 * 64 * 32 * 16
    assert costs.bytes == 4 * (64 * 32 + 32 * 16 + 64 * 16)
    assert costs.collectives == {} and costs.bounded_loops == costs.unknown_loops == ()


def test_loops_in_loops_are_multiplied_out():
    def inner(x, _):
        return x @ x, None

    def outer(x, _):
        return jax.lax.scan(inner, x, None, length=5)[0], None

    costs = _costs(lambda x: jax.lax.scan(outer, x, None, length=7)[0], jnp.zeros((32, 32)))
    assert costs.flops == 7 * 5 * 2 * 32**3


def test_a_loop_that_may_stop_early_counts_to_its_bound_and_says_so():
    def proceeds(carry):
        step, x = carry
        return (step < 12) & (x.sum() < 1e9)

    costs = _costs(
        lambda x: jax.lax.while_loop(proceeds, lambda c: (c[0] + 1, c[1] @ c[1]), (jnp.int32(2), x))[1],
        jnp.zeros((32, 32)),
    )
    assert costs.flops == 10 * 2 * 32**3
    assert len(costs.bounded_loops) == 1


def test_the_tightest_of_several_bounds_counts():
    def proceeds(carry):
        return (carry[0] < 12) & (carry[0] <= 6) & (carry[1].sum() < 1e9)

    costs = _costs(
        lambda x: jax.lax.while_loop(proceeds, lambda c: (c[0] + 2, c[1] @ c[1]), (jnp.int32(1), x))[1],
        jnp.zeros((32, 32)),
    )
    assert costs.flops == 3 * 2 * 32**3  # at 1, 3 and 5


@pytest.mark.parametrize(("holds", "mirrored"), [("LT", "GT"), ("LE", "GE"), ("NE", "NE")])
def test_a_bound_counts_on_either_side_of_its_comparison(holds, mirrored):
    """Compilers put it on the right, and say how often a loop runs; without that and exchanged it counts the same."""

    def loop(x):
        return jax.lax.while_loop(lambda c: c[0] < 12, lambda c: (c[0] + 2, c[1] @ c[1]), (jnp.int32(2), x))[1]

    text = jax.jit(loop).lower(jnp.zeros((32, 32))).compile().as_text()
    text, said = re.subn(r'"known_trip_count":\{[^}]*\},?', "", text)
    assert said == 1
    compare = re.compile(r"compare\((\S+), (\S+)\), direction=LT")
    assert len(compare.findall(text)) == 1
    for exchanged in (rf"compare(\1, \2), direction={holds}", rf"compare(\2, \1), direction={mirrored}"):
        costs = count_costs(compare.sub(exchanged, text))
        assert costs.flops == (6 if holds == "LE" else 5) * 2 * 32**3
        assert costs.bounded_loops == costs.unknown_loops == ()


def test_a_loop_that_takes_over_from_another_adds_nothing():
    def more(x, until):
        def proceeds(carry):
            return (carry[0] < 12) & (carry[1].sum() < until)

        return jax.lax.while_loop(proceeds, lambda c: (c[0] + 1, c[1] @ c[1]), (jnp.int32(0), x))[1]

    def function(x):
        x = more(x, 1e9)
        with jax.named_scope(SCOPE):
            return more(x, 1e12)

    costs = _costs(function, jnp.zeros((32, 32)))
    assert costs.flops == 12 * 2 * 32**3 and costs.unknown_loops == () and len(costs.bounded_loops) == 1


@pytest.mark.parametrize("kind", ["no counter", "unknown bound", "unknown start"])
def test_a_loop_of_unknown_length_counts_once_and_is_named(kind):
    def halve(x):
        return (x @ x) / 2

    def function(x, n):
        if kind == "no counter":
            return jax.lax.while_loop(lambda x: x.sum() > 1, halve, x)
        start, stop = (0, n) if kind == "unknown bound" else (n, 9)
        return jax.lax.fori_loop(start, stop, lambda _, x: halve(x), x)

    costs = _costs(function, jnp.zeros((32, 32)), jnp.int32(4))
    assert costs.flops == 2 * 32**3
    assert len(costs.unknown_loops) == 1 and "while" in costs.unknown_loops[0]


def test_a_scan_in_a_loop_that_may_stop_early_is_multiplied_out():
    def body(carry):
        step, x = carry
        return step + 1, jax.lax.map(lambda row: row @ row, jnp.stack([x] * 5)).sum(0)

    costs = _costs(
        lambda x: jax.lax.while_loop(lambda c: (c[0] < 7) & (c[1].sum() < 1e9), body, (jnp.int32(0), x))[1],
        jnp.zeros((32, 32)),
    )
    assert costs.flops == 7 * 5 * 2 * 32**3
    assert costs.unknown_loops == () and len(costs.bounded_loops) == 1


def test_the_dearest_branch_counts():
    costs = _costs(
        lambda i, x: jax.lax.switch(i, [lambda x: x, lambda x: x @ x, lambda x: x @ x @ x], x), 0, jnp.zeros((32, 32))
    )
    assert costs.flops == 2 * 2 * 32**3


@pytest.mark.parametrize(
    ("place", "kind", "sent"),
    [
        # a row of 8 x 4 numbers on each of 8 devices; a ring sends all parts but one's own
        (PartitionSpec(), "all-gather", 7 * 4 * 4),
        ("sum", "all-reduce", 2 * 7 / 8 * 4 * 4),
    ],
)
def test_collectives_count_what_one_device_sends(place, kind, sent):
    mesh = make_mesh(MeshConfig(data=8))
    x = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data")))
    if place == "sum":
        function = jax.jit(lambda x: x.sum(0), out_shardings=NamedSharding(mesh, PartitionSpec()))
    else:
        function = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, place))
    assert count_costs(function.lower(x).compile().as_text()).collectives == {kind: sent}


def _inputs(config: QwenVLConfig) -> PromptInputs:
    slots = (PROMPTS, WINDOWS, config.vision.patches_per_window)
    return PromptInputs(
        tokens=jnp.zeros((PROMPTS, PROMPT_TOKENS), jnp.int32),
        is_valid=jnp.ones((PROMPTS, PROMPT_TOKENS), bool),
        positions=jnp.zeros((PROMPTS, 3, PROMPT_TOKENS), jnp.int32),
        feature_index=jnp.zeros((PROMPTS, PROMPT_TOKENS), jnp.int32),
        vision=VisionInputs(
            jnp.zeros((*slots, config.vision.patch_width)),
            jnp.zeros((*slots, 2), jnp.int32),
            jnp.ones(slots, jnp.int32),
        ),
    )


def _layer_flops(config: QwenVLConfig, tokens: int) -> int:
    """One decoder layer without its attention scores."""
    text = config.text
    key_width = text.key_heads * text.head_width
    return 2 * tokens * text.width * (2 * text.width + 2 * key_width + 3 * text.hidden)


def _vision_flops(config: QwenVLConfig) -> tuple[int, int, int]:
    """Of one image: patch embedding, all layers, merger."""
    vision = config.vision
    slots = WINDOWS * vision.patches_per_window
    wide = vision.width * vision.patches_per_feature
    layers = vision.depth * 2 * slots * vision.width * (4 * vision.width + 3 * vision.hidden)
    for index in range(vision.depth):
        keys = slots if index in vision.full_attention_layers else vision.patches_per_window
        layers += 4 * slots * keys * vision.width
    merger = 2 * slots // vision.patches_per_feature * wide * (wide + vision.output_width)
    return 2 * slots * vision.patch_width * vision.width, layers, merger


def _update_layer_flops(config: QwenVLConfig) -> int:
    """All decoder layers over one prompt and its group, the prompt once."""
    slots = PROMPT_TOKENS + GROUP * STEPS
    return config.text.layers * (_layer_flops(config, slots) + 4 * slots * slots * config.text.width)


@pytest.mark.parametrize("kind", ["forward", "gradient", "rounds and chunks"])
def test_the_update_costs_what_a_hand_count_says(kind):
    params = jax.eval_shape(lambda: init_policy_params(CONFIG, jax.random.key(0)))
    tokens = jnp.zeros((PROMPTS, GROUP, STEPS), jnp.int32)

    rows = 1 if "rounds" in kind else PROMPTS  # one prompt at a time, its logits in chunks; or all at once
    chunk = (PROMPT_TOKENS + GROUP * STEPS) // 4 if "rounds" in kind else 10**6
    reader = RowReader(
        CONFIG, np.ones(CONFIG.text.vocabulary, bool), 1.0, HowToCompute(remat=True, log_prob_chunk=chunk), ways=1,
        every_round=True,
    )  # fmt: skip
    sequences = sequences_in_rows(_inputs(CONFIG), np.asarray(tokens), rows=rows)

    def forward(params, sequences):
        return reader.log_probs(params, sequences, reader.features(params, sequences))

    def gradient(params, sequences):
        def loss_of(log_probs, entropies, is_here):
            return log_probs.sum(), TokenMetrics({}, {}, jnp.float32(1))

        return reader.gradients(params, {}, sequences, loss_of)

    costs = _costs(forward if kind == "forward" else gradient, params, sequences)
    embedding, vision_layers, merger = _vision_flops(CONFIG)
    slots = PROMPT_TOKENS + GROUP * STEPS  # of a row; all are counted, those without a completion token are skipped
    head = 2 * slots * CONFIG.text.width * CONFIG.text.vocabulary
    layers = vision_layers + _update_layer_flops(CONFIG)
    if kind == "forward":
        by_hand = embedding + layers + merger + head
    else:
        # forward, layers again for the backward pass, two products for each; a layer's last product is not needed again,
        # and pixels want no gradient; chunks of logits are computed again too
        text, vision = CONFIG.text, CONFIG.vision
        last = text.layers * 2 * (PROMPT_TOKENS + GROUP * STEPS) * text.width * text.hidden
        last += vision.depth * 2 * WINDOWS * vision.patches_per_window * vision.width * vision.hidden
        by_hand = 2 * embedding + 4 * layers - last + 3 * (merger + head) + (head if "chunks" in kind else 0)
        if "rounds" in kind:  # pictures are looked at once more
            by_hand += embedding + vision_layers + merger
    assert costs.flops == pytest.approx(PROMPTS * by_hand, rel=0.02)
    assert costs.bounded_loops == costs.unknown_loops == ()


def _sample(steps, params, key):
    vocabulary = Vocabulary(np.ones(CONFIG.text.vocabulary, bool), eos_ids=(1,), pad_id=0)
    sampling = Sampling(group_size=GROUP, max_new_tokens=steps, temperature=1.0)
    return generate(params, _inputs(CONFIG), Draws(key, jnp.arange(PROMPTS)), CONFIG, vocabulary, sampling)


def test_generation_costs_what_a_hand_count_says():
    params = jax.eval_shape(lambda: init_policy_params(CONFIG, jax.random.key(0)))
    costs = _costs(partial(_sample, STEPS), params, jax.random.key(0))
    text = CONFIG.text
    prompt = _layer_flops(CONFIG, PROMPT_TOKENS) + 4 * PROMPT_TOKENS**2 * text.width
    token = _layer_flops(CONFIG, 1) + 4 * (PROMPT_TOKENS + STEPS) * text.width
    head = 2 * text.width * text.vocabulary
    by_hand = sum(_vision_flops(CONFIG)) + text.layers * prompt + head
    by_hand += (STEPS - 1) * GROUP * (text.layers * token + head)
    assert costs.flops == pytest.approx(PROMPTS * by_hand, rel=0.02)
    assert len(costs.bounded_loops) == 1  # it may end early
    assert costs.unknown_loops == ()


def test_every_token_reads_the_weights_and_the_caches():
    """The bytes of decoding grow by one token's weights and cache, not by less: a fused operand is read as a whole."""
    params = jax.eval_shape(lambda: init_policy_params(CONFIG, jax.random.key(0)))

    def moved(steps: int) -> float:
        return _costs(partial(_sample, steps), params, jax.random.key(0)).bytes

    language = 4 * sum(leaf.size for name, part in params.items() if name != "vision" for leaf in jax.tree.leaves(part))
    assert moved(9) - moved(8) > language


JUDGE = BiomedClipConfig(
    vision=VisionTowerConfig(image_size=32, patch_size=4, width=32, depth=3, heads=2, hidden=96),
    text=BertConfig(
        vocabulary=50, width=32, depth=2, heads=2, hidden=64, positions=32, types=2, pad_token_id=0, context_length=32
    ),
    embed_dim=16,
)  # fmt: skip


def _chunk_flops(tokens: int, reach: int, statements: int) -> int:
    """Text tower over a chunk whose tokens each read so many: full layers, a last one that only [CLS] asks, the projection."""
    text = JUDGE.text
    width, middle = text.width, (text.width + JUDGE.embed_dim) // 2
    full = 8 * tokens * width**2 + 4 * tokens * reach * width + 4 * tokens * width * text.hidden
    asking = (
        4 * width**2 + 4 * tokens * width + 4 * width * text.hidden + 2 * width * middle + 2 * middle * JUDGE.embed_dim
    )
    return (text.depth - 1) * full + 4 * tokens * width**2 + statements * asking


def _picture_flops() -> int:
    """Image tower over one picture."""
    vision = JUDGE.vision
    width, rows = vision.width, 1 + vision.grid_size**2
    embedding = 2 * vision.grid_size**2 * 3 * vision.patch_size**2 * width
    full = 8 * rows * width**2 + 4 * rows**2 * width + 4 * rows * width * vision.hidden
    last = 4 * rows * width**2 + 4 * width**2 + 4 * rows * width + 4 * width * vision.hidden
    return embedding + (vision.depth - 1) * full + last + 2 * width * JUDGE.embed_dim


def _saliency_flops(block: int) -> int:
    """One pullback of attention_gradient from the embedding to the probabilities of `block` and later ones."""
    vision = JUDGE.vision
    width, rows = vision.width, 1 + vision.grid_size**2
    # head, MLP and output projection of the [CLS] row, then what each value would have added
    last = 2 * width * JUDGE.embed_dim + 4 * width * vision.hidden + 2 * width**2 + 2 * rows * width
    if block == -1:
        return last
    # on to the block before: through q, k and v of the last one, then as above for all rows; then the rollout
    through = 2 * rows * width + 4 * rows * width + 2 * width**2 + 4 * rows * width**2
    before = 4 * rows * width * vision.hidden + 2 * rows * width**2 + 2 * rows**2 * width
    return last + through + before + 2 * rows**2


@pytest.mark.parametrize("block", [-1, -2])
def test_the_judge_costs_what_a_hand_count_says(block):
    prompts, group, tokens = 12, 4, 16
    columns = group + 1
    config = load_config(None, [f"judge.saliency_block={block}", f"grpo.group_size={group}"])
    inputs = JudgeInputs(
        pixels=jnp.zeros((prompts, 32, 32, 3), jnp.uint8),
        statements=jnp.ones((prompts, columns, tokens), jnp.int32),
        statement_count=jnp.full(prompts, columns),
        statement_index=jnp.zeros((prompts, group), jnp.int32),
        has_statement=jnp.ones((prompts, group), bool),
    )
    scores = HostScores(
        components={name: jnp.zeros((prompts, group)) for name in ("answer", "format")},
        applies={name: jnp.ones((prompts, group), bool) for name in ("answer", "format")},
        is_correct=jnp.ones((prompts, group), bool), is_valid=jnp.ones((prompts, group), bool),
    )  # fmt: skip
    params = jax.eval_shape(lambda: init_judge_params(JUDGE, jax.random.key(0)))
    costs = _costs(lambda *a: score_rollout(*a, config, JUDGE), params, inputs, scores)
    by_hand = _picture_flops() + columns * _saliency_flops(block)
    by_hand += 4 * columns * JUDGE.embed_dim  # similarities to anchor and picture
    # 60 statements: 32 of the longest fill a chunk, whose blocks of 64 tokens read their neighbours, and there may be 60 in it
    text = 2 * _chunk_flops(512, 3 * 64, 60)
    assert costs.flops == pytest.approx(prompts * by_hand + text, rel=0.02)
    assert len(costs.bounded_loops) == 1  # fewer distinct statements take fewer turns
    assert costs.unknown_loops == ()
