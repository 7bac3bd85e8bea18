"""Puts the page of one run, or of two beside each other, together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflex_jax.audit.page import Page
from reflex_jax.audit.page_attention import Looked, measure_attention
from reflex_jax.audit.page_run import PageRun, add_pictures, find_questions, read_run
from reflex_jax.audit.page_samples import Samples
from reflex_jax.audit.page_sections import Section, attention_section, rewards_section, text_section
from reflex_jax.audit.replay import chain_faults
from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.config import Config, ConfigError
from reflex_jax.evidence.reader import EVIDENCE_FILE, read_head
from reflex_jax.models.biomedclip import BiomedClipConfig, read_judge_config
from reflex_jax.step.score import needs_judge
from reflex_jax.text.visible import visible_text

PHANTOM = "phantom"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What goes onto a page."""

    most: int = 2000  # answers, of all runs together
    images: bool | None = None  # pictures too; None: where all of them are drawn by this package
    attention: int = 16  # answers that the policy reads again; 0: none
    audits: Path | None = None  # folder with judge.md and rewards.md; None: audits/RUN_NAME
    card: Path | None = None  # folder with card.md; None: cards/RUN_NAME


def build_page(configs: Sequence[Config], wanted: Wanted, *, say: Callable[[str], None]) -> Page:
    """Reads one or two runs.

    Args:
      configs: of the runs, `run.dir` pointing at them.
      wanted: what goes onto the page.
      say: is told what is going on, or left out and why.
    Raises:
      ConfigError: a run has no metrics, or a file of it is not what a run writes.
    """
    labels = _labels(configs)
    runs = [
        read_run(config, label, most=max(1, wanted.most // len(configs)))
        for config, label in zip(configs, labels, strict=True)
    ]
    looked: dict[str, Sequence[Looked]] = {}
    for run in runs:
        with_images = _is_phantom(run.config) if wanted.images is None else wanted.images
        looked[run.label] = _look(run, wanted, with_images=with_images, say=say)
    first = runs[0]
    sections = [rewards_section(runs), attention_section(looked), *_texts(first, wanted)]
    return Page(
        title=f"Evidence of {' and '.join(labels)}",
        subtitle="What it was paid for, where judge and policy looked, and what to doubt.",
        facts=[fact for run in runs for fact in _facts(run, many=len(runs) > 1)],
        sections=[section for section in sections if section is not None],
        sample_lines=[line for run in runs for line in _sample_lines(run, many=len(runs) > 1)],
        data=_data(runs),
    )


def _look(run: PageRun, wanted: Wanted, *, with_images: bool, say: Callable[[str], None]) -> list[Looked]:
    """Adds pictures and attention to a run's samples, as far as data and models are here."""
    if not run.groups or not (with_images or wanted.attention):
        return []
    try:
        questions, judge = find_questions(run), _judge_of(run.config)
    except ConfigError as error:
        say(f"{run.label}: without pictures and attention, for its data or judge cannot be read: {error}")
        return []
    if with_images and (missing := add_pictures(run, questions, judge)):
        say(f"{run.label}: {missing} pictures are not in the data set any more.")
    if not wanted.attention:
        return []
    try:
        return measure_attention(run, questions, judge, most=wanted.attention)
    except ConfigError as error:
        say(f"{run.label}: without the policy's attention: {error}")
        return []


def _judge_of(config: Config) -> BiomedClipConfig | None:
    return read_judge_config(resolve_checkpoint(config.judge.path, "judge")) if needs_judge(config) else None


def _labels(configs: Sequence[Config]) -> list[str]:
    """The names of the runs' folders, told apart where they are the same."""
    names = [config.run.directory.resolve().name or config.run.name for config in configs]
    return [f"{name} ({place})" if names.count(name) > 1 else name for place, name in enumerate(names, 1)]


def _is_phantom(config: Config) -> bool:
    return all(source.name == PHANTOM for source in config.data.mixture)


def _texts(run: PageRun, wanted: Wanted) -> list[Section]:
    name = run.config.run.name
    audits = wanted.audits or Path("audits") / name
    card = wanted.card or Path("cards") / name
    return [
        text_section(
            "judge", "Is the judge fit to judge", [audits / "judge.md"],
            absent=f"Not asked yet: reflex audit judge CONFIG writes {audits}/judge.md, which is shown here.",
        ),
        text_section(
            "red-team", "Do degenerate answers pay", [audits / "rewards.md"],
            absent=f"Not asked yet: reflex audit rewards CONFIG writes {audits}/rewards.md, which is shown here.",
        ),
        text_section(
            "questions", "The questions", [card / "card.md"],
            absent=f"No data card: reflex data check CONFIG writes {card}/card.md, which is shown here.",
        ),
    ]  # fmt: skip


def _facts(run: PageRun, *, many: bool) -> list[tuple[str, Any]]:
    last = run.metrics[-1]["step"] if run.metrics else 0
    facts: list[tuple[str, Any]] = [("run", str(run.directory)), ("steps", last)]
    config = run.config
    facts.append(("policy started from", config.policy.path))
    if not run.is_paid:
        facts.append(("reward", "none: it imitates target completions"))
    else:
        if needs_judge(config):
            facts.append(("judge", config.judge.path))
        paid = ", ".join(f"{weight:g} × {name}" for name, weight in config.rewards.weights.items() if weight)
        facts += [("reward", paid), ("evidence", _chain(run))]
    if run.groups:
        batch = run.groups[-1].batch
        code, device = batch.code, batch.device
        commit = f", commit {code['commit']}" if code["commit"] else ""
        facts.append(("code", f"{code['version']}{commit}"))
        mesh = " x ".join(f"{name} {size}" for name, size in device["mesh"].items())
        facts.append(("machine", f"{device['kind']}, jax {device['jax']}, mesh {mesh}"))
    return [(f"{run.label}: {name}" if many else name, visible_text(str(value), 400)) for name, value in facts]


def _chain(run: PageRun) -> str:
    if not (run.directory / EVIDENCE_FILE).is_file():
        return "none was recorded"
    faults = chain_faults(run.directory)
    head = read_head(run.directory)
    if faults:
        return f"NOT AS IT WAS WRITTEN: {faults[0]}" + (f", and {len(faults) - 1} more" if len(faults) > 1 else "")
    return f"{head.count if head else 0} lines, whole; head {head.hash[:16] if head else ''}"


def _sample_lines(run: PageRun, *, many: bool) -> list[str]:
    samples = run.samples
    told = f"{run.label}: " if many else ""
    if not run.is_paid:
        return [f"{told}None: a run that imitates samples nothing."]
    lines = [f"{told}{len(samples.answers)} of {samples.recorded} recorded answers, from {samples.origin}."]
    if not run.groups:
        lines.append(f"{told}No evidence was recorded, so there are no masks: train with evidence.every=N.")
    if not samples.pictures:
        lines.append(
            f"{told}Pictures are left out; --images puts them in, as the judge saw them. They are patient data."
        )
    return lines


def _data(runs: Sequence[PageRun]) -> dict[str, Any]:
    """What the script reads."""
    samples = Samples()
    for run in runs:
        samples.add(run.samples)
    return {
        "groups": samples.groups,
        "answers": samples.answers,
        "pictures": samples.pictures,
        "grid": {run.label: list(run.groups[0].batch.grid) if run.groups else [0, 0] for run in runs},
        "weights": {run.label: dict(run.config.rewards.weights) for run in runs},
    }
