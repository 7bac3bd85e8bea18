"""HOST: how long an endpoint asks to wait (RFC 9110, 10.2.3: seconds, or a date)."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime


def read_retry_after(value: str | None, now: float) -> float | None:
    """Seconds from `now` (of the epoch) on, >= 0; None where the header is absent or says nothing."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except ValueError:  # no date, or one that does not exist
        return None
    if date.tzinfo is None:  # "-0000": the standard knows GMT alone
        date = date.replace(tzinfo=UTC)
    return max(0.0, date.timestamp() - now)
