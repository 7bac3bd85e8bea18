"""How long an endpoint asks to wait."""

import pytest

from reflex_jax.chat.retry_after import read_retry_after

NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT, the date of RFC 9110


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0), ("120", 120.0), (" 7 ", 7.0), ("Sun, 06 Nov 1994 08:50:07 GMT", 30.0),
        ("Sun, 06 Nov 1994 08:50:07 -0000", 30.0), ("Sun, 06 Nov 1994 08:00:00 GMT", 0.0), (None, None), ("", None),
        ("soon", None), ("-1", None), ("1.5", None), ("Sun, 99 Nov 1994 08:49:37 GMT", None), ("٣", None),
        ("9" * 400, 999999999.0),
    ],
)  # fmt: skip
def test_seconds_and_dates_are_read_and_anything_else_says_nothing(value, seconds):
    assert read_retry_after(value, NOW) == seconds
