"""What JAX's splash attention costs in a compiled TPU program, where it is one opaque call.

How many blocks the kernel visits it learns at run time. Counted are those that may have anything to read: under the
diagonal of each row where the attention is causal, else all. Rows that lie end to end visit fewer: the count is the most.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from reflex_jax.planning.hlo import Shape

_PRODUCTS = {"fwd": (2, 7), "dq": (3, 10), "dkv": (4, 10)}  # of a pair of blocks; operands of a call that is not causal


def splash_costs(call: str, operands: Sequence[Shape]) -> tuple[float, float] | None:
    """FLOPs of a call, and the bytes it reads over and above its operands once; None: it is no splash attention.

    Args:
      call: name of the instruction, as the kernel gives it.
      operands: two maps of blocks [1, I, J], queries [N, S, H], keys and values [K, one or two S, H], numbers of segments,
        in the backward pass the log-sum-exp and gradients, and the places of queries if the attention is causal.
    """
    kind = re.match(r"splash_m[hq]a_(fwd|dq|dkv)", call)
    if not kind:
        return None
    products, plain = _PRODUCTS[kind[1]]
    (_, down, across), (heads, sequence, width) = operands[1].dims, operands[2].dims
    copies = operands[3].dims[-2] // sequence  # a packed row has its keys twice, see `splash_attention`
    in_row = down if kind[1] == "dkv" else across // copies
    rows = down * across // (copies * in_row**2)
    block = sequence // (rows * in_row)
    pairs = rows * (in_row * (in_row + 1) / 2 if len(operands) > plain else in_row**2)
    visits = pairs * heads
    read_again = visits * 2 * Shape(operands[2].dtype, (block, width), is_on_chip=False).bytes
    return visits * products * 2.0 * block**2 * width, read_again
