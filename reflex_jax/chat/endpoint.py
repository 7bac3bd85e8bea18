"""HOST: one try: a conversation is posted to `/chat/completions`, and either its reply comes back or the reason why not.

Certificates are checked, redirects are not followed, a body is read up to `LARGEST_BODY`. The key travels in one header; it
is taken out of every text that comes back, so that no message and no cache can hold it.
"""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Iterator
from typing import Any

import httpx2

from reflex_jax.chat.retry_after import read_retry_after
from reflex_jax.config import ConfigError, EndpointConfig

Conversation = tuple[tuple[str, str], ...]  # (role, text), in order; roles are user and assistant

LARGEST_BODY = 2**22  # bytes; a reply of a judge has hundreds
_LONGEST_EXCERPT = 120  # characters
_BUSY = (408, 425, 429)  # refusals that pass


class TryFailed(Exception):
    """One try without a reply."""

    def __init__(self, kind: str, message: str, *, passes: bool, retry_after: float | None = None):
        """Keeps what a retry has to know.

        Args:
          kind: one word for what has one cause: Unreachable, CertificateRefused, TimedOut, ConnectionBroken, ServerFault,
            TooManyRequests, RequestRefused, NotAChatReply.
          message: what was expected and came, without the key.
          passes: whether another try may do better.
          retry_after: seconds that the endpoint asks to wait first.
        """
        super().__init__(message)
        self.kind, self.passes, self.retry_after = kind, passes, retry_after


def read_key(variable: str | None) -> str | None:
    """The key, from the environment variable that a configuration names.

    Raises:
      ConfigError: it is not set, or holds what no header can; the key itself is never shown.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"endpoint.key_variable: the environment variable {variable!r} is not set. Export it with the key, or name the "
            "variable that holds it."
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(
            f"endpoint.key_variable: the environment variable {variable!r} holds more than a key: expected printable ASCII "
            f"without spaces; got {len(key)} other characters. Export it again."
        )
    return key


class Endpoint:
    """Connections to one endpoint; used and closed in one event loop."""

    def __init__(self, config: EndpointConfig, key: str | None):
        """Connects to nothing yet."""
        self._config, self._key = config, key
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        # known authorities take a while to read, and nobody checks a certificate where there is none: this context trusts nobody
        is_plain = (config.url or "").startswith("http://")
        self._client = httpx2.AsyncClient(
            headers=headers,
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_plain else True,
            timeout=httpx2.Timeout(config.read_seconds, connect=config.connect_seconds, pool=None),
            limits=httpx2.Limits(max_connections=config.concurrency),
        )

    async def complete(self, conversation: Conversation) -> str:
        """The text of the reply; "" where the model wrote none.

        Raises:
          TryFailed: there is none.
        """
        body = await self._request("POST", "chat/completions", request_body(self._config, conversation))
        try:
            content = body["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            content = 0
        if not isinstance(content, str | None):
            raise TryFailed(
                "NotAChatReply",
                f"expected choices[0].message.content; got {self._excerpt(json.dumps(body))}",
                passes=True,
            )
        # JSON can escape halves of characters, which no file can hold
        return self._without_key((content or "").encode("utf-8", "replace").decode())

    async def list_models(self) -> list[str] | None:
        """Names of the models it serves; None where it does not say.

        Raises:
          TryFailed: it does not answer.
        """
        try:
            body = await self._request("GET", "models", None)
        except TryFailed as error:
            if error.kind == "NotAChatReply" or isinstance(error.__cause__, _NotServed):
                return None
            raise
        entries = body.get("data") if isinstance(body, dict) else None
        names = [entry.get("id") for entry in entries or () if isinstance(entry, dict)]
        return [self._without_key(name) for name in names if isinstance(name, str)] or None

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        """The JSON that answers a request."""
        content = None if body is None else json.dumps(body).encode()
        url = f"{(self._config.url or '').rstrip('/')}/{path}"
        try:
            async with self._client.stream(method, url, content=content) as response:
                text = await self._read(response)
        except httpx2.RequestError as error:
            raise self._as_failure(error) from error
        if response.status_code != 200:
            raise self._refusal(response, text) from (_NotServed() if response.status_code in (404, 405, 501) else None)
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            if kind not in ("application/json", ""):
                raise ValueError
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TryFailed(
                "NotAChatReply",
                f"expected JSON; got {kind[:40] or 'no content type'}: {self._excerpt(text)}",
                passes=True,
            ) from error

    async def _read(self, response: httpx2.Response) -> str:
        parts, size = [], 0
        async for part in response.aiter_bytes():
            parts.append(part)
            size += len(part)
            if size > LARGEST_BODY:
                raise TryFailed(
                    "NotAChatReply", f"expected a body of at most {LARGEST_BODY} bytes; got more", passes=True
                )
        return b"".join(parts).decode("utf-8", errors="replace")

    def _refusal(self, response: httpx2.Response, text: str) -> TryFailed:
        status = response.status_code
        message = f"HTTP {status} {response.reason_phrase}: {self._excerpt(text)}"
        if status in (401, 403):
            named = self._config.key_variable
            message += f" (endpoint.key_variable={named})" if named else " (endpoint.key_variable names no key)"
        kind = "TooManyRequests" if status == 429 else "ServerFault" if status >= 500 else "RequestRefused"
        wait = read_retry_after(response.headers.get("retry-after"), time.time())
        return TryFailed(kind, self._without_key(message), passes=status >= 500 or status in _BUSY, retry_after=wait)

    def _as_failure(self, error: httpx2.RequestError) -> TryFailed:
        """What went wrong on the way, by the class of what was raised."""
        causes = list(_causes(error))
        refused = next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None)
        if refused is not None:
            return TryFailed("CertificateRefused", self._excerpt(refused.verify_message or str(refused)), passes=False)
        if isinstance(error, httpx2.TimeoutException):
            seconds = self._config.connect_seconds
            if not isinstance(error, httpx2.ConnectTimeout):
                seconds = self._config.read_seconds
            return TryFailed("TimedOut", f"nothing came for {seconds:g} s ({type(error).__name__})", passes=True)
        kind = "Unreachable" if isinstance(error, httpx2.ConnectError) else "ConnectionBroken"
        reason = next((str(cause) for cause in reversed(causes) if str(cause)), type(error).__name__)
        return TryFailed(kind, self._excerpt(reason), passes=True)

    def _excerpt(self, text: str) -> str:
        """The beginning of a text of others, fit for one line."""
        shown = " ".join("".join(c if c.isprintable() else " " for c in self._without_key(text)[:4096]).split())
        return shown[:_LONGEST_EXCERPT] or "nothing"

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


class _NotServed(Exception):
    """The endpoint has no such path."""


def request_body(config: EndpointConfig, conversation: Conversation) -> dict[str, Any]:
    """What is posted: all that the reply depends on, but for where it is asked."""
    messages = [{"role": role, "content": text} for role, text in conversation]
    body: dict[str, Any] = {
        "model": config.model, "messages": messages, "temperature": config.temperature, "max_tokens": config.max_tokens,
    }  # fmt: skip
    if config.seed is not None:
        body["seed"] = config.seed
    if config.enable_thinking is not None:  # of vLLM and SGLang, for templates that have such a switch
        body["chat_template_kwargs"] = {"enable_thinking": config.enable_thinking}
    return body


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what it came from, the outermost first; each once."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
