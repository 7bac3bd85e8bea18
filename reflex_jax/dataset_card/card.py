"""The dataset card: the same numbers for people (card.md) and programs (card.json), and the lines that an evaluation quotes."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reflex_jax.config import ConfigError
from reflex_jax.dataset_card.markdown import section, table

_SHOWN_IDS = 20
_CARDS = "cards"


def write_card(card: Mapping[str, Any], directory: Path) -> None:
    """Writes card.md and card.json.

    Raises:
      ConfigError: the folder cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (directory / "card.md").write_text(as_markdown(card), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--to: {str(directory)!r} cannot be written ({error}). Name another folder.") from error


def remember_card(card: Mapping[str, Any], cache: Path) -> None:
    """Keeps what an evaluation quotes beside the prepared questions, under the fingerprints of what was scored and trained on."""
    training = card["fingerprints"].get("training", "")
    try:
        (cache / _CARDS).mkdir(parents=True, exist_ok=True)
        for role, fingerprint in card["fingerprints"].items():
            place = cache / _CARDS / _file_name(fingerprint, training)
            place.write_text(json.dumps(quote(card, role)), encoding="utf-8")
    except OSError as error:
        print(
            f"data.cache: evaluations will not quote this card: {cache} cannot be written ({error.strerror}).",
            file=sys.stderr,
        )


def recall_card(scored: str, training: str, cache: Path) -> list[str]:
    """The lines about scored and training questions of these fingerprints; none where nobody has checked them together."""
    try:
        lines = json.loads((cache / _CARDS / _file_name(scored, training)).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [str(line) for line in lines] if isinstance(lines, list) else []


def quote(card: Mapping[str, Any], role: str) -> list[str]:
    """What belongs beside a score on the questions of a role."""
    lines = []
    for part in card["sources"]:
        if part["role"] == role:
            lines.append(
                f"{part['source']} {part['split']}: {part['questions']} questions on {part['pictures']} pictures "
                f"({part['closed_yes_no']} yes/no, {part['closed_choice']} choice, {part['open']} open), "
                f"{len(part['refused'])} rows refused, {part['repeated_triplets']} repeated"
            )
    leaks = card["leaks"]
    lines.append(
        f"pictures shared with training: {leaks['same_bytes']} of {leaks['training_questions']} training questions by bytes, "
        f"{leaks['alike']} more by looks"
    )
    cut = card["statements"]["cut"]
    if cut is not None:
        lines.append(f"statements of decl {card['version']['decl']}: {cut} longer than the judge reads")
    return lines


def _file_name(scored: str, training: str) -> str:
    return f"{hashlib.sha256(f'{scored} {training}'.encode()).hexdigest()[:32]}.json"


def as_markdown(card: Mapping[str, Any]) -> str:
    """The whole card."""
    parts = [
        "# Dataset card",
        _versions(card["version"]),
        section("Questions", table(_QUESTIONS, [_question_row(part) for part in card["sources"]])),
        section("Modalities", table(("source", "role", "modality", "questions"), list(_modalities(card["sources"])))),
        section("Refused rows", _refused(card["sources"])),
        section("Statements by rule", _statements(card["statements"])),
        section("Twenty statements to read", _to_read(card["statements"])),
        section("Prompts", _prompts(card["prompts"])),
        section("Pictures", _pictures(card["pictures"])),
        section("Question-only baseline", _floors(card["floors"])),
        section("Leaks", _leaks(card["leaks"])),
    ]
    if card["notes"]:
        parts.append(section("Notes", "\n".join(f"- {note}" for note in card["notes"])))
    return "\n\n".join(parts) + "\n"


_QUESTIONS = (
    "source", "role", "split", "questions", "pictures", "yes/no", "choice", "open", "several pictures", "text alone", "refused",
    "repeated",
)  # fmt: skip


def _versions(version: Mapping[str, str]) -> str:
    return f"reflex_jax {version['reflex_jax']}, statements of decl {version['decl']}."


def _question_row(part: Mapping[str, Any]) -> list[Any]:
    return [
        part["source"], part["role"], part["split"], part["questions"], part["pictures"], part["closed_yes_no"],
        part["closed_choice"], part["open"], part["several_pictures"], part["text_only"], len(part["refused"]),
        part["repeated_triplets"],
    ]  # fmt: skip


def _modalities(parts: Sequence[Mapping[str, Any]]) -> Iterable[list[Any]]:
    for part in parts:
        for modality, count in part["modalities"].items():
            yield [part["source"], part["role"], modality, count]


def _refused(parts: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for part in parts:
        counts = Counter((row["reason"], row["is_official"]) for row in part["refused"])
        for (reason, is_official), count in counts.items():
            ids = [_named(row) for row in part["refused"] if row["reason"] == reason]
            more = f" and {len(ids) - _SHOWN_IDS} more (card.json)" if len(ids) > _SHOWN_IDS else ""
            known = "yes" if is_official else "no"
            rows.append([part["source"], part["split"], reason, count, known, ", ".join(ids[:_SHOWN_IDS]) + more])
    columns = ("source", "split", "reason", "rows", "known of the official files", "ids")
    return table(columns, rows) if rows else "None."


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['id']} ({row['detail']})" if row["detail"] else row["id"]


def _statements(statements: Mapping[str, Any]) -> str:
    total = sum(statements["rules"].values())
    rows = [[rule, count, f"{count / total:.1%}"] for rule, count in statements["rules"].items()]
    cut = statements["cut"]
    line = (
        "Lengths in tokens of the judge are not known."
        if cut is None
        else f"{cut} of {total} statements are longer than the judge reads (judge.max_statement_tokens)"
        + (f": {', '.join(statements['cut_ids'])}." if cut else ".")
    )
    return table(("rule", "statements", "share"), rows) + f"\n\n{line}"


def _to_read(statements: Mapping[str, Any]) -> str:
    rows = [[row["rule"], row["question"], row["answer"], row["statement"]] for row in statements["to_read"]]
    return table(("rule", "question", "answer", "statement"), rows)


def _prompts(prompts: Mapping[str, Any] | None) -> str:
    if prompts is None:
        return "Not measured, see the notes."
    over = prompts["over_limit"]
    lines = [
        _numbers("tokens of a prompt, image tokens included", prompts["tokens"]),
        f"{len(over)} are longer than data.max_prompt_tokens={prompts['limit']}"
        + (f": {', '.join(over[:_SHOWN_IDS])}." if over else "."),
    ]
    if prompts["misshaped"]:
        lines.append(f"Pictures that cannot be resized: {', '.join(prompts['misshaped'][:_SHOWN_IDS])}.")
    return "\n\n".join([*lines, _histogram(prompts["tokens"])])


def _pictures(pictures: Mapping[str, Any]) -> str:
    lines = [f"{pictures['distinct']} distinct pictures."]
    if pictures["distinct"]:
        lines += [_numbers(name, pictures[name]) for name in ("width", "height", "pixels")]
    return "\n\n".join(lines)


def _numbers(name: str, numbers: Mapping[str, Any]) -> str:
    if not numbers["count"]:
        return f"{name}: none."
    return f"{name}: {numbers['min']} to {numbers['max']}, median {numbers['median']}, 95 % up to {numbers['p95']}."


def _histogram(numbers: Mapping[str, Any]) -> str:
    bars = numbers.get("histogram", [])
    largest = max((bar["count"] for bar in bars), default=1) or 1
    rows = [
        f"{bar['from']:>7} to {bar['to']:>7}  {bar['count']:>7}  {'#' * round(40 * bar['count'] / largest)}"
        for bar in bars
    ]
    return "\n".join(["```", *rows, "```"]) if bars else ""


def _floors(floors: Mapping[str, Mapping[str, float]]) -> str:
    if not floors:
        return "No question is scored."
    names = list(dict.fromkeys(name for scores in floors.values() for name in scores))
    rows = [[name, *(_score(scores.get(name)) for scores in floors.values())] for name in names]
    text = "The most frequent answer of training to the same question, or else to its kind: what can be said without a picture."
    return f"{text}\n\n{table(('metric', *floors), rows)}"


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _leaks(leaks: Mapping[str, Any]) -> str:
    lines = [
        f"Of {leaks['training_questions']} training questions {leaks['same_bytes']} are about a picture that validation or "
        f"evaluation also asks about, and {leaks['alike']} more about one that looks like it."
    ]
    rows = [[names, found["same_bytes"], found["alike"]] for names, found in leaks["between_sources"].items()]
    if rows:
        lines.append(
            table(("sources", "questions of the first with the same picture", "with one that looks alike"), rows)
        )
    return "\n\n".join(lines)
