"""What does a set of 200,000 questions cost: preparing, checking and training, in seconds and in memory?

    python benchmarks/large_set.py FOLDER [--rows 200000] [--steps 5]

Writes JSON lines with one small picture each (24 x 24 to 64 x 64, JPEG) into FOLDER unless they are there, then runs
`reflex data check` and a few training steps with the tiny policy and judge, each in a process of its own. Memory is the
largest resident set of the process; the same with 100 rows, which is taken off, is what the models and libraries need.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = ("red", "green", "blue", "grey", "white", "black")
SIDES = ("left", "right")
ORGANS = ("liver", "spleen", "lung", "heart", "brain", "kidney")
SETTINGS = [
    "policy.path=phantom", "judge.path=phantom", "data.source=jsonl", "data.prompt=bare", "data.max_pixels=12544",
    "data.max_prompt_tokens=512", "rollout.max_new_tokens=16", "grpo.group_size=2", "grpo.prompts_per_step=4",
    "judge.max_statement_tokens=64",
]  # fmt: skip
CONFIG = "configs/vqa_rad_tiny.yaml"


def main() -> None:
    """Prints a line for each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--run", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        measure_here(arguments.run)
        return
    small = arguments.folder / "100"
    large = arguments.folder / str(arguments.rows)
    for place, rows in ((small, 100), (large, arguments.rows)):
        write_rows(place, rows)
    for name in ("data check", "train"):
        found = {}
        for place, rows in ((small, 100), (large, arguments.rows)):
            found[rows] = measure(name, place, steps=arguments.steps)
        seconds, peak = found[arguments.rows]
        beyond = peak - found[100][1]
        per = (seconds - found[100][0]) / arguments.rows * 10_000
        print(
            f"{name:10s} {arguments.rows} rows: {seconds:7.1f} s ({per:.2f} s per 10,000 rows), peak {peak:.2f} GB, "
            f"{beyond:.2f} GB beyond that of 100 rows",
            flush=True,
        )


def write_rows(place: Path, rows: int) -> None:
    """train.jsonl, test.jsonl and their pictures."""
    if (place / "done").exists():
        return
    random = np.random.default_rng(0)
    started = time.perf_counter()
    for split, count in (("train", rows), ("test", 50)):
        with (place_of(place) / f"{split}.jsonl").open("w", encoding="utf-8") as lines:
            for number in range(count):
                picture = place / f"{split}/{number // 1000}/{number}.jpg"
                picture.parent.mkdir(parents=True, exist_ok=True)
                picture.write_bytes(make_picture(random))
                lines.write(json.dumps(make_row(random, split, number)) + "\n")
    (place / "done").touch()
    print(f"{rows} rows written in {time.perf_counter() - started:.0f} s", flush=True)


def place_of(place: Path) -> Path:
    """The folder, made."""
    place.mkdir(parents=True, exist_ok=True)
    return place


def make_picture(random: np.random.Generator) -> bytes:
    """A few kilobytes at most."""
    width, height = random.integers(24, 65, 2)
    coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BILINEAR).save(buffer, format="JPEG")
    return buffer.getvalue()


def make_row(random: np.random.Generator, split: str, number: int) -> dict[str, object]:
    """Closed and open questions by turns, most of them worded differently."""
    organ, side, colour = (str(random.choice(words)) for words in (ORGANS, SIDES, COLOURS))
    row: dict[str, object] = {"id": f"{split}-{number}", "image": f"{split}/{number // 1000}/{number}.jpg"}
    if number % 2:
        return row | {"question": f"Is there a {colour} lesion of {number} mm in the {organ}?", "answer": "yes"}
    return row | {"question": f"Where is lesion {number} of the {organ}?", "answer": f"{side} upper {organ}"}


def measure(name: str, place: Path, *, steps: int) -> tuple[float, float]:
    """Seconds and largest resident set in GB of a command in a process of its own."""
    run = place / f"run-{time.time_ns()}"
    common = [CONFIG, *SETTINGS, f"data.root={place}", f"data.cache={place}/cache", f"run.dir={run}"]
    words = {
        "data check": ["data", "check", *common, "--to", str(run)],
        "train": ["train", *common, f"training.steps={steps}", "logging.progress=false"],
    }[name]
    done = subprocess.run([sys.executable, __file__, ".", "--run", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    seconds, peak = done.stdout.strip().splitlines()[-1].split()
    return float(seconds), float(peak)


def measure_here(words: list[str]) -> None:
    """Runs `reflex` in this process and prints seconds and GB."""
    from reflex_jax.cli import main as reflex

    started = time.perf_counter()
    code = reflex(words)
    print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
