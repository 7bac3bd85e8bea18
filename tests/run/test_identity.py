"""What a run belongs to is told by content: a link that points elsewhere, one byte, another picture."""

import dataclasses
import shutil

import pytest

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example, Picture
from reflex_jax.run import identity
from reflex_jax.run.identity import (
    check_identity,
    check_processes_alike,
    check_statements,
    checkpoint_fingerprint,
    data_fingerprint,
    encoders_fingerprint,
)
from reflex_jax.statements.operator import DECL_VERSION
from reflex_jax.text.chat_template import TEMPLATE_FOLDER

QUESTION = Example(
    id="1",
    question="?",
    answer="a",
    answer_type="closed",
    images=(Picture(id="i", data=b"picture", digest="1"),),
    options=("a", "b"),
)


@pytest.fixture
def checkpoint(tmp_path):
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(bytes(5 << 20))
    (directory / "config.json").write_text("{}")
    return directory


def test_any_byte_of_the_weights_or_settings_counts(checkpoint):
    seen = {checkpoint_fingerprint(checkpoint)}
    for position in (0, (1 << 20) + 7, (5 << 20) - 1):  # also between what three samples would read
        content = bytearray(5 << 20)
        content[position] = 1
        (checkpoint / "model.safetensors").write_bytes(content)
        seen.add(checkpoint_fingerprint(checkpoint))
    for name in ("config.json", "chat_template.jinja", "merges.txt"):
        (checkpoint / name).write_text('{"other": 1}')
        seen.add(checkpoint_fingerprint(checkpoint))
    (checkpoint / "model.safetensors").rename(checkpoint / "model-00001-of-00001.safetensors")
    seen.add(checkpoint_fingerprint(checkpoint))
    for folder, name in (("shards", "model-00001-of-00001.safetensors"), (TEMPLATE_FOLDER, "tools.jinja")):
        (checkpoint / folder).mkdir()
        (checkpoint / folder / name).write_text("an index may name it")
        seen.add(checkpoint_fingerprint(checkpoint))
    assert len(seen) == 10


def test_what_is_not_read_does_not_count(checkpoint):
    before = checkpoint_fingerprint(checkpoint)
    (checkpoint / "README.md").write_text("a model")
    (checkpoint / "pytorch_model.bin").write_bytes(b"the same, pickled")
    (checkpoint / "runs").mkdir()
    assert checkpoint_fingerprint(checkpoint) == before
    assert checkpoint_fingerprint(checkpoint.rename(checkpoint.with_name("elsewhere"))) == before


def test_pickled_weights_count_where_there_are_no_others(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "open_clip_pytorch_model.bin").write_bytes(b"a")
    before = checkpoint_fingerprint(checkpoint)
    (checkpoint / "open_clip_pytorch_model.bin").write_bytes(b"b")
    assert checkpoint_fingerprint(checkpoint) != before


@pytest.mark.parametrize(
    "change",
    [
        {"images": (Picture(id="i", data=b"other", digest="2"),)},
        {"images": ()},
        {"images": QUESTION.images * 2},
        {"accepted": ("b",)},
        {"reasoning": "since"},
        {"options": ("a", "c")},
        {"answer": "b"},
        {"id": "2"},
    ],
)
def test_questions_are_others_where_a_reward_or_a_picture_would_be(change):
    other = dataclasses.replace(QUESTION, **change)
    assert data_fingerprint([QUESTION]) != data_fingerprint([other])
    assert data_fingerprint([QUESTION, other]) != data_fingerprint([other, QUESTION])


@pytest.mark.parametrize(
    "key, word", [("data", "data"), ("policy", "policy.path"), ("judge", "judge.path"), ("evaluation", "held-out")]
)
def test_what_differs_is_named_and_what_was_not_noted_is_not_compared(tmp_path, key, word):
    expected = dict.fromkeys(("data", "policy", "judge", "evaluation"), "sha256:1")
    check_identity(expected, expected, tmp_path)
    check_identity({key: "sha256:1"}, expected, tmp_path)
    check_identity({}, expected, tmp_path)
    check_identity({key: "0123456789abcdef"}, expected, tmp_path)  # an earlier version's
    with pytest.raises(ConfigError, match=f"cannot be exported: .*{word}") as error:
        check_identity(expected | {key: "sha256:2"}, expected, tmp_path, purpose="exported")
    assert "\n" not in str(error.value)


def test_processes_with_other_files_are_named(monkeypatch):
    monkeypatch.setattr(identity, "gather", lambda value: [value, ["process 1 on b", {"judge": "2", "policy": "1"}]])
    with pytest.raises(ConfigError, match="process 1 on b: its judge is not that of process 0"):
        check_processes_alike({"judge": "1", "policy": "1"})


def test_a_run_on_statements_of_another_version_is_not_continued(tmp_path):
    check_statements({"decl": DECL_VERSION}, tmp_path)
    for found in ({}, {"decl": "1"}):
        with pytest.raises(
            ConfigError, match=f"statements of decl 1, .* decl {DECL_VERSION}: .*run.name for a new run"
        ):
            check_statements(found, tmp_path)


def test_a_text_encoder_is_told_by_its_files_and_those_in_its_folders(checkpoint, tmp_path):
    """Not by where it lies; how it pools stands in a folder."""
    moved = shutil.copytree(checkpoint, tmp_path / "moved")
    found = encoders_fingerprint({"judge": checkpoint})
    assert encoders_fingerprint({"/somewhere": moved}) == found != encoders_fingerprint({"a": moved, "b": checkpoint})
    (moved / "1_Pooling").mkdir()
    (moved / "1_Pooling" / "config.json").write_text("{}")
    pooled = encoders_fingerprint({"a": moved})
    (moved / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    assert len({found, pooled, encoders_fingerprint({"a": moved})}) == 3
    with pytest.raises(ConfigError, match="cannot be continued: the text encoders of rewards hold other weights"):
        check_identity({"encoders": found}, {"encoders": pooled}, tmp_path)
