"""A JSON object of a model's directory read key by key: what is wrong is collected, so that one message names all of it."""

from __future__ import annotations

from typing import Any

MOST_LAYERS = 1024
_LARGEST_SIZE = (
    2**24
)  # beyond any published model; what is larger is a slip, and would end in an overflow far from here
_LARGEST_NUMBER = 1e30  # finite in float32


class Fields:
    """One JSON object, read key by key. What is wrong is noted, and None stands for it so that reading goes on."""

    def __init__(self, values: dict[str, Any], problems: list[str], prefix: str = ""):
        self.values, self.problems, self._prefix = values, problems, prefix

    def get(self, key: str) -> Any:
        """The value as it is; None where the key is absent or null."""
        return self.values.get(key)

    def wrong(self, key: str, expected: str) -> None:
        """Notes a problem with a key."""
        got = shown(self.values[key]) if key in self.values else "nothing"
        self.problems.append(f"{self._prefix}{key}: expected {expected}, got {got}")

    def section(self, key: str, *, is_needed: bool = True) -> Fields:
        """An object within; an empty one where there is none."""
        value = self.get(key)
        if not isinstance(value, dict):
            if is_needed or value is not None:
                self.wrong(key, "an object {...}")
            value = {}
        return Fields(value, self.problems, f"{self._prefix}{key}.")

    def size(self, key: str, default: int | None = None, *, most: int = _LARGEST_SIZE) -> int | None:
        """A whole number from 1 on; `default` where the key is absent."""
        value = self.values.get(key, default)
        if type(value) is int and 1 <= value <= most:
            return value
        self.wrong(key, f"a whole number from 1 to {most}")
        return None

    def positive(self, key: str, default: float | None = None) -> float | None:
        """A number above 0 that float32 holds; `default` where the key is absent."""
        value = self.values.get(key, default)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < _LARGEST_NUMBER:
            return float(value)
        self.wrong(key, "a number above 0")
        return None

    def flag(self, key: str) -> bool:
        """True or false; false where the key is absent or null."""
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            self.wrong(key, "true or false")
        return value is True

    def only(self, key: str, choice: Any) -> None:
        """Notes every value but this one; absent and null count as it."""
        value = self.get(key)
        # 1 == True, and a list has no place here
        if value is not None and (value != choice or isinstance(value, bool) != isinstance(choice, bool)):
            self.wrong(key, repr(choice))

    def token(self, key: str, vocabulary: int | None, *, other: str = "") -> int | None:
        """A token id that the embedding has; `other` says what else the message offers."""
        value = self.get(key)
        if is_token(value, vocabulary):
            return value
        self.wrong(key, token_range(vocabulary) + other)
        return None

    def ids(self, key: str, *, below: int | None) -> tuple[int, ...] | None:
        """A list of whole numbers from 0 on, without repetitions."""
        value = self.get(key)
        if isinstance(value, list) and len(set(map(repr, value))) == len(value):
            if all(is_token(number, below) for number in value):
                return tuple(value)
        self.wrong(key, f"a list of different numbers from 0 to {(below or _LARGEST_SIZE) - 1}")
        return None


def is_token(value: Any, vocabulary: int | None) -> bool:
    """Whether a value is a whole number from 0 on, below the size of the vocabulary where it is known."""
    return type(value) is int and 0 <= value < (vocabulary or _LARGEST_SIZE)


def token_range(vocabulary: int | None) -> str:
    """What a token id is expected to be."""
    return f"a token id from 0 to {vocabulary - 1}" if vocabulary else "a token id"


def shown(value: Any) -> str:
    """A value as a message shows it: short, whatever it is."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
