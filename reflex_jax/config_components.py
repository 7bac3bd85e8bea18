"""The components of a reward as a configuration names them, held against the signatures of their functions."""

from __future__ import annotations

import copy
import dataclasses
import typing
from collections.abc import Callable
from typing import Any

import yaml

from reflex_jax.config import Component, ConfigError, nearest_name
from reflex_jax.config_text import Entries, Scalar, Untyped, read_value, shown, shown_key
from reflex_jax.rewards.options import TYPES, Option
from reflex_jax.rewards.user_file import UserFileError, describe_files

Convert = Callable[[Any, Any, str, list[str]], Any]  # (value, type, key, problems) -> the value as that type


def read_components(rewards: dict[str, Any], problems: list[str], convert: Convert, *, runs_files: bool) -> None:
    """Puts each component in the place of what was written for it, its options held against its function's signature.

    Args:
      rewards: the section `rewards`, merged.
      problems: what is wrong is added to them.
      convert: of the reader.
      runs_files: whether `rewards.files` may be run, which says what they define; else their components stand as written.
    """
    from reflex_jax.rewards.components import REWARDS  # brings the array library, which only a configuration needs

    table: dict[str, tuple[dict[str, Option], Callable[..., None] | None]] = {
        name: (reward.options, reward.check_options) for name, reward in REWARDS.items()
    }
    files = [value.text for value in files_of({"rewards": rewards}) if isinstance(value, Scalar)]
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
        key = f"rewards.components.{shown_key(name)}"
        if name not in table and files and not runs_files:
            values[name] = _read_unknown_component(value, key, problems, convert)
        elif name not in table:
            advice = nearest_name(name, table) + " Your own come from rewards.files=[FILE.py]."
            problems.append(f"{key}: expected one of {', '.join(table)}.{advice}")
            values[name] = Component()
        else:
            values[name] = _read_component(value, *table[name], key, problems, convert)


def _read_component(
    value: Any,
    options: dict[str, Option],
    check: Callable[..., None] | None,
    key: str,
    problems: list[str],
    convert: Convert,
) -> Component:
    """A component of the right type; where there are problems, some component."""
    before = len(problems)
    if isinstance(value, Scalar):
        return Component(weight=convert(value, float, key, problems), options=_defaults(options))
    if not isinstance(value, dict):
        problems.append(f"{key}: expected a weight or a mapping, {{weight: 1, ...}}; got {shown(value)}.")
        return Component()
    given = {"weight": 1.0, "when": "always", **_defaults(options)}
    types = {"weight": float, "when": str, **{name: TYPES[option.type] for name, option in options.items()}}
    for name, entry in value.items():
        if name not in types:
            problems.append(
                f"unknown key {key}.{shown_key(name)}: expected one of {', '.join(types)}.{nearest_name(name, types)}"
            )
            continue
        try:
            entry = _typed(entry, types[name], given[name])
        except ConfigError as error:
            problems.append(f"{key}.{name}: {error}")
            continue
        given[name] = convert(entry, types[name], f"{key}.{name}", problems)
    if len(problems) > before:
        return Component()
    weight, when = given.pop("weight"), given.pop("when")
    try:
        if check is not None:
            check(**given)
    except ValueError as error:
        problems.append(f"{key}.{error}")
    return Component(weight=weight, when=when, options=given)


def _read_unknown_component(value: Any, key: str, problems: list[str], convert: Convert) -> Component:
    """A component of a file that is not run: its options are what YAML makes of them, which is how they were saved."""
    options = {} if not isinstance(value, dict) else {k: v for k, v in value.items() if k not in ("weight", "when")}
    rest = {k: v for k, v in value.items() if k in ("weight", "when")} if isinstance(value, dict) else value
    component = _read_component(rest, {}, None, key, problems, convert)
    return dataclasses.replace(component, options={name: _as_yaml_types(entry) for name, entry in options.items()})


def _as_yaml_types(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_yaml_types(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return tuple(_as_yaml_types(entry) for entry in value)
    if value is None or isinstance(value, Scalar) and value.is_text:
        return value and value.text
    text = value.text if isinstance(value, Scalar) else str(value)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # a date that is none, say
        return text


def _defaults(options: dict[str, Option]) -> dict[str, Any]:
    return {name: copy.copy(option.default) for name, option in options.items()}


def _typed(value: Any, hint: Any, default: Any) -> Any:
    """An option as the rest of the reader has values, now that its type is known."""
    if isinstance(value, Untyped):
        return read_value(value, hint)
    if not isinstance(value, dict):
        return value
    inner = typing.get_args(hint)[1] if typing.get_origin(hint) is dict else None
    typed = {name: _typed(entry, inner, None) for name, entry in value.items()}
    if isinstance(value, Entries) and isinstance(default, dict):
        return {name: Scalar(repr(number)) for name, number in default.items()} | typed
    return typed


def files_of(layer: dict[str, Any]) -> list[Any]:
    """What a layer says of `rewards.files`."""
    rewards = layer.get("rewards")
    files = rewards.get("files") if isinstance(rewards, dict) else None
    return files if isinstance(files, list) else []
