"""Log-probs and gradients of packed rows, round after round: what exists is computed, and no more rows at one time than fit.

Rounds are loops of as many turns as the data needs, so gradients are taken inside of them and added up. The vision tower
has rounds of its own, before those of the decoder and (where it trains) behind them.

Axis letters as in `reflex_jax.records`; p prompts of a minibatch, S places of a prompt and its group in the padded arrays,
V places of vision features of a prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from reflex_jax.grpo.objective import TokenMetrics
from reflex_jax.models.lora import whole_policy
from reflex_jax.models.qwen_vl import (
    HowToCompute,
    QwenVLConfig,
    encode_images,
    next_position,
    row_log_probs,
)
from reflex_jax.records import PackedRows, PromptInputs, RowLayout
from reflex_jax.sharding import constrain_batch
from reflex_jax.trees import Array, Params, pytree_dataclass


@pytree_dataclass
class Sequences:
    """Prompts of a minibatch with their completions, as padded arrays, and where they lie in rows."""

    prompts: PromptInputs
    tokens: Int[Array, "p G Lc"]
    layout: RowLayout  # of one minibatch: no axis M


# (log-probs, entropies, which of them were computed), all [p, G, Lc] -> their part of the loss, and metrics
LossOf = Callable[[Array, Array, Array], tuple[Array, TokenMetrics]]


@dataclass(frozen=True, eq=False)
class RowReader:
    """A policy of one shape on a mesh, which reads packed rows."""

    config: QwenVLConfig
    allowed: Bool[np.ndarray, "V"]
    temperature: float
    how: HowToCompute
    ways: int  # devices that share the prompts
    every_round: bool = False  # computes rounds that are not used too
    lora_scale: float = 1.0  # of the adapters, where some train

    def log_probs(
        self, params: Params, sequences: Sequences, features: Float[Array, "p V wide"] | None
    ) -> Float[Array, "p G Lc"]:
        """Log-probs of all completions, without a gradient; 0 behind their end."""

        def read(n: Array, whole: Array) -> Array:
            found, _, is_here = self.read_round(params, sequences, self.images(sequences, features, n), n)
            return jnp.where(is_here, found, whole)

        empty = jnp.zeros(sequences.tokens.shape, jnp.float32)
        return jax.lax.stop_gradient(
            self._in_rounds(sequences.layout.rounds, len(sequences.layout.source), read, empty)
        )

    def read_round(
        self, params: Params, sequences: Sequences, images: Float[Array, "B T wide"] | None, n: Array
    ) -> tuple[Float[Array, "p G Lc"], Float[Array, "p G Lc"], Bool[Array, "p G Lc"]]:
        """Log-probs and entropies of the completions of one round, and which they are; 0 elsewhere.

        Args:
          params: of the policy; the log-probs are differentiable in them, the vision tower aside, and in `images`.
          sequences: of the minibatch.
          images: what `images` makes of the features.
          n: number of the round.
        """
        rows, predicted = self._rows(sequences, n)
        found = row_log_probs(
            params, rows, images, self.config,
            allowed=jnp.asarray(self.allowed), temperature=self.temperature, how=self.how,
        )  # fmt: skip
        empty = jnp.zeros(sequences.tokens.shape, jnp.float32)
        log_probs, entropies = (self._put(empty, predicted, values) for values in found)
        return log_probs, entropies, self._put(empty > 0, predicted, predicted >= 0)

    def images(self, sequences: Sequences, features: Array | None, n: Array) -> Float[Array, "B T wide"] | None:
        """The features of the slots of a round that stand for images; whatever elsewhere."""
        if features is None:
            return None
        return self._take(features, self._image_places(sequences, n, features.shape[1]))

    def features(self, params: Params, sequences: Sequences) -> Float[Array, "p V wide"] | None:
        """What the vision tower makes of the pictures, without a gradient; None: there are none."""
        vision, layout = sequences.prompts.vision, sequences.layout
        if vision is None or layout.window_source is None or layout.window_rounds is None:
            return None
        if len(layout.window_source) == 1:
            return encode_images(params, vision, self.config, how=self.how)

        def look(n: Array, whole: Array) -> Array:
            return self._put_windows(whole, sequences, n, self._look(params, sequences, n))

        shape = jax.eval_shape(lambda: encode_images(params, vision, self.config, how=self.how))
        return self._in_rounds(
            layout.window_rounds, len(layout.window_source), look, constrain_batch(jnp.zeros(shape.shape, shape.dtype))
        )

    def gradients(
        self, params: Params, fixed: Params, sequences: Sequences, loss_of: LossOf, features: Array | None = None
    ) -> tuple[Array, TokenMetrics, Params]:
        """Loss, metrics and gradients of a minibatch.

        Args:
          params: what trains, in the compute dtype: parts of the policy, or adapters beside its layers.
          fixed: the rest of the policy; no gradient of it is computed.
          sequences: of the minibatch.
          loss_of: a sum over tokens, so that the parts of all rounds add up.
          features: of the vision tower where it does not train; None: there are none, or they are computed here.

        Returns:
          The loss, the metrics, and float32 gradients of `params`.
        """
        if "vision" not in params or sequences.prompts.vision is None:
            loss, metrics, gradients, _ = self._decoder_gradients(params, fixed, sequences, loss_of, features)
            return loss, metrics, gradients
        tower = {"vision": params["vision"]}
        rest = {name: part for name, part in params.items() if name != "vision"}
        fixed_tower = {"vision": fixed["vision"]} if "vision" in fixed else {}
        features, pull_back = self._look_and_remember(tower, fixed_tower, sequences)
        loss, metrics, gradients, of_features = self._decoder_gradients(rest, fixed, sequences, loss_of, features)
        return loss, metrics, gradients | pull_back(of_features)

    def _decoder_gradients(
        self, params: Params, fixed: Params, sequences: Sequences, loss_of: LossOf, features: Array | None
    ) -> tuple[Array, TokenMetrics, Params, Array | None]:
        """The same of the decoder alone, and the gradient of the features."""

        def loss_of_round(params: Params, images: Array | None, n: Array) -> tuple[Array, TokenMetrics]:
            return loss_of(*self.read_round(self._whole(params, fixed), sequences, images, n))

        def add(n: Array, total: tuple[Array, TokenMetrics, Params, Array | None]) -> Any:
            loss, metrics, gradients, of_features = total
            images = self.images(sequences, features, n)
            gradient_of = jax.value_and_grad(loss_of_round, argnums=(0, 1), has_aux=True)
            (own_loss, own_metrics), (own, of_images) = gradient_of(params, images, n)
            if of_images is not None:
                of_features = self._put_images(of_features, sequences, n, of_images)
            gradients = jax.tree.map(lambda so_far, part: so_far + part.astype(jnp.float32), gradients, own)
            return loss + own_loss, join_metrics(metrics, own_metrics), gradients, of_features

        first = jax.eval_shape(
            lambda: loss_of(*(jnp.zeros(sequences.tokens.shape, t) for t in (jnp.float32, jnp.float32, bool)))
        )
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)
        empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
        of_features = None if features is None else jnp.zeros_like(features)
        layout = sequences.layout
        return self._in_rounds(layout.rounds, len(layout.source), add, (*zeros, empty, of_features))

    def _look_and_remember(
        self, tower: Params, fixed: Params, sequences: Sequences
    ) -> tuple[Array | None, Callable[[Any], Params]]:
        """The features, and what turns their gradient into that of the tower."""
        vision, layout = sequences.prompts.vision, sequences.layout
        if vision is None or layout.window_source is None or layout.window_rounds is None:
            raise ValueError("sequences: expected pictures; got none.")
        rounds, most = layout.window_rounds, len(layout.window_source)
        if most == 1:
            features, pull_back = jax.vjp(
                lambda tower: encode_images(self._whole(tower, fixed), vision, self.config, how=self.how), tower
            )
            return features, lambda of_features: _float32(pull_back(of_features)[0])

        def add(n: Array, total: Params, *, of_features: Array) -> Params:
            # looked at once more: what one picture's backward pass reads is as large as its forward pass
            _, pull_back = jax.vjp(lambda tower: self._look(self._whole(tower, fixed), sequences, n), tower)
            (own,) = pull_back(self._take_windows(of_features, sequences, n))
            return jax.tree.map(lambda so_far, part: so_far + part.astype(jnp.float32), total, own)

        def pull_back_all(of_features: Array) -> Params:
            empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), tower)
            return self._in_rounds(rounds, most, lambda n, total: add(n, total, of_features=of_features), empty)

        return self.features(self._whole(tower, fixed), sequences), pull_back_all

    def _whole(self, params: Params, fixed: Params) -> Params:
        return whole_policy(params, fixed, lora_scale=self.lora_scale)

    def _rows(self, sequences: Sequences, n: Array) -> tuple[PackedRows, Int[Array, "B T"]]:
        """The rows of a round, and which completion tokens their log-probs are of."""
        layout, prompts, tokens = sequences.layout, sequences.prompts, sequences.tokens
        source, predicted, predicting, most = (
            _at(leaf, n) for leaf in (layout.source, layout.predicted, layout.predicting, layout.most_predicted)
        )
        count, group, steps = tokens.shape
        prompt_tokens = prompts.tokens.shape[1]
        slots = prompt_tokens + group * steps
        own = next_position(prompts)[:, None] + jnp.arange(group * steps) % steps
        positions = jnp.concatenate([prompts.positions, jnp.repeat(own[:, None], 3, axis=1)], axis=2)
        prompt, place = jnp.divmod(source, slots)
        segments = jnp.where(place < prompt_tokens, 0, 1 + (place - prompt_tokens) // steps) + prompt * (group + 1)
        is_filled = source >= 0
        flat = tokens.reshape(count, -1)
        return PackedRows(
            tokens=self._take(jnp.concatenate([prompts.tokens, flat], axis=1), source),
            positions=self._take(positions.swapaxes(1, 2), source),
            segments=jnp.where(is_filled, segments, -1),
            roots=jnp.where(is_filled, prompt * (group + 1), -1),
            is_image=is_filled & (place < prompt_tokens) & (self._feature_index(sequences, source) >= 0),
            targets=self._take(flat, predicted),
            predicting=predicting,
            most_predicted=most,
        ), predicted

    def _feature_index(self, sequences: Sequences, source: Int[Array, "B T"]) -> Int[Array, "B T"]:
        """Which feature of its prompt a slot stands for; -1: none."""
        index, tokens = sequences.prompts.feature_index, sequences.tokens
        of_completions = jnp.full((len(index), tokens.shape[1] * tokens.shape[2]), -1, index.dtype)
        found = self._take(jnp.concatenate([index, of_completions], axis=1), source)
        return jnp.where(source >= 0, found, -1)

    def _image_places(self, sequences: Sequences, n: Array, features_of_prompt: int) -> Int[Array, "B T"]:
        """Which of the device's features a slot stands for; -1: none."""
        source = _at(sequences.layout.source, n)
        _, group, steps = sequences.tokens.shape
        prompt = source // (sequences.prompts.tokens.shape[1] + group * steps)
        index = self._feature_index(sequences, source)
        return jnp.where(index >= 0, prompt * features_of_prompt + index, -1)

    def _put_images(self, features: Array | None, sequences: Sequences, n: Array, images: Array) -> Array | None:
        if features is None:
            return None
        return self._put(features, self._image_places(sequences, n, features.shape[1]), images)

    def _look(self, params: Params, sequences: Sequences, n: Array) -> Float[Array, "B V wide"]:
        """Features of the windows of a round."""
        vision, layout = sequences.prompts.vision, sequences.layout
        if vision is None or layout.window_source is None:
            raise ValueError("sequences: expected pictures; got none.")
        source = _at(layout.window_source, n)  # [B, W]
        windows = vision.image_ids.shape[1]
        ids = self._take(vision.image_ids, source)
        # a picture has a window at least, so no two pictures of a device get the same number
        is_filled = (ids > 0) & (source >= 0)[..., None]
        ids = jnp.where(is_filled, ids + (source // windows * (windows + 1))[..., None], 0)
        scale = vision.normalisation  # of all pictures of a run the same
        part = dataclasses.replace(
            vision,
            normalisation=None if scale is None else self._take(scale[:, None], source[:, :1] // windows)[:, 0],
            patches=self._take(vision.patches, source),
            coordinates=self._take(vision.coordinates, source),
            places=None if vision.places is None else self._take(vision.places, source),
            image_ids=ids,
        )
        return encode_images(params, part, self.config, how=self.how)

    def _take_windows(self, features: Array, sequences: Sequences, n: Array) -> Float[Array, "B V wide"]:
        """The features of a round's windows."""
        source = _at(sequences.layout.window_source, n)
        by_window = features.reshape(len(features), source.shape[1], -1, features.shape[-1])
        taken = self._take(by_window, source)
        taken = jnp.where(source[..., None, None] >= 0, taken, jnp.zeros((), taken.dtype))
        return taken.reshape(len(source), -1, features.shape[-1])

    def _put_windows(self, features: Array, sequences: Sequences, n: Array, found: Array) -> Array:
        source = _at(sequences.layout.window_source, n)
        by_window = features.reshape(len(features), source.shape[1], -1, features.shape[-1])
        put = self._put(by_window, source, found.reshape(*source.shape, -1, features.shape[-1]))
        return put.reshape(features.shape)

    def _take(self, x: Array, index: Int[Array, "B T"]) -> Array:
        """Items `[p, S, ...]` of the prompts of each device for its rows: [B, T, ...]; anything where the index is -1."""
        by_device, places = self._by_device(x), index.reshape(self.ways, -1)
        taken = jax.vmap(lambda items, place: items[jnp.maximum(place, 0)])(by_device, places)
        return constrain_batch(taken.reshape(*index.shape, *x.shape[2:]))

    def _put(self, x: Array, index: Int[Array, "B T"], values: Array) -> Array:
        """The inverse: writes items of rows to their places in `[p, S, ...]`; those at -1 are dropped."""
        tail = values.shape[2:]
        items = x.reshape(len(x), -1, *tail)
        by_device, places = self._by_device(items), index.reshape(self.ways, -1)
        size = by_device.shape[1]

        def put(items: Array, place: Array, values: Array) -> Array:
            return items.at[jnp.where(place < 0, size, place)].set(values, mode="drop")

        put_all = jax.vmap(put)(by_device, places, values.reshape(self.ways, -1, *tail))
        return constrain_batch(put_all.reshape(x.shape))

    def _in_rounds(self, rounds: Array, most: int, body: Callable[[Any, Any], Any], start: Any) -> Any:
        """`body(n, carry)` for each round; where there can be one only, without a loop."""
        if most == 1:
            return body(jnp.int32(0), start)
        return jax.lax.fori_loop(0, most if self.every_round else rounds, body, start)

    def _by_device(self, x: Array) -> Array:
        return x.reshape(self.ways, -1, *x.shape[2:])


def join_metrics(one: TokenMetrics, other: TokenMetrics) -> TokenMetrics:
    """Metrics of the tokens of both."""
    return TokenMetrics(
        sums=jax.tree.map(jnp.add, one.sums, other.sums),
        maxima=jax.tree.map(jnp.maximum, one.maxima, other.maxima),
        count=one.count + other.count,
    )


def _at(leaf: Array | None, n: Any) -> Array:
    if leaf is None:
        raise ValueError("layout: expected the windows of pictures; got none.")
    return jax.lax.dynamic_index_in_dim(jnp.asarray(leaf), n, keepdims=False)


def _float32(tree: Params) -> Params:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)
