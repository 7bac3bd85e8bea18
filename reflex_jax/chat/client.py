"""HOST: many conversations put to one endpoint: together, with retries, and in bounded time.

A conversation ends as a reply or as `Failed`, never as a guess. The deadline is that of all of them and ends whatever is
under way then, a body that drips included, since the event loop takes its connection away. Equal conversations are
asked once, and not at all where the cache knows the reply.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import tenacity
from anyio.from_thread import start_blocking_portal

from reflex_jax.chat.circuit_breaker import CircuitBreaker, CircuitOpen
from reflex_jax.chat.endpoint import Conversation, Endpoint, TryFailed, read_key, request_body
from reflex_jax.chat.reply_cache import ReplyCache, reply_key
from reflex_jax.config import ConfigError, EndpointConfig, user_path
from reflex_jax.rewards.answered import Failed

LONGEST_BACKOFF = 30.0  # seconds
_TRIES_OF_A_LOOK = 3  # before a run; somebody waits for the answer
NO_ANSWER_KINDS = ("OutOfTime", "CircuitOpen", "GarbledReply")  # beside those of `endpoint.TryFailed`
_full_jitter = tenacity.wait_random_exponential  # uniform in [0, min(bound, backoff * 2^(n - 1))]


@dataclass
class ChatCounts:
    """What became of conversations."""

    asked: int = 0  # distinct ones that were sent
    cached: int = 0  # answered without: from the cache, or as an equal one
    failed: int = 0
    retries: int = 0
    seconds: float = 0.0


@dataclass
class _Asking:
    """What the conversations of one call share."""

    accepts: Callable[[str], bool]
    again: str | None
    deadline: float  # of time.monotonic
    results: dict[Conversation, str | Failed] = field(default_factory=dict)
    retried: Counter[str] = field(default_factory=Counter)  # kind of failure -> tries that were repeated
    last: dict[Conversation, TryFailed] = field(default_factory=dict)


class ChatClient:
    """Asks one endpoint; its event loop and connections start with the first question and end with `close`."""

    def __init__(self, config: EndpointConfig):
        """Reads the key and opens the cache; connects to nothing yet.

        Raises:
          ConfigError: the endpoint is not named, its key is not there, or the cache is no such file.
        """
        missing = [name for name in ("url", "model") if not getattr(config, name)]
        if missing:
            raise ConfigError(
                f"{' and '.join(f'endpoint.{name}' for name in missing)}: expected what the judge is asked at; got nothing. "
                "For example endpoint.url=http://localhost:8000/v1 endpoint.model=NAME."
            )
        self._config, self._key = config, read_key(config.key_variable)
        self._attempts, self._backoff = config.attempts, config.backoff_seconds
        self.cache = _open_cache(config)
        self._held: ExitStack | None = None
        self._portal: Any = None
        self._endpoint: Endpoint | None = None
        self._breaker = CircuitBreaker(most_failures=config.breaker_failures, cool_down=config.breaker_seconds)
        self._counts = ChatCounts()

    def ask(
        self, conversations: Sequence[Conversation], *, accepts: Callable[[str], bool], again: str | None = None
    ) -> list[str | Failed]:
        """A reply to each conversation, or why there is none; at most `endpoint.deadline_seconds` later.

        Args:
          conversations: each ends with a turn of the user.
          accepts: whether a reply is what was asked for; only such replies are kept in the cache.
          again: the user's turn after a reply that is not, once; None: it has failed then.
        """
        started = time.monotonic()
        asking = _Asking(accepts, again, started + self._config.deadline_seconds)
        facts = {name: value for name, value in request_body(self._config, ()).items() if name != "messages"}
        keys = {c: reply_key(facts, [[role, text] for role, text in c], again) for c in dict.fromkeys(conversations)}
        known = self.cache.find([*keys.values()]) if self.cache else {}
        asking.results |= {c: known[key] for c, key in keys.items() if key in known and accepts(known[key])}
        missing = {c: key for c, key in keys.items() if c not in asking.results}
        if missing:
            self._run(partial(self._ask_all, asking, missing))
        replies = [asking.results[c] for c in conversations]
        self._note(asking, replies, len(missing), time.monotonic() - started)
        return replies

    def list_models(self, seconds: float) -> list[str] | None:
        """Names of the models the endpoint serves, None where it does not say.

        Raises:
          TryFailed: it does not answer within so many seconds.
        """
        return self._run(partial(self._list_models, seconds))

    def take_counts(self) -> ChatCounts:
        """What became of all conversations since the last look."""
        counts, self._counts = self._counts, ChatCounts()
        return counts

    def close(self) -> None:
        """Ends the connections, their thread and the cache; the client can be asked no more."""
        if self._held is not None:
            self._held.close()
            self._held = None
        if self.cache is not None:
            self.cache.close()
            self.cache = None

    def _run(self, function: Callable[[], Any]) -> Any:
        """Runs a coroutine function in the client's own event loop, also where the caller's thread has one (notebooks)."""
        if self._held is None:
            with ExitStack() as held:
                self._portal = held.enter_context(start_blocking_portal())
                self._endpoint = endpoint = Endpoint(self._config, self._key)
                held.callback(self._portal.call, endpoint.close)
                self._held = held.pop_all()
        future = self._portal.start_task_soon(function)
        try:
            return future.result()
        finally:
            future.cancel()  # where the wait was interrupted

    async def _list_models(self, seconds: float) -> list[str] | None:
        deadline = time.monotonic() + seconds
        last: list[TryFailed] = []
        with anyio.move_on_after(seconds):
            tries = min(self._attempts, _TRIES_OF_A_LOOK)
            return await self._with_retries(self._started.list_models, deadline, last.append, attempts=tries)
        raise last[-1] if last else TryFailed("TimedOut", f"no answer within {seconds:g} s", passes=True)

    @property
    def _started(self) -> Endpoint:
        if self._endpoint is None:
            raise ValueError("ChatClient: expected a client that runs.")
        return self._endpoint

    async def _ask_all(self, asking: _Asking, keys: dict[Conversation, bytes]) -> None:
        limiter = anyio.CapacityLimiter(self._config.concurrency)

        async def ask_one(conversation: Conversation) -> None:
            async with limiter:
                result = await self._ask_one(asking, conversation)
            asking.results[conversation] = result
            if self.cache is not None and isinstance(result, str):
                self.cache.keep(keys[conversation], result)

        with anyio.move_on_after(asking.deadline - time.monotonic()):
            async with anyio.create_task_group() as group:
                for conversation in keys:
                    group.start_soon(ask_one, conversation)
        for conversation in keys:
            if conversation not in asking.results:
                last = asking.last.get(conversation)
                after = f"; before that {last.kind}: {last}" if last else ""
                message = f"no reply within {self._config.deadline_seconds:g} s (endpoint.deadline_seconds){after}"
                asking.results[conversation] = Failed("OutOfTime", message[:200])

    async def _ask_one(self, asking: _Asking, conversation: Conversation) -> str | Failed:
        reply = await self._reply(asking, conversation)
        if isinstance(reply, Failed) or asking.accepts(reply):
            return reply
        if asking.again is not None:
            longer = (*conversation, ("assistant", reply), ("user", asking.again))
            reply = await self._reply(asking, longer)
            if isinstance(reply, Failed) or asking.accepts(reply):
                return reply
        shown = " ".join("".join(c if c.isprintable() else " " for c in reply).split())[:80]
        return Failed("GarbledReply", f"expected a verdict alone; the model replied {shown!r}")

    async def _reply(self, asking: _Asking, conversation: Conversation) -> str | Failed:
        """A reply of whatever content; the circuit breaker learns how it went."""
        try:
            await self._breaker.admit()
        except CircuitOpen as error:
            return Failed("CircuitOpen", str(error))
        is_answered = False

        def note(failure: TryFailed) -> None:
            asking.last[conversation] = failure
            asking.retried[failure.kind] += 1

        try:
            reply = await self._with_retries(
                partial(self._started.complete, conversation), asking.deadline, note, attempts=self._attempts
            )
            is_answered = True
            return reply
        except TryFailed as error:
            wait = error.retry_after
            late = f"; it asks to wait {wait:.0f} s" if wait is not None else ""
            return Failed(error.kind, f"{error}{late}"[:200])
        finally:  # also where the deadline took it away
            self._breaker.note(is_answered=is_answered)

    async def _with_retries(
        self, attempt: Callable[[], Any], deadline: float, note: Callable[[TryFailed], None], *, attempts: int
    ) -> Any:
        """The result of a try, the last failure where none succeeds; a wait beyond the deadline is not begun."""
        jitter = _full_jitter(multiplier=self._backoff, max=LONGEST_BACKOFF)

        def failure(state: tenacity.RetryCallState) -> TryFailed | None:
            error = state.outcome.exception() if state.outcome else None
            return error if isinstance(error, TryFailed) else None

        def wait(state: tenacity.RetryCallState) -> float:
            failed = failure(state)
            return max(jitter(state), failed.retry_after or 0.0 if failed else 0.0)

        def is_over(state: tenacity.RetryCallState) -> bool:
            return state.attempt_number >= attempts or time.monotonic() + state.upcoming_sleep > deadline

        def before_sleep(state: tenacity.RetryCallState) -> None:
            if (failed := failure(state)) is not None:
                note(failed)

        retrying = tenacity.AsyncRetrying(
            stop=is_over,
            wait=wait,
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, TryFailed) and error.passes),
            before_sleep=before_sleep,
            sleep=anyio.sleep,
            reraise=True,
        )
        return await retrying(attempt)

    def _note(self, asking: _Asking, replies: list[str | Failed], asked: int, seconds: float) -> None:
        """Counts, and at most one line where not all went well."""
        failed = [reply for reply in replies if isinstance(reply, Failed)]
        retries = asking.retried.total()
        cached = len(replies) - asked
        before = self._counts
        self._counts = ChatCounts(
            before.asked + asked, before.cached + cached, before.failed + len(failed), before.retries + retries,
            before.seconds + seconds,
        )  # fmt: skip
        if not failed and not retries:
            return
        line = f"\n{self._config.url}: {len(failed)} of {len(replies)} questions have no reply"
        if failed:
            kinds = Counter(reply.error for reply in failed)
            first = {reply.error: reply.message for reply in reversed(failed)}
            line += ": " + "; ".join(f"{count} {kind} ({first[kind]})" for kind, count in kinds.most_common())
        if retries:
            causes = ", ".join(f"{count} {kind}" for kind, count in asking.retried.most_common())
            line += f"; {retries} tries were repeated ({causes})"
        print(f"{line}.", file=sys.stderr, flush=True)


def _open_cache(config: EndpointConfig) -> ReplyCache | None:
    if config.cache is None:
        return None
    path = user_path(config.cache)
    try:
        return ReplyCache(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"endpoint.cache: {str(path)!r} is no file of replies and cannot become one ({reason}). Name another."
        ) from error
