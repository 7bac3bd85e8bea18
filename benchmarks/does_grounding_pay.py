"""Does it pay to reward grounding? Five worlds, five rewards, several seeds, one warm start and one budget.

    python benchmarks/does_grounding_pay.py [--worlds clean ...] [--arms full ...] [--seeds 0 1 2] [--steps 100]
        [--runs runs/grounding] [--json FILE]

On clean labels a right answer has the anchor's words, so visual fidelity and provenance follow from being right, and a reward
of answer and format alone may do as well. So the worlds differ in what could matter:

    clean         2,048 phantom questions, as the recipe trains on them
    wrong_labels  30 % of the training answers replaced by another answer to the same kind of question
    prior         training answers that the question alone gives away (the most frequent one is kept, a fifth of the others);
                  the test stays balanced
    few_labels    128 questions, seen many times
    weak_judge    the clean questions, and a judge whose kernels had noise added (--judge-noise, of their standard deviation)

The test is the same everywhere: clean, balanced, held out. Numbers: accuracy of greedy answers by kind; sensitivity, the share
of answers that change before another patient's picture; and of the policy's attention on the picture while it answers: how
often its strongest cell lies on a lesion, and how much of it lies on lesions, and in the judge's mask of its own answer, as
multiples of what chance gives. A number stands with the half width of its 95 % interval over the seeds (Student's t). The last
table holds every reward against answer and format alone, seed by seed: in each world, and over all of them. Runs that are
there are not trained again, those that were cut off go on, and every world and arm can be asked for alone.
"""

import argparse
import base64
import io
import json
import shutil
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from four_papers import reflex, with_interval

HERE = Path(__file__).resolve().parent
TRAINING, TESTS, FEW = 2048, 256, 128
WRONG_SHARE, KEPT_OF_OTHERS = 0.3, 0.2
WORLDS = ("clean", "wrong_labels", "prior", "few_labels", "weak_judge")
_PAID = "rewards.components={{answer: 1, format: 1{}}}"
ARMS = {
    "full": _PAID.format(", visual_fidelity: 1, provenance: 1"),
    "no_vfr": _PAID.format(", provenance: 1"),
    "no_bpr": _PAID.format(", visual_fidelity: 1"),
    "answer_format": _PAID.format(""),
    # s_tt always passes, which moves every answer of a group alike and so teaches nothing
    "s_it_alone": _PAID.format(", provenance: {weight: 1, text_threshold: -1}"),
}
BASELINE = "answer_format"
COLUMNS = ("right", "yes/no", "choice", "open", "sensitivity", "pointing", "on lesion", "in judge's mask")


def world_rows(world: str, rows: list[dict], seed: int = 0) -> list[dict]:
    """The training questions of a world."""
    rng = np.random.default_rng(seed)
    answers: dict[str, Counter] = defaultdict(Counter)
    for row in rows:
        answers[_kind(row)][row["answer"]] += 1
    if world == "few_labels":
        return rows[:FEW]
    if world == "wrong_labels":
        return [_mislabelled(row, answers[_kind(row)], rng) if rng.random() < WRONG_SHARE else row for row in rows]
    if world == "prior":
        favourite = {kind: counted.most_common(1)[0][0] for kind, counted in answers.items()}
        return [row for row in rows if row["answer"] == favourite[_kind(row)] or rng.random() < KEPT_OF_OTHERS]
    return rows


def _kind(row: dict) -> str:
    """What a prior can know: the question without its options, whose order is drawn."""
    return row["question"].partition(" A. ")[0]


def _mislabelled(row: dict, answers: Counter, rng: np.random.Generator) -> dict:
    others = row.get("options") or sorted(answers)
    others = [answer for answer in others if answer != row["answer"]] or ["no" if row["answer"] == "yes" else "yes"]
    return {**row, "answer": others[rng.integers(len(others))]}


def phantom_rows(split: str, count: int) -> list[dict]:
    """Phantom questions as lines of one's own data."""
    from reflex_jax.data.phantom import phantom_examples

    rows = []
    for example in phantom_examples(split, count, 0):
        buffer = io.BytesIO()
        example.load_images()[0].convert("L").save(buffer, "png")
        row = {
            "id": example.id, "question": example.question, "answer": _text_of(example), "answer_type": example.answer_type,
            "modality": example.modality, "organ": example.organ,
            "image": {"bytes": base64.b64encode(buffer.getvalue()).decode()},
        }  # fmt: skip
        rows.append(row | ({"options": list(example.options)} if example.options else {}))
    return rows


def _text_of(example) -> str:
    """The answer in words where it is the letter of an option."""
    if not example.options or example.answer in example.options:
        return example.answer
    return example.options["ABCDEFGHIJ".index(example.answer)]


def write_data(folder: Path) -> None:
    """One folder of questions for each world, with the same test."""
    if (folder / "done").exists():
        return
    training, tests = phantom_rows("train", TRAINING), phantom_rows("test", TESTS)
    for world in WORLDS:
        (folder / world).mkdir(parents=True, exist_ok=True)
        for split, rows in (("train", world_rows(world, training)), ("test", tests)):
            (folder / world / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "done").touch()


def write_weak_judge(folder: Path, noise: float) -> Path:
    """The shipped judge with normal noise on its kernels, of `noise` times their standard deviation."""
    from safetensors.numpy import load_file, save_file

    from reflex_jax.checkpoints.paths import resolve_checkpoint

    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(resolve_checkpoint("phantom", "judge"), folder)
        rng = np.random.default_rng(0)
        for path in folder.glob("*.safetensors"):
            tensors = load_file(path)
            for name, tensor in tensors.items():
                if tensor.ndim > 1:
                    drawn = noise * tensor.std() * rng.standard_normal(tensor.shape)
                    tensors[name] = (tensor + drawn).astype(tensor.dtype)
            save_file(tensors, path, metadata={"format": "pt"})
        (folder / "done").touch()
    return folder


def train(run: Path, world: str, arm: str, seed: int, options: argparse.Namespace) -> None:
    """Trains one run, or goes on with it; keeps how long that took."""
    if (run / "seconds").exists():
        return
    started = time.perf_counter()
    judge = options.runs / "weak_judge" if world == "weak_judge" else "phantom"
    reflex(
        "train", "configs/phantom.yaml", f"run.dir={run}", f"run.seed={seed}", f"training.steps={options.steps}", ARMS[arm],
        "data.source=jsonl", f"data.root={options.runs / 'data' / world}", f"data.cache={options.runs / 'cache' / world}",
        f"judge.path={judge}", "training.evaluate_every=0", "logging.progress=false",
        "logging.tensorboard=false", "data.max_prompt_tokens=128",
    )  # fmt: skip
    (run / "seconds").write_text(f"{time.perf_counter() - started:.1f}")


def measure(run: Path, steps: int, *, initial: bool = False) -> dict[str, float]:
    """Accuracies, sensitivity, and where the policy looks, which is kept beside the run; `initial`: of the warm start."""
    which = "initial" if initial else f"step-{steps}"
    folder, path = run / "evaluation" / f"test-{which}", run / f"attention-{which}.json"
    if not path.exists():
        reflex(
            "evaluate", str(run), "training.evaluation_questions=0", "--samples", "0", "--no-rewards",
            "--probe", "real,other_patient", *(["--initial"] if initial else []),
        )  # fmt: skip
        path.write_text(json.dumps(attention(run, folder, initial=initial)))
    return _accuracies(folder) | json.loads(path.read_text())


def warm_start(run: Path, options: argparse.Namespace) -> dict[str, float]:
    """What all runs start from, measured once by the first that is there."""
    path = options.runs / "warm_start.json"
    if not path.exists():
        path.write_text(json.dumps(measure(run, options.steps, initial=True)))
    return json.loads(path.read_text())


def _accuracies(folder: Path) -> dict[str, float]:
    names = {"yes_no/accuracy": "yes/no", "choice/accuracy": "choice", "open/exact_match": "open"}
    scored: dict[str, list[float]] = defaultdict(list)
    for row in _lines(folder / "scores.jsonl"):
        if row["pass"] == "answers":
            for name in row["scores"].keys() & names:
                scored[names[name]].append(row["scores"][name])
                scored["right"].append(row["scores"][name])
    real, other = (
        {row["id"]: row["answer"] for row in _lines(folder / f"{name}.jsonl")}
        for name in ("answers", "answers.other_patient")
    )
    sensitivity = float(np.mean([real[name] != other[name] for name in real]))
    return {column: float(np.mean(values)) for column, values in scored.items()} | {"sensitivity": sensitivity}


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def attention(run: Path, folder: Path, *, initial: bool) -> dict[str, float]:
    """Where a policy looks while it says its own greedy answers to test questions about a picture with a lesion."""
    import jax

    from reflex_jax.audit.page_attention import policies_of
    from reflex_jax.audit.policy_attention import onto_grid, picture_attention, read_again
    from reflex_jax.data.phantom import phantom_of
    from reflex_jax.data.phantom_world import mask_cells
    from reflex_jax.data.sources import load_evaluation
    from reflex_jax.judge.evidence import judge_evidence
    from reflex_jax.run.directory import load_run_config
    from reflex_jax.sharding import make_mesh
    from reflex_jax.statements.operator import decl
    from reflex_jax.step.models import load_models

    config = load_run_config(run, [], runs_rewards=False)
    models = load_models(config, make_mesh(config.mesh, jax.devices()), with_rewards=False)
    said = {row["id"]: row for row in _lines(folder / "answers.jsonl")}
    examples = [
        example
        for example in load_evaluation(config.data, seed=config.run.seed)
        if said[example.id]["prediction"] and said[example.id]["answer"] and len(phantom_of(example).masks)
    ]
    readings = [
        read_again(models.processor, e.load_images(), e.question, said[e.id]["prediction"], example_id=e.id)
        for e in examples
    ]
    before, *_, after = policies_of(config, models)
    *_, weights = before if initial else after
    maps = [onto_grid(seen.weights, (14, 14), (0, 0, 1, 1)) for seen in picture_attention(models, weights, readings)]
    lesions = [np.any([mask_cells(mask) for mask in phantom_of(e).masks], axis=0) for e in examples]
    statements = [decl(e.question, said[e.id]["answer"], e.options) for e in examples]
    judge = config.judge
    found = judge_evidence(
        models.judge, [e.load_images()[0] for e in examples], [[text] for text in statements], statements,
        saliency_block=judge.saliency_block, quantile=judge.quantile, max_statement_tokens=judge.max_statement_tokens,
    )  # fmt: skip
    return {
        "pointing": float(np.mean([cells.ravel()[seen.argmax()] for seen, cells in zip(maps, lesions, strict=True)])),
        "on lesion": _beyond_area(maps, lesions),
        "in judge's mask": _beyond_area(maps, np.asarray(found.anchor_masks)),
    }


def _beyond_area(maps, masks) -> float:
    """Mean share of attention inside of masks over the share of the picture that they cover: 1 is chance."""
    inside = np.mean([seen[mask].sum() / seen.sum() for seen, mask in zip(maps, masks, strict=True)])
    return float(inside / np.mean([mask.mean() for mask in masks]))


def _line(world: str, arm: str, rows: list[dict[str, float]]) -> str:
    return f"| {world} | {arm} | {' | '.join(with_interval([row[c] for row in rows]) for c in COLUMNS)} |"


def paired_lines(found: dict[str, dict[str, list[dict[str, float]]]]) -> list[str]:
    """A table of every reward less the baseline, seed by seed; [] where the baseline was not asked for."""
    lines = []
    everywhere: dict[str, list[dict[str, float]]] = defaultdict(list)
    for world, arms in found.items():
        for arm, rows in arms.items():
            if arm != BASELINE and BASELINE in arms:
                less = [{c: a[c] - b[c] for c in COLUMNS} for a, b in zip(rows, arms[BASELINE], strict=True)]
                lines.append(_line(world, f"{arm} less {BASELINE}", less))
                everywhere[arm] += less
    lines += [_line("all", f"{arm} less {BASELINE}", less) for arm, less in everywhere.items()]
    return (
        ["| world | reward | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (len(COLUMNS) + 2), *lines] if lines else []
    )


def main() -> None:
    """Trains, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=WORLDS)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--judge-noise", type=float, default=0.5)
    parser.add_argument("--runs", type=Path, default=Path("runs/grounding"))
    parser.add_argument("--json", type=Path, help="writes all numbers of all seeds there")
    options = parser.parse_args()
    options.runs = options.runs.absolute()
    write_data(options.runs / "data")
    write_weak_judge(options.runs / "weak_judge", options.judge_noise)
    found: dict[str, dict[str, list[dict[str, float]]]] = defaultdict(dict)
    print("| world | reward | " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * (len(COLUMNS) + 2), flush=True)
    for world in options.worlds:
        for arm in options.arms:
            rows = []
            for seed in options.seeds:
                run = options.runs / world / f"{arm}-{options.steps}-{seed}"
                train(run, world, arm, seed, options)
                if not found:
                    found["warm start"]["-"] = [warm_start(run, options)]
                    print(_line("warm start", "-", found["warm start"]["-"]), flush=True)
                rows.append(measure(run, options.steps))
            found[world][arm] = rows
            print(_line(world, arm, rows), flush=True)
    print("\n" + "\n".join(paired_lines(found)))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
