"""One whole GRPO update equals the same update written in plain torch, one completion at a time.

The torch side shares nothing with the package: Hugging Face's model on prompt + completion (the prompt repeated for
each completion), advantages, ratios, clip, KL and means as the paper's formulas read, gradients by autograd.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reflex_jax.checkpoints.huggingface import load_policy_params, save_policy_params
from reflex_jax.config_reader import load_config
from reflex_jax.data.images import prompt_inputs_from_huggingface
from reflex_jax.models.biomedclip import init_judge_params
from reflex_jax.models.qwen_vl import read_qwen_config
from reflex_jax.records import HostScores, JudgeInputs, Rollout, TrainBatch
from reflex_jax.sharding import make_mesh
from reflex_jax.step.program import build_program
from reflex_jax.step.sampling import Vocabulary
from reflex_jax.step.shapes import Shapes
from reflex_jax.step.state import FrozenParams, init_state
from tests.laid_out import laid_out
from tests.parity import qwen_reference as reference
from tests.step.conftest import JUDGE

P, G, LC = 3, 4, 6
TEMPERATURE, KL, CLIP_LOW, CLIP_HIGH = 0.7, 0.05, 0.1, 0.15
REFERENCE_SCALE = 1.02  # the reference policy: every parameter times this
ALLOWED = np.arange(reference.VOCABULARY) < 150
IS_VALID = np.ones((P, G), bool)
IS_VALID[1, 2] = False


@dataclass(frozen=True)
class Case:
    """One setting of the objective; a large learning rate of plain SGD makes the update show its gradient."""

    ratio: str
    kl_estimator: str
    aggregation: str
    advantage: str
    ratio_level: str = "token"
    epochs: int = 1
    learning_rate: float = 1e4


CASES = (
    Case("old", "k3", "sequence", "sample_std"),
    Case("ref", "k3+", "token", "population_std"),
    Case("old", "k2", "constant", "leave_one_out", "sequence", epochs=2, learning_rate=0.1),
)


def train_batch(prompts: Any) -> TrainBatch:
    """Random completions of all lengths with random scores; the failed row's reward is not a number."""
    random = np.random.default_rng(1)
    mask = np.arange(LC) < random.integers(1, LC + 1, (P, G))[..., None]
    tokens = np.where(mask, random.integers(0, 140, (P, G, LC)), reference.PAD)
    answer = np.where(IS_VALID, random.integers(0, 2, (P, G)), np.nan)
    return TrainBatch(
        prompts=prompts,
        rollout=Rollout(tokens=tokens.astype(np.int32), log_probs=-4.0 * mask.astype(np.float32), mask=mask),
        judge=JudgeInputs(
            pixels=random.integers(0, 256, (P, 32, 32, 3)).astype(np.uint8),
            statements=random.integers(5, 50, (P, G + 1, 8)).astype(np.int32),
            statement_count=np.full(P, G + 1, np.int32),
            statement_index=np.tile(np.arange(1, G + 1, dtype=np.int32), (P, 1)),
            has_statement=np.ones((P, G), bool),
        ),
        scores=HostScores(
            components={
                "answer": answer.astype(np.float32),
                "format": random.integers(0, 2, (P, G)).astype(np.float32),
            },
            applies={name: np.ones((P, G), bool) for name in ("answer", "format")},
            is_correct=answer == 1,
            is_valid=IS_VALID,
        ),
    )  # fmt: skip


def jax_update(directory: Any, case: Case, inputs: dict[str, np.ndarray]) -> tuple[Any, Any, Any, TrainBatch]:
    """The package's step: (parameters before, parameters after, (scored, metrics), the batch)."""
    config = load_config(None, [
        f"grpo.group_size={G}", f"rollout.max_new_tokens={LC}", f"grpo.prompts_per_step={P}", f"grpo.ratio={case.ratio}",
        f"grpo.kl_estimator={case.kl_estimator}", f"grpo.aggregation={case.aggregation}",
        f"grpo.ratio_level={case.ratio_level}",
        f"grpo.advantage={case.advantage}", f"grpo.epochs={case.epochs}", f"grpo.kl_coefficient={KL}",
        f"grpo.clip_low={CLIP_LOW}", f"grpo.clip_high={CLIP_HIGH}", f"rollout.temperature={TEMPERATURE}",
        "memory.remat=false", "optimizer.name=sgd", "optimizer.weight_decay=0", "optimizer.clip_norm=1e9",
        f"optimizer.learning_rate={case.learning_rate}",
    ])  # fmt: skip
    policy = read_qwen_config(directory)
    before = load_policy_params(directory, policy)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    vocabulary = Vocabulary(ALLOWED, policy.eos_token_ids, policy.pad_token_id)
    program = build_program(config, Shapes(mesh, policy, JUDGE, vocabulary), updates=case.epochs)
    frozen = FrozenParams(
        fixed={},
        reference=jax.tree.map(lambda x: np.asarray(x) * np.float32(REFERENCE_SCALE), before),
        judge=jax.jit(init_judge_params, static_argnums=0)(JUDGE, jax.random.key(1)),
    )
    batch = train_batch(prompt_inputs_from_huggingface(**inputs, config=policy))
    state = init_state(jax.tree.map(jnp.copy, before), program.optimizer)
    state, scored, metrics = program.train_step(state, frozen, laid_out(batch, config, mesh))
    return before, state.params, (scored, metrics), batch


def torch_row(inputs: dict[str, np.ndarray], p: int) -> dict[str, np.ndarray]:
    """Prompt p alone: its tokens without padding, its images."""
    tokens = inputs["input_ids"][p, inputs["attention_mask"][p] == 1]
    counts = [(row == reference.VISION_START).sum() for row in inputs["input_ids"]]
    first = sum(counts[:p])
    patches = inputs["image_grid_thw"].prod(axis=1)
    begin = patches[:first].sum()
    row = {"tokens": tokens}
    if counts[p]:
        row["image_grid_thw"] = inputs["image_grid_thw"][first : first + counts[p]]
        row["pixel_values"] = inputs["pixel_values"][begin : begin + row["image_grid_thw"].prod(axis=1).sum()]
    return row


def torch_log_probs(model: Any, row: dict[str, np.ndarray], completion: np.ndarray) -> Any:
    """Log-probs of one completion after its prompt, over the allowed vocabulary at the sampling temperature."""
    import torch

    ids = torch.from_numpy(np.concatenate([row["tokens"], completion])).long()[None]
    images = {k: torch.from_numpy(row[k]) for k in ("pixel_values", "image_grid_thw") if k in row}
    logits = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == reference.IMAGE).int(),
        use_cache=False,
        **images,
    ).logits[0]
    logits = torch.where(torch.from_numpy(ALLOWED), logits / TEMPERATURE, torch.tensor(-torch.inf))
    start = len(row["tokens"])
    return torch.log_softmax(logits, -1)[range(start - 1, len(ids[0]) - 1), ids[0, start:]]


def torch_advantages(rewards: np.ndarray, rule: str) -> np.ndarray:
    """Advantages of the valid rows, 0 elsewhere."""
    advantages = np.zeros((P, G))
    for p in range(P):
        valid = rewards[p, IS_VALID[p]].astype(np.float64)
        if valid.max() > valid.min():
            scale = {
                "sample_std": valid.std(ddof=1) + 1e-6, "population_std": valid.std() + 1e-6,
                "leave_one_out": (valid.size - 1) / valid.size,
            }[rule]  # fmt: skip
            advantages[p, IS_VALID[p]] = (valid - valid.mean()) / scale
    return advantages


def torch_ratios(current: Any, old: Any, ref: Any, case: Case) -> Any:
    """One for each token, or one for all of them."""
    log_ratios = current - (old if case.ratio == "old" else ref)
    return (log_ratios if case.ratio_level == "token" else log_ratios.mean().expand(len(log_ratios))).exp()


def torch_token_terms(current: Any, old: Any, ref: Any, advantage: float, case: Case) -> Any:
    """Eq. 10 of each token, as a loss."""
    import torch

    ratio = torch_ratios(current, old, ref, case)
    clipped = torch.clamp(ratio, 1 - CLIP_LOW, 1 + CLIP_HIGH)
    difference = ref - current
    k2, k3 = difference**2 / 2, torch.exp(difference) - 1 - difference
    kl = {"k2": k2, "k3": k3, "k3+": k2 + (k3 - k2).detach()}[case.kl_estimator]
    return -torch.minimum(ratio * advantage, clipped * advantage) + KL * kl


def torch_update(
    directory: Any, case: Case, inputs: dict[str, np.ndarray], rollout: Rollout, rewards: np.ndarray
) -> tuple[list[float], dict[str, np.ndarray], int]:
    """The same in torch: (losses of the epochs, change of every parameter / learning rate, tokens out of the clip)."""
    import torch

    model, ref_model = reference.load_torch(directory), reference.load_torch(directory)
    with torch.no_grad():
        for parameter in ref_model.parameters():
            parameter.mul_(REFERENCE_SCALE)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    rows = [torch_row(inputs, p) for p in range(P)]
    advantages = torch_advantages(rewards, case.advantage)
    pairs = [(p, g) for p, g in np.ndindex(P, G) if IS_VALID[p, g]]
    texts = {(p, g): rollout.tokens[p, g, rollout.mask[p, g]] for p, g in pairs}
    with torch.no_grad():
        old = {(p, g): torch_log_probs(model, rows[p], texts[p, g]) for p, g in pairs}
        ref = {(p, g): torch_log_probs(ref_model, rows[p], texts[p, g]) for p, g in pairs}
    losses, clipped = [], 0
    for _ in range(case.epochs):
        loss = 0.0
        for p, g in pairs:
            current = torch_log_probs(model, rows[p], texts[p, g])
            terms = torch_token_terms(current, old[p, g], ref[p, g], advantages[p, g], case)
            loss = loss + (terms.mean() if case.aggregation == "sequence" else terms.sum())
            ratio = torch_ratios(current, old[p, g], ref[p, g], case).detach()
            clipped += int(((ratio > 1 + CLIP_HIGH) | (ratio < 1 - CLIP_LOW)).sum())
        tokens = {"sequence": len(pairs), "token": sum(map(len, texts.values())), "constant": len(pairs) * LC}
        loss = loss / tokens[case.aggregation]
        model.zero_grad()
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= case.learning_rate * parameter.grad
    changes = {n: ((start[n] - q.detach()) / case.learning_rate).numpy() for n, q in model.named_parameters()}
    return losses, changes, clipped


def named_changes(before: Any, after: Any, config: Any, learning_rate: float, directory: Any) -> dict[str, np.ndarray]:
    """The package's change of every parameter / learning rate, under the checkpoint's tensor names."""
    from safetensors.numpy import load_file

    directory.mkdir()
    save_policy_params(
        jax.tree.map(lambda a, b: (np.asarray(a) - np.asarray(b)) / np.float32(learning_rate), before, after),
        config,
        directory,
    )
    return {name: array for path in directory.glob("*.safetensors") for name, array in load_file(path).items()}


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread():
    """Many threads on so small a model mostly wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny random policy on disk."""
    return reference.write_checkpoint(tmp_path_factory.mktemp("policy") / "tiny", is_tied=False)


@pytest.mark.parametrize(
    "case",
    # the other ratio, estimators, aggregations and a second pass over the batch are held in tests/grpo too
    [pytest.param(c, marks=pytest.mark.slow if c != CASES[0] else ()) for c in CASES],
    ids=lambda c: f"{c.ratio}-{c.kl_estimator}-{c.aggregation}-{c.epochs}",
)
def test_one_update_equals_plain_torch(case, checkpoint, tmp_path):
    inputs = reference.batch(padding="left")
    before, after, (scored, metrics), batch = jax_update(checkpoint, case, inputs)
    rewards = np.asarray(scored.rewards)
    losses, expected, clipped = torch_update(checkpoint, case, inputs, batch.rollout, rewards)
    assert np.isnan(rewards[~IS_VALID]).all() and np.ptp(rewards[IS_VALID]) > 0
    assert clipped > 0 or case == CASES[0]  # on-policy, every ratio is 1
    np.testing.assert_allclose(float(metrics["loss"]), np.mean(losses), rtol=1e-5, atol=1e-5)
    got = named_changes(before, after, read_qwen_config(checkpoint), case.learning_rate, tmp_path / "change")
    assert len(got) == len(expected)
    total = np.sqrt(sum((change**2).sum() for change in expected.values()))
    assert total > 1e-3
    for name, change in expected.items():
        ours = got[name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")]
        norm = np.linalg.norm(change)
        assert abs(np.linalg.norm(ours) - norm) <= 1e-3 * norm + 1e-6 * total, name
        assert np.linalg.norm(ours - change) <= 2e-3 * norm + 1e-5 * total, name
    if case.epochs == 1:
        np.testing.assert_allclose(float(metrics["grad_norm"]), total, rtol=1e-3)
