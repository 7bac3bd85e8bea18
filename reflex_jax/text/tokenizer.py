"""HOST: tokenizers of the policy and of the judge. The only module that imports transformers.

Text written by users or by datasets never becomes a special or added token: it is encoded by a second tokenizer with
the same vocabulary and merges but without the added ones. transformers' own `split_special_tokens` splits the special
tokens only and lets the others (`<tool_call>`, `<|fim_prefix|>`, ...) through.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from reflex_jax.config import ConfigError

POLICY_VOCABULARY_FILES = ("tokenizer.json", "vocab.json")
JUDGE_VOCABULARY_FILES = ("tokenizer.json", "vocab.txt")


def load_policy_tokenizer(directory: str | Path) -> PreTrainedTokenizerBase:
    """Reads the tokenizer of a policy from its Hugging Face directory (tokenizer.json, or vocab.json and merges.txt).

    Raises:
      ConfigError: files are missing.
    """
    tokenizer = _load(Path(directory), POLICY_VOCABULARY_FILES)
    template_file = Path(directory) / "chat_template.json"  # where the processors of older models keep it
    if tokenizer.chat_template is None and template_file.is_file():
        tokenizer.chat_template = json.loads(template_file.read_text(encoding="utf-8"))["chat_template"]
    return tokenizer


def load_bert_tokenizer(directory: str | Path) -> PreTrainedTokenizerBase:
    """Reads the WordPiece tokenizer of a judge from its open_clip directory.

    Raises:
      ConfigError: files are missing.
    """
    return _load(Path(directory), JUDGE_VOCABULARY_FILES)


def _load(directory: Path, vocabulary_files: tuple[str, ...]) -> PreTrainedTokenizerBase:
    has_vocabulary = any((directory / name).is_file() for name in vocabulary_files)
    if not has_vocabulary or not (directory / "tokenizer_config.json").is_file():
        found = sorted(path.name for path in directory.glob("*")) if directory.is_dir() else "no such directory"
        raise ConfigError(
            f"tokenizer: expected tokenizer_config.json and one of {', '.join(vocabulary_files)} in {directory}; "
            f"found {found}. Copy the model's tokenizer files there."
        )
    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


@functools.lru_cache(maxsize=8)
def _without_added_tokens(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The same vocabulary, merges and splitting, with no added token to find in the text."""
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    description["added_tokens"] = []
    description["post_processor"] = None  # [CLS], [SEP]: the caller's business
    description["padding"] = description["truncation"] = None  # BiomedCLIP's file pads and cuts to 256 by itself
    return Tokenizer.from_str(json.dumps(description))


def encode_user_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encodes words of a user or a dataset; no special or added id comes out, whatever the text says.

    Half a surrogate pair, which JSON can hold and UTF-8 cannot, is encoded as the replacement character.
    """
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _without_added_tokens(tokenizer).encode(whole, add_special_tokens=False).ids


def encode_template(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encodes text of the chat template, in which `<|im_start|>` and its like mean what they say."""
    return tokenizer.encode(text, add_special_tokens=False)


def decode(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> str:
    """Turns ids of a completion into text, special tokens left out."""
    return tokenizer.decode([int(token) for token in ids], skip_special_tokens=True, clean_up_tokenization_spaces=False)
