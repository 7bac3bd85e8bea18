"""A row's tokens read their prompt and their own segment, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np

from reflex_jax.models.attention import row_attention

# Two prompts in the first row (segments 0 and 3), completions of unequal lengths behind each, padding at the end; one
# prompt in the second.
SEGMENTS = np.array([[0, 0, 0, 1, 1, 2, 3, 3, 4, 4, 4, -1], [0, 0, 0, 0, 0, 1, 2, 2, -1, -1, -1, -1]], np.int32)
ROOTS = np.array([[0, 0, 0, 0, 0, 0, 3, 3, 3, 3, 3, -1], [0, 0, 0, 0, 0, 0, 0, 0, -1, -1, -1, -1]], np.int32)
HEADS, KEY_HEADS, WIDTH = 6, 2, 8


def draw(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed)
    rows, length = SEGMENTS.shape
    return tuple(
        draws.standard_normal((rows, length, heads, WIDTH)).astype(np.float32)
        for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    )


def token_by_token(queries, keys, values):
    """The rule in words, one query at a time, in float64."""
    outputs = np.zeros(queries.shape)
    for row, place, head in np.ndindex(*queries.shape[:3]):
        read = [
            before for before in range(place + 1) if SEGMENTS[row, before] in (SEGMENTS[row, place], ROOTS[row, place])
        ]
        key_head = head // (HEADS // KEY_HEADS)
        scores = keys[row, read, key_head].astype(float) @ queries[row, place, head] / np.sqrt(WIDTH)
        weights = np.exp(scores - scores.max())
        outputs[row, place, head] = weights / weights.sum() @ values[row, read, key_head]
    return outputs


def test_a_row_reads_what_the_rule_says():
    parts = draw()
    outputs = row_attention(*map(jnp.asarray, parts), jnp.asarray(SEGMENTS), jnp.asarray(ROOTS))
    np.testing.assert_allclose(outputs, token_by_token(*parts), atol=2e-6)


def test_padding_gets_finite_gradients_and_gives_none():
    def loss(*parts):
        outputs = row_attention(*parts, jnp.asarray(SEGMENTS), jnp.asarray(ROOTS))
        return jnp.where((SEGMENTS >= 0)[..., None, None], outputs, 0.0).sum()

    for gradient in jax.grad(loss, (0, 1, 2))(*map(jnp.asarray, draw())):
        assert np.isfinite(gradient).all() and not np.asarray(gradient)[SEGMENTS < 0].any()
