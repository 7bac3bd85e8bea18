"""What is wrong with the tensors of a checkpoint, in one line of bounded length: patterns, counts, three examples."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Mapping, Sequence

_EXAMPLES = 3
_PATTERNS = 4
_LONGEST_NAME = 80


def describe_tensors(
    missing: Collection[str] = (),
    extra: Collection[str] = (),
    misshaped: Mapping[str, tuple[Sequence[int], Sequence[int]]] | None = None,
    *,
    wrong_dtypes: Mapping[str, str] | None = None,
    not_finite: Collection[str] = (),
) -> str:
    """Describes how the tensors that were found differ from those that were expected; "" where they do not.

    Up to three of a kind are named. More are put together by what their names begin with: `148 of visual.trunk.*`, with
    three examples each.

    Args:
      missing: names that were expected and not found.
      extra: names that were found and not expected.
      misshaped: name -> the shape expected and the one found.
      wrong_dtypes: name -> the dtype found, for tensors that are no floats.
      not_finite: names of tensors that hold NaN or infinity.
    """
    shapes = {
        name: f"{_cut(name)}: expected {list(expected)}, got {list(got)}"
        for name, (expected, got) in (misshaped or {}).items()
    }
    dtypes = {name: f"{_cut(name)} ({dtype})" for name, dtype in (wrong_dtypes or {}).items()}
    kinds = (
        ("missing", {name: _cut(name) for name in missing}),
        ("extra", {name: _cut(name) for name in extra}),
        ("misshaped", shapes),
        ("no floats", dtypes),
        ("NaN or infinite", {name: _cut(name) for name in not_finite}),
    )
    return " | ".join(f"{label}: {_patterns(described)}" for label, described in kinds if described)


def _patterns(described: Mapping[str, str]) -> str:
    """Names and what to say of each -> all of them, or counts by what they begin with."""
    if len(described) <= _EXAMPLES:
        return "; ".join(described[name] for name in sorted(described))
    roots = itertools.groupby(sorted(described), key=lambda name: name.split(".")[0])
    groups = sorted((list(names) for _, names in roots), key=len, reverse=True)
    parts = []
    for names in groups[:_PATTERNS]:
        examples = "; ".join(described[name] for name in names[:_EXAMPLES])
        prefix = os.path.commonprefix([name + "." for name in names]).rpartition(".")[0]
        parts.append(examples if len(names) == 1 else f"{len(names)} of {_cut(prefix)}.* ({examples})")
    others = sum(map(len, groups[_PATTERNS:]))
    return ", ".join([*parts, f"{others} others"] if others else parts)


def _cut(name: str) -> str:
    name = name if name.isprintable() else ascii(name)
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
