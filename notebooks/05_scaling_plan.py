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
# # Will it fit, and on what
#
# What one device needs for a step of the 7B recipe, by the estimate that `reflex train` makes before it loads anything, from shapes
# alone: no weights, no accelerator. `reflex plan CONFIG --topology v5p:4x4x4` asks the real compiler.

# %%
import matplotlib.pyplot as plt
import numpy as np
from jax.sharding import AbstractMesh, AxisType

import reflex_jax as rx
from reflex_jax.planning.memory import estimate_memory
from reflex_jax.step.abstract_run import abstract_run
from reflex_jax.step.shapes import named_shapes

GIB = 2**30


# %%
def needs(recipe, devices, *overrides):
    """GiB of each part of a step on one of `devices` devices."""
    config = rx.load_config(f"../configs/{recipe}.yaml", ["data.root=unread", *overrides])
    mesh = AbstractMesh((1, devices, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    run = abstract_run(config, named_shapes(config, mesh))
    return estimate_memory(run)


found = needs("reflex_med_7b", 8)
worst, size = found.of()
print(f"{size / GIB:.1f} GiB in {worst}: {found.terms(worst)}")

# %% [markdown]
# ## More devices

# %%
counts = (8, 16, 32, 64)
most = [needs("reflex_med_7b", n, f"memory.microbatch_prompts={n}").of()[1] / GIB for n in counts]
plt.plot(counts, most, marker="o")
for limit, name in ((80, "80 GB GPU"), (32, "v6e"), (16, "v5e")):
    plt.axhline(limit, linestyle="--", color="gray")
    plt.text(counts[-1], limit, name, va="bottom", ha="right")
plt.xscale("log", base=2)
plt.xlabel("devices (fsdp)")
plt.ylabel("GiB on each");

# %% [markdown]
# ## Settings that change how, and never what
#
# Everything in the section `memory` may change when a run goes on; the mathematics stays.

# %%
settings = {
    "as the recipe says": (),
    "microbatches of 8": ("memory.microbatch_prompts=8",),
    "moments wait on the host": ("memory.microbatch_prompts=8", "memory.offload=optimizer"),
    "adapters of rank 16": ("memory.microbatch_prompts=8", "policy.lora.rank=16", "optimizer.learning_rate=1e-5"),
}
sizes = {name: needs("reflex_med_7b", 8, *some).of()[1] / GIB for name, some in settings.items()}

# %%
plt.barh(list(sizes), list(sizes.values()))
plt.axvline(80, linestyle="--", color="gray")
plt.xlabel("GiB on each of 8 devices")
plt.gca().invert_yaxis();

# %% [markdown]
# ## Longer answers

# %%
lengths = (256, 512, 1024, 2048)
grown = [needs("reflex_med_7b", 8, "memory.microbatch_prompts=8", f"rollout.max_new_tokens={n}").of()[1] / GIB for n in lengths]
plt.plot(lengths, grown, marker="o")
plt.xlabel("rollout.max_new_tokens")
plt.ylabel("GiB on each of 8 devices");
