"""What recording evidence costs a step: steps that are recorded beside their neighbours that are not, in one run.

    python benchmarks/evidence.py configs/phantom.yaml --steps 40 [key=value ...]

Trains with `evidence.every=2` and reads the times that the run wrote itself. Prints the share of a recorded step that evidence
takes (fetching the judge's maps, encoding, hashing, writing), the median ratio of a recorded step to the one before it, and the
bytes of a recorded answer. The first steps compile and are left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from reflex_jax.commands.start import prepare
from reflex_jax.config_reader import load_config
from reflex_jax.evidence.reader import EVIDENCE_FILE, read_evidence
from reflex_jax.run.logs import METRICS_FILE

WARMUP = 6  # steps


def main() -> None:
    """Parses the command line, trains, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="e.g. configs/phantom.yaml")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="e.g. evidence.groups=0")
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "run"
        settings = [
            f"training.steps={arguments.steps + WARMUP}", "training.evaluate_every=0", "training.save_every=9999",
            "logging.progress=false", "evidence.every=2", *arguments.overrides, f"run.dir={directory}",
        ]  # fmt: skip
        config = load_config(arguments.config, settings)
        prepare()
        from reflex_jax.training.loop import train

        train(config)
        rows = [json.loads(line) for line in (directory / METRICS_FILE).read_text().splitlines()][WARMUP:]
        answers = sum(len(record.group.answers) for record in read_evidence(directory))
        size = (directory / EVIDENCE_FILE).stat().st_size
    recorded = [row for row in rows if "time/evidence" in row]
    shares = [row["time/evidence"] / row["time/step"] for row in recorded]
    before = {row["step"] + 1: row["time/step"] for row in rows}
    ratios = [row["time/step"] / before[row["step"]] for row in recorded if row["step"] in before]
    step = statistics.median(row["time/step"] for row in recorded)
    print(
        f"{arguments.config.stem}: {len(recorded)} recorded steps of {step:.2f} s; "
        f"evidence takes {1000 * statistics.median(row['time/evidence'] for row in recorded):.1f} ms, "
        f"{100 * statistics.median(shares):.2f} % of a step (largest {100 * max(shares):.2f} %); a recorded step takes "
        f"{statistics.median(ratios):.3f} times the one before it; {size / answers / 1000:.1f} KB an answer"
    )


if __name__ == "__main__":
    main()
