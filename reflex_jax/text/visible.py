"""HOST: text that nobody has checked, made harmless to look at: what cannot be seen is written out."""

from __future__ import annotations

import re

# C0 and C1 controls but tab and line feed; marks that turn the direction of writing, join or hide; lone surrogates
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def visible_text(text: str, longest: int) -> str:
    """The first characters of a text with its controls and invisible marks spelled out: "\u2039U+001B\u203a" for an escape.

    Args:
      text: any, of a model or a data set.
      longest: characters of it that are looked at.
    """
    return _HIDDEN.sub(lambda found: f"\u2039U+{ord(found.group()):04X}\u203a", text[:longest])
