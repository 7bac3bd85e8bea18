"""HOST: tokenizers of the policy and of the judge. The only module that imports transformers.

Text written by users or by datasets never becomes a special or added token: it is encoded by a second tokenizer with
the same vocabulary and merges but without the added ones. transformers' own `split_special_tokens` splits the special
tokens only and lets the others (`<tool_call>`, `<|fim_prefix|>`, ...) through.

The tags of a completion (`<think>` and its like) are words here even where a checkpoint declares them special: a special
token is neither sampled nor shown, so no completion of such a checkpoint could keep the format.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from reflex_jax.config import ConfigError
from reflex_jax.json_files import read_json_object, read_text
from reflex_jax.text.chat_template import read_chat_template
from reflex_jax.text.torch_hidden import torch_as_wanted

with torch_as_wanted():
    from transformers import AutoTokenizer, PreTrainedTokenizerBase  # type: ignore[attr-defined]  # of transformers.models

POLICY_VOCABULARY_FILES = ("tokenizer.json", "vocab.json")
JUDGE_VOCABULARY_FILES = ("tokenizer.json", "vocab.txt")
TAGS = ("<think>", "</think>", "<thinking>", "</thinking>", "<answer>", "</answer>")

_SETTINGS_FILE = "tokenizer_config.json"
_JSON_FILES = (_SETTINGS_FILE, "tokenizer.json", "vocab.json", "special_tokens_map.json", "added_tokens.json")
_TEXT_FILES = ("merges.txt", "vocab.txt")
_READ_BACK = (
    'Is there a 3.5 cm nodule? <think> "No"; (left) </think>\n'  # every byte-level tokenizer returns it unchanged
)
_UNKNOWN = "nodule \U0010fffd"  # a word, and a character of no vocabulary


def load_policy_tokenizer(directory: str | Path) -> PreTrainedTokenizerBase:
    """Reads the tokenizer of a policy from its Hugging Face directory (tokenizer.json, or vocab.json and merges.txt).

    Its chat template is the one that transformers' processor would use.

    Raises:
      ConfigError: files are missing or damaged, or do not belong together: text is not given back, ids are missing,
        doubled or not those that the files declare, or one of `TAGS` has a role such as EOS.
    """
    directory, setting = Path(directory), "policy.path"
    _check_files(directory, POLICY_VOCABULARY_FILES, setting)
    template = read_chat_template(directory)
    with _one_line(f"{setting}: the tokenizer in {directory} cannot be read", "Copy its files again from the model."):
        tokenizer = _load(directory)
        ids = encode_user_text(tokenizer, _READ_BACK)
        read_back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        vocabulary = tokenizer.get_vocab()
        strangers = _misplaced(tokenizer, directory) + _without_merges(directory)
    problems = []
    if read_back != _READ_BACK:
        problems.append(f"text is not given back: wrote {_READ_BACK!r}, read {read_back[:100]!r}")
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        problems.append(
            f"expected {len(vocabulary)} tokens with the ids 0 to {len(vocabulary) - 1}; some ids are missing or doubled"
        )
    problems += strangers
    if problems:
        raise ConfigError(
            f"{setting}: the tokenizer files in {directory} do not belong together: {'; '.join(problems)}. Copy all of "
            "them again from one model."
        )
    tokenizer.chat_template = None if template is None else template.text
    _make_tags_words(tokenizer, setting)
    return tokenizer


def load_bert_tokenizer(directory: str | Path, *, setting: str = "judge.path") -> PreTrainedTokenizerBase:
    """Reads the WordPiece tokenizer of a judge or another BERT from its directory.

    Args:
      directory: in the layout of open_clip or Hugging Face.
      setting: the key that led to it, which begins messages.
    Raises:
      ConfigError: files are missing or damaged, or one of [CLS], [SEP], [PAD] and [UNK] is not in the vocabulary.
    """
    directory = Path(directory)
    _check_files(directory, JUDGE_VOCABULARY_FILES, setting)
    with _one_line(f"{setting}: the tokenizer in {directory} cannot be read", "Copy its files again from the model."):
        tokenizer = _load(directory)
        words = _without_added_tokens(tokenizer).get_vocab()
        roles = {name: getattr(tokenizer, f"{name}_token") for name in ("cls", "sep", "pad", "unk")}
        absent = [f"{name}_token {token!r}" for name, token in roles.items() if token not in words]
        if not absent:
            encode_user_text(tokenizer, _UNKNOWN)
    if absent:
        raise ConfigError(
            f"{setting}: the tokenizer in {directory}: expected its special tokens in the vocabulary; "
            f"{', '.join(absent)} not found. Copy tokenizer.json, or vocab.txt, and {_SETTINGS_FILE} again."
        )
    return tokenizer


def check_rows(tokenizer: PreTrainedTokenizerBase, rows: int, *, setting: str, source: str | Path) -> None:
    """Refuses a tokenizer with tokens beyond the embedding, whose rows a gather would take from the last one.

    Args:
      tokenizer: of either model.
      rows: of the embedding, `vocab_size` of config.json.
      setting: the key that led to it, which begins the message.
      source: the directory.
    Raises:
      ConfigError: it has; counted, with three of them.
    """
    beyond = sorted((index, token) for token, index in tokenizer.get_vocab().items() if index >= rows)
    if beyond:
        named = ", ".join(f"{token[:40]!r} ({index})" for index, token in beyond[:3])
        raise ConfigError(
            f"{setting}: {source}: config.json has vocab_size {rows}, but ids of the tokenizer go up to {beyond[-1][0]}: "
            f"{len(beyond)} tokens have no row of the embedding, such as {named}. Save the model after "
            "resize_token_embeddings(len(tokenizer)), or take the tokenizer it was saved with."
        )


def render_turn(tokenizer: PreTrainedTokenizerBase, content: list[dict[str, str]], *, source: str | Path) -> str:
    """Renders one turn of the user and the opening of the answer with the tokenizer's chat template.

    Args:
      tokenizer: of the policy.
      content: parts of the turn, `{"type": "image"}` or `{"type": "text", "text": ...}`.
      source: of the template, for the message.
    Raises:
      ConfigError: the template has a syntax error, raises, or cannot read such parts.
    """
    turn: Any = {"role": "user", "content": content}
    kinds = " and ".join(part["type"] for part in content)
    fault = f"policy.path: the chat template of {source} cannot render a turn of {kinds}"
    with _one_line(fault, "Copy the vision-language model's own there; one for text alone does not do."):
        return str(tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True))


def answer_lead(tokenizer: PreTrainedTokenizerBase) -> str:
    """White space that the chat template writes between the opening of an answer and its words.

    "Assistant:" is followed by a blank in what SmolVLM2 was trained on; "" where the opening itself ends in white space, as
    Qwen's does, or where the template cannot show an answer.
    """
    words = "words"
    turns: Any = [{"role": role, "content": [{"type": "text", "text": words}]} for role in ("user", "assistant")]
    try:
        with _one_line("an answer cannot be shown", ""):
            opened = str(tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True))
            whole = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except ConfigError:
        return ""
    lead, found, _ = whole.removeprefix(opened).partition(words)
    return lead if found and lead.isspace() and whole.startswith(opened) else ""


def encode_user_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encodes words of a user or a dataset; no special or added id comes out, whatever the text says.

    Half a surrogate pair, which JSON can hold and UTF-8 cannot, is encoded as the replacement character.
    """
    return _without_added_tokens(tokenizer).encode(_whole(text), add_special_tokens=False).ids


def _whole(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def encode_with_places(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """`encode_user_text`, and which characters of the text each token stands for: (from, to)."""
    encoded = _without_added_tokens(tokenizer).encode(_whole(text), add_special_tokens=False)
    return encoded.ids, encoded.offsets


def encode_template(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encodes text of the chat template, in which `<|im_start|>` and its like mean what they say."""
    return tokenizer.encode(text, add_special_tokens=False)


def split_at_added(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, int]:
    """Where the first added token of a text of the chat template begins, and where the last one ends."""
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    added = tokenizer.added_tokens_decoder
    spans = [span for index, span in zip(encoding.ids, encoding.offsets, strict=True) if index in added]
    return (spans[0][0], spans[-1][1]) if spans else (len(text), 0)


def special_added_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of all added tokens that are special, with a role in the tokenizer's settings or without; `TAGS` are words."""
    return set(_left_out(tokenizer))


def decode(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int | np.integer]) -> str:
    """Turns ids of a completion into text, special tokens left out; `TAGS` stay, also where they are special tokens."""
    left_out = _left_out(tokenizer)
    kept = [token for token in np.fromiter(ids, np.int64).tolist() if token not in left_out]
    # without the checks of each id that stand before it, a third of the time of decoding
    return tokenizer.backend_tokenizer.decode(kept, skip_special_tokens=False)


@functools.lru_cache(maxsize=8)
def _left_out(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(index for index, token in added if token.special and token.content not in TAGS)


@functools.lru_cache(maxsize=8)
def _without_added_tokens(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The same vocabulary, merges and splitting, with no added token to find in the text."""
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    description["added_tokens"] = []
    description["post_processor"] = None  # [CLS], [SEP]: the caller's business
    description["padding"] = description["truncation"] = None  # BiomedCLIP's file pads and cuts to 256 by itself
    return Tokenizer.from_str(json.dumps(description))


def _check_files(directory: Path, vocabulary_files: tuple[str, ...], setting: str) -> None:
    """Reads every file that transformers will read, for what it says of damaged ones does not name them."""
    has_vocabulary = any(os.path.lexists(directory / name) for name in vocabulary_files)
    if not has_vocabulary or not os.path.lexists(directory / _SETTINGS_FILE):
        found = sorted(path.name for path in directory.glob("*"))[:20] if directory.is_dir() else "no such directory"
        raise ConfigError(
            f"{setting}: expected {_SETTINGS_FILE} and one of {', '.join(vocabulary_files)} in {directory}; "
            f"found {found}. Copy the model's tokenizer files there."
        )
    for names, read in ((_JSON_FILES, read_json_object), (_TEXT_FILES, read_text)):
        for name in names:
            if os.path.lexists(directory / name):
                read(directory / name, setting=setting)


def _load(directory: Path) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    if not isinstance(getattr(tokenizer, "backend_tokenizer", None), Tokenizer):
        raise TypeError(f"expected a tokenizer of the tokenizers library; got {type(tokenizer).__name__}")
    return tokenizer


@contextmanager
def _one_line(fault: str, remedy: str) -> Iterator[None]:
    """Turns whatever code or data of others raises into one line: exceptions of every kind, panics of Rust code too."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, ConfigError):
        raise
    except BaseException as error:
        # it quotes the file, control characters included
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}".encode(
            "unicode_escape"
        ).decode()
        raise ConfigError(f"{fault} ({reason}). {remedy}") from error


def _misplaced(tokenizer: PreTrainedTokenizerBase, directory: Path) -> list[str]:
    """Added tokens that the files declare under another id than they get, because the vocabulary is not the one meant."""
    declared = _declared_ids(directory)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in declared}
    wrong = [
        f"{token[:40]!r} is {ids[token]}, declared as {index}"
        for token, index in declared.items()
        if ids[token] != index
    ]
    return [f"{len(wrong)} added tokens have other ids: {', '.join(wrong[:3])}"] if wrong else []


def _declared_ids(directory: Path) -> dict[str, int]:
    settings = read_json_object(directory / _SETTINGS_FILE, setting="policy.path")
    if "added_tokens_decoder" in settings:
        return {token["content"]: int(index) for index, token in settings["added_tokens_decoder"].items()}
    path = directory / "tokenizer.json"
    written: Any = read_json_object(path, setting="policy.path") if path.is_file() else {}
    return {token["content"]: token["id"] for token in written.get("added_tokens", [])}


def _without_merges(directory: Path) -> list[str]:
    """Words that no merge makes, because merges are lost: text would be split into smaller pieces, without a word."""
    path, setting = directory / "tokenizer.json", "policy.path"
    if path.is_file():
        model = read_json_object(path, setting=setting)["model"]
        vocabulary, merges = model["vocab"], model.get("merges", [])
    elif (directory / "merges.txt").is_file():
        vocabulary = read_json_object(directory / "vocab.json", setting=setting)
        merges = read_text(directory / "merges.txt", setting=setting).splitlines()
    else:
        return []  # transformers makes the merges out of the vocabulary
    made = {line.replace(" ", "") if isinstance(line, str) else "".join(line) for line in merges}
    unmade = sorted(token for token in set(vocabulary) - made - _declared_ids(directory).keys() if len(token) > 1)
    return [f"{len(unmade)} words are made by no merge: {', '.join(unmade[:3])[:100]}"] if unmade else []


def _make_tags_words(tokenizer: PreTrainedTokenizerBase, setting: str) -> None:
    roles = {str(token): role for role, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    taken = [f"{tag} is its {roles[tag]}" for tag in TAGS if tag in roles]
    if taken:
        raise ConfigError(
            f"{setting}: {_SETTINGS_FILE}: expected the tags of the answer's format to be words; {', '.join(taken)}. Name "
            "another token there, such as <|im_end|>."
        )
    tokenizer.extra_special_tokens = [token for token in tokenizer.extra_special_tokens if token not in TAGS]
