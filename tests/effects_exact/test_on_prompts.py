"""From texts to units: the same donors and the same numbers as an evaluated query."""

import warnings

import numpy as np
import pytest

from causalnet.effects.asking import unit_effects
from causalnet.effects.estimands import natural_effects
from causalnet.effects.estimate import estimate
from causalnet.effects.options import Options
from causalnet.effects.shapley import compensation_shapley
from causalnet.effects.units import units_of
from causalnet.errors import ExpressionError, InputError
from causalnet.expr import TARGET, TE, E, Outcome, attn, do, last, logit, mlp, patch, prompt, resample, target, zero
from causalnet.prompts import Prompt, Prompts

LOGIT = Outcome("logit", (TARGET,))


def tokenizer(text):
    return {"input_ids": [len(word) + ord(word[0]) % 7 for word in text.split()]}


@pytest.fixture(scope="module")
def prompts():
    words = ["a few words", "and some others", "never the same", "or hardly ever", "it goes on", "until the end"]
    return Prompts(tuple(Prompt(text, pairs={"corrupt": text.replace("e", "ee")}) for text in words))


def test_the_same_numbers(prompted, prompts):
    mechanisms = prompted("gpt2").mechanisms
    s = attn[1] @ last << resample
    options = Options(donors=3, seed=4)
    scm = units_of(mechanisms, tokenizer, prompts, [[s]], LOGIT, options).scm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = estimate(mechanisms, tokenizer, [TE(s), natural_effects(s)["NIE"]], prompts, options)
    found = unit_effects(scm, natural_effects(s))
    np.testing.assert_allclose(found["TE"], whole[0].units_table, atol=1e-12)
    np.testing.assert_allclose(found["NIE"], whole[1].units_table, atol=1e-12)
    shares = compensation_shapley(scm, s)
    np.testing.assert_allclose(shares.total, whole[0].units_table, atol=1e-12)


def test_pairs(prompted, prompts):
    mechanisms = prompted("gpt2").mechanisms
    s = mlp[0] @ last << patch("corrupt")
    scm = units_of(mechanisms, tokenizer, prompts, [[s], [attn[0] << zero]], LOGIT, Options()).scm
    assert np.abs(unit_effects(scm, {"TE": TE(s)})["TE"]).max() > 0


def test_what_draws_differently_is_asked_apart(prompted, prompts):
    mechanisms = prompted("gpt2").mechanisms
    with pytest.raises(InputError, match="draw differently"):
        units_of(
            mechanisms, tokenizer, prompts, [[attn[0] << resample], [attn[0] @ last << resample]], LOGIT, Options()
        )


def test_a_subgroup_has_no_units_of_its_own(prompted):
    query = E[logit(target) | do(attn[0] << zero), prompt.kind == "x"]
    with pytest.raises(ExpressionError, match="subgroup"):
        unit_effects(prompted("gpt2"), {"q": query})
