"""What trains: parts of the policy by `policy.trainable`, or adapters beside all of it by `policy.lora`.

Both name parameters by patterns of their paths in our tree, regular expressions that match from the first letter to the last
or to a "/": `vision/merger` is all of the merger, `layers/(q|v)` two projections of every layer of the decoder (layers are
stacked, so none can be chosen alone). `policy.trainable` knows four names for the usual parts.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from reflex_jax.config import ConfigError, LoraConfig, PolicyConfig, patterns_of
from reflex_jax.models.lora import init_adapters
from reflex_jax.trees import Params

PARTS = {"all": ".*", "language": "(?!vision/).*", "vision": "vision", "merger": "vision/merger"}
# what has a kernel but is no plain linear layer of a tower: it is multiplied elsewhere
_WITHOUT_ADAPTERS = ("vision/patch_embed", "head")
_PURPOSE = 0x6C6F7261  # tells the draws of adapters from those of sampling, which begin with the same seed
_MOST_SHOWN = 5


def split_trainable(params: Params, policy: PolicyConfig) -> tuple[Params, Params]:
    """The policy's own parameters as (those that train, those that are fixed); beside adapters all are fixed.

    Raises:
      ConfigError: patterns of `policy.trainable` match nothing; all of them, each with the nearest paths.
    """
    if policy.lora.rank:
        return {}, params
    leaves = flatten_dict(params, sep="/")
    patterns = [PARTS.get(pattern, pattern) for pattern in patterns_of(policy.trainable)]
    chosen = _matching(leaves, patterns, "policy.trainable", names=PARTS)
    trained, fixed = (
        {path: leaf for path, leaf in leaves.items() if (path in chosen) == is_one} for is_one in (True, False)
    )
    return unflatten_dict(trained, sep="/"), unflatten_dict(fixed, sep="/")


def adapted_layers(params: Params, lora: LoraConfig) -> tuple[str, ...]:
    """Paths of the linear layers that get an adapter, sorted.

    Raises:
      ConfigError: patterns of `policy.lora.targets` match no linear layer; all of them, each with the nearest paths.
    """
    layers = linear_layers(params)
    return tuple(sorted(_matching(layers, patterns_of(lora.targets), "policy.lora.targets")))


def linear_layers(params: Params) -> list[str]:
    """Paths of all layers that can have an adapter."""
    paths = (path for path in flatten_dict(params, sep="/") if path.endswith("/kernel"))
    return [layer for layer in (path.removesuffix("/kernel") for path in paths) if layer not in _WITHOUT_ADAPTERS]


def draw_adapters(params: Params, policy: PolicyConfig, seed: int) -> Params:
    """The adapters a run starts with where no others are given; {} where it has none.

    Args:
      params: of the policy, or their shapes.
      policy: section of the configuration.
      seed: of the run; neither the mesh nor the number of processes enters.
    """
    lora = policy.lora
    if not lora.rank:
        return {}
    key = jax.random.fold_in(jax.random.key(seed), _PURPOSE)
    return init_adapters(params, adapted_layers(params, lora), rank=lora.rank, key=key)


def abstract_trained(params: Params, policy: PolicyConfig) -> Params:
    """Shapes of what trains, of the shapes of the policy."""
    own, _ = split_trainable(params, policy)
    return own or jax.eval_shape(lambda: draw_adapters(params, policy, 0))


def _matching(paths: Collection[str], patterns: Sequence[str], key: str, names: Collection[str] = ()) -> set[str]:
    chosen: set[str] = set()
    problems = []
    for pattern in patterns:
        found = {path for path in paths if re.fullmatch(f"(?:{pattern})(?:/.*)?", path)}
        chosen |= found
        if not found:
            problems.append(f"{key}: {pattern[:80]!r} matches nothing; {_nearest(pattern, paths, names)}")
    if problems:
        raise ConfigError("\n".join(problems))
    return chosen


def _nearest(pattern: str, paths: Collection[str], names: Collection[str]) -> str:
    """The paths, parts of them and names that look most like a pattern."""
    parts = {"/".join(path.split("/")[:depth]) for path in paths for depth in range(1, path.count("/") + 2)}
    near = difflib.get_close_matches(pattern[:80], sorted({*parts, *names}), n=_MOST_SHOWN, cutoff=0.0)
    return f"expected a regular expression of whole paths. Nearest are {', '.join(near)}."
