"""HOST: how many statements one core makes in a second, over the questions of VQA-RAD and SLAKE.

    PYTHONPATH=. python benchmarks/statements.py --data ../shared/data

Each question is asked with answers that were given to others, none twice, in a shuffled order; `group` of them one behind
the other, as a step of training does.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

from reflex_jax.statements.operator import DECL_VERSION, decl


def read_rows(root: Path) -> list[tuple[str, str]]:
    """(question, answer) of both sets, rows without an answer left out."""
    rows = json.loads((root / "vqa-rad" / "VQA_RAD Dataset Public.json").read_text(encoding="utf-8"))
    for split in ("train", "validate", "test"):
        rows += json.loads((root / "slake" / f"{split}.json").read_text(encoding="utf-8"))
    return [(str(row["question"]), str(row["answer"])) for row in rows if str(row["answer"]).strip()]


def main() -> None:
    """Prints statements per second for questions never seen before and for those seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds vqa-rad and slake")
    parser.add_argument("--group", type=int, default=8, help="answers to one question, one behind the other")
    arguments = parser.parse_args()
    rows, draw = read_rows(arguments.data), random.Random(0)
    questions = sorted({question for question, _ in rows})
    answers = sorted({answer for _, answer in rows})
    true = {question: answer for question, answer in rows}
    for name in ("first pass, questions and words new", "second pass, the same questions with other answers"):
        draw.shuffle(questions)
        work = [(q, a) for q in questions for a in [true[q], *draw.sample(answers, arguments.group - 1)]]
        started = time.process_time()
        for question, answer in work:
            decl(question, answer)
        seconds = time.process_time() - started
        print(f"decl version {DECL_VERSION}: {len(work)} statements, {len(work) / seconds:,.0f} a second ({name})")


if __name__ == "__main__":
    main()
