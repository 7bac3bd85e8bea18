"""Order of the data: phases, shares of the steps, resuming by step."""

import time
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reflex_jax.config import ConfigError, DataConfig, PhaseConfig, SourceConfig
from reflex_jax.data.examples import Example
from reflex_jax.data.pipeline import share_steps, training_batches

CLOSED_THEN_OPEN = DataConfig()


def make_examples(closed=12, opened=20):
    kinds = ["closed"] * closed + ["open"] * opened
    return [Example(id=str(i), question="?", answer="a", answer_type=kind) for i, kind in enumerate(kinds)]


def ids_of(batches, steps):
    return [[example.id for example in batches[step]] for step in steps]


def test_closed_questions_come_first_then_open_ones():
    batches = training_batches(make_examples(), CLOSED_THEN_OPEN, prompts_per_step=4, steps=None, seed=0)
    assert batches.phase_steps == (3, 5) and len(batches) == 8
    kinds = [{example.answer_type for example in batches[step]} for step in range(8)]
    assert kinds == [{"closed"}] * 3 + [{"open"}] * 5
    assert [batches.phase_of(step) for step in range(8)] == [0] * 3 + [1] * 5
    seen = [example_id for batch in ids_of(batches, range(8)) for example_id in batch]
    assert sorted(seen, key=int) == [str(i) for i in range(32)]  # one epoch: every question once
    assert seen != sorted(seen, key=int)


def test_a_phase_that_starts_over_is_shuffled_anew_and_loses_nothing():
    examples = make_examples(closed=7, opened=0)
    data = DataConfig(phases=(PhaseConfig(answer_type="any"),))
    batches = training_batches(examples, data, prompts_per_step=2, steps=14, seed=0)  # 28 places: 4 passes of 7
    seen = [example_id for batch in ids_of(batches, range(14)) for example_id in batch]
    passes = [seen[start : start + 7] for start in range(0, 28, 7)]
    assert all(sorted(each) == [str(i) for i in range(7)] for each in passes)
    assert len({tuple(each) for each in passes}) > 1


def test_replay_spreads_questions_of_earlier_phases_evenly():
    phases = (PhaseConfig(answer_type="closed"), PhaseConfig(answer_type="open", replay=0.25))
    batches = training_batches(make_examples(12, 24), DataConfig(phases=phases), prompts_per_step=4, steps=None, seed=0)
    assert batches.phase_steps == (3, 8)  # 24 open questions are three quarters of 8 x 4 prompts
    kinds = [[example.answer_type for example in batches[step]] for step in range(11)]
    assert kinds[:3] == [["closed"] * 4] * 3
    assert all(batch.count("closed") == 1 for batch in kinds[3:])
    seen = [example.id for step in range(3, 11) for example in batches[step] if example.answer_type == "open"]
    assert len(set(seen)) == 24


def test_the_first_phase_has_nothing_to_replay():
    data = DataConfig(phases=(PhaseConfig(answer_type="any", replay=0.5),))
    with pytest.raises(ConfigError, match="first phase has nothing to replay"):
        training_batches(make_examples(), data, prompts_per_step=4, steps=2, seed=0)


def test_more_prompts_than_questions_still_fill_a_batch():
    batches = training_batches(make_examples(3, 3), CLOSED_THEN_OPEN, prompts_per_step=8, steps=None, seed=0)
    assert len(batches) == 2 and [len(batches[step]) for step in range(2)] == [8, 8]


def test_the_order_depends_on_the_seed_only():
    first, again, other = (
        training_batches(make_examples(), CLOSED_THEN_OPEN, prompts_per_step=4, steps=8, seed=seed)
        for seed in (3, 3, 4)
    )
    assert ids_of(first, range(8)) == ids_of(again, reversed(range(8)))[::-1]
    assert ids_of(first, range(8)) != ids_of(other, range(8))


def test_no_two_phases_of_any_two_seeds_have_one_order():
    data = DataConfig(phases=(PhaseConfig(answer_type="any"),) * 3)
    orders = []
    for seed in range(4):
        batches = training_batches(make_examples(20, 20), data, prompts_per_step=40, steps=6, seed=seed)
        orders += [tuple(batch) for batch in ids_of(batches, range(6))]
    assert len(set(orders)) == len(orders) == 24


def counts_of(batches, steps):
    return [Counter(batch) for batch in ids_of(batches, steps)]


@settings(max_examples=60)
@given(count=st.integers(1, 40), size=st.integers(1, 16), steps=st.integers(1, 60))
@example(count=65, size=64, steps=9)
@example(count=1793, size=64, steps=60)
def test_a_batch_holds_no_question_twice_and_a_pass_every_question_once(count, size, steps):
    data = DataConfig(phases=(PhaseConfig(answer_type="any"),))
    batches = training_batches(make_examples(count, 0), data, prompts_per_step=size, steps=steps, seed=count)
    assert bool(batches.repeating) == (count < size)
    for held in counts_of(batches, range(steps)):
        assert held.total() == size
        # more places than questions: each as often as any other, or once more
        times = {held[str(i)] for i in range(count)}
        assert times <= {size // count, -(-size // count)}
    seen = [i for batch in ids_of(batches, range(steps)) for i in batch]
    for start in range(0, len(seen), count):
        part = seen[start : start + count]
        assert len(set(part)) == len(part)


@settings(max_examples=60)
@given(
    closed=st.integers(4, 30), opened=st.integers(4, 30), size=st.integers(1, 12), epochs=st.sampled_from([1, 2, 0.5])
)
@example(closed=901, opened=892, size=64, epochs=1)
def test_epochs_see_every_question_so_often_and_no_other_more_than_once_more(closed, opened, size, epochs):
    phases = tuple(PhaseConfig(answer_type=kind, epochs=epochs) for kind in ("closed", "open"))
    batches = training_batches(
        make_examples(closed, opened), DataConfig(phases=phases), prompts_per_step=size, steps=None, seed=1
    )
    seen = sum(counts_of(batches, range(len(batches))), Counter())
    for first, count in ((0, closed), (closed, opened)):
        times = [seen[str(i)] for i in range(first, first + count)]
        assert max(times) - min(times) <= 1 or count < size
        assert min(times) >= int(epochs)
        assert sum(times) - count * epochs < size or sum(times) == size  # no more than fills the last batch


@settings(max_examples=40)
@given(
    share=st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.9]), size=st.integers(1, 12), count=st.integers(12, 30),
    kinds=st.sampled_from([("closed", "open"), ("closed", "any"), ("any", "open"), ("any", "any")]),
)  # fmt: skip
def test_replayed_questions_are_spread_and_none_is_there_as_the_phase_s_own_too(share, size, count, kinds):
    phases = (PhaseConfig(answer_type=kinds[0]), PhaseConfig(answer_type=kinds[1], replay=share))
    batches = training_batches(
        make_examples(count, count), DataConfig(phases=phases), prompts_per_step=size, steps=None, seed=0
    )
    first, second = batches.phase_steps
    assert not batches.repeating
    assert all(max(held.values()) == 1 for held in counts_of(batches, range(first + second)))
    seen = sum(counts_of(batches, range(first, first + second)), Counter())
    own = range(count, 2 * count) if kinds[1] == "open" else range(2 * count)
    assert all(seen[str(i)] for i in own)
    if kinds == ("closed", "open"):
        replayed = [sum(int(i) < count for i in batch) for batch in ids_of(batches, range(first, first + second))]
        assert max(replayed) - min(replayed) <= 1
        assert abs(sum(replayed) - share * size * second) < 1


def test_a_phase_too_small_for_its_batches_is_named():
    phases = (PhaseConfig(answer_type="closed"), PhaseConfig(answer_type="open", replay=0.5))
    batches = training_batches(make_examples(3, 20), DataConfig(phases=phases), prompts_per_step=8, steps=4, seed=0)
    assert batches.repeating == [
        "phase 1 has 3 questions for the 8 prompts of a step",
        "phase 2 has 20 questions and 3 to replay for the 8 prompts of a step",
    ]


@settings(max_examples=30)
@given(count=st.integers(1, 30), size=st.integers(1, 12), share=st.sampled_from([0, 0.3]), more=st.integers(1, 9))
def test_more_steps_change_no_batch_before_them_and_any_step_can_be_asked_for_first(count, size, share, more):
    phases = (
        PhaseConfig(answer_type="closed", fraction=0.5),
        PhaseConfig(answer_type="open", fraction=0.5, replay=share),
    )
    examples, data = make_examples(count, count), DataConfig(phases=phases)

    def laid_out(steps, done=None):
        return training_batches(examples, data, prompts_per_step=size, steps=steps, seed=5, laid_out=done)

    short = laid_out(10)
    longer = laid_out(10 + more, short.phase_steps)
    assert longer.phase_steps == (5, 5 + more)
    assert ids_of(longer, range(10 + more))[:10] == ids_of(short, range(10))
    assert ids_of(longer, [9 + more]) == ids_of(laid_out(10 + more, short.phase_steps), [9 + more])


def test_a_run_is_not_laid_out_shorter_than_it_was():
    with pytest.raises(ConfigError, match=r"training.steps: .* closed 5, open 3 steps.* at least 8; got 7") as error:
        training_batches(make_examples(), CLOSED_THEN_OPEN, prompts_per_step=4, steps=7, seed=0, laid_out=(5, 3))
    assert "\n" not in str(error.value)
    batches = training_batches(
        make_examples(), CLOSED_THEN_OPEN, prompts_per_step=4, steps=None, seed=0, laid_out=(2, 4)
    )
    assert batches.phase_steps == (2, 6)  # epochs ask for 8 steps


@pytest.mark.parametrize("start", [0, 1, 4, 7, 8])
@pytest.mark.parametrize("threads", [1, 3])
def test_iterating_from_any_step_gives_the_same_batches(start, threads):
    batches = training_batches(make_examples(), CLOSED_THEN_OPEN, prompts_per_step=4, steps=8, seed=0)
    prepared = list(batches.iterate(start, lambda examples: [e.id for e in examples], threads=threads))
    assert prepared == ids_of(batches, range(start, 8))


def test_no_more_batches_wait_than_there_are_threads():
    batches = training_batches(make_examples(), CLOSED_THEN_OPEN, prompts_per_step=4, steps=8, seed=0)
    prepared = []
    iterator = batches.iterate(0, lambda examples: prepared.append(examples) or examples, threads=2)
    next(iterator)
    time.sleep(0.3)
    assert len(prepared) <= 3  # the one in use, and one of each thread


def test_an_error_of_the_preparation_reaches_the_loop():
    def fail(examples):
        raise ConfigError(f"broken {examples[0].id}")

    batches = training_batches(make_examples(), CLOSED_THEN_OPEN, prompts_per_step=4, steps=8, seed=0)
    with pytest.raises(ConfigError, match="broken"):
        next(batches.iterate(0, fail))


def test_steps_outside_the_run_are_refused():
    batches = training_batches(make_examples(), CLOSED_THEN_OPEN, prompts_per_step=4, steps=8, seed=0)
    for step in (-1, 8):
        with pytest.raises(IndexError):
            batches[step]


@given(
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=5),
    epochs=st.floats(0.1, 4),
    more_steps=st.integers(0, 200),
)
def test_steps_are_shared_in_proportion_each_phase_at_least_one(sizes, epochs, more_steps):
    phases = [PhaseConfig(epochs=epochs)] * len(sizes)
    steps = len(sizes) + more_steps
    shares = share_steps(phases, sizes, prompts_per_step=4, steps=steps)
    assert sum(shares) == steps and min(shares) >= 1
    for share, size in zip(shares, sizes, strict=True):
        ideal = steps * size / sum(sizes)
        # A phase lifted to one step takes it from another, so each stays within one step a phase of its ideal.
        assert abs(share - max(ideal, 1)) <= len(sizes)


def test_shares_by_hand():
    def share(*phases, sizes, steps):
        return share_steps([PhaseConfig(**phase) for phase in phases], sizes, prompts_per_step=10, steps=steps)

    assert share({}, {}, sizes=[60, 40], steps=10) == (6, 4)
    assert share({"epochs": 2}, {}, sizes=[30, 40], steps=10) == (6, 4)
    assert share({}, {}, sizes=[999, 1], steps=10) == (9, 1)
    assert share({"fraction": 0.25}, {"fraction": 0.75}, sizes=[1, 1], steps=8) == (2, 6)
    assert share({"fraction": 0.5}, {}, {}, sizes=[1, 30, 10], steps=16) == (8, 6, 2)
    assert share({"epochs": 0.5}, {"epochs": 1.5}, sizes=[100, 100], steps=None) == (5, 15)
    assert share({}, {}, sizes=[9, 29], steps=None) == (1, 3)
    for phases, steps, complaint in [
        ([{}, {}], 1, "training.steps"),
        ([{"fraction": 0.5}, {}], None, "training.steps"),
        ([{"fraction": 0.5}, {"fraction": 0.4}], 10, "add up to 1"),
        ([{"fraction": 0.7}, {"fraction": 0.4}], 10, "add up to 1"),
        ([{"fraction": 1.0}, {}], 10, "add up to 1"),
    ]:
        with pytest.raises(ConfigError, match=complaint):
            share(*phases, sizes=[10] * len(phases), steps=steps)


def test_a_phase_without_questions_is_refused():
    with pytest.raises(ConfigError, match="no training question belongs to open; there are closed"):
        training_batches(make_examples(opened=0), CLOSED_THEN_OPEN, prompts_per_step=4, steps=8, seed=0)


def mixed(sizes, **changes):
    """So many questions of each source, one source after the other."""
    return [
        Example(id=f"{source}-{i}", question="?", answer="a", answer_type="closed", source=source, **changes)
        for source, size in sizes.items()
        for i in range(size)
    ]


def weighted(weights, **settings):
    sources = tuple(SourceConfig(name="phantom", label=label, weight=weight) for label, weight in weights.items())
    return DataConfig(sources=sources, phases=(PhaseConfig(answer_type="any"),), **settings)


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.floats(0.05, 8.0), min_size=1, max_size=4), size=st.integers(1, 9), seed=st.integers(0, 5),
    counts=st.lists(st.integers(1, 40), min_size=4, max_size=4),
)  # fmt: skip
def test_sources_share_the_prompts_by_their_weights(weights, size, seed, counts):
    labels = "abcd"[: len(weights)]
    examples = mixed(dict(zip(labels, counts, strict=False)))
    batches = training_batches(
        examples, weighted(dict(zip(labels, weights, strict=True))), prompts_per_step=size, steps=25, seed=seed
    )
    drawn, total = Counter(), 0
    shares = {label: weight / sum(weights) for label, weight in zip(labels, weights, strict=True)}
    for step in range(25):
        batch = batches[step]
        assert len(batch) == size and batches[step] == batch  # a pure function of the step
        own = Counter(e.source for e in batch)
        for label, count in zip(labels, counts, strict=False):
            ids = Counter(e.id for e in batch if e.source == label)
            assert max(ids.values(), default=0) <= -(-own[label] // count)  # none twice while there are others
        drawn += own
        total += size
        assert all(abs(drawn[label] - share * total) < len(labels) for label, share in shares.items())
    for label, count in zip(labels, counts, strict=False):
        if drawn[label] >= count + size:  # a whole pass was made: everybody had a turn
            seen = {e.id for step in range(25) for e in batches[step] if e.source == label}
            assert len(seen) == count


def test_weights_are_part_of_the_layout_and_small_sources_are_told():
    examples = mixed({"a": 50, "b": 2})
    batches = training_batches(examples, weighted({"a": 1.0, "b": 1.0}), prompts_per_step=8, steps=3, seed=0)
    assert batches.layout["weights"] == {"a": 1.0, "b": 1.0}
    assert batches.repeating == ["phase 1 has 2 questions of b for 4 prompts"]
    plain = training_batches(examples, weighted({"a": None, "b": None}), prompts_per_step=8, steps=3, seed=0)
    assert "weights" not in plain.layout and not plain.repeating


def test_phases_choose_by_whether_there_are_options():
    lettered = [
        Example(id=f"{i}", question="?", answer="a", answer_type="closed", options=("a", "b") if i % 2 else None)
        for i in range(8)
    ]
    data = DataConfig(phases=(PhaseConfig(options=True), PhaseConfig(answer_type="closed", options=False)))
    batches = training_batches(lettered, data, prompts_per_step=4, steps=None, seed=0)
    assert batches.phase_names == ("any (with options)", "closed (without options)") and len(batches) == 2
    assert [{int(e.id) % 2 for e in batches[step]} for step in (0, 1)] == [{1}, {0}]


def test_phases_choose_by_source_modality_and_answer_type():
    examples = mixed({"a": 4}, modality="MRI") + mixed({"b": 4}, modality="CT") + mixed({"c": 4})
    phases = (
        PhaseConfig(sources=("a", "c")), PhaseConfig(modalities=("CT", "X-Ray")),
        PhaseConfig(sources=("a",), modalities=("MRI",)),
    )  # fmt: skip
    labels = tuple(SourceConfig(name="phantom", label=label) for label in "abc")
    batches = training_batches(
        examples, DataConfig(sources=labels, phases=phases), prompts_per_step=4, steps=None, seed=0
    )
    assert batches.phase_names == ("any (a+c)", "any (CT+X-Ray)", "any (a, MRI)") and batches.phase_steps == (2, 1, 1)
    assert [{e.source for step in steps for e in batches[step]} for steps in ((0, 1), (2,), (3,))] == [
        {"a", "c"}, {"b"}, {"a"},
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="belongs to open .b.; there are closed a MRI, closed b CT, closed c"):
        training_batches(
            examples,
            DataConfig(sources=labels, phases=(PhaseConfig(answer_type="open", sources=("b",)),)),
            prompts_per_step=4,
            steps=1,
            seed=0,
        )
