"""HOST: every data source by name, as a list of examples."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from reflex_jax.config import ConfigError, DataConfig, user_path
from reflex_jax.data.examples import Example, check_examples
from reflex_jax.data.layouts import Layout
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
      ConfigError: unknown split, missing or damaged files, unusable questions; all offenders by name.
    """
    if data.source == "phantom":
        examples = phantom_examples(split, data.size if size is None else size, seed, noise=noise)
    else:
        examples = _load_official(data, split)
    check_examples(examples, source=data.source)
    return examples


def find_layout(name: str) -> Layout:
    """The layout of one of `config.DATA_SETS`; the file of that name in `data/readers/` is imported when it is asked for."""
    return importlib.import_module(f"reflex_jax.data.readers.{name}").LAYOUT


def default_cache() -> Path:
    """Where prepared data lies unless `data.cache` says otherwise: the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reflex_jax" / "data"


def _load_official(data: DataConfig, split: str) -> list[Example]:
    layout = find_layout(data.source)
    if data.root is None:
        raise ConfigError(f"data.root: {data.source} needs the directory with its official files; set data.root=DIR.")
    # Imported here: phantoms need no TFDS, and its import costs a second.
    from reflex_jax.data.question_sets import load_question_set

    root = user_path(data.root).resolve()
    cache = user_path(data.cache).resolve() if data.cache else default_cache()
    return load_question_set(data.source, layout, root, cache, split)
