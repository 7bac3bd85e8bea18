"""Does it learn? Trains configs/phantom.yaml with several seeds, probes each with a blank image, and draws the curves.

    python benchmarks/phantom_learning.py [--seeds 0 1 2] [--runs runs] [--plot-only]

Writes runs/phantom-seed-K/, prints one table, and draws benchmarks/phantom_learning.png from the runs' metrics.jsonl.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
COMPONENTS = ("answer", "visual_fidelity", "provenance")
CURVES = {
    "held-out $R_{ans} + R_{VFR} + R_{BPR}$": lambda row: sum(row[f"eval/sampled/reward/{c}"] for c in COMPONENTS),
    "closed accuracy, sampled": lambda row: row["eval/sampled/accuracy"],
    "closed accuracy, greedy": lambda row: row["eval/greedy/accuracy"],
    "open exact match, sampled": lambda row: row["eval/sampled/open/exact_match"],
    "format, sampled": lambda row: row["eval/sampled/reward/format"],
}


def reflex(*arguments: str) -> str:
    """Runs one command of the package and returns what it printed."""
    command = [sys.executable, "-m", "reflex_jax.cli", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE.parent).stdout


def train(directory: Path, seed: int, extra: list[str]) -> float:
    """Trains one seed unless it is there already; returns the minutes it took."""
    started = time.perf_counter()
    reflex(
        "train", "configs/phantom.yaml", f"run.dir={directory}", f"run.seed={seed}", "logging.progress=false", *extra
    )
    return (time.perf_counter() - started) / 60


def evaluation_rows(directory: Path) -> list[dict]:
    """The steps at which the run looked at the held-out questions."""
    with open(directory / "metrics.jsonl") as lines:
        return [row for row in map(json.loads, lines) if "eval/sampled/reward/total" in row]


def blind_metrics(directory: Path) -> dict[str, float]:
    """Metrics of the trained policy when it sees a grey picture."""
    printed = reflex("evaluate", str(directory), "--blank-image")
    return {
        name: float(value)
        for name, value in (line.split() for line in printed.splitlines() if line.startswith("eval/"))
    }


def draw(rows_by_seed: dict[int, list[dict]], path: Path) -> None:
    """One panel per curve, one line per seed."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4))
    panels = (list(CURVES)[:1], list(CURVES)[1:3], list(CURVES)[3:])
    for axis, names in zip(axes, panels, strict=True):
        for name, style in zip(names, ("-", "--"), strict=False):
            for number, (seed, rows) in enumerate(rows_by_seed.items()):
                axis.plot(
                    [row["step"] for row in rows], [CURVES[name](row) for row in rows], style, color=f"C{number}",
                    label=f"{name}, seed {seed}",
                )  # fmt: skip
        axis.set(xlabel="GRPO step", title=" / ".join(names) + (" (dashed)" if len(names) > 1 else ""))
        axis.title.set_fontsize(8)
        axis.grid(alpha=0.3)
    axes[0].legend([f"seed {seed}" for seed in rows_by_seed], fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Trains, probes, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--plot-only", action="store_true", help="the runs are there: only draw")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    rows_by_seed = {}
    print("seed, minutes, held-out reward, closed accuracy, greedy closed, format at start, when blind: closed, format")
    for seed in options.seeds:
        directory = (options.runs / f"phantom-seed-{seed}").absolute()
        minutes = float("nan") if options.plot_only else train(directory, seed, options.overrides)
        rows = rows_by_seed[seed] = evaluation_rows(directory)
        blind = blind_metrics(directory)
        without = f"{blind['eval/sampled/accuracy']:.2f}, {blind['eval/sampled/reward/format']:.2f}"
        first, last = rows[0], rows[-1]
        reward, closed, greedy, _, form = CURVES.values()
        pairs = "   ".join(f"{curve(first):.2f} -> {curve(last):.2f}" for curve in (reward, closed, greedy))
        print(f"{seed:4d}   {minutes:5.1f}   {pairs}   {form(first):.2f}   {without}", flush=True)
    draw(rows_by_seed, HERE / "phantom_learning.png")


if __name__ == "__main__":
    main()
