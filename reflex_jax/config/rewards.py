"""Sections of what a completion is paid for: `rewards` with its components, `endpoint`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from reflex_jax.config.checks import check, check_choice

WHEN = ("always", "right", "wrong")


@dataclass(frozen=True, kw_only=True)
class Component:
    """How one component enters the reward; written as its weight alone, or as {weight: 1, when: always, option: value}."""

    weight: float = 1.0  # 0: measured and reported, not paid
    when: str = (
        "always"  # always | right | wrong: the answers it applies to; the others get nothing and are not counted
    )
    options: dict[str, Any] = field(
        default_factory=dict
    )  # keyword arguments of its function, see rewards/components.py


def _components_of_the_paper() -> dict[str, Component]:
    # the options are the defaults of the functions' signatures; read from a file, they are filled in from there
    return {
        "answer": Component(options={"parts": {"bleu1": 0.5, "rouge1": 0.5}, "contrasts": True, "valid_only": False}),
        "format": Component(options={"partial": 0.0}),
        "visual_fidelity": Component(options={"iou_threshold": 0.5}),  # Eq. 5
        "provenance": Component(options={"text_threshold": 0.8, "image_threshold": 0.5}),  # tau_tt, tau_it of Eq. 7
    }


@dataclass(frozen=True, kw_only=True)
class RewardsConfig:
    """What a completion is paid for (paper Eq. 9: four components of weight 1); what is not named is not computed."""

    components: dict[str, Component] = field(default_factory=_components_of_the_paper)
    files: tuple[str, ...] = ()  # Python files that define components of your own
    timeout: float = 10.0  # seconds such a component has for one completion, which then counts as failed
    # what is standardised: sum: the total | component: each component, then weighted and summed | component_batch: that sum once
    # more over the batch (GDPO)
    normalise: str = "sum"
    max_failure_rate: float = 0.25  # share of a step's completions without a reward, beyond which the run stops

    def __post_init__(self) -> None:
        """Refuses values out of range; names and options are checked where they are read, against the table."""
        for name, component in self.components.items():
            check_choice(f"rewards.components.{name}.when", component.when, WHEN)
        check_choice("rewards.normalise", self.normalise, ("sum", "component", "component_batch"))
        check(
            any(self.weights.values()),
            f"rewards.components: expected at least one weight other than 0; got {self.weights}. A mapping names all of its "
            "entries; rewards.components.answer=1 sets one.",
        )
        check(
            0 < self.timeout <= 86400,
            f"rewards.timeout: expected a number of seconds in (0, 86400]; got {self.timeout}.",
        )
        check(
            0 <= self.max_failure_rate <= 1,
            f"rewards.max_failure_rate: expected a number in [0, 1]; got {self.max_failure_rate}.",
        )

    @property
    def weights(self) -> dict[str, float]:
        """Name of each component -> its weight."""
        return {name: component.weight for name, component in self.components.items()}


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """The language model that `llm_judge` and `reflex judge` ask over HTTP, as OpenAI's `/v1/chat/completions` (chat/)."""

    url: str | None = None  # what stands before /chat/completions, e.g. http://localhost:8000/v1
    model: str | None = None  # as the endpoint calls it
    key_variable: str | None = None  # name of the environment variable that holds the key; the key stands nowhere
    temperature: float = 0.0
    max_tokens: int = 64  # of a reply; more where the model thinks first
    seed: int | None = None  # sent where it is set
    enable_thinking: bool | None = None  # the switch of chat templates that vLLM and SGLang pass on; unset: not sent
    concurrency: int = 16  # requests under way at one time
    deadline_seconds: float = 120.0  # for all completions of a step; those without a reply then have failed
    connect_seconds: float = 5.0
    read_seconds: float = 60.0  # without a byte
    attempts: int = 8  # tries of one completion: half a minute on average, in which a judge may come back
    backoff_seconds: float = 0.5  # before the n-th retry at random up to 2^(n-1) times that (at most 30 s)
    breaker_failures: int = 20  # completions failed in a row after which it is not asked for
    breaker_seconds: float = 30.0  # so long, before one of them tries
    cache: str | None = None  # SQLite file of replies that are not asked for again, on a local disk
    check: bool = True  # look before the first step whether it answers and serves the model

    def __post_init__(self) -> None:
        """Refuses addresses with secrets, names that are none, and values out of range."""
        if self.url is not None:
            check(
                re.fullmatch(r"https?://(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?(/[\w./~-]*)?", self.url) is not None,
                "endpoint.url: expected http(s)://host[:port]/path without user, key or query, such as "
                f"http://localhost:8000/v1; got {re.sub('//[^/]*@', '//...@', self.url).partition('?')[0][:80]!r}.",
            )
            check(
                not self.url.rstrip("/").endswith("/chat/completions"),
                f"endpoint.url: expected what stands before /chat/completions; got {self.url[:80]!r}.",
            )
        check(
            self.key_variable is None or re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", self.key_variable) is not None,
            "endpoint.key_variable: expected the name of an environment variable that holds the key, never the key itself; "
            f"got {len(self.key_variable or '')} characters that are no such name.",
        )
        for name in ("max_tokens", "concurrency", "attempts", "breaker_failures"):
            check(getattr(self, name) >= 1, f"endpoint.{name}: expected >= 1; got {getattr(self, name)}.")
        for name in ("deadline_seconds", "connect_seconds", "read_seconds", "backoff_seconds", "breaker_seconds"):
            check(
                0 < getattr(self, name) <= 86400,
                f"endpoint.{name}: expected a number of seconds in (0, 86400]; got {getattr(self, name)}.",
            )
        check(0 <= self.temperature <= 2, f"endpoint.temperature: expected in [0, 2]; got {self.temperature}.")
