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
# # 1. The first do-expression
#
# A do-expression says *what to ask* of a language model: which nodes of its causal graph are set to what, and which
# outcome is read. This tutorial asks a first question, reads the answer, and then changes one part of the question
# at a time: the node, the value, the position, the outcome, the subgroup.

# %%
import causalnet as cn
from causalnet import E, attn, desc, do, last, logit, logprob, mean, mlp, natural, resample, scale, span, target, zero
from causalnet.demo import model_path, prompts_path

model = cn.compile(model_path("dropped"))
prompts = cn.Prompts.from_file(prompts_path())[::6]  # all relations, not only the first
print(model)
print(prompts)
print(prompts[0].text, "→", prompts[0].answer)

# %% [markdown]
# The model is one of the two embedded ones: eight layers, trained on a closed world of invented facts, with whole
# attention layers dropped at random. The question: what does attention layer 3 contribute to the answer, at the
# last position? Its output there is set to what it is on another prompt (`resample`).

# %%
effect = E[logit(target) | do(attn[3] @ last << resample)] - E[logit(target)]
found = model.evaluate(effect, prompts)
print(found)

# %% [markdown]
# `target` is the token that the model itself finds most likely when nothing is done. The logit of the target falls a
# little when layer 3 hears another prompt. `found` keeps every unit, not only the mean:

# %%
print("values", found.values.shape, "- one per prompt; units", found.units_table.shape, "- prompt by donor")
hardest = found.values.argmin()
print(f"the largest drop: {found.values[hardest]:+.2f} logits, on '{found.texts[hardest]}'")

# %% [markdown]
# ## What will be run?
#
# `explain` says it in words; `plan` says what it costs. Only what lies downstream of the intervention is computed
# again, and only for the positions that can change.

# %%
print(model.explain(effect))
print()
print(model.plan(effect, prompts))

# %% [markdown]
# ## One part at a time
#
# *The value.* `zero` and `mean` draw no donors; `scale` is soft, a function of what the node would be anyway.
# Several queries in one call share the worlds that they have in common.

# %%
values = {"resample": resample, "mean": mean, "zero": zero, "scale(0.5)": scale(0.5)}
queries = [E[logit(target) | do(attn[3] @ last << value)] - E[logit(target)] for value in values.values()]
for name, result in zip(values, model.evaluate(queries, prompts), strict=True):
    print(f"attn[3]@last = {name:<12} {result.value:+.3f}  [{result.ci[0]:+.3f}, {result.ci[1]:+.3f}]")

# %% [markdown]
# *The node.* A slice is several nodes at once, set together; heads are nodes, too.

# %%
nodes = [attn[3], attn[2:5], attn[3].head[0], mlp[3], attn[3] | mlp[3]]
queries = [E[logit(target) | do(node @ last << resample)] - E[logit(target)] for node in nodes]
for node, result in zip(nodes, model.evaluate(queries, prompts), strict=True):
    print(f"{node!s:<18} {result.value:+.3f}  [{result.ci[0]:+.3f}, {result.ci[1]:+.3f}]")

# %% [markdown]
# Two of these deserve a second look. Zero, the mean and half of the value leave the logit where it was: layer 3's
# output is missed little. *Another prompt's* output is worse than none, because it speaks for another answer. The
# choice of the value is a choice of the question. And layers 2, 3 and 4 together cost far more than layer 3 alone:
# they stand in for each other. Effects of single ablations do not add up, which is a finding and no error.
#
# *The position.* The prompts come with a named span, the subject, so a position can be named. Where a span has
# several tokens, donors need a subject of the same length.

# %%
places = [last, span("subject")]
queries = [E[logit(target) | do(mlp[0] @ place << resample)] - E[logit(target)] for place in places]
for place, result in zip(places, model.evaluate(queries, prompts), strict=True):
    print(f"mlp[0]{place!s:<10} {result.value:+.3f}  [{result.ci[0]:+.3f}, {result.ci[1]:+.3f}]")

# %% [markdown]
# *The outcome.* A log-probability instead of a logit; and a counterfactual in which everything downstream keeps the
# value it has when nothing is done, which leaves the direct effect.

# %%
ablated = attn[3] @ last << resample
total = E[logprob(target) | do(ablated)] - E[logprob(target)]
direct = E[logprob(target) | do(ablated, desc(attn[3]) << natural)] - E[logprob(target)]
for name, result in zip(("total", "direct"), model.evaluate([total, direct], prompts), strict=True):
    print(f"{name:<7} {result.value:+.3f} {result.units}")

# %% [markdown]
# *The subgroup.* Conditions are on features of the prompts, which are fixed before anything is run.

# %%
first = cn.prompt.phrasing == "last0"
found = model.evaluate(E[logit(target) | do(ablated), first] - E[logit(target), first], prompts)
print(found)

# %% [markdown]
# ## Text and Python are the same sentence

# %%
text = "E[logit(target) | do(attn[3]@last = resample)] - E[logit(target)]"
print(cn.parse(text) == effect, str(effect) == text)
try:
    cn.parse("E[logit(target) | do(attn[3]@last = resampel)]")
except cn.errors.ExpressionError as error:
    print(error)
