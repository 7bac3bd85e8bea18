"""Four papers on equal terms: their tiny twins from one warm start, with one budget, several seeds, scored alike.

    python benchmarks/four_papers.py [--seeds 0 1 2] [--steps 40] [--runs runs/four_papers] [--json FILE]

Every recipe starts from the shipped phantom policy and takes the same number of steps of 16 questions; how many completions
that is, is the paper's. All are scored by one configuration, greedily, on the same held-out questions: REFLEX-Med's components
and completions of exactly one think and one answer block. Grounding is the share of answers for which the judge looks where
it looks for the right one (paper Eq. 5), and the IoU with it. Tokens are of the last fifth of the steps, sampled. A number stands
with the half width of its 95 % interval over the seeds (Student's t). Runs that are there already are scored again, not trained.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path

import scipy.stats

HERE = Path(__file__).resolve().parent
RECIPES = {
    "REFLEX-Med": "phantom",
    "GRPO, answer and format": "grpo_vanilla_tiny",
    "MedVLM-R1": "medvlm_r1_tiny",
    "MediX-R1": "medix_r1_tiny",
    "RARL": "rarl_tiny",
}
# what every policy is scored by, whatever it was paid for
SCORED_ALIKE = (
    "judge.path=phantom", "judge.saliency_block=-2", "judge.quantile=0.9", "judge.max_statement_tokens=32",
    "rewards.components={answer: 1, format: 1, visual_fidelity: 1, provenance: 1}", "rewards.normalise=sum",
    "completion.thought=think", "completion.preamble=false", "completion.fallback=false", "completion.compact=false",
    "data.phases=[{answer_type: any}]", "training.evaluation_questions=512",
)  # fmt: skip
COLUMNS = {
    "closed accuracy": "accuracy",
    "of choices": "accuracy_choice",
    "open exact match": "open/exact_match",
    "format": "reward/format",
    "grounding, VFR": "reward/visual_fidelity",
    "IoU": "iou",
}


def reflex(*arguments: str) -> str:
    """Runs one command of the package and returns what it printed."""
    command = [sys.executable, "-m", "reflex_jax.cli", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent)
    if result.returncode:
        raise SystemExit(f"{' '.join(arguments[:3])} ended with {result.returncode}: {result.stderr[-2000:]}")
    return result.stdout


def train(recipe: str, directory: Path, seed: int, steps: int) -> None:
    """Trains one seed of a recipe, and keeps how long it took."""
    started = time.perf_counter()
    reflex(
        "train", f"configs/{recipe}.yaml", f"run.dir={directory}", f"run.seed={seed}", f"training.steps={steps}",
        "training.evaluate_every=0", "logging.progress=false", "logging.tensorboard=false",
    )  # fmt: skip
    (directory / "seconds").write_text(f"{time.perf_counter() - started:.1f}")


def score(directory: Path, *options: str) -> dict[str, float]:
    """Greedy scores of a run's policy."""
    printed = reflex("evaluate", str(directory), *options, *SCORED_ALIKE)
    found = dict(line.split() for line in printed.splitlines() if line.startswith("eval/greedy/"))
    return {column: float(found[f"eval/greedy/{name}"]) for column, name in COLUMNS.items()}


def ends(directory: Path, metric: str) -> tuple[float, float]:
    """Means of a run's own metric over the first and the last fifth of its steps."""
    with open(directory / "metrics.jsonl") as lines:
        values = [row[metric] for row in map(json.loads, lines) if metric in row]
    part = max(len(values) // 5, 1)
    return statistics.fmean(values[:part]), statistics.fmean(values[-part:])


def with_interval(values: list[float]) -> str:
    """Mean and half width of the interval; without one where there is one seed, or what a policy never does has no number."""
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return "-"
    mean, digits = statistics.fmean(values), 1 if max(values) >= 10 else 2
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    width = scipy.stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.{digits}f} ± {width:.{digits}f}"


def main() -> None:
    """Trains, scores and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--runs", type=Path, default=Path("runs/four_papers"))
    parser.add_argument("--json", type=Path, help="writes all numbers of all seeds there")
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {}
    print("| recipe | " + " | ".join([*COLUMNS, "tokens", "own reward, rise", "seconds"]) + " |")
    print("|" + "---|" * (len(COLUMNS) + 4), flush=True)
    for paper, recipe in RECIPES.items():
        rows = []
        for seed in options.seeds:
            directory = (options.runs / f"{recipe}-{options.steps}-{seed}").absolute()
            if not (directory / "seconds").exists():
                train(recipe, directory, seed, options.steps)
            if not found:
                found["before"] = [score(directory, "--initial")]
                cells = [with_interval([row[c] for row in found["before"]]) for c in COLUMNS]
                print(f"| the warm start | {' | '.join(cells)} | | | |", flush=True)
            before, after = ends(directory, "reward/total")
            rows.append(
                score(directory)
                | {
                    "tokens": ends(directory, "completion_length")[1],
                    "own reward, rise": after - before,
                    "seconds": float((directory / "seconds").read_text()),
                }
            )
        found[paper] = rows
        print(f"| {paper} | {' | '.join(with_interval([row[c] for row in rows]) for c in rows[0])} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
