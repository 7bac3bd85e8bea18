"""Tiny random checkpoints of each family written by transformers, and batches of odd images to compare on."""

import json
from pathlib import Path

import numpy as np

VOCABULARY = 160
TILE, TILE_FEATURES = 26, 9  # pixels of a tile's side, two of which are beside whole patches; features of a tile
TILES = (
    3,
    0,
    4,
)  # of each row: a picture of two tiles and the whole, none, one of one tile and one of two and the whole
IMAGE, VIDEO, VISION_START, VISION_END, EOS, PAD = 150, 151, 152, 153, 154, 155


def write_checkpoint(directory: Path, *, family: str = "qwen2_5_vl", is_tied: bool = True, seed: int = 0) -> Path:
    """Saves a random model in the hub's layout of its family (config.json and names) and returns its directory."""
    import torch
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(CONFIGS[family](is_tied)))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [EOS, 149], "pad_token_id": PAD}))
    torch.manual_seed(seed)
    model_class = _model_class(family)
    model = model_class(model_class.config_class.from_pretrained(directory)).float()
    with torch.no_grad():
        for parameter in model.parameters():  # as wide as trained weights; biases and norms away from 0 and 1
            if parameter.ndim > 1:
                parameter.mul_(6.0)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    tensors = {
        hub_spelling(name, family): tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if not (is_tied and name == "lm_head.weight")
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def hub_spelling(name: str, family: str) -> str:
    """A parameter of the torch model as the hub's files of its family name it."""
    if family in ("qwen3_vl", "smolvlm"):
        return name
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def _model_class(family: str):
    import transformers

    return getattr(transformers, MODEL_CLASSES[family])


def load_torch(directory: Path):
    """The same checkpoint as a torch model."""
    family = json.loads((directory / "config.json").read_text())["model_type"]
    return _model_class(family).from_pretrained(directory, attn_implementation="eager").float().eval()


def batch(*, padding: str, seed: int = 0, pixels_of_patch: int = 1176) -> dict[str, np.ndarray]:
    """Three rows as a Hugging Face processor would make them.

    Row 0 has a wide image whose windows are cut on both sides, row 1 none, row 2 a tall one and a small one: two aspect
    ratios, two images in a row, a row without an image.
    """
    rng = np.random.default_rng(seed)
    grids = [[(1, 12, 10)], [], [(1, 4, 22), (1, 8, 8)]]
    rows = []
    for images in grids:
        row = list(rng.integers(0, 140, 3))
        for _, height, width in images:
            row += [VISION_START, *[IMAGE] * (height * width // 4), VISION_END, *rng.integers(0, 140, 2)]
        rows.append(row + list(rng.integers(0, 140, 9)))
    input_ids, attention_mask = _padded(rows, padding)
    flat = [grid for images in grids for grid in images]
    pixels = rng.normal(size=(sum(h * w for _, h, w in flat), pixels_of_patch)).astype(np.float32)
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "pixel_values": pixels,
        "image_grid_thw": np.array(flat),
    }


def batch_of(config, *, padding: str, seed: int = 0) -> dict[str, np.ndarray | None]:
    """The same for a policy: `batch`, or of one that reads tiles three rows of `TILES`."""
    if not config.vision.tile_size:
        return batch(padding=padding, seed=seed, pixels_of_patch=config.vision.patch_width)
    rng = np.random.default_rng(seed)
    rows = [list(rng.integers(0, 140, 4)) for _ in TILES]
    for row, tiles in zip(rows, TILES, strict=True):
        for _ in range(tiles):
            row += [VISION_START, *rng.integers(0, 140, 1), *[IMAGE] * TILE_FEATURES]
        row += list(rng.integers(0, 140, 9))
    ids, mask = _padded(rows, padding)
    is_there = np.arange(max(TILES)) < np.array(TILES)[:, None]
    pixels = rng.normal(size=(len(TILES), max(TILES), 3, TILE, TILE)) * is_there[..., None, None, None]
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": pixels.astype(np.float32),
        "image_grid_thw": None,
        "pixel_attention_mask": np.broadcast_to(is_there[..., None, None], (*is_there.shape, TILE, TILE)).astype(
            np.int64
        ),
    }


def grids_of_rows(config, inputs: dict) -> list[list[tuple[int, int, int]]]:
    """The patch grids of each row of `batch_of`."""
    if config.vision.tile_size:
        return [[(1, 6, 6)] * tiles for tiles in TILES]
    first, second, third = (tuple(map(int, grid)) for grid in inputs["image_grid_thw"])
    return [[first], [], [second, third]]


def torch_inputs(inputs: dict[str, np.ndarray | None]) -> dict:
    """The batch as keyword arguments of the torch model."""
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in inputs.items() if array is not None}
    if "pixel_attention_mask" in tensors:
        return tensors
    return {**tensors, "mm_token_type_ids": (tensors["input_ids"] == IMAGE).int()}


def _padded(rows: list[list[int]], padding: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask; the longest row is padded too."""
    length = max(map(len, rows)) + 2
    input_ids, attention_mask = np.full((len(rows), length), PAD), np.zeros((len(rows), length), np.int64)
    for index, row in enumerate(rows):
        where = slice(length - len(row), length) if padding == "left" else slice(0, len(row))
        input_ids[index, where], attention_mask[index, where] = row, 1
    return input_ids, attention_mask


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest error over the largest number expected."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape, (got.shape, expected.shape)
    return float(np.abs(got - expected).max() / np.abs(expected).max())


_ROOT = {
    "image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}  # fmt: skip
_TEXT = {
    "hidden_act": "silu", "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 3,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "vocab_size": VOCABULARY, "bos_token_id": PAD,
    "eos_token_id": EOS, "max_position_embeddings": 4096, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
}  # fmt: skip
_QWEN2 = {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 3}


def _qwen2_5_vl(is_tied: bool) -> dict:
    return {
        "model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"], **_ROOT, **_TEXT, **_QWEN2,
        "tie_word_embeddings": is_tied,
        "vision_config": {
            "depth": 4, "hidden_act": "silu", "hidden_size": 32, "intermediate_size": 44, "num_heads": 2, "in_chans": 3,
            "out_hidden_size": 64, "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14,
            "window_size": 112, "fullatt_block_indexes": [1, 3], "tokens_per_second": 2, "temporal_patch_size": 2,
        },
    }  # fmt: skip


def _qwen2_vl(is_tied: bool) -> dict:
    """Its tower names the decoder's width `hidden_size`, and leaves out what is as published."""
    return {
        "model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"], **_ROOT, **_TEXT, **_QWEN2,
        "tie_word_embeddings": is_tied,
        "vision_config": {
            "depth": 3, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "in_chans": 3, "model_type": "qwen2_vl",
            "spatial_patch_size": 14,
        },
    }  # fmt: skip


def _qwen3_vl(is_tied: bool) -> dict:
    """Heads wider together than the decoder, a table of positions smaller than some pictures, features of two layers."""
    rope = {"mrope_interleaved": True, "mrope_section": [4, 3, 3], "rope_type": "default"}
    return {
        "model_type": "qwen3_vl", "architectures": ["Qwen3VLForConditionalGeneration"], **_ROOT,
        "tie_word_embeddings": is_tied,
        "text_config": {
            **_TEXT, "model_type": "qwen3_vl_text", "head_dim": 20, "attention_bias": False, "rope_scaling": rope,
            "rope_theta": 5e6, "tie_word_embeddings": is_tied,
        },
        "vision_config": {
            "depth": 4, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 32, "intermediate_size": 44, "num_heads": 2,
            "in_channels": 3, "out_hidden_size": 64, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
            "num_position_embeddings": 81, "deepstack_visual_indexes": [0, 2], "model_type": "qwen3_vl",
        },
    }  # fmt: skip


def _smolvlm(is_tied: bool) -> dict:
    """Tiles of six patches a side and a rest; heads of a width that no rotation could halve twice."""
    text = {key: value for key, value in _TEXT.items() if key not in ("rope_scaling", "hidden_act")}
    return {
        "model_type": "smolvlm", "architectures": ["SmolVLMForConditionalGeneration"], "image_token_id": IMAGE,
        "scale_factor": 2, "tie_word_embeddings": is_tied,
        "text_config": {**text, "model_type": "llama", "rms_norm_eps": 1e-5, "rope_theta": 1e5, "pad_token_id": PAD},
        "vision_config": {
            "hidden_size": 36, "intermediate_size": 44, "num_hidden_layers": 3, "num_attention_heads": 2,
            "image_size": TILE, "patch_size": 4, "model_type": "smolvlm_vision",
        },
    }  # fmt: skip


CONFIGS = {"qwen2_5_vl": _qwen2_5_vl, "qwen2_vl": _qwen2_vl, "qwen3_vl": _qwen3_vl, "smolvlm": _smolvlm}
MODEL_CLASSES = {
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "smolvlm": "SmolVLMForConditionalGeneration",
}
