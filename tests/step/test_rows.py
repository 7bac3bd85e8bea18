"""Where tokens lie in rows: each that exists once, on the device of its prompt, in few slots, the same for everybody."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex_jax.config import MeshConfig
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.records import TokenCounts
from reflex_jax.sharding import make_mesh
from reflex_jax.step.rows import (
    RowPlan,
    abstract_rows,
    count_tokens,
    describe_rows,
    lay_out_rows,
    place_rows,
    plan_rows,
    widen_prompts,
)
from tests.step.conftest import TinyWorld

PROMPT, STEPS, GROUP, WINDOWS = 40, 24, 3, 9
LONGEST = PROMPT + GROUP * STEPS


@st.composite
def steps_of_runs(draw):
    """A plan and the lengths of one step."""
    ways, minibatches = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2]))
    of_device = draw(st.sampled_from([1, 2, 4, 6]))
    rows_of_device = draw(st.sampled_from([n for n in (1, 2, 3) if of_device % n == 0]))
    prompts = ways * minibatches * of_device
    lengths = tuple(sorted({LONGEST, *draw(st.lists(st.integers(30, LONGEST), max_size=3))}))
    plan = RowPlan(prompts=prompts, minibatches=minibatches, ways=ways, rows=ways * rows_of_device, prompt_tokens=PROMPT,
                   completion_tokens=STEPS, group=GROUP, windows=WINDOWS, lengths=lengths)  # fmt: skip
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    prompt = random.integers(1, PROMPT + 1, prompts)
    counts = TokenCounts(
        first=random.integers(0, PROMPT - prompt + 1),
        prompt=prompt,
        completions=random.integers(0, STEPS + 1, (prompts, GROUP)),
        windows=random.integers(0, WINDOWS + 1, prompts),
    )
    return plan, counts


@given(steps_of_runs())
def test_every_token_that_exists_lies_in_one_slot_behind_its_prompt(step):
    plan, counts = step
    layout = lay_out_rows(counts, plan)
    most = layout.source.shape[2] // plan.ways
    assert layout.source.shape[:-1] == plan.shape(most) and most in (1, plan.most_rows)
    assert layout.source.shape[-1] in plan.lengths
    assert sorted(layout.order.ravel()) == list(range(plan.prompts))
    found, found_windows = set(), set()
    for m in range(plan.minibatches):
        assert (layout.order[m] % plan.minibatches == m).all()
        own = layout.order[m].reshape(plan.ways, -1)
        assert (layout.source[m, layout.rounds[m] :] == -1).all()
        for n, b in np.ndindex(*layout.source.shape[1:3]):
            prompts = own[b // most]
            assert layout.most_predicted[m, n] >= (layout.predicted[m, n, b] >= 0).sum()
            row = [(prompts[s // plan.slots], s % plan.slots) for s in layout.source[m, n, b] if s >= 0]
            assert not found & set(row)
            found |= set(row)
            for token, slot in zip(layout.predicted[m, n, b], layout.predicting[m, n, b], strict=True):
                if token < 0:
                    break
                prompt, place = prompts[token // (GROUP * STEPS)], token % (GROUP * STEPS)
                before = counts.first[prompt] + counts.prompt[prompt] - 1 if place % STEPS == 0 else PROMPT + place - 1
                assert row[slot] == (prompt, before)  # the last prompt token, or the token before it
            found_windows |= {(prompts[w // WINDOWS], w % WINDOWS) for w in layout.window_source[m, n, b] if w >= 0}
    expected = {(p, counts.first[p] + i) for p in range(plan.prompts) for i in range(counts.prompt[p])}
    expected |= {(p, PROMPT + g * STEPS + i) for p in range(plan.prompts) for g in range(GROUP)
                 for i in range(counts.completions[p, g])}  # fmt: skip
    assert found == expected
    assert found_windows == {(p, w) for p in range(plan.prompts) for w in range(counts.windows[p])}
    assert (layout.predicted >= 0).sum() == counts.completions.sum()


def test_rows_take_the_length_that_leaves_fewest_slots_empty():
    plan = RowPlan(prompts=4, minibatches=1, ways=1, rows=1, prompt_tokens=40, completion_tokens=24, group=3, windows=0,
                   lengths=(64, 80, 112))  # fmt: skip
    none = np.zeros(4, np.int32)
    counts = TokenCounts(first=none, prompt=np.full(4, 30), completions=np.full((4, 3), 8), windows=None)
    layout = lay_out_rows(counts, plan)  # 54 tokens each: 4 x 64, 4 x 80 or 2 x 112
    assert layout.source.shape[-1] == 112 and layout.rounds == [2] and layout.window_source is None
    assert describe_rows(layout) == {"rows/length": 112.0, "rows/slots_per_token": 224 / 216}


def test_prompts_are_dealt_out_so_that_no_device_waits_long():
    plan = RowPlan(prompts=4, minibatches=1, ways=2, rows=2, prompt_tokens=40, completion_tokens=24, group=3, windows=0,
                   lengths=(64, 112))  # fmt: skip
    counts = TokenCounts(
        first=np.zeros(4, np.int32), prompt=np.array([40, 40, 10, 10]), completions=np.full((4, 3), 8), windows=None
    )
    layout = lay_out_rows(counts, plan)  # 64, 64, 34, 34 tokens: a long and a short one for each
    assert [set(own) for own in layout.order.reshape(2, 2) // 2] == [{0, 1}, {0, 1}]
    assert layout.rounds == [1] and layout.source.shape[-1] == 112


@pytest.mark.parametrize("supervised", [False, True])
def test_a_plan_has_few_lengths_and_its_layouts_the_shapes_that_are_planned(supervised):
    config = TinyWorld.config(
        "memory.microbatch_prompts=2", "grpo.minibatches=2", "memory.row_lengths=4", "rollout.max_new_tokens=96",
        "sft.batch_size=8",
    )  # fmt: skip
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=4))
    plan = plan_rows(config, mesh, PromptSizes(64, 3), supervised=supervised)
    assert len(plan.lengths) <= 4 and plan.lengths[-1] >= 64 + (1 if supervised else 4) * 96
    group = plan.group
    counts = TokenCounts(
        first=np.zeros(8, np.int32), prompt=np.full(8, 64), completions=np.full((8, group), 96), windows=np.full(8, 3)
    )
    placed, planned = place_rows(lay_out_rows(counts, plan), mesh), abstract_rows(plan, mesh)
    for name in ("order", "rounds", "source", "predicted", "predicting", "most_predicted", "window_source"):
        made, wanted = getattr(placed, name), getattr(planned, name)
        assert (made.shape, made.dtype, made.sharding) == (wanted.shape, wanted.dtype, wanted.sharding), name


def test_prompts_of_any_rung_are_the_same_in_the_update(tiny_world):
    prompts = tiny_world.batch().prompts
    plan = plan_rows(TinyWorld.config(), make_mesh(MeshConfig(data=1), jax.devices()[:1]), PromptSizes(16, 3))
    wide = widen_prompts(prompts, plan)
    assert wide.tokens.shape == (8, 16) and wide.vision.patches.shape[:2] == (8, 3)
    np.testing.assert_array_equal(wide.is_valid.sum(1), prompts.is_valid.sum(1))
    for name in ("tokens", "positions", "feature_index"):
        np.testing.assert_array_equal(getattr(wide, name)[..., 6:], getattr(prompts, name), err_msg=name)
    assert (wide.feature_index[:, :6] == -1).all() and not wide.vision.image_ids[:, 1:].any()
    counts = count_tokens(wide, np.ones((8, 4, 6), bool))
    np.testing.assert_array_equal(counts.first, 6 + prompts.is_valid.argmax(1))
    np.testing.assert_array_equal(counts.windows, 1)
