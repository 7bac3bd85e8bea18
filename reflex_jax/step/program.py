"""From a configuration to everything a run works with: mesh, models, questions and static sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
from reflex_jax.sharding import (
    ROLLOUT_RULES,
    UPDATE_RULES,
    AnyMesh,
    BatchRows,
    Rules,
    batch_rows,
    batch_sharding,
    check_attention,
    make_mesh,
    parameter_shardings,
)
from reflex_jax.step.bridge import HostBridge
from reflex_jax.step.generate import generate
from reflex_jax.step.sampling import allowed_tokens
from reflex_jax.step.state import (
    FrozenParams,
    TrainState,
    compute_params,
    init_state,
    make_optimizer,
    split_trainable,
)
from reflex_jax.text.tokenizer import decode


@dataclass(frozen=True)
class Models:
    """Everything about the two models that does not change; the policy's parameters are handed on apart."""

    mesh: AnyMesh  # abstract where nothing runs
    policy: Policy  # without its parameters: training takes them over and gives their memory away
    judge: Judge  # on every device
    allowed: Bool[np.ndarray, "V"]  # vocabulary of the sampler and of every log-prob
    eos_ids: tuple[int, ...]
    pad_id: int  # stands behind the end of a completion

    def policy_shardings(self, tree: Any, rules: Rules = UPDATE_RULES) -> Any:
        """Where parameters of the policy, a part of them or a training state of them lie."""
        return parameter_shardings(tree, policy_table(self.policy.config, self.mesh), self.mesh, rules)

    def rows(self, count: int) -> BatchRows:
        """Which of `count` prompts this process works on."""
        return batch_rows(self.mesh, count)


def load_models(config: Config) -> tuple[Models, Any]:
    """Loads both models and derives the vocabulary the policy may sample from.

    Returns:
      The models, and the policy's parameters: float32, cut over the mesh as the update wants them.
    Raises:
      ConfigError: a checkpoint or the mesh does not fit, named.
    """
    mesh = make_mesh(config.mesh)
    check_attention(mesh, config.policy.attention)
    policy = load_policy(
        config.policy.path,
        dtype="float32",
        mesh=mesh,
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
    judge = load_judge(config.judge.path, dtype=config.judge.dtype, mesh=mesh)
    longest = judge.config.text.positions
    if config.judge.max_statement_tokens > longest:
        raise ConfigError(
            f"judge.max_statement_tokens: expected at most the {longest} positions of the judge in {config.judge.path}; "
            f"got {config.judge.max_statement_tokens}."
        )
    models = Models(
        mesh=mesh, policy=replace(policy, params=None), judge=judge,
        allowed=allowed, eos_ids=eos_ids, pad_id=policy.processor.pad_id,
    )  # fmt: skip
    return models, policy.params


def make_weight_gatherer(config: Config, models: Models) -> Callable[[Any, Any], Any]:
    """Builds the one reshard between update and rollout: `(params, fixed) -> weights` of the whole policy.

    The weights are in the compute dtype and, with `rollout.weights=gathered`, no longer cut over `fsdp`, because sampling
    reads all of them for every token.
    """
    rules = ROLLOUT_RULES if config.rollout.weights == "gathered" else UPDATE_RULES
    dtype = jnp.dtype(config.policy.dtype)

    def gather(params: Any, fixed: Any) -> Any:
        weights = compute_params(params, fixed, dtype)
        # cast where they lie, then gather: half the bytes of gathering the float32 masters
        weights = jax.lax.with_sharding_constraint(weights, models.policy_shardings(weights))
        return jax.lax.with_sharding_constraint(weights, models.policy_shardings(weights, rules))

    return jax.jit(gather)


def make_generator(
    config: Config, models: Models, *, group_size: int, temperature: float
) -> Callable[[Any, PromptInputs, Any, Any], Rollout]:
    """Builds the jitted sampler `(weights, prompts, key, prompt_ids) -> Rollout` of this run's vocabulary."""
    rollout = config.rollout

    def sample(weights: Any, prompts: PromptInputs, key: Any, prompt_ids: Any) -> Rollout:
        return generate(
            weights,
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
            pad_id=models.pad_id,
            allowed=models.allowed,
            attention=config.policy.attention,
            prefill_prompts=config.grpo.microbatch_prompts,
        )

    return jax.jit(sample, out_shardings=batch_sharding(models.mesh))


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


def place_state(config: Config, models: Models, params: Any, updates: int) -> tuple[TrainState, FrozenParams, Any]:
    """Builds the training state and the frozen parameters on the mesh.

    Args:
      params: of `load_models`; the state takes them over, and its first step gives their memory away.
      updates: optimiser updates of the whole run.
    """
    trainable, fixed = split_trainable(params, config.policy.trainable)
    optimizer = make_optimizer(config.optimizer, updates)
    # copies, also where the dtype is the masters': these arrays outlive the ones the first step gives away
    cast = jax.jit(lambda tree: jax.tree.map(lambda x: jnp.copy(x.astype(config.policy.dtype)), tree))
    frozen = FrozenParams(
        fixed=cast(fixed), reference=cast(params) if config.grpo.needs_reference else None, judge=models.judge.params
    )
    return start_state(models, trainable, optimizer), frozen, optimizer


def start_state(models: Models, trainable: Any, optimizer: Any) -> TrainState:
    """Starts the optimiser; its state is cut like the parameters it belongs to, which it takes over."""

    def init(params: Any) -> TrainState:
        return init_state(params, optimizer)

    # where the compiled step will put them: else the second step would compile again
    shardings = models.policy_shardings(jax.eval_shape(init, trainable))
    return jax.jit(init, out_shardings=shardings, donate_argnums=0)(trainable)


@dataclass(frozen=True)
class HostBatch:
    """This process's part of one step's questions as arrays, still on the host."""

    examples: Sequence[Example]
    prompts: PromptInputs
    judge_pixels: UInt8[np.ndarray, "p H W 3"]


class BatchBuilder:
    """Questions -> padded arrays of the run's static sizes.

    A blank policy image (a mean-grey picture of the same size) leaves the judge's picture as it is: the question is what
    the policy can say without seeing.
    """

    def __init__(self, models: Models, sizes: PromptSizes, rows: BatchRows, *, resize: str, blank_image: bool = False):
        """Fixes the shapes of every batch."""
        self._processor, self._judge, self._sizes = models.policy.processor, models.judge, sizes
        self.rows, self._resize, self._blank_image = rows, resize, blank_image

    def __call__(self, examples: Sequence[Example]) -> HostBatch:
        """Loads, resizes and tokenises this process's part of P questions."""
        examples = self.rows.take(examples)
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
