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

import dataclasses
import functools
import math
import os
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from reflex_jax.config import (
    ALGORITHM_PRESETS,
    MESH_PRESETS,
    MOVED_KEYS,
    Component,
    Config,
    ConfigError,
    config_to_dict,
    nearest_name,
    user_path,
)
from reflex_jax.config_components import files_of, read_components
from reflex_jax.config_text import (
    READERS,
    Entries,
    Scalar,
    Untyped,
    advise,
    read_document,
    read_str,
    read_text,
    read_value,
    shown,
    shown_key,
    without_none,
)

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
    text = read_text(path) if path is not None else ""
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
        text = read_text(path)
        if text.rstrip("\r\n").rpartition("\n")[2] != _LAST_LINE:
            raise ConfigError(f"its last line, `{_LAST_LINE}`, was cut off; add it if every setting is there")
        read_document(text, "its content")
    except ConfigError as error:
        raise ConfigError(
            f"{path}: the settings of this run are damaged ({error}). Restore the file from a copy."
        ) from error
    return _resolve(text, str(path), overrides, place=path.parent, is_trusted=False)


def load_kept_config(values: Mapping[str, Any], overrides: Sequence[str], *, path: Path) -> Config:
    """Reads what `config_to_dict` made and another file keeps; as little trusted as `load_saved_config`.

    Args:
      values: section -> key -> value.
      overrides: "section.key=value".
      path: of the file that keeps them.
    Raises:
      ConfigError: as `load_config`.
    """
    return _resolve(yaml.safe_dump(dict(values)), str(path), [*overrides], place=path.parent, is_trusted=False)


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
    document = read_document(text, name)
    layers = [_with_absolute_files(document if is_trusted else _with_keys_moved(document), place)]
    layers += [_with_absolute_files(_read_override(override, problems), Path.cwd()) for override in overrides]
    problems += [problem for layer in layers for problem in _unknown_keys(layer, Config, "")]
    _refuse(problems)
    merged: dict[str, Any] = {}
    for layer in layers:
        _merge(merged, _with_presets(layer))
    named = layers if is_trusted else layers[1:]
    read_components(merged.get("rewards", {}), problems, _convert, runs_files=any(files_of(layer) for layer in named))
    config = _build(Config, merged, "", problems)
    _refuse(problems)
    return config


def _with_keys_moved(document: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run that an earlier version saved, under the names they have now."""
    moved = {section: dict(values) if isinstance(values, dict) else values for section, values in document.items()}
    for old, new in MOVED_KEYS.items():
        section, _, key = old.partition(".")
        if not isinstance(moved.get(section), dict) or key not in moved[section]:
            continue
        value, inner = moved[section].pop(key), moved
        *path, last = new.split(".")
        for name in path:
            inside = inner.get(name, {})
            inner[name] = {"weight": inside} if isinstance(inside, Scalar) else dict(inside)
            inner = inner[name]
        if new.startswith("rewards.") and "weight" not in inner:  # a component that the run did without
            del moved["rewards"]["components"][path[-1]]
            continue
        inner[last] = value
    return _without_contrasts(moved)


def _without_contrasts(document: dict[str, Any]) -> dict[str, Any]:
    """An answer component that was saved before it could heed contrasts pays without them, as it did."""
    components = document.get("rewards", {}).get("components") if isinstance(document.get("rewards"), dict) else None
    if not isinstance(components, dict) or "answer" not in components:
        return document
    answer = components["answer"]
    answer = dict(answer) if isinstance(answer, dict) else {"weight": answer}
    answer.setdefault("contrasts", Scalar("false"))
    return document | {"rewards": document["rewards"] | {"components": components | {"answer": answer}}}


def _refuse(problems: list[str]) -> None:
    if problems:
        raise ConfigError("\n".join(problems))


# --- from text to layers: section -> key -> None, Scalar, list or dict


def _read_override(override: str, problems: list[str]) -> dict[str, Any]:
    """The layer of one "section.key=value"; {} and a problem where it is none."""
    key, separator, value = override.partition("=")
    names = key.strip().split(".")
    if not separator or not all(names):
        problems.append(f"override {shown(Scalar(override))}: expected section.key=value, e.g. grpo.group_size=4.")
        return {}
    hint: Any = Config
    layer: dict[str, Any] = {}
    inner, last = layer, names[-1]
    for depth, name in enumerate(names):
        if hint in (Component, Untyped):  # what options there are is known when all layers are read
            hint = _type_hints(Component).get(name, Untyped) if hint is Component else Untyped
        elif dataclasses.is_dataclass(hint):
            section: Any = hint
            hint = _type_hints(section).get(name)
        elif typing.get_origin(hint) is dict:
            hint = typing.get_args(hint)[1]
        else:
            above = shown_key(".".join(names[:depth]))
            problems.append(f"{shown_key(key)}: {above} has no keys; give it as a whole, {above}=...")
            return {}
        if hint is None:  # no such key: `_unknown_keys` says so, and which there are
            last = name
            break
        if depth < len(names) - 1:
            inner = inner.setdefault(name, {} if depth == 0 else Entries())
    try:
        inner[last] = read_value(value, hint)
    except ConfigError as error:
        problems.append(f"{shown_key(key)}: {error}")
        return {}
    return layer


# --- from layers to a Config


def _merge(merged: dict[str, Any], layer: dict[str, Any]) -> None:
    for section, values in layer.items():
        before = merged.setdefault(section, {})
        for key, value in values.items():
            if isinstance(value, Entries) and key not in before:
                before[key] = _default_entries(section, key)
            before[key] = _over(before.get(key), value)


def _over(before: Any, value: Any) -> Any:
    """What stands after `value` was written over what stood before."""
    if not isinstance(value, Entries):
        return value
    if isinstance(before, Scalar):
        before = {"weight": before}  # a component that was given by its weight alone
    if before is None:
        return value
    if not isinstance(before, dict):
        return before  # it is refused later
    return type(before)({**before, **{name: _over(before.get(name), entry) for name, entry in value.items()}})


def _default_entries(section: str, key: str) -> dict[str, Any]:
    """The entries that an override of one of them keeps: a section inside of a section has its own defaults."""
    hints = _type_hints(_type_hints(Config)[section])
    if dataclasses.is_dataclass(hints[key]):
        return {}
    field: Any = {f.name: f for f in dataclasses.fields(_type_hints(Config)[section])}[key]
    return {name: {} for name in field.default_factory()}


def _with_presets(layer: dict[str, Any]) -> dict[str, Any]:
    """Spells presets out, under the keys of their section that the same file names itself."""
    spelt = dict(layer)
    for section, presets in (("mesh", MESH_PRESETS), ("grpo", ALGORITHM_PRESETS)):
        values = layer.get(section)
        preset = values.get("preset") if isinstance(values, dict) else None
        settings = presets.get(preset.text, {}) if isinstance(preset, Scalar) else {}
        if settings and isinstance(values, dict):
            spelt[section] = {**{key: Scalar(str(value)) for key, value in settings.items()}, **values}
    return spelt


def _unknown_keys(values: dict[str, Any], cls: Any, prefix: str) -> list[str]:
    """Names every key that no dataclass field has, each with its nearest neighbour."""
    hints = _type_hints(cls)
    problems = []
    for key, value in values.items():
        if prefix + key in MOVED_KEYS:
            problems.append(f"{prefix}{key} has moved: set {MOVED_KEYS[prefix + key]} instead.")
        elif key not in hints:
            problems.append(
                f"unknown key {prefix}{shown_key(key)}: expected one of {', '.join(hints)}.{nearest_name(key, hints)}"
            )
        elif dataclasses.is_dataclass(hints[key]):
            if isinstance(value, dict):
                problems += _unknown_keys(value, hints[key], f"{prefix}{key}.")
            else:
                keys = ", ".join(_type_hints(hints[key]))
                problems.append(f"{prefix}{key}: expected a section with keys {keys}; got {shown(value)}.")
    return problems


def _with_absolute_files(layer: dict[str, Any], place: Path) -> dict[str, Any]:
    """Reads the paths of `rewards.files` as seen from where they are written."""
    files = [
        Scalar(os.path.abspath(place / user_path(value.text)), is_text=True)
        if isinstance(value, Scalar) and read_str(value)
        else value
        for value in files_of(layer)
    ]
    return {**layer, "rewards": {**layer["rewards"], "files": files}} if files else layer


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
    kind, is_optional = without_none(hint)
    if is_optional and kind is not str and isinstance(value, Scalar) and (value.text, value.is_text) == ("~", False):
        value = None
    if is_optional and value is None:
        return None
    if isinstance(value, Component) and kind is Component:
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(value, list):
            problems.append(f"{key}: expected a list, [..., ...]; got {shown(value)}.")
            return ()
        return tuple(_convert(item, arguments[0], f"{key}[{i}]", problems) for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            problems.append(f"{key}: expected a mapping of names to numbers; got {shown(value)}.")
            return {}
        return {name: _convert(v, arguments[1], f"{key}.{shown_key(name)}", problems) for name, v in value.items()}
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            problems.append(f"{key}: expected a mapping; got {shown(value)}.")
            return None
        unknown = _unknown_keys(value, kind, f"{key}.")
        problems += unknown
        return None if unknown else _build(kind, value, f"{key}.", problems)
    read, expected = READERS[kind]
    converted = read(value) if isinstance(value, Scalar) else None
    if converted is None:
        problems.append(f"{key}: expected {expected}; got {shown(value)}.{advise(value, hint)}")
    return converted


@functools.cache
def _type_hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)
