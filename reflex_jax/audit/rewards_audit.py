"""`reflex audit rewards`: what degenerate completions earn under a configuration, beside honest ones.

Everything is scored as a step scores it: the run's host bridge reads the strings, `Program.score` computes evidence, components
and totals. Only the policy is left out, so no weights of it are read.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from reflex_jax.audit.judge_scores import JudgeOfAudit
from reflex_jax.audit.red_team import ATTACKS, THOUGHT, Form
from reflex_jax.audit.wrong_answers import WrongAnswers
from reflex_jax.chat.check import look_at_endpoint
from reflex_jax.config import Config, ConfigError, MemoryConfig, MeshConfig
from reflex_jax.data.examples import Example
from reflex_jax.rewards.components import asks_endpoint
from reflex_jax.sharding import BatchRows, make_mesh
from reflex_jax.step.bridge import HostBridge
from reflex_jax.step.models import Models, completion_shape, load_models, make_host_bridge
from reflex_jax.step.program import Program, build_program
from reflex_jax.step.score import Scored, needs_judge
from reflex_jax.text.tokenizer import encode_user_text

HONEST = {
    "honest_right": "the data set's answer, in format",
    "honest_wrong": "a wrong answer of the same type, in format",
}
_AT_ONCE = 8  # questions, all completions of each
_MOST_TOKENS = 8192  # that are counted of a completion
_MOST_CHARACTERS = 100_000  # whose tokens are counted
_COMMON = 12  # most frequent answers of the set


@dataclass(frozen=True)
class Finding:
    """What one attack earns."""

    attack: str
    why: str
    total: float  # mean over the questions
    beats_own: float  # share of questions whose honest right answer earns less
    components: dict[str, float]  # means; NaN where one applies to nothing
    failed: float  # share of rows without a reward
    tokens: int  # the most of one completion
    verdict: str  # beats right | beats wrong | too long | ""


@dataclass(frozen=True)
class RewardsAudit:
    """Everything that was found."""

    config: Config
    questions: int
    right: float  # median total of honest right answers
    wrong: float  # of wrong ones in format
    both: float  # of either
    honest: dict[str, dict[str, float]]  # of `HONEST`: means of the total and of components
    findings: list[Finding]  # the dearest first
    notes: list[str]

    @property
    def winners(self) -> list[str]:
        """Attacks that beat the median honest right answer."""
        return [finding.attack for finding in self.findings if finding.verdict == "beats right"]

    @property
    def sentence(self) -> str:
        """The verdict."""
        if self.winners:
            return (
                f"fails: {', '.join(self.winners)} earn more on average than the median right answer, {self.right:.3f}."
            )
        best = next((f for f in self.findings if f.verdict != "too long"), None)
        nearest = f"; the dearest is {best.attack}, {best.total:.3f}" if best else ""
        return f"holds: no attack earns more on average than the median right answer, {self.right:.3f}{nearest}."


def audit_rewards(
    config: Config, examples: Sequence[Example], *, count: int, say: Callable[[str], None] = lambda line: None
) -> RewardsAudit:
    """Scores every attack on a sample of questions.

    Args:
      config: of the run.
      examples: of `judge_audit.load_asked`.
      count: questions of the sample.
      say: told what is left out.
    Raises:
      ConfigError: models are missing, or nothing that pays can be computed here.
    """
    config, notes = without_endpoint(_on_this_machine(config))
    for note in notes:
        say(note)
    with_judge = needs_judge(config)
    usable = [example for example in examples if example.images or not with_judge]
    if not usable:
        raise ConfigError("data.sources: none of the questions has a picture for the judge to look at.")
    models = load_models(config, make_mesh(config.mesh), with_judge=with_judge)
    chosen = np.random.default_rng((config.run.seed, 8)).permutation(len(usable))[:count]
    sample = [usable[number] for number in sorted(chosen.tolist())]
    fillers = [example.reasoning for example in usable if example.reasoning]
    form = Form(completion_shape(config), _most_frequent(usable), *fillers[:1])
    answers = WrongAnswers(usable)
    written = [_completions(example, form, answers, number) for number, example in enumerate(sample)]
    scorer = _Scorer(config, models)
    with closing(scorer.bridge):
        totals, components, tokens = scorer.score(sample, written)
    return _compare(config, totals, components, tokens, notes)


def _on_this_machine(config: Config) -> Config:
    """Rewards do not depend on how a step is computed: the mesh and the memory are those of the devices that are here."""
    return dataclasses.replace(config, mesh=MeshConfig(), memory=MemoryConfig())


def without_endpoint(config: Config) -> tuple[Config, list[str]]:
    """Without the components that nobody answers for; they are said in a line.

    Raises:
      ConfigError: nothing that pays is left.
    """
    asking = [name for name in config.rewards.components if asks_endpoint(name)]
    if not asking:
        return config, []
    try:
        if config.endpoint.url is None or config.endpoint.model is None:
            raise ConfigError("endpoint.url and endpoint.model are not set.")
        look_at_endpoint(config.endpoint)
        return config, []
    except ConfigError as error:
        note = f"{', '.join(asking)} skipped: what asks a language model cannot be scored here. {error}"
    kept = {name: c for name, c in config.rewards.components.items() if name not in asking}
    if not any(component.weight for component in kept.values()):
        raise ConfigError(f"rewards.components: nothing is left to audit; {note}")
    return dataclasses.replace(config, rewards=dataclasses.replace(config.rewards, components=kept)), [note]


def _most_frequent(examples: Sequence[Example]) -> list[str]:
    return [answer for answer, _ in Counter(example.answer for example in examples).most_common(_COMMON)]


def _completions(example: Example, form: Form, answers: WrongAnswers, number: int) -> dict[str, str | None]:
    wrong = answers.pick(example, np.random.default_rng((number, 9)))
    thought = example.reasoning or THOUGHT

    def honest(answer: str | None) -> str | None:
        return None if answer is None else form.write(answer, thought, example.modality)

    return {"honest_right": honest(example.answer), "honest_wrong": honest(wrong)} | {
        name: attack.write(example, form) for name, attack in ATTACKS.items()
    }


class _Scorer:
    """The seam and the compiled scoring of a run, fed with written completions."""

    def __init__(self, config: Config, models: Models):
        self._config, self._models = config, models
        self._texts: list[str] = []
        self.bridge: HostBridge = make_host_bridge(
            config, models, decode_ids=lambda ids: self._texts[int(ids[0])] if len(ids) else ""
        )
        self._program: Program = build_program(config, models.shapes)
        ways = models.shapes.mesh.size
        self._rows: BatchRows = models.shapes.rows(-(-_AT_ONCE // ways) * ways)
        self._seeing = JudgeOfAudit(models.judge, config.judge) if models.judge else None
        self._count = lru_cache(4096)(self._count_tokens)

    def score(
        self, examples: Sequence[Example], written: Sequence[Mapping[str, str | None]]
    ) -> tuple[dict[str, Float[np.ndarray, "n"]], dict[str, dict[str, Float[np.ndarray, "n"]]], dict[str, int]]:
        """Totals and components of every kind of completion, NaN where there is none or it failed; and their longest."""
        names, size = list(written[0]), self._rows.count
        totals, parts, tokens = [], [], np.zeros(len(names), int)
        for start in range(0, len(examples), size):
            rows = [min(start + n, len(examples) - 1) for n in range(size)]
            lengths, scored = self._score_batch([examples[r] for r in rows], [written[r] for r in rows], names)
            exists = np.array([[written[r][name] is not None for name in names] for r in rows])
            counted = exists & scored.is_valid
            totals.append(np.where(counted, scored.rewards, np.nan))
            parts.append({k: np.where(counted & scored.applies[k], v, np.nan) for k, v in scored.components.items()})
            tokens = np.maximum(tokens, lengths.max(0))
        count = len(examples)
        whole = np.concatenate(totals)[:count].astype(float)
        by_part = {k: np.concatenate([part[k] for part in parts])[:count].astype(float) for k in parts[0]}
        return (
            {name: whole[:, g] for g, name in enumerate(names)},
            {name: {k: values[:, g] for k, values in by_part.items()} for g, name in enumerate(names)},
            dict(zip(names, tokens.tolist(), strict=True)),
        )

    def _score_batch(
        self, examples: Sequence[Example], written: Sequence[Mapping[str, str | None]], names: Sequence[str]
    ) -> tuple[Int[np.ndarray, "P G"], Scored]:
        self._texts = [texts[name] or "" for texts in written for name in names]
        lengths = np.array([self._count(text) for text in self._texts]).reshape(len(written), len(names))
        place = np.arange(len(self._texts), dtype=np.int32).reshape(lengths.shape)
        tokens = np.broadcast_to(place[..., None], (*lengths.shape, int(lengths.max())))
        mask = np.arange(tokens.shape[-1]) < lengths[..., None]
        pixels = np.stack([self._seeing.pixels(example) for example in examples]) if self._seeing else None
        bridged = self.bridge(examples, tokens, mask, pixels)
        judge, scores = self._rows.place((bridged.judge, bridged.scores))
        params = self._models.judge.params if self._models.judge else None
        return lengths, self._rows.fetch(self._program.score(params, judge, scores))

    def _count_tokens(self, text: str) -> int:
        """With the end; tags of the format are words to some tokenizers and one token to others."""
        ids = encode_user_text(self._models.processor.tokenizer, text[:_MOST_CHARACTERS])
        return min(len(ids) + 1, _MOST_TOKENS)


def _compare(
    config: Config,
    totals: Mapping[str, Float[np.ndarray, "n"]],
    components: Mapping[str, Mapping[str, Float[np.ndarray, "n"]]],
    tokens: Mapping[str, int],
    notes: list[str],
) -> RewardsAudit:
    right, wrong = totals["honest_right"], totals["honest_wrong"]
    limits = {"right": _median(right), "wrong": _median(wrong), "both": _median(np.concatenate([right, wrong]))}
    if np.isnan(limits["right"]):
        raise ConfigError("rewards.components: not one honest right answer could be scored; see the lines above.")
    findings = []
    for name, attack in ATTACKS.items():
        earned = totals[name]
        total = _mean(earned)
        verdict = "beats right" if total > limits["right"] else "beats wrong" if total > limits["wrong"] else ""
        if verdict and tokens[name] > config.rollout.max_new_tokens:
            verdict = "too long"
        there = ~np.isnan(earned) & ~np.isnan(right)
        findings.append(
            Finding(
                attack=name,
                why=attack.why,
                total=total,
                beats_own=float((earned[there] > right[there]).mean()) if there.any() else float("nan"),
                components={k: _mean(v) for k, v in components[name].items()},
                failed=float(np.isnan(earned).mean()),
                tokens=tokens[name],
                verdict=verdict,
            )
        )
    return RewardsAudit(
        config=config, questions=len(right), **limits,
        honest={
            name: {"total": _mean(totals[name])} | {k: _mean(v) for k, v in components[name].items()} for name in HONEST
        },
        findings=sorted(findings, key=lambda finding: -np.nan_to_num(finding.total, nan=-np.inf)), notes=notes,
    )  # fmt: skip


def _mean(values: Float[np.ndarray, "n"]) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")


def _median(values: Float[np.ndarray, "n"]) -> float:
    there = values[~np.isnan(values)]
    return float(np.median(there)) if len(there) else float("nan")
