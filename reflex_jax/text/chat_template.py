"""HOST: which chat template a policy's directory means.

A directory can hold a template in four places, and they may differ. The order is that of transformers' AutoProcessor:
processor_config.json, chat_template.json, chat_template.jinja (with additional_chat_templates/), and last
tokenizer_config.json, which the processor itself does not read but which is all that some models have.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from reflex_jax.config import ConfigError
from reflex_jax.json_files import read_json_object, read_text

TEMPLATE_FOLDER = "additional_chat_templates"  # of a checkpoint, with one file for each further template
_SETTING = "policy.path"
_KEY = "chat_template"


class ChatTemplate(NamedTuple):
    """A Jinja template and the file it comes from."""

    text: str
    source: Path


def read_chat_template(directory: str | Path) -> ChatTemplate | None:
    """Finds the template that transformers' processor would use; None: there is none.

    Raises:
      ConfigError: a file is damaged, the template is no text or empty, several have names and none is "default", or
        chat_template.json lies beside additional_chat_templates/, which transformers refuses.
    """
    directory = Path(directory)
    named = sorted((directory / TEMPLATE_FOLDER).glob("*.jinja"))
    legacy, jinja = directory / "chat_template.json", directory / "chat_template.jinja"
    has_legacy = os.path.lexists(legacy)
    if has_legacy and named:
        raise ConfigError(
            f"{_SETTING}: {directory} holds chat_template.json and additional_chat_templates/; transformers refuses both "
            "together. Save the template as chat_template.jinja and remove chat_template.json."
        )
    if (chosen := _from_json(directory / "processor_config.json")) is not None:
        return chosen
    if has_legacy:
        chosen = _from_json(legacy)
        if chosen is None:
            raise ConfigError(f"{_SETTING}: {legacy}: expected the key {_KEY!r} with the template; it is missing.")
        return chosen
    if os.path.lexists(jinja):
        return ChatTemplate(read_text(jinja, setting=_SETTING), jinja)
    if named:
        return _choose({path.stem: read_text(path, setting=_SETTING) for path in named}, named[0].parent)
    return _from_json(directory / "tokenizer_config.json")


def _from_json(path: Path) -> ChatTemplate | None:
    if not os.path.lexists(path):
        return None
    return _choose(read_json_object(path, setting=_SETTING).get(_KEY), path)


def _choose(written: Any, source: Path) -> ChatTemplate | None:
    """The template, or the default one of several: `{name: template}` or `[{"name": ..., "template": ...}]`."""
    if isinstance(written, list) and all(isinstance(each, dict) for each in written):
        written = {each.get("name"): each.get("template") for each in written}
    if isinstance(written, dict):
        if "default" not in written:
            names = ", ".join(sorted(map(str, written))[:8]) or "none"
            raise ConfigError(
                f"{_SETTING}: {source}: expected a chat template named 'default'; got {names[:200]}. Name the one to use "
                "'default', or save it as chat_template.jinja."
            )
        written = written["default"]
    if written is None:
        return None
    if not isinstance(written, str) or not written.strip():
        got = "an empty one" if isinstance(written, str) else f"{str(written)[:80]!r}"
        raise ConfigError(f"{_SETTING}: {source}: expected a chat template as text; got {got}.")
    return ChatTemplate(written, source)
