"""What was recorded comes out again; what was changed is named."""

import base64
import dataclasses
import shutil

import numpy as np
import pytest

from reflex_jax.audit.compare import Difference, Flip
from reflex_jax.audit.replay import Selection, replay
from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.cli import main
from reflex_jax.config import ConfigError
from reflex_jax.run.directory import load_run_config
from reflex_jax.stops import NOT_AS_RECORDED


def found_in(directory, **selection) -> list[Difference | Flip]:
    config = load_run_config(directory, [], runs_rewards=False)
    return [found for group in replay(config, Selection(**selection)) for found in group.found]


def group_of(records: list[dict], number: int) -> dict:
    """The group of step 3 with this number."""
    return next(
        r
        for r in records
        if r["kind"] == "group" and r["number"] == number and "/sampled/" not in r["answers"][0]["id"]
    )


def test_everything_comes_out_again_bit_for_bit(recorded, capsys):
    """Also where only two of four questions are recorded, and where own code and a failed row stand as they are."""
    lines = recorded.lines()
    assert [line["record"]["kind"] for line in lines] == ["batch", "group", "batch", "group", "group"]
    assert len(lines[2]["record"]["statement_counts"]) == lines[2]["record"]["shape"]["P"] == 4
    assert main(["replay", str(recorded.directory)]) == 0
    told = capsys.readouterr().out
    assert "9 answers to 3 questions in 2 batches; every value came out again, bit for bit" in told
    assert "taken from the record: short (code of the run's own is not asked again)" in told
    failed = [
        a for line in lines if line["record"]["kind"] == "group" for a in line["record"]["answers"] if not a["is_valid"]
    ]
    assert failed and all(a["failure"] == "short: ValueError at short.py:3: no luck" for a in failed)
    assert all(a["reward"] == "nan" and not a["advantage"] for a in failed)


def test_a_selection_replays_only_that(recorded, capsys):
    assert main(["replay", str(recorded.directory), "--step", "0"]) == 0
    assert "3 answers to 1 question in 1 batch;" in capsys.readouterr().out
    assert main(["replay", str(recorded.directory), "--answer", "7/0/0"]) == 2
    assert "expected the id of a recorded answer" in (told := capsys.readouterr().err) and "steps 0, 3" in told
    assert main(["replay", str(recorded.directory), "--step", "2"]) == 2
    assert "nothing is recorded of step 2" in capsys.readouterr().err


def test_values_that_were_forged_with_their_hashes_are_named(recorded, tmp_path, capsys):
    """No checkpoint knows the head here, so the chain is whole: only computing tells."""

    def forge(records):
        first, second = group_of(records, 0), group_of(records, 1)
        first["answers"][0]["reward"] += 1
        first["answers"][1]["components"]["visual_fidelity"]["score"] = (
            1.0 - first["answers"][1]["components"]["visual_fidelity"]["score"]
        )
        first["answers"][2]["advantage"] = 0.25
        first["answers"][0]["components"]["provenance"]["margins"]["text_text"] = 0.5
        second["organ"] = "heart"
        second["statements"][0]["mask"] = base64.b64encode(bytes(25)).decode()
        second["answers"][0]["statement"] = "it is an elephant"
        second["answers"][1]["completion"] += "."
        second["picture"] = "0" * 64

    forged = recorded.forged(tmp_path / "run", forge)
    assert main(["replay", str(forged)]) == NOT_AS_RECORDED
    captured = capsys.readouterr()
    assert "9 values are not what was recorded" in captured.out
    for words in (
        "line 4, 3/0/0: reward was", "3/0/0: components.provenance.margins was", "phantom-train-0-1: organ was 'heart'",
        "line 4, 3/0/1: components.visual_fidelity was", "line 4, 3/0/2: advantage was 0.25",
        "line 5, phantom-train-0-1: statements[0].mask was", "3/1/0: statement was 'it is an elephant'",
        "3/1/1: completion was", "phantom-train-0-1: picture was '0000",
    ):  # fmt: skip
        assert words in captured.err, words


def test_on_another_machine_rounding_passes_and_a_decision_that_flips_is_counted(recorded, tmp_path, capsys):
    """The record says it was another: what differs by rounding is within, a flip far from its threshold is not."""

    def elsewhere(records):
        for record in records:
            if record["kind"] == "batch":
                record["device"]["kind"] = "another"

    def rounded(records):
        elsewhere(records)
        for answer in group_of(records, 0)["answers"]:
            answer["text_text_similarity"] += 2e-5
            answer["advantage"] += 1e-6

    assert main(["replay", str(recorded.forged(tmp_path / "rounded", rounded))]) == 0
    told = capsys.readouterr().out
    assert "came out again, up to rounding" in told and "kind another then, cpu now" in told
    assert "0 of 18 decisions by thresholds flipped" in told and "text_text_similarity 2e-05" in told

    def flipped(records):
        elsewhere(records)
        for group, margin in ((group_of(records, 0), 0.001), (group_of(records, 1), 0.3)):
            score = group["answers"][0]["components"]["visual_fidelity"]
            score["score"], score["margins"] = 1.0 - score["score"], {"iou": margin}

    found = found_in(recorded.forged(tmp_path / "flipped", flipped))
    flips = [flip for flip in found if isinstance(flip, Flip)]
    assert [(flip.where, flip.is_at_border) for flip in flips] == [("3/0/0", True), ("3/1/0", False)]
    assert not [other for other in found if other not in flips and not other.is_within]


def test_a_damaged_line_ends_the_replay_with_its_number(recorded, tmp_path, capsys):
    directory = shutil.copytree(recorded.directory, tmp_path / "run")
    path = directory / "evidence.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"is_correct":true', b'"is_correct":trve', 1))
    assert main(["replay", str(directory)]) == NOT_AS_RECORDED
    told = capsys.readouterr().err
    assert "not as it was written; nothing is replayed" in told and "line 2: it is no JSON" in told
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:1]))
    assert main(["replay", str(directory)]) == NOT_AS_RECORDED
    assert "lines 2 to 5 are missing at the end" in capsys.readouterr().err
    path.unlink()
    assert main(["replay", str(directory)]) == 2
    assert "Train with evidence.every=N" in capsys.readouterr().err


def test_a_question_whose_words_or_picture_changed_is_named(recorded, monkeypatch):
    from reflex_jax.audit import replay as module

    def other(data, *, seed):
        first, second, *rest = load(data, seed=seed)
        return [
            dataclasses.replace(first, question=first.question + "?"), dataclasses.replace(second, images=first.images), *rest,
        ]  # fmt: skip

    load = module.load_training
    monkeypatch.setattr(module, "load_training", other)
    found = found_in(recorded.directory, step=3)
    named = {(one.where, one.field) for one in found}
    assert {
        ("phantom-train-0-0", "question"),
        ("phantom-train-0-1", "picture"),
        ("phantom-train-0-1", "picture_id"),
    } <= named
    monkeypatch.setattr(module, "load_training", lambda data, *, seed: load(data, seed=seed)[1:])
    with pytest.raises(ConfigError, match="questions phantom-train-0-0 are not in the data set"):
        found_in(recorded.directory, step=3)


def test_another_judge_other_settings_and_other_rules_are_refused(recorded, tmp_path):
    def forge(records):
        for record in records:
            if record["kind"] == "batch":
                record["identity"]["judge"] = "sha256:other"
                record["code"]["decl"] = "1"
                record["judge"]["quantile"] = 0.5
                record["rewards"]["components"]["provenance"]["options"]["text_threshold"] = 0.1

    with pytest.raises(ConfigError) as refused:
        found_in(recorded.forged(tmp_path / "run", forge))
    for words in (
        "those of decl 1",
        "judge.path=phantom holds other weights",
        "judge.quantile is 0.9, was 0.5",
        "text_threshold is 0.8, was 0.1",
    ):
        assert words in str(refused.value)


def test_an_answer_is_explained_in_words(recorded, capsys):
    batch, group = recorded.lines()[2]["record"], recorded.lines()[3]["record"]
    answer = group["answers"][0]
    assert main(["replay", str(recorded.directory), "--answer", "3/0/0"]) == 0
    told = capsys.readouterr().out
    similarity = float(answer["image_text_similarity"])
    for words in (
        "answer 3/0/0 (line 4; step 3, phase after 2)", group["question"], f"anchor:        {group['anchor']}",
        "word for word as the judge reads", "IoU 1, chance-corrected 1", "answer: 1 x 1   (computed from the strings, right)",
        f"s_it, {similarity:.6g} is", "above 0.8 (margin +0.2)", "short: 0.5 x", "taken from the record",
        batch["identity"]["judge"], "computed again: the same, bit for bit",
    ):  # fmt: skip
        assert words in told, words
    # by hand: two rewards are valid, so their mean lies between and the standard deviation (n - 1) is their distance / sqrt(2)
    rewards = [float(a["reward"]) for a in group["answers"] if a["is_valid"]]
    assert len(rewards) == 2
    spread = abs(rewards[0] - rewards[1]) / np.sqrt(2)
    assert f"standard deviation {spread:.4g} = {np.sqrt(0.5):.4g} (sample_std)" in told
    assert main(["replay", str(recorded.directory), "--answer", "3/0/1"]) == 0
    assert "it failed and is left out of every statistic: short: ValueError" in capsys.readouterr().out
    assert main(["replay", str(recorded.directory), "--answer", "3/0/2"]) == 0
    told = capsys.readouterr().out
    assert "none: there is no single answer block" in told and "there is no statement" in told


def test_the_models_may_lie_elsewhere(recorded, tmp_path, capsys):
    """They are told by their content; a copy that differs in a byte is another judge."""
    copies = {
        kind: shutil.copytree(resolve_checkpoint("phantom", kind), tmp_path / kind) for kind in ("policy", "judge")
    }
    moved = [f"{kind}.path={copy}" for kind, copy in copies.items()]
    assert main(["replay", str(recorded.directory), *moved]) == 0
    assert "bit for bit" in capsys.readouterr().out
    settings = copies["judge"] / "open_clip_config.json"
    settings.write_text(settings.read_text() + "\n")
    assert main(["replay", str(recorded.directory), *moved, "logging.progress=false"]) == 2
    assert "holds other weights or settings than the judge that looked" in capsys.readouterr().err
