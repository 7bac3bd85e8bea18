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
# # Bring your own
#
# Questions of your own, a reward of your own, and a run with both, without a line of the package changed. The models are the tiny
# ones that ship; with `policy.path=DIR judge.path=DIR` the same files train a Qwen-VL policy.

# %%
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

import reflex_jax as rx
from reflex_jax.cli import main

folder = Path(tempfile.mkdtemp())
(folder / "images").mkdir()

# %% [markdown]
# ## Questions: one line of JSON each
#
# The pictures here are phantoms; yours are PNG, JPEG, TIFF or DICOM files. `docs/own_data.md` lists every field.

# %%
phantoms = [rx.make_phantom(seed=11, index=i, lesion_count=1) for i in range(24)]
rows = []
for i, phantom in enumerate(phantoms):
    Image.fromarray(phantom.image).save(folder / "images" / f"{i}.png")
    finding = phantom.facts.findings[0]
    rows.append({"question": f"Is there a {finding.kind}?", "answer": "yes", "image": f"images/{i}.png"})
    rows.append({"question": "On which side is it?", "options": ["left", "right"], "answer": finding.side, "image": f"images/{i}.png"})

# %%
for name, part in (("train", rows[:32]), ("test", rows[32:])):
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
plt.imshow(Image.open(folder / "images" / "0.png"), cmap="gray")
plt.title(rows[0]["question"])
plt.axis("off");

# %% [markdown]
# ## Look before you pay
#
# Rows, refused rows with reasons, the statements the judge will read, and what a constant answer reaches.

# %%
mine = ["data.source=jsonl", f"data.root={folder}", f"data.cache={folder}/cache", "data.phases=[{answer_type: closed}]", "data.max_prompt_tokens=128"]
main(["data", "check", "../configs/phantom.yaml", *mine, "run.name=mine", "--to", f"{folder}/card"])

# %% [markdown]
# ## A row that cannot be used
#
# It stops a run before its first step, by its line, with the reason.

# %%
(folder / "broken").mkdir()
good, bad = {"question": "Is it?", "answer": "yes", "image": None}, {"question": "Is it?", "anser": "yes"}
(folder / "broken" / "train.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
main(["train", "../configs/phantom.yaml", "data.source=jsonl", f"data.root={folder}/broken", f"run.dir={folder}/never"])

# %% [markdown]
# ## A reward of your own
#
# A function in a file: 1 for a short thought. It runs in a process of its own, so what raises or hangs
# fails its rows and never the run.

# %%
(folder / "mine.py").write_text('''from reflex_jax.rewards import reward


@reward
def brief(answered, *, longest: int = 14) -> float | None:
    """1 for a thought of at most `longest` words; None where there is none."""
    thought = answered.parts.thought
    return None if thought is None else float(len(thought.split()) <= longest)
''');

# %%
config = rx.load_config(
    "../configs/phantom.yaml",
    [
        *mine, f"run.dir={folder}/run", "training.steps=2", "training.evaluate_every=0", "grpo.prompts_per_step=8",
        "grpo.group_size=4", f"rewards.files=[{folder}/mine.py]", "rewards.components.brief=0.5", "logging.progress=false",
    ],
)
result = rx.train(config)

# %%
samples = [json.loads(line) for line in (Path(result.directory) / "samples.jsonl").read_text().splitlines()]
for row in samples[:6]:
    print(row["reward/brief"], row["reward"], row["completion"][:90])

# %%
names = [name for name in samples[0] if name.startswith("reward/")]
means = [[row[name] for row in samples if row[name] is not None] for name in names]
plt.barh(names, [sum(values) / max(len(values), 1) for values in means])
plt.xlabel("mean over all completions");

# %% [markdown]
# ## Take the policy with you

# %%
main(["export", str(result.directory), "--to", f"{folder}/policy"])
sizes = {path.name: path.stat().st_size / 1e6 for path in (folder / "policy").iterdir()}
plt.barh(list(sizes), list(sizes.values()))
plt.xlabel("MB");
