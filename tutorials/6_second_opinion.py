# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 6. A second opinion from DoWhy
#
# DoWhy (Sharma and Kiciman 2020; Blöbaum et al. 2024) knows nothing of transformers, which is what makes it a good
# witness. It is asked four things here: to compute the same counterfactuals as a causal model of its own, to estimate
# effects from a randomised experiment and try to refute them, to share out a compensation, and to falsify a circuit.

# %%
import causalnet as cn
from causalnet import attn, last, resample
from causalnet.demo import model_path, prompts_path
from causalnet.interop.dowhy import RandomisedAblation, shapley, to_gcm

model = cn.compile(model_path("dropped"))
prompts = cn.Prompts.from_file(prompts_path())[::30]
print(prompts)

# %% [markdown]
# ## An independent twin
#
# `to_gcm` makes the model on its prompts a `dowhy.gcm.InvertibleStructuralCausalModel`. DoWhy does the propagating;
# each node's mechanism calls the model's own module. Its variables are scalars, so its data frame holds handles of
# tensors.

# %%
few = prompts[:6]
twin = to_gcm(model, few)
print(type(twin.scm).__name__, "with", twin.scm.graph.number_of_nodes(), "nodes")
print(twin.data.iloc[:2, :6].to_string())

# %% [markdown]
# The same questions, once planned and run by causalnet, once propagated by DoWhy, as an intervention and as a
# counterfactual (abduction, action, prediction). They share the language and the choice of donors, and no arithmetic.

# %%
questions = [
    "TE(attn[3]@last = zero)",
    "DE(attn[3]@last = zero)",
    "E[logprob(target) | do(attn[2:5]@last = zero, mlp[6] = natural)] - E[logprob(target)]",
]
import warnings

for question in questions:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # six prompts are few, but no interval is read here
        ours = model.evaluate(question, few).units_table
    for way in ("interventional", "counterfactual"):
        theirs = twin.evaluate(question, way=way)
        print(f"{abs(theirs - ours).max():.0e}  {way:<15} {question}")

# %% [markdown]
# What is left over is rounding: the planned run computes one token per row, the twin whole prompts.
#
# ## A randomised experiment, estimated and refuted
#
# Each pass ablates a random half of the nodes. From the outcomes alone DoWhy estimates what ablating one node does
# *on average over what else is ablated*, and refuters try to shake the estimate. The engine knows the exact answer,
# pass by pass.

# %%
nodes = [f"attn[{layer}]" for layer in range(1, 5)]
experiment = RandomisedAblation.run(model, prompts, nodes=nodes, value=resample, passes=555)
print(experiment.data.iloc[:3].to_string())
table = experiment.table(methods=["regression"], refuters=["placebo"], simulations=10)
print(table.round(3).to_string())

# %% [markdown]
# The estimates agree with the exact means within their intervals, and under a placebo treatment the effect is gone.
# `alone` is the effect of ablating that node and nothing else: much smaller, since these layers stand in for each
# other. An experiment that ablates one node at a time would have missed them.
#
# ## Sharing out a compensation
#
# Shapley values of the responders are computed here by trying every coalition. The solver is a callable, so DoWhy's
# can be put in its place; the values of coalitions still come from the engine.

# %%
s = attn[5] @ last << resample
on = model.on(prompts, donors=2)
ours, theirs = on.shapley(s), on.shapley(s, solver=shapley("EXACT"))
print(ours)
print("largest difference to DoWhy's shares:", f"{abs(ours.units.values - theirs.units.values).max():.0e}")

# %% [markdown]
# ## Trying to falsify a circuit
#
# A sparse circuit implies independences: its missing edges do nothing. Activations as they are cannot be tested for
# them (they are functions of each other), so noise of the size of the signal is put on every node of a part of the
# model. In the first data only the circuit's own edges are left alive: it should survive. In the second all edges of
# the model are: now the circuit leaves out edges that carry something.

# %%
from causalnet.interop.dowhy import dithered, falsify_circuit

part = ["attn[1]", "mlp[1]", "attn[3]", "mlp[3]", "attn[5]", "mlp[6]"]
circuit = [
    *("attn[1] -> mlp[1]", "mlp[1] -> attn[3]", "mlp[1] -> mlp[3]"),
    *("attn[3] -> attn[5]", "mlp[3] -> mlp[6]"),
]
for alive in (circuit, None):
    data = dithered(model, prompts, part, only=alive, rows=200)
    print(str(falsify_circuit(circuit, data, test="linear")).splitlines()[0])

# %% [markdown]
# ## What not to ask
#
# Not everything in DoWhy is meant for graphs like these. Its general identification takes exponential time on a layer
# graph, and its mediation estimands assume one mediator without interaction: neither is used here. See
# [the limits](../limits.md).
