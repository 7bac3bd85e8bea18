"""Counted costs of the TPU's attention kernel against hand counts, on operands as a compiled program has them."""

import pytest

from reflex_jax.planning.hlo import Shape
from reflex_jax.planning.hlo_costs import count_costs
from reflex_jax.planning.kernel_costs import splash_costs

HEADS, KEY_HEADS, WIDTH, BLOCK = 14, 2, 128, 512


def operands(kind: str, rows: int, blocks: int, copies: int, *, is_causal: bool) -> list[Shape]:
    """Of one call: maps, queries, keys, values, segments; in the backward pass three more; places."""
    sequence = rows * blocks * BLOCK
    map_shape = (1, blocks, copies * rows * blocks) if kind == "dkv" else (1, rows * blocks, copies * blocks)
    shapes = [("s32", map_shape)] * 2 + [("bf16", (HEADS, sequence, WIDTH))]
    shapes += [("bf16", (KEY_HEADS, copies * sequence, WIDTH))] * 2 + [("s32", (8, sequence))] * 2
    shapes += [("f32", (HEADS, 1, sequence))] * (0 if kind == "fwd" else 3) + [("s32", (8, sequence))] * is_causal
    return [Shape(dtype, dims, False) for dtype, dims in shapes]


@pytest.mark.parametrize(("kind", "products"), [("fwd", 2), ("dq", 3), ("dkv", 4)])
@pytest.mark.parametrize(("copies", "is_causal", "pairs"), [(1, False, 16), (1, True, 10), (2, True, 10)])
def test_pairs_of_blocks_under_the_diagonal_count(kind, products, copies, is_causal, pairs):
    """Two rows of four blocks; the second copy of the keys is read in the place of the first, not beside it."""
    found = splash_costs(f"splash_mha_{kind}_segmented.1", operands(kind, 2, 4, copies, is_causal=is_causal))
    visits = 2 * pairs * HEADS
    assert found == (visits * products * 2 * BLOCK**2 * WIDTH, visits * 2 * BLOCK * WIDTH * 2)


def test_other_calls_are_left_alone():
    assert splash_costs("custom-call.1", []) is None


def test_a_program_with_the_kernel_counts_it():
    """The kernel notes its block sizes over several lines."""
    program = """HloModule test

ENTRY %main (m: s32[1,4,4], q: bf16[2,2048,128], s: s32[8,2048]) -> bf16[2,2048,128] {
  %m = s32[1,4,4]{2,1,0} parameter(0)
  %q = bf16[2,2048,128]{2,1,0} parameter(1)
  %s = s32[8,2048]{1,0} parameter(2)
  %splash_mha_fwd_segmented.1 = bf16[2,2048,128] custom-call(%m, %m, %q, %q, %q, %s, %s), frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, backend_config={}
  ROOT %copy.1 = bf16[2,2048,128]{2,1,0} copy(%splash_mha_fwd_segmented.1)
}
"""
    costs = count_costs(program)
    assert costs.flops == 2 * 16 * 4 * 512**2 * 128
    assert costs.bytes == 6 * 2 * 2048 * 128 * 2 + 2 * 16 * 4 + 2 * 8 * 2048 * 4 + 2 * 16 * 2 * 512 * 128 * 2
