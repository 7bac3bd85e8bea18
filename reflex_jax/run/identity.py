"""What a run may not change under its checkpoints, by content: questions, policy, judge, own rewards, held-out questions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example
from reflex_jax.processes import gather, host_name
from reflex_jax.statements.operator import DECL_VERSION
from reflex_jax.text.chat_template import TEMPLATE_FOLDER

_PICKLED = (".bin", ".pt", ".pth")
_SETTINGS = (".json", ".jinja", ".txt", ".model")
_KIND = "sha256:"  # earlier versions wrote digests of samples, which cannot be compared with these
_WHAT = {
    "data": "the training questions or their pictures (data.*) are others",
    "policy": "policy.path holds other weights or settings, so the reference policy would be another",
    "adapter": "policy.lora.path holds other weights or settings, so the start would be another",
    "judge": "judge.path holds other weights or settings, so the rewards would be others",
    "encoders": "the text encoders of rewards hold other weights or settings, so the rewards would be others",
    "rewards": "rewards.files hold other code, so the rewards would be others",
    "evaluation": "the held-out questions (data.validation_split, training.evaluation_questions) are others, so eval/... would "
    "not compare",
}


BY_CONTENT = tuple(_WHAT)  # facts of a checkpoint that say what the run belongs to


def data_fingerprint(examples: Sequence[Example]) -> str:
    """Hash of questions in their order, and of their pictures; those drawn on demand are told by their ids alone."""
    digest = hashlib.sha256()
    for e in examples:
        pictures = [(picture.id, picture.digest) for picture in e.images]
        names, digests = [name for name, _ in pictures], [digest for _, digest in pictures]
        # one picture stands without a list, as it did when there could be no more
        shown = (names[0], e.options, digests[0]) if len(pictures) == 1 else (names, e.options, digests)
        # nothing stands for what a question does not have, as before it could have it
        more = [] if e.reasoning is None else [e.accepted, e.reasoning]
        more = more or ([e.accepted] if e.accepted else [])
        facts = (e.id, e.question, e.answer, e.answer_type, *shown, *more)
        digest.update(json.dumps(facts).encode() + b"\n")
    return _KIND + digest.hexdigest()


def checkpoint_fingerprint(directory: Path) -> str:
    """Hash of every byte of a checkpoint's weights, tokenizer and settings.

    Loading reads the same bytes; hashing takes about a second for 1 to 2 GB, four files at a time.

    Pickled weights count where there are no safetensors, which are preferred when a checkpoint is read.

    Raises:
      ConfigError: a file cannot be read.
    """
    files = [path for path in (*directory.iterdir(), *directory.glob(f"{TEMPLATE_FOLDER}/*")) if path.is_file()]
    weights = [path for path in directory.rglob("*.safetensors") if path.is_file()]  # an index may name folders
    weights = weights or [path for path in files if path.suffix in _PICKLED]
    chosen = sorted({*weights, *(path for path in files if path.suffix in _SETTINGS)})
    try:
        with ThreadPoolExecutor(max_workers=4) as threads:
            digests = list(threads.map(_file_digest, chosen))
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read ({error.strerror}).") from error
    names = [[path.relative_to(directory).as_posix(), digest] for path, digest in zip(chosen, digests, strict=True)]
    return _KIND + hashlib.sha256(json.dumps(names).encode()).hexdigest()


def encoders_fingerprint(directories: Mapping[str, Path]) -> str:
    """Hash of every byte of some text encoders, by content: where they lie does not matter.

    What sentence-transformers keeps of them in folders of their own counts.

    Raises:
      ConfigError: a file cannot be read.
    """
    digests = sorted(
        [checkpoint_fingerprint(folder) for folder in (directory, *sorted(filter(Path.is_dir, directory.iterdir())))]
        for directory in directories.values()
    )
    return _KIND + hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def files_fingerprint(files: Sequence[str]) -> str:
    """Hash of every byte of some files, in their order; where they lie and what they are called does not matter.

    Raises:
      ConfigError: a file cannot be read.
    """
    try:
        digests = [_file_digest(Path(file)) for file in files]
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read ({error.strerror}).") from error
    return _KIND + hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def check_identity(
    found: dict[str, str], expected: dict[str, str], directory: Path, *, purpose: str = "continued"
) -> None:
    """Refuses to go on with a run on other data, from another policy or before another judge.

    Args:
      found: facts of the run's checkpoint.
      expected: what is there now; a key that the facts lack is not compared.
      directory: the run.
      purpose: what the run cannot be.
    Raises:
      ConfigError: what differs, by name.
    """
    differences = [
        text
        for key, text in _WHAT.items()
        if key in expected and str(found.get(key, "")).startswith(_KIND) and found[key] != expected[key]
    ]
    if differences:
        raise ConfigError(
            f"{directory} cannot be {purpose}: {'; '.join(differences)} than when it was saved. Put them back, or set "
            "run.name for a new run."
        )


def check_objective(found: dict[str, Any], name: str, directory: Path) -> None:
    """Refuses to go on with a run of the other phase.

    Args:
      found: facts of the run's checkpoint; those of older versions are of GRPO.
      name: of the objective now.
      directory: the run.
    Raises:
      ConfigError: it is one.
    """
    before = found.get("objective", "grpo")
    if before != name:
        commands = {"grpo": "reflex train", "supervised": "reflex sft"}
        raise ConfigError(
            f"{directory} is a run of `{commands.get(before, before)}`, which `{commands[name]}` does not continue; set "
            "run.name for a new run."
        )


def check_statements(found: dict[str, Any], directory: Path) -> None:
    """Refuses to go on where the judge would read other statements than it has read so far.

    Args:
      found: facts of the run's checkpoint; those that do not say are of the first version.
      directory: the run.
    Raises:
      ConfigError: it was trained with another version of `decl`.
    """
    before = found.get("decl", "1")
    if before != DECL_VERSION:
        raise ConfigError(
            f"{directory} was trained on statements of decl {before}, and this version of reflex_jax makes those of decl "
            f"{DECL_VERSION}: the rewards would be others. It can be evaluated and exported; set run.name for a new run, or "
            "go on with that version."
        )


def check_processes_alike(identity: dict[str, str]) -> None:
    """Compares the identities that the processes of a run found, each on its own disk; all call it.

    Raises:
      ConfigError: what differs, and on which host.
    """
    found = gather([host_name(), identity])
    first, expected = found[0]
    complaints = [
        f"{name}: its {key} is not that of {first}"
        for name, other in found[1:]
        for key in sorted(expected)
        if other[key] != expected[key]
    ]
    if complaints:
        raise ConfigError("the processes of this run do not read the same files:\n" + "\n".join(complaints))


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
