"""BERTScore of answers: the encoder of a directory, through the command and beside the package bert-score."""

import json

import numpy as np
import pytest

from reflex_jax.config import ConfigError
from reflex_jax.evaluation.metrics import Asked
from reflex_jax.evaluation.score import Scoring, measure_texts, open_encoder, score_folder
from tests.evaluation.test_metrics import pairs
from tests.evaluation.test_paper_tables import write_evaluation

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    from tests.parity.bert_reference import write_bert

    directory = tmp_path_factory.mktemp("bert")
    write_bert(directory)
    return directory


@pytest.mark.slow  # compiles a BERT; a stand-in is in test_metrics.py
def test_open_answers_get_a_score_of_the_encoder_and_another_one_scores_anew(bert, tmp_path):
    folder = write_evaluation(tmp_path / "e", lambda label, number: number == 0, questions={"slake": 4, "vqa_rad": 0})
    score_folder(folder, Scoring())
    scored = score_folder(folder, open_encoder(Scoring(), bert))["answers"].scores
    right, wrong = scored["slake-0"], scored["slake-2"]
    assert right["open/bertscore"] == pytest.approx(1, abs=1e-6) and 0 < wrong["open/bertscore"] < 1
    assert "open/bertscore" not in scored["slake-1"]
    other = score_folder(folder, open_encoder(Scoring(layer=1), bert))["answers"].scores
    assert other["slake-2"]["open/bertscore"] != wrong["open/bertscore"]
    lines = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    assert len(lines) == 12 and "open/bertscore" not in score_folder(folder, Scoring())["answers"].scores["slake-0"]
    with pytest.raises(ConfigError, match="--bertscore-layer: expected at most"):
        open_encoder(Scoring(layer=99), bert)


@pytest.mark.slow  # the package takes one pair at a time; ten pairs are in tests/parity/test_text_encoder.py
def test_500_pairs_score_as_in_the_package(bert):
    bert_score = pytest.importorskip("bert_score")
    scorer = bert_score.BERTScorer(model_type=str(bert), num_layers=3, batch_size=1, nthreads=0, device="cpu")
    texts = [(Asked("Where?", true, "open"), said, said) for said, true in pairs()]
    ours = [score["open/bertscore"] for score in measure_texts(texts, open_encoder(Scoring(), bert))]
    expected = [float(scorer.score([said], [true])[2][0]) for said, true in pairs()]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
