"""What a run may not change under its checkpoints: the questions, and the policy it started from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example

_BLOCK = 1 << 20
_WEIGHTS = (".safetensors", ".json")


def data_fingerprint(examples: Sequence[Example]) -> str:
    """Hash of the questions in their order, with the pictures where they are at hand as bytes."""
    digest = hashlib.sha256()
    for example in examples:
        picture = example.image if isinstance(example.image, bytes) else b""
        for part in (example.id, example.question, example.answer, example.answer_type, example.image_id):
            digest.update(part.encode() + b"\0")
        digest.update(hashlib.sha256(picture).digest())
    return digest.hexdigest()[:16]


def policy_fingerprint(directory: Path) -> str:
    """Hash of a checkpoint's configuration and weights: of large files the size and three samples of 1 MiB."""
    digest = hashlib.sha256()
    for path in sorted(p for p in directory.iterdir() if p.suffix in _WEIGHTS):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\0".encode())
        with path.open("rb") as file:
            for start in sorted({0, max(size // 2 - _BLOCK, 0), max(size - _BLOCK, 0)}):
                file.seek(start)
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:16]


def check_identity(found: dict[str, str], expected: dict[str, str], directory: Path) -> None:
    """Refuses to continue a run on other data or from another policy.

    Raises:
      ConfigError: what differs, by name.
    """
    what = {
        "data": "the training questions (data.*) are others",
        "policy": "policy.path holds other weights, so the reference policy would be another",
    }
    differences = [text for key, text in what.items() if found.get(key) != expected[key]]
    if differences:
        raise ConfigError(
            f"{directory} cannot be continued: {'; '.join(differences)} than when it was saved. Put them back, or set "
            "run.name for a new run."
        )
