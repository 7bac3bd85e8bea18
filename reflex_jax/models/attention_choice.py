"""Which attention computes what: the wish of a run (`memory.attention`), its devices and the shape at hand decide.

    xla      plain JAX with all scores in memory
    blocked  plain JAX in blocks, on any device (`blocked_attention`)
    fused    a library's kernel: splash attention on TPUs, cuDNN's on NVIDIA GPUs
    auto     xla where the scores are small, else fused where a kernel takes the shape, else blocked

What a run ends up with it says once per use, after its first step (`tell_choices`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from reflex_jax.models.blocked_attention import blocked_attention
from reflex_jax.processes import is_first
from reflex_jax.sharding import map_rows_and_heads
from reflex_jax.trees import Array

# (queries, keys, values, segments, roots or None, is_causal=...) -> as `blocked_attention`
Kernel = Callable[..., Array]
SHORT = 256  # tokens up to which the scores are no burden; on a CPU blocks are faster beyond
_BLOCK_OF_ACCELERATOR = 512  # larger products, and fewer of them
_LONGEST_ROW_OF_SPLASH = (1 << 16) - 512  # tokens, see `splash_attention`; filled up to a block of 512


def cudnn_attention(
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B T K H"],
    values: Float[Array, "B T K H"],
    segments: Int[Array, "B T"],
    roots: Int[Array, "B T"] | None,
    *,
    is_causal: bool,
) -> Float[Array, "B T N H"]:
    """`blocked_attention` by cuDNN, which takes any mask: [B, T, T] in two bytes, once for all heads."""
    length = segments.shape[1]
    queries = queries.astype(keys.dtype)
    odd = length % 2  # the backward pass with a mask takes even lengths
    queries, keys, values = (jnp.pad(x, ((0, 0), (0, odd), (0, 0), (0, 0))) for x in (queries, keys, values))
    segments, roots = (
        jnp.pad(x, ((0, 0), (0, odd)), constant_values=-1) for x in (segments, segments if roots is None else roots)
    )
    is_allowed = (segments[:, :, None] == segments[:, None]) | (roots[:, :, None] == segments[:, None])
    if is_causal:
        is_allowed &= jnp.tri(length + odd, dtype=bool)
    outputs = jax.nn.dot_product_attention(queries, keys, values, mask=is_allowed[:, None], implementation="cudnn")
    return outputs[:, :length]


@dataclass(frozen=True)
class AttentionChoice:
    """What a run wants, and where."""

    wanted: str = "xla"  # auto | xla | blocked | fused
    platform: str = "cpu"  # of the devices the program is for: cpu | gpu | tpu

    def kernel_for(self, use: str, keys: Float[Array, "B T K H"]) -> Kernel | None:
        """What computes an attention to these keys; None: xla, which the caller has.

        Args:
          use: what is read, for the line that says the choice.
          keys: their length, width and dtype.
        """
        if self.wanted in ("xla", "blocked"):
            return None if self.wanted == "xla" else self._sharded(self._blocked())
        refusal = self.refusal(keys)
        if self.holds_scores(keys.shape[1]):
            self._say(use, "xla", f"up to {SHORT} tokens")
            return None
        if refusal:
            self._say(use, "blocked", refusal)
            return self._sharded(self._blocked())
        self._say(use, {"tpu": "splash attention", "gpu": "cuDNN"}[self.platform], self.platform)
        if self.platform == "gpu":
            return self._sharded(cudnn_attention)
        from reflex_jax.models.splash_attention import (
            splash_attention,  # where there is a TPU alone: it is experimental
        )

        return self._sharded(splash_attention)

    def holds_scores(self, length: int) -> bool:
        """Whether the scores of an attention of so many tokens are held whole."""
        return self.wanted == "xla" or (self.wanted == "auto" and length <= SHORT)

    def refusal(self, keys: Float[Array, "B T K H"]) -> str:
        """Why no library's kernel computes this; "" where one does."""
        length, width = keys.shape[1], keys.shape[3]
        if self.platform not in ("tpu", "gpu"):
            return f"no kernel for a {self.platform}"
        if keys.dtype != jnp.bfloat16:
            return f"the kernels compute in bfloat16, this is {keys.dtype}"
        if self.platform == "tpu" and length > _LONGEST_ROW_OF_SPLASH:
            return f"the kernel's rows end at {_LONGEST_ROW_OF_SPLASH} tokens, this has {length}"
        if self.platform == "gpu" and (width % 8 or width > 128):
            return f"the kernel's heads are multiples of 8 up to 128 wide, these {width}"
        return ""

    def _blocked(self) -> Kernel:
        return partial(blocked_attention, block=None if self.platform == "cpu" else _BLOCK_OF_ACCELERATOR)

    def _sharded(self, kernel: Kernel) -> Kernel:
        def run(*arrays: Any, is_causal: bool) -> Array:
            return map_rows_and_heads(partial(kernel, is_causal=is_causal), arrays[:3], arrays[3:])

        return run

    def _say(self, use: str, name: str, why: str) -> None:
        _say_once(f"memory.attention={self.wanted}: attention of {use} by {name} ({why})")


XLA = AttentionChoice()


_lines: dict[str, bool] = {}  # what was chosen, in the order in which programs were traced -> whether it was told


def _say_once(line: str) -> None:
    _lines.setdefault(line, False)


def tell_choices() -> None:
    """Says on standard error what computes which attention in the programs traced so far; each line once, by one process."""
    for line in [line for line, is_told in _lines.items() if not is_told]:
        _lines[line] = True
        if is_first():
            print(line, file=sys.stderr, flush=True)
