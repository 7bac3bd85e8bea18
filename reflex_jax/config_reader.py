"""Reads configurations from YAML files and dotted overrides, and writes them; wrong input is refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from reflex_jax.config import MESH_PRESETS, Config, ConfigError, config_to_dict, nearest_name


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def load_config(path: str | Path | None = None, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Reads a YAML file and dotted overrides into a validated `Config`.

    Args:
      path: YAML file with any of the sections of `Config`; None: the defaults alone.
      overrides: "section.key=value", e.g. "grpo.group_size=4"; values are YAML.
    Raises:
      ConfigError: missing file, unknown keys (all of them, each with the nearest valid name), wrong types, values out of
        range.
    """
    from omegaconf import OmegaConf  # here, so that importing the package stays light
    from omegaconf.errors import OmegaConfBaseException

    layers = []
    if path is not None:
        _check(Path(path).is_file(), f"configuration file not found: {str(path)!r}. See configs/ for those that ship.")
        layers.append(_read_yaml(Path(path)))
    layers += [_parse_override(text) for text in overrides]
    problems = [p for layer in layers for p in _unknown_keys(layer, Config, "")]
    _check(not problems, "\n".join(problems))
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, _with_preset(layer))
    try:
        plain = OmegaConf.to_container(OmegaConf.create(merged), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {error}") from error
    problems = []
    config = _build(Config, plain, "", problems)
    _check(not problems, "\n".join(problems))
    return config


def save_config(config: Config, path: Path) -> None:
    """Writes the configuration as resolved, every key spelt out."""
    import yaml

    path.write_text(yaml.safe_dump(config_to_dict(config), sort_keys=False))


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    _check(isinstance(content, dict), f"{path}: expected sections such as `grpo:`; got {type(content).__name__}.")
    return content


def _parse_override(text: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    key, separator, _ = text.partition("=")
    _check(
        bool(separator) and bool(key.strip()), f"override {text!r}: expected section.key=value, e.g. grpo.group_size=4."
    )
    return OmegaConf.to_container(OmegaConf.from_dotlist([text]))


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        merged[key] = _merge(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return merged


def _with_preset(layer: dict[str, Any]) -> dict[str, Any]:
    """Spells a mesh preset out, under the axes the same file names itself."""
    mesh = layer.get("mesh", {})
    return {**layer, "mesh": {**MESH_PRESETS.get(mesh.get("preset"), {}), **mesh}} if "preset" in mesh else layer


def _unknown_keys(values: Any, cls: Any, prefix: str) -> list[str]:
    """Names every key that no dataclass field has, each with its nearest neighbour."""
    if not isinstance(values, dict):
        return []
    names = {f.name: f for f in dataclasses.fields(cls)}
    hints = _type_hints(cls)
    problems = []
    for key, value in values.items():
        if key not in names:
            problems.append(
                f"unknown key {prefix}{key!s}: expected one of {', '.join(names)}.{nearest_name(key, names)}"
            )
        elif dataclasses.is_dataclass(hints[key]):
            if isinstance(value, dict):
                problems += _unknown_keys(value, hints[key], f"{prefix}{key}.")
            else:
                keys = ", ".join(f.name for f in dataclasses.fields(hints[key]))
                problems.append(f"{prefix}{key}: expected a section with keys {keys}; got {value!r}.")
    return problems


def _type_hints(cls: Any) -> dict[str, Any]:
    import typing

    return typing.get_type_hints(cls)


def _build(cls: Any, values: dict[str, Any], prefix: str, problems: list[str]) -> Any:
    """Constructs a section, collecting every problem instead of stopping at the first."""
    hints = _type_hints(cls)
    arguments = {}
    before = len(problems)
    for key, value in values.items():
        if dataclasses.is_dataclass(hints[key]):
            built = _build(hints[key], value, f"{prefix}{key}.", problems)
            if built is not None:
                arguments[key] = built
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
    import types
    import typing

    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(hint) if a is not type(None)][0]
        return None if value is None else _convert(value, inner, key, problems)
    if origin is tuple:
        element = typing.get_args(hint)[0]
        if not isinstance(value, list | tuple):
            problems.append(f"{key}: expected a list; got {value!r}.")
            return ()
        if dataclasses.is_dataclass(element):
            problems += [p for i, v in enumerate(value) for p in _unknown_keys(v, element, f"{key}[{i}].")]
            if problems or not all(isinstance(v, dict) for v in value):
                problems += [
                    f"{key}[{i}]: expected a mapping; got {v!r}."
                    for i, v in enumerate(value)
                    if not isinstance(v, dict)
                ]
                return ()
            return tuple(_build(element, v, f"{key}[{i}].", problems) for i, v in enumerate(value))
        return tuple(_convert(v, element, f"{key}[{i}]", problems) for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            problems.append(f"{key}: expected a mapping of names to numbers; got {value!r}.")
            return {}
        return {str(k): _convert(v, float, f"{key}.{k}", problems) for k, v in value.items()}
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and is_number:
        return float(value)
    if hint is int and is_number and float(value).is_integer():
        return int(value)
    if hint is str and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    if hint is bool and isinstance(value, bool):
        return value
    names = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
    problems.append(f"{key}: expected {names[hint]}; got {value!r}.")
    return None
