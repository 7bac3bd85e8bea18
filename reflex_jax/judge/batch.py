"""HOST: what the judge looks at and reads, from images and strings.

The original's preprocessing, without torch: the picture brought to the tower's size as the judge's own settings say (for
BiomedCLIP short side, bicubic, centre crop); text cleaned, cut into WordPiece ids, framed by [CLS] and [SEP]. Three
departures: `squash` or `pad` keep the whole image where asked to, since a crop can remove the finding; "[SEP]" and its
like inside a statement are read as words, since an answer must not steer the tokenizer; and a statement is cut at
`max_statement_tokens` (64 by default) where the original cuts at 256. A cut keeps [CLS], the first tokens that fit, and
[SEP].
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import ftfy
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from reflex_jax.config import RESIZE_MODES, ConfigError
from reflex_jax.models.bert import BertConfig
from reflex_jax.models.biomedclip import BiomedClipConfig
from reflex_jax.records import JudgeInputs
from reflex_jax.text.normalise import limit_marks
from reflex_jax.text.tokenizer import check_rows, encode_user_text, load_bert_tokenizer

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_OPEN_CLIP_MODES = {"shortest": "crop", "squash": "squash", "longest": "pad"}
# "&#" and more digits than a character has; Python refuses to read more than 4,300
_ENDLESS_REFERENCE = re.compile(r"&#(?:[0-9]{100,}|[xX][0-9a-fA-F]{100,});?")


def judge_pixels(
    image: Image.Image, config: BiomedClipConfig, resize: str = "checkpoint"
) -> UInt8[np.ndarray, "Y X 3"]:
    """Resizes an image to the judge's input.

    Args:
      image: any size; converted to RGB.
      config: of the judge, for its size, filter and own way to resize.
      resize: `crop` scales the short side and cuts out the centre; `squash` scales both sides; `pad` scales the long side
        and fills up the other with `config.fill_color`; `checkpoint` is the one of `config.resize_mode`.

    Raises:
      ValueError: an unknown `resize`.
    """
    if resize not in RESIZE_MODES:
        raise ValueError(f"resize: expected one of {', '.join(RESIZE_MODES)}; got {resize!r}.")
    mode = _OPEN_CLIP_MODES[config.resize_mode] if resize == "checkpoint" else resize
    size, resample = config.vision.image_size, _FILTERS[config.interpolation]
    image = image.convert("RGB")
    if mode == "squash":
        return np.asarray(image.resize((size, size), resample))
    fill = mode == "pad"
    image = image.resize(_resized(image.size, size, fill=fill), resample)
    left, top = _offsets(image.size, size, fill=fill)
    if fill:
        filled = Image.new("RGB", (size, size), config.fill_color)
        filled.paste(image, (-left, -top))
        return np.asarray(filled)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def judged_part(
    size: tuple[int, int], config: BiomedClipConfig, resize: str = "checkpoint"
) -> tuple[float, float, float, float]:
    """Which part of a picture `judge_pixels` shows to the judge.

    Args:
      size: (width, height) of the picture.
      config: of the judge.
      resize: as in `judge_pixels`.

    Returns:
      (left, top, right, bottom) of the judge's input, in widths and heights of the picture: within 0 and 1 where it is
      cut, beyond where it is filled up.
    """
    mode = _OPEN_CLIP_MODES[config.resize_mode] if resize == "checkpoint" else resize
    side = config.vision.image_size
    if mode == "squash":
        return 0.0, 0.0, 1.0, 1.0
    width, height = _resized(size, side, fill=mode == "pad")
    left, top = _offsets((width, height), side, fill=mode == "pad")
    return left / width, top / height, (left + side) / width, (top + side) / height


def _resized(size: tuple[int, int], side: int, *, fill: bool) -> tuple[int, int]:
    if fill:
        ratio = max(size) / side
        width, height = (max(1, round(length / ratio)) for length in size)
        return width, height
    short = min(size)
    # torchvision's roundings: the long side is cut down, the offsets are rounded half to even
    width, height = (int(side * length / short) if length != short else side for length in size)
    return width, height


def _offsets(size: tuple[int, int], side: int, *, fill: bool) -> tuple[int, int]:
    """Where the judge's input begins in the resized picture; negative where that is smaller."""
    if fill:
        return -((side - size[0]) // 2), -((side - size[1]) // 2)
    return round((size[0] - side) / 2), round((size[1] - side) / 2)


def stack_pictures(
    pictures: Sequence[Sequence[UInt8[np.ndarray, "Y X 3"]]], *, room: int | None
) -> UInt8[np.ndarray, "P Y X 3"] | UInt8[np.ndarray, "P K Y X 3"]:
    """The pictures of P prompts as one array.

    Args:
      pictures: of each prompt, from `judge_pixels`; at least one.
      room: K, for how many of a prompt; zeros fill it up. None: each has one, and there is no axis for more.
    """
    if room is None:
        return np.stack([picture for (picture,) in pictures])
    stacked = np.zeros((len(pictures), room, *pictures[0][0].shape), np.uint8)
    for row, own in zip(stacked, pictures, strict=True):
        row[: len(own)] = own
    return stacked


def clean_text(text: str) -> str:
    """Mends broken Unicode, resolves HTML entities (also doubled ones) and collapses white space."""
    return " ".join(_resolve_entities(_resolve_entities(ftfy.fix_text(limit_marks(text)))).split())


def _resolve_entities(text: str) -> str:
    return html.unescape(_ENDLESS_REFERENCE.sub("\N{REPLACEMENT CHARACTER}", text))


class StatementTokenizer:
    """The tokenizer of the judge or of another BERT: texts in, rows of ids out."""

    def __init__(
        self,
        directory: str | Path,
        config: BertConfig | None = None,
        *,
        setting: str = "judge.path",
        clean: Callable[[str], str] = clean_text,
    ):
        """Reads the WordPiece vocabulary of an open_clip or Hugging Face directory.

        Args:
          directory: of the judge.
          config: of the text tower that will read the ids; None: they are not compared with it.
          setting: the key that led to the directory, which begins messages.
          clean: what is done with a text before.
        Raises:
          ConfigError: tokenizer files are missing or damaged, or have tokens that the tower has no row for, or another
            id for padding, which the tower would then read as a word.
        """
        self._tokenizer, self._clean = load_bert_tokenizer(directory, setting=setting), clean
        if config is not None:
            check_rows(self._tokenizer, config.vocabulary, setting=setting, source=directory)
            if self._tokenizer.pad_token_id != config.pad_token_id:
                raise ConfigError(
                    f"{setting}: {directory}: expected the tokenizer's padding to be pad_token_id of config.json, "
                    f"{config.pad_token_id}; got {self._tokenizer.pad_token_id}. Correct the file that does not belong to it."
                )
        # The published file pads and cuts to 256 by itself.
        self._tokenizer.backend_tokenizer.no_padding()
        self._tokenizer.backend_tokenizer.no_truncation()
        self.pad_token_id: int = self._tokenizer.pad_token_id
        self.longest: int = (
            self._tokenizer.model_max_length
        )  # tokens that its files allow; enormous where they do not say

    def __call__(self, statement: str, max_tokens: int) -> tuple[int, ...]:
        """Ids of one statement: [CLS], at most `max_tokens - 2` word pieces, [SEP]; no padding."""
        words = encode_user_text(self._tokenizer, self._clean(statement))[: max_tokens - 2]
        return (self._tokenizer.cls_token_id, *words, self._tokenizer.sep_token_id)


def prepare_judge_batch(
    pixels: UInt8[np.ndarray, "P Y X 3"] | UInt8[np.ndarray, "P K Y X 3"],
    statements: Sequence[Sequence[str | None]],
    anchors: Sequence[str],
    tokenizer: StatementTokenizer,
    *,
    max_statement_tokens: int,
    questions: Sequence[str] | None = None,
    picture_counts: Sequence[int] | None = None,
) -> JudgeInputs:
    """Tokenises the statements of P groups and lays them out for the judge, see `pack_statements`.

    Args:
      pixels: from `stack_pictures`.
      statements: G per prompt; None where a completion has no answer.
      anchors: one per prompt, the statement of the dataset's answer.
      tokenizer: of the judge.
      max_statement_tokens: T; longer statements are cut.
      questions: one per prompt; needed by the `centered` mode and only by it.
      picture_counts: one per prompt, how many of K pictures there are; None: `pixels` has no axis K.

    Raises:
      ValueError: the numbers of images, groups, anchors and questions differ, or the groups differ in size.
    """

    def encode(text: str) -> tuple[int, ...]:
        return tokenizer(text, max_statement_tokens)

    return pack_statements(
        pixels,
        [[None if text is None else encode(text) for text in row] for row in statements],
        [encode(text) for text in anchors],
        max_statement_tokens=max_statement_tokens,
        pad_token_id=tokenizer.pad_token_id,
        questions=None if questions is None else [encode(text) for text in questions],
        picture_counts=picture_counts,
    )


def pack_statements(
    pixels: UInt8[np.ndarray, "P Y X 3"] | UInt8[np.ndarray, "P K Y X 3"],
    statements: Sequence[Sequence[tuple[int, ...] | None]],
    anchors: Sequence[tuple[int, ...]],
    *,
    max_statement_tokens: int,
    pad_token_id: int,
    questions: Sequence[tuple[int, ...]] | None = None,
    picture_counts: Sequence[int] | None = None,
) -> JudgeInputs:
    """Lays out tokenised statements of P groups, each distinct one of a prompt once.

    Row 0 of a prompt's statements is its anchor. With `questions` (the `centered` mode) row 1 is always its
    question-only statement, whatever the others say, so that `gather_evidence(centered=True)` finds it there. The other
    distinct statements follow in order of appearance; two are the same when their ids are. The rest is padding.

    Args:
      pixels: from `stack_pictures`.
      statements: ids of G statements per prompt, each from `StatementTokenizer`; None where there is none.
      anchors: one per prompt.
      max_statement_tokens: T.
      pad_token_id: fills the rest.
      questions: one per prompt; needed by the `centered` mode and only by it.
      picture_counts: one per prompt, how many of K pictures there are; None: `pixels` has no axis K.

    Raises:
      ValueError: the numbers of images, groups, anchors and questions differ, or the groups differ in size.
    """
    prompts = len(statements)
    sizes = {"images": len(pixels), "anchors": len(anchors)}
    sizes |= {} if questions is None else {"questions": len(questions)}
    group = len(statements[0]) if prompts else 0
    if any(size != prompts for size in sizes.values()) or any(len(row) != group for row in statements):
        raise ValueError(
            f"expected one image, anchor and question for each of the {prompts} groups of statements, and groups of "
            f"one size; got {sizes} and groups of {[len(row) for row in statements]}."
        )
    fixed = 1 if questions is None else 2
    ids = np.full((prompts, group + fixed, max_statement_tokens), pad_token_id, np.int32)
    counts = np.zeros(prompts, np.int32)
    index = np.zeros((prompts, group), np.int32)
    for p, row in enumerate(statements):
        distinct = [anchors[p]] if questions is None else [anchors[p], questions[p]]
        for g, tokens in enumerate(row):
            if tokens is None:
                continue
            if tokens not in distinct:
                distinct.append(tokens)
            index[p, g] = distinct.index(tokens)
        counts[p] = len(distinct)
        for s, tokens in enumerate(distinct):
            ids[p, s, : len(tokens)] = tokens
    has_statement = np.array([[tokens is not None for tokens in row] for row in statements], bool)
    return JudgeInputs(
        pixels=np.asarray(pixels),
        statements=ids,
        statement_count=counts,
        statement_index=index,
        has_statement=has_statement.reshape(prompts, group),
        picture_count=None if picture_counts is None else np.asarray(picture_counts, np.int32),
    )
