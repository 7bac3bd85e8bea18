"""Whatever lies where a JSON file should be, the answer is its content or one line that names it."""

import pytest

from reflex_jax.config import ConfigError
from reflex_jax.json_files import read_json, read_json_object


@pytest.mark.parametrize(
    "content, fault",
    [
        (b"", "is empty"),
        (b" \n\t", "is empty"),
        (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
        (b"\xff\xfe{\x00}\x00", "is not UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        (b'{"a": 1', "is no JSON"),
        (b'{"a": 1} {"b": 2}', "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[1, 2]", "got a list"),
        (b"null", "got null"),
        (b'"text"', "got text"),
        (b"3", "got a number"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_one_line(tmp_path, content, fault):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=fault) as refused:
        read_json_object(path, setting="policy.path")
    assert str(refused.value).startswith("policy.path: ") and str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_opened_is_one_line(tmp_path):
    for path in (tmp_path / "absent.json", tmp_path):  # also a folder of that name
        with pytest.raises(ConfigError, match="cannot be read"):
            read_json(path, setting="policy.path")


def test_json_is_read(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"name": "\\u00e9", "list": [1, 2.5, null]}')
    assert read_json_object(path, setting="policy.path") == {"name": "é", "list": [1, 2.5, None]}
