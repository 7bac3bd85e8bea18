"""HOST: the options of a reward are the keyword-only parameters of its function; a configuration is held against them."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter
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


def read_options(function: Callable[..., Any], *, given: int = 1) -> dict[str, Option]:
    """Name -> option, in the order of the signature.

    Args:
      function: of a reward.
      given: how many parameters it is given beside its options, what it scores among them.
    Raises:
      ValueError: there are not so many first parameters, a later one is not keyword-only with a default, has another type than
        those of `TYPES`, or takes the name of what every component has.
    """
    parameters = [*inspect.signature(function).parameters.values()]
    first, parameters = parameters[:given], parameters[given:]
    placed = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    if len(first) < given or any(parameter.kind not in placed for parameter in first):
        raise ValueError(f"{function.__name__}: expected what it scores as the first parameter.")
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
        elif not is_of_type(default, kind):
            problems.append(f"the default of {name}, {default!r}, is no {kind} that a configuration can hold")
        else:
            options[name] = Option(kind, default)
    if problems:
        raise ValueError(f"{function.__name__}: {'; '.join(problems)}.")
    return options


def is_of_type(value: Any, kind: str) -> bool:
    """Whether a value of this type, a key of `TYPES`, is written and read back as it was."""
    if kind.endswith(" | None"):
        return value is None or is_of_type(value, kind.removesuffix(" | None"))
    if kind == "tuple[str, ...]" or kind == "tuple[float, ...]":
        return type(value) is tuple and all(is_of_type(item, kind[6:].partition(",")[0]) for item in value)
    if kind == "dict[str, float]":
        return type(value) is dict and all(type(k) is str and is_of_type(v, "float") for k, v in value.items())
    if kind == "float":
        return type(value) in (int, float) and math.isfinite(value)
    if kind == "int":
        return type(value) is int and abs(value) < 2**32
    if kind == "str":
        return type(value) is str and bool(value) and "\0" not in value and value.isprintable()
    return type(value) is bool


def _name_of(hint: Any) -> str | None:
    return next((name for name, kind in TYPES.items() if kind == hint), None)
