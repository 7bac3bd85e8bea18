"""Before anything is opened: what the settings of a run name and is not there, all at once; and rewards in vain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from reflex_jax.chat.check import look_at_endpoint
from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.config import Config, ConfigError
from reflex_jax.data.examples import Example
from reflex_jax.data.prompt_texts import PROMPTS
from reflex_jax.data.sources import refuse_missing_roots
from reflex_jax.rewards.text_encoder import JUDGE
from reflex_jax.step.encoders import encoder_settings
from reflex_jax.step.models import completion_shape
from reflex_jax.step.score import needs_endpoint
from reflex_jax.training.objectives import Objective


def refuse_missing(objective: Objective) -> str:
    """Looks for data, models and endpoint of a run; returns one line on the endpoint, "" where there is none.

    Raises:
      ConfigError: some of it is not there, or a reward has nothing to look at; a line each.
    """
    config, found, complaints = objective.config, [""], []
    looks: list[Callable[[], Any]] = [
        lambda: refuse_missing_roots(config.data),
        lambda: resolve_checkpoint(config.policy.path, "policy"),
    ]
    settings = encoder_settings(config) if objective.scores_answers else {}
    if objective.with_judge or JUDGE in settings:
        looks.append(lambda: resolve_checkpoint(config.judge.path, "judge"))
    looks += [
        lambda name=name, key=key: resolve_checkpoint(name, "encoder", setting=key)  # type: ignore[misc]
        for name, key in settings.items()
        if name != JUDGE
    ]
    if not objective.is_supervised:
        looks.append(lambda: _refuse_groups_of_one_answer(config))
    if objective.scores_answers:
        looks.append(lambda: _refuse_thoughtless(config))
        if needs_endpoint(config):
            looks.append(lambda: found.append(look_at_endpoint(config.endpoint)))
    for look in looks:
        try:
            look()
        except ConfigError as error:
            complaints.append(str(error))
    if complaints:
        raise ConfigError("\n".join(complaints))
    return found[-1]


def _refuse_groups_of_one_answer(config: Config) -> None:
    """Refuses sampling that draws nothing: a group of equal completions ties, and nothing is learned."""
    rollout = config.rollout
    for name, value, none, expected in (
        ("temperature", rollout.temperature, 0, "above 0"),
        ("top_k", rollout.top_k, 1, "0 (off) or above 1"),
    ):
        if value == none:
            raise ConfigError(
                f"rollout.{name}: expected {expected} to train by GRPO; with {value} the {config.grpo.group_size} completions "
                "of a question are all the same, their rewards tie, and nothing is learned. Evaluation is greedy anyway."
            )


def _refuse_thoughtless(config: Config) -> None:
    """Refuses a reward of thoughts beside completions that are read without one."""
    if "reasoning" in config.rewards.components and completion_shape(config).thought == "none":
        key = f"data.prompt={config.data.prompt}"
        if config.completion.thought is not None:
            key = f"completion.thought={config.completion.thought}"
        raise ConfigError(
            f"rewards.components.reasoning: expected completions with a thought; {key} reads none, so it would pay 0 to all. "
            "Set another data.prompt or completion.thought, or leave the reward out."
        )


def vain_settings(config: Config, examples: Sequence[Example]) -> Iterator[str]:
    """Says, a line each, which rewards and settings of completions will not do what they are there for.

    Args:
      config: of a run that scores answers.
      examples: its training questions.
    """
    components, longest = config.rewards.components, config.rollout.max_new_tokens
    if overlong := components.get("overlong"):
        limit, buffer = (int(overlong.options[name]) for name in ("limit", "buffer"))
        if limit - buffer >= longest:
            yield (
                f"rewards.components.overlong: punishes from {limit - buffer + 1} tokens on (limit={limit}, buffer={buffer}), "
                f"which no completion reaches (rollout.max_new_tokens={longest}); set its limit to {longest}."
            )
    if "letter" in components:
        without = [str(n) for n, phase in enumerate(config.data.phases, 1) if phase.options is False]
        if examples and not any(example.options for example in examples):
            yield (
                "rewards.components.letter: no question of this run has options, so it applies to none; see docs/objectives.md."
            )
        elif without:
            yield (
                f"rewards.components.letter: applies to no question of phase {', '.join(without)} of data.phases "
                "(options: false), where nothing is paid for letters."
            )
    yield from _unasked_shapes(config)


def _unasked_shapes(config: Config) -> Iterator[str]:
    """Completions that are read in a shape that the prompt does not ask for."""
    prompt, shape, said = PROMPTS[config.data.prompt], completion_shape(config), config.completion
    if said.thought is not None and said.thought != prompt.shape.thought:
        wanted = "no thought" if prompt.shape.thought == "none" else f"a thought in <{prompt.shape.thought}>"
        yield (
            f"completion.thought={said.thought}: data.prompt={config.data.prompt} goes with {wanted}; completions are read in "
            "another shape than the prompt goes with."
        )
    if shape.fallback and not any("<answer>" in text for text in prompt.texts):
        yield (
            f"completion.fallback: data.prompt={config.data.prompt} asks for no answer block, and a completion without one is "
            "taken for its answer as a whole."
        )
