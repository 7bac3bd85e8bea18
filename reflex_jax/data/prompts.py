"""HOST: a question and its picture -> token ids, image patches and positions as the policy reads them.

The user turn is the pictures in the order of their marks, the question and the task (`data.prompt_texts`). No system
turn is passed: a chat template that writes one of its own (Qwen's does) keeps it. Only the chat template inserts special
tokens; the user's words are split even where they spell one, so a question cannot open a turn or fake an image.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example, list_offenders
from reflex_jax.data.image_settings import ImageSettings, read_image_settings
from reflex_jax.data.images import (
    Grid,
    PatchedImage,
    count_windows,
    feature_index,
    layout_vision,
    mrope_positions,
    patchify,
    smart_resize,
)
from reflex_jax.data.prompt_texts import PROMPTS, QUESTION
from reflex_jax.models.qwen_vl import QwenVLConfig, read_qwen_config
from reflex_jax.records import PromptInputs
from reflex_jax.text.chat_template import read_chat_template
from reflex_jax.text.tokenizer import (
    check_rows,
    encode_template,
    encode_user_text,
    load_policy_tokenizer,
    render_turn,
)

TOKEN_MULTIPLE = 8  # prompt lengths are rounded up to this: rows of a matrix unit
# Private-use characters are in no chat template and no question; the others show whether a template rewrites its text.
_USER_TEXT = '\ue000User "text"\n  <&\'{{ }}\\>\ue000'


@dataclass(frozen=True)
class EncodedPrompt:
    """One prompt before padding; images in the order of their tokens."""

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
        if tokenizer.chat_template is None:
            raise ConfigError(
                "policy.path: the policy's directory has no chat template; copy chat_template.jinja or chat_template.json "
                "of the model there."
            )
        # questions repeat, over pictures of few sizes
        self._length = functools.lru_cache(maxsize=65536)(
            lambda text, question, tokens: len(self._assemble(text, question, tokens))
        )
        self._around = {pictures: self._render(pictures) for pictures in (0, 1)}

    def _render(self, pictures: int) -> tuple[list[int], list[int]]:
        """Ids before and after the user's text."""
        content = [{"type": "image"}] * pictures
        parts = render_turn(
            self.tokenizer, [*content, {"type": "text", "text": _USER_TEXT}], source=self._template_source
        ).split(_USER_TEXT)
        name = f"policy.path: the chat template of {self._template_source}"
        if len(parts) != 2:
            raise ConfigError(
                f"{name}: expected it to show the user's text once, unchanged; it does {len(parts) - 1} times."
            )
        before, after = (list(encode_template(self.tokenizer, part)) for part in parts)
        image_id = self.config.image_token_id
        if before.count(image_id) != pictures or image_id in after:
            raise ConfigError(
                f"{name}: expected {pictures} image token(s) of id {image_id} before the user's text and none behind; "
                f"got {before.count(image_id)} and {after.count(image_id)}."
            )
        return before, after

    def encode_text(self, question: str, *, example_id: str = "") -> list[int]:
        """Ids of the question within the task text, free of special and added tokens."""
        return self._encode(self._text_of(example_id), question)

    def _text_of(self, example_id: str) -> str:
        return PROMPTS[self.prompt].text_of(example_id, self._seed)

    def _encode(self, text: str, question: str) -> list[int]:
        # Encoded in one piece, as the model saw its training prompts: words merge across the border.
        return list(encode_user_text(self.tokenizer, text.replace(QUESTION, question.strip())))

    def _assemble(self, text: str, question: str, image_tokens: Sequence[int]) -> Int[np.ndarray, "L"]:
        """Ids of a prompt whose pictures take so many tokens, in their order."""
        pictures = len(image_tokens)
        if pictures not in self._around:
            self._around[pictures] = self._render(pictures)
        before, after = self._around[pictures]
        counts, ids = iter(image_tokens), list[int]()
        for token in before:
            ids += [token] * (next(counts) if token == self.config.image_token_id else 1)
        return np.asarray(ids + self._encode(text, question) + after, np.int32)

    def image_grid(self, size: tuple[int, int]) -> Grid:
        """The patch grid of a picture of (width, height) pixels, without decoding it."""
        vision = self.config.vision
        height, width = smart_resize(
            size[1],
            size[0],
            factor=vision.patch_size * vision.merge_size,
            min_pixels=self.images.min_pixels,
            max_pixels=self.images.max_pixels,
        )
        return 1, height // vision.patch_size, width // vision.patch_size

    def _count_image_tokens(self, grid: Grid) -> int:
        return int(np.prod(grid)) // self.config.vision.merge_size**2

    def encode(self, images: Sequence[Image.Image], question: str, *, example_id: str = "") -> EncodedPrompt:
        """Tokenises one question and cuts its pictures into patches; none: a question about text alone.

        Args:
          images: RGB, in the order of their marks.
          question: its words.
          example_id: of the question, which draws the text of a prompt that has several.
        """
        vision = self.config.vision
        patched = tuple(
            patchify(
                image,
                min_pixels=self.images.min_pixels,
                max_pixels=self.images.max_pixels,
                patch=vision.patch_size,
                merge=vision.merge_size,
            )
            for image in images
        )
        tokens = [self._count_image_tokens(grid) for _, grid in patched]
        return EncodedPrompt(self._assemble(self._text_of(example_id), question, tokens), patched)

    def size_of(self, example: Example) -> tuple[int, int]:
        """(tokens, windows of the vision tower) of a prompt, decoding only pictures of unknown size.

        Raises:
          ValueError: a picture of a shape that cannot be resized.
        """
        grids = [self.image_grid(picture.measure()) for picture in example.images]
        image_tokens = tuple(map(self._count_image_tokens, grids))
        windows = sum(count_windows(grid, self.config.vision) for grid in grids)
        return self._length(self._text_of(example.id), example.question, image_tokens), windows

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


def _check_prompt(prompt: str) -> None:
    if prompt not in PROMPTS:
        raise ConfigError(f"data.prompt: expected one of {', '.join(PROMPTS)}; got {prompt!r}.")
