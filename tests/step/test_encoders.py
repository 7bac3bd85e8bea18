"""Text encoders of a run: opened once by name, refused together, handed to the rewards that ask for them."""

import numpy as np
import pytest

from reflex_jax.config import ConfigError
from reflex_jax.config_reader import load_config
from reflex_jax.data.examples import Example
from reflex_jax.judge.evidence import load_judge
from reflex_jax.step.bridge import HostBridge
from reflex_jax.step.encoders import encoder_directories, encoder_settings, open_encoders
from tests.parity.bert_reference import write_bert

TEXT_REWARDS = (
    "rewards.components={{format: 1, embedding_similarity: {{encoder: {0}}}, bertscore: {{encoder: {1}}}, "
    "reasoning: {{encoder: {0}}}}}"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    pytest.importorskip("torch")
    directory = tmp_path_factory.mktemp("encoder")
    write_bert(directory)
    return directory


def config_of(first, second, *more):
    return load_config(None, [TEXT_REWARDS.format(first, second), *more])


def test_an_encoder_is_opened_once_for_all_that_name_it(directory):
    config = config_of("judge", directory)
    assert encoder_settings(config) == {
        "judge": "rewards.components.embedding_similarity.encoder",
        str(directory): "rewards.components.bertscore.encoder",
    }
    assert encoder_directories(config)[str(directory)] == directory
    judge = load_judge("phantom")
    opened = open_encoders(config, judge)
    assert opened.keys() == {"judge", str(directory)} and opened["judge"].tokenize is judge.tokenizer
    assert open_encoders(config_of("judge", "judge"), None).keys() == {"judge"}  # read for its text tower alone
    assert open_encoders(load_config(None, []), None) == {}


def test_what_no_encoder_can_do_is_refused_all_of_it(directory, tmp_path):
    config = config_of(tmp_path / "nowhere", directory, "rewards.components.bertscore.layer=4")
    with pytest.raises(ConfigError) as raised:
        open_encoders(config, None)
    lines = str(raised.value).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(
        "rewards.components.embedding_similarity.encoder: expected a directory with config.json; "
    )
    assert lines[0].endswith("is no directory. Download the checkpoint first.")
    assert lines[1] == "rewards.components.bertscore.layer: expected at most 3, the layers of the encoder; got 4."


def test_the_bridge_pays_by_the_encoders_of_the_run(directory):
    config = config_of(directory, directory, "rewards.components.embedding_similarity.threshold=null")
    text = "<think>the left side</think><answer>left lung</answer>"
    bridge = HostBridge(
        decode=lambda ids: text, components=config.rewards.components, statement_tokenizer=None, max_statement_tokens=16,
        centered=False, resources={"text_encoders": open_encoders(config, None)},
    )  # fmt: skip
    examples = [
        Example(id="a", question="Where?", answer="right lung", answer_type="open", reasoning="the right side"),
        Example(id="b", question="Where?", answer="left lung", answer_type="open"),
    ]
    mask = np.ones((2, 1, 3), bool)
    scores = bridge(examples, mask.astype(np.int32), mask, None).scores
    assert scores.is_valid.all()
    encoder = open_encoders(config, None)[str(directory)]
    pair, thought = ("left lung", "right lung"), ("the left side", "the right side")
    expected = {
        "embedding_similarity": [encoder.cosines([pair], pooling=None)[0], 1],
        "bertscore": [encoder.greedy_f1([pair], layer=None)[0], 1],
        "reasoning": [encoder.greedy_f1([thought], layer=None)[0], 0],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(scores.components[name][:, 0], values, rtol=1e-5, err_msg=name)
    np.testing.assert_array_equal(scores.applies["reasoning"][:, 0], [True, False])
