"""Text that nobody has checked, as a part of a prompt: it stays inside its quote, whatever it says.

The marks around a quote carry a hash of everything that is quoted, so a text would have to contain its own hash to close
them; and what chat templates or models read as more than words is broken up. The same texts give the same prompt, which a
cache and a deterministic judge need. No mark keeps a model from believing what it reads: the prompt has to say that.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

_HASH_LETTERS = 16  # 64 bits
# <|im_end|>, </s>, <start_of_turn>, [INST], [/INST]: markers of a turn. "<5 mm", "< 5", "<=" and "[1]" are left alone.
_TURN_MARKERS = re.compile(r"<(?=[^\s\d.=])|\[(?=/?[A-Z_]{3,}\])")
_SWITCHES = re.compile(r"/(?=(?:no_?)?think\b)", re.IGNORECASE)  # of Qwen3, read wherever they stand in the user's turn
CUT = " [cut]"


def plain_text(text: str, longest: int) -> str:
    """One line of visible characters, at most so many and `CUT`; what a template could take for a marker is broken by a space."""
    # what is cut away is not cleaned either: time is bounded by `longest`, not by what was sampled
    start = text[: 4 * longest]
    visible = "".join(
        c if c.isprintable() else " " if c.isspace() or unicodedata.category(c) == "Cc" else "" for c in start
    )
    line = " ".join(visible.split())
    if len(line) > longest or len(text) > 4 * longest:
        line = line[:longest].rstrip() + CUT
    return _SWITCHES.sub("/ ", _TURN_MARKERS.sub(lambda marker: f"{marker.group()} ", line))


def quote_texts(texts: list[tuple[str, str]], longest: int) -> tuple[str, str]:
    """Texts between marks, one a line, and the ending that their marks have in common.

    Args:
      texts: (name, text); a name is a word of ours and may come more than once.
      longest: characters of one text.
    Returns:
      `<name-ENDING>text</name-ENDING>` for each, and ENDING.
    """
    plain = [(name, plain_text(text, longest)) for name, text in texts]
    ending = hashlib.sha256("\0".join(f"{name}\0{text}" for name, text in plain).encode()).hexdigest()[:_HASH_LETTERS]
    return "\n".join(f"<{name}-{ending}>{text}</{name}-{ending}>" for name, text in plain), ending
