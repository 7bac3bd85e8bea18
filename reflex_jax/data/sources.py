"""HOST: every data source by name, as a list of examples."""

from __future__ import annotations

import os
from pathlib import Path

from reflex_jax.config import ConfigError, DataConfig, user_path
from reflex_jax.data.examples import Example, check_examples
from reflex_jax.data.phantom import phantom_examples


def load_examples(
    data: DataConfig, split: str, *, seed: int, size: int | None = None, noise: float = 0.0
) -> list[Example]:
    """Loads the questions of one split, in an order that never changes.

    Args:
      data: names the source, its root and its cache.
      split: e.g. "train", "test".
      seed: of the phantom world; the real sets do not depend on it.
      size: phantom only, number of pictures; default `data.size`.
      noise: phantom only, how often the teacher of the supervised phase misperceives a lesion.

    Raises:
      ConfigError: unknown source or split, missing or damaged files, unusable questions; all offenders by name.
    """
    sources = {"phantom": _load_phantom, "vqa_rad": _load_official, "slake": _load_official}
    if data.source not in sources:
        raise ConfigError(f"data.source: expected one of {', '.join(sources)}; got {data.source!r}.")
    examples = sources[data.source](data, split, seed, size, noise)
    check_examples(examples, source=data.source)
    return examples


def default_cache() -> Path:
    """Where prepared data lies unless `data.cache` says otherwise: the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reflex_jax" / "data"


def _load_phantom(data: DataConfig, split: str, seed: int, size: int | None, noise: float) -> list[Example]:
    return phantom_examples(split, data.size if size is None else size, seed, noise=noise)


def _load_official(data: DataConfig, split: str, seed: int, size: int | None, noise: float) -> list[Example]:
    # Imported here: phantoms need no TFDS, and its import costs a second.
    from reflex_jax.data.question_sets import prepare, read_prepared
    from reflex_jax.data.slake import Slake, slake_files
    from reflex_jax.data.vqa_rad import VqaRad, vqa_rad_files

    builder_class, official_files = {"vqa_rad": (VqaRad, vqa_rad_files), "slake": (Slake, slake_files)}[data.source]
    if data.root is None:
        raise ConfigError(f"data.root: {data.source} needs the directory with its official files; set data.root=DIR.")
    root = user_path(data.root).resolve()
    cache = user_path(data.cache).resolve() if data.cache else default_cache()
    files = official_files(root)
    try:
        prepared = prepare(builder_class, root, cache, files)
    except OSError as error:
        raise ConfigError(
            f"data.cache: the questions of {data.source} cannot be prepared in {str(cache)!r} ({error}). Set data.cache=DIR "
            "to a folder that can be written."
        ) from error
    return read_prepared(prepared, split)
