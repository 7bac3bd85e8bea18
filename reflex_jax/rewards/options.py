"""HOST: the options of a reward are the keyword-only parameters of its function; a configuration is held against them."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# what an option may be: its annotation as text -> the type
_PLAIN = {
    "str": str, "int": int, "float": float, "bool": bool, "tuple[str, ...]": tuple[str, ...],
    "tuple[float, ...]": tuple[float, ...], "dict[str, float]": dict[str, float],
}  # fmt: skip
TYPES = _PLAIN | {f"{name} | None": kind | None for name, kind in _PLAIN.items()}
RESERVED = ("weight", "when")  # they say how a component enters the total


@dataclass(frozen=True)
class Option:
    """A keyword-only parameter of a reward."""

    type: str  # a key of `TYPES`
    default: Any


def read_options(function: Callable[..., Any]) -> dict[str, Option]:
    """Name -> option, in the order of the signature.

    Raises:
      ValueError: a parameter behind the first is not keyword-only with a default, has another type than those of `TYPES`,
        or takes the name of what every component has.
    """
    _, *parameters = inspect.signature(function).parameters.values()
    hints = typing.get_type_hints(function)
    options, problems = {}, []
    for parameter in parameters:
        name, default = parameter.name, parameter.default
        kind = _name_of(hints.get(name, type(default)))
        if parameter.kind is not parameter.KEYWORD_ONLY or default is parameter.empty:
            problems.append(f"{name} has to stand behind a * and to have a default")
        elif name in RESERVED:
            problems.append(f"{name} is the name of what every component has")
        elif kind is None:
            problems.append(f"{name} has to be annotated as one of {', '.join(_PLAIN)}, or one of these and None")
        else:
            options[name] = Option(kind, default)
    if problems:
        raise ValueError(f"{function.__name__}: {'; '.join(problems)}.")
    return options


def _name_of(hint: Any) -> str | None:
    return next((name for name, kind in TYPES.items() if kind == hint), None)
