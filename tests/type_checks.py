"""Holds every call into the package, and every record made by it, to its annotations, shapes included.

jaxtyping's import hook gives each function a check that looks at the arguments twice, binds each call to a signature and compiles
two checkers. Here a function has one checker of beartype's, which looks at arguments and result within one shape context of
jaxtyping's: the same checks in a fraction of the time.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from types import CodeType
from typing import Any

import jaxtyping

TYPE_CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"  # an int is a float
_SHAPE_CONTEXT = jaxtyping.jaxtyped("context")  # each time it is entered, axes have lengths of their own


def check_calls_into(package: str) -> None:
    """Checks what is imported of a package from now on; to be called before its first import."""
    jaxtyping.jaxtyped = _checked  # what the hook decorates with
    jaxtyping.install_import_hook(package, TYPE_CHECKER)


def _checked(decorated: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """A function with its checker, or a class whose records are checked when they are made."""
    if decorated is None:
        return functools.partial(_checked, typechecker=typechecker)
    if inspect.isclass(decorated):
        if dataclasses.is_dataclass(decorated) and not hasattr(decorated.__init__, "is_checked"):
            decorated.__init__ = _checked(decorated.__init__, typechecker=typechecker)
        return decorated
    decorated.__annotations__ = _resolved(decorated)
    checker = typechecker(decorated)

    @functools.wraps(decorated)
    def call(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:  # see tests/unchecked.py
            return decorated(*args, **kwargs)
        with _SHAPE_CONTEXT:
            return checker(*args, **kwargs)

    call.is_checked = True
    return call


_known: dict[CodeType, dict[str, Any]] = {}


def _resolved(function: Any) -> dict[str, Any]:
    """What its annotations name; whatever is allowed where a name is there for static checkers alone, or local."""
    code = function.__code__
    if code not in _known or code.co_name.startswith("__"):  # what dataclasses write may be equal
        _known[code] = {name: _evaluated(hint, function.__globals__) for name, hint in function.__annotations__.items()}
    return _known[code]


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, names)
    except NameError:
        return Any
