"""What every command does before it touches a device: quiet start-up, compiled programs kept, processes joined."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

from reflex_jax.config import ConfigError


def quiet() -> None:
    """Before anything heavy is imported: transformers says nothing of what is not installed, and starts no threads."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def prepare() -> None:
    """Quiets start-up chatter, claims the GPUs, keeps compiled programs, joins the other processes, finds the devices.

    Raises:
      ConfigError: JAX finds no device of the kind it was told to use.
    """
    import absl.logging

    absl.logging.set_verbosity(absl.logging.ERROR)
    import jax

    _keep_compiled_programs(jax.config)
    from reflex_jax.planning.device_memory import claim_gpu_memory
    from reflex_jax.processes import start_processes

    claim_gpu_memory()
    start_processes()
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where a plugin is there and its device is not
        wanted = os.environ.get("JAX_PLATFORMS") or "any"
        reason = (str(error).strip() or "none answers").splitlines()[0][:200]
        raise ConfigError(
            f"JAX_PLATFORMS: no device of the kind {wanted!r} can be used ({reason}). Unset it for whatever is there, set "
            "JAX_PLATFORMS=cpu, or install what the device needs: pip install 'reflex_jax[cuda]' or 'reflex_jax[tpu]'."
        ) from error


def _keep_compiled_programs(settings: Any) -> None:
    """Turns JAX's persistent compilation cache on, where its folder can be written; a run does not depend on it."""
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not folder:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = os.path.join(cache, "reflex_jax", "compiled")
        settings.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    try:
        if "://" not in folder:  # else an object store, which JAX knows
            os.makedirs(folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        settings.update("jax_enable_compilation_cache", False)
        print(
            f"reflex: compiled programs are not kept, {folder} cannot be written ({error.strerror}). Set "
            "JAX_COMPILATION_CACHE_DIR to a folder that can, and the next start is quicker.",
            file=sys.stderr,
        )
        return
    settings.update("jax_compilation_cache_dir", folder)
