"""Attention in blocks and by the TPU's kernel equals the one that holds all scores, values and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reflex_jax.config import MeshConfig
from reflex_jax.models import attention, attention_choice
from reflex_jax.models.attention_choice import AttentionChoice
from reflex_jax.models.blocked_attention import blocked_attention, blocks_that_meet, even_block
from reflex_jax.models.layers import checkpointed
from reflex_jax.models.splash_attention import _block_maps, block_for, splash_attention
from reflex_jax.planning.hlo_costs import largest_arrays
from reflex_jax.sharding import batch_sharding, make_mesh

ROWS, LENGTH, HEADS, KEY_HEADS, WIDTH = 2, 150, 4, 2, 8
KERNELS = {"blocked": partial(blocked_attention, block=32), "splash": partial(splash_attention, interpret=True)}


def packed(*rows: list[tuple[int, list[int]]]) -> tuple[np.ndarray, np.ndarray]:
    """Segments and roots of rows given as (prompt tokens, [tokens of each completion]) one behind another."""
    segments, roots = (np.full((len(rows), LENGTH), -1, np.int32) for _ in range(2))
    for row, prompts in enumerate(rows):
        place = segment = 0
        for prompt, completions in prompts:
            root = segment
            for tokens in (prompt, *completions):
                segments[row, place : place + tokens], roots[row, place : place + tokens] = segment, root
                place, segment = place + tokens, segment + 1
    return segments, roots


SEGMENTS, ROOTS = packed([(40, [7, 1, 33, 20]), (9, [5, 12])], [(3, [50, 60]), (20, [1])])
IMAGE_IDS = np.repeat([[1, 1, 0, 2, 2, 2, 0, 0, 3, 3], [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]], LENGTH // 10, axis=1)
IS_VALID = (np.arange(LENGTH) >= [[0], [37]]) & (np.arange(LENGTH) < [[131], [LENGTH]])


def rows_case(chosen, *parts):
    return attention.row_attention(*parts, jnp.asarray(SEGMENTS), jnp.asarray(ROOTS), implementation=chosen)


def prompts_case(chosen, *parts):
    return attention.prompt_attention(*parts, jnp.asarray(IS_VALID), implementation=chosen)


def pictures_case(chosen, *parts):
    ids = jnp.asarray(IMAGE_IDS.astype(np.int32)).reshape(ROWS, 10, -1)
    in_windows = (x.reshape(ROWS, 10, -1, *x.shape[2:]) for x in parts)
    return attention.image_attention(*in_windows, ids, implementation=chosen).reshape(parts[0].shape)


CASES = {
    "rows": (rows_case, KEY_HEADS, SEGMENTS >= 0),
    "prompts": (prompts_case, KEY_HEADS, IS_VALID),
    "pictures": (pictures_case, HEADS, IMAGE_IDS > 0),
}


def draw(key_heads: int, seed: int = 0):
    draws = np.random.default_rng(seed)
    shapes = [(ROWS, LENGTH, heads, WIDTH) for heads in (HEADS, key_heads, key_heads, HEADS)]
    return [jnp.asarray(draws.standard_normal(shape), jnp.float32) for shape in shapes]


def value_and_gradients(case, chosen, key_heads, is_read):
    """Of tokens that mean something; what filler gives may differ."""
    *parts, weights = draw(key_heads)
    weights *= jnp.asarray(is_read, jnp.float32)[..., None, None]

    @jax.jit
    def compute(parts, weights):
        outputs, pullback = jax.vjp(partial(case, chosen), *parts)
        return jnp.where(weights != 0, outputs, 0.0), *pullback(weights)

    return compute(parts, weights)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_with_all_scores(name, kernel, monkeypatch):
    monkeypatch.setattr(AttentionChoice, "kernel_for", lambda *_: None)
    expected = value_and_gradients(CASES[name][0], AttentionChoice("xla"), *CASES[name][1:])
    monkeypatch.setattr(AttentionChoice, "kernel_for", lambda *_: KERNELS[kernel])
    found = value_and_gradients(CASES[name][0], AttentionChoice("fused"), *CASES[name][1:])
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        assert not np.asarray(ours)[~CASES[name][2]].any()  # filler gets no gradient


def test_what_filler_reads_is_finite():
    *parts, _ = draw(KEY_HEADS)
    assert np.isfinite(jax.jit(partial(prompts_case, AttentionChoice("blocked")))(*parts)).all()


def test_no_matrix_of_scores_is_held():
    """Forward and backward, the layer checkpointed in either way: nothing is larger than the queries' sums in float32."""
    *parts, _ = (jnp.tile(x, (1, 4, 1, 1)) for x in draw(KEY_HEADS))
    numbers = [jnp.tile(jnp.asarray(x), (1, 4)) for x in (SEGMENTS, ROOTS)]
    attend = partial(blocked_attention, is_causal=True, block=32)
    for remat in (False, True):
        layer = checkpointed(lambda *parts: attend(*parts, *numbers).sum(), remat=remat)
        program = jax.jit(jax.grad(layer, (0, 1, 2))).lower(*parts).compile().as_text()
        (size, shape, _), *_ = largest_arrays(program, 1)
        assert size <= 4 * ROWS * HEADS * 608 * WIDTH, (
            shape
        )  # 600 tokens in blocks of 32; scores would be 75 times that


def test_blocks_of_a_cpu_are_filled_evenly():
    assert [even_block(length, is_causal=True) for length in (90, 305, 640, 1344)] == [96, 160, 160, 160]
    assert [even_block(length, is_causal=False) for length in (90, 576, 1024, 2304)] == [96, 288, 352, 384]


def test_pairs_of_blocks_that_cannot_meet_are_told_apart():
    numbers = jnp.asarray([[0, 0, 0, 1, 1, 2, -1, -1]], jnp.int32)
    found = blocks_that_meet(numbers, numbers, 2, is_causal=False)[0]
    np.testing.assert_array_equal(found, [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(blocks_that_meet(numbers, numbers, 2, is_causal=True)[0], np.tril(found))


def test_the_kernel_is_told_which_blocks_to_visit():
    """Two rows of two blocks, keys there twice: the second row's blocks are 2 and 3, of the second copy 6 and 7."""
    is_met = jnp.asarray([[[0, 0, 1, 0], [1, 0, 1, 1]], [[0, 0, 1, 0], [0, 0, 0, 1]]], bool)
    forward, _, of_keys = _block_maps(is_met, None)
    np.testing.assert_array_equal(forward.block_mask[0], [[0, 0, 1, 0], [1, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(forward.data_next[0], [[4, 4, 4, 4], [0, 0, 4, 5], [6, 6, 6, 6], [7, 7, 7, 7]])
    np.testing.assert_array_equal(of_keys.block_mask[0], [[0, 0, 0, 0, 1, 0, 1, 0], [1, 0, 0, 0, 1, 1, 0, 1]])
    np.testing.assert_array_equal(of_keys.data_next[0], [[1, 0, 2, 2, 0, 1, 2, 3], [1, 0, 2, 2, 1, 1, 2, 3]])


def test_rows_that_are_too_many_for_one_sequence_are_done_in_turn(monkeypatch):
    monkeypatch.setattr("reflex_jax.models.splash_attention.LONGEST_ROW", 256)
    *parts, _ = draw(KEY_HEADS)
    numbers = [jnp.asarray(x) for x in (SEGMENTS, ROOTS)]
    ours = jax.jit(partial(splash_attention, is_causal=True, interpret=True))(*parts, *numbers)
    theirs = attention.row_attention(*parts, *numbers)
    np.testing.assert_allclose(ours[SEGMENTS >= 0], theirs[SEGMENTS >= 0], atol=1e-5)


def test_blocks_of_the_kernel_fill_up_an_eighth_at_most():
    assert [block_for(length) for length in (4096, 5824, 700, 1900, 640, 1024, 90)] == [
        512,
        512,
        256,
        512,
        128,
        512,
        128,
    ]


def test_devices_share_rows_and_heads_and_send_nothing():
    mesh = make_mesh(MeshConfig(data=2, fsdp=1, tensor=2), jax.devices()[:4])
    *parts, _ = draw(KEY_HEADS)
    whole = rows_case(AttentionChoice("xla"), *parts)
    numbers = jax.device_put([jnp.asarray(SEGMENTS), jnp.asarray(ROOTS)], batch_sharding(mesh))
    of_heads = jax.NamedSharding(mesh, jax.P(("data", "fsdp"), None, "tensor"))

    def compute(parts, *numbers):
        outputs, pullback = jax.vjp(
            partial(
                attention.row_attention,
                segments=numbers[0],
                roots=numbers[1],
                implementation=AttentionChoice("blocked"),
            ),
            *parts,
        )
        return outputs, pullback(outputs)

    compiled = jax.jit(compute).lower(jax.device_put(parts, of_heads), *numbers).compile()
    program = compiled.as_text()
    assert not any(f" {kind}(" in program for kind in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))
    found, _ = compiled(jax.device_put(parts, of_heads), *numbers)
    np.testing.assert_allclose(found[SEGMENTS >= 0], whole[SEGMENTS >= 0], atol=1e-5)


LONG, SHORT = (1, 2048, 4, 128), (1, 100, 4, 128)


@pytest.mark.parametrize(
    ("wanted", "platform", "shape", "dtype", "said"),
    [
        ("auto", "cpu", SHORT, "float32", "xla"),
        ("auto", "cpu", LONG, "float32", "blocked"),
        ("auto", "tpu", LONG, "bfloat16", "splash attention"),
        ("auto", "tpu", SHORT, "bfloat16", "xla"),
        ("auto", "gpu", LONG, "bfloat16", "cuDNN"),
        ("fused", "tpu", LONG, "float32", "blocked (the kernels compute in bfloat16, this is float32)"),
        ("fused", "tpu", SHORT, "bfloat16", "splash attention"),
        ("fused", "tpu", (1, 70000, 4, 128), "bfloat16", "blocked (the kernel's rows end at"),
        ("fused", "gpu", (1, 2048, 4, 100), "bfloat16", "blocked (the kernel's heads are multiples of 8"),
    ],
)
def test_what_computes_it_is_chosen_by_device_dtype_and_shape_and_said_once(
    wanted, platform, shape, dtype, said, capsys
):
    attention_choice._lines.clear()
    for _ in range(2):
        kernel = AttentionChoice(wanted, platform).kernel_for("rows", np.broadcast_to(jnp.zeros((), dtype), shape))
    assert (kernel is None) == (said == "xla")
    for _ in range(2):
        attention_choice.tell_choices()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"memory.attention={wanted}: attention of rows by {said}")


@pytest.mark.parametrize("wanted", ["xla", "blocked"])
def test_a_plain_wish_is_fulfilled_without_a_word(wanted, capsys):
    kernel = AttentionChoice(wanted, "tpu").kernel_for("rows", np.broadcast_to(np.float32(0), SHORT))
    attention_choice.tell_choices()
    assert (kernel is None) == (wanted == "xla") and not capsys.readouterr().err
