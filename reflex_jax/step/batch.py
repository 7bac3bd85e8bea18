"""Questions become arrays: pictures read and cut, prompts tokenised, all padded to the run's static sizes."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from reflex_jax.config import Config, ConfigError, JudgeConfig
from reflex_jax.data.examples import Example, list_offenders
from reflex_jax.data.probes import Probe, show_instead
from reflex_jax.data.prompts import TOKEN_MULTIPLE, EncodedPrompt, Processor, PromptSizes
from reflex_jax.judge.batch import judge_pixels, stack_pictures
from reflex_jax.judge.evidence import Judge
from reflex_jax.records import PromptInputs
from reflex_jax.sharding import BatchRows
from reflex_jax.statements.collisions import colliding_options
from reflex_jax.step.ladders import ladder
from reflex_jax.step.models import Models


@dataclass(frozen=True)
class HostBatch:
    """This process's part of one step's questions as arrays, still on the host."""

    examples: Sequence[Example]
    prompts: PromptInputs
    # None: nothing asks the judge; with an axis K where it looks at all pictures of a question
    judge_pixels: UInt8[np.ndarray, "p H W 3"] | UInt8[np.ndarray, "p K H W 3"] | None


class BatchBuilder:
    """Questions -> arrays, padded to one of a few static sizes: the smallest that holds every prompt of the batch.

    Where the policy is shown other pictures than the question's own (`data.probes`), the judge still sees those.
    """

    def __init__(
        self, models: Models, sizes: PromptSizes, rows: BatchRows, *, judge: JudgeConfig, rungs: int = 1,
        probe: Probe | None = None,
    ):  # fmt: skip
        """Reads nothing yet.

        Args:
          models: of the run.
          sizes: of its prompts, which the largest rung holds.
          rows: of a batch.
          judge: which pictures of a question the judge looks at, and how they are resized.
          rungs: how many sizes there are at most; 1: `sizes` alone.
          probe: which pictures the policy sees; None: the question's own.
        """
        self._processor, self._judge, self._rungs = models.processor, models.judge, prompt_rungs(sizes, rungs)
        self.rows, self._probe, self._looks = rows, probe, judge
        self._room = sizes.judged if judge.sees_all_pictures else None

    def sizes_of(self, examples: Sequence[Example]) -> PromptSizes:
        """The rung of a batch: by all P questions, those of other processes too, so that all run the same program."""
        if len(self._rungs) == 1:
            return self._rungs[0]
        needed = PromptSizes(1, 0)
        for example in examples:
            needed = needed.union(PromptSizes(*self._processor.size_of(self._shown(example))))
        return next((rung for rung in self._rungs if rung.union(needed) == rung), self._rungs[-1])

    def _shown(self, example: Example) -> Example:
        return example if self._probe is None else show_instead(example, self._probe)

    def __call__(self, examples: Sequence[Example]) -> HostBatch:
        """Loads, resizes and tokenises this process's part of P questions, one a core at a time."""
        sizes = self.sizes_of(examples)
        examples = self.rows.take(examples)
        # decoding, resizing and copying leave the interpreter to the others
        with ThreadPoolExecutor(max_workers=min(len(examples), os.cpu_count() or 1)) as threads:
            prepared = list(threads.map(self._prepare, examples))
        prompts = self._processor.collate(
            [encoded for encoded, _ in prepared],
            prompt_tokens=sizes.prompt_tokens,
            windows=sizes.windows,
        )
        pixels = [seen for _, seen in prepared if seen]
        return HostBatch(examples, prompts, stack_pictures(pixels, room=self._room) if pixels else None)

    def _prepare(self, example: Example) -> tuple[EncodedPrompt, list[UInt8[np.ndarray, "H W 3"]]]:
        """A question as the policy reads it, and the pictures that the judge looks at."""
        images = example.load_images()
        seen = images if self._probe is None else self._shown(example).load_images()
        judged = [] if self._judge is None else judged_pictures(images, self._judge, self._looks)
        return self._processor.encode(seen, example.question, example_id=example.id), judged


def judged_pictures(
    images: Sequence[Image.Image], judge: Judge, looks: JudgeConfig
) -> list[UInt8[np.ndarray, "H W 3"]]:
    """What the judge looks at of the pictures of a question: those of `judge.picture`, at its size."""
    return [judge_pixels(image, judge.config, resize=looks.resize) for image in images[looks.looks_at(len(images))]]


def prompt_rungs(largest: PromptSizes, count: int) -> tuple[PromptSizes, ...]:
    """At most `count` sizes of prompts, ascending, from a quarter of the largest on.

    Windows grow with the tokens, because most tokens of a long prompt are those of its pictures. A run whose prompts have
    pictures has room for some on every rung.
    """
    tokens, windows = largest.prompt_tokens, largest.windows
    lengths = ladder(tokens, count=count, multiple=TOKEN_MULTIPLE)
    smaller = [
        dataclasses.replace(largest, prompt_tokens=length, windows=-(-windows * length // tokens))
        for length in lengths[:-1]
    ]
    return (*smaller, largest)


def measure_prompts(
    config: Config, processor: Processor, *example_lists: Sequence[Example], with_judge: bool
) -> PromptSizes:
    """Static sizes that hold every question of the run.

    Raises:
      ConfigError: prompts too long, or questions without an image where the judge would have to look at one; all by id.
    """
    sizes, complaints = PromptSizes(1, 0), []
    for examples in example_lists:
        blind = [example.id for example in examples if not example.images] if with_judge else []
        if blind:
            complaints.append(
                f"{len(blind)} questions have no image for the judge to look at: {list_offenders(blind)}. Remove them, or the "
                "rewards that ask the judge (rewards.components)."
            )
        try:
            sizes = sizes.union(processor.measure(examples, max_prompt_tokens=config.data.max_prompt_tokens))
        except ConfigError as error:
            complaints.append(str(error))
        if with_judge and config.judge.sees_all_pictures:
            most = max((len(example.images) for example in examples), default=1)
            sizes = sizes.union(dataclasses.replace(sizes, judged=max(1, most)))
    if complaints:
        raise ConfigError("\n".join(dict.fromkeys(complaints)))
    return sizes


def leave_out_unfit(
    config: Config, processor: Processor, examples: Sequence[Example], *, with_judge: bool
) -> list[Example]:
    """The questions that this run can ask; where `data.refused` stops at others, all of them, for `measure_prompts` to refuse.

    What is left out, for want of a picture for the judge, a shape that can be resized or room in a prompt, is said in a line.

    Raises:
      ConfigError: none is left.
    """
    if config.data.refused == "stop":
        return list(examples)
    kept, left = [], []
    for example in examples:
        reason = _unfit(config, processor, example, with_judge=with_judge)
        if reason is None:
            kept.append(example)
        else:
            left.append(f"{example.id} ({reason})")
    if left:
        print(
            f"left out: {len(left)} questions that this run cannot ask: {list_offenders(left)}.",
            file=sys.stderr,
            flush=True,
        )
    if examples and not kept:
        raise ConfigError(f"data.sources: this run can ask none of {len(examples)} questions: {list_offenders(left)}.")
    return kept


def _unfit(config: Config, processor: Processor, example: Example, *, with_judge: bool) -> str | None:
    if with_judge and not example.images:
        return "no picture for the judge"
    try:
        tokens, _ = processor.size_of(example)
    except ValueError:
        return "a picture that cannot be resized"
    limit = config.data.max_prompt_tokens
    return f"{tokens} tokens, data.max_prompt_tokens={limit}" if tokens > limit else None


def refuse_colliding_options(judge: Judge | None, max_statement_tokens: int, *example_lists: Sequence[Example]) -> None:
    """Refuses questions to which the judge could not tell a wrong option from the right one.

    Args:
      judge: of the run; None: nothing asks one.
      max_statement_tokens: T; of a longer statement the judge reads the beginning.

    Raises:
      ConfigError: statements of a right and a wrong option end in the same ids, all such questions by id.
    """
    if judge is None:
        return
    tokenizer = judge.tokenizer

    def encode(statement: str) -> tuple[int, ...]:
        return tokenizer(statement, max_statement_tokens)

    colliding = [
        f"{e.id} ({', '.join(same)[:60]})"
        for examples in example_lists
        for e in examples
        if (same := colliding_options(e.question, e.answer, e.options, encode))
    ]
    if colliding:
        raise ConfigError(
            f"judge.max_statement_tokens={max_statement_tokens}: to {len(colliding)} questions a wrong option makes the same "
            f"statement as the right one: {list_offenders(colliding)}. Raise it, or remove them (data.exclude)."
        )
