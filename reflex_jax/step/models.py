"""The two models of a run as they lie in their directories: processor, judge, vocabulary; the policy's weights apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from reflex_jax.chat.client import ChatClient
from reflex_jax.checkpoints.huggingface import load_policy_params
from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.checkpoints.peft import read_adapter
from reflex_jax.checkpoints.policy import policy_shardings, special_ids
from reflex_jax.checkpoints.qwen_tensors import abstract_policy_params
from reflex_jax.config import Component, Config, ConfigError, PolicyConfig, user_path
from reflex_jax.data.prompt_texts import PROMPTS
from reflex_jax.data.prompts import Processor, load_processor
from reflex_jax.freed_memory import give_back_freed_memory
from reflex_jax.judge.evidence import Judge, load_judge
from reflex_jax.rewards.text_encoder import TextEncoders
from reflex_jax.rewards.user_file import UserRewards
from reflex_jax.sharding import check_attention, to_global
from reflex_jax.step.bridge import HostBridge
from reflex_jax.step.encoders import open_encoders
from reflex_jax.step.sampling import Vocabulary, allowed_tokens
from reflex_jax.step.score import needs_endpoint
from reflex_jax.step.shapes import Shapes
from reflex_jax.step.trained import adapted_layers, linear_layers
from reflex_jax.text.completion import CompletionShape, parse_completion
from reflex_jax.text.tokenizer import decode


@dataclass(frozen=True, eq=False)
class Models:
    """Everything about the two models that does not change; the policy's parameters are handed on apart."""

    shapes: Shapes
    directory: Path  # of the policy
    processor: Processor
    judge: Judge | None  # on every device; None: nothing in the run asks it
    encoders: TextEncoders  # of the rewards, by the option `encoder`


def load_models(config: Config, mesh: Mesh, *, with_judge: bool = True, with_rewards: bool = True) -> Models:
    """Reads what both models are, loads the judge and text encoders, and derives the vocabulary the policy may sample from.

    Args:
      config: of the run.
      mesh: of the run.
      with_judge: whether the run asks the judge.
      with_rewards: whether it computes rewards; else no text encoder is opened.
    Raises:
      ConfigError: a checkpoint or the mesh does not fit, named.
    """
    check_attention(mesh, config.memory.attention)
    directory = resolve_checkpoint(config.policy.path, "policy")
    data = config.data
    processor = load_processor(
        directory, min_pixels=data.min_pixels, max_pixels=data.max_pixels, prompt=data.prompt, seed=config.run.seed
    )  # fmt: skip
    policy = processor.config
    eos_ids = config.rollout.eos_ids or policy.eos_token_ids
    allowed = allowed_tokens(
        policy.text.vocabulary,
        tokenizer_length=len(processor.tokenizer),
        banned_ids=special_ids(policy, processor.tokenizer),
        eos_ids=eos_ids,
    )
    judge = _load_judge(config, mesh) if with_judge else None
    vocabulary = Vocabulary(allowed, eos_ids, processor.pad_id)
    shapes = Shapes(mesh=mesh, policy=policy, judge=judge.config if judge else None, vocabulary=vocabulary)
    return Models(shapes, directory, processor, judge, open_encoders(config, judge) if with_rewards else {})


def load_params(models: Models, dtype: str = "float32") -> Any:
    """The policy's parameters, cut over the mesh as the update wants them.

    Args:
      models: of `load_models`.
      dtype: `policy.widest_dtype` of the run.
    Raises:
      ConfigError: tensors are missing, extra, misshaped or no floats, all of them listed; or the mesh does not fit.
    """
    shapes = models.shapes
    params = load_policy_params(models.directory, shapes.policy, dtype, policy_shardings(shapes.policy, shapes.mesh))
    give_back_freed_memory()
    return params


def load_adapters(models: Models, policy: PolicyConfig) -> Any:
    """The adapters of `policy.lora.path`, cut over the mesh as their kernels are; None: the run draws its own, or has none.

    Raises:
      ConfigError: it is no such adapter, or not the one that `policy.lora` describes.
    """
    lora, shapes = policy.lora, models.shapes
    if not lora.path:
        return None
    params = abstract_policy_params(shapes.policy)
    layers = adapted_layers(params, lora)
    adapters = read_adapter(user_path(lora.path), shapes.policy, layers, linear_layers(params), lora)
    return to_global(adapters, shapes.policy_shardings(adapters))


def make_host_bridge(
    config: Config,
    models: Models,
    *,
    is_used: bool = True,
    components: Mapping[str, Component] | None = None,
    decode_ids: Callable[[Any], str] | None = None,
) -> HostBridge:
    """The seam of this run: the policy's words, the judge's tokenizer, the components of the reward.

    Args:
      config: of the run.
      models: of the run.
      is_used: whether answers are scored at all; a run that scores none needs no endpoint.
      components: those to compute, of `rewards.components`, of which neither an endpoint nor own files are asked; None: all.
      decode_ids: ids of one completion -> text; None: by the policy's tokenizer.
    Raises:
      ConfigError: the endpoint that a component asks is not named, or its key is not there.
    """
    tokenizer, rewards = models.processor.tokenizer, config.rewards
    is_whole = components is None
    chat = {"chat": ChatClient(config.endpoint)} if is_whole and is_used and needs_endpoint(config) else {}
    return HostBridge(
        decode=decode_ids or (lambda ids: decode(tokenizer, ids)),
        parse=partial(parse_completion, shape=completion_shape(config)),
        components=rewards.components if components is None else components,
        statement_tokenizer=models.judge.tokenizer if models.judge else None,
        max_statement_tokens=config.judge.max_statement_tokens,
        centered=config.judge.centered,
        resources={"text_encoders": models.encoders} | chat,
        user_rewards=UserRewards(rewards.files, timeout=rewards.timeout) if is_whole and rewards.files else None,
    )


def completion_shape(config: Config) -> CompletionShape:
    """How a run reads its completions: as its prompt asks for them, unless the section `completion` says otherwise."""
    asked, said = PROMPTS[config.data.prompt].shape, config.completion
    return CompletionShape(
        thought=asked.thought if said.thought is None else said.thought,
        preamble=asked.preamble if said.preamble is None else said.preamble,
        fallback=asked.fallback if said.fallback is None else said.fallback,
        compact=asked.compact if said.compact is None else said.compact,
    )


def _load_judge(config: Config, mesh: Mesh) -> Judge:
    judge = load_judge(config.judge.path, dtype=config.judge.dtype, mesh=mesh)
    longest = judge.config.text.positions
    if config.judge.max_statement_tokens > longest:
        raise ConfigError(
            f"judge.max_statement_tokens: expected at most the {longest} positions of the judge in {config.judge.path}; "
            f"got {config.judge.max_statement_tokens}."
        )
    return judge
