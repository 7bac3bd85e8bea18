"""A tiny random policy and a batch of odd prompts, without torch."""

import dataclasses

import jax
import numpy as np

from reflex_jax.data.images import prompt_inputs_from_huggingface
from reflex_jax.models.qwen_decoder import QwenTextConfig
from reflex_jax.models.qwen_vision import QwenVisionConfig
from reflex_jax.models.qwen_vl import Params, QwenVLConfig, init_policy_params
from reflex_jax.records import PromptInputs

EOS, SECOND_EOS, PAD, IMAGE = 90, 91, 92, 93
CONFIG = QwenVLConfig(
    text=QwenTextConfig(
        vocabulary=100, width=32, layers=2, heads=4, key_heads=2, hidden=48, epsilon=1e-6, rope_theta=1e4,
        rope_sections=(1, 2, 1), is_tied=True),
    vision=QwenVisionConfig(
        width=16, depth=2, heads=2, hidden=24, output_width=32, full_attention_layers=(1,), window_size=56),
    image_token_id=IMAGE, video_token_id=94, vision_start_token_id=95, vision_end_token_id=96,
    eos_token_ids=(EOS, SECOND_EOS), pad_token_id=PAD,
)  # fmt: skip
CONFIGS = {
    "qwen2_5_vl": CONFIG,
    "qwen2_vl": dataclasses.replace(
        CONFIG, family="qwen2_vl",
        vision=QwenVisionConfig(
            width=16, depth=2, heads=2, hidden=24, output_width=32, full_attention_layers=(0, 1), window_features=4,
            norm="layer", feed_forward="quick_gelu",
        ),
    ),
    "qwen3_vl": dataclasses.replace(
        CONFIG, family="qwen3_vl",
        text=dataclasses.replace(
            CONFIG.text, own_head_width=12, rope_sections=(2, 2, 2), is_tied=False, has_qkv_bias=False,
            has_head_norms=True, is_interleaved=True,
        ),
        vision=QwenVisionConfig(
            width=16, depth=3, heads=2, hidden=24, output_width=32, full_attention_layers=(0, 1, 2), window_features=4,
            patch_size=16, norm="layer", feed_forward="gelu_pytorch_tanh", has_patch_bias=True, position_side=5,
            deepstack_layers=(1,),
        ),
    ),
    "smolvlm": dataclasses.replace(
        CONFIG, family="smolvlm", video_token_id=None, vision_start_token_id=None, vision_end_token_id=None,
        text=dataclasses.replace(CONFIG.text, rope_sections=(4,), is_tied=False, has_qkv_bias=False),
        vision=QwenVisionConfig(
            width=12, depth=2, heads=2, hidden=24, output_width=32, full_attention_layers=(0, 1), window_features=4,
            patch_size=3, temporal_patch_size=1, norm="layer", feed_forward="gelu_pytorch_tanh", has_patch_bias=True,
            position_side=4, has_own_cells=True, has_rotation=False, is_merged_linearly=True, tile_size=13,
        ),
    ),
}  # fmt: skip
ALLOWED = np.arange(100) < EOS + 2


def tiny_params(seed: int = 0, config: QwenVLConfig = CONFIG) -> Params:
    """Random parameters as wide as trained ones, with biases and scales away from 0 and 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf) -> np.ndarray:
        is_scale = path[-1].key == "scale"
        return (rng.normal(size=leaf.shape) * 0.12 + is_scale).astype(np.float32)

    shapes = jax.eval_shape(lambda: init_policy_params(config, jax.random.key(0)))
    return jax.device_put(jax.tree_util.tree_map_with_path(draw, shapes))


def with_a_gradient(gradients: Params, config: QwenVLConfig) -> Params:
    """The gradients without the one that is 0 but for rounding: a bias of keys that do not turn moves all scores of a query."""
    if config.vision.has_rotation:
        return gradients
    vision = gradients["vision"]
    keys = {name: leaf for name, leaf in vision["layers"]["k"].items() if name != "bias"}
    return {**gradients, "vision": {**vision, "layers": {**vision["layers"], "k": keys}}}


def odd_prompts(*, padding: str = "left", seed: int = 0, config: QwenVLConfig = CONFIG) -> PromptInputs:
    """Two prompts of different length, one with an image whose windows are cut, one without an image."""
    rng = np.random.default_rng(seed)
    grid, tile = (1, 6, 4), config.vision.tile_size
    tokens = 2 * config.vision.window_features if tile else 6  # of two tiles
    rows = [[*rng.integers(0, 80, 2), *[IMAGE] * tokens, *rng.integers(0, 80, 5)], list(rng.integers(0, 80, 9))]
    length = max(map(len, rows)) + 1
    input_ids, attention_mask = np.full((2, length), PAD), np.zeros((2, length), np.int64)
    for index, row in enumerate(rows):
        where = slice(length - len(row), length) if padding == "left" else slice(0, len(row))
        input_ids[index, where], attention_mask[index, where] = row, 1
    if tile:
        tiles = rng.normal(size=(2, 2, 3, tile, tile)).astype(np.float32)
        tiles[1] = 0  # nothing there
        return prompt_inputs_from_huggingface(input_ids, attention_mask, tiles, None, config)
    pixels = rng.normal(size=(grid[1] * grid[2], config.vision.patch_width)).astype(np.float32)
    return prompt_inputs_from_huggingface(input_ids, attention_mask, pixels, np.array([grid]), config)


def odd_completions(*, group_size: int = 3, steps: int = 7, seed: int = 1) -> np.ndarray:
    """Random allowed tokens [P, G, Lc]."""
    return np.random.default_rng(seed).integers(0, 90, (2, group_size, steps)).astype(np.int32)
