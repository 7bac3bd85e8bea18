"""`reflex audit run`: one HTML file that shows what a run was paid for, where judge and policy looked, and what to doubt.

It needs no network and asks for none: styles, script, curves and pictures are inside of it, and its content security policy
lets the browser run that one script and nothing else. What a model wrote is text there and never markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

import reflex_jax
from reflex_jax.audit.page_sections import Section
from reflex_jax.config import ConfigError

LIMITS = (
    'The anchor is made of the data set\'s answer, so "label-free" means that no rationale was labelled, not that no answer was.',
    "A mask says where the judge looks for a statement, not where the policy looked when it wrote it.",
    "High visual fidelity is not clinical validity: two statements can look at the same place and one of them be wrong.",
    "A right closed answer has the anchor's words, so its overlap and its s_tt pass by construction: read the wrong answers.",
    "Attention of the policy is a symptom, not an explanation; whether a picture is needed is told by answers without it.",
)


@dataclass(frozen=True)
class Page:
    """Everything that stands on the page."""

    title: str
    subtitle: str
    facts: Sequence[tuple[str, Any]]
    sections: Sequence[Section]
    sample_lines: Sequence[str]
    data: Mapping[str, Any]  # what the script reads


def render(page: Page) -> str:
    """The page as HTML."""
    style, script, template = (_asset(name) for name in ("page.css", "page.js", "page.html.jinja"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(template).render(
        title=page.title,
        subtitle=page.subtitle,
        facts=page.facts,
        sections=page.sections,
        sample_lines=page.sample_lines,
        limits=LIMITS,
        policy=policy,
        style=style,
        script=script,
        data=as_inert_json(page.data),
        made_by=f"Made by reflex_jax {reflex_jax.__version__} from the files of the run; it holds no other source.",
    )


def write(page: Page, target: Path) -> int:
    """Writes the page, whole or not at all; returns its size in bytes.

    Raises:
      ConfigError: it cannot be written.
    """
    content = render(page).encode("utf-8")
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        os.replace(part, target)
    except OSError as error:
        raise ConfigError(f"--to: {str(target)!r} cannot be written ({error.strerror}).") from error
    return len(content)


def as_inert_json(data: Any) -> str:
    """JSON that no browser can take for anything else, wherever it stands in a page: ASCII without <, > and &.

    Raises:
      ValueError: a number is not finite; those are words in the records already.
    """
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def _asset(name: str) -> str:
    # as a browser hashes it: it reads CR LF as LF
    return (resources.files("reflex_jax.assets") / "page" / name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
