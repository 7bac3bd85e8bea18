"""A policy as users hold it: configuration, parameters and the processor of its prompts."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from reflex_jax.checkpoints.huggingface import load_policy_params, save_policy_params
from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.config import DataConfig
from reflex_jax.data.images import prompt_inputs_from_huggingface
from reflex_jax.data.prompts import Processor, load_processor
from reflex_jax.models.partitioning import policy_table
from reflex_jax.models.qwen_vl import QwenVLConfig, prompt_logits
from reflex_jax.sharding import parameter_shardings, to_global

_WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".gguf")


@dataclass(frozen=True)
class Policy:
    """A Qwen2.5-VL policy."""

    config: QwenVLConfig
    params: Any
    processor: Processor
    directory: Path  # where it came from

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids a completion may never hold, unless they end it: special tokens, image and video markers."""
        config = self.config
        vision = (
            config.image_token_id, config.video_token_id, config.vision_start_token_id, config.vision_end_token_id,
        )  # fmt: skip
        return tuple(sorted({*self.processor.tokenizer.all_special_ids, *vision}))


def load_policy(
    path: str | Path,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    *,
    min_pixels: int = DataConfig.min_pixels,
    max_pixels: int = DataConfig.max_pixels,
    prompt: str = DataConfig.prompt,
) -> Policy:
    """Reads a policy from a Hugging Face directory.

    Args:
      path: the directory, or "phantom" for the one that ships with the package.
      dtype: of the parameters in memory.
      mesh: of `reflex_jax.sharding.make_mesh`, whose devices share the parameters; None: they stay on the host.
      min_pixels, max_pixels: area of the resized image.
      prompt: name of the user turn's template, see `data/prompts.py`.
    Raises:
      ConfigError: not a checkpoint, or a file is missing.
      ValueError: tensors missing, extra or misshaped, all of them listed.
    """
    directory = resolve_checkpoint(path, "policy")
    processor = load_processor(directory, min_pixels=min_pixels, max_pixels=max_pixels, prompt=prompt)
    params = load_policy_params(directory, processor.config, dtype)
    if mesh is not None:
        params = to_global(params, parameter_shardings(params, policy_table(processor.config, mesh), mesh))
    return Policy(processor.config, params, processor, directory)


def save_policy(policy: Policy, params: Any, directory: str | Path) -> None:
    """Writes parameters beside a copy of the policy's configuration and tokenizer, in the Hugging Face layout."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for source in policy.directory.iterdir():
        if source.is_file() and not source.name.endswith(_WEIGHT_SUFFIXES):
            shutil.copyfile(source, directory / source.name)
    save_policy_params(params, policy.config, directory)


def policy_logits(
    policy: Policy,
    input_ids: Int[np.ndarray, "B S"],
    attention_mask: Int[np.ndarray, "B S"],
    pixel_values: Float[np.ndarray, "n 1176"] | None = None,
    image_grid_thw: Int[np.ndarray, "images 3"] | None = None,
) -> Float[Array, "B S V"]:
    """Raw float32 logits for inputs named and laid out as Hugging Face's processor returns them.

    Args:
      policy: of `load_policy`.
      input_ids: prompts, padded on either side, with 0, 1 or more images in a row.
      attention_mask: 0 for padding.
      pixel_values: patches of all images behind one another; None without images.
      image_grid_thw: patch grid of each image.
    """
    inputs = prompt_inputs_from_huggingface(input_ids, attention_mask, pixel_values, image_grid_thw, policy.config)
    return jax.jit(prompt_logits, static_argnums=2)(policy.params, inputs, policy.config)
