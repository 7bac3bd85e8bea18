"""DEVICE: where the judge looks for a statement (the S(I, t) of paper Eq. 2).

The paper leaves the method open. All three here explain the score <v, u> of the unit image embedding v and a unit
statement embedding u, on the grid of patches, raw (quantile masks need no scale):

- `attention_gradient` (Chefer et al. 2021): attention times its gradient, negative parts dropped, mean over heads,
  rolled out from a block to the last; the [CLS] row. Never negative; its zeros are ties.
- `gradient_activation`: sum over channels of h * ds/dh, h = norm1's output of a block. Signed, linear in u.
- `gradcam`: the same h, weighted with its gradient averaged over the patches. Signed (no ReLU), linear in u.

h is norm1's *output*: the block's input reaches the score through a scale-invariant norm only, so there the sum over
channels is exactly 0 and the map is rounding noise. The residual path past norm1 is not differentiated.

The image is encoded once. The score is linear in u, so one vjp of v serves every statement: its pullback is vmapped.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from reflex_jax.config import SALIENCY_METHODS, ConfigError
from reflex_jax.models.biomedclip import BiomedClipConfig
from reflex_jax.models.clip_vision import BlockShifts, BlockTrace, embed_patches, project_cls, run_block
from reflex_jax.trees import Array, Params


def unit(vectors: Float[Array, "*b E"]) -> Float[Array, "*b E"]:
    """Vectors of length 1; a zero vector stays zero."""
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def image_evidence(
    params: Params,
    pixels: Float[Array, "P Y X 3"],
    directions: Float[Array, "P S E"],
    config: BiomedClipConfig,
    *,
    method: str,
    block: int,
) -> tuple[Float[Array, "P E"], Float[Array, "P S h w"]]:
    """Unit image embeddings, and one saliency map for each direction in the embedding space.

    Args:
      params: of the judge.
      pixels: normalised.
      directions: unit statement embeddings u (any vector works; a zero direction gives a zero map).
      config: of the judge.
      method: one of SALIENCY_METHODS.
      block: transformer block, negative ones count from the end. `attention_gradient` rolls out from it to the last.

    Raises:
      ConfigError: an unknown method or block.
    """
    if method not in SALIENCY_METHODS:
        raise ConfigError(f"judge.saliency: expected one of {', '.join(SALIENCY_METHODS)}; got {method!r}.")
    vision, tower = params["vision"], config.vision
    if not -tower.depth <= block < tower.depth:
        raise ConfigError(
            f"judge.saliency_block: expected {-tower.depth} to {tower.depth - 1}, this judge has {tower.depth} blocks; "
            f"got {block}."
        )
    first = block % tower.depth
    with jax.default_matmul_precision("highest"):
        x = embed_patches(vision, pixels.astype(vision["embed"]["cls"].dtype), tower)
        for index in range(first):
            x, _ = run_block(vision, index, x, tower)

        def embed(shifts: list[BlockShifts]) -> tuple[Array, list[BlockTrace]]:
            rows, traces = x, []
            for index, block_shifts in enumerate(shifts, first):
                rows, trace = run_block(vision, index, rows, tower, block_shifts)
                traces.append(trace)
            return unit(project_cls(vision, rows, tower)), traces

        shifts = _zero_shifts(x, first, config, method)
        embeddings, pullback, traces = jax.vjp(embed, shifts, has_aux=True)
        (gradients,) = jax.vmap(pullback, in_axes=1, out_axes=1)(directions)
        if method == "attention_gradient":
            maps = _attention_rollout(traces, [g.attention for g in gradients if g.attention is not None])
        else:
            read = _gradient_activation if method == "gradient_activation" else _gradcam
            maps = read(vision["blocks"][first], traces[0], gradients[0])
    return embeddings, maps.reshape(*directions.shape[:2], tower.grid_size, tower.grid_size)


def _zero_shifts(x: Array, first: int, config: BiomedClipConfig, method: str) -> list[BlockShifts]:
    """One shift per block from `first` on, zero where the method differentiates."""
    (batch, rows, _), depth = x.shape, config.vision.depth
    if method == "attention_gradient":
        queries = [1 if index == depth - 1 else rows for index in range(first, depth)]
        return [BlockShifts(attention=jnp.zeros((batch, config.vision.heads, q, rows))) for q in queries]
    zeros = jnp.zeros_like(x)
    # Patches ask no questions in the last block: only [CLS] does.
    at_first = BlockShifts(queries=None if first == depth - 1 else zeros, keys=zeros, values=zeros)
    return [at_first] + [BlockShifts()] * (depth - 1 - first)


def _attention_rollout(traces: list[BlockTrace], gradients: list[Array]) -> Float[Array, "P S n"]:
    """[CLS] row of (I + C_last) ... (I + C_first), C = mean over heads of max(attention * gradient, 0) [P,S,Q,T]."""
    of_blocks = (
        jnp.maximum(trace.attention[:, None] * gradient, 0.0).mean(axis=2)
        for trace, gradient in zip(reversed(traces), reversed(gradients), strict=True)
    )
    relevance = next(of_blocks)[:, :, 0].at[..., 0].add(1.0)  # the last block's only row is [CLS]
    for block_relevance in of_blocks:
        relevance = relevance + jnp.einsum("pst,pstu->psu", relevance, block_relevance)
    return relevance[..., 1:]


def _gradient_activation(block: Params, trace: BlockTrace, gradient: BlockShifts) -> Float[Array, "P S n"]:
    """sum_c h_nc ds/dh_nc, without ds/dh: h reaches the score through q, k and v = h W + b only.

    So ds/dh = sum of (ds/dz) W^T over z in {q, k, v}, and h . (ds/dz) W^T = (ds/dz) . (z - b): no product with W.
    """
    maps = jnp.zeros((), jnp.float32)
    for name, value, slope in _inputs_of_attention(trace, gradient):
        activation = value - block[name]["bias"]
        maps = maps + jnp.einsum("pstd,ptd->pst", slope, activation, preferred_element_type=jnp.float32)
    return maps[..., 1:]


def _gradcam(block: Params, trace: BlockTrace, gradient: BlockShifts) -> Float[Array, "P S n"]:
    """sum_c h_nc * mean over patches of ds/dh_c; the mean is taken before the product with W, which is linear."""
    weights = jnp.zeros((), jnp.float32)
    for name, _, slope in _inputs_of_attention(trace, gradient):
        mean = slope[:, :, 1:].mean(axis=2)  # [P,S,D]
        weights = weights + jnp.einsum("pso,do->psd", mean, block[name]["kernel"], preferred_element_type=jnp.float32)
    return jnp.einsum("psd,ptd->pst", weights, trace.normed[:, 1:].astype(jnp.float32))


def _inputs_of_attention(trace: BlockTrace, gradient: BlockShifts) -> list[tuple[str, Array, Array]]:
    """(name of the projection, its output, the score's gradient for each statement) of q, k, v, where not 0."""
    outputs = (
        ("q", trace.queries, gradient.queries),
        ("k", trace.keys, gradient.keys),
        ("v", trace.values, gradient.values),
    )
    return [(name, value, slope) for name, value, slope in outputs if slope is not None]
