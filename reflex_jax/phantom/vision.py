"""The first stage of the phantom policy's warm start: its vision tower learns to see before the decoder learns to say.

Linear heads read the merged features: what each of the 4x4 cells holds (nothing, or one kind of lesion) and in which
quadrant it lies, and, from their mean, scan and organ. The quadrant is worth a head of its own: rotary embeddings tell
the tower distances between patches, and where a patch lies in the picture has to be learnt from them. The heads are
thrown away. Without this stage the words of a report are learnt as a language
model would, from each other, and the picture is ignored for hundreds of steps.

This is supervision of the policy, which may know masks; the judge is trained on pictures and statements alone.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from reflex_jax.data.phantom import phantom_image
from reflex_jax.data.phantom_world import KINDS, MODALITIES, ORGANS, Phantom, make_phantom, mask_cells
from reflex_jax.data.prompts import Processor
from reflex_jax.models.qwen_vl import QwenVLConfig, encode_images
from reflex_jax.records import VisionInputs
from reflex_jax.step.state import mixing_dtypes
from reflex_jax.trees import Array, Params

_CELLS = 4  # merged features a side of a phantom
_NOTHING = len(KINDS)  # class of a cell without a lesion
_COVERAGE = 0.08  # of a cell by the lesion that names it
_NOTHING_WEIGHT = 0.2  # nine cells of ten hold nothing


def train_vision(
    params: Params,
    processor: Processor,
    *,
    world: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    report: Callable[[int, dict[str, float]], None],
) -> Params:
    """Trains the vision tower of a policy to name what each place of a phantom shows.

    Args:
      params: of the whole policy, float32.
      processor: of the policy.
      world: whose pictures are drawn, each once.
      steps: of AdamW, cosine decay.
      batch_size: pictures a step.
      learning_rate: at its peak.
      report: called every 50 steps with the number of the step and means since the last call.
    """
    config = processor.config
    width = config.vision.output_width
    trainable = {
        "vision": params["vision"],
        "cell": jnp.zeros((width, len(KINDS) + 1)),
        "scan": jnp.zeros((width, len(MODALITIES))),
        "organ": jnp.zeros((width, len(ORGANS))),
        "quadrant": jnp.zeros((width, 4)),
    }
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 10, steps)
    optimizer = mixing_dtypes(optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98)))
    optimizer_state = optimizer.init(trainable)
    loss_and_gradient = jax.value_and_grad(partial(_loss, config=config), has_aux=True)

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(trainable: Params, optimizer_state: Any, vision: VisionInputs, labels: dict[str, Array]) -> Any:
        (_, metrics), gradient = loss_and_gradient(trainable, vision, labels)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, trainable)
        return optax.apply_updates(trainable, updates), optimizer_state, metrics

    def batch_at(step: int) -> tuple[Any, dict[str, np.ndarray]]:
        drawn = [make_phantom(world, step * batch_size + row) for row in range(batch_size)]
        encoded = [processor.encode([phantom_image(phantom)], "") for phantom in drawn]
        vision = processor.collate(encoded, prompt_tokens=max(len(e.ids) for e in encoded), windows=1).vision
        return vision, _labels(drawn)

    recent: list[dict[str, Array]] = []
    with ThreadPoolExecutor(max_workers=1) as reader:
        following = reader.submit(batch_at, 0)
        for step in range(1, steps + 1):
            batch = following.result()
            following = reader.submit(batch_at, step)
            trainable, optimizer_state, metrics = update(trainable, optimizer_state, *batch)
            recent.append(metrics)
            if step % 50 == 0 or step == steps:
                report(step, {name: float(np.mean([m[name] for m in recent])) for name in metrics})
                recent = []
    return {**params, "vision": trainable["vision"]}


def _labels(phantoms: list[Phantom]) -> dict[str, Int[np.ndarray, "..."]]:
    """Classes: cell [N, 4, 4], scan [N], organ [N]."""
    cells = np.full((len(phantoms), _CELLS, _CELLS), _NOTHING)
    for row, phantom in enumerate(phantoms):
        for finding, mask in zip(phantom.facts.findings, phantom.masks, strict=True):
            cells[row][mask_cells(mask, cells=_CELLS, coverage=_COVERAGE)] = KINDS.index(finding.kind)
    return {
        "cell": cells,
        "scan": np.array([MODALITIES.index(p.facts.modality) for p in phantoms]),
        "organ": np.array([ORGANS.index(p.facts.organ) for p in phantoms]),
    }


def _loss(
    trainable: Params, vision: VisionInputs, labels: dict[str, Int[Array, "..."]], *, config: QwenVLConfig
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Cross-entropies of the heads, and how often each is right (cells: those with a lesion)."""
    features = encode_images(trainable, vision, config)
    first = vision.coordinates.reshape(len(features), -1, 2)[:, :: config.vision.patches_per_feature]
    cells = first // config.vision.merge_size  # features lie in window order
    cell_labels = jax.vmap(lambda label, cell: label[cell[:, 0], cell[:, 1]])(labels["cell"], cells)
    logits = {
        "cell": features @ trainable["cell"],
        "scan": features.mean(1) @ trainable["scan"],
        "organ": features.mean(1) @ trainable["organ"],
        "quadrant": features @ trainable["quadrant"],
    }
    in_quadrant = cells // (_CELLS // 2)
    wanted = {**labels, "cell": cell_labels, "quadrant": 2 * in_quadrant[..., 0] + in_quadrant[..., 1]}
    weights = {name: jnp.ones(label.shape) for name, label in wanted.items()}
    weights["cell"] = jnp.where(cell_labels == _NOTHING, _NOTHING_WEIGHT, 1.0)
    counted = {**weights, "cell": (cell_labels != _NOTHING).astype(jnp.float32)}
    loss, metrics = jnp.zeros(()), {}
    for name, label in wanted.items():
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits[name], label)
        loss += (weights[name] * entropy).sum() / weights[name].sum()
        is_right = logits[name].argmax(-1) == label
        metrics[name] = (counted[name] * is_right).sum() / counted[name].sum()
    return loss, {"loss": loss, **metrics}
