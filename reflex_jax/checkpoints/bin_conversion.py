"""Pickled torch weights -> safetensors, once, in a child process.

The child unpickles with `weights_only=True`, so a hostile file cannot run code, and this process never imports torch.
Results lie in a cache under the SHA-256 of the pickled file: a changed file is converted anew, a copied one is not.

    python -m reflex_jax.checkpoints.bin_conversion INPUT.bin OUTPUT.safetensors
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from reflex_jax.config import ConfigError


def converted_bin(path: str | Path) -> Path:
    """Returns the safetensors file with the content of a pickled one, converting it at first sight.

    Raises:
      ConfigError: torch is not installed, or the file is no dictionary of tensors.
    """
    path = Path(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reflex_jax" / "converted"
    converted = cache / f"{digest}.safetensors"
    if converted.is_file():
        return converted
    if importlib.util.find_spec("torch") is None:
        raise ConfigError(
            f"{path} is a pickled torch file and torch is not installed. Install the extra `convert` "
            f"(pip install 'reflex_jax[convert]'), or put a safetensors file beside it."
        )
    cache.mkdir(parents=True, exist_ok=True)
    # A name of its own, then a rename: a killed conversion leaves nothing that looks finished.
    handle, partial = tempfile.mkstemp(dir=cache, prefix=digest, suffix=".partial")
    os.close(handle)
    try:
        command = [sys.executable, "-m", "reflex_jax.checkpoints.bin_conversion", str(path), partial]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
            raise ConfigError(f"{path} could not be converted to safetensors: {reason}")
        os.replace(partial, converted)
    finally:
        Path(partial).unlink(missing_ok=True)
    return converted


def _convert(source: str, target: str) -> None:
    """The child's work."""
    import torch
    from safetensors.torch import save_file

    state = torch.load(source, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in state.items()}, target)


if __name__ == "__main__":
    _convert(*sys.argv[1:])
