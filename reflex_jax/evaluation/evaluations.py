"""HOST: evaluations that are on disk, found by what a user calls them, and held against one another."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reflex_jax.config import ConfigError, user_path
from reflex_jax.data.examples import list_offenders
from reflex_jax.evaluation.collect import Collected, collect
from reflex_jax.evaluation.manifest import MANIFEST, read_manifest
from reflex_jax.evaluation.score import Scoring, score_folder

Key = tuple[str, str, str, str]  # group, name, kind, metric of a row of a table


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A folder of `reflex evaluate`."""

    label: str
    folder: Path
    manifest: dict[str, Any]
    collected: Collected
    floors: dict[Key, dict[str, float]]  # as its table.json has them; empty where there is none

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration it was asked with, flat."""
        return _flat(self.manifest["about"].get("config") or {})


def open_evaluations(texts: Sequence[str]) -> list[Evaluation]:
    """Evaluations by run, by folder, or by LABEL=FOLDER.

    Raises:
      ConfigError: one is not there, a run has several, or labels are the same; all of them, a line each.
    """
    found: list[Evaluation] = []
    complaints = []
    for text in texts:
        try:
            found.append(_open(text))
        except ConfigError as error:
            complaints.append(str(error))
    labels = [evaluation.label for evaluation in found]
    if doubled := sorted({label for label in labels if labels.count(label) > 1}):
        complaints.append(f"{', '.join(doubled)}: expected different names; write NAME=FOLDER for each.")
    if complaints:
        raise ConfigError("\n".join(complaints))
    return found


def refuse_other_questions(evaluations: Sequence[Evaluation], *, same_ids: bool) -> None:
    """Refuses evaluations that do not answer the same questions.

    Args:
      evaluations: at least one.
      same_ids: also of how many questions of a set each is.
    Raises:
      ConfigError: a set has other questions, pictures or answers in two of them, or other ones of it were asked.
    """
    first, complaints = evaluations[0], []
    for other in evaluations[1:]:
        names = f"{first.label} and {other.label}"
        if first.collected.main != other.collected.main:
            complaints.append(f"{names}: {first.collected.main} and {other.collected.main}, other pictures or samples")
        data = [evaluation.manifest["data"] for evaluation in (first, other)]
        if differing := [label for label, digest in data[0].items() if data[1].get(label, digest) != digest]:
            complaints.append(f"{names}: {list_offenders(differing)} with other questions, pictures or truths")
        ids = [evaluation.collected.rows.keys() for evaluation in (first, other)]
        if not ids[0] & ids[1]:
            complaints.append(f"{names}: no question in common")
        elif same_ids and (apart := ids[0] ^ ids[1]):
            complaints.append(f"{names}: {len(apart)} questions that one of them alone was asked ({min(apart)}, say)")
    if complaints:
        raise ConfigError(
            f"these evaluations are not of the same questions: {'; '.join(complaints)}. Evaluate both on one split, with the "
            "same --sets and training.evaluation_questions."
        )


def _open(text: str) -> Evaluation:
    label, _, place = text.partition("=")
    if place and not label and not os.path.exists(user_path(text)):
        raise ConfigError(f"{text}: expected NAME=FOLDER or a folder; the name is empty.")
    if not place or os.path.exists(user_path(text)):
        label, place = "", text
    folder = _folder(user_path(place))
    manifest = read_manifest(folder)
    about = manifest["about"]
    step = f" step {about['step']}" if about.get("step") is not None else ""
    label = label or f"{about.get('run') or about.get('policy')}{step}"
    collected = collect(score_folder(folder, Scoring()))
    return Evaluation(label, folder, manifest, collected, _read_floors(folder / "table.json"))


def _folder(place: Path) -> Path:
    if os.path.isfile(place / MANIFEST):
        return place
    inside = sorted(path.parent for path in place.glob(f"evaluation/*/{MANIFEST}")) if os.path.isdir(place) else []
    if len(inside) == 1:
        return inside[0]
    if inside:
        names = list_offenders([str(path) for path in inside])
        raise ConfigError(f"{place}: expected one evaluation; there are {names}. Name one of them.")
    raise ConfigError(
        f"{place}: expected a folder of `reflex evaluate` or a run with one in it; there is none. Evaluate it first."
    )


def _read_floors(path: Path) -> dict[Key, dict[str, float]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return {(row["group"], row["name"], row["kind"], row["metric"]): row["floors"] for row in rows}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: no table of `reflex evaluate` ({error}); run that again.") from error


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    if not isinstance(value, dict):
        return {prefix.rstrip("."): value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}{key}.")
    return flat
