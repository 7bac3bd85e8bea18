"""Every attention of the policy beside the one that holds all scores: largest difference, seconds, memory.

    python benchmarks/attention.py                                       # 600, 1280 and 2500 tokens, float32
    python benchmarks/attention.py --dtype bfloat16 --heads 16 2 128 --lengths 2048 4096     # 3B's, on an accelerator

Rows as the update packs them (prompts of 300 to 600 tokens, 8 completions of 160 on average), prompts, and pictures of one
or several to a row. Prints one JSON line per use, length and implementation: the largest difference of outputs and of
gradients from xla's, as a share of its largest number; median milliseconds forward, and forward with backward; MiB of
temporary memory of both, as the compiler counts it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reflex_jax.models.attention import image_attention, prompt_attention, row_attention
from reflex_jax.models.attention_choice import AttentionChoice

WINDOW = 64  # slots of a window of patches


def packed_rows(rows: int, length: int) -> tuple[jax.Array, jax.Array]:
    """Segments and roots [B, T] of prompts with their groups, one behind another until the row is full."""
    draws = np.random.default_rng(0)
    segments, roots = (np.full((rows, length), -1, np.int32) for _ in range(2))
    for row in range(rows):
        place = segment = 0
        while place < length:
            root = segment
            for tokens in (draws.integers(300, 600), *draws.geometric(1 / 160, 8)):
                segments[row, place : place + tokens], roots[row, place : place + tokens] = segment, root
                place, segment = place + int(tokens), segment + 1
    return jnp.asarray(segments), jnp.asarray(roots)


def uses(rows: int, length: int) -> dict[str, tuple[Callable[..., jax.Array], bool]]:
    """What is computed by name, of queries, keys, values and an implementation; whether keys are fewer than queries."""
    segments, roots = packed_rows(rows, length)
    windows = length // WINDOW
    image_ids = jnp.broadcast_to(
        (1 + jnp.arange(windows) // max(1, windows // 3))[None, :, None], (rows, windows, WINDOW)
    )

    def pictures(*parts: jax.Array, implementation: AttentionChoice) -> jax.Array:
        cut = (x[:, : windows * WINDOW].reshape(rows, windows, WINDOW, *x.shape[2:]) for x in parts)
        return image_attention(*cut, image_ids.astype(jnp.int32), implementation=implementation)

    return {
        "rows": (partial(row_attention, segments=segments, roots=roots), True),
        "prompts": (partial(prompt_attention, is_valid=jnp.ones((rows, length), bool)), True),
        "pictures": (pictures, False),
    }


def measure(
    attend: Callable[..., jax.Array], parts: list[jax.Array], repeats: int
) -> tuple[list[jax.Array], dict[str, Any]]:
    """Outputs and gradients of queries, keys and values, and what they cost."""

    def both(*parts: jax.Array) -> Any:
        outputs, pullback = jax.vjp(attend, *parts)
        return outputs, *pullback(outputs)

    row: dict[str, Any] = {}
    for name, function in (("forward", attend), ("with_backward", both)):
        compiled = jax.jit(function).lower(*parts).compile()
        result = jax.block_until_ready(compiled(*parts))
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            jax.block_until_ready(compiled(*parts))
            seconds.append(time.perf_counter() - started)
        row[f"{name}_ms"] = round(1e3 * statistics.median(seconds), 2)
    analysis = compiled.memory_analysis()
    row["temporary_mib"] = round(analysis.temp_size_in_bytes / 2**20, 1) if analysis else None
    return list(result), row


def difference(found: list[jax.Array], expected: list[jax.Array]) -> list[float]:
    """The largest difference of each array, as a share of the largest number expected."""
    pairs = ((np.asarray(a, np.float32), np.asarray(b, np.float32)) for a, b in zip(found, expected, strict=True))
    return [float(f"{np.abs(a - b).max() / np.abs(b).max():.1e}") for a, b in pairs]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[600, 1280, 2500])
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--heads", type=int, nargs=3, default=[12, 2, 64], help="query heads, key heads, their width")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    device = jax.devices()[0]
    print(json.dumps({"device": device.device_kind, "jax": jax.__version__, "dtype": options.dtype}), flush=True)
    heads, key_heads, width = options.heads
    for length in options.lengths:
        for use, (attend, is_grouped) in uses(options.rows, length).items():
            counts = (heads, *(2 * [key_heads if is_grouped else heads]))
            keys = jax.random.split(jax.random.key(0), 3)
            shapes = [(options.rows, length, count, width) for count in counts]
            parts = [jax.random.normal(key, shape, options.dtype) for key, shape in zip(keys, shapes, strict=True)]
            expected: list[jax.Array] = []
            for wanted in ("xla", "blocked") + (("fused",) if device.platform in ("gpu", "tpu") else ()):
                chosen = AttentionChoice(wanted, device.platform)
                found, row = measure(partial(attend, implementation=chosen), parts, options.repeats)
                expected = expected or found
                row = {"use": use, "tokens": length, "implementation": wanted, **row}
                print(json.dumps({**row, "difference": difference(found, expected)}), flush=True)


if __name__ == "__main__":
    main()
