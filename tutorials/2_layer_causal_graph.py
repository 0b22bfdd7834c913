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
# # 2. The picture of a layer causal graph
#
# A compiled model holds its causal graph as an object of its own: it knows no weights and no torch. This tutorial
# looks at one, asks it for descendants, mediators and d-separation, cuts it the way an intervention does, and then
# puts measured effects on it.

# %%
import causalnet as cn
from causalnet.demo import model_path, prompts_path
from causalnet.draw import draw

model = cn.compile(model_path("dropped"))
graph = model.graph
print(graph)
print(", ".join(str(node) for node in graph.nodes))

# %% [markdown]
# The graph is dense: every component reads everything before it, through the residual stream. Drawn edge by edge
# that is unreadable, so the picture shows the stream as a spine: what reads from it, what writes to it.

# %%
draw(graph)

# %% [markdown]
# ## Asking the graph
#
# In a sequential block the MLP reads what the attention of its layer wrote; in a parallel one it does not. That
# decides who can respond to what, so it is read off the real model. `compile_config` needs no weights: the graphs of
# GPT-2 (sequential) and GPT-J (parallel) come from their configs.

# %%
from transformers import GPT2Config, GPTJConfig

for config in (GPT2Config(n_layer=4), GPTJConfig(n_layer=4)):
    other = cn.compile_config(config)
    print(
        f"{config.model_type}: attn[2] -> mlp[2] is an edge: {other.has_edge('attn[2]', 'mlp[2]')};",
        "downstream of attn[2]:",
        ", ".join(map(str, other.ordered(other.descendants("attn[2]")))),
    )

# %%
print("between attn[5] and the logits:", ", ".join(map(str, graph.ordered(graph.mediators("attn[5]", "logits")))))
print(
    "is mlp[0] separated from the logits by everything after it?",
    graph.is_d_separated("mlp[0]", "logits", [node for node in graph.nodes if str(node) not in ("mlp[0]", "logits")]),
)

# %% [markdown]
# The answer is no: `mlp[0]` writes straight into the logits, as every component does. No set of nodes screens it off.
#
# ## Cutting the graph
#
# `do` cuts the arrows into what is set. An edge can be set by itself; then only the receiver hears the other value.

# %%
query = cn.parse("E[logit(target) | do(attn[5]@last = resample, mlp[6] = natural)] - E[logit(target)]")
cut = model.mutilated(query)
print(len(cut.severed_edges), "edges are cut, among them", sorted(map(str, cut.severed_edges))[:3])
draw(cut)

# %% [markdown]
# ## Positions
#
# `unroll` grounds the graph over positions: attention reads earlier positions, nothing else crosses them. Where a
# layer has a sliding window, an attention node has fewer parents.

# %%
from causalnet.graph import Block, CausalGraph

windowed = CausalGraph.from_blocks([Block(0, window=2), Block(1)]).unroll(4)
for node in ("attn[0]@3", "attn[1]@3"):
    print(node, "reads", ", ".join(str(parent) for parent in windowed.ordered(windowed.parents(node))))

# %% [markdown]
# ## Effects on the graph
#
# A sweep sets every node in turn. Drawn with the graph, boxes are filled by their direct effect on the target's
# logit; with `node=…` the arrows lead from one ablated node to those that respond (blue: the response raises the
# logit, orange: it lowers it).

# %%
import tempfile

from causalnet.studies.hydra import Arm, Options, hydra

prompts = cn.Prompts.from_file(prompts_path())[::11]
run = hydra([Arm("", str(model_path("dropped")))], prompts, options=Options(donors=5), out=tempfile.mkdtemp() + "/run")
sweep = run.results[0].data
draw(graph, sweep, node="attn[2]")

# %% [markdown]
# The same is said by numbers: the mean change of each responder's direct effect.

# %%
response = sweep["delta_de"].sel(node="attn[2]").mean(("prompt", "donor")).to_series()
print(response.reindex(response.abs().sort_values(ascending=False).index).head(6).round(3).to_string())

# %% [markdown]
# ## Taking it elsewhere
#
# GraphML, DOT and JSON hold the whole graph and read back equal. `graph.nx` is a networkx graph.

# %%
import networkx

again = CausalGraph.from_graphml(graph.to_graphml())
print(again == graph, networkx.is_directed_acyclic_graph(graph.nx), graph.nx.number_of_edges())
