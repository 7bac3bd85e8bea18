"""Where a named checkpoint lies on disk."""

from __future__ import annotations

from pathlib import Path

from reflex_jax.config import ConfigError

_ASSETS = Path(__file__).resolve().parent.parent / "assets"
_MARKER_FILES = {"policy": "config.json", "judge": "open_clip_config.json"}


def resolve_checkpoint(path: str | Path, kind: str) -> Path:
    """Returns the directory of a checkpoint.

    Args:
      path: a directory in the Hugging Face (policy) or open_clip (judge) layout, or "phantom" for the tiny one that
        ships with the package.
      kind: "policy" or "judge".
    Raises:
      ConfigError: there is no such directory, or it is not a checkpoint of this kind.
    """
    directory = _ASSETS / "phantom" / kind if str(path) == "phantom" else Path(path).expanduser()
    marker = _MARKER_FILES[kind]
    if not directory.is_dir():
        raise ConfigError(
            f"{kind}.path: expected a directory with {marker}; {str(path)!r} is no directory. Download the checkpoint "
            f"first, or use {kind}.path=phantom."
        )
    if not (directory / marker).is_file():
        raise ConfigError(
            f"{kind}.path: expected {marker} in {str(path)!r}; found {sorted(p.name for p in directory.iterdir())[:8]}."
        )
    return directory
