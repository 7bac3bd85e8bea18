"""Reads configurations from YAML files and dotted overrides, and writes them; wrong input is refused by name.

What a value means is decided by the type of its key, by the same rules in a file and in an override:

- Text is what was written: `run.name=1.10` is "1.10", `run.name=007` keeps its zeros, and an override keeps everything
  behind its first "=", blanks, quotes and # included. Where text may be absent (`data.root`), null means none.
- A number is what Python's `int()` and `float()` read, and finite: 010 is ten, 1e3 is a whole number too.
- true, yes, on and false, no, off, in any case.
- Lists and mappings are YAML, as a file has them: `data.phases=[{answer_type: open}]`.

A section is merged key by key with what stood before: the defaults, the file, then the overrides in their order. A
mapping that is a value (`rewards.components`) names all of its entries where it is written as a whole, in a file or as
`rewards.components={answer: 1}`; a dotted key (`rewards.components.answer=1`) sets one entry and keeps the others. A
component is its weight, or a mapping of weight, when and the options of its function; a dotted key sets one of them
(`rewards.components.provenance.text_threshold=0.7`), and a number alone the weight.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import os
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reflex_jax.config import (
    MESH_PRESETS,
    MOVED_KEYS,
    Component,
    Config,
    ConfigError,
    config_to_dict,
    nearest_name,
    user_path,
)
from reflex_jax.rewards.options import TYPES, Option
from reflex_jax.rewards.user_file import UserFileError, describe_files

_YES, _NO = ("true", "yes", "on"), ("false", "no", "off")
_LARGEST = 2**32 - 1  # a seed may be that large; no step, token or question is counted further
_LAST_LINE = "..."  # YAML's end of a document: a saved configuration without it was cut off


def load_config(path: str | Path | None = None, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Reads a YAML file and dotted overrides into a validated `Config`; the module says what values mean.

    Args:
      path: YAML file with any of the sections of `Config`; None: the defaults alone.
      overrides: "section.key=value", e.g. "grpo.group_size=4"; later ones win.
    Raises:
      ConfigError: missing or broken file, unknown keys (all of them, each with the nearest valid name), wrong types,
        values out of range; one line each.
    """
    text = _read_text(path) if path is not None else ""
    place = Path.cwd() if path is None else user_path(path).absolute().parent
    return _resolve(text, str(path), overrides, place=place, is_trusted=True)


def load_saved_config(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Reads a file that `save_config` wrote in full: what is not there was cut off, and must not become a default.

    A run directory may come from anywhere, so the `rewards.files` it names are not run: components that they define are
    taken as they stand, unless an override names the files again.

    Raises:
      ConfigError: as `load_config`, or the file is damaged.
    """
    try:
        text = _read_text(path)
        if text.rstrip("\r\n").rpartition("\n")[2] != _LAST_LINE:
            raise ConfigError(f"its last line, `{_LAST_LINE}`, was cut off; add it if every setting is there")
        _read_document(text, "its content")
    except ConfigError as error:
        raise ConfigError(
            f"{path}: the settings of this run are damaged ({error}). Restore the file from a copy."
        ) from error
    return _resolve(text, str(path), overrides, place=path.parent, is_trusted=False)


def save_config(config: Config, path: Path) -> None:
    """Writes the configuration as resolved, every key spelt out.

    Raises:
      OSError: it cannot be written.
    """
    text = yaml.safe_dump(config_to_dict(config), sort_keys=False, explicit_end=True, width=math.inf)
    path.write_text(text, encoding="utf-8", newline="\n")


def _resolve(text: str, name: str, overrides: list[str] | tuple[str, ...], *, place: Path, is_trusted: bool) -> Config:
    """Merges a file that lies in `place` with overrides; only of a trusted file the `rewards.files` are run."""
    problems: list[str] = []
    layers = [_with_absolute_files(_read_document(text, name), place)]
    layers += [_with_absolute_files(_read_override(override, problems), Path.cwd()) for override in overrides]
    problems += [problem for layer in layers for problem in _unknown_keys(layer, Config, "")]
    _refuse(problems)
    merged: dict[str, Any] = {}
    for layer in layers:
        _merge(merged, _with_preset(layer))
    named = layers if is_trusted else layers[1:]
    _read_components(merged.get("rewards", {}), problems, runs_files=any(_files_of(layer) for layer in named))
    config = _build(Config, merged, "", problems)
    _refuse(problems)
    return config


def _refuse(problems: list[str]) -> None:
    if problems:
        raise ConfigError("\n".join(problems))


# --- from text to layers: section -> key -> None, _Scalar, list or dict


@dataclass(frozen=True)
class _Scalar:
    """A value as it was written."""

    text: str
    is_text: bool = False  # it can only be text: quoted in a file, or given to a text key on the command line
    remark: str = ""  # what looks like more of it and is a comment to YAML, "#2" behind "s/exp"


class _Entries(dict):
    """Entries of a mapping that leave its other entries as they are."""


class _Untyped(str):
    """The value of an override whose type is not known yet: an option of a component."""


class _Loader(yaml.BaseLoader):
    """YAML that guesses no types: a date, 1e5, 010 or `no` stay what was written, until the key says what they are."""

    def construct_scalar(self, node: yaml.ScalarNode) -> _Scalar | None:
        """Returns the text, None for null and for nothing."""
        self._check_tag(node, self.DEFAULT_SCALAR_TAG)
        is_plain = node.style is None
        if is_plain and node.value in ("", "null", "Null", "NULL"):
            return None
        rest = node.end_mark.buffer[node.end_mark.pointer :] if is_plain else ""
        remark = re.match(r"[ \t]+(#[^\s#][^\n]*)", rest)
        return _Scalar(node.value, is_text=not is_plain, remark=remark[1] if remark else "")

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
                    problem=f"{_shown_key(key_node.value)} stands there twice", problem_mark=key_node.start_mark
                )
            mapping[key_node.value] = self.construct_object(value_node, deep=deep)
        return mapping

    def _check_tag(self, node: yaml.Node, expected: str) -> None:
        if node.tag != expected:
            problem = f"the tag {_shown_key(node.tag)} is not read here, write the value alone"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _read_text(path: str | Path) -> str:
    path = user_path(path)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"configuration file not found: {str(path)!r}. See configs/ for those that ship.") from error
    except OSError as error:
        raise ConfigError(f"{str(path)!r}: expected a YAML file; it cannot be read ({error.strerror}).") from error
    except ValueError as error:  # not UTF-8, or a name with a zero byte
        raise ConfigError(f"{str(path)!r}: expected a YAML file in UTF-8; got something else ({error}).") from error


def _read_document(text: str, name: str) -> dict[str, Any]:
    """Sections of a file; one without keys is as good as absent."""
    try:
        content = _load_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"{name}: expected sections such as `grpo:`; got {_shown(content)}.")
    return {section: {} if values is None else values for section, values in (content or {}).items()}


def _load_yaml(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        is_mistyped = isinstance(error, yaml.scanner.ScannerError | yaml.parser.ParserError)
        advice = " Text with : # { [ @ % or * wants quotes there." if is_mistyped else ""
        raise ConfigError(f"not readable as YAML: {place}{' '.join(problem.split())[:200]}.{advice}") from error


def _read_override(override: str, problems: list[str]) -> dict[str, Any]:
    """The layer of one "section.key=value"; {} and a problem where it is none."""
    key, separator, value = override.partition("=")
    names = key.strip().split(".")
    if not separator or not all(names):
        problems.append(f"override {_shown(_Scalar(override))}: expected section.key=value, e.g. grpo.group_size=4.")
        return {}
    hint: Any = Config
    layer: dict[str, Any] = {}
    inner, last = layer, names[-1]
    for depth, name in enumerate(names):
        if hint in (Component, _Untyped):  # what options there are is known when all layers are read
            hint = _type_hints(Component).get(name, _Untyped) if hint is Component else _Untyped
        elif dataclasses.is_dataclass(hint):
            section: Any = hint
            hint = _type_hints(section).get(name)
        elif typing.get_origin(hint) is dict:
            hint = typing.get_args(hint)[1]
        else:
            above = _shown_key(".".join(names[:depth]))
            problems.append(f"{_shown_key(key)}: {above} has no keys; give it as a whole, {above}=...")
            return {}
        if hint is None:  # no such key: `_unknown_keys` says so, and which there are
            last = name
            break
        if depth < len(names) - 1:
            inner = inner.setdefault(name, {} if depth == 0 else _Entries())
    try:
        inner[last] = _read_value(value, hint)
    except ConfigError as error:
        problems.append(f"{_shown_key(key)}: {error}")
        return {}
    return layer


def _read_value(value: str, hint: Any) -> Any:
    """The value of an override, for a key of this type."""
    if hint is _Untyped:
        return _Untyped(value)
    if hint is Component and not value.lstrip().startswith("{"):
        return _Entries(weight=_Scalar(value.strip()))
    kind, is_optional = _without_none(hint)
    if is_optional and (value if kind is str else value.strip()) == "null":
        return None
    if kind is str:
        return _Scalar(value, is_text=True)
    return _Scalar(value.strip()) if kind in (int, float, bool, None) else _load_yaml(value)


# --- from layers to a Config


def _merge(merged: dict[str, Any], layer: dict[str, Any]) -> None:
    for section, values in layer.items():
        before = merged.setdefault(section, {})
        for key, value in values.items():
            if isinstance(value, _Entries) and key not in before:
                before[key] = _default_entries(section, key)
            before[key] = _over(before.get(key), value)


def _over(before: Any, value: Any) -> Any:
    """What stands after `value` was written over what stood before."""
    if not isinstance(value, _Entries):
        return value
    if isinstance(before, _Scalar):
        before = {"weight": before}  # a component that was given by its weight alone
    if before is None:
        return value
    if not isinstance(before, dict):
        return before  # it is refused later
    return type(before)({**before, **{name: _over(before.get(name), entry) for name, entry in value.items()}})


def _default_entries(section: str, key: str) -> dict[str, Any]:
    field: Any = {f.name: f for f in dataclasses.fields(_type_hints(Config)[section])}[key]
    return {name: {} for name in field.default_factory()}


def _with_preset(layer: dict[str, Any]) -> dict[str, Any]:
    """Spells a mesh preset out, under the axes the same file names itself."""
    mesh = layer.get("mesh", {})
    preset = mesh.get("preset")
    axes = MESH_PRESETS.get(preset.text, {}) if isinstance(preset, _Scalar) else {}
    return {**layer, "mesh": {**{axis: _Scalar(str(size)) for axis, size in axes.items()}, **mesh}} if axes else layer


def _unknown_keys(values: dict[str, Any], cls: Any, prefix: str) -> list[str]:
    """Names every key that no dataclass field has, each with its nearest neighbour."""
    hints = _type_hints(cls)
    problems = []
    for key, value in values.items():
        if prefix + key in MOVED_KEYS:
            problems.append(f"{prefix}{key} has moved: set {MOVED_KEYS[prefix + key]} instead.")
        elif key not in hints:
            problems.append(
                f"unknown key {prefix}{_shown_key(key)}: expected one of {', '.join(hints)}.{nearest_name(key, hints)}"
            )
        elif dataclasses.is_dataclass(hints[key]):
            if isinstance(value, dict):
                problems += _unknown_keys(value, hints[key], f"{prefix}{key}.")
            else:
                keys = ", ".join(_type_hints(hints[key]))
                problems.append(f"{prefix}{key}: expected a section with keys {keys}; got {_shown(value)}.")
    return problems


def _with_absolute_files(layer: dict[str, Any], place: Path) -> dict[str, Any]:
    """Reads the paths of `rewards.files` as seen from where they are written."""
    files = [
        _Scalar(os.path.abspath(place / user_path(value.text)), is_text=True)
        if isinstance(value, _Scalar) and _read_str(value)
        else value
        for value in _files_of(layer)
    ]
    return {**layer, "rewards": {**layer["rewards"], "files": files}} if files else layer


def _files_of(layer: dict[str, Any]) -> list[Any]:
    rewards = layer.get("rewards")
    files = rewards.get("files") if isinstance(rewards, dict) else None
    return files if isinstance(files, list) else []


def _read_components(rewards: dict[str, Any], problems: list[str], *, runs_files: bool) -> None:
    """Puts each component in the place of what was written for it, its options held against its function's signature."""
    from reflex_jax.rewards.components import REWARDS  # brings the array library, which only a configuration needs

    table = {name: (reward.options, reward.check) for name, reward in REWARDS.items()}
    files = [value.text for value in _files_of({"rewards": rewards}) if isinstance(value, _Scalar)]
    if files and runs_files:
        try:
            found = describe_files(files)
        except UserFileError as error:
            problems.append(f"rewards.files: {error}")
            return
        for name in sorted(found.keys() & table.keys()):
            problems.append(f"rewards.files: {name} is the name of a reward that ships; give yours another.")
        table |= {name: (options, None) for name, options in found.items()}
    values = rewards.get("components")
    if not isinstance(values, dict):
        return
    for name, value in values.items():
        key = f"rewards.components.{_shown_key(name)}"
        if name not in table and files and not runs_files:
            values[name] = _read_unknown_component(value, key, problems)
        elif name not in table:
            advice = nearest_name(name, table) or " Your own come from rewards.files=[FILE.py]."
            problems.append(f"{key}: expected one of {', '.join(table)}.{advice}")
            values[name] = Component()
        else:
            values[name] = _read_component(value, *table[name], key, problems)


def _read_component(
    value: Any, options: dict[str, Option], check: Callable[..., None] | None, key: str, problems: list[str]
) -> Component:
    """A component of the right type; where there are problems, some component."""
    before = len(problems)
    if isinstance(value, _Scalar):
        return Component(weight=_convert(value, float, key, problems), options=_defaults(options))
    if not isinstance(value, dict):
        problems.append(f"{key}: expected a weight or a mapping, {{weight: 1, ...}}; got {_shown(value)}.")
        return Component()
    given = {"weight": 1.0, "when": "always", **_defaults(options)}
    types = {"weight": float, "when": str, **{name: TYPES[option.type] for name, option in options.items()}}
    for name, entry in value.items():
        if name not in types:
            problems.append(
                f"unknown key {key}.{_shown_key(name)}: expected one of {', '.join(types)}.{nearest_name(name, types)}"
            )
            continue
        try:
            entry = _typed(entry, types[name], given[name])
        except ConfigError as error:
            problems.append(f"{key}.{name}: {error}")
            continue
        given[name] = _convert(entry, types[name], f"{key}.{name}", problems)
    if len(problems) > before:
        return Component()
    weight, when = given.pop("weight"), given.pop("when")
    try:
        if check is not None:
            check(**given)
    except ValueError as error:
        problems.append(f"{key}.{error}")
    return Component(weight=weight, when=when, options=given)


def _read_unknown_component(value: Any, key: str, problems: list[str]) -> Component:
    """A component of a file that is not run: its options are what YAML makes of them, which is how they were saved."""
    options = {} if not isinstance(value, dict) else {k: v for k, v in value.items() if k not in ("weight", "when")}
    rest = {k: v for k, v in value.items() if k in ("weight", "when")} if isinstance(value, dict) else value
    component = _read_component(rest, {}, None, key, problems)
    return dataclasses.replace(component, options={name: _as_yaml_types(entry) for name, entry in options.items()})


def _as_yaml_types(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_yaml_types(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return tuple(_as_yaml_types(entry) for entry in value)
    if isinstance(value, _Scalar) and value.is_text:
        return value.text
    return yaml.safe_load(value.text if isinstance(value, _Scalar) else value) if value is not None else None


def _defaults(options: dict[str, Option]) -> dict[str, Any]:
    return {name: copy.copy(option.default) for name, option in options.items()}


def _typed(value: Any, hint: Any, default: Any) -> Any:
    """An option as the rest of the reader has values, now that its type is known."""
    if isinstance(value, _Untyped):
        return _read_value(value, hint)
    if not isinstance(value, dict):
        return value
    inner = typing.get_args(hint)[1] if typing.get_origin(hint) is dict else None
    typed = {name: _typed(entry, inner, None) for name, entry in value.items()}
    if isinstance(value, _Entries) and isinstance(default, dict):
        return {name: _Scalar(repr(number)) for name, number in default.items()} | typed
    return typed


def _build(cls: Any, values: dict[str, Any], prefix: str, problems: list[str]) -> Any:
    """Constructs a section, collecting every problem instead of stopping at the first."""
    hints = _type_hints(cls)
    arguments = {}
    before = len(problems)
    for key, value in values.items():
        if dataclasses.is_dataclass(hints[key]):
            arguments[key] = _build(hints[key], value, f"{prefix}{key}.", problems)
        else:
            arguments[key] = _convert(value, hints[key], f"{prefix}{key}", problems)
    if len(problems) > before:
        return None
    try:
        return cls(**arguments)
    except ConfigError as error:
        problems.append(str(error))
        return None


def _convert(value: Any, hint: Any, key: str, problems: list[str]) -> Any:
    """Returns `value` as the annotated type; a value of another type is a problem, never a guess."""
    kind, is_optional = _without_none(hint)
    if is_optional and kind is not str and isinstance(value, _Scalar) and (value.text, value.is_text) == ("~", False):
        value = None
    if is_optional and value is None:
        return None
    if isinstance(value, Component) and kind is Component:
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(value, list):
            problems.append(f"{key}: expected a list, [..., ...]; got {_shown(value)}.")
            return ()
        return tuple(_convert(item, arguments[0], f"{key}[{i}]", problems) for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            problems.append(f"{key}: expected a mapping of names to numbers; got {_shown(value)}.")
            return {}
        return {name: _convert(v, arguments[1], f"{key}.{_shown_key(name)}", problems) for name, v in value.items()}
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            problems.append(f"{key}: expected a mapping; got {_shown(value)}.")
            return None
        unknown = _unknown_keys(value, kind, f"{key}.")
        problems += unknown
        return None if unknown else _build(kind, value, f"{key}.", problems)
    read, expected = _READERS[kind]
    converted = read(value) if isinstance(value, _Scalar) else None
    if converted is None:
        problems.append(f"{key}: expected {expected}; got {_shown(value)}.{_advice(value, hint)}")
    return converted


def _read_str(value: _Scalar) -> str | None:
    # an empty text is an unset variable of a shell; a plain ~ is null to YAML and the home folder to a shell
    is_ambiguous = not value.text or (value.text == "~" and not value.is_text)
    is_writable = "\0" not in value.text and not any("\ud800" <= letter <= "\udfff" for letter in value.text)
    return value.text if is_writable and not (is_ambiguous or value.remark) else None


def _read_int(value: _Scalar) -> int | None:
    if value.is_text:
        return None
    number: int | None
    try:
        number = int(value.text)
    except ValueError:
        written = _read_float(value)
        number = int(written) if written is not None and written.is_integer() else None
    return number if number is not None and abs(number) <= _LARGEST else None


def _read_float(value: _Scalar) -> float | None:
    if value.is_text:
        return None
    try:
        number = float(value.text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _read_bool(value: _Scalar) -> bool | None:
    word = "" if value.is_text else value.text.lower()
    return word in _YES if word in _YES + _NO else None


_READERS = {
    str: (_read_str, "text"),
    int: (_read_int, f"a whole number of at most {_LARGEST}"),
    float: (_read_float, "a finite number"),
    bool: (_read_bool, "true or false (yes, on, no, off)"),
}


def _advice(value: Any, hint: Any) -> str:
    kind, is_optional = _without_none(hint)
    if kind is not str:
        return " Write it without quotes." if isinstance(value, _Scalar) and value.is_text else ""
    if isinstance(value, _Scalar) and not value.text:
        return " Write null for none." if is_optional else ""
    if isinstance(value, _Scalar) and value.remark:
        remark = _shown(_Scalar(value.remark))
        return f" To YAML {remark} is a comment: put the text in quotes, or a blank behind the # of a comment."
    is_text = isinstance(value, _Scalar) and value.is_text
    return " Only UTF-8 without zero bytes can be a name." if is_text else " Put it in quotes where text is meant."


def _shown(value: Any) -> str:
    """A value in a message: on one line, and no longer than one."""
    if isinstance(value, _Scalar):
        return repr(value.text) if len(value.text) <= 80 else f"{value.text[:80]!r}..."
    return "null" if value is None else "a list" if isinstance(value, list) else "a mapping"


def _shown_key(key: str) -> str:
    return key if key.isprintable() and len(key) <= 80 else f"{key[:80]!r}"


@functools.cache
def _type_hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _without_none(hint: Any) -> tuple[Any, bool]:
    """The type of a key, and whether it may be None."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(a for a in typing.get_args(hint) if a is not type(None)), True
    return hint, False
