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
# # 3. Property-test an effect decomposition
#
# Suppose you have an idea of how a total effect splits. Before it is measured on a language model it should hold
# where every effect is known: on linear networks, on networks of whole numbers modulo a prime (where nothing
# rounds), and on tiny transformers. `check_decomposition` tries it there and, where it fails, shows the smallest
# network and the shortest intervention that break it.

# %%
from causalnet import CE, DE, NDE, NIE, NORM, TE, TIE
from causalnet.effects.asking import unit_effects
from causalnet.testing import check_decomposition, check_laws

# %% [markdown]
# An estimator is a function of a model on its prompts and of an intervention; it returns effects by name, each as
# an array [prompt, draw]. This one asks the do-expressions of the split into direct effect, compensation and norm:


# %%
def by_last_edge(scm, s):
    """Split by the last edge into the logits."""
    return unit_effects(scm, {"direct": DE(s), "compensation": CE(s), "norm": NORM(s)})


report = check_decomposition(by_last_edge, total="TE", parts=["direct", "compensation", "norm"], cases=8)
print(report)

# %% [markdown]
# It held in every unit, exactly where nothing rounds. Now the decomposition that textbooks of linear mediation make
# everyone expect, total = natural direct + natural indirect:


# %%
def by_mediation(scm, s):
    """Natural direct and natural indirect effect."""
    return unit_effects(scm, {"NDE": NDE(s), "NIE": NIE(s)})


try:
    check_decomposition(by_mediation, total="TE", parts=["NDE", "NIE"], on=["field"], cases=40)
except AssertionError as counterexample:
    print(counterexample)

# %% [markdown]
# It is no identity: where the path through the mediators and the direct path meet (in the final norm, say), they
# interact. What is one is TE = NDE + TIE, with the *total* indirect effect:


# %%
def by_total_indirect(scm, s):
    """Natural direct effect, and the indirect one in the world where the direct path is already changed."""
    return unit_effects(scm, {"NDE": NDE(s), "TIE": TIE(s)})


print(check_decomposition(by_total_indirect, total="TE", parts=["NDE", "TIE"], cases=8))

# %% [markdown]
# An estimator may compute whatever it likes, from arrays of effects. Here is a plausible mistake: the compensation is
# taken as all that is not direct, and then the norm is added a second time. Only a model that has a norm shows it, and
# the report is the smallest one.


# %%
def counted_twice(scm, s):
    """As by_last_edge, but the compensation already has the norm's part in it."""
    found = unit_effects(scm, {"direct": DE(s), "total": TE(s), "norm": NORM(s)})
    return {**found, "compensation": found["total"] - found["direct"]}


try:
    parts = ["direct", "compensation", "norm"]
    check_decomposition(counted_twice, total="TE", parts=parts, on=["transformer"], cases=10)
except AssertionError as counterexample:
    print(counterexample)

# %% [markdown]
# ## The laws of a whole model
#
# The same idea, for the engine itself: `check_laws` tries the laws that every structural causal model keeps (nothing
# upstream moves, every edge carries, hard sets commute, …) on a network of your own or on a compiled language model.
# At the shell it is `causalnet check MODEL --laws`.

# %%
import causalnet as cn
from causalnet.demo import model_path

model = cn.compile(model_path("plain"))
print(check_laws(model, laws=["null", "composition", "locality", "out_edges", "identities"], cases=3))
