# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # GRPO on phantoms, step by step
#
# Three steps of the real training loop with the tiny policy and judge that ship with the package: what a step writes, what was
# paid for, and the same numbers computed again. A real run differs in its configuration alone: `configs/reflex_med_7b.yaml`.

# %%
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import reflex_jax as rx
from reflex_jax.evidence.reader import read_evidence

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A configuration is a file and what is said over it

# %%
config = rx.load_config(
    "../configs/phantom.yaml",
    [
        f"run.dir={folder}/run", "training.steps=3", "training.evaluate_every=0", "data.size=64", "evidence.every=1",
        "evidence.groups=4", "grpo.prompts_per_step=8", "grpo.group_size=4", "logging.progress=false", "logging.tensorboard=false",
    ],
)
print(config.grpo)

# %%
result = rx.train(config)
print(result.steps, "steps;", sorted(path.name for path in Path(result.directory).iterdir()))

# %% [markdown]
# ## What a step says
#
# Rewards by component, how often each was paid to right and to wrong answers, and the health of the update.

# %%
steps = [json.loads(line) for line in (Path(result.directory) / "metrics.jsonl").read_text().splitlines()]
for name in ("reward/total", "accuracy", "pass_rate/visual_fidelity/wrong", "kl", "frac_zero_std", "grad_norm"):
    print(f"{name:32s}", [round(step[name], 4) for step in steps if step.get(name) is not None])

# %% [markdown]
# ## A group: one question, several answers
#
# Only differences inside a group teach: the advantage is the reward, standardised in it. A group whose rewards tie has none.

# %%
recorded = list(read_evidence(result.directory))
line, batch, group = max(recorded, key=lambda r: np.std([float(a.reward) for a in r.group.answers]))
print("step", batch.step, "|", group.question, "|", group.answer, "|", group.anchor)
for answer in group.answers:
    print(f"{answer.reward:5.2f} {answer.advantage:6.2f}  {answer.completion}")

# %%
rewards = np.array([answer.reward for answer in group.answers])
by_hand = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)
print(np.round(by_hand, 4), np.round([answer.advantage for answer in group.answers], 4))

# %% [markdown]
# ## Where the judge looked

# %%
figure, axes = plt.subplots(1, len(group.statements), figsize=(3 * len(group.statements), 3), squeeze=False)
for axis, statement in zip(axes[0], group.statements):
    mask = statement.mask_cells(batch.grid)
    axis.imshow(np.zeros(batch.grid) if mask is None else mask, cmap="cividis")
    axis.set(xticks=[], yticks=[], title="anchor" if statement is group.statements[0] else "an answer")

# %% [markdown]
# ## All rewards of the three steps

# %%
points = [(r.batch.step, float(a.reward), a.is_correct) for r in recorded for a in r.group.answers]
for right, mark in ((True, "o"), (False, "x")):
    chosen = [(step + 0.2 * (right - 0.5), reward) for step, reward, is_right in points if is_right == right]
    plt.plot(*zip(*chosen), mark, alpha=0.5, label="right" if right else "wrong")
plt.xlabel("step")
plt.ylabel("reward")
plt.legend();

# %% [markdown]
# ## Computed again
#
# The chain of hashes is checked line by line, and every reward goes once more through the program that paid it: bit for bit.

# %%
from reflex_jax.cli import main

main(["replay", str(result.directory)])

# %% [markdown]
# `reflex audit run RUN` shows the same as a page in a browser, to filter and to walk through.

# %%
figure, axis = plt.subplots(figsize=(5, 3))
names = [name for name in steps[0] if name.startswith("reward/") and "total" not in name]
for name in names:
    axis.plot([step["step"] for step in steps], [step[name] for step in steps], marker="o", label=name)
axis.set_xlabel("step")
axis.legend();
