"""Dynamic sampling: how a step draws and fills up. A run of it is cut off and goes on in test_faults.py."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from reflex_jax.config import ConfigError
from reflex_jax.config_reader import load_config
from reflex_jax.training import dynamic_sampling
from reflex_jax.training.dynamic_sampling import DynamicTrainer
from tests.unchecked import types_unchecked

GROUP, PROMPTS = 2, 3
SPREAD, FLAT = [0.0, 1.0], [1.0, 1.0]


class FakeTrainer:
    """The halves of a step, of groups of two whose rewards are said beforehand."""

    def __init__(self, draws, failed=0):
        self.draws, self.failed = draws, failed
        self.rows = SimpleNamespace(count=PROMPTS, local=np.arange(PROMPTS), fetch=lambda tree: tree)
        self.frozen = SimpleNamespace(judge=None)
        self.build, self.program, self.learned, self.first_prompts = None, self, None, []
        self.evidence = None  # nothing is recorded
        self.score = lambda judge, inputs, scores: scores
        self.group_facts = lambda rewards: SimpleNamespace(
            has_spread=np.array([max(r) > min(r) for r in rewards]), advantages=np.float32(rewards),
            failed_rows=np.int32(self.failed), reward=np.float32(np.mean(rewards)),
        )  # fmt: skip

    def gather(self, state, seconds):
        return "weights"

    def timed(self, seconds, name):
        return nullcontext()

    def draw(self, weights, host, step, seconds, *, first_prompt):
        self.first_prompts.append(first_prompt)
        batch = SimpleNamespace(judge=None, scores=host, rollout=SimpleNamespace(tokens=None, mask=None))
        return SimpleNamespace(host=host, mask=None, bridged=None, batch=batch)

    def keep_groups(self, kept, fresh, chosen):
        both = [*kept.scored, *fresh.scored]
        return SimpleNamespace(batch=fresh.batch, scored=[both[i] for i in chosen])

    def learn(self, state, batch, scored, seconds):
        self.learned = scored
        return state, scored, {}

    def result(self, metrics, seconds, rows, places, arrays):
        return SimpleNamespace(metrics=metrics, rows=rows, places=places)


@pytest.fixture
def step(monkeypatch):
    """Takes a step of the batches given, and returns the trainer and what the step left."""
    monkeypatch.setattr(
        dynamic_sampling, "drawn_groups", lambda batch, scored: SimpleNamespace(batch=batch, scored=scored)
    )
    monkeypatch.setattr(dynamic_sampling, "without_maps", lambda scored: scored)
    monkeypatch.setattr(dynamic_sampling, "step_arrays", lambda *_: {})
    monkeypatch.setattr(
        dynamic_sampling, "completion_rows",
        lambda host, **_: [{"id": f"{rewards}", "advantage": None} for rewards in host for _ in range(GROUP)],
    )  # fmt: skip

    def take(*draws, most=3, failed=0):
        config = load_config(
            None, [f"grpo.dynamic_sampling={most}", f"grpo.prompts_per_step={PROMPTS}", f"grpo.group_size={GROUP}"]
        )
        trainer = FakeTrainer(draws, failed)
        with types_unchecked():  # stand-ins for arrays and trainers
            _, result = DynamicTrainer(config, trainer).run_step("state", iter(draws), 1)
        return trainer, result

    return take


@pytest.mark.parametrize(
    "settings",
    [["1"], ["-1"], ["101"], ["10", "grpo.advantage=batch"], ["10", "grpo.kl_in=reward", "grpo.kl_coefficient=0.1"]],
)
def test_draws_that_mean_nothing_are_refused(settings):
    """One draw is none again; and groups of equal rewards have to teach nothing, or they would be no reason to draw."""
    count, *rest = settings
    with pytest.raises(ConfigError, match="grpo.dynamic_sampling.*expected"):
        load_config(None, [f"grpo.dynamic_sampling={count}", *rest])
    if rest:
        load_config(None, ["grpo.dynamic_sampling=0", *rest])


def test_a_step_draws_until_every_group_has_a_spread(step, capsys):
    late = [0.0, 3.0]
    trainer, result = step([FLAT, SPREAD, FLAT], [late, FLAT, FLAT], [SPREAD, SPREAD, SPREAD], [SPREAD] * 3, most=9)
    assert trainer.learned == [SPREAD, late, SPREAD]
    assert trainer.first_prompts == [0, 3, 6]  # no draw samples with the random numbers of another
    assert result.metrics["draws/count"] == 3 and result.metrics["draws/frac_zero_std"] == pytest.approx(4 / 9)
    assert [row["id"] for row in result.rows[::GROUP]] == [str(SPREAD), str(late), str(SPREAD)]
    assert [row["advantage"] for row in result.rows] == [0, 1, 0, 3, 0, 1] and result.places == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_after_the_last_draw_groups_without_a_spread_fill_the_batch_up_and_a_line_says_so(step, capsys):
    trainer, result = step([FLAT, FLAT, FLAT], [FLAT, SPREAD, FLAT], [SPREAD] * 3, most=2)
    assert trainer.learned == [SPREAD, FLAT, FLAT] and result.metrics["draws/count"] == 2
    assert "grpo.dynamic_sampling=2: after 2 draws 2 of 3 groups have equal rewards" in capsys.readouterr().err


def test_a_draw_whose_rewards_fail_becomes_the_batch_so_that_the_run_sees_it(step):
    trainer, result = step([FLAT, FLAT, SPREAD], [SPREAD] * 3, failed=PROMPTS * GROUP)
    assert trainer.learned == [FLAT, FLAT, SPREAD] and result.metrics["draws/count"] == 1
