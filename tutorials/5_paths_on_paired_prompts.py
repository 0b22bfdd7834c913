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
# # 5. Direct, indirect and path effects on paired prompts
#
# In the study of indirect objects (Wang et al. 2023) a prompt has a twin that differs in one name, so that the
# model should give another answer; values are carried from the twin into the prompt (*activation patching*), and the
# outcome is the difference of two tokens' logits. The embedded models know no English names, but a closed world in
# which people have countries: the same design, on paired prompts that differ in the person alone. At the end stand
# the lines that ask the same of indirect-object prompts with a model that can answer them.

# %%
import causalnet as cn
from causalnet import NDE, NIE, TE, TIE, E, attn, do, embed, last, logit_diff, logits, mlp, patch, span
from causalnet.demo import model_path
from causalnet.demo.facts import build_world

HERE, THERE = "Flasumar", "Flemavia"
people: dict[str, list[str]] = {HERE: [], THERE: []}
for fact in build_world().facts:
    if fact.relation.name == "birth_country" and fact.answer in people:
        people[fact.answer].append(fact.subject)

templates = ["The country where {} was born is", "By birth , {} is a citizen of", "{} was born in the country of"]
clean, corrupted = [], []
for template in templates:
    for one, other in zip(people[HERE], people[THERE], strict=True):
        clean.append(cn.Prompt(template.format(one), answer=HERE, spans={"subject": one}))
        corrupted.append(cn.Prompt(template.format(other), answer=THERE, spans={"subject": other}))
prompts = cn.Prompts.from_pairs(clean, corrupted)
print(prompts)
print(prompts[0].text, "→", prompts[0].answer)
print(prompts[0].pairs["corrupt"].text, "→", prompts[0].pairs["corrupt"].answer)

# %% [markdown]
# ## The whole difference
#
# The outcome is `logit(Flasumar) − logit(Flemavia)`. With the twin's name in place of the subject's, the model says
# the other country: that is the effect to be explained.

# %%
model = cn.compile(model_path("plain"))
gap = logit_diff(HERE, THERE)
swapped = embed @ span("subject") << patch("corrupt")


def show(queries):
    """Print queries by name, with their intervals; they share the worlds that they have in common."""
    results = model.evaluate(list(queries.values()), prompts)
    for name, result in zip(queries, results, strict=True):
        print(f"{name:<30}{result.value:+8.2f}  [{result.ci[0]:+.2f}, {result.ci[1]:+.2f}]")


show({"as it is": E[gap], "subject swapped": E[gap | do(swapped)], "total effect": TE(swapped, gap)})

# %% [markdown]
# ## Where does it pass?
#
# At the subject's tokens the difference is held by the first MLP alone; at the last token it arrives layer by layer
# and is mostly turned into an answer by the last MLP.

# %%
layers = range(model.graph.layers)
show({f"mlp[{layer}]@subject": TE(mlp[layer] @ span("subject") << patch("corrupt"), gap) for layer in layers})

# %%
show({f"attn[{layer}]@last": TE(attn[layer] @ last << patch("corrupt"), gap) for layer in layers})

# %%
show({f"mlp[{layer}]@last": TE(mlp[layer] @ last << patch("corrupt"), gap) for layer in layers})

# %% [markdown]
# (Layer 0 at the last position carries more than its share: it also changes what later *queries* at that position
# look for.) Attention layers 2 to 5 each carry a little; together far more than the sum of them:

# %%
show({"attn[2:6]@last": TE(attn[2:6] @ last << patch("corrupt"), gap)})

# %% [markdown]
# ## Direct and indirect
#
# What attention layer 4 brings reaches the logits on two ways: by itself (natural direct effect, everything
# downstream as if nothing had happened), and through what later layers make of it. TE = NDE + TIE holds exactly;
# TE = NDE + NIE does not, because in the indirect effect of the *natural* world the direct path is unchanged.

# %%
s = attn[4] @ last << patch("corrupt")
show({"TE": TE(s, gap), "NDE": NDE(s, gap), "TIE": TIE(s, gap), "NIE": NIE(s, gap)})

# %% [markdown]
# ## Paths
#
# `along` lets the change go along one path only; every other arrow carries what it would carry anyway.

# %%
paths = {"attn[4] -> logits": attn[4] >> logits}
paths |= {f"attn[4] -> mlp[{n}] -> logits": attn[4] >> mlp[n] >> logits for n in range(4, 8)}
paths |= {f"attn[4] -> attn[{n}] -> logits": attn[4] >> attn[n] >> logits for n in range(5, 8)}
show({name: E[gap | do(s.along(path))] - E[gap] for name, path in paths.items()})

# %% [markdown]
# Nearly half of it goes straight to the logits, and most of the rest is read by the last MLP. A growing set of edges
# telescopes from the direct to the total effect (the steps may go either way: letting the norm respond takes back a
# part of what the last MLP added):

# %%
direct = ["attn[4] -> logits"]
with_last = [*direct, "attn[4] -> mlp[7]", "mlp[7] -> logits"]
with_norm = [*with_last, "attn[4] -> norm", "mlp[7] -> norm", "norm -> logits"]
sets = {"straight": direct, "and by mlp[7]": with_last, "and by the norm": with_norm, "all edges": model.graph.edges()}
on = model.on(prompts)
for name, edges in sets.items():
    result = on.path_specific(s, edges=edges, outcome=gap)
    print(f"{name:<30}{result.value:+8.2f}  [{result.ci[0]:+.2f}, {result.ci[1]:+.2f}]")

# %% [markdown]
# ## On indirect-object prompts
#
# A CSV with the columns `clean` and `corrupted` is read as it is, so with a model that answers such prompts (GPT-2
# small does) the same questions are:
#
# ```python
# model = cn.compile("openai-community/gpt2")
# prompts = cn.Prompts.from_file("ioi.csv")     # clean,corrupted: "Then, Aaron and Amber … Aaron gave a drink to", …
# gap = logit_diff(" Amber", " Aaron")           # for the prompts with these two names
# heads = {f"{l}.{h}": TE(attn[l].head[h] @ last << patch("corrupt"), gap) for l in range(12) for h in range(12)}
# ```
#
# These lines were not run here: the embedded models have never read a sentence of that kind.
