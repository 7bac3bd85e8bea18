"""A directory damaged in any way is read or refused in one short line: nothing else leaves a door."""

import copy
import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from reflex_jax.checkpoints.huggingface import load_policy_params
from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.config import ConfigError
from reflex_jax.data.prompts import load_processor
from reflex_jax.judge.evidence import load_judge
from reflex_jax.models.qwen_vl import read_qwen_config
from tests.tiny_directories import write_tiny_policy

DIRECTORIES = 250  # of each kind
LONGEST_MESSAGE = 2000  # characters
LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1\nsize 3\n"
)
ODD_VALUES = (
    None, True, False, 0, -1, 1, 2, 3, 10**9, 10**40, 0.5, 1e400, float("nan"), "", "x", "1", "\0", "é" * 300, "silu", "../x",
    [], [1], [[]], [None], ["x"] * 40, {}, {"x": 1}, {"": {"": []}}, [{}],
)  # fmt: skip


# --- doors: what a user's directory goes through. A reader joins by a line in DOORS.


def policy_weights(directory: Path) -> None:
    directory = resolve_checkpoint(directory, "policy")
    load_policy_params(directory, read_qwen_config(directory))


def policy_processor(directory: Path) -> None:
    load_processor(directory, min_pixels=3136, max_pixels=12544, prompt="think_answer").encode_text("Is there a cyst?")


def write_judge(directory: Path) -> Path:
    return Path(shutil.copytree(resolve_checkpoint("phantom", "judge"), directory, dirs_exist_ok=True))


# name: (writes a whole directory, reads one, files that it reads where they are there)
DOORS = {
    "policy weights": (
        write_tiny_policy, policy_weights, ("config.json", "generation_config.json", "model.safetensors"),
    ),
    "policy processor": (
        write_tiny_policy, policy_processor,
        ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "preprocessor_config.json",
         "processor_config.json", "chat_template.jinja", "chat_template.json", "special_tokens_map.json", "added_tokens.json"),
    ),
    "judge": (
        write_judge, load_judge,
        ("open_clip_config.json", "config.json", "vocab.txt", "tokenizer_config.json", "open_clip_model.safetensors",
         "special_tokens_map.json", "tokenizer.json"),
    ),
}  # fmt: skip


# --- damages: each takes a file that is whole


def delete(path: Path, rng: random.Random) -> None:
    path.unlink()


def truncate(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.choice([rng.randrange(len(content)), len(content) - 1, 0, 8])])


def flip_bytes(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    end = rng.choice([len(content), min(8, len(content)), min(4000, len(content))])  # also headers
    for _ in range(rng.randint(1, 20)):
        content[rng.randrange(end)] = rng.randrange(256)
    path.write_bytes(content)


def other_json(path: Path, rng: random.Random) -> None:
    path.write_text(json.dumps(rng.choice(ODD_VALUES)))


def other_bytes(path: Path, rng: random.Random) -> None:
    path.write_bytes(
        rng.choice([LFS_POINTER, b"\xff\xfe", b"<!doctype html>", rng.randbytes(100), b"[" * 10**5, b"\n"])
    )


def byte_order_mark(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def rename(path: Path, rng: random.Random) -> None:
    path.rename(
        path.with_name(rng.choice(["x", path.name.upper(), "model.safetensors.index.json", "adapter_config.json"]))
    )


def folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def broken_link(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to(rng.choice(["gone", path.name]))


def content_of_another(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.choice(sorted(p for p in path.parent.iterdir() if p.is_file())).read_bytes())


def wrong_values(path: Path, rng: random.Random) -> None:
    """Changes keys of a JSON file, or of the header of a safetensors file."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little") if path.suffix == ".safetensors" else None
    try:
        values = json.loads(content if size is None else content[8 : 8 + size])
    except ValueError:  # merges.txt
        return path.write_bytes(content[: len(content) // 2])
    for _ in range(rng.choice([1, 1, 2, 5])):
        change_somewhere(values, rng)
    encoded = json.dumps(values).encode()
    path.write_bytes(encoded if size is None else len(encoded).to_bytes(8, "little") + encoded + content[8 + size :])


def change_somewhere(values: dict | list, rng: random.Random) -> None:
    keys = list(values) if isinstance(values, dict) else range(len(values))
    if not keys:
        return
    key = rng.choice(keys)
    if isinstance(values[key], (dict, list)) and values[key] and rng.random() < 0.7:
        change_somewhere(values[key], rng)
    elif isinstance(values, dict) and rng.random() < 0.3:
        value = values.pop(key)
        if rng.random() < 0.5:
            values[rng.choice([key + "\n", "model." + key, "lm_head.weight", "", "\udcff"])] = value
    else:
        number = values[key] if isinstance(values[key], int) else 1
        near = (number + 1, number - 1, number * 2, str(number), "F8_E4M3", "BF16", "I8")
        values[key] = copy.deepcopy(rng.choice((*ODD_VALUES, *near)))


DAMAGES = (
    delete, truncate, flip_bytes, flip_bytes, other_json, other_bytes, byte_order_mark, rename, folder, broken_link,
    content_of_another, *[wrong_values] * 8,
)  # fmt: skip


def damage(whole: Path, directory: Path, files: tuple[str, ...], rng: random.Random) -> str:
    """Makes a directory of links to the whole one's files, of which one or two are damaged; says how."""
    directory.mkdir()
    for file in whole.iterdir():
        (directory / file.name).symlink_to(file)
    done = []
    for name in rng.sample(files, rng.choice([1, 1, 2])):
        path, how = directory / name, rng.choice(DAMAGES)
        content = path.read_bytes() if path.is_file() else b'{"chat_template": "x", "eos_token": "<think>"}'
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        how(path, rng)
        done.append(f"{how.__name__}({name})")
    return ", ".join(done)


@pytest.mark.parametrize("name", list(DOORS))
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_directory_is_read_or_refused_in_a_line(name, tmp_path_factory):
    write, read, files = DOORS[name]
    whole = write(tmp_path_factory.mktemp("whole"))
    place = tmp_path_factory.mktemp("damaged")
    outcomes, escaped = Counter(), []
    for seed in range(DIRECTORIES):
        how = damage(whole, place / str(seed), files, random.Random(seed))
        try:
            read(place / str(seed))
            outcomes["read"] += 1
        except ConfigError as error:
            outcomes["refused"] += 1
            if len(str(error)) > LONGEST_MESSAGE or not str(error).isprintable():
                escaped.append(f"{seed} {how}: a message of {len(str(error))} characters: {str(error)[:300]!r}")
        except BaseException as error:  # a panic of the safetensors library is no Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            escaped.append(f"{seed} {how}: {type(error).__name__}: {str(error)[:200]!r}")
    assert not escaped, f"{len(escaped)} of {DIRECTORIES}:\n" + "\n".join(escaped[:20])
    assert min(outcomes["read"], outcomes["refused"]) > DIRECTORIES / 20, outcomes  # both are tried
