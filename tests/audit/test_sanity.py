"""Saliency is about weights, text and picture: what is shuffled and greyed, and what a judge of ours makes of it."""

import numpy as np
import pytest

from reflex_jax.audit.judge_audit import load_questions
from reflex_jax.audit.judge_scores import JudgeOfAudit
from reflex_jax.audit.sanity import Randomised, Sanity, check_sanity, shuffled_blocks, with_cells
from reflex_jax.audit.statistics import Estimate
from reflex_jax.audit.variants import draw_variants
from reflex_jax.config_reader import load_config
from reflex_jax.judge.evidence import load_judge


def test_blocks_are_shuffled_from_the_last_down_and_nothing_else():
    params = load_judge("phantom").params
    stages = list(shuffled_blocks(params, seed=0))
    assert [name for name, _ in stages] == ["block 2", "blocks 1 to 2", "blocks 0 to 2"]
    for number, (_, changed) in enumerate(stages):
        assert changed["text"] is params["text"] and changed["vision"]["embed"] is params["vision"]["embed"]
        for block in range(3):
            own, other = (np.asarray(p["vision"]["blocks"][block]["q"]["kernel"]) for p in (params, changed))
            assert np.array_equal(own, other) == (block < 2 - number)
            assert np.array_equal(np.sort(own, axis=None), np.sort(other, axis=None))  # the same numbers


def test_the_first_cells_of_an_order_are_exchanged():
    picture, other = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 9, np.uint8)
    shown = with_cells(picture, other, np.array([3, 0, 1, 2]), 0.5)[..., 0]
    assert shown.tolist() == [[9, 9, 0, 0], [9, 9, 0, 0], [0, 0, 9, 9], [0, 0, 9, 9]]
    assert not with_cells(picture, other, np.arange(4), 0.0).any()
    assert (with_cells(picture, other, np.arange(4), 1.0) == 9).all()


def test_what_fails_is_said_and_what_passes_is_not():
    low, high, none = Estimate(0.1, 0.0, 0.2), Estimate(0.9, 0.8, 1.0), Estimate(0.0, -0.1, 0.1)
    gain = Estimate(0.1, 0.05, 0.2)

    def sanity(last=low, text=low, deletion=gain, insertion=gain):
        stages = [Randomised("block 2", high, high), Randomised("blocks 0 to 2", last, last)]
        return Sanity(8, stages, Randomised("text tower", text, text), 0.33, deletion, insertion).warnings

    assert sanity() == []  # the first stage may stay
    for failing, words in (
        ({"last": high}, "all blocks are shuffled"),
        ({"text": high}, "text tower is shuffled"),
        ({"deletion": none}, "greying salient cells"),
        ({"insertion": none}, "putting salient cells back"),
    ):
        (warning,) = sanity(**failing)
        assert words in warning


@pytest.mark.slow  # a dozen passes of the judge
def test_maps_of_the_shipped_judge_fall_with_its_weights_and_matter(repository):
    config = load_config(repository / "configs" / "phantom.yaml", ["data.size=300"])
    asked = draw_variants(load_questions(config), count=24, seed=0)
    found = check_sanity(JudgeOfAudit(load_judge("phantom"), config.judge), asked, seed=0)
    correlations = [stage.correlation.value for stage in found.cascade]
    assert correlations == sorted(correlations, reverse=True) and found.cascade[-1].correlation.high < 0.4
    assert found.cascade[-1].iou.value < 0.2 and found.text.correlation.value < 0.6
    assert found.deletion.low > 0 and found.chance_iou == pytest.approx(0.1 / 1.9, abs=0.01)
