"""Parameter path -> logical axes of the policy: one table, read by `sharding.parameter_shardings`.

The leading axis of everything under `layers` counts layers. Where the key/value heads do not divide over `tensor` they
are replicated. The vision tower is cut over `fsdp` only: its heads are few and its work is small. The judge has no table:
it is replicated.
"""

from __future__ import annotations

from reflex_jax.config import ConfigError
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
    return [
        (r"vision/patch_embed/kernel", (None, "embed")),
        (r"vision/layers/(gate|up|q|k|v|qkv)/kernel", ("layers", "embed", None)),
        (r"vision/layers/(down|o)/kernel", ("layers", None, "embed")),
        (r"vision/merger/fc\d/kernel", ("embed", None)),
        (r"vision/layers/.*/bias", ("layers", None)),
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
