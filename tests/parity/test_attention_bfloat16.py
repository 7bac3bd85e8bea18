"""Every attention in bfloat16 beside torch's: both against float64 on the same bfloat16 inputs.

The inputs are wide (standard deviation 8, so that softmax is sharp) and heads have Qwen's width of 128, whose square root is no
power of two: scaling the queries before the product rounds them once more, and the error here was 10 to 25 times torch's.
Ours may be as wrong as torch's and a quarter more: the judge's probabilities are rounded after their division, not before.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from reflex_jax.models import attention
from reflex_jax.models.attention_choice import XLA, AttentionChoice
from reflex_jax.models.clip_attention import attention_probabilities, mix_values
from reflex_jax.models.splash_attention import splash_attention

WIDTH, STD, SLACK = 128, 8.0, 1.25
BLOCKED = AttentionChoice("blocked")


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, STD, shape).astype(jnp.bfloat16)


def exact(q, k, v, is_allowed) -> np.ndarray:
    """softmax(q k / sqrt(H)) v in float64; [B, N, T, H] and a mask that broadcasts to [B, N, T, S]."""
    q, k, v = (np.asarray(x.astype(np.float32), np.float64) for x in (q, k, v))
    scores = np.where(is_allowed, q @ k.swapaxes(-1, -2) / np.sqrt(WIDTH), -1e300)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def of_torch(q, k, v, is_allowed, scale=None) -> np.ndarray:
    q, k, v = (torch.tensor(np.asarray(x.astype(np.float32))).to(torch.bfloat16) for x in (q, k, v))
    mask = torch.tensor(np.broadcast_to(is_allowed, (*q.shape[:3], k.shape[2])).copy())
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).float().numpy()


def heads_first(x):
    return np.moveaxis(np.asarray(x), -2, 1)


def prompt_case(chosen=XLA):
    q, k, v = draw(0, 2, 96, 4, WIDTH), draw(1, 2, 96, 2, WIDTH), draw(2, 2, 96, 2, WIDTH)
    is_valid = np.arange(96) >= np.array([[0], [7]])
    ours = jax.jit(partial(attention.prompt_attention, implementation=chosen))(q, k, v, is_valid)
    is_allowed = (is_valid[:, None] & np.tri(96, dtype=bool))[:, None]
    rows = np.broadcast_to(is_valid[:, None, :, None], (2, 4, 96, WIDTH))  # a padded query reads nothing
    k, v = (np.repeat(x, 2, axis=2) for x in (k, v))
    return heads_first(ours), *map(heads_first, (q, k, v)), is_allowed, rows


def group_case():
    prompts, group, length, heads, key_heads, context = 2, 3, 16, 4, 2, 80
    q, own_k, own_v = (
        draw(s, prompts, group, length, n, WIDTH) for s, n in ((3, heads), (4, key_heads), (5, key_heads))
    )
    k, v = draw(6, prompts, context, key_heads, WIDTH), draw(7, prompts, context, key_heads, WIDTH)
    ours = jax.jit(attention.group_attention)(
        q, k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3),
        [(own_k.transpose(0, 3, 1, 4, 2), own_v.transpose(0, 3, 1, 2, 4), np.tri(length, dtype=bool))],
        np.ones((prompts, context), bool),
    )  # fmt: skip

    def joined(shared, own):
        tiled = np.repeat(shared[:, None], group, axis=1)
        return np.repeat(np.concatenate([tiled, own], axis=2), heads // key_heads, axis=3)

    def rows(x):
        return heads_first(x.reshape(prompts * group, *x.shape[2:]))

    is_allowed = np.concatenate([np.ones((length, context), bool), np.tri(length, dtype=bool)], axis=1)
    return rows(ours), rows(q), rows(joined(k, own_k)), rows(joined(v, own_v)), is_allowed, True


def vision_case(attend, shape):
    q, k, v = (draw(s, *shape, 2, WIDTH) for s in (8, 9, 10))
    ids = np.ones(shape, np.int32)
    ids[0, -1, -5:] = 0  # the last patches of the last window are empty slots
    ours = jax.jit(attend)(q, k, v, ids)
    rows_of_one = (-1, shape[2]) if attend is attention.window_attention else (shape[0], -1)
    ours, q, k, v = (heads_first(x.reshape(*rows_of_one, 2, WIDTH)) for x in (ours, q, k, v))
    ids = ids.reshape(rows_of_one)
    rows = np.broadcast_to((ids > 0)[:, None, :, None], q.shape)
    return ours, q, k, v, (ids > 0)[:, None, None, :], rows


def judge_case():
    q, k, v = (draw(s, 2, 64, 3 * WIDTH) for s in (11, 12, 13))
    ours = jax.jit(lambda q, k, v: mix_values(attention_probabilities(q, k, heads=3), v))(q, k, v)
    split = [np.asarray(x).reshape(2, 64, 3, WIDTH).swapaxes(1, 2) for x in (ours, q, k, v)]
    return *split, np.ones((64, 64), bool), True


CASES = {
    "prompt": prompt_case,
    "group": group_case,
    "window": lambda: vision_case(attention.window_attention, (2, 3, 64)),
    "image": lambda: vision_case(attention.image_attention, (2, 3, 32)),
    "prompt in blocks": lambda: prompt_case(BLOCKED),
    "image in blocks": lambda: vision_case(partial(attention.image_attention, implementation=BLOCKED), (2, 5, 32)),
    "judge": judge_case,
}


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_attention_is_as_exact_as_torch(name):
    ours, q, k, v, is_allowed, rows = CASES[name]()
    assert ours.dtype == jnp.bfloat16
    truth = exact(q, k, v, is_allowed)
    errors = {
        who: np.sqrt(np.mean((np.asarray(out, np.float64) - truth)[np.broadcast_to(rows, truth.shape)] ** 2)) / STD
        for who, out in (("ours", ours.astype(np.float32)), ("torch", of_torch(q, k, v, is_allowed)))
    }
    assert errors["ours"] <= SLACK * errors["torch"], errors


def test_the_kernel_that_scales_its_queries_rounds_them_once():
    """Queries in float32 that are bfloat16 when they are scaled: torch gets them so, with a scale of 1."""
    scaled, k, v = (draw(s, 1, 128, 2, WIDTH) for s in (14, 15, 16))
    queries = scaled.astype(np.float32) * np.float32(WIDTH**0.5)
    attend = partial(splash_attention, roots=None, is_causal=True, interpret=True)
    ours = jax.jit(attend)(queries, k, v, np.zeros((1, 128), np.int32))
    queries, scaled, k, v, ours = map(heads_first, (queries, scaled, k, v, ours))
    is_allowed = np.tri(128, dtype=bool)
    truth = exact(queries, k, v, is_allowed)
    outputs = ours.astype(np.float32), of_torch(scaled, k, v, is_allowed, scale=1.0)
    own, theirs = (np.sqrt(np.mean((np.asarray(out, np.float64) - truth) ** 2)) for out in outputs)
    assert own <= SLACK * theirs, (own, theirs)
