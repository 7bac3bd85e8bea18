"""`reflex data check`: everything that can be known of a run's questions before anything is paid for it. No device is asked for.

Nothing that is found stops the check: rows that cannot be used, a split that is not there, or a policy that is not here yet
are part of what it says.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from reflex_jax import __version__
from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.config import Config, ConfigError, DataConfig
from reflex_jax.data.examples import Example
from reflex_jax.data.holdout import split_by_picture
from reflex_jax.data.prompts import Processor, load_processor
from reflex_jax.data.sources import (
    Loaded,
    find_splits_of,
    read_excluded,
    read_source,
    refusals,
    refuse_missing_roots,
    trained_on,
)
from reflex_jax.dataset_card.floors import question_only_scores
from reflex_jax.dataset_card.pictures import Leaks, distinct_pictures, find_leaks, hash_pictures, key_of
from reflex_jax.dataset_card.text import describe_numbers, describe_statements
from reflex_jax.judge.batch import StatementTokenizer
from reflex_jax.run.identity import data_fingerprint
from reflex_jax.statements.operator import DECL_VERSION

_ROLES = ("training", "validation", "evaluation")


def check_data(config: Config) -> tuple[dict[str, Any], Leaks]:
    """Reads every split that a run would use and describes it.

    Returns:
      The card as plain values for JSON, and what leaks from the scored questions into training.
    Raises:
      ConfigError: official files are missing altogether or cannot be read, or no question is left to train on.
    """
    data = config.data
    loaded, notes = _load(data, seed=config.run.seed, with_validation=bool(config.training.evaluate_every))
    parts = {role: [e for part, _ in loaded[role] for e in part.examples] for role in _ROLES}
    if not any(parts.values()):
        found = [line for role in _ROLES for part, _ in loaded[role] for line in refusals(part)]
        why = "; ".join(dict.fromkeys(found)) or "the files hold no row"
        raise ConfigError(f"data.sources: expected at least one question that can be used; none in any split ({why}).")
    everything = [example for role in _ROLES for example in parts[role]]
    hashes = hash_pictures(distinct_pictures(everything))
    leaks = find_leaks(parts["training"], [*parts["validation"], *parts["evaluation"]], hashes)
    encode, judge_note = _judge_tokenizer(config)
    processor, policy_note = _processor(config)
    card = {
        "version": {"reflex_jax": __version__, "decl": DECL_VERSION},
        "sources": [_describe_part(part, role, split) for role in _ROLES for part, split in loaded[role]],
        "statements": describe_statements(everything, encode, config.judge.max_statement_tokens),
        "prompts": _describe_prompts(processor, everything, data),
        "pictures": _describe_pictures(everything),
        "floors": {role: question_only_scores(parts["training"], parts[role]) for role in _ROLES[1:] if parts[role]},
        "leaks": _describe_leaks(parts, leaks, hashes),
        "fingerprints": {role: data_fingerprint(parts[role]) for role in _ROLES if parts[role]},
        "notes": [note for note in (*notes, judge_note, policy_note) if note],
    }
    return card, leaks


def _load(
    data: DataConfig, *, seed: int, with_validation: bool
) -> tuple[dict[str, list[tuple[Loaded, str]]], list[str]]:
    """What a run would train on, validate on and evaluate on, each source with the name of its split; and what is missing."""
    loaded: dict[str, list[tuple[Loaded, str]]] = {role: [] for role in _ROLES}
    notes = []
    excluded = read_excluded(data.exclude)
    refuse_missing_roots(data)
    for source in data.mixture:
        splits = find_splits_of(source)
        training, validation = source.split or data.split, data.validation_split
        wanted = {
            "training": training,
            "validation": validation,
            "evaluation": source.evaluation_split or data.evaluation_split,
        }
        for role, split in wanted.items():
            if split in splits:
                loaded[role].append((read_source(data, source, split, seed=seed), split))
            elif role == "validation" and not with_validation:
                continue  # the run looks at no held-out questions, so none are held out
            elif role == "validation" and training in splits:
                part, name = loaded["training"].pop()
                kept, held_out = split_by_picture(part.examples, data.validation_fraction)
                loaded["training"].append((dataclasses.replace(part, examples=kept), name))
                cut = dataclasses.replace(part, examples=held_out, refused=[], other_languages=0)
                loaded["validation"].append((cut, f"{training} (held out by picture)"))
            else:
                notes.append(f"{source.label} has no split {split!r} ({role}); it has {', '.join(splits)}.")
        if training in splits:
            part, name = loaded["training"].pop()
            kept = trained_on(part.examples, excluded, source.limit)
            loaded["training"].append((dataclasses.replace(part, examples=kept), name))
            if len(kept) < len(part.examples):
                notes.append(
                    f"{source.label}: {len(part.examples) - len(kept)} training questions left out by exclude or limit."
                )
        if others := [split for split in splits if split not in wanted.values()]:
            notes.append(f"{source.label}: splits that this configuration does not use: {', '.join(others)}.")
    return loaded, notes


def _describe_part(part: Loaded, role: str, split: str) -> dict[str, Any]:
    """Counts of one split of one source, and all of its refused rows."""
    examples = part.examples
    triplets = Counter((tuple(map(key_of, e.images)), e.question, e.answer) for e in examples)
    pairs = Counter((tuple(map(key_of, e.images)), e.question) for e in examples)
    return {
        "source": part.label,
        "role": role,
        "split": split,
        "questions": len(examples),
        "pictures": len(distinct_pictures(examples)),
        "closed_yes_no": sum(e.answer_type == "closed" and e.is_yes_no for e in examples),
        "closed_choice": sum(e.answer_type == "closed" and not e.is_yes_no for e in examples),
        "open": sum(e.answer_type == "open" for e in examples),
        "with_options": sum(e.options is not None for e in examples),
        "several_pictures": sum(len(e.images) > 1 for e in examples),
        "text_only": sum(not e.images for e in examples),
        "modalities": dict(Counter(e.modality or "not said" for e in examples).most_common()),
        "repeated_triplets": sum(count - 1 for count in triplets.values()),
        "questions_with_several_answers": sum(count > 1 for count in Counter(key[:2] for key in triplets).values())
        if len(triplets) > len(pairs)
        else 0,
        "other_languages": part.other_languages,
        "refused": [
            {"id": row.id, "reason": row.reason, "detail": row.detail, "is_official": row.is_official}
            for row in part.refused
        ],
    }


def _describe_prompts(
    processor: Processor | None, examples: Sequence[Example], data: DataConfig
) -> dict[str, Any] | None:
    if processor is None:
        return None
    lengths, longest, misshaped = [], [], []
    for example in examples:
        try:
            tokens, _ = processor.size_of(example)
        except ValueError as error:
            misshaped.append(f"{example.id} ({error})")
            continue
        lengths.append(tokens)
        if tokens > data.max_prompt_tokens:
            longest.append(example.id)
    return {
        "tokens": describe_numbers(lengths), "limit": data.max_prompt_tokens, "over_limit": longest, "misshaped": misshaped,
    }  # fmt: skip


def _describe_pictures(examples: Sequence[Example]) -> dict[str, Any]:
    sizes = [picture.measure() for picture in distinct_pictures(examples).values()]
    return {
        "distinct": len(sizes),
        "width": describe_numbers([width for width, _ in sizes]),
        "height": describe_numbers([height for _, height in sizes]),
        "pixels": describe_numbers([width * height for width, height in sizes]),
    }


def _describe_leaks(
    parts: dict[str, list[Example]], leaks: Leaks, hashes: dict[str, UInt8[np.ndarray, "32"]]
) -> dict[str, Any]:
    sources = sorted({e.source for examples in parts.values() for e in examples})
    own = {label: [e for examples in parts.values() for e in examples if e.source == label] for label in sources}
    between = {}
    for first, second in itertools.combinations(sources, 2):
        found = find_leaks(own[first], own[second], hashes)
        between[f"{first} and {second}"] = {"same_bytes": len(found.same_bytes), "alike": len(found.alike)}
    return {
        "training_questions": len(parts["training"]),
        "same_bytes": len(leaks.same_bytes),
        "alike": len(leaks.alike),
        "between_sources": between,
    }


def _judge_tokenizer(config: Config) -> tuple[Callable[[str, int], tuple[int, ...]] | None, str]:
    try:
        return StatementTokenizer(resolve_checkpoint(config.judge.path, "judge")), ""
    except ConfigError as error:
        return None, f"statements were not measured in tokens: {error}"


def _processor(config: Config) -> tuple[Processor | None, str]:
    data = config.data
    try:
        directory = resolve_checkpoint(config.policy.path, "policy")
        return load_processor(
            directory, min_pixels=data.min_pixels, max_pixels=data.max_pixels, prompt=data.prompt, seed=config.run.seed
        ), ""  # fmt: skip
    except ConfigError as error:
        return None, f"prompts were not measured in tokens: {error}"
