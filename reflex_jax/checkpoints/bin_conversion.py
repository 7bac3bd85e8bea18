"""Pickled torch weights -> safetensors, once, in a child process.

The child unpickles with `weights_only=True`, so a hostile file cannot run code, and this process never imports torch.
Results lie in a cache under the SHA-256 of the pickled file: a changed file is converted anew, a copied one is not.

    python -m reflex_jax.checkpoints.bin_conversion INPUT.bin OUTPUT.safetensors
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from reflex_jax.config import ConfigError

# What unpickling arbitrary bytes raises.
_DAMAGE = (
    pickle.UnpicklingError, struct.error, RuntimeError, ValueError, EOFError, OSError, AttributeError, LookupError, TypeError,
    AssertionError, MemoryError, ArithmeticError,
)  # fmt: skip


def converted_bin(path: str | Path, *, setting: str = "judge.path") -> Path:
    """Returns the safetensors file with the content of a pickled one, converting it at first sight.

    Args:
      path: of the pickled file.
      setting: the key that led to it, which begins messages.

    Raises:
      ConfigError: torch is not installed, the cache cannot be written, or the file is no dictionary of tensors.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{setting}: {path} cannot be read ({error.strerror}).") from error
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reflex_jax" / "converted"
    converted = cache / f"{digest}.safetensors"
    if converted.is_file():
        return converted
    if importlib.util.find_spec("torch") is None:
        raise ConfigError(
            f"{setting}: {path} is a pickled torch file and torch is not installed. Install the extra `convert` "
            f"(pip install 'reflex_jax[convert]'), or put a safetensors file beside it."
        )
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # A name of its own, then a rename: a killed conversion leaves nothing that looks finished.
        handle, partial = tempfile.mkstemp(dir=cache, prefix=digest, suffix=".partial")
        os.close(handle)
    except OSError as error:
        raise ConfigError(
            f"{setting}: {path} is converted once into {cache}, which cannot be written ({error.strerror}). Set "
            "XDG_CACHE_HOME to a folder that can, or put a safetensors file beside it."
        ) from error
    try:
        command = [sys.executable, "-m", "reflex_jax.checkpoints.bin_conversion", str(path), partial]
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or [f"the conversion ended with {result.returncode}"])[-1]
            raise ConfigError(f"{setting}: {path} could not be converted to safetensors: {reason[:300]}")
        os.replace(partial, converted)
    finally:
        Path(partial).unlink(missing_ok=True)
    return converted


def _convert(source: str, target: str) -> str | None:
    """The child's work; returns what is wrong with the file."""
    import torch
    from safetensors.torch import save_file

    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        # torch explains over many lines how to load it all the same; one of them names what it did not accept
        refused = next((line for line in lines if "Unsupported" in line or "GLOBAL" in line), lines[0])
        return f"it holds more than tensors, or is damaged ({refused[:200]})."
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not state:
        return f"expected a dictionary of tensors; got {type(state).__name__}."
    strangers = [str(name) for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if strangers:
        return f"expected a dictionary of tensors; {len(strangers)} entries are none: {', '.join(strangers[:3])[:200]}."
    save_file({str(name): tensor.detach().clone().contiguous() for name, tensor in state.items()}, target)
    return None


if __name__ == "__main__":
    sys.exit(_convert(*sys.argv[1:]))
