"""Seeded damage to every file of a policy's processor and of a judge: only results, or one line of bounded length."""

import json
import random
import shutil
from pathlib import Path

import pytest

from reflex_jax.config import ConfigError
from reflex_jax.data.prompts import load_processor
from reflex_jax.judge.evidence import load_judge

ASSETS = Path(__file__).resolve().parents[1] / "reflex_jax" / "assets" / "phantom"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
ODD_VALUES = (
    None, True, False, 0, 1, -1, 7, 2**31, 10**30, 0.5, float("nan"), 1e400, "", "text", "0", [], [1], [[]], {}, {"a": 1},
    ["x"] * 3, "x" * 100_000, [0] * 1000, "\ud83d", "<think>",
)  # fmt: skip
# config.json of the policy has a fuzz of its own; a directory is read in seconds, so the real files are not used here
POLICY_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "preprocessor_config.json",
    "processor_config.json", "chat_template.jinja", "chat_template.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
JUDGE_FILES = (
    "open_clip_config.json", "config.json", "vocab.txt", "tokenizer_config.json", "open_clip_model.safetensors",
    "special_tokens_map.json", "tokenizer.json",
)  # fmt: skip


def _places(value, path=()):
    """Every key and index inside a JSON value, with the way to it."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from _places(inner, (*path, key))


def change_value(content, chance):
    """Another JSON type or value, or nothing, at a place of the file."""
    try:
        written = json.loads(content)
    except ValueError:
        return swap_bytes(content, chance)
    *way, key = chance.choice(list(_places(written)) or [(0,)])
    if not isinstance(written, dict):
        return b"7"
    target = written
    for step in way:
        target = target[step]
    if chance.random() < 0.2:
        del target[key]
    else:
        target[key] = chance.choice(ODD_VALUES)
    return json.dumps(written).encode()


def swap_bytes(content, chance):
    changed = bytearray(content)
    for _ in range(chance.choice((1, 3, 100))):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def move_lines(content, chance):
    lines = content.split(b"\n")
    chance.shuffle(lines)
    return b"\n".join(lines[: chance.randrange(len(lines) + 1)])


DAMAGES = (
    change_value, change_value, change_value, swap_bytes, move_lines,
    lambda content, chance: content[: chance.randrange(len(content))],
    lambda content, chance: b"",
    lambda content, chance: POINTER,
    lambda content, chance: b"\xef\xbb\xbf" + content,
    lambda content, chance: chance.choice((b"[]", b"null", b"3", b'"x"', b"{}", b"{")),
    lambda content, chance: chance.randbytes(200),
    lambda content, chance: None,  # a folder of that name
    lambda content, chance: ...,  # gone
)  # fmt: skip


def damage(path, chance):
    content = path.read_bytes() if path.is_file() else b'{"chat_template": "x", "eos_token": "<think>"}'
    changed = chance.choice(DAMAGES)(content, chance)
    path.unlink(missing_ok=True)
    if changed is None:
        path.mkdir()
    elif changed is not ...:
        path.write_bytes(changed)


def load_policy_processor(directory):
    processor = load_processor(directory, min_pixels=3136, max_pixels=12544, prompt="think_answer")
    assert processor.encode_text("Is there a nodule?")


@pytest.mark.parametrize("kind", ["policy", "judge"])
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_directory_loads_or_is_refused_in_one_line(tmp_path, kind):
    names, load = {"policy": (POLICY_FILES, load_policy_processor), "judge": (JUDGE_FILES, load_judge)}[kind]
    source = shutil.copytree(ASSETS / kind, tmp_path / "source")
    if kind == "policy":
        (source / "model.safetensors").unlink()
    refused = 0
    for seed in range(150):
        chance = random.Random(f"{kind} {seed}")
        directory = tmp_path / "damaged"
        shutil.copytree(source, directory)
        damaged = chance.sample(names, chance.choice((1, 1, 2)))
        for name in damaged:
            damage(directory / name, chance)
        try:
            load(directory)
        except ConfigError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 2000, (seed, damaged)
        except BaseException as error:
            raise AssertionError(f"seed {seed}, {damaged}: {type(error).__name__}: {str(error)[:300]}") from error
        shutil.rmtree(directory)
    assert 75 < refused < 150
