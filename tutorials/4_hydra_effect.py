# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   # ruff: noqa: B018
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4. The Hydra effect, end to end
#
# McGrath et al. (2023) ablated the attention layers of a 7B model, one at a time, and found that the total effect was
# smaller than the direct one: later layers made up for the loss. This is the whole study on the two embedded models,
# on a sixth of their prompts: one was trained plainly, the other with whole attention layers dropped at random.

# %%
# %matplotlib inline
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt

import causalnet as cn
from causalnet.demo import ARMS, model_path, prompts_path
from causalnet.draw import ce_vs_direct, coupling, impact, slopes, waterfall
from causalnet.studies.hydra import Arm, Options, hydra

prompts = cn.Prompts.from_file(prompts_path())[::6]
arms = [Arm(name, str(model_path(name))) for name in ARMS]
run = hydra(arms, prompts, options=Options(donors=5), out=Path(tempfile.mkdtemp()) / "run")
plain, dropped = run.results
print(dropped.data.sizes)

# %% [markdown]
# ## The closure
#
# Each cell is one (prompt, layer, donor): the layer's output at the last position is set to what it is on the donor,
# and the change of the target's logit is split, TE = DE + CE + NORM. TE comes from the model's own logits, the parts
# from contributions, so what is left over says how well the parts account for the whole.

# %%
for result in run.results:
    print(f"{result.name}: largest |TE − DE − CE − NORM| = {result.summary['closure_max_abs']:.1e} logits")

# %% [markdown]
# ## Direct and total effect (figures 2a, 2b)
#
# Effects are `Y(do) − Y`; the drop that the paper plots is −TE.

# %%
impact(dropped.data)[0].figure

# %% [markdown]
# Where the total effect is smaller than the direct one something repairs; where it is larger, what lies downstream
# breaks. The two models differ:

# %%
print(f"{'':>9}{'plain':^24}{'dropped':^24}")
print(f"{'layer':<9}" + 2 * f"{'DE':>8}{'TE':>8}{'slope':>8}")
for one, other in zip(plain.summary["nodes"], dropped.summary["nodes"], strict=True):
    if one["name"].startswith("attn"):
        print(
            f"{one['name']:<9}"
            + "".join(f"{node[key]:>8.2f}" for node in (one, other) for key in ("de", "te", "slope"))
        )

# %% [markdown]
# In `dropped` the total effect of every attention layer after the first is smaller than the direct one; in `plain` it
# is larger, two to four times. Layer 0 carries nearly everything downstream and writes little of the answer itself,
# so neither its share nor its slope says much.
#
# ## Compensation against the direct effect (figures 7a, 7b, 7d)
#
# Over prompts, how does the response of later layers (CE) depend on what the ablated layer contributed? The slope is
# the share that comes back; R² says how regular that is.

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    figure = slopes(dropped.data, dropped.summary)[0].figure
figure

# %%
ce_vs_direct(dropped.data, dropped.summary)[0].figure

# %% [markdown]
# ## One layer, taken apart
#
# A waterfall from the direct to the total effect: which responders give something back, which take more away, and
# what the final norm does.

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 4), sharex=True, layout="constrained")
for axis, result in zip(axes, run.results, strict=True):
    waterfall(result.data, "attn[2]", axis=axis)
    axis.set_title(f"{result.name}: attn[2] ablated")
plt.show()

# %% [markdown]
# ## Who responds to whom
#
# Rows are ablated, columns respond: an ablation changes the direct effect of a few downstream layers.

# %%
coupling(dropped.data)[0].figure

# %% [markdown]
# ## What it says
#
# The sentences below are made from the intervals, not written by hand; `causalnet hydra` prints the same, and its
# `report.html` holds every figure.

# %%
for sentence in run.comparison["findings"]:
    print("-", sentence)

# %%
print(sorted(path.name for path in run.path.iterdir()))
