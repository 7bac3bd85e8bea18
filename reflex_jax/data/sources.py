"""HOST: the questions of a run: every source by name, mixed, and the part of each that is held out.

A row that cannot be used stops the run before it costs anything, with all others of its kind named; `data.refused:
leave_out` goes on without them, and says how many. Rows that the published files are known to hold never stop.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from reflex_jax.config import ConfigError, DataConfig, SourceConfig, user_path
from reflex_jax.data.examples import Example, RefusedRow, list_offenders
from reflex_jax.data.holdout import choose_by_id, split_by_picture
from reflex_jax.data.layouts import Layout
from reflex_jax.data.modalities import canonical_modality
from reflex_jax.data.phantom import SPLITS, phantom_examples


@dataclasses.dataclass(frozen=True)
class Loaded:
    """One split of one source."""

    label: str
    examples: list[Example]
    refused: list[RefusedRow]
    other_languages: int  # rows that `languages` leaves out


def load_training(
    data: DataConfig, *, seed: int, with_validation: bool = False, noise: float = 0.0, quiet: bool = False
) -> list[Example]:
    """The training questions of all sources, one source after the other, in an order that never changes.

    Args:
      data: names the sources, their roots and the cache.
      seed: of the phantom world; the real sets do not depend on it.
      with_validation: what `load_validation` returns is another part of the questions.
      noise: phantom only, how often the teacher of the supervised phase misperceives a lesion.
      quiet: what is left out was said before.

    Raises:
      ConfigError: unknown split, missing or damaged files, unusable questions, sources without any; all by name.
    """
    wanted = [(source, source.split or data.split) for source in data.mixture]
    parts = load_sources(data, wanted, seed=seed, noise=noise, quiet=quiet)
    examples = []
    excluded = read_excluded(data.exclude)
    for source, part in zip(data.mixture, parts, strict=True):
        kept = part.examples
        if with_validation and is_cut(source, data):
            kept = split_by_picture(kept, data.validation_fraction)[0]
        examples += trained_on(kept, excluded, source.limit)
    if excluded and not quiet:
        _report_excluded(excluded, {example.id for part in parts for example in part.examples})
    if not examples:
        raise ConfigError("data.exclude: every training question is excluded; expected at least one to be left.")
    return examples


def trained_on(examples: list[Example], excluded: frozenset[str], limit: int | None) -> list[Example]:
    """What of a source's training questions is trained on: those that are not excluded, of these as many as the limit."""
    return choose_by_id([example for example in examples if example.id not in excluded], limit)


def load_validation(data: DataConfig, *, seed: int) -> list[Example]:
    """The questions that a run looks at while it trains: the validation split of each source, or a part of its training
    split where it has none, by whole pictures.

    Raises:
      ConfigError: as `load_training`.
    """
    return _load_held_out(data, data.validation_split, seed=seed)


def load_evaluation(data: DataConfig, *, seed: int, quiet: bool = False) -> list[Example]:
    """The questions of `reflex evaluate`: `data.evaluation_split` of each source; quiet: what is left out was said before.

    Raises:
      ConfigError: as `load_training`.
    """
    return _load_held_out(data, data.evaluation_split, seed=seed, quiet=quiet)


def load_examples(data: DataConfig, split: str, *, seed: int) -> list[Example]:
    """One split of all sources, whole; what notebooks ask for.

    Raises:
      ConfigError: as `load_training`.
    """
    parts = load_sources(data, [(source, split) for source in data.mixture], seed=seed)
    return [example for part in parts for example in part.examples]


def load_sources(
    data: DataConfig, wanted: Sequence[tuple[SourceConfig, str]], *, seed: int, noise: float = 0.0, quiet: bool = False
) -> list[Loaded]:
    """One split of each source, as `data.refused` says.

    Raises:
      ConfigError: as `load_training`.
    """
    refuse_missing_roots(data)
    parts = [read_source(data, source, split, seed=seed, noise=noise) for source, split in wanted]
    _report(parts, stop=data.refused == "stop", quiet=quiet)
    if empty := [
        f"{part.label} ({split})" for part, (_, split) in zip(parts, wanted, strict=True) if not part.examples
    ]:
        raise ConfigError(f"data.sources: expected at least one question that can be used; none in {', '.join(empty)}.")
    return parts


def read_source(data: DataConfig, source: SourceConfig, split: str, *, seed: int, noise: float = 0.0) -> Loaded:
    """One split of a source with all that was refused of it, whatever `data.refused` says; ids begin with its label.

    Raises:
      ConfigError: unknown split, missing or damaged files.
    """
    if source.name == "phantom":
        examples = phantom_examples(split, data.size, seed, noise=noise)
        return Loaded(source.label, [dataclasses.replace(e, source=source.label) for e in examples], [], 0)
    # Imported here: phantoms need nothing of it.
    from reflex_jax.data.question_sets import load_question_set

    found = load_question_set(source.name, find_layout(source.name), _root(source), cache_of(data), split)
    examples = [_labelled(example, source.label) for example in found.examples if example.language in source.languages]
    refused = [dataclasses.replace(row, id=f"{source.label}-{row.id}") for row in found.refused]
    return Loaded(source.label, examples, refused, len(found.examples) - len(examples))


def find_splits_of(source: SourceConfig) -> list[str]:
    """The splits of a source that are there."""
    if source.name == "phantom":
        return list(SPLITS)
    from reflex_jax.data.question_sets import find_splits

    return find_splits(source.name, find_layout(source.name), _root(source))


def find_layout(name: str) -> Layout:
    """The layout of one of `config.DATA_SETS`; the file of that name in `data/readers/` is imported when it is asked for."""
    return importlib.import_module(f"reflex_jax.data.readers.{name}").LAYOUT


def default_cache() -> Path:
    """Where prepared data lies unless `data.cache` says otherwise: the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reflex_jax" / "data"


def _load_held_out(data: DataConfig, split: str, *, seed: int, quiet: bool = False) -> list[Example]:
    wanted, cuts = [], []
    for source in data.mixture:
        # only the validation split may be cut off, and only where the source has none
        cut = split == data.validation_split and is_cut(source, data)
        own = split if split == data.validation_split else source.evaluation_split or split
        wanted.append((source, (source.split or data.split) if cut else own))
        cuts.append(cut)
    parts = load_sources(data, wanted, seed=seed, quiet=quiet)
    return [
        example
        for part, cut in zip(parts, cuts, strict=True)
        for example in (split_by_picture(part.examples, data.validation_fraction)[1] if cut else part.examples)
    ]


def is_cut(source: SourceConfig, data: DataConfig) -> bool:
    """Whether the validation questions of a source are cut off its training split, for want of a split of their own."""
    return data.validation_split not in find_splits_of(source)


def _labelled(example: Example, label: str) -> Example:
    modality = canonical_modality(example.modality) if example.modality else None
    return dataclasses.replace(example, id=f"{label}-{example.id}", source=label, modality=modality)


def read_excluded(files: Sequence[str]) -> frozenset[str]:
    """The ids in files of one id a line; what follows a blank is a remark."""
    ids: set[str] = set()
    for file in files:
        try:
            lines = user_path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"data.exclude: {file}: expected a text file with one id a line ({error}).") from error
        ids |= {line.split()[0] for line in lines if line.strip() and not line.startswith("#")}
    return frozenset(ids)


def _report_excluded(excluded: frozenset[str], ids: set[str]) -> None:
    unknown = sorted(excluded - ids)
    line = f"data.exclude: {len(excluded & ids)} training questions left out"
    if unknown:
        line += f"; {len(unknown)} ids are of no training question: {list_offenders(unknown)}"
    print(f"{line}.", file=sys.stderr, flush=True)


def refusals(part: Loaded) -> list[str]:
    """Why rows of a source are no questions: a reason each, with the rows by name."""
    return [f"{part.label}: {line}" for line in _by_reason(part.refused)]


def _report(parts: Sequence[Loaded], *, stop: bool, quiet: bool) -> None:
    """Says what is left out; raises where it may not be."""
    complaints = []
    for part in parts:
        told = [row for row in part.refused if row.is_official or not stop]
        lines = _by_reason(told)
        if part.other_languages:
            lines.append(f"{part.other_languages} in another language than data.sources asks for")
        if lines and not quiet:
            print(f"{part.label}: left out: {'; '.join(lines)}.", file=sys.stderr, flush=True)
        complaints += [f"{part.label}: {line}" for line in _by_reason([r for r in part.refused if r not in told])]
    if complaints:
        raise ConfigError(
            f"questions that cannot be used; mend or remove them, or set data.refused=leave_out. {'; '.join(complaints)}."
        )


def _by_reason(rows: Sequence[RefusedRow]) -> list[str]:
    ids: dict[str, list[str]] = {}
    for row in rows:
        ids.setdefault(row.reason, []).append(f"{row.id} ({row.detail})" if row.detail else row.id)
    return [f"{reason} ({len(names)} rows): {list_offenders(names)}" for reason, names in ids.items()]


def refuse_missing_roots(data: DataConfig) -> None:
    """Refuses sources without a folder, all of them at once.

    Raises:
      ConfigError: a source names none, or one that is not there.
    """
    sources = [source for source in data.mixture if source.name != "phantom"]
    complaints = []
    if rootless := [source.label for source in sources if source.root is None]:
        needs = "need the directories with their" if len(rootless) > 1 else "needs the directory with its"
        complaints.append(f"data.root: {', '.join(rootless)} {needs} official files; set data.root=DIR.")
    for source in sources:
        if source.root is not None and not _root(source).is_dir():
            try:
                find_splits_of(source)  # says what it expects there
            except ConfigError as error:
                complaints.append(str(error))
    if complaints:
        raise ConfigError("\n".join(complaints))


def _root(source: SourceConfig) -> Path:
    if source.root is None:
        raise ConfigError(f"data.root: {source.label} needs the directory with its official files; set data.root=DIR.")
    return user_path(source.root).resolve()


def cache_of(data: DataConfig) -> Path:
    """Where prepared questions and cards lie."""
    return user_path(data.cache).resolve() if data.cache else default_cache()
