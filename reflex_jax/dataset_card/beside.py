"""What belongs beside the scores of an evaluation: what a constant answer reaches, and what the dataset card says."""

from __future__ import annotations

from dataclasses import dataclass

from reflex_jax.config import Config, ConfigError
from reflex_jax.data.sources import cache_of, load_evaluation, load_training
from reflex_jax.dataset_card.card import recall_card
from reflex_jax.dataset_card.floors import question_only_answers, question_only_scores
from reflex_jax.evaluation.validation import chosen_questions
from reflex_jax.run.identity import data_fingerprint


@dataclass(frozen=True)
class Beside:
    """What a score is to be read beside."""

    floors: dict[str, float]  # `floor/question_only/...`: what the baseline scores on the questions that a run looks at
    answers: dict[str, str]  # its answer to each question of the split, by id; empty where there is no training set
    lines: list[str]  # to print


def beside_scores(config: Config) -> Beside:
    """What the question-only baseline says and scores, and what the dataset card says.

    Args:
      config: of a run, whose `data.evaluation_split` was evaluated.
    Raises:
      ConfigError: the evaluated questions cannot be read.
    """
    data, training = config.data, config.training
    examples = load_evaluation(data, seed=config.run.seed, quiet=True)
    lines = []
    if data.evaluation_split == data.validation_split and (training.best_metric or "").startswith("eval/"):
        lines.append(
            f"{data.evaluation_split} also chose the checkpoint (training.best_metric): its scores are too good"
        )
    try:
        known = load_training(data, seed=config.run.seed, with_validation=bool(training.evaluate_every), quiet=True)
    except ConfigError as error:
        return Beside({}, {}, [*lines, f"no question-only baseline: {error}"])
    lines += recall_card(data_fingerprint(examples), data_fingerprint(known), cache_of(data)) or [
        "these questions have no dataset card for this training set yet: `reflex data check CONFIG` makes it"
    ]
    trained = {example.id for example in known} & {example.id for example in examples}
    if trained:
        lines.append(f"{len(trained)} of the {len(examples)} questions of this split are training questions of the run")
    scores = question_only_scores(known, chosen_questions(config, examples))
    answers = dict(zip((e.id for e in examples), question_only_answers(known, examples), strict=True))
    return Beside({f"floor/question_only/{name}": value for name, value in scores.items()}, answers, lines)
