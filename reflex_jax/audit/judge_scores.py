"""The judge's numbers for the variants of a question, by the functions and settings of the reward itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jaxtyping import Bool, Float, UInt8

from reflex_jax.audit.variants import GROUPS, PICTURE_GROUPS, STATEMENT_GROUPS, Variants
from reflex_jax.config import ConfigError, JudgeConfig
from reflex_jax.data.examples import Example
from reflex_jax.judge.batch import prepare_judge_batch
from reflex_jax.judge.evidence import Judge, gather_evidence
from reflex_jax.records import Evidence
from reflex_jax.rewards.visual_fidelity import intersection_over_union
from reflex_jax.step.batch import judged_pictures
from reflex_jax.step.score import make_evidence_settings
from reflex_jax.trees import Params

_BATCH = 16  # questions at one time; the last batch is filled up, so that one program serves all
_GREY = (127, 127, 127)  # of a blank picture, as evaluation shows it to the policy
SLOTS = len(STATEMENT_GROUPS)  # statements of one picture that are judged together


class JudgeOfAudit:
    """A judge with the settings of a configuration, compiled once for all that an audit asks."""

    def __init__(self, judge: Judge, settings: JudgeConfig):
        """Compiles nothing yet.

        Args:
          judge: its parameters may be exchanged by `with_params`.
          settings: section `judge`.
        Raises:
          ConfigError: it looks at all pictures of a question, where an audit shows it one beside another.
        """
        if settings.sees_all_pictures:
            raise ConfigError(
                "judge.picture=mean: expected one picture of a question, an audit exchanges it for others; set "
                "judge.picture=first."
            )
        self.judge, self.settings = judge, settings
        self._gather = partial(_gather, shape=judge.config, settings=make_evidence_settings(settings))

    def with_params(self, params: Params) -> JudgeOfAudit:
        """The same towers with other weights."""
        return JudgeOfAudit(Judge(self.judge.config, params, self.judge.tokenizer), self.settings)

    def pixels(self, example: Example) -> UInt8[np.ndarray, "H W 3"]:
        """The picture of a question that the judge looks at."""
        (pixels,) = judged_pictures(example.load_images(), self.judge, self.settings)
        return pixels

    def blank(self) -> UInt8[np.ndarray, "H W 3"]:
        """A grey picture."""
        size = self.judge.config.vision.image_size
        return np.full((size, size, 3), _GREY, np.uint8)

    def evidence(
        self,
        pixels: Sequence[UInt8[np.ndarray, "H W 3"]],
        statements: Sequence[Sequence[str | None]],
        anchors: Sequence[str],
        questions: Sequence[str],
    ) -> Evidence:
        """Evidence of N pictures with at most `SLOTS` statements each, on the host.

        Args:
          pixels: N pictures.
          statements: of each picture; None: none in this place.
          anchors: N.
          questions: N, of the `centered` mode.
        """
        found = []
        for start in range(0, len(pixels), _BATCH):
            rows = [min(start + n, len(pixels) - 1) for n in range(_BATCH)]
            inputs = prepare_judge_batch(
                np.stack([pixels[row] for row in rows]),
                [[*statements[row], *[None] * (SLOTS - len(statements[row]))] for row in rows],
                [anchors[row] for row in rows],
                self.judge.tokenizer,
                max_statement_tokens=self.settings.max_statement_tokens,
                questions=[questions[row] for row in rows] if self.settings.centered else None,
            )
            found.append(jax.device_get(self._gather(self.judge.params, inputs)))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(pixels)], *found)


_gather = jax.jit(gather_evidence, static_argnames=("shape", "settings"))
_overlap = jax.jit(intersection_over_union)


@dataclass(frozen=True)
class Scores:
    """Three numbers for each of N questions and each group of `variants.GROUPS`; NaN where a question has no such variant."""

    iou: dict[str, Float[np.ndarray, "n"]]  # with the anchor's mask; 0 where a map cannot be cut
    text: dict[str, Float[np.ndarray, "n"]]  # s_tt, of statements alone: a picture does not change it
    image: dict[str, Float[np.ndarray, "n"]]  # s_it

    def of(self, component: str) -> dict[str, Float[np.ndarray, "n"]]:
        """By the names of `verdict.COMPONENTS`."""
        return {"VFR": self.iou, "s_tt": self.text, "s_it": self.image}[component]


def score_variants(judge: JudgeOfAudit, variants: Sequence[Variants]) -> Scores:
    """Shows the judge every variant beside its anchor.

    Of the groups whose picture is another, s_it is that of the true statement in front of it, and IoU that of the statement's
    mask there with its mask on its own picture: high where the judge looks at the same place whatever the picture.
    """
    anchors, questions = [v.anchor for v in variants], [v.example.question for v in variants]
    pixels = [judge.pixels(v.example) for v in variants]
    statements = [[v.texts[group] for group in STATEMENT_GROUPS] for v in variants]
    own = judge.evidence(pixels, statements, anchors, questions)
    has = own.has_statement
    groups = {
        group: (
            _there(np.where(own.is_degenerate, 0.0, own.iou)[:, g], has[:, g]),
            _there(own.text_text_similarity[:, g], has[:, g]),
            _there(own.image_text_similarity[:, g], has[:, g]),
        )
        for g, group in enumerate(STATEMENT_GROUPS)
    }
    # the anchor itself in front of other pictures
    others = {
        "other_picture": [judge.pixels(v.other) if v.other else judge.blank() for v in variants],
        "blank_picture": [judge.blank()] * len(variants),
    }
    exists = {"other_picture": np.array([v.other is not None for v in variants])}
    for group in PICTURE_GROUPS:
        shown = judge.evidence(others[group], [[anchor] for anchor in anchors], anchors, questions)
        is_there = exists.get(group, np.ones(len(variants), bool))
        groups[group] = (
            _there(np.asarray(_overlap(shown.anchor_masks, own.anchor_masks)), is_there),
            np.full(len(variants), np.nan),
            _there(shown.image_text_similarity[:, 0], is_there),
        )
    return Scores(*({group: groups[group][number] for group in GROUPS} for number in range(3)))


def _there(values: Float[np.ndarray, "n"], exists: Bool[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    return np.where(exists, values.astype(float), np.nan)
