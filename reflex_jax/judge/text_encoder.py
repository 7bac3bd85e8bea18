"""A BERT that compares texts for the rewards: the judge's own text tower, or one from a Hugging Face directory.

Texts are encoded on one device of this process, so processes need not agree on how many there are. They are padded to few
lengths, each with its own number of rows and compiled when it is first needed: what a text gives depends on its own length
alone, to the last bit, and not on what else is in a batch. A text is encoded once in a batch; what is true comes again with
the next look at its question, so its rows are kept across steps, the latest of them.

Matrix products run at the highest precision of the device, as those of the judge do.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from reflex_jax.checkpoints.bert import load_bert_params
from reflex_jax.config import ConfigError
from reflex_jax.judge.batch import StatementTokenizer
from reflex_jax.judge.evidence import Judge
from reflex_jax.judge.saliency import unit
from reflex_jax.judge.sentence_settings import SentenceSettings, read_sentence_settings
from reflex_jax.models.bert import BertConfig, bert_cls, bert_hidden_states
from reflex_jax.models.bert_config import read_bert_config
from reflex_jax.models.clip_text import run_text_tower
from reflex_jax.rewards.greedy_matching import greedy_f1
from reflex_jax.rewards.text_encoder import Pair
from reflex_jax.text.normalise import limit_marks
from reflex_jax.trees import Array, Params

_LENGTHS = (16, 32, 64, 128, 256, 512)  # to which texts are padded, tokens; the encoder's longest beside them
_CALL_TOKENS = 2048  # of a call, but for the fewest rows: few texts waste little, and many keep a device busy
_FEWEST_ROWS = 4
_KEPT_BYTES = 2**28  # of the rows of true texts

Rows = Float[np.ndarray, "_ D"]


class _Kept:
    """The latest rows, up to so many bytes."""

    def __init__(self, most: int):
        self._rows: OrderedDict[tuple[str, str | int], Rows] = OrderedDict()
        self._most, self._bytes = most, 0

    def get(self, key: tuple[str, str | int]) -> Rows | None:
        """What is kept, now the latest."""
        if key in self._rows:
            self._rows.move_to_end(key)
        return self._rows.get(key)

    def put(self, key: tuple[str, str | int], rows: Rows) -> None:
        """Keeps it, and lets go of what was asked for longest ago."""
        if key not in self._rows:
            self._rows[key] = rows
            self._bytes += rows.nbytes
        while self._bytes > self._most:
            self._bytes -= self._rows.popitem(last=False)[1].nbytes


@dataclass(frozen=True, eq=False)
class BertTextEncoder:
    """Satisfies `rewards.text_encoder.TextEncoder`."""

    config: BertConfig
    params: Params  # on one device; "projection" in the judge's alone
    tokenize: Callable[[str, int], tuple[int, ...]]
    longest: int  # tokens that are read, [CLS] and [SEP] included; what is longer is cut
    pooling: str  # of its embeddings, unless another is asked for
    longest_embedded: int  # tokens of a text whose embedding is asked for
    _kept: _Kept = field(default_factory=lambda: _Kept(_KEPT_BYTES), repr=False)

    def problems(self, *, pooling: str | None = None, layer: int | None = None) -> list[str]:
        """What of the options of a reward this encoder cannot do."""
        found = []
        if layer is not None and layer > self.config.depth:
            found.append(f"layer: expected at most {self.config.depth}, the layers of the encoder; got {layer}")
        if (pooling or self.pooling) == "projection" and "projection" not in self.params:
            found.append("pooling: expected cls or mean, only the judge has a projection; got projection")
        return found

    def cosines(self, pairs: Sequence[Pair], *, pooling: str | None) -> list[float]:
        """Cosine of the embeddings of each pair, in [-1, 1]."""
        pooling = pooling or self.pooling
        encode = partial(_embeddings, self.params, config=self.config, pooling=pooling)
        rows = self._rows_of(pairs, pooling, self.longest_embedded, encode)
        return [float(np.clip(rows[said][0] @ rows[true][0], -1, 1)) for said, true in pairs]

    def greedy_f1(self, pairs: Sequence[Pair], *, layer: int | None) -> list[float]:
        """BERTScore-F1 of each pair; 0 where one of the two has no token."""
        layer = self.config.depth if layer is None else layer
        encode = partial(_token_states, self.params, config=self.config, layer=layer)
        rows = self._rows_of(pairs, layer, self.longest, encode)
        distinct = list(dict.fromkeys(pairs))
        lengths = [max(len(rows[said]), len(rows[true])) for said, true in distinct]
        found: dict[Pair, float] = {}
        for chunk, size, length in _calls(lengths, self.longest):
            said, true = ([rows[distinct[i][side]] for i in chunk] for side in (0, 1))
            scores = _matched(*_padded(said, size, length), *_padded(true, size, length))
            found |= zip((distinct[i] for i in chunk), np.asarray(scores).tolist(), strict=False)
        return [found[pair] for pair in pairs]

    def _rows_of(
        self, pairs: Sequence[Pair], how: str | int, longest: int, encode: Callable[[Array, Array], Array]
    ) -> dict[str, Rows]:
        """Unit rows of each text: those of its tokens, or the one of its embedding."""
        truths = dict.fromkeys(true for _, true in pairs)
        rows = {text: found for text in truths if (found := self._kept.get((text, how))) is not None}
        texts = [text for text in dict.fromkeys(text for pair in pairs for text in pair) if text not in rows]
        ids = [self.tokenize(text, longest) for text in texts]
        for chunk, size, length in _calls(list(map(len, ids)), longest):
            batch = np.full((size, length), self.config.pad_token_id, np.int32)
            lengths = np.full(size, 2, np.int32)  # of rows that nobody asks for
            for row, index in enumerate(chunk):
                batch[row, : len(ids[index])] = ids[index]
                lengths[row] = len(ids[index])
            encoded = np.asarray(encode(jnp.asarray(batch), jnp.asarray(lengths)), np.float32)
            for row, index in enumerate(chunk):  # an embedding is one row
                rows[texts[index]] = encoded[row, : lengths[row]].copy()
        for text in truths:
            self._kept.put((text, how), rows[text])
        return rows


def load_text_encoder(directory: Path, *, setting: str) -> BertTextEncoder:
    """Opens a BERT from its Hugging Face directory, also one of sentence-transformers.

    Args:
      directory: config.json, weights and the WordPiece tokenizer.
      setting: the key that led to it, which begins messages.
    Raises:
      ConfigError: no BERT, or files are missing, damaged or do not belong together.
    """
    sentence: SentenceSettings = read_sentence_settings(directory, setting=setting)
    directory = directory / sentence.folder
    config = read_bert_config(directory, setting=setting)
    tokenizer, params = _both(
        lambda: StatementTokenizer(directory, config, setting=setting, clean=limit_marks),
        lambda: load_bert_params(directory, config, setting=setting),
    )
    longest = min(config.positions, tokenizer.longest)
    return BertTextEncoder(
        config,
        params,
        tokenizer,
        longest=longest,
        pooling=sentence.pooling,
        longest_embedded=min(longest, sentence.longest or longest),
    )


def _both(*opens: Callable[[], Any]) -> list[Any]:
    """What all of them give; what several refuse is said together."""
    given, refusals = [], []
    for open_one in opens:
        try:
            given.append(open_one())
        except ConfigError as error:
            refusals.append(str(error))
    if refusals:
        raise ConfigError("\n".join(refusals))
    return given


def judge_text_encoder(judge: Judge) -> BertTextEncoder:
    """The text tower of a judge, which shares its weights; of a judge on many devices those of the first are read."""
    text = jax.tree.map(lambda leaf: leaf.addressable_data(0), judge.params["text"])
    config = judge.config.text
    longest = config.context_length
    return BertTextEncoder(
        config, text, judge.tokenizer, longest=longest, pooling="projection", longest_embedded=longest
    )


@partial(jax.jit, static_argnames=("config", "pooling"))
def _embeddings(
    params: Params, ids: Int[Array, "B T"], lengths: Int[Array, "B"], *, config: BertConfig, pooling: str
) -> Float[Array, "B 1 E"]:
    is_valid = jnp.arange(ids.shape[1]) < lengths[:, None]
    with jax.default_matmul_precision("highest"):
        if pooling == "projection":
            pooled = run_text_tower(params, ids, config)
        elif pooling == "cls":
            pooled = bert_cls(params, ids, is_valid, config)
        else:
            states = bert_hidden_states(params, ids, is_valid, config)[-1].astype(jnp.float32)
            pooled = jnp.where(is_valid[..., None], states, 0.0).sum(axis=1)  # a mean's divisor has no direction
    return unit(pooled.astype(jnp.float32))[:, None]


@partial(jax.jit, static_argnames=("config", "layer"))
def _token_states(
    params: Params, ids: Int[Array, "B T"], lengths: Int[Array, "B"], *, config: BertConfig, layer: int
) -> Float[Array, "B T D"]:
    is_valid = jnp.arange(ids.shape[1]) < lengths[:, None]
    with jax.default_matmul_precision("highest"):
        return unit(bert_hidden_states(params, ids, is_valid, config, layers=layer)[-1].astype(jnp.float32))


_matched = jax.jit(greedy_f1)


def _calls(lengths: Sequence[int], longest: int) -> Iterator[tuple[Sequence[int], int, int]]:
    """Texts of like lengths together: (their indices, rows of the call, tokens of each), which are two numbers for a length."""
    sizes = [size for size in _LENGTHS if size < longest] + [longest]
    members: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        members.setdefault(sizes[bisect_left(sizes, length)], []).append(index)
    for size, indices in sorted(members.items()):
        rows = max(_FEWEST_ROWS, _CALL_TOKENS // size)
        for start in range(0, len(indices), rows):
            yield indices[start : start + rows], rows, size


def _padded(rows: Iterable[Rows], size: int, length: int) -> tuple[Array, Array]:
    """Rows of some texts in one array, and how many each has."""
    given = list(rows)
    batch = np.zeros((size, length, given[0].shape[1]), np.float32)
    lengths = np.full(size, 2, np.int32)
    for row, states in enumerate(given):
        batch[row, : len(states)] = states
        lengths[row] = len(states)
    return jnp.asarray(batch), jnp.asarray(lengths)
