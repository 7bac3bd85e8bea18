"""From a configuration to everything a run works with: mesh, models, questions and static sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, UInt8
from PIL import Image

from reflex_jax.checkpoints.policy import Policy, load_policy
from reflex_jax.config import Config, ConfigError
from reflex_jax.data.examples import Example, list_offenders
from reflex_jax.data.prompts import Processor, PromptSizes
from reflex_jax.judge.batch import judge_pixels
from reflex_jax.judge.evidence import Judge, load_judge
from reflex_jax.models.partitioning import policy_table
from reflex_jax.records import PromptInputs, Rollout
from reflex_jax.rollout.generate import generate
from reflex_jax.rollout.host_bridge import HostBridge
from reflex_jax.rollout.sampling import allowed_tokens
from reflex_jax.sharding import batch_sharding, make_mesh, parameter_shardings, replicated
from reflex_jax.text.tokenizer import decode
from reflex_jax.training.state import (
    FrozenParams,
    TrainState,
    compute_params,
    init_state,
    make_optimizer,
    split_trainable,
)


@dataclass(frozen=True)
class Models:
    """The policy, the judge, and where their arrays lie."""

    mesh: Mesh
    policy: Policy  # its parameters as stored, on the host
    judge: Judge
    allowed: Bool[np.ndarray, "V"]  # vocabulary of the sampler and of every log-prob
    eos_ids: tuple[int, ...]

    def place_policy(self, params: Any) -> Any:
        """Puts parameters of the policy, a part of them or a training state of them onto the mesh."""
        table = policy_table(self.policy.config, self.mesh)
        return jax.device_put(params, parameter_shardings(params, table, self.mesh))

    def place_batch(self, batch: Any) -> Any:
        """Puts arrays whose first axis counts prompts onto the mesh."""
        return jax.device_put(batch, batch_sharding(self.mesh))

    def place_replicated(self, tree: Any) -> Any:
        """Puts the same arrays onto every device."""
        return jax.device_put(tree, replicated(self.mesh))


def load_models(config: Config) -> Models:
    """Loads both models and derives the vocabulary the policy may sample from.

    Raises:
      ConfigError: a checkpoint or the mesh does not fit, named.
    """
    mesh = make_mesh(config.mesh)
    policy = load_policy(
        config.policy.path,
        dtype="float32",
        min_pixels=config.data.min_pixels,
        max_pixels=config.data.max_pixels,
        prompt=config.data.prompt,
    )
    eos_ids = config.rollout.eos_ids or policy.config.eos_token_ids
    allowed = allowed_tokens(
        policy.config.text.vocabulary,
        tokenizer_length=len(policy.processor.tokenizer),
        banned_ids=policy.special_ids,
        eos_ids=eos_ids,
    )
    judge = load_judge(config.judge.path, dtype=config.judge.dtype)
    longest = judge.config.text.positions
    if config.judge.max_statement_tokens > longest:
        raise ConfigError(
            f"judge.max_statement_tokens: expected at most the {longest} positions of the judge in {config.judge.path}; "
            f"got {config.judge.max_statement_tokens}."
        )
    return Models(
        mesh=mesh, policy=policy, judge=judge,
        allowed=allowed, eos_ids=eos_ids,
    )  # fmt: skip


def make_generator(
    config: Config, models: Models, *, group_size: int, temperature: float
) -> Callable[[Any, Any, PromptInputs, Any, Any], Rollout]:
    """Builds the jitted sampler `(params, fixed, prompts, key, prompt_ids) -> Rollout` of this run's vocabulary."""
    rollout = config.rollout

    def sample(params: Any, fixed: Any, prompts: PromptInputs, key: Any, prompt_ids: Any) -> Rollout:
        return generate(
            compute_params(params, fixed, jnp.dtype(config.policy.dtype)),
            prompts,
            key,
            prompt_ids,
            models.policy.config,
            group_size=group_size,
            max_new_tokens=rollout.max_new_tokens,
            temperature=temperature,
            top_k=rollout.top_k,
            top_p=rollout.top_p,
            eos_ids=models.eos_ids,
            pad_id=models.policy.processor.pad_id,
            allowed=models.allowed,
            attention=config.policy.attention,
        )

    return jax.jit(sample)


def make_host_bridge(config: Config, models: Models) -> HostBridge:
    """The seam of this run: the policy's words, the judge's tokenizer, the configured answer reward."""
    tokenizer = models.policy.processor.tokenizer
    return HostBridge(
        decode=lambda ids: decode(tokenizer, ids),
        statement_tokenizer=models.judge.tokenizer,
        open_answer_parts=config.rewards.open_answer_parts,
        max_statement_tokens=config.judge.max_statement_tokens,
        centered=config.judge.centered,
    )


def place_state(config: Config, models: Models, updates: int) -> tuple[TrainState, FrozenParams, Any]:
    """Puts masters, optimiser state and the frozen parameters onto the mesh."""
    dtype = config.policy.dtype
    trainable, fixed = split_trainable(models.policy.params, config.policy.trainable)
    optimizer = make_optimizer(config.optimizer, updates)
    state = init_state(models.place_policy(trainable), optimizer)
    cast = jax.jit(lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree))
    needs_reference = config.grpo.kl_coefficient > 0 or config.grpo.ratio == "ref"
    frozen = FrozenParams(
        fixed=cast(models.place_policy(fixed)),
        reference=cast(models.place_policy(models.policy.params)) if needs_reference else None,
        judge=models.place_replicated(models.judge.params),
    )
    # the optimiser's leaves too lie where the compiled step will put them: else the second step would compile again
    return models.place_policy(state), frozen, optimizer


@dataclass(frozen=True)
class HostBatch:
    """One step's questions as arrays, still on the host."""

    examples: Sequence[Example]
    prompts: PromptInputs
    judge_pixels: UInt8[np.ndarray, "P H W 3"]


class BatchBuilder:
    """Questions -> padded arrays of the run's static sizes.

    A blank policy image (a mean-grey picture of the same size) leaves the judge's picture as it is: the question is what
    the policy can say without seeing.
    """

    def __init__(
        self, processor: Processor, judge: Judge, sizes: PromptSizes, *, resize: str, blank_image: bool = False
    ):
        """Fixes the shapes of every batch."""
        self._processor, self._judge, self._sizes = processor, judge, sizes
        self._resize, self._blank_image = resize, blank_image

    def __call__(self, examples: Sequence[Example]) -> HostBatch:
        """Loads, resizes and tokenises."""
        images = [example.load_image() for example in examples]
        seen = [Image.new("RGB", i.size, (127, 127, 127)) for i in images] if self._blank_image else images
        prompts = self._processor.collate(
            [self._processor.encode(image, e.question) for image, e in zip(seen, examples, strict=True)],
            prompt_tokens=self._sizes.prompt_tokens,
            windows=self._sizes.windows,
        )
        pixels = np.stack([judge_pixels(image, self._judge.config, resize=self._resize) for image in images])
        return HostBatch(examples, prompts, pixels)


def measure_prompts(config: Config, processor: Processor, *example_lists: Sequence[Example]) -> PromptSizes:
    """Static sizes that hold every question of the run.

    Raises:
      ConfigError: prompts too long, or questions without an image, which the judge could not look at; all by id.
    """
    sizes = PromptSizes(1, 0)
    for examples in example_lists:
        blind = [example.id for example in examples if example.image is None]
        if blind:
            raise ConfigError(
                f"{len(blind)} questions have no image for the judge to look at: {list_offenders(blind)}."
            )
        sizes = sizes.union(processor.measure(examples, max_prompt_tokens=config.data.max_prompt_tokens))
    return sizes
