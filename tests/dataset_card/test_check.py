"""The dataset card: counts, refused rows, statements, floors and leaks of a set of one's own, from the command to the file."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reflex_jax.cli import main
from reflex_jax.config import DataConfig
from reflex_jax.data.examples import Example, Picture
from reflex_jax.data.sources import load_evaluation, load_training
from reflex_jax.dataset_card.card import recall_card
from reflex_jax.dataset_card.floors import question_only_answers, question_only_scores
from reflex_jax.dataset_card.pictures import ALIKE, alike_pairs, find_leaks, hash_pictures
from reflex_jax.dataset_card.text import describe_numbers, describe_statements
from reflex_jax.run.identity import data_fingerprint


def noise(seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((96, 80), Image.Resampling.BICUBIC)


@pytest.fixture
def own(tmp_path) -> Path:
    """Train shares a picture with test by bytes (b.png) and one by looks (c.png is d.jpg)."""
    root = tmp_path / "own"
    root.mkdir()
    for number, name in enumerate("abc"):
        noise(number).save(root / f"{name}.png")
    noise(2).resize((48, 40)).save(root / "d.jpg", quality=70)

    def ask(question, answer, image, **more):
        return {"question": question, "answer": answer, "image": f"{image}", **more}

    splits = {
        "train": [
            ask("Is it large?", "yes", "a.png"), ask("Is it large?", "yes", "b.png"), ask("Is it large?", "no", "c.png"),
            ask("Where is it?", "left lung", "a.png", modality="CT"), ask("Where is it?", "left lung", "a.png", modality="CT"),
            ask("Which side?", "B", "a.png", options=["left", "right"]), ask("What is it?", "", "a.png"),
            ask("What is it?", "a cyst", "gone.png"),
        ],
        "validation": [ask("Is it large?", "no", "a.png")],
        "test": [ask("Is it large?", "yes", "b.png"), ask("Where is it?", "right lung", "d.jpg")],
    }  # fmt: skip
    splits["validation"][0]["image"] = None  # text alone
    for split, rows in splits.items():
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_the_card_says_what_a_run_would_meet(own, tmp_path, repository, capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    settings = ["data.source=jsonl", f"data.root={own}", f"data.cache={tmp_path / 'cache'}"]
    leaks = tmp_path / "leaks.txt"
    config = str(repository / "configs" / "vqa_rad_tiny.yaml")
    command = ["data", "check", config, *settings, "--to", str(tmp_path / "card"), "--exclude-leaks", str(leaks)]
    assert main(command) == 0
    said = capsys.readouterr().out
    card = json.loads((tmp_path / "card" / "card.json").read_text())
    train, validation, test = card["sources"]
    assert [(p["role"], p["questions"]) for p in (train, validation, test)] == [
        ("training", 6),
        ("validation", 1),
        ("evaluation", 2),
    ]
    assert (train["closed_yes_no"], train["closed_choice"], train["open"]) == (3, 1, 2)
    assert (train["repeated_triplets"], train["modalities"], validation["text_only"]) == (
        1,
        {"not said": 4, "CT": 2},
        1,
    )
    assert [(row["id"], row["reason"]) for row in train["refused"]] == [
        ("jsonl-line 7", "no answer"), ("jsonl-line 8", "no picture"),
    ]  # fmt: skip
    assert card["floors"]["evaluation"] == {
        "accuracy": 1.0, "accuracy_yes_no": 1.0, "open/bleu1": 0.5, "open/exact_match": 0.0, "open/recall": 0.5,
        "open/rouge1": 0.5,
    }  # fmt: skip
    assert card["floors"]["validation"]["accuracy"] == 0.0
    assert (card["leaks"]["same_bytes"], card["leaks"]["alike"]) == (1, 1)
    assert sum(card["statements"]["rules"].values()) == 9 and card["statements"]["cut"] == 0
    assert {"id", "question", "answer", "statement", "rule"} <= card["statements"]["to_read"][0].keys()
    assert card["prompts"]["tokens"]["count"] == 9 and card["pictures"]["distinct"] == 4
    text = (tmp_path / "card" / "card.md").read_text()
    assert text in said and "gone.png" in text and "no answer" in text
    assert leaks.read_text().split() == ["jsonl-train-1", "jsonl-train-2"]
    data = DataConfig(
        source="jsonl", root=str(own), cache=str(tmp_path / "cache"), refused="leave_out", exclude=(str(leaks),)
    )
    assert [e.id for e in load_training(data, seed=0)] == [f"jsonl-train-{n}" for n in (0, 3, 4, 5)]
    everything = dataclasses.replace(data, exclude=())
    prints = [data_fingerprint(load(everything, seed=0)) for load in (load_evaluation, load_training)]
    quoted = recall_card(*prints, tmp_path / "cache")
    assert quoted[0].startswith("jsonl test: 2 questions on 2 pictures (1 yes/no, 0 choice, 1 open)")
    assert "1 of 6 training questions by bytes, 1 more by looks" in quoted[1]
    less = data_fingerprint(load_training(data, seed=0))  # with other training questions other pictures leak
    assert recall_card(prints[0], less, tmp_path / "cache") == []
    capsys.readouterr()
    assert main([*command[:-4], f"data.exclude=[{leaks}]", "--to", str(tmp_path / "card")]) == 0
    card = json.loads((tmp_path / "card" / "card.json").read_text())
    assert (card["sources"][0]["questions"], card["leaks"]["same_bytes"], card["leaks"]["alike"]) == (4, 0, 0)
    assert "jsonl: 2 training questions left out by exclude or limit." in card["notes"]


def test_a_policy_that_is_not_here_yet_is_a_note(own, tmp_path, repository, capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    config = str(repository / "configs" / "vqa_rad_tiny.yaml")
    settings = ["data.source=jsonl", f"data.root={own}", f"data.cache={tmp_path / 'cache'}", "policy.path=nowhere"]
    assert main(["data", "check", config, *settings, "judge.path=nowhere", "--to", str(tmp_path / "card")]) == 0
    said = capsys.readouterr().out
    assert "prompts were not measured in tokens: policy.path" in said
    assert "statements were not measured in tokens: judge.path" in said


def picture(name, image):
    return Picture(id=name, data=lambda: image)


def test_pictures_that_were_changed_look_alike_and_others_do_not():
    originals = {str(n): picture(str(n), noise(n)) for n in range(40)}
    changed = {f"{n}'": picture(f"{n}'", noise(n).resize((60, 50))) for n in range(40)}
    hashes, others = hash_pictures(originals), hash_pictures(changed)
    assert alike_pairs(hashes, others) == {(str(n), f"{n}'") for n in range(40)}
    assert alike_pairs(hashes, hashes) == set() and alike_pairs({}, others) == set()


def test_every_pair_within_the_distance_is_found():
    random = np.random.default_rng(0)
    base = random.integers(0, 256, (30, 32), dtype=np.uint8)
    for flips in (0, 1, ALIKE, ALIKE + 1):
        moved = np.unpackbits(base, axis=1)
        for row in moved:
            row[random.choice(256, flips, replace=False)] ^= 1
        found = alike_pairs(
            {f"a{n}": row for n, row in enumerate(base)},
            {f"b{n}": row for n, row in enumerate(np.packbits(moved, axis=1))},
        )
        assert found == ({(f"a{n}", f"b{n}") for n in range(30)} if flips <= ALIKE else set())


def example(number, question, answer, answer_type="closed", **more):
    return Example(id=str(number), question=question, answer=answer, answer_type=answer_type, **more)


def test_a_question_whose_picture_leaks_twice_counts_once():
    shared, own = picture("shared", noise(0)), picture("own", noise(1))
    training = [example(0, "?", "a", images=(shared, own)), example(1, "?", "a", images=(own,)), example(2, "?", "a")]
    hashes = hash_pictures({"shared": shared, "own": own})
    found = find_leaks(training, [example(3, "?", "a", images=(shared,))], hashes)
    assert (found.same_bytes, found.alike, found.ids) == ({"0"}, frozenset(), ["0"])


def test_the_baseline_answers_as_training_did():
    training = [
        example(0, "Is it?", "yes"), example(1, "is it", "no"), example(2, "Is it ?", "no"), example(3, "Where?", "left", "open"),
        example(4, "Who?", "no"),
    ]  # fmt: skip
    asked = [example(5, "IS IT?", "no"), example(6, "Is that?", "yes"), example(7, "How?", "right", "open")]
    assert question_only_answers(training, asked) == ["no", "no", "left"]
    assert question_only_scores(training, asked)["accuracy"] == 0.5
    assert question_only_answers([], asked) == ["", "", ""] and question_only_scores([], asked)["accuracy"] == 0.0


def test_statements_are_counted_by_rule_and_those_that_are_cut_named():
    rows = [
        example(0, "Is there a cyst?", "yes"),
        example(1, "Is there a nodule?", "no"),
        example(2, "Where is it?", "left", "open"),
    ]
    found = describe_statements(rows, lambda text, limit: tuple(text.split())[:limit], 4)
    assert sum(found["rules"].values()) == 3 and found["cut"] == 1 and found["cut_ids"] == ["2"]
    assert found["to_read"][0]["statement"] == "there is a cyst" and len(found["to_read"]) == 3
    assert describe_statements(rows, None, 4)["cut"] is None


def test_numbers_are_described():
    assert describe_numbers([]) == {"count": 0}
    found = describe_numbers([5, 5, 9])
    assert (found["min"], found["median"], found["max"]) == (5, 5, 9)
    assert sum(bar["count"] for bar in found["histogram"]) == 3
    (bar,) = describe_numbers([7])["histogram"]
    assert bar["count"] == 1 and bar["from"] <= 7 <= bar["to"]


@pytest.mark.parametrize(
    ("content", "words"),
    [('{"question": "Is it?", "anser": "yes"}\n', ["an unknown field", "jsonl-line 1", "'answer'"]), ("", ["no row"])],
)
def test_a_set_without_a_usable_question_says_why(tmp_path, repository, capsys, content, words):
    (tmp_path / "train.jsonl").write_text(content)
    config = str(repository / "configs" / "vqa_rad_tiny.yaml")
    settings = ["data.source=jsonl", f"data.root={tmp_path}", f"data.cache={tmp_path / 'cache'}"]
    assert main(["data", "check", config, *settings, "--to", str(tmp_path / "card")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and all(word in message for word in ["none in any split", *words])
