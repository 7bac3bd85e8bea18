"""Settings as they were written: YAML that guesses no types, and what a written value is once the type of its key is known."""

from __future__ import annotations

import math
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reflex_jax.config import Component, ConfigError, user_path

_YES, _NO = ("true", "yes", "on"), ("false", "no", "off")
_LARGEST = 2**32 - 1  # a seed may be that large; no step, token or question is counted further


@dataclass(frozen=True)
class Scalar:
    """A value as it was written."""

    text: str
    is_text: bool = False  # it can only be text: quoted in a file, or given to a text key on the command line
    remark: str = ""  # what looks like more of it and is a comment to YAML, "#2" behind "s/exp"


class _Loader(yaml.BaseLoader):
    """YAML that guesses no types: a date, 1e5, 010 or `no` stay what was written, until the key says what they are."""

    def construct_scalar(self, node: yaml.ScalarNode) -> Scalar | None:
        """Returns the text, None for null and for nothing."""
        self._check_tag(node, self.DEFAULT_SCALAR_TAG)
        is_plain = node.style is None
        if is_plain and node.value in ("", "null", "Null", "NULL"):
            return None
        rest = node.end_mark.buffer[node.end_mark.pointer :] if is_plain else ""
        remark = re.match(r"[ \t]+(#[^\s#][^\n]*)", rest)
        return Scalar(node.value, is_text=not is_plain, remark=remark[1] if remark else "")

    def construct_sequence(self, node: yaml.SequenceNode, deep: bool = False) -> list[Any]:
        """Returns the values."""
        self._check_tag(node, self.DEFAULT_SEQUENCE_TAG)
        return super().construct_sequence(node, deep=deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        """Returns the values by the text of their keys; a key that comes twice is refused."""
        self._check_tag(node, self.DEFAULT_MAPPING_TAG)
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="expected a name as key", problem_mark=key_node.start_mark)
            if key_node.value in mapping:
                raise yaml.MarkedYAMLError(
                    problem=f"{shown_key(key_node.value)} stands there twice", problem_mark=key_node.start_mark
                )
            mapping[key_node.value] = self.construct_object(value_node, deep=deep)
        return mapping

    def _check_tag(self, node: yaml.Node, expected: str) -> None:
        if node.tag != expected:
            problem = f"the tag {shown_key(node.tag)} is not read here, write the value alone"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def read_text(path: str | Path) -> str:
    """A configuration file; refuses what is no text."""
    path = user_path(path)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"configuration file not found: {str(path)!r}. See configs/ for those that ship.") from error
    except OSError as error:
        raise ConfigError(f"{str(path)!r}: expected a YAML file; it cannot be read ({error.strerror}).") from error
    except ValueError as error:  # not UTF-8, or a name with a zero byte
        raise ConfigError(f"{str(path)!r}: expected a YAML file in UTF-8; got something else ({error}).") from error


def read_document(text: str, name: str) -> dict[str, Any]:
    """Sections of a file; one without keys is as good as absent."""
    try:
        content = load_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"{name}: expected sections such as `grpo:`; got {shown(content)}.")
    return {section: {} if values is None else values for section, values in (content or {}).items()}


def load_yaml(text: str) -> Any:
    """What YAML says, its values as they were written."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        is_mistyped = isinstance(error, yaml.scanner.ScannerError | yaml.parser.ParserError)
        advice = " Text with : # { [ @ % or * wants quotes there." if is_mistyped else ""
        raise ConfigError(f"not readable as YAML: {place}{' '.join(problem.split())[:200]}.{advice}") from error


def read_str(value: Scalar) -> str | None:
    """The text, None where none can be meant."""
    # an empty text is an unset variable of a shell; a plain ~ is null to YAML and the home folder to a shell
    is_ambiguous = not value.text or (value.text == "~" and not value.is_text)
    is_writable = "\0" not in value.text and not any("\ud800" <= letter <= "\udfff" for letter in value.text)
    return value.text if is_writable and not (is_ambiguous or value.remark) else None


def _read_int(value: Scalar) -> int | None:
    if value.is_text:
        return None
    number: int | None
    try:
        number = int(value.text)
    except ValueError:
        written = _read_float(value)
        number = int(written) if written is not None and written.is_integer() else None
    return number if number is not None and abs(number) <= _LARGEST else None


def _read_float(value: Scalar) -> float | None:
    if value.is_text:
        return None
    try:
        number = float(value.text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _read_bool(value: Scalar) -> bool | None:
    word = "" if value.is_text else value.text.lower()
    return word in _YES if word in _YES + _NO else None


READERS = {
    str: (read_str, "text"),
    int: (_read_int, f"a whole number of at most {_LARGEST}"),
    float: (_read_float, "a finite number"),
    bool: (_read_bool, "true or false (yes, on, no, off)"),
}


def advise(value: Any, hint: Any) -> str:
    """What to do about a value that is not of the type of its key, "" where nothing is to be said."""
    kind, is_optional = without_none(hint)
    if kind is not str:
        return " Write it without quotes." if isinstance(value, Scalar) and value.is_text else ""
    if isinstance(value, Scalar) and not value.text:
        return " Write null for none." if is_optional else ""
    if isinstance(value, Scalar) and value.remark:
        remark = shown(Scalar(value.remark))
        return f" To YAML {remark} is a comment: put the text in quotes, or a blank behind the # of a comment."
    is_text = isinstance(value, Scalar) and value.is_text
    return " Only UTF-8 without zero bytes can be a name." if is_text else " Put it in quotes where text is meant."


def shown(value: Any) -> str:
    """A value in a message: on one line, and no longer than one."""
    if isinstance(value, Scalar):
        return repr(value.text) if len(value.text) <= 80 else f"{value.text[:80]!r}..."
    return "null" if value is None else "a list" if isinstance(value, list) else "a mapping"


def shown_key(key: str) -> str:
    """A key in a message."""
    return key if key.isprintable() and len(key) <= 80 else f"{key[:80]!r}"


def without_none(hint: Any) -> tuple[Any, bool]:
    """The type of a key, and whether it may be None."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(a for a in typing.get_args(hint) if a is not type(None)), True
    return hint, False


class Entries(dict):
    """Entries of a mapping that leave its other entries as they are."""


class Untyped(str):
    """The value of an override whose type is not known yet: an option of a component."""


def read_value(value: str, hint: Any) -> Any:
    """The value of an override, for a key of this type."""
    if hint is Untyped:
        return Untyped(value)
    if hint is Component and not value.lstrip().startswith("{"):
        return Entries(weight=Scalar(value.strip()))
    kind, is_optional = without_none(hint)
    if is_optional and (value if kind is str else value.strip()) == "null":
        return None
    if kind is str:
        return Scalar(value, is_text=True)
    return Scalar(value.strip()) if kind in (int, float, bool, None) else load_yaml(value)
