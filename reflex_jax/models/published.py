"""Sizes of published checkpoints by name, so that a run can be planned before anything is downloaded.

A checkpoint on disk is never read through this table: its own config.json counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reflex_jax.models.bert import BertConfig
from reflex_jax.models.biomedclip import BiomedClipConfig
from reflex_jax.models.clip_vision import VisionTowerConfig
from reflex_jax.models.qwen_decoder import QwenTextConfig
from reflex_jax.models.qwen_vision import QwenVisionConfig
from reflex_jax.models.qwen_vl import QwenVLConfig

_QWEN_IDS: dict[str, Any] = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "eos_token_ids": (151645, 151643),
    "pad_token_id": 151643,
}


def _qwen2_text(**sizes: Any) -> QwenTextConfig:
    return QwenTextConfig(epsilon=1e-6, rope_theta=1e6, rope_sections=(16, 24, 24), **sizes)


def _qwen2_vl(**sizes: Any) -> QwenVLConfig:
    """One of the family; the sizes that differ are named."""
    vision = QwenVisionConfig(
        width=1280, depth=32, heads=16, hidden=5120, output_width=sizes["width"],
        full_attention_layers=tuple(range(32)), window_features=16, norm="layer", feed_forward="quick_gelu",
    )  # fmt: skip
    return QwenVLConfig(family="qwen2_vl", text=_qwen2_text(**sizes), vision=vision, **_QWEN_IDS)


def _qwen2_5_vl(**sizes: Any) -> QwenVLConfig:
    """One of the family; the sizes that differ are named."""
    vision = QwenVisionConfig(
        width=1280, depth=32, heads=16, hidden=3420, output_width=sizes["width"], full_attention_layers=(7, 15, 23, 31)
    )
    return QwenVLConfig(text=_qwen2_text(**sizes), vision=vision, **_QWEN_IDS)


def _qwen3_vl(*, tower: str, **sizes: Any) -> QwenVLConfig:
    """One of the family, with the smaller or the larger of its two towers."""
    towers: dict[str, dict[str, Any]] = {
        "small": {"width": 1024, "depth": 24, "hidden": 4096, "deepstack_layers": (5, 11, 17)},
        "large": {"width": 1152, "depth": 27, "hidden": 4304, "deepstack_layers": (8, 16, 24)},
    }
    vision = QwenVisionConfig(
        heads=16, output_width=sizes["width"], full_attention_layers=tuple(range(towers[tower]["depth"])),
        window_features=16, patch_size=16, norm="layer", feed_forward="gelu_pytorch_tanh", has_patch_bias=True,
        position_side=48, **towers[tower],
    )  # fmt: skip
    text = QwenTextConfig(
        vocabulary=151936, key_heads=8, epsilon=1e-6, rope_theta=5e6, rope_sections=(24, 20, 20), own_head_width=128,
        has_qkv_bias=False, has_head_norms=True, is_interleaved=True, **sizes,
    )  # fmt: skip
    return QwenVLConfig(family="qwen3_vl", text=text, vision=vision, **_QWEN_IDS)


def _smolvlm2(*, tower: str, theta: float, **sizes: Any) -> QwenVLConfig:
    """One of the family, with the smaller or the larger of its two SigLIP towers."""
    towers: dict[str, dict[str, Any]] = {
        "base": {"width": 768, "depth": 12, "heads": 12, "hidden": 3072, "tile_size": 512, "patch_size": 16, "merge_size": 4},
        "so400m": {
            "width": 1152, "depth": 27, "heads": 16, "hidden": 4304, "tile_size": 384, "patch_size": 14, "merge_size": 3,
        },
    }  # fmt: skip
    chosen = towers[tower]
    side = chosen["tile_size"] // chosen["patch_size"]
    vision = QwenVisionConfig(
        output_width=sizes["width"], full_attention_layers=tuple(range(chosen["depth"])),
        window_features=(side // chosen["merge_size"]) ** 2, temporal_patch_size=1, norm="layer",
        feed_forward="gelu_pytorch_tanh", has_patch_bias=True, position_side=side, has_own_cells=True, has_rotation=False,
        is_merged_linearly=True, **chosen,
    )  # fmt: skip
    text = QwenTextConfig(
        vocabulary=49280,
        epsilon=1e-5,
        rope_theta=theta,
        rope_sections=(32,),
        is_tied=False,
        has_qkv_bias=False,
        **sizes,
    )
    return QwenVLConfig(
        family="smolvlm", text=text, vision=vision, image_token_id=49190, eos_token_ids=(49279,), pad_token_id=2
    )


POLICIES = {
    "Qwen2-VL-2B-Instruct": _qwen2_vl(
        vocabulary=151936, width=1536, layers=28, heads=12, key_heads=2, hidden=8960, is_tied=True
    ),
    "Qwen2-VL-7B-Instruct": _qwen2_vl(
        vocabulary=152064, width=3584, layers=28, heads=28, key_heads=4, hidden=18944, is_tied=False
    ),
    "Qwen2.5-VL-3B-Instruct": _qwen2_5_vl(
        vocabulary=151936, width=2048, layers=36, heads=16, key_heads=2, hidden=11008, is_tied=True
    ),
    "Qwen2.5-VL-7B-Instruct": _qwen2_5_vl(
        vocabulary=152064, width=3584, layers=28, heads=28, key_heads=4, hidden=18944, is_tied=False
    ),
    "Qwen3-VL-2B-Instruct": _qwen3_vl(tower="small", width=2048, layers=28, heads=16, hidden=6144, is_tied=True),
    "Qwen3-VL-4B-Instruct": _qwen3_vl(tower="small", width=2560, layers=36, heads=32, hidden=9728, is_tied=True),
    "Qwen3-VL-8B-Instruct": _qwen3_vl(tower="large", width=4096, layers=36, heads=32, hidden=12288, is_tied=False),
    "SmolVLM2-256M-Video-Instruct": _smolvlm2(
        tower="base", theta=1e5, width=576, layers=30, heads=9, key_heads=3, hidden=1536
    ),
    "SmolVLM2-500M-Video-Instruct": _smolvlm2(
        tower="base", theta=1e5, width=960, layers=32, heads=15, key_heads=5, hidden=2560
    ),
    "SmolVLM2-2.2B-Instruct": _smolvlm2(
        tower="so400m", theta=1.3e5, width=2048, layers=24, heads=32, key_heads=32, hidden=8192
    ),
}
JUDGES = {
    "BiomedCLIP-PubMedBERT_256-vit_base_patch16_224": BiomedClipConfig(
        vision=VisionTowerConfig(image_size=224, patch_size=16, width=768, depth=12, heads=12, hidden=3072),
        text=BertConfig(
            vocabulary=30522, width=768, depth=12, heads=12, hidden=3072, positions=512, types=2, pad_token_id=0,
            context_length=256,
        ),
        embed_dim=512,
    ),
}  # fmt: skip


def _bert(**sizes: Any) -> BertConfig:
    """One of BERT's sizes with its own vocabulary; what differs is named."""
    return BertConfig(vocabulary=30522, positions=512, types=2, pad_token_id=0, context_length=512, **sizes)


_BASE = _bert(width=768, depth=12, heads=12, hidden=3072)
_LARGE = _bert(width=1024, depth=24, heads=16, hidden=4096)
ENCODERS = {
    "BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext": _BASE,
    "MedEmbed-base-v0.1": _BASE,
    "MedEmbed-large-v0.1": _LARGE,
    "PubMedBERT": _BASE,
    "bert-base-uncased": _BASE,
    "bert-large-uncased": _LARGE,
}


def published_policy(path: str | Path) -> QwenVLConfig | None:
    """Sizes of the policy whose directory bears a published name, None for any other."""
    return POLICIES.get(Path(path).name)


def published_judge(path: str | Path) -> BiomedClipConfig | None:
    """Sizes of the judge whose directory bears a published name, None for any other."""
    return JUDGES.get(Path(path).name)


def published_encoder(path: str | Path) -> BertConfig | None:
    """Sizes of the text encoder whose directory bears a published name, None for any other."""
    return ENCODERS.get(Path(path).name)
