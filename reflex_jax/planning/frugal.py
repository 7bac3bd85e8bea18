"""Settings with which the state of a run needs less of a device, the cheapest first.

What waits on the host comes over a link that is slower than the device's memory by a factor of 50 or so: time, and no other
number but by rounding. What is stored in bfloat16 costs no time and makes other numbers, the same on average; so it is
advised last on a machine, and before a larger machine, which costs more than either.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from reflex_jax.config import Config

Setting = tuple[str, str]  # "section.key", value
ROUNDED = ("optimizer.moments_dtype", "policy.master_dtype")  # make other numbers


def sizes_at_once(prompts: int, ways: int) -> list[int]:
    """How many of so many prompts can be worked on at one time, ascending; the last is all of them.

    Args:
      prompts: of a minibatch, for `memory.microbatch_prompts`; of a step, for `memory.rollout_prompts`.
      ways: devices that share the prompts, each the same number.
    """
    return [size for size in range(ways, prompts + 1, ways) if prompts % size == 0]


def fewer_at_once(now: int, prompts: int, ways: int) -> list[int]:
    """What of `sizes_at_once` is less than now (0: all of them), descending."""
    return [size for size in reversed(sizes_at_once(prompts, ways)) if size < (now or prompts)]


def with_settings(config: Config, *settings: tuple[str, Any]) -> Config:
    """The configuration with other values of some settings, by "section.key"."""
    for name, value in settings:
        section, _, key = name.partition(".")
        config = replace(config, **{section: replace(cast(Any, getattr(config, section)), **{key: value})})
    return config


def setting(config: Config, name: str) -> Any:
    """The value of "section.key"."""
    section, _, key = name.partition(".")
    return getattr(getattr(config, section), key)


def waiting_settings(config: Config, platform: str) -> list[Setting]:
    """Values of `memory.offload` that leave less on the device; none where host and device are one."""
    if platform == "cpu":
        return []
    values = ["none", "optimizer", "optimizer+masters"]
    more = values[1 + values.index(config.memory.offload) :]
    has_moments = config.optimizer.name != "sgd"
    return [("memory.offload", value) for value in more if has_moments or value != "optimizer"]


def rounded_settings(config: Config) -> list[Setting]:
    """What is not stored in bfloat16 yet."""
    names = ROUNDED if config.optimizer.name == "adamw" else ROUNDED[1:]  # sgd has no moments
    return [(name, "bfloat16") for name in names if setting(config, name) != "bfloat16"]


def said_of(names: Any) -> str:
    """What has to be said behind an advice of some settings; "" where the numbers stay what they are."""
    named = [name for name in ROUNDED if any(name in text for text in names)]
    return f" {' and '.join(named)} make{'s' * (len(named) == 1)} other numbers, the same on average." if named else ""
