"""HOST: a question and its picture -> token ids, image patches and positions as the policy reads them.

The user turn is the pictures in the order of their marks, the question and the task (`data.prompt_texts`). No system
turn is passed: a chat template that writes one of its own (Qwen's does) keeps it. Only the chat template inserts special
tokens; the user's words are split even where they spell one, so a question cannot open a turn or fake an image.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example, list_offenders
from reflex_jax.data.image_settings import ImageSettings, read_image_settings
from reflex_jax.data.images import (
    PatchedImage,
    count_windows,
    feature_index,
    layout_vision,
    mrope_positions,
)
from reflex_jax.data.pictures import PictureShape, cut_picture, picture_shape
from reflex_jax.data.prompt_texts import PROMPTS, QUESTION
from reflex_jax.data.tiles import TileMarks, tile_text
from reflex_jax.models.qwen_vl import QwenVLConfig, read_qwen_config
from reflex_jax.records import PromptInputs
from reflex_jax.text.chat_template import read_chat_template
from reflex_jax.text.tokenizer import (
    answer_lead,
    check_rows,
    encode_template,
    encode_user_text,
    load_policy_tokenizer,
    render_turn,
    split_at_added,
)

TOKEN_MULTIPLE = 8  # prompt lengths are rounded up to this: rows of a matrix unit
# Private-use characters are in no chat template and no question; the others show whether a template rewrites its text.
_USER_TEXT = '\ue000User "text"\n  <&\'{{ }}\\>\ue000'


@dataclass(frozen=True)
class EncodedPrompt:
    """One prompt before padding; images, or the tiles of images, in the order of their tokens."""

    ids: Int[np.ndarray, "L"]
    images: tuple[PatchedImage, ...]


@dataclass(frozen=True)
class PromptSizes:
    """Static sizes of a run: every batch is padded to them, so one program serves all."""

    prompt_tokens: int
    windows: int
    judged: int = 1  # pictures of one question that the judge looks at

    def union(self, other: PromptSizes) -> PromptSizes:
        """Sizes that hold both, e.g. of the training and the evaluation questions."""
        both = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return PromptSizes(*(max(one, another) for one, another in both))


class _Around(NamedTuple):
    """What the chat template puts around the user's text: ids up to an added token, and words beside the user's."""

    before: list[int]
    lead: str
    trail: str
    after: list[int]


class Processor:
    """Prompts of one policy: tokenizer, chat template, image settings and the task text."""

    def __init__(
        self,
        tokenizer: Any,
        images: ImageSettings,
        config: QwenVLConfig,
        *,
        prompt: str,
        seed: int = 0,
        template_source: str | Path = "the policy's directory",
    ):
        """Renders the chat template once.

        Args:
          tokenizer: from `load_policy_tokenizer`.
          images: normalisation and size limits of the pictures.
          config: the policy's configuration.
          prompt: a key of `PROMPTS`.
          seed: of the run, from which each question draws its text where a prompt has several.
          template_source: where the chat template comes from, for messages.

        Raises:
          ConfigError: an unknown prompt, or a tokenizer without a usable chat template.
        """
        _check_prompt(prompt)
        self.tokenizer = tokenizer
        self.images = images
        self.config = config
        self.prompt, self._seed = prompt, seed
        # any id will do: padding is masked everywhere
        self.pad_id = int(config.pad_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)
        self._template_source = template_source
        self.answer_lead = "" if tokenizer.chat_template is None else answer_lead(tokenizer)  # before a target's words
        if tokenizer.chat_template is None:
            raise ConfigError(
                "policy.path: the policy's directory has no chat template; copy chat_template.jinja or chat_template.json "
                "of the model there."
            )
        # questions repeat, over pictures of few sizes
        self._length = functools.lru_cache(maxsize=65536)(
            lambda text, question, shapes: len(self._assemble(text, question, shapes))
        )
        self._picture_ids = functools.lru_cache(maxsize=1024)(self._encode_picture)
        if config.vision.tile_size:
            self._check_marks()
        self._around = {pictures: self._render(pictures) for pictures in (0, 1)}

    def _check_marks(self) -> None:
        absent = [mark for mark in _marks(self.tokenizer) if mark not in self.tokenizer.get_added_vocab()]
        if absent:
            raise ConfigError(
                f"policy.path: the tokenizer of {self._template_source}: expected the marks of pictures among its added "
                f"tokens; {', '.join(absent)} not found. Copy the model's own tokenizer files there."
            )

    def _render(self, pictures: int) -> _Around:
        """What the chat template puts around the user's text."""
        content = [{"type": "image"}] * pictures
        parts = render_turn(
            self.tokenizer, [*content, {"type": "text", "text": _USER_TEXT}], source=self._template_source
        ).split(_USER_TEXT)
        name = f"policy.path: the chat template of {self._template_source}"
        if len(parts) != 2:
            raise ConfigError(
                f"{name}: expected it to show the user's text once, unchanged; it does {len(parts) - 1} times."
            )
        # what lies between the last added token and the user's words is cut into tokens together with them
        before, after = parts
        end, start = split_at_added(self.tokenizer, before)[1], split_at_added(self.tokenizer, after)[0]
        around = _Around(
            encode_template(self.tokenizer, before[:end]), before[end:], after[:start],
            encode_template(self.tokenizer, after[start:]),
        )  # fmt: skip
        image_id = self.config.image_token_id
        if around.before.count(image_id) != pictures or image_id in around.after:
            raise ConfigError(
                f"{name}: expected {pictures} image token(s) of id {image_id} before the user's text and none behind; "
                f"got {around.before.count(image_id)} and {around.after.count(image_id)}."
            )
        return around

    def encode_text(self, question: str, *, example_id: str = "") -> list[int]:
        """Ids of the question within the task text, free of special and added tokens."""
        return self._encode(self._text_of(example_id), question)

    def _text_of(self, example_id: str) -> str:
        return PROMPTS[self.prompt].text_of(example_id, self._seed)

    def _encode(self, text: str, question: str, lead: str = "", trail: str = "") -> list[int]:
        # Encoded in one piece, as the model saw its training prompts: words merge across the border.
        return list(encode_user_text(self.tokenizer, lead + text.replace(QUESTION, question.strip()) + trail))

    def _assemble(self, text: str, question: str, shapes: Sequence[PictureShape]) -> Int[np.ndarray, "L"]:
        """Ids of a prompt with pictures of these shapes, in their order."""
        pictures = len(shapes)
        if pictures not in self._around:
            self._around[pictures] = self._render(pictures)
        around = self._around[pictures]
        shape_of, ids = iter(shapes), list[int]()
        for token in around.before:
            ids += self._picture_ids(next(shape_of)) if token == self.config.image_token_id else [token]
        ids += self._encode(text, question, around.lead, around.trail) + around.after
        return np.asarray(ids, np.int32)

    def _encode_picture(self, shape: PictureShape) -> list[int]:
        """What stands in the place of a picture's mark: the mark once for each feature, and those of its tiles."""
        vision = self.config.vision
        if vision.tile_size:
            marks = _marks(self.tokenizer)
            text = tile_text(shape.rows, shape.columns, features=vision.window_features, marks=marks)
            return encode_template(self.tokenizer, text)
        return [self.config.image_token_id] * (sum(map(math.prod, shape.grids)) // vision.patches_per_feature)

    def picture_shape(self, size: tuple[int, int]) -> PictureShape:
        """How a picture of (width, height) pixels is cut, without decoding it."""
        return picture_shape(size, self.images, self.config.vision)

    def encode(self, images: Sequence[Image.Image], question: str, *, example_id: str = "") -> EncodedPrompt:
        """Tokenises one question and cuts its pictures into patches; none: a question about text alone.

        Args:
          images: RGB, in the order of their marks.
          question: its words.
          example_id: of the question, which draws the text of a prompt that has several.
        """
        cut = [cut_picture(image, self.images, self.config.vision) for image in images]
        pieces = tuple(piece for _, pieces in cut for piece in pieces)
        return EncodedPrompt(self._assemble(self._text_of(example_id), question, [shape for shape, _ in cut]), pieces)

    def size_of(self, example: Example) -> tuple[int, int]:
        """(tokens, windows of the vision tower) of a prompt, decoding only pictures of unknown size.

        Raises:
          ValueError: a picture of a shape that cannot be resized.
        """
        shapes = tuple(self.picture_shape(picture.measure()) for picture in example.images)
        windows = sum(count_windows(grid, self.config.vision) for shape in shapes for grid in shape.grids)
        return self._length(self._text_of(example.id), example.question, shapes), windows

    def measure(self, examples: Iterable[Example], *, max_prompt_tokens: int) -> PromptSizes:
        """Finds the static sizes of a run by a scan of its questions, decoding only pictures of unknown size.

        Raises:
          ConfigError: prompts longer than the limit (never cut: half an image is another image) and pictures of
            an impossible shape, all of them by id.
        """
        tokens, windows, too_long, misshaped = 1, 0, [], []
        for example in examples:
            try:
                length, needed = self.size_of(example)
            except ValueError as error:
                misshaped.append(f"{example.image_id} ({error})")
                continue
            if length > max_prompt_tokens:
                too_long.append(f"{example.id} ({length})")
            tokens, windows = max(tokens, length), max(windows, needed)
        misshaped = list(dict.fromkeys(misshaped))
        complaints = []
        if misshaped:
            complaints.append(
                f"{len(misshaped)} pictures cannot be resized: {list_offenders(misshaped)}. Crop or remove them."
            )
        if too_long:
            complaints.append(
                f"data.max_prompt_tokens={max_prompt_tokens}: {len(too_long)} prompts are longer: "
                f"{list_offenders(too_long)}. Raise it, or lower data.max_pixels: prompts are never cut."
            )
        if complaints:
            raise ConfigError("\n".join(complaints))
        return PromptSizes(-(-tokens // TOKEN_MULTIPLE) * TOKEN_MULTIPLE, windows)

    def collate(self, prompts: Sequence[EncodedPrompt], *, prompt_tokens: int, windows: int) -> PromptInputs:
        """Pads prompts on the left to one shape; numpy arrays.

        Args:
          prompts: P encoded prompts, each at most `prompt_tokens` long.
          prompt_tokens: Lp.
          windows: W; 0 means that no prompt of the run has an image.
        """
        longest = max(len(prompt.ids) for prompt in prompts)
        if longest > prompt_tokens:
            raise ValueError(f"expected prompts of at most {prompt_tokens} tokens; got {longest}.")
        tokens = np.full((len(prompts), prompt_tokens), self.pad_id, np.int32)
        is_valid = np.zeros(tokens.shape, bool)
        positions = np.zeros((len(prompts), 3, prompt_tokens), np.int32)
        features = np.full(tokens.shape, -1, np.int32)
        for row, prompt in enumerate(prompts):
            grids = [grid for _, grid in prompt.images]
            tokens[row, prompt_tokens - len(prompt.ids) :] = prompt.ids
            is_valid[row, prompt_tokens - len(prompt.ids) :] = True
            positions[row] = mrope_positions(tokens[row], is_valid[row], grids, self.config)
            features[row] = feature_index(tokens[row], is_valid[row], grids, self.config)
        images, normalisation = [list(prompt.images) for prompt in prompts], self.images.normalisation
        return PromptInputs(
            tokens=tokens,
            is_valid=is_valid,
            positions=positions,
            feature_index=features,
            vision=layout_vision(images, self.config.vision, windows, normalisation) if windows else None,
        )


def load_processor(directory: str | Path, *, min_pixels: int, max_pixels: int, prompt: str, seed: int = 0) -> Processor:
    """Reads the tokenizer, chat template and image settings of a Hugging Face policy directory.

    Args:
      directory: holds config.json, preprocessor_config.json or processor_config.json, and the tokenizer's files.
      min_pixels: smallest area of a resized picture; the directory's own limits do not count.
      max_pixels: largest area.
      prompt: a key of `PROMPTS`.
      seed: of the run, see `Processor`.

    Raises:
      ConfigError: a file is missing or damaged, the image processor prepares pictures in a way that the model does not
        read or this package does not compute, the tokenizer has tokens that the model has no row for, or the chat
        template cannot show a picture and a text.
    """
    _check_prompt(prompt)
    directory = Path(directory)
    config = read_qwen_config(directory)
    images = read_image_settings(directory, config.vision, min_pixels=min_pixels, max_pixels=max_pixels)
    tokenizer = load_policy_tokenizer(directory)
    check_rows(tokenizer, config.text.vocabulary, setting="policy.path", source=directory)
    template = read_chat_template(directory)
    source = directory if template is None else template.source
    return Processor(tokenizer, images, config, prompt=prompt, seed=seed, template_source=source)


def _marks(tokenizer: Any) -> TileMarks:
    """Those that the tokenizer's files name, as transformers' processor reads them; else those of the published models."""
    names = {"image": "image_token", "around": "fake_image_token", "whole": "global_image_token"}
    named = {mark: getattr(tokenizer, name, None) for mark, name in names.items()}
    return TileMarks(**{mark: str(token) for mark, token in named.items() if token})


def _check_prompt(prompt: str) -> None:
    if prompt not in PROMPTS:
        raise ConfigError(f"data.prompt: expected one of {', '.join(PROMPTS)}; got {prompt!r}.")
