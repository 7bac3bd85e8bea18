"""Chunks of log-probs: what the backward pass keeps of them does not grow with the head's weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reflex_jax.models.qwen_vl import _chunk_by_chunk, even_width
from reflex_jax.records import PackedRows
from reflex_jax.trees import tree_of

ROWS, LENGTH, CHUNK, WIDTH, VOCABULARY = 2, 24, 8, 5, 7


def shapes_within(jaxpr) -> set[tuple[int, ...]]:
    """Of every value that a computation, or one inside of it, makes."""
    found = {variable.aval.shape for equation in jaxpr.eqns for variable in equation.outvars}
    for inner in _inner(jaxpr):
        found |= shapes_within(inner)
    return found


def _inner(jaxpr):
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda node: hasattr(node, "jaxpr")):
            if hasattr(value, "jaxpr"):
                yield value.jaxpr
            elif hasattr(value, "eqns"):
                yield value


def test_the_heads_weights_are_not_kept_for_every_chunk():
    rows = tree_of(PackedRows, targets=jnp.zeros((ROWS, LENGTH), jnp.int32), most_predicted=jnp.int32(20))

    def loss(head, hidden):
        def log_probs_of(hidden, tokens):
            logits = jnp.einsum("btd,dv->btv", hidden, head)
            log_probs = jax.nn.log_softmax(logits)
            return jnp.take_along_axis(log_probs, tokens[..., None], -1)[..., 0], log_probs.sum(-1)

        return _chunk_by_chunk(log_probs_of, hidden, rows, CHUNK)[0].sum()

    arguments = jnp.ones((WIDTH, VOCABULARY)), jnp.ones((ROWS, LENGTH, WIDTH))
    made = shapes_within(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(*arguments).jaxpr)
    chunks = LENGTH // (CHUNK // ROWS)
    assert (WIDTH, VOCABULARY) in made and (ROWS, CHUNK // ROWS, VOCABULARY) in made  # it looks inside of the loop
    assert not made & {(chunks, WIDTH, VOCABULARY), (chunks, ROWS, CHUNK // ROWS, VOCABULARY)}
    np.testing.assert_allclose(
        jax.grad(loss)(*arguments)[:, 0].sum(), 20 * ROWS * WIDTH * (1 - 1 / VOCABULARY), rtol=1e-5
    )


@pytest.mark.parametrize(("length", "most", "width"), [(350, 256, 176), (1024, 256, 256), (20, 7, 7), (513, 512, 264)])
def test_chunks_are_about_as_full_as_each_other(length, most, width):
    assert even_width(length, most) == width  # 350 in chunks of 256 would compute 512


def test_even_chunks_are_no_more_than_full_ones():
    for length in range(1, 700, 3):
        for most in range(1, 300, 7):
            width = even_width(length, most)
            chunks = -(-length // width)
            assert width <= most and chunks == -(-length // most)
            assert chunks * width - length < 8 * chunks


def test_35_tokens_in_chunks_of_32_are_computed_as_48():
    length, hidden = 35, jnp.ones((ROWS, 35, WIDTH))
    rows = tree_of(PackedRows, targets=jnp.zeros((ROWS, length), jnp.int32), most_predicted=jnp.int32(length))

    def log_probs_of(hidden, tokens):
        return hidden.sum(-1), hidden.sum(-1)

    made = shapes_within(jax.make_jaxpr(lambda x: _chunk_by_chunk(log_probs_of, x, rows, 32 * ROWS)[0])(hidden).jaxpr)
    assert (2, ROWS, 24) in made and (2, ROWS, 32) not in made
