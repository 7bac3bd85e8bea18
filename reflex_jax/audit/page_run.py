"""A run as the page shows it: its metrics, its recorded samples, and, where they are asked for, pictures and attention."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reflex_jax.audit.page_samples import Samples, read_groups, samples_of_evidence, samples_of_log
from reflex_jax.config import Config, ConfigError
from reflex_jax.data.examples import Example
from reflex_jax.data.sources import load_training, load_validation
from reflex_jax.evidence.pictures import picture_path
from reflex_jax.evidence.reader import Recorded
from reflex_jax.evidence.records import TRAINING, Group
from reflex_jax.judge.batch import judge_pixels
from reflex_jax.models.biomedclip import BiomedClipConfig
from reflex_jax.run.logs import METRICS_FILE, NOT_FINITE

_PICTURE_SIDE = 224  # of a picture that no judge looked at


@dataclass(frozen=True, eq=False)
class PageRun:
    """What the files of a run hold."""

    label: str  # on the page
    config: Config
    metrics: Sequence[Mapping[str, Any]]  # rows of metrics.jsonl
    groups: Sequence[Recorded]  # those that are shown
    samples: Samples

    @property
    def directory(self) -> Path:
        """Where it lies."""
        return self.config.run.directory

    @property
    def is_paid(self) -> bool:
        """Whether completions were paid; False: the run imitates."""
        return any(name.startswith("reward/") for name in self.names)

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """(steps, values) of a metric where it was written; what is no number is not a number here either."""
        rows = [row for row in self.metrics if name in row]
        return [row["step"] for row in rows], [_number(row[name]) for row in rows]

    @cached_property
    def names(self) -> list[str]:
        """Metrics that are numbers, in the order they were written first."""
        seen: dict[str, None] = {}
        for row in self.metrics:
            seen |= {name: None for name, value in row.items() if isinstance(value, (int, float))}
        return [name for name in seen if name != "step"]


def read_run(config: Config, label: str, *, most: int) -> PageRun:
    """Reads the files of a run.

    Args:
      config: of the run, `run.dir` pointing at it.
      label: its name on the page.
      most: answers to show.
    Raises:
      ConfigError: it has no metrics, or a line of a file is not what a run writes.
    """
    directory = config.run.directory
    groups, recorded = read_groups(directory, most)
    if recorded:
        samples = samples_of_evidence(label, directory, groups, recorded=recorded)
    else:
        samples = samples_of_log(label, directory, most)
    return PageRun(label, config, read_metrics(directory), groups, samples)


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; a last line that was cut off is left out, as a run that goes on does.

    Raises:
      ConfigError: there is none, or another line is no row.
    """
    path = directory / METRICS_FILE
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(
            f"{path}: expected the metrics of a run; it cannot be read ({error.strerror}). A run that only imitates has them "
            "too: give the folder that `reflex train` or `reflex sft` printed."
        ) from error
    rows = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
            rows.append({**row, **row.pop(NOT_FINITE, {}), "step": int(row["step"])})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"{path}, line {number}: expected a step's metrics; got {line[:80]!r}.") from error
    return rows


def find_questions(run: PageRun) -> dict[tuple[str, str], Example]:
    """The questions of the shown groups by (kind of set, id), as far as the data set still has them.

    Raises:
      ConfigError: the data set cannot be read.
    """
    wanted = {(recorded.batch.set, recorded.group.id) for recorded in run.groups}
    found: dict[tuple[str, str], Example] = {}
    for kind in {kind for kind, _ in wanted}:
        load = load_training if kind == TRAINING else load_validation
        for example in load(run.config.data, seed=run.config.run.seed):
            if (kind, example.id) in wanted:
                found[kind, example.id] = example
    return found


def add_pictures(run: PageRun, questions: Mapping[tuple[str, str], Example], judge: BiomedClipConfig | None) -> int:
    """Puts the pictures of the shown groups into the samples, as the judge saw them; returns how many are missing.

    A picture that the run kept comes from there, another from its question; one that is neither is missing.
    """
    pictures, missing = run.samples.pictures, set()
    for shown, recorded in zip(run.samples.groups, run.groups, strict=True):
        name = shown["picture"]
        if name is None or name in pictures:
            continue
        picture = _picture_of(run, recorded.group, questions.get((recorded.batch.set, recorded.group.id)), judge)
        if picture is None:
            missing.add(name)
        else:
            pictures[name] = as_address(picture)
    return len(missing)


def as_address(picture: Image.Image) -> str:
    """A picture as a data: address; of PNG and JPEG the shorter."""
    written = []
    for kind, settings in (("png", {"optimize": True}), ("jpeg", {"quality": 90})):
        buffer = io.BytesIO()
        picture.save(buffer, format=kind, **settings)
        written.append((kind, buffer.getvalue()))
    kind, content = min(written, key=lambda pair: len(pair[1]))
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _picture_of(
    run: PageRun, group: Group, example: Example | None, judge: BiomedClipConfig | None
) -> Image.Image | None:
    kept = picture_path(run.directory, group.picture) if group.picture else None
    if kept is not None and kept.is_file():
        with Image.open(kept) as file:
            return file.convert("RGB")
    if example is None or not example.images:
        return None
    looks = run.config.judge
    if judge is not None:
        images = example.load_images()
        seen = images[looks.looks_at(len(images)).start]
        return Image.fromarray(judge_pixels(seen, judge, resize=looks.resize))
    return example.images[0].load().resize((_PICTURE_SIDE, _PICTURE_SIDE))  # squashed, as maps over all of it are


def share_means(values: Iterable[float], share: float = 0.1) -> tuple[float, float]:
    """Means of the first and of the last tenth of a series (at least one value), of those that are numbers."""
    array = np.asarray(list(values), float)
    count = max(1, round(share * len(array)))
    with np.errstate(invalid="ignore"):
        parts = [part[np.isfinite(part)] for part in (array[:count], array[-count:])]
    first, last = (float(part.mean()) if len(part) else float("nan") for part in parts)
    return first, last


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
