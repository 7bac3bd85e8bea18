"""The few pytrees that cross package borders.

Axis letters, everywhere: P prompts, G completions of one prompt (the group), Lp prompt tokens, Lc completion tokens,
W attention windows of the vision tower, U patches of one window, S distinct statements of a prompt (0 is the anchor),
T statement tokens, D width. What belongs to a prompt has no G axis: a group shares it and it is computed once.
"""

from __future__ import annotations

import dataclasses

from jaxtyping import Bool, Float, Int, Key, UInt8

from reflex_jax.trees import Leaf, pytree_dataclass


@pytree_dataclass
class VisionInputs:
    """Images of P rows as the vision tower reads them: patches sorted into attention windows on the host.

    Window membership, rotary coordinates and the image a patch belongs to are data, not constants, so any aspect
    ratio and any number of images in a row (also none) go through one compiled function.
    """

    # levels 0 to 255 of a still frame, or normalised pixels of two; four patches in a row make one merged feature
    patches: UInt8[Leaf, "P W U still"] | Float[Leaf, "P W U frames"]
    coordinates: Int[Leaf, "P W U 2"]  # (row, column) of each patch in its own image, in patches
    image_ids: Int[Leaf, "P W U"]  # 0: empty slot; 1, 2, ...: which image of the row
    # (slope, intercept) of each channel: a level becomes level * slope + intercept; None: `patches` are normalised
    normalisation: Float[Leaf, "P 2 3"] | None = None
    # where each patch lies in the tower's table of learned positions, between its rows and columns; None: it has none
    places: Float[Leaf, "P W U 2"] | None = None


@pytree_dataclass
class PromptInputs:
    """Tokenised prompts with their images."""

    tokens: Int[Leaf, "P Lp"]
    is_valid: Bool[Leaf, "P Lp"]  # False: padding, on either side
    positions: Int[Leaf, "P 3 Lp"]  # M-RoPE: temporal, height, width
    feature_index: Int[Leaf, "P Lp"]  # merged vision feature this token stands for, -1 for text
    vision: VisionInputs | None  # None: no row of the batch has an image


@pytree_dataclass
class Draws:
    """All the randomness of a rollout: the same draws give a prompt the same completions in any batch."""

    key: Key[Leaf, ""]  # of the step
    prompt_ids: Int[Leaf, "P"]  # global number of each prompt


@pytree_dataclass
class Rollout:
    """What the sampler produced."""

    tokens: Int[Leaf, "P G Lc"]  # padded with the pad id after the end
    log_probs: Float[Leaf, "P G Lc"]  # of the sampling distribution, 0 where masked
    mask: Bool[Leaf, "P G Lc"]  # True for sampled tokens, the EOS included


@pytree_dataclass
class JudgeInputs:
    """What the judge looks at and reads; statement 0 of each prompt is the anchor (the dataset's answer)."""

    # resized and cropped, not yet normalised; where the judge looks at all pictures of a question: K of each, behind them nothing
    pixels: UInt8[Leaf, "P H W 3"] | UInt8[Leaf, "P K H W 3"]
    statements: Int[Leaf, "P S T"]  # token ids of the distinct statements, [PAD] filled
    statement_count: Int[Leaf, "P"]  # how many of the S rows are used, the anchor included
    statement_index: Int[Leaf, "P G"]  # statement of each completion; 0: the same words as the anchor
    has_statement: Bool[Leaf, "P G"]  # False: the completion has no answer, so nothing to look for
    picture_count: Int[Leaf, "P"] | None = (
        None  # how many of K pictures there are; None: one of each prompt, without the axis
    )


@pytree_dataclass
class HostScores:
    """Rewards computed from strings, and what the strings say about validity."""

    components: dict[str, Float[Leaf, "P G"]]  # by name; 0 where one does not apply, NaN where a row failed
    applies: dict[str, Bool[Leaf, "P G"]]  # False: nothing was to be scored, so the row is not counted there
    is_correct: Bool[Leaf, "P G"]  # closed exact match, open R_ans >= 0.5: for metrics, and for what depends on it
    is_valid: Bool[Leaf, "P G"]  # False: a reward failed; the row leaves every statistic
    # What is reported of the answers, by name; NaN where a question has no such number. Without any, all are taken for closed.
    metrics: dict[str, Float[Leaf, "P G"]] = dataclasses.field(default_factory=dict)

    @property
    def measured(self) -> dict[str, Float[Leaf, "P G"]]:
        """The metrics; of none, the accuracy."""
        return self.metrics or {"accuracy": self.is_correct.astype("float32")}


@pytree_dataclass
class TokenCounts:
    """How much of the padded arrays of P prompts exists."""

    first: Int[Leaf, "P"]  # place of a prompt's first token
    prompt: Int[Leaf, "P"]  # tokens of the prompt, without a gap
    completions: Int[Leaf, "P G"]
    windows: Int[Leaf, "P"] | None  # attention windows of the prompt's pictures; None: no prompt has one


@pytree_dataclass
class RowLayout:
    """Where the tokens of a step lie in the rows that are computed: M minibatches, N rounds at most, B rows of T slots.

    Row b belongs to device b // (B / devices), and so do the prompts at the same place of `order`. Numbers of tokens,
    completion tokens and windows count those of the device's own prompts, in the order of the padded arrays.
    """

    order: Int[Leaf, "M p"]  # the prompts of each minibatch, device after device
    rounds: Int[Leaf, "M"]  # how many of the rounds are used
    source: Int[Leaf, "M N B T"]  # which token fills a slot; -1: none
    predicted: Int[Leaf, "M N B T"]  # the completion tokens of a row, one after another; -1: no more
    predicting: Int[Leaf, "M N B T"]  # the slot of the row that predicts each of them
    most_predicted: Int[Leaf, "M N"]  # completion tokens of the row of a round that has most
    window_rounds: Int[Leaf, "M"] | None  # None: no prompt has a picture
    window_source: Int[Leaf, "M N B W"] | None  # which window fills a place; -1: none


@pytree_dataclass
class PackedRows:
    """Rows of prompts and completions, as the decoder reads them.

    Slot q reads slot k where k <= q and segments[k] is segments[q] or roots[q]: its own text, and its prompt.
    """

    tokens: Int[Leaf, "B T"]
    positions: Int[Leaf, "B T 3"]
    segments: Int[Leaf, "B T"]  # one number for each prompt and each completion of a row; -1: empty
    roots: Int[Leaf, "B T"]  # the segment of the prompt; -1: empty
    is_image: Bool[Leaf, "B T"]  # whether a vision feature stands in the place of the token
    targets: Int[Leaf, "B T"]  # the completion tokens of a row, one after another
    predicting: Int[Leaf, "B T"]  # the slot that predicts each of them
    most_predicted: Int[Leaf, ""]  # how many of the row that has most; the others follow without a meaning


@pytree_dataclass
class TrainBatch:
    """Everything one training step reads."""

    prompts: PromptInputs
    rollout: Rollout
    judge: JudgeInputs | None  # None: no component asks the judge
    scores: HostScores
    rows: RowLayout | None = None  # of the prompts and their completions; None: not laid out yet


@pytree_dataclass
class Evidence:
    """What the judge found for P images and the G statements of each, beside the anchor of each.

    Similarities are cosines in [-1, 1]; saliency is raw (any scale, the order inside one map matters). Where the judge looks at K
    pictures of a prompt each has maps and masks of its own, empty where there is no picture, and all other numbers are means
    over the pictures.
    """

    image_embeddings: Float[Leaf, "P D"]  # of length 1, but for a mean
    statement_embeddings: Float[Leaf, "P G D"]
    anchor_embeddings: Float[Leaf, "P D"]
    saliency: Float[Leaf, "P G *K h w"]
    anchor_saliency: Float[Leaf, "P *K h w"]
    masks: Bool[Leaf, "P G *K h w"]
    anchor_masks: Bool[Leaf, "P *K h w"]
    iou: Float[Leaf, "P G"]
    chance_corrected_iou: Float[Leaf, "P G"]
    text_text_similarity: Float[Leaf, "P G"]
    image_text_similarity: Float[Leaf, "P G"]
    has_statement: Bool[Leaf, "P G"]  # False: no answer, so everything else of the completion is 0, empty or False
    is_degenerate: Bool[
        Leaf, "P G"
    ]  # the statement's or the anchor's map cannot be cut, of any picture: the masks say nothing
    tied_fraction: Float[Leaf, "P G"]  # cells of the statement's map that share the value at the cut
