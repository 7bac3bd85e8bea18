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
# # What the judge sees
#
# The reward asks a frozen judge *where* each statement shows. Before anything is paid by it: does it read the statement, or
# does it find blobs whatever the words say? Here on phantoms, whose lesions are known exactly. For a data set the same questions
# are asked by `reflex audit judge CONFIG`, with intervals and a verdict.

# %%
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import reflex_jax as rx

judge = rx.load_judge("phantom")
HOW = {"saliency_block": -2, "quantile": 0.9}

# %% [markdown]
# ## One picture, several statements
#
# Two findings of different kinds. A judge that reads should point at the one that is named.

# %%
phantom = rx.make_phantom(seed=2, index=23, lesion_count=2)
picture = Image.fromarray(phantom.image).convert("RGB")
first, second = phantom.facts.findings

# %%
true = f"there is a {first.kind} in the {first.region} region"
statements = {
    "in other words": f"the {first.kind} is in the {first.region} region",
    "the other finding": f"there is a {second.kind} in the {second.region} region",
    "absent": "there is no abnormality",
    "letters": "qzv kxw jjq pgd",
}

# %%
found = rx.judge_evidence(judge, [picture], [list(statements.values())], [true], **HOW)
maps = dict(zip([f"anchor: {true}", *statements], [found.anchor_saliency[0], *found.saliency[0]]))


# %%
def show(maps):
    """Draws maps of the judge's grid over the picture, the true outlines in red."""
    axes = plt.subplots(1, len(maps), figsize=(3.2 * len(maps), 3.6))[1]
    for axis, (title, values) in zip(np.atleast_1d(axes), maps.items()):
        axis.imshow(picture, extent=(0, 14, 14, 0))
        axis.imshow(np.ma.masked_less_equal(np.asarray(values), 0), cmap="inferno", alpha=0.6, extent=(0, 14, 14, 0))
        for mask in phantom.masks:
            axis.contour(np.linspace(0, 14, mask.shape[1]), np.linspace(0, 14, mask.shape[0]), mask, [0.5], colors="red")
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=8, wrap=True)


# %%
show(maps)

# %% [markdown]
# ## The numbers that are paid
#
# IoU above 0.5 earns R_VFR, s_tt above 0.8 and s_it above 0.5 half of R_BPR each. Random letters have a map and an IoU too:
# a map alone says little.

# %%
for name, iou, stt, sit in zip(
    statements, found.iou[0], found.text_text_similarity[0], found.image_text_similarity[0]
):
    print(f"{name:18s} IoU {iou:.2f}   s_tt {stt:.2f}   s_it {sit:.2f}")

# %% [markdown]
# ## Many pictures: does it point at what is named?
#
# The pointing game: the most salient cell should lie on the lesion. Chance is the share of the picture that the lesion covers.

# %%
phantoms = [rx.make_phantom(seed=5, index=i, lesion_count=1) for i in range(64)]
pictures = [Image.fromarray(p.image).convert("RGB") for p in phantoms]
said = [f"there is a {p.facts.findings[0].kind} in the {p.facts.findings[0].region} region" for p in phantoms]
seen = rx.judge_evidence(judge, pictures, [[text] for text in said], said, **HOW)


# %%
def hits(maps):
    """Whether the most salient cell of each map touches the lesion."""
    best = np.asarray(maps).reshape(len(maps), -1).argmax(-1)
    cells = [p.masks[0].reshape(14, 8, 14, 8).any((1, 3)).ravel() for p in phantoms]
    return np.mean([lesion[cell] for lesion, cell in zip(cells, best)]), np.mean(cells)


print("pointing game {:.2f}, chance {:.2f}".format(*hits(seen.anchor_saliency)))

# %% [markdown]
# ## The same with wrong words
#
# The statement of another picture: a judge that finds blobs would still hit. What is left here is what it sees without reading.

# %%
shifted = rx.judge_evidence(judge, pictures, [[text] for text in said[1:] + said[:1]], said, **HOW)
print("with another picture's statement {:.2f}".format(hits(shifted.saliency[:, 0])[0]))

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3))
for axis, name, threshold in zip(axes, ("iou", "image_text_similarity"), (0.5, 0.5)):
    for label, evidence in (("own statement", seen), ("another's", shifted)):
        axis.hist(np.asarray(getattr(evidence, name))[:, 0], bins=20, alpha=0.6, label=label)
    axis.axvline(threshold, color="black", linestyle="--")
    axis.set_title(name)
axes[0].legend();

# %% [markdown]
# The own statement is the anchor here, so its IoU is 1 by construction: a right closed answer in the anchor's words is paid without
# a look at the picture. That is why `reflex audit judge` holds the true answer *in other words* against wrong ones.

# %%
others = [f"the {p.facts.findings[0].kind} is in the {p.facts.findings[0].region} region" for p in phantoms]
reworded = rx.judge_evidence(judge, pictures, [[text] for text in others], said, **HOW)
plt.hist(np.asarray(reworded.iou)[:, 0], bins=20, alpha=0.6, label="in other words")
plt.hist(np.asarray(shifted.iou)[:, 0], bins=20, alpha=0.6, label="another's")
plt.axvline(0.5, color="black", linestyle="--")
plt.xlabel("IoU with the anchor")
plt.legend();
