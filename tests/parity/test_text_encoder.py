"""Text encoders beside bert-score and transformers: BERTScore-F1, embeddings, what is cut, kept and refused."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from reflex_jax.config import ConfigError
from reflex_jax.judge import text_encoder
from reflex_jax.judge.evidence import load_judge
from reflex_jax.judge.text_encoder import judge_text_encoder, load_text_encoder
from reflex_jax.models.biomedclip import encode_text
from tests.parity.bert_reference import POSITIONS, write_bert

torch = pytest.importorskip("torch")

SETTING = "rewards.components.bertscore.encoder"
LONG = "nodule of the left lung and " * 20  # beyond the positions
PAIRS = [
    ("there is a nodule", "there is a cyst on the left"),
    ("left", "right"),  # one token each
    ("", "left"), ("left", ""), ("  ", " "),  # nothing to match
    (LONG, "nodule"), (LONG, "right " + LONG),
    ("A nodule, 2.5 cm.", "a nodule 2.5 cm"),
    ("of the of the of", "the"),
    ("left", "left"),
]  # fmt: skip


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """(directory, torch model, encoder)."""
    directory = tmp_path_factory.mktemp("bert")
    model = write_bert(directory)
    return directory, model, load_text_encoder(directory, setting=SETTING)


@pytest.mark.parametrize("layer", [1, 3])
def test_greedy_f1_is_that_of_bert_score(bert, layer):
    """One pair at a time: the package lets padding be matched with, so that its numbers depend on the batch."""
    bert_score = pytest.importorskip("bert_score")
    directory, _, encoder = bert
    scorer = bert_score.BERTScorer(model_type=str(directory), num_layers=layer, batch_size=1, nthreads=0, device="cpu")
    tokenizer = scorer._tokenizer  # of empty texts the package asks it for a method that transformers 5 has no more
    tokenizer.build_inputs_with_special_tokens = lambda ids: [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]
    expected = [float(scorer.score([said], [true])[2][0]) for said, true in PAIRS]
    ours = encoder.greedy_f1(PAIRS, layer=layer)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
    assert ours[2:5] == [0, 0, 0] and ours[-1] == pytest.approx(1, abs=1e-6)
    assert 0.05 < np.ptp(ours[:2] + ours[5:])  # the numbers are not all alike
    if layer == 3:
        assert encoder.greedy_f1(PAIRS, layer=None) == ours


def pooled_by_transformers(model, encoder, texts, pooling):
    rows = []
    for text in texts:
        ids = torch.tensor([encoder.tokenize(text, encoder.longest)])
        with torch.no_grad():
            states = model(ids).last_hidden_state[0]
        rows.append(states[0] if pooling == "cls" else states.mean(0))
    rows = torch.stack(rows)
    return torch.nn.functional.normalize(rows, dim=-1).numpy()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_cosines_are_those_of_pooled_hidden_states(bert, pooling):
    _, model, encoder = bert
    said, true = (pooled_by_transformers(model, encoder, texts, pooling) for texts in zip(*PAIRS, strict=True))
    np.testing.assert_allclose(encoder.cosines(PAIRS, pooling=pooling), (said * true).sum(-1), rtol=0, atol=1e-5)
    assert (
        encoder.cosines(PAIRS, pooling=None) == encoder.cosines(PAIRS, pooling="mean")
    ) and encoder.pooling == "mean"


def test_the_judge_compares_statements_as_it_does_in_the_step():
    judge = load_judge("phantom")
    encoder = judge_text_encoder(judge)
    ids = [judge.tokenizer(text, encoder.longest) for text in ("left lung", "right lung")]
    assert len(ids[0]) == len(ids[1])
    rows = np.asarray(jax.jit(encode_text, static_argnames="config")(judge.params, np.int32(ids), judge.config))
    expected = rows[0] @ rows[1] / np.linalg.norm(rows[0]) / np.linalg.norm(rows[1])
    ((cosine,),) = [encoder.cosines([("left lung", "right lung")], pooling=None)]
    assert cosine == pytest.approx(expected, abs=1e-5) and encoder.pooling == "projection"
    assert encoder.problems(layer=9) == [
        f"layer: expected at most {judge.config.text.depth}, the layers of the encoder; got 9"
    ]


def test_special_tokens_in_a_text_are_words(bert):
    _, _, encoder = bert
    assert encoder.tokenize("left [SEP] right", POSITIONS).count(encoder.tokenize("", POSITIONS)[-1]) == 1


# --- what is computed, and how often


@pytest.fixture
def fresh(bert):
    """The encoder with nothing kept, and the shapes of the batches it encodes."""
    encoder, shapes = dataclasses.replace(bert[2], _kept=text_encoder._Kept(10_000)), []
    encode = text_encoder._embeddings

    def counting(params, ids, lengths, **how):
        shapes.append((ids.shape, int((np.asarray(lengths) > 2).sum())))
        return encode(params, ids, lengths, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_encoder, "_embeddings", counting)
        yield encoder, shapes


def test_each_text_is_encoded_once_in_a_batch_and_truths_once_in_a_run(fresh):
    encoder, shapes = fresh
    pairs = [("left", "left lung"), ("left", "nodule"), ("nodule", "left lung"), ("cyst", "nodule")]
    first = encoder.cosines(pairs, pooling="mean")
    assert shapes == [((128, 16), 4)]  # left, left lung, nodule, cyst
    assert encoder.cosines(pairs, pooling="mean") == first
    assert shapes[1:] == [((128, 16), 2)]  # what was said alone
    encoder.cosines(pairs, pooling="cls")
    assert shapes[2:] == [((128, 16), 4)]  # another embedding


def test_batches_of_like_size_are_compiled_once(fresh):
    encoder, shapes = fresh
    before = text_encoder._matched._cache_size()
    for words in range(1, 13):
        encoder.cosines([("no " * words, "left")], pooling="mean")
    assert {shape for shape, _ in shapes} == {(128, 16)}
    many = [(f"nodule {i} of the left lung and the right side", "left") for i in range(200)]
    assert len(encoder.cosines(many, pooling="mean")) == 200
    assert {shape for shape, _ in shapes[12:]} <= {(128, 16), (64, 32), (51, 40)}
    for words in range(1, 9):
        encoder.greedy_f1([("no " * words, "left")], layer=1)
    assert text_encoder._matched._cache_size() <= before + 1


def test_a_batch_of_many_gives_what_each_alone_gives_to_the_last_bit(bert):
    """A run that is continued has nothing kept, and has to be paid what it would have been paid."""
    encoder = dataclasses.replace(bert[2], _kept=text_encoder._Kept(0))
    alone = [encoder.greedy_f1([pair], layer=None)[0] for pair in PAIRS]
    assert encoder.greedy_f1(PAIRS[::-1] * 5, layer=None) == alone[::-1] * 5
    cosines = [encoder.cosines([pair], pooling="mean")[0] for pair in PAIRS]
    assert encoder.cosines([(f"nodule {i}", "left") for i in range(70)] + PAIRS, pooling="mean")[70:] == cosines
    assert encoder.greedy_f1([], layer=None) == encoder.cosines([], pooling=None) == []


def test_what_is_kept_is_bounded_and_the_latest():
    kept = text_encoder._Kept(3 * 8)
    for name in "abc":
        kept.put((name, 1), np.zeros((1, 2), np.float32))
    kept.get(("a", 1))
    kept.put(("d", 1), np.zeros((1, 2), np.float32))
    assert [kept.get((name, 1)) is not None for name in "abcd"] == [True, False, True, True]


# --- directories


@pytest.fixture
def copy(bert, tmp_path):
    return shutil.copytree(bert[0], tmp_path / "bert")


def write_modules(directory, types=("Transformer", "Pooling", "Normalize"), pooling=None, length=None):
    paths = ["", *(f"{i}_{name}" for i, name in enumerate(types) if i)]
    modules = [
        {"idx": i, "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(zip(types, paths, strict=True))
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir(exist_ok=True)
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling or {"pooling_mode_cls_token": True}))
    (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": length}))


def test_a_directory_of_sentence_transformers_says_how_it_pools_and_what_it_reads(copy):
    write_modules(copy, length=12)
    encoder = load_text_encoder(copy, setting=SETTING)
    assert (encoder.pooling, encoder.longest_embedded, encoder.longest) == ("cls", 12, POSITIONS)
    assert encoder.cosines([(LONG, LONG[:80])], pooling=None)[0] == pytest.approx(1, abs=1e-6)
    write_modules(copy, pooling={"pooling_mode": "mean"})
    assert load_text_encoder(copy, setting=SETTING).pooling == "mean"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"types": ("Transformer", "Pooling", "Dense")}, "expected Transformer, Pooling and Normalize; got Dense"),
        ({"pooling": {"pooling_mode_max_tokens": True}}, "Pooling: expected one of .*; got pooling_mode_max_tokens"),
        (
            {"pooling": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}},
            "got pooling_mode_cls_token, pool",
        ),
        ({"pooling": {"pooling_mode": "lasttoken"}}, "got lasttoken"),
        ({"length": "many"}, "max_seq_length: expected a number of tokens; got many"),
    ],
)
def test_an_embedding_that_is_made_otherwise_is_refused(copy, settings, told):
    write_modules(copy, **settings)
    with pytest.raises(ConfigError, match=rf"^{SETTING}: {copy}: .*{told}"):
        load_text_encoder(copy, setting=SETTING)


def test_faults_of_weights_and_tokenizer_are_said_together(copy):
    (copy / "model.safetensors").unlink()
    (copy / "vocab.txt").unlink()
    with pytest.raises(ConfigError) as raised:
        load_text_encoder(copy, setting=SETTING)
    lines = str(raised.value).splitlines()
    assert len(lines) == 2 and all(line.startswith(f"{SETTING}: expected ") for line in lines)


def test_padding_of_another_id_is_refused(copy):
    written = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(written | {"pad_token_id": 3}))
    with pytest.raises(ConfigError, match=rf"^{SETTING}: .*expected the tokenizer's padding to be pad_token_id"):
        load_text_encoder(copy, setting=SETTING)


def test_weights_of_a_judge_on_many_devices_are_read_where_they_lie():
    from reflex_jax.config import MeshConfig
    from reflex_jax.sharding import make_mesh

    spread = judge_text_encoder(load_judge("phantom", "float32", make_mesh(MeshConfig(), jax.devices())))
    assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(spread.params))
