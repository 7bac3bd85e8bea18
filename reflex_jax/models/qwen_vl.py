"""A policy of any family as functions of (params, inputs, config): logits, prefill, decoding and the log-probs of a whole group.

What belongs to a prompt is computed once: G completions of a prompt attend to one copy of its keys, in decoding and in
the update alike, with the values and gradients of G separate forward passes. Parameters are nested dicts, kernels
[in, out], layers stacked [L, ...]; compute happens in their dtype, statistics (norms, softmax, log-probs) in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from reflex_jax.models import attention
from reflex_jax.models.attention_choice import XLA, AttentionChoice
from reflex_jax.models.layers import apply, look_up, rms_norm, rows_product, widened
from reflex_jax.models.qwen_config import QwenVLConfig
from reflex_jax.models.qwen_config import read_qwen_config as read_qwen_config  # the front door of the family
from reflex_jax.models.qwen_decoder import (
    DecoderLayer,
    Embedded,
    QwenTextConfig,
    init_decoder_layers,
    prompt_stack,
    row_stack,
    split_features,
    text_rotation,
    weights_of_layers,
)
from reflex_jax.models.qwen_vision import encode_patches, init_vision_params
from reflex_jax.records import PackedRows, PromptInputs, VisionInputs
from reflex_jax.sharding import constrain_batch, data_ways
from reflex_jax.trees import Array, Params, pytree_dataclass


@dataclass(frozen=True, kw_only=True)
class HowToCompute:
    """What changes the memory that the update takes, and its numbers by rounding alone."""

    attention: AttentionChoice = XLA
    remat: bool = False  # recompute each layer in the backward pass
    log_prob_chunk: int = 512  # completion tokens whose logits exist at one time on a device
    wide_sums: bool = False  # gradients are added up in float32, whatever parameters are in (`layers.widened`)


PLAINLY = HowToCompute()

# keys [P, K, G, H, C] and values [P, K, G, C, H] of the completions: of each layer, in parts of C tokens each
Caches: TypeAlias = list[list[tuple[Array, Array]]]


@pytree_dataclass
class Prefill:
    """What decoding needs of the prompts: a cache without a group axis."""

    last_hidden: Float[Array, "P D"]  # at the last valid token, not normed
    keys: list[Float[Array, "P K H Lp"]]  # of each layer
    values: list[Float[Array, "P K Lp H"]]
    is_valid: Bool[Array, "P Lp"]
    next_position: Int[Array, "P"]  # of the first completion token, on all three axes


def init_policy_params(config: QwenVLConfig, key: jax.Array, dtype: Any = jnp.float32) -> Params:
    """Draws random parameters: normal kernels of standard deviation 0.02, zero biases, unit scales."""
    text = config.text
    embed_key, layers_key, head_key, vision_key = jax.random.split(key, 4)
    params: Params = {
        "embed": {"embedding": 0.02 * jax.random.normal(embed_key, (text.vocabulary, text.width))},
        "layers": init_decoder_layers(text, layers_key),
        "final_norm": {"scale": jnp.ones(text.width)},
        "vision": init_vision_params(config.vision, vision_key),
    }
    if not text.is_tied:
        params["head"] = {"kernel": 0.02 * jax.random.normal(head_key, (text.width, text.vocabulary))}
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def encode_images(
    params: Params, vision: VisionInputs, config: QwenVLConfig, *, how: HowToCompute = PLAINLY
) -> Float[Array, "P V wide"]:
    """V = W * U / 4 merged vision features of every row, in slot order (`PromptInputs.feature_index` points to them).

    A feature is D wide; with deepstack D more numbers follow for each layer that adds them (`split_features`).
    """
    return encode_patches(
        params["vision"], vision, config.vision,
        remat=how.remat, implementation=how.attention, wide_sums=how.wide_sums,
    )  # fmt: skip


def embed_prompts(
    params: Params,
    prompts: PromptInputs,
    config: QwenVLConfig,
    *,
    remat: bool = False,
    attention: AttentionChoice = XLA,
) -> Embedded:
    """Token embeddings, with the vision features in the place of the image tokens, and what the first layers add."""
    embedded = params["embed"]["embedding"][prompts.tokens]
    if prompts.vision is None:
        return Embedded(embedded)
    features = encode_images(params, prompts.vision, config, how=HowToCompute(attention=attention, remat=remat))
    index = prompts.feature_index
    features = jnp.take_along_axis(features, jnp.maximum(index, 0)[..., None], axis=1)
    return split_features(features, index >= 0, embedded)


def prompt_logits(params: Params, prompts: PromptInputs, config: QwenVLConfig) -> Float[Array, "P Lp V"]:
    """Raw float32 logits at every prompt token; rows of padding hold numbers without a meaning."""
    hidden, _ = prompt_stack(
        params["layers"],
        embed_prompts(params, prompts, config),
        prompts.positions,
        prompts.is_valid,
        config.text,
        implementation=XLA,
        remat=False,
        keep_cache=False,
    )
    return head_logits(params, hidden, config.text)


def prompt_attention_weights(
    params: Params, prompts: PromptInputs, is_asking: Bool[Array, "P Lp"], config: QwenVLConfig
) -> Float[Array, "L P Lp"]:
    """How much the asking tokens of each prompt read from every token, layer by layer: means over tokens and heads."""
    embedded = embed_prompts(params, prompts, config)
    return weights_of_layers(
        params["layers"], embedded, prompts.positions, prompts.is_valid, is_asking, config.text
    )  # fmt: skip


def head_logits(params: Params, hidden: Float[Array, "*rows D"], config: QwenTextConfig) -> Float[Array, "*rows V"]:
    """Final norm and head, in float32."""
    normed = rms_norm(hidden, params["final_norm"]["scale"], epsilon=config.epsilon)
    kernel = params["embed"]["embedding"].T if config.is_tied else params["head"]["kernel"]
    return rows_product(normed, kernel, jnp.float32)


def layers_apart(params: Params) -> Params:
    """The parameters with a list of layers in the place of stacked ones, as sampling reads them.

    Sampling takes them apart before it begins, where they are made (`Program.gather`): of stacked arguments a compiled
    rollout holds a second copy, since a slice taken inside its loop would copy every weight at every token. What is apart
    already stays as it is.
    """
    layers = params["layers"]
    if isinstance(layers, list):
        return params
    count = jax.tree.leaves(layers)[0].shape[0]
    apart = [jax.tree.map(lambda leaf, index=index: leaf[index], layers) for index in range(count)]
    return {**params, "layers": apart}


def prefill(
    params: Params, prompts: PromptInputs, config: QwenVLConfig, *, attention: AttentionChoice = XLA
) -> Prefill:
    """Reads every prompt once and keeps its keys and values; `params` of `layers_apart`."""
    hidden, caches = prompt_stack(
        params["layers"],
        embed_prompts(params, prompts, config, attention=attention),
        prompts.positions,
        prompts.is_valid,
        config.text,
        implementation=attention,
        remat=False,
        keep_cache=True,
    )
    return Prefill(
        last_hidden=_at_last_valid(hidden, prompts.is_valid),
        keys=[keys for keys, _ in caches],
        values=[values for _, values in caches],
        is_valid=prompts.is_valid,
        next_position=next_position(prompts),
    )


def row_log_probs(
    params: Params,
    rows: PackedRows,
    images: Float[Array, "B T wide"] | None,
    config: QwenVLConfig,
    *,
    allowed: Bool[Array, "V"],
    temperature: float,
    how: HowToCompute,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Log-probs of the completion tokens of packed rows, each prompt read once for its whole group.

    Values and gradients equal those of separate sequences, one for each completion.

    Args:
      params: of the policy, without need of its vision tower; the result is differentiable in them and in `images`.
      rows: B rows of T slots.
      images: the vision features of the slots of images, whatever elsewhere; None: no row has an image.
      config: sizes.
      allowed: the vocabulary the distribution is over. A token outside of it gets a finite number without a meaning.
      temperature: divides the logits; 0 (greedy sampling) counts as 1.
      how: what to hold and what to compute again.

    Returns:
      Log-probs and entropies of `rows.targets` in float32; without a meaning from `rows.most_predicted` on. The entropies
      carry no gradient.
    """
    layers, dtype = params["layers"], params["embed"]["embedding"].dtype
    ends = {name: part for name, part in params.items() if name not in ("layers", "vision")}
    ends = widened(ends, wide=how.wide_sums)  # here, so that chunks of the head are added up in float32 too
    x = look_up(ends["embed"]["embedding"], rows.tokens, dtype)
    embedded = Embedded(x) if images is None else split_features(images, rows.is_image, x)
    hidden = row_stack(
        layers, embedded, rows, config.text,
        implementation=how.attention, remat=how.remat, wide_sums=how.wide_sums,
    )  # fmt: skip
    hidden = jnp.take_along_axis(hidden, rows.predicting[..., None], axis=1)

    def log_probs_of(hidden: Array, tokens: Array) -> tuple[Array, Array]:
        logits = head_logits(ends, constrain_batch(hidden), config.text)
        return token_log_probs(logits, tokens, allowed=allowed, temperature=temperature or 1.0)

    return _chunk_by_chunk(log_probs_of, hidden, rows, how.log_prob_chunk)


def even_width(length: int, most: int) -> int:
    """The width, up to `most` and by 8 where that allows it, with which as few chunks hold `length` and all are about as full."""
    chunks = -(-length // most)
    return min(most, 8 * -(-length // (8 * chunks)))


def _chunk_by_chunk(
    log_probs_of: Callable[[Array, Array], tuple[Array, Array]],
    hidden: Float[Array, "B T D"],
    rows: PackedRows,
    chunk: int,
) -> tuple[Array, Array]:
    """Log-probs without ever holding the logits of more than `chunk` tokens on a device; empty chunks are skipped."""
    count, length = rows.targets.shape
    width = max(1, chunk // max(1, count // data_ways(hidden)))
    if width >= length:
        return log_probs_of(hidden, rows.targets)
    width = even_width(length, width)
    padding = -length % width
    hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0)))
    hidden = jnp.moveaxis(hidden.reshape(count, -1, width, hidden.shape[-1]), 1, 0)
    targets = jnp.moveaxis(jnp.pad(rows.targets, ((0, 0), (0, padding))).reshape(count, -1, width), 1, 0)

    def skip(hidden: Array, targets: Array) -> tuple[Array, Array]:
        return jnp.zeros(targets.shape, jnp.float32), jnp.zeros(targets.shape, jnp.float32)

    def step(inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        start, hidden, targets = inputs
        return jax.lax.cond(start < rows.most_predicted, log_probs_of, skip, hidden, targets)

    starts = width * jnp.arange(len(targets))
    # around the choice: what a branch remembers, the head's weights among it, would be kept for every chunk
    log_probs, entropies = jax.lax.map(jax.checkpoint(step, prevent_cse=False), (starts, hidden, targets))
    log_probs, entropies = (jnp.moveaxis(x, 0, 1).reshape(count, -1)[:, :length] for x in (log_probs, entropies))
    return log_probs, entropies


def token_log_probs(
    logits: Float[Array, "*rows V"], tokens: Int[Array, "*rows"], *, allowed: Bool[Array, "V"], temperature: float
) -> tuple[Float[Array, "*rows"], Float[Array, "*rows"]]:
    """Log-softmax of logits / temperature over the allowed vocabulary at `tokens`, and the entropy (no gradient)."""
    scaled = logits if temperature == 1 else logits / temperature
    is_token = jnp.arange(logits.shape[-1]) == tokens[..., None]
    chosen = jnp.where(is_token, scaled, 0.0).sum(-1)
    masked = jnp.where(allowed, scaled, attention.MASKED)
    peak = jax.lax.stop_gradient(masked.max(-1, keepdims=True))
    shifted = masked - peak
    weights = jnp.exp(shifted)
    total = weights.sum(-1)
    log_total = jnp.log(total)
    entropy = log_total - (weights * shifted).sum(-1) / total
    return chosen - peak[..., 0] - log_total, jax.lax.stop_gradient(entropy)


def grow_caches(caches: Caches, prefilled: Prefill, *, group_size: int, slots: int) -> Caches:
    """The same caches with room for `slots` more tokens of each completion, as a part of their own; of [] first ones.

    Nothing is copied: what is full stays where it is.
    """
    prompts, key_heads, width, _ = prefilled.keys[0].shape
    shape, dtype = (prompts, key_heads, group_size), prefilled.keys[0].dtype
    keys, values = (jnp.zeros((*shape, *tail), dtype) for tail in ((width, slots), (slots, width)))
    return [[*parts, (keys, values)] for parts in caches or [[] for _ in prefilled.keys]]


def join_caches(caches: Caches, *, slots: int) -> Caches:
    """The same caches as one part each, with room for `slots` tokens in all."""
    keys, values = ([[part[which] for part in parts] for parts in caches] for which in (0, 1))
    room = slots - sum(part.shape[3] for part in values[0])
    return [
        [(jnp.pad(jnp.concatenate(k, 4), ((0, 0),) * 4 + ((0, room),)),
          jnp.pad(jnp.concatenate(v, 3), ((0, 0),) * 3 + ((0, room), (0, 0))))]
        for k, v in zip(keys, values, strict=True)
    ]  # fmt: skip


def decode_step(
    params: Params,
    tokens: Int[Array, "P G"],
    step: Int[Array, ""],
    caches: Caches,
    prefilled: Prefill,
    config: QwenVLConfig,
) -> tuple[Float[Array, "P G V"], Caches]:
    """Reads completion token number `step` of every row and returns the logits of the next one.

    Args:
      params: of the policy, its layers apart.
      tokens: the tokens at `step`.
      step: slot of the cache they go to, in its last part: those before are full.
      caches: of `grow_caches`, `join_caches` or the step before.
      prefilled: the prompts.
      config: sizes.
    """
    x = params["embed"]["embedding"][tokens][:, :, None]  # [P, G, 1, D]
    positions = jnp.broadcast_to((prefilled.next_position + step)[:, None, None, None], (len(tokens), 1, 1, 3))
    # the barrier keeps XLA from computing sines again in every layer, for every head
    rotation = jax.lax.optimization_barrier(text_rotation(positions, config.text))
    *full, last = (values.shape[3] for _, values in caches[0])
    slot = step - sum(full)
    is_written = [jnp.ones((1, slots), bool) for slots in full] + [(jnp.arange(last) <= slot)[None]]  # [1, C]
    written = []
    of_prompts = zip(prefilled.keys, prefilled.values, strict=True)
    for layer_params, prompt, parts in zip(params["layers"], of_prompts, caches, strict=True):

        def attend(
            queries: Array, keys: Array, values: Array, *,
            prompt: tuple[Array, Array] = prompt, parts: list[tuple[Array, Array]] = parts,
        ) -> tuple[Array, list[tuple[Array, Array]]]:  # fmt: skip
            # [P, G, 1, K, H] -> [P, K, G, H, 1] and [P, K, G, 1, H]
            *full, (own_keys, own_values) = parts
            own_keys = jax.lax.dynamic_update_slice_in_dim(own_keys, keys.transpose(0, 3, 1, 4, 2), slot, axis=4)
            own_values = jax.lax.dynamic_update_slice_in_dim(own_values, values.transpose(0, 3, 1, 2, 4), slot, axis=3)
            own = [*full, (own_keys, own_values)]
            read = [(*part, mask) for part, mask in zip(own, is_written, strict=True)]
            return attention.group_attention(queries, *prompt, read, prefilled.is_valid), own

        x = constrain_batch(x)
        x, own = apply(DecoderLayer(config.text), layer_params, x, rotation, attend)
        written.append(own)
    return head_logits(params, x[:, :, 0], config.text), written


def _at_last_valid(hidden: Float[Array, "P Lp D"], is_valid: Bool[Array, "P Lp"]) -> Float[Array, "P D"]:
    last = jnp.max(jnp.where(is_valid, jnp.arange(is_valid.shape[1]), 0), axis=1)
    return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]


def next_position(prompts: PromptInputs) -> Int[Array, "P"]:
    """Where the first completion token stands, on all three axes."""
    return jnp.max(jnp.where(prompts.is_valid[:, None], prompts.positions, -1), axis=(1, 2)) + 1
