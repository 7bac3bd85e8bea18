"""HOST: before the first step: does the endpoint answer, and does it serve the model?"""

from __future__ import annotations

from contextlib import closing

from reflex_jax.chat.client import ChatClient
from reflex_jax.chat.endpoint import TryFailed
from reflex_jax.config import ConfigError, EndpointConfig, nearest_name

_SECONDS = 15.0
_MOST_NAMED = 8


def look_at_endpoint(config: EndpointConfig) -> str:
    """Looks, unless `endpoint.check` says not to, whether the endpoint can be asked; returns one line on what is there.

    Raises:
      ConfigError: it cannot, for a reason in the configuration, the environment or the endpoint.
    """
    with closing(ChatClient(config)) as client:
        return check_endpoint(client, config) if config.check else ""


def check_endpoint(client: ChatClient, config: EndpointConfig) -> str:
    """Asks for the list of models; returns one line on what is there.

    Raises:
      ConfigError: it cannot be reached, refuses the key, or serves other models.
    """
    try:
        names = client.list_models(min(_SECONDS, config.deadline_seconds))
    except TryFailed as error:
        advice = {
            "CertificateRefused": "Name the host its certificate is for, or make its authority known (SSL_CERT_FILE).",
            "RequestRefused": "Set endpoint.key_variable, or export another key.",
        }.get(error.kind, "Start it, or set another endpoint.url.")
        raise ConfigError(
            f"endpoint.url: {config.url} does not answer: {error.kind} ({error}). {advice} endpoint.check=false begins without "
            "this look."
        ) from error
    if names is not None and config.model not in names:
        shown = ", ".join(sorted(names)[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
        raise ConfigError(
            f"endpoint.model: {config.url} does not serve {config.model!r}; it serves {shown}."
            f"{nearest_name(config.model or '', names)} endpoint.check=false begins without this look."
        )
    says = f"serves {config.model}" if names is not None else "answers, and does not list its models"
    if client.cache is None:
        return f"{config.url} {says}"
    replies, size = client.cache.size()
    return f"{config.url} {says}; {config.cache} holds {replies} replies, {size / 1e6:.1f} MB"
