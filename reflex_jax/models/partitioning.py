"""Parameter path -> logical axes of the policy: one table, read by `sharding.parameter_shardings`.

The leading axis of everything under `layers` counts layers. What may not divide over `tensor` is whole on all of its devices
where it does not: the decoder's key/value heads, and the heads and hidden units of the vision tower (16 and 3420 in the
published models). An adapter is cut as its kernel is, but along its rank. The judge has no table: it is replicated.
"""

from __future__ import annotations

from reflex_jax.config import ConfigError
from reflex_jax.models.lora import KERNEL, LORA_A, LORA_B
from reflex_jax.models.qwen_vl import QwenVLConfig
from reflex_jax.sharding import AnyMesh

Table = list[tuple[str, tuple[str | None, ...]]]


def policy_table(config: QwenVLConfig, mesh: AnyMesh) -> Table:
    """Returns the table for one model on one mesh.

    Raises:
      ConfigError: the query heads do not divide over `tensor`.
    """
    tensor = mesh.shape["tensor"]
    heads, kv_heads = config.text.heads, config.text.key_heads
    if heads % tensor:
        raise ConfigError(f"mesh.tensor: expected a divisor of the {heads} attention heads; got {tensor}.")
    keys = "heads" if kv_heads % tensor == 0 else None
    vision = config.vision
    own_heads = "heads" if vision.heads % tensor == 0 else None
    own_hidden = "hidden" if vision.hidden % tensor == 0 else None
    merged = "hidden" if vision.width * vision.patches_per_feature % tensor == 0 else None
    table: Table = [
        (r"vision/patch_embed/kernel", (None, "embed")),
        (r"vision/layers/(q|k|v)/kernel", ("layers", "embed", own_heads)),
        (r"vision/layers/(q|k|v)/bias", ("layers", own_heads)),
        (r"vision/layers/o/kernel", ("layers", own_heads, "embed")),
        (r"vision/layers/(gate|up|fc1)/kernel", ("layers", "embed", own_hidden)),
        (r"vision/layers/(gate|up|fc1)/bias", ("layers", own_hidden)),
        (r"vision/layers/(down|fc2)/kernel", ("layers", own_hidden, "embed")),
        (r"vision/layers/.*/bias", ("layers", None)),
        (r"vision/merger/fc1/kernel", ("embed", merged)),
        (r"vision/merger/fc1/bias", (merged,)),
        (r"vision/merger/(fc2|proj)/kernel", (merged, "embed")),
        (r"vision/deepstack/fc1/kernel", ("layers", "embed", merged)),
        (r"vision/deepstack/fc1/bias", ("layers", merged)),
        (r"vision/deepstack/fc2/kernel", ("layers", merged, "embed")),
        (r"vision/.*", ()),
        (r"embed/embedding", ("vocab", "embed")),
        (r"head/kernel", ("embed", "vocab")),
        (r"layers/q/kernel", ("layers", "embed", "heads")),
        (r"layers/q/bias", ("layers", "heads")),
        (r"layers/(k|v)/kernel", ("layers", "embed", keys)),
        (r"layers/(k|v)/bias", ("layers", keys)),
        (r"layers/o/kernel", ("layers", "heads", "embed")),
        (r"layers/(gate|up)/kernel", ("layers", "embed", "hidden")),
        (r"layers/down/kernel", ("layers", "hidden", "embed")),
    ]
    return table + _of_adapters(table)


def _of_adapters(table: Table) -> Table:
    """Rows of `lora_a` [*L, in, r] and `lora_b` [*L, r, out] of each kernel [*L, in, out]."""
    rows: Table = []
    for pattern, axes in table:
        if pattern.endswith(KERNEL):
            *stack, into, out = axes
            layer = pattern.removesuffix(KERNEL)
            rows += [(layer + LORA_A, (*stack, into, None)), (layer + LORA_B, (*stack, None, out))]
    return rows
