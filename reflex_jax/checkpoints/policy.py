"""A policy as users hold it: configuration, parameters and the processor of its prompts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Float, Int

from reflex_jax.checkpoints.huggingface import load_policy_params, save_policy_params, tensor_dtypes
from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.checkpoints.qwen_tensors import abstract_policy_params
from reflex_jax.checkpoints.safetensors_writer import SHARD_BYTES
from reflex_jax.checkpoints.whole_directory import whole_directory
from reflex_jax.config import DataConfig
from reflex_jax.data.images import prompt_inputs_from_huggingface
from reflex_jax.data.prompts import Processor, load_processor
from reflex_jax.json_files import read_json_object
from reflex_jax.models.partitioning import policy_table
from reflex_jax.models.qwen_vl import QwenVLConfig, prompt_logits
from reflex_jax.sharding import AnyMesh, parameter_shardings
from reflex_jax.text.chat_template import TEMPLATE_FOLDER
from reflex_jax.text.tokenizer import special_added_ids
from reflex_jax.trees import Array, Params, Shardings

CONFIG_FILE = "config.json"
_WEIGHT_SUFFIXES = (".safetensors", ".index.json", ".bin", ".pt", ".pth", ".gguf")


@dataclass(frozen=True)
class Policy:
    """A policy of one of the families."""

    config: QwenVLConfig
    params: Params
    processor: Processor
    directory: Path  # where it came from

    @property
    def special_ids(self) -> tuple[int, ...]:
        """See the function of that name."""
        return special_ids(self.config, self.processor.tokenizer)


def special_ids(config: QwenVLConfig, tokenizer: Any) -> tuple[int, ...]:
    """Ids a completion may never hold, unless they end it: special tokens, image and video markers."""
    vision = (config.image_token_id, config.video_token_id, config.vision_start_token_id, config.vision_end_token_id)
    ids = {*tokenizer.all_special_ids, *(number for number in vision if number is not None)}
    if config.vision.tile_size:  # the marks of tiles have no role in the tokenizer's settings
        ids |= special_added_ids(tokenizer)
    return tuple(sorted(ids))


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
      mesh: of `reflex_jax.sharding.make_mesh`, whose devices share the parameters, each reading its own; None: all
        lie on the default device.
      min_pixels, max_pixels: area of the resized image.
      prompt: name of the user turn's template, see `data/prompt_texts.py`.
    Raises:
      ConfigError: not a checkpoint, a file is missing, or tensors are missing, extra, misshaped or no floats, all of
        them listed.
    """
    directory = resolve_checkpoint(path, "policy")
    processor = load_processor(directory, min_pixels=min_pixels, max_pixels=max_pixels, prompt=prompt)
    shardings = None if mesh is None else policy_shardings(processor.config, mesh)
    params = load_policy_params(directory, processor.config, dtype, shardings)
    return Policy(processor.config, params, processor, directory)


def policy_shardings(config: QwenVLConfig, mesh: AnyMesh) -> Shardings:
    """Returns where each leaf of the policy's parameters lies on a mesh."""
    return parameter_shardings(abstract_policy_params(config), policy_table(config, mesh), mesh)


def save_policy(
    source: Path,
    config: QwenVLConfig,
    params: Params,
    directory: str | Path,
    *,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a Hugging Face directory, whole or not at all: weights beside the files of the checkpoint they come from.

    With several processes all call it, process 0 writes.

    Args:
      source: the checkpoint whose configuration, tokenizer and preprocessor are copied.
      config: of the policy.
      params: arrays, on any devices.
      directory: where to; a directory there must be empty, and may be a mount point or a link to one.
      dtype: of the tensors on disk, which config.json then names; None: each as in `source`.
      shard_bytes: size of one file.
    Raises:
      OSError: the disk is full, or the like; then nothing is left behind.
    """
    dtypes = tensor_dtypes(source, config)
    if dtype is not None:
        dtypes = dict.fromkeys(dtypes, jnp.dtype(dtype))
    if jax.process_index() == 0:
        with whole_directory(directory, last=CONFIG_FILE) as partial:
            _copy_companions(source, partial, dtype)
            save_policy_params(params, config, partial, dtypes=dtypes, shard_bytes=shard_bytes)
    else:
        save_policy_params(params, config, directory, dtypes=dtypes, shard_bytes=shard_bytes)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("policy saved")


def _copy_companions(source: Path, directory: Path, dtype: str | None) -> None:
    """Copies everything of a checkpoint but its weights."""
    for file in source.iterdir():
        if file.is_file() and not file.name.endswith(_WEIGHT_SUFFIXES):
            shutil.copyfile(file, directory / file.name)
    if (source / TEMPLATE_FOLDER).is_dir():
        shutil.copytree(source / TEMPLATE_FOLDER, directory / TEMPLATE_FOLDER)
    if dtype is not None:
        path = directory / CONFIG_FILE
        path.write_text(json.dumps(_with_dtype(read_json_object(path, setting="policy.path"), dtype), indent=2) + "\n")


def _with_dtype(raw: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Names another dtype wherever a config.json names one: transformers loads in it."""
    nested = {key: _with_dtype(value, dtype) for key, value in raw.items() if isinstance(value, dict)}
    named = {key: dtype for key in ("dtype", "torch_dtype") if key in raw}
    return {**raw, **nested, **named}


def policy_logits(
    policy: Policy,
    input_ids: Int[np.ndarray, "B S"],
    attention_mask: Int[np.ndarray, "B S"],
    pixel_values: Float[np.ndarray, "n frames"] | Float[np.ndarray, "B N 3 side side"] | None = None,
    image_grid_thw: Int[np.ndarray, "images 3"] | None = None,
    pixel_attention_mask: Int[np.ndarray, "B N side side"] | None = None,
) -> Float[Array, "B S V"]:
    """Raw float32 logits for inputs named and laid out as Hugging Face's processor returns them.

    Args:
      policy: of `load_policy`.
      input_ids: prompts, padded on either side, with 0, 1 or more images in a row.
      attention_mask: 0 for padding.
      pixel_values: patches of all images behind one another, or the tiles of each row; None without images.
      image_grid_thw: patch grid of each image.
      pixel_attention_mask: of tiles.
    """
    inputs = prompt_inputs_from_huggingface(
        input_ids, attention_mask, pixel_values, image_grid_thw, policy.config, pixel_attention_mask
    )
    return jax.jit(prompt_logits, static_argnums=2)(policy.params, inputs, policy.config)
