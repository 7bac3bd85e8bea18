"""The questions of the real sets."""

import json

import pytest


@pytest.fixture(scope="session")
def real_questions(data_root):
    """(question, answer, None) of VQA-RAD and SLAKE, rows without an answer left out."""
    rows = {"vqa_rad": json.loads((data_root / "vqa-rad" / "VQA_RAD Dataset Public.json").read_text())}
    splits = ("train", "validate", "test")
    rows["slake"] = [row for split in splits for row in json.loads((data_root / "slake" / f"{split}.json").read_text())]
    return {
        name: [(str(row["question"]), str(row["answer"]), None) for row in rows[name] if str(row["answer"]).strip()]
        for name in rows
    }
