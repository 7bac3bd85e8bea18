"""Statements that lie end to end say what each says alone, and cost the tokens that exist."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reflex_jax.config import MeshConfig
from reflex_jax.judge import statements as statements_module
from reflex_jax.judge.statements import chunk_sizes, encode_statements
from reflex_jax.models.biomedclip import encode_text, init_judge_params, read_judge_config
from reflex_jax.records import JudgeInputs
from reflex_jax.sharding import batch_sharding, make_mesh, replicated
from tests.parity.judge_reference import write_judge_directory

encode = jax.jit(encode_statements, static_argnames="config")
alone = jax.jit(encode_text, static_argnames="config")


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    config = read_judge_config(write_judge_directory(tmp_path_factory.mktemp("judge")))
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, depth=1))
    return jax.jit(lambda key: jax.tree.map(lambda x: 2 * x, init_judge_params(config, key)))(jax.random.key(0)), config


def drawn(lengths: list[list[int]], tokens: int, seed: int = 0) -> JudgeInputs:
    """Statements of these lengths; 0 is the pad id."""
    columns, rng = max(map(len, lengths)), np.random.default_rng(seed)
    ids = np.zeros((len(lengths), columns, tokens), np.int32)
    for row, own in zip(ids, lengths, strict=True):
        for statement, length in zip(row, own, strict=False):
            statement[:length] = rng.integers(1, 60, length)
    counts = np.asarray([len(own) for own in lengths], np.int32)
    none = np.zeros((len(lengths), 1))
    return JudgeInputs(
        pixels=np.zeros((len(lengths), 8, 8, 3), np.uint8), statements=ids, statement_count=counts,
        statement_index=none.astype(np.int32), has_statement=none.astype(bool),
    )  # fmt: skip


def lengths_of(prompts: int, statements: int, low: int, high: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [list(map(int, rng.integers(low, high + 1, rng.integers(1, statements + 1)))) for _ in range(prompts)]


CASES = {
    "one": ([[7]], 16),
    "a chunk that is exactly full": ([[64, 64, 64, 64], [64, 64, 64, 64]], 64),
    "one token more than a chunk": ([[64, 64, 64, 64, 2], [64, 64, 64, 63]], 64),
    "of all lengths": (lengths_of(4, 17, 2, 64), 64),
    "too many for the places of a chunk": (lengths_of(3, 40, 2, 3), 64),
    "no multiple of the blocks": (lengths_of(3, 9, 2, 90), 90),
    "three blocks and a chunk of four": (lengths_of(4, 9, 60, 128), 128),
    "as long as the tower reads": (lengths_of(2, 5, 2, 256), 256),
}


@pytest.mark.parametrize("name", CASES)
def test_statements_end_to_end_say_what_each_says_alone(judge, name):
    params, config = judge
    inputs = drawn(*CASES[name])
    if name == "of all lengths":
        inputs.statements[0, 0, 1] = 0  # a [PAD] that somebody wrote is no word, wherever it stands
    ours, (prompts, columns, tokens) = np.asarray(encode(params, inputs, config)), inputs.statements.shape
    theirs = np.array(alone(params, inputs.statements.reshape(-1, tokens), config=config)).reshape(ours.shape)
    theirs /= np.linalg.norm(theirs, axis=-1, keepdims=True)
    is_used = np.arange(columns) < inputs.statement_count[:, None]
    np.testing.assert_allclose(ours[is_used], theirs[is_used], atol=1e-5)
    assert not ours[~is_used].any() and prompts == len(ours)


def test_computed_are_the_tokens_that_exist_filled_up_to_64(judge, monkeypatch):
    """Slots of every chunk, of statements as in the benchmark: 506 tokens, of which the longest statement has 40."""
    computed = []

    def noted(params, packed, config, *, longest):
        jax.debug.callback(lambda: computed.append(len(packed.ids)))
        return jnp.zeros((len(packed.cls), config.embed_dim), jnp.float32)

    monkeypatch.setattr(statements_module, "encode_packed_text", noted)
    first, second = [16, 40, 18, 29, 28, 36, 29, 27, 31], [15, 27, 35, 30, 32, 37, 24, 27, 25]
    for lengths, slots in (([first, second], [512]), ([first + first, second], [256, 512])):
        computed.clear()
        jax.jit(partial(encode_statements, config=judge[1]))(judge[0], drawn(lengths, 64))
        jax.effects_barrier()
        assert sorted(computed) == slots


@pytest.mark.parametrize(
    ("statements", "tokens"), [(18, 64), (1, 16), (576, 64), (9, 90), (40, 256), (17, 600), (3, 7)]
)
def test_the_worst_statements_fit_into_the_chunks_that_are_planned(statements, tokens):
    sizes = chunk_sizes(statements, tokens)
    # short ones and the longest by turns leave most places empty
    for lengths in ([tokens] * statements, [1, tokens] * statements, [2] * statements):
        own = np.asarray(lengths[:statements], np.int32)
        chunk, first, number = map(np.asarray, statements_module._lay_out(own, sizes))
        assert chunk.max() < sizes.most and (first + own <= sizes.tokens).all() and (number < sizes.statements).all()
        assert len(set(zip(chunk, first, strict=True))) == len(set(zip(chunk, number, strict=True))) == statements
    assert sizes.tokens == sizes.lengths[-1] and sizes.tokens >= tokens


def test_devices_read_their_own_statements_as_one_device_reads_them_all(judge):
    """Loops of different lengths on each; none asks another for anything."""
    params, config = judge
    inputs = drawn([[64] * 17, [3], [30] * 9, [20, 9]], 64)
    expected = encode(params, inputs, config)
    mesh = make_mesh(MeshConfig(data=2, fsdp=1), jax.devices()[:2])
    cut, whole = jax.device_put(inputs, batch_sharding(mesh)), jax.device_put(params, replicated(mesh))
    program = encode.lower(whole, cut, config).compile()
    np.testing.assert_allclose(program(whole, cut), expected, atol=1e-6)
    asked = ("all-gather", "all-reduce", "collective-permute", "all-to-all")
    assert not [name for name in asked if f" {name}(" in program.as_text()]
    odd = jax.tree.map(lambda leaf: leaf[:3], inputs)  # which two devices cannot share
    np.testing.assert_allclose(encode(whole, jax.device_put(odd, replicated(mesh)), config), expected[:3], atol=1e-6)
