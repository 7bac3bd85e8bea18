"""Sections of the policy and of how it is computed: `policy` with its adapters, `rollout`, `memory`, `mesh`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from reflex_jax.config.checks import check, check_choice, check_patterns


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters that train in the policy's place (LoRA, arXiv:2106.09685); the policy itself is then fixed."""

    rank: int = 0  # r; 0: no adapters
    alpha: float = 16.0
    scaling: str = (
        "standard"  # of what an adapter adds: standard, alpha / r | rslora, alpha / sqrt(r) (arXiv:2312.03732)
    )
    # linear layers that get one: patterns of their paths, comma-separated, see docs/lora.md
    targets: str = "layers/(q|k|v|o)"
    dropout: float = 0.0  # 0 alone: a policy that drops at random is not the one that sampled
    path: str | None = None  # directory of an adapter in PEFT's layout to start from

    def __post_init__(self) -> None:
        """Refuses values out of range, and dropout."""
        check(self.rank >= 0, f"policy.lora.rank: expected a rank, or 0 for no adapters; got {self.rank}.")
        check(self.alpha > 0, f"policy.lora.alpha: expected > 0; got {self.alpha}.")
        check_choice("policy.lora.scaling", self.scaling, ("standard", "rslora"))
        check_patterns("policy.lora.targets", self.targets)
        check(
            self.dropout == 0,
            f"policy.lora.dropout: expected 0; got {self.dropout}. A group shares what is computed of its prompt, and ratios are "
            "those of the policy that sampled: both end where the update drops numbers at random.",
        )
        check(
            self.path is None or self.rank > 0,
            f"policy.lora.path: expected policy.lora.rank to be that of the adapter in {self.path}; got 0, no adapters.",
        )

    @property
    def scale(self) -> float:
        """What the product of an adapter's two matrices is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.scaling == "rslora" else self.rank) if self.rank else 1.0


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The vision-language model that learns."""

    path: str = "phantom"  # Hugging Face directory; "phantom" is the tiny one shipped with the package
    # compute dtype of matrix products: float32 is that on every device, neither TF32 nor bfloat16 passes (slow: bfloat16 is
    # meant for accelerators); norms, softmax and log-probs stay float32
    dtype: str = "float32"
    # what learns is stored in: bfloat16 is rounded at random, as likely up as what was cut off says (step/narrow.py)
    master_dtype: str = "float32"
    # what learns: all | language | vision | merger, or patterns of parameters' paths, comma-separated (docs/lora.md)
    trainable: str = "all"
    lora: LoraConfig = field(default_factory=LoraConfig)  # adapters that learn in its place

    def __post_init__(self) -> None:
        """Refuses unknown choices, patterns that are none, and parameters that train beside adapters."""
        for name in ("dtype", "master_dtype"):
            check_choice(f"policy.{name}", getattr(self, name), ("float32", "bfloat16"))
        check_patterns("policy.trainable", self.trainable)
        check(
            not self.lora.rank or self.trainable == "all",
            f"policy.trainable: expected none beside policy.lora.rank={self.lora.rank}, whose adapters alone train; got "
            f"{self.trainable[:80]!r}. Choose what gets adapters by policy.lora.targets, or set policy.lora.rank=0.",
        )

    @property
    def widest_dtype(self) -> str:
        """What the weights are read in: nothing of the run holds more of them."""
        masters = self.dtype if self.lora.rank else self.master_dtype  # beside adapters there are none of the policy
        return "bfloat16" if self.dtype == masters == "bfloat16" else "float32"


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How completions are sampled."""

    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    max_new_tokens: int = 1024
    eos_ids: tuple[int, ...] = ()  # default: those of the model's generation_config.json

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        check(self.temperature >= 0, f"rollout.temperature: expected >= 0; got {self.temperature}.")
        check(self.top_k >= 0, f"rollout.top_k: expected >= 0 (0 is off); got {self.top_k}.")
        check(0 < self.top_p <= 1, f"rollout.top_p: expected a number in (0, 1]; got {self.top_p}.")
        check(self.max_new_tokens >= 1, f"rollout.max_new_tokens: expected >= 1; got {self.max_new_tokens}.")


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """What changes how a step is computed and what memory that takes, and its numbers by rounding alone.

    All of it may change when a run is continued, and `reflex plan` advises nothing else but the mesh and, last, a state in
    bfloat16 (`optimizer.moments_dtype`, `policy.master_dtype`) and a larger machine.
    """

    remat: bool = True  # recompute each layer in the backward pass: about 30 % slower, 9x less activation memory
    log_prob_chunk: int = 512  # completion tokens whose logits exist at one time on a device
    attention: str = (
        "auto"  # auto | xla: all scores held | blocked: none, any device | fused: a kernel of TPUs and GPUs
    )
    # gradients are added up, over tokens and devices, in: compute (policy.dtype) | float32, then rounded to it once; twice the
    # bytes of gradients that devices send (docs/speed.md)
    gradient_sums: str = "compute"
    row_lengths: int = 12  # lengths that the rows of the update may have, each compiled when it is first needed
    microbatch_prompts: int = 0  # prompts whose activations exist at one time, in prefill, judge and update; 0: all
    prompt_rungs: int = 3  # static sizes that a batch's prompts are padded to, each compiled once; 1: the run's largest
    # prompts whose groups are sampled at one time, a divisor of grpo.prompts_per_step; fewer hold fewer caches, and read the
    # weights more often; 0: all
    rollout_prompts: int = 0
    rollout_stages: bool = True  # while sampling, caches grow and what is still open is gathered; faster, more memory
    rollout_weights: str = (
        "gathered"  # gathered: whole over fsdp while sampling | sharded: stay cut; slower, less memory
    )
    # what waits in the host's memory and comes to the device a layer at a time: none | optimizer (its moments) |
    # optimizer+masters; slower by what the link to the host takes
    offload: str = "none"

    def __post_init__(self) -> None:
        """Refuses unknown choices and values out of range."""
        check(
            self.attention != "cudnn",
            "memory.attention: 'cudnn' is now 'fused', on NVIDIA GPUs and TPUs; set memory.attention=fused.",
        )
        check_choice("memory.attention", self.attention, ("auto", "xla", "blocked", "fused"))
        check_choice("memory.rollout_weights", self.rollout_weights, ("gathered", "sharded"))
        check_choice("memory.gradient_sums", self.gradient_sums, ("compute", "float32"))
        check_choice("memory.offload", self.offload, ("none", "optimizer", "optimizer+masters"))
        for name in ("log_prob_chunk", "row_lengths", "prompt_rungs"):
            check(getattr(self, name) >= 1, f"memory.{name}: expected >= 1; got {getattr(self, name)}.")
        for name in ("microbatch_prompts", "rollout_prompts"):
            few = getattr(self, name)
            check(few >= 0, f"memory.{name}: expected a number of prompts, or 0 for all; got {few}.")


# Meshes by machine. `data` absorbs what is there beyond one copy of the weights, so a larger machine of the kind works too.
# Google counts v5p by TensorCores, two on a chip: a v5p-64 has 32 chips.
MESH_PRESETS = {
    "cpu": {"data": -1, "fsdp": 1, "tensor": 1},
    "1-gpu": {"data": 1, "fsdp": 1, "tensor": 1},
    "8-gpu": {"data": -1, "fsdp": 8, "tensor": 1},
    "2x8-gpu": {"data": -1, "fsdp": 16, "tensor": 1},
    "8x8-gpu": {"data": -1, "fsdp": 16, "tensor": 1},
    "v5e-8": {"data": -1, "fsdp": 8, "tensor": 1},
    "v5e-16": {"data": -1, "fsdp": 16, "tensor": 1},
    "v5e-64": {"data": -1, "fsdp": 32, "tensor": 2},
    "v5p-64": {"data": -1, "fsdp": 16, "tensor": 2},
    "v5p-128": {"data": -1, "fsdp": 32, "tensor": 2},
    "v6e-16": {"data": -1, "fsdp": 16, "tensor": 1},
    "v6e-64": {"data": -1, "fsdp": 32, "tensor": 2},
}


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Device mesh; -1 absorbs the devices the other axes leave."""

    preset: str | None = None  # sets the three axes for a machine; what is written after it wins
    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        """Refuses unknown presets, axes that are neither positive nor -1, and more than one -1."""
        if self.preset is not None:
            check_choice("mesh.preset", self.preset, tuple(MESH_PRESETS))
        sizes = (self.data, self.fsdp, self.tensor)
        check(
            all(s == -1 or s >= 1 for s in sizes) and sizes.count(-1) <= 1,
            f"mesh: expected positive sizes and at most one -1; got data={self.data} fsdp={self.fsdp} tensor={self.tensor}.",
        )
