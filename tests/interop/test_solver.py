"""DoWhy's Shapley solver in the compensation attribution."""

import numpy as np
import pytest

from causalnet.effects.asking import on_prompts
from causalnet.effects.options import Options
from causalnet.effects.shapley import compensation_shapley
from causalnet.errors import InputError
from causalnet.expr import attn, last, logprob, target, zero
from causalnet.interop.dowhy import shapley


@pytest.fixture(scope="module")
def asked(tiny, prompts):
    model, s = tiny("sequential"), attn[0] @ last << zero
    outcome = logprob(target)
    scm = on_prompts(model.mechanisms, model.tokenizer, prompts, [s], outcome=outcome, options=Options())
    return lambda **how: compensation_shapley(scm, s, outcome=outcome, **how)


def test_exact_agrees_with_ours(asked):
    ours, theirs = asked(), asked(solver=shapley("exact"))
    assert ours.method == "exact"
    assert len(ours.players) == 6
    np.testing.assert_allclose(theirs.values, ours.values, atol=1e-12)
    assert np.abs(ours.values).max() > 1e-3


def test_permutations_keep_the_sum(asked):
    ours, theirs = asked(), asked(solver=shapley("PERMUTATION", permutations=20, seed=3))
    assert np.abs(theirs.residual).max() < 1e-12
    assert np.abs(theirs.values - ours.values).max() < 0.3 * np.abs(ours.values).max()
    again = asked(solver=shapley("PERMUTATION", permutations=20, seed=3))
    np.testing.assert_array_equal(again.values, theirs.values)
    other = asked(solver=shapley("PERMUTATION", permutations=20, seed=4))
    assert (other.values != theirs.values).any()


def test_what_it_refuses():
    for method in ("EXACT_FAST", "SUBSET_SAMPLING"):
        with pytest.raises(InputError, match="wrong values with scikit-learn"):
            shapley(method)
    with pytest.raises(InputError, match="number of players"):
        shapley("auto")
    with pytest.raises(InputError, match="did you mean 'PERMUTATION'"):
        shapley("permutations")
    with pytest.raises(InputError, match="at least 1"):
        shapley("PERMUTATION", permutations=0)
