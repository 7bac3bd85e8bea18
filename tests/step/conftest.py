"""Tiny random models and one batch, for tests of the step."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from reflex_jax.config import MeshConfig
from reflex_jax.config_reader import load_config
from reflex_jax.models.bert import BertConfig
from reflex_jax.models.biomedclip import BiomedClipConfig, init_judge_params
from reflex_jax.models.clip_vision import VisionTowerConfig
from reflex_jax.models.qwen_decoder import QwenTextConfig
from reflex_jax.models.qwen_vision import QwenVisionConfig
from reflex_jax.models.qwen_vl import QwenVLConfig, init_policy_params
from reflex_jax.records import HostScores, JudgeInputs, PromptInputs, Rollout, TrainBatch, VisionInputs
from reflex_jax.sharding import make_mesh
from reflex_jax.step.sampling import Vocabulary
from reflex_jax.step.shapes import Shapes

POLICY = QwenVLConfig(
    text=QwenTextConfig(
        vocabulary=64, width=32, layers=2, heads=8, key_heads=2, hidden=48, epsilon=1e-6, rope_theta=1e4,
        rope_sections=(1, 0, 1), is_tied=False,
    ),
    vision=QwenVisionConfig(width=32, depth=2, heads=2, hidden=48, output_width=32, full_attention_layers=(1,), window_size=28),
    image_token_id=60, video_token_id=61, vision_start_token_id=58, vision_end_token_id=59, eos_token_ids=(1,), pad_token_id=0,
)  # fmt: skip
POLICIES = {
    "qwen2_5_vl": POLICY,
    "qwen2_vl": dataclasses.replace(
        POLICY, family="qwen2_vl",
        vision=QwenVisionConfig(
            width=32, depth=2, heads=2, hidden=48, output_width=32, full_attention_layers=(0, 1), window_features=1,
            norm="layer", feed_forward="quick_gelu",
        ),
    ),
    "qwen3_vl": dataclasses.replace(
        POLICY, family="qwen3_vl",
        text=dataclasses.replace(
            POLICY.text, own_head_width=6, rope_sections=(1, 1, 1), has_qkv_bias=False, has_head_norms=True,
            is_interleaved=True,
        ),
        vision=QwenVisionConfig(
            width=32, depth=2, heads=2, hidden=48, output_width=32, full_attention_layers=(0, 1), window_features=1,
            patch_size=16, norm="layer", feed_forward="gelu_pytorch_tanh", has_patch_bias=True, position_side=4,
            deepstack_layers=(0,),
        ),
    ),
    "smolvlm": dataclasses.replace(
        POLICY, family="smolvlm", video_token_id=None, vision_start_token_id=None, vision_end_token_id=None,
        text=dataclasses.replace(POLICY.text, rope_sections=(2,), has_qkv_bias=False),
        vision=QwenVisionConfig(
            width=32, depth=2, heads=2, hidden=48, output_width=32, full_attention_layers=(0, 1), window_features=1,
            temporal_patch_size=1, norm="layer", feed_forward="gelu_pytorch_tanh", has_patch_bias=True, position_side=2,
            has_own_cells=True, has_rotation=False, is_merged_linearly=True, tile_size=28,
        ),
    ),
}  # fmt: skip
JUDGE = BiomedClipConfig(
    vision=VisionTowerConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2, hidden=64),
    text=BertConfig(
        vocabulary=50, width=32, depth=2, heads=2, hidden=64, positions=32, types=2, pad_token_id=0, context_length=32
    ),
    embed_dim=16,
)
ALLOWED = np.arange(POLICY.text.vocabulary) < 58
VOCABULARY = Vocabulary(ALLOWED, POLICY.eos_token_ids, POLICY.pad_token_id)
GROUP, PROMPT_TOKENS, NEW_TOKENS = 4, 10, 6


def tiny_shapes(mesh: Mesh | None = None, policy: QwenVLConfig = POLICY) -> Shapes:
    """Of the tiny models; None: on one device."""
    return Shapes(mesh or make_mesh(MeshConfig(data=1), jax.devices()[:1]), policy, JUDGE, VOCABULARY)


@dataclass
class TinyWorld:
    """Models, a batch, and the vocabulary."""

    policy_params: Any
    judge_params: Any
    policy: QwenVLConfig = POLICY

    @staticmethod
    def config(*overrides: str):
        """A configuration for P = 8 prompts."""
        return load_config(None, [
            f"grpo.group_size={GROUP}", "grpo.prompts_per_step=8", f"rollout.max_new_tokens={NEW_TOKENS}",
            "optimizer.name=sgd", "optimizer.learning_rate=0.5",
            "optimizer.weight_decay=0", "optimizer.clip_norm=1000", "grpo.kl_coefficient=0.05", "memory.remat=false",
            "rewards.components.provenance.text_threshold=0.5", "rewards.components.provenance.image_threshold=0.0", *overrides,
        ])  # fmt: skip

    def batch(self, prompts: int = 8, seed: int = 0) -> TrainBatch:
        """Random prompts with one 28-pixel image each, completions of several lengths, statements and scores."""
        random = np.random.default_rng(seed)
        image_token, vision = self.policy.image_token_id, self.policy.vision
        tokens = random.integers(2, 50, (prompts, PROMPT_TOKENS)).astype(np.int32)
        padding = random.integers(0, 4, prompts)
        is_valid = np.arange(PROMPT_TOKENS)[None] >= padding[:, None]
        tokens[:, 5] = image_token
        positions = np.cumsum(is_valid, 1) - 1
        lengths = random.integers(1, NEW_TOKENS + 1, (prompts, GROUP))
        mask = np.arange(NEW_TOKENS) < lengths[..., None]
        completions = np.where(mask, random.integers(2, 50, (prompts, GROUP, NEW_TOKENS)), 0)
        statements = random.integers(5, 50, (prompts, GROUP + 1, 8))
        correct = random.random((prompts, GROUP)) < 0.5
        return TrainBatch(
            prompts=PromptInputs(
                tokens=tokens, is_valid=is_valid,
                positions=np.repeat(np.maximum(positions, 0)[:, None], 3, 1).astype(np.int32),
                feature_index=np.where(tokens == image_token, 0, -1).astype(np.int32),
                vision=VisionInputs(
                    patches=random.normal(size=(prompts, 1, 4, vision.patch_width)).astype(np.float32),
                    coordinates=np.tile(np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32), (prompts, 1, 1, 1)),
                    image_ids=np.ones((prompts, 1, 4), np.int32),
                    places=random.uniform(0, 3, (prompts, 1, 4, 2)).astype(np.float32) if vision.has_places else None,
                ),
            ),
            rollout=Rollout(
                tokens=completions.astype(np.int32), log_probs=np.where(mask, -3.0, 0).astype(np.float32), mask=mask
            ),
            judge=JudgeInputs(
                pixels=random.integers(0, 256, (prompts, 32, 32, 3)).astype(np.uint8),
                statements=statements.astype(np.int32),
                statement_count=np.full(prompts, GROUP + 1, np.int32),
                statement_index=np.tile(np.arange(1, GROUP + 1, dtype=np.int32), (prompts, 1)),
                has_statement=random.random((prompts, GROUP)) < 0.9,
            ),
            scores=HostScores(
                components={
                    "answer": correct.astype(np.float32),
                    "format": random.integers(0, 2, (prompts, GROUP)).astype(np.float32),
                },
                applies={name: np.ones((prompts, GROUP), bool) for name in ("answer", "format")},
                is_correct=correct, is_valid=np.ones((prompts, GROUP), bool),
            ),
        )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_world() -> TinyWorld:
    """Random weights wide enough that attention is not flat."""

    @jax.jit  # as one program: op by op, two hundred would be compiled
    def draw() -> tuple[Any, Any]:
        policy = jax.tree.map(lambda x: x * 4 if x.ndim > 1 else x, init_policy_params(POLICY, jax.random.key(0)))
        return policy, init_judge_params(JUDGE, jax.random.key(1))

    return TinyWorld(*draw())
