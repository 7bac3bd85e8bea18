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
# # The rewards of REFLEX-Med, by hand
#
# Every equation of the reward on one picture and two statements: from saliency to the total. The picture is a phantom
# and the judge is the tiny one that ships with the package, so this runs anywhere in seconds; with a BiomedCLIP
# directory in `rx.load_judge(...)` the same cells explain a radiograph.

# %%
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import reflex_jax as rx

# %% [markdown]
# ## A picture whose every fact is known
#
# This phantom has two findings of different kinds. The red outlines are exact: the world drew them.

# %%
phantom = rx.make_phantom(seed=2, index=23, lesion_count=2)
picture = Image.fromarray(phantom.image).convert("RGB")
first, second = phantom.facts.findings
print(phantom.facts)

# %%
plt.imshow(picture)
for mask in phantom.masks:
    plt.contour(mask, [0.5], colors="red")
plt.axis("off");

# %% [markdown]
# ## Eq. 1: answers become statements
#
# `decl(question, answer)` is a rule table, never a language model. $t_2$, the *anchor*, states the data set's answer;
# $t_1$ states what the policy answered. Here: the right answer in other words, and a wrong one.

# %%
question = "what abnormality is seen ?"
truth = f"a {first.kind} in the {first.region} region"
answers = [truth, f"a {second.kind} in the {second.region} region"]
statements = [rx.decl(question, answer) for answer in answers]
anchor = rx.decl(question, truth)
print("t2:", anchor)
print("t1:", *statements, sep="\n    ")

# %% [markdown]
# ## Eq. 2: embeddings and saliency
#
# The judge embeds the image ($v$) and the statements ($u_1, u_2$), all of length 1, and says *where* it looks for each
# statement: a 14 x 14 map $S(I, t)$.

# %%
judge = rx.load_judge("phantom")
evidence = rx.judge_evidence(judge, [picture], [statements], [anchor], saliency_block=-2, quantile=0.9)
print({name: np.shape(getattr(evidence, name)) for name in ("image_embeddings", "statement_embeddings", "saliency")})


# %%
def show(maps, titles):
    """Draws maps of the judge's grid over the picture."""
    figure, axes = plt.subplots(1, len(maps), figsize=(4 * len(maps), 4))
    for axis, values, title in zip(np.atleast_1d(axes), maps, titles):
        axis.imshow(picture, extent=(0, 14, 14, 0))
        shown = np.ma.masked_less_equal(np.asarray(values, float), 0)
        axis.imshow(shown, cmap="inferno", alpha=0.6, extent=(0, 14, 14, 0), vmin=0, vmax=1.3 * shown.max())
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=9)


show(evidence.saliency[0], statements)

# %% [markdown]
# ## Eq. 3: masks
#
# $M = \mathbb{1}[S \ge \mathrm{Quant}_p(S)]$. With $p = 0.5$ half of the picture is kept; a finding covers 3 % of a phantom,
# so this world uses $p = 0.9$.

# %%
masks = [rx.rewards.quantile_mask(evidence.saliency[0, 1], quantile=p) for p in (0.5, 0.9)]
show(masks, [f"p = 0.5: {int(masks[0].sum())} of 196 cells", f"p = 0.9: {int(masks[1].sum())} cells"])

# %% [markdown]
# **Ties.** The default saliency clamps at 0, and cells that are exactly 0 tie. The paper's $\ge$ keeps all of them when the cut
# falls on 0: a mask of everything, and IoU 1 for free. `strict` drops the tied cells, `rank` keeps a fixed number in
# reading order.

# %%
mostly_zero = np.zeros((14, 14), np.float32)
mostly_zero[4:7, 4:8] = 1.0
rules = {rule: int(rx.rewards.quantile_mask(mostly_zero, quantile=0.5, tie_rule=rule).sum()) for rule in ("paper", "rank", "strict")}
print("cells kept of 196, 12 of which are not zero:", rules)

# %% [markdown]
# ## Eq. 4: overlap, and what chance gives
#
# Two independent masks of half the cells overlap with IoU 1/3, so 0.5 is not far above chance. The chance-corrected IoU is 0
# there.

# %%
draws = np.random.default_rng(0).random((2, 2000, 14, 14), np.float32)
one, other = (rx.rewards.quantile_mask(part, quantile=0.5) for part in draws)
print("independent masks:", rx.rewards.intersection_over_union(one, other).mean())
print("the same, corrected:", rx.rewards.chance_corrected_iou(one, other).mean())

# %%
show([evidence.anchor_masks[0], *evidence.masks[0]], ["anchor", *(f"IoU {i:.2f}" for i in evidence.iou[0])])

# %% [markdown]
# ## Eq. 5: visual fidelity
#
# $R_{VFR} = \mathbb{1}[\mathrm{IoU} > 0.5]$: do both statements look at the same place? The right answer has the anchor's words, so it
# passes by construction. **The component says something only about wrong or paraphrased answers.**

# %%
r_vfr = rx.rewards.visual_fidelity_reward(evidence, iou_threshold=0.5)
print(r_vfr[0])

# %% [markdown]
# ## Eq. 6 and 7: provenance
#
# $s_{tt} = \langle u_1, u_2 \rangle$ asks whether the texts agree, $s_{it} = \langle v, u_1 \rangle$ whether the image agrees. Both findings
# are in the picture, so $s_{it}$ is high for both; only $s_{tt}$ tells that the second answers another question than the
# anchor.

# %%
s_tt, s_it = evidence.text_text_similarity[0], evidence.image_text_similarity[0]
r_bpr = rx.rewards.provenance_reward(evidence, text_threshold=0.8, image_threshold=0.5)
print("s_tt", s_tt, "\ns_it", s_it, "\nR_BPR", r_bpr[0])

# %% [markdown]
# ## Eq. 8: LoopTight
#
# By how much *both* thresholds are passed; reported, not part of the reward. Positive only where $R_{BPR} = 1$.

# %%
print(rx.rewards.loop_tightness(evidence, text_threshold=0.8, image_threshold=0.5)[0])

# %% [markdown]
# ## Eq. 9: the total
#
# $R = R_{ans} + R_{fmt} + R_{VFR} + R_{BPR}$, here for two completions as a policy would write them.

# %%
completions = [f"<think> i see it . </think> <answer> {answer} </answer>" for answer in answers]
components = {
    "format": np.float32([[rx.rewards.format_reward(text) for text in completions]]),
    "answer": np.float32([[rx.rewards.open_answer_reward(a, truth, parts={"bleu1": 0.5, "rouge1": 0.5}) for a in answers]]),
    "visual_fidelity": r_vfr,
    "provenance": r_bpr,
}
rewards = rx.rewards.combine_rewards(components, dict.fromkeys(components, 1.0))
print({name: np.round(values[0], 2).tolist() for name, values in components.items()}, "\ntotal", rewards)

# %% [markdown]
# ## From rewards to advantages
#
# GRPO compares the completions of one prompt with each other. A group that ties has no signal: exactly 0, never noise.

# %%
print(rx.grpo.group_advantages(rewards, np.ones((1, 2), bool))[0])
print(rx.grpo.group_advantages(np.full((1, 6), 2.3, np.float32), np.ones((1, 6), bool))[0])
