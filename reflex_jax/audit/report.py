"""What came of a replay: counted, and told in lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from reflex_jax.audit.compare import Difference, Flip
from reflex_jax.audit.rebuild import takes_advantages
from reflex_jax.audit.replay import Replayed
from reflex_jax.rewards.components import REWARDS, asks_endpoint, is_of_device


@dataclass
class Report:
    """Sums of the groups that were replayed."""

    groups: int = 0
    answers: int = 0
    decisions: int = 0  # of components that the judge's evidence decides
    batches: set[tuple[str, int]] = field(default_factory=set)
    elsewhere: dict[str, tuple[Any, Any]] = field(
        default_factory=dict
    )  # what of the machine is another: recorded, here
    taken: set[str] = field(default_factory=set)  # components that were not computed again
    takes_advantages: bool = False
    wrong: list[Difference | Flip] = field(default_factory=list)  # what rounding does not account for
    rounded: dict[str, float] = field(default_factory=dict)  # field -> largest difference that it does account for
    at_border: list[Flip] = field(default_factory=list)  # decisions that it turned

    def add(self, replayed: Replayed) -> None:
        """Counts a group."""
        _, batch, group = replayed.recorded
        self.groups, self.answers = self.groups + 1, self.answers + len(group.answers)
        self.decisions += sum(map(is_of_device, batch.rewards["components"])) * len(group.answers)
        self.batches.add((batch.name, batch.draw))
        self.elsewhere |= replayed.elsewhere
        self.taken |= set(replayed.taken)
        self.takes_advantages |= takes_advantages(batch)
        for found in replayed.found:
            if isinstance(found, Flip):
                (self.at_border if found.is_at_border else self.wrong).append(found)
            elif found.is_within and found.size is not None:
                name = found.field.split("].")[-1]  # of whichever statement
                self.rounded[name] = max(self.rounded.get(name, 0.0), found.size)
            else:
                self.wrong.append(found)

    def lines(self) -> Iterator[str]:
        """The sums in words."""
        batches = len(self.batches)
        what = (
            f"{_count(self.answers, 'answer')} to {_count(self.groups, 'question')} in {_count(batches, 'batch', 'es')}"
        )
        if self.wrong:
            yield f"replayed: {what}; {len(self.wrong)} values are not what was recorded"
        elif self.rounded or self.elsewhere:
            yield f"replayed: {what}; what was recorded came out again, up to rounding"
        else:
            yield f"replayed: {what}; every value came out again, bit for bit"
        if self.elsewhere:
            facts = "; ".join(
                f"{key} {_plain(then)} then, {_plain(now)} now" for key, (then, now) in self.elsewhere.items()
            )
            yield f"elsewhere than it was scored ({facts}), so bits may differ:"
            flips = len(self.at_border) + sum(isinstance(found, Flip) for found in self.wrong)
            yield f"  {flips} of {self.decisions} decisions by thresholds flipped, {len(self.at_border)} of them at their border"
        if self.rounded:
            sizes = ", ".join(f"{name} {size:.2g}" for name, size in sorted(self.rounded.items()))
            yield f"  largest differences: {sizes}"
        for name in sorted(self.taken):
            who = "a language model's verdict" if asks_endpoint(name) else "code of the run's own"
            yield f"taken from the record: {name} ({who} is not asked again)"
        if self.takes_advantages:
            yield "taken from the record: advantages of steps of several draws, which compare groups of all of them"
        encoded = sorted(name for name in self.rounded if REWARDS.get(name.removeprefix("components."), None))
        if encoded and not self.elsewhere:
            yield f"up to rounding: {', '.join(encoded)} (a text encoder reads other texts together than it did then)"


def _count(number: int, word: str, ending: str = "s") -> str:
    return f"{number} {word}{'' if number == 1 else ending}"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return " x ".join(f"{key}={size}" for key, size in value.items())
    return repr(value) if value in ("", None) else str(value)
