import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from causalnet.errors import PromptError
from causalnet.prompts import DonorPool, choose_donors


@st.composite
def cases(draw):
    size = draw(st.integers(2, 12))
    column = st.lists(st.integers(0, 3), min_size=size, max_size=size)
    return {
        "targets": draw(column),
        "lengths": draw(column),
        "strata": draw(st.none() | column),
        "keys": draw(st.none() | column),
        "donors": draw(st.integers(1, 14)),
        "seed": draw(st.integers(0, 2**64)),
        "exclude_same_target": draw(st.booleans()),
        "same_length": draw(st.booleans()),
    }


def allowed(case, prompt):
    """Find the eligible donors of a prompt by the rules' own words."""
    return {
        other
        for other in range(len(case["targets"]))
        if other != prompt
        and not (case["exclude_same_target"] and case["targets"][other] == case["targets"][prompt])
        and not (case["same_length"] and case["lengths"][other] != case["lengths"][prompt])
        and not (case["strata"] and case["strata"][other] != case["strata"][prompt])
        and not (case["keys"] and case["keys"][other] == case["keys"][prompt])
    }


@given(cases())
def test_the_rules(case):
    size = len(case["targets"])
    eligible = [allowed(case, prompt) for prompt in range(size)]
    if not all(eligible):
        poor = min(prompt for prompt in range(size) if not eligible[prompt])
        with pytest.raises(PromptError, match=f"^prompt {poor}: has no eligible donor: of {size - 1} other"):
            choose_donors(**case)
        return
    index = choose_donors(**case)
    assert index.shape == (size, case["donors"])
    assert index.dtype == np.int64
    for prompt in range(size):
        drawn = [donor for donor in index[prompt].tolist() if donor >= 0]
        assert set(drawn) <= eligible[prompt]
        assert len(set(drawn)) == len(drawn) == min(case["donors"], len(eligible[prompt]))
        assert (index[prompt, len(drawn) :] == -1).all()


@given(cases(), st.data())
def test_what_the_draw_does_not_depend_on(case, data):
    size = len(case["targets"])
    if not all(allowed(case, prompt) for prompt in range(size)):
        return
    index = choose_donors(**case)
    assert (choose_donors(**case) == index).all()
    rows = data.draw(st.lists(st.integers(0, size - 1), max_size=size))
    assert (choose_donors(**case, rows=rows) == index[rows]).all()
    for fewer in range(1, case["donors"]):
        assert (choose_donors(**{**case, "donors": fewer}) == index[:, :fewer]).all()
    # A stricter rule takes donors out of the order and deals nothing anew.
    loose = choose_donors(case["targets"], donors=size, seed=case["seed"], exclude_same_target=False)
    strict = choose_donors(**{**case, "donors": size})
    for prompt in range(size):
        eligible = allowed(case, prompt)
        expected = [donor for donor in loose[prompt].tolist() if donor in eligible]
        assert [donor for donor in strict[prompt].tolist() if donor >= 0] == expected


def test_another_seed_and_another_prompt_draw_otherwise():
    targets = list(range(40))
    first, second = (choose_donors(targets, donors=5, seed=seed) for seed in (0, 1))
    assert (first != second).any()
    assert len({tuple(row) for row in first.tolist()}) == 40


def test_every_donor_is_equally_likely():
    counts = np.zeros((6, 6))
    for seed in range(3000):
        index = choose_donors(range(6), donors=2, seed=seed)
        for prompt in range(6):
            counts[prompt, index[prompt]] += 1
    assert (np.diag(counts) == 0).all()
    others = counts[~np.eye(6, dtype=bool)]
    # Each of the 5 others is drawn with probability 2/5; five standard deviations of a binomial.
    assert np.abs(others - 1200).max() < 5 * np.sqrt(3000 * 0.4 * 0.6)


PINNED = [[2, 3, 4], [3, 2, 4], [0, 3, 4], [0, 2, 1], [1, 2, 0], [3, 2, 4]]


def test_the_draw_is_pinned():
    # A change here changes the donors of every stored run.
    assert choose_donors([7, 7, 8, 9, 5, 7], donors=3, seed=0).tolist() == PINNED


def test_a_pool_of_other_prompts():
    pool = DonorPool(targets=[1, 2, 3], lengths=[4, 5, 5], strata="aab", keys=["x", "y", "z"])
    index = choose_donors([1, 9], [5, 5], donors=3, seed=0, pool=pool)
    assert [sorted(row) for row in index.tolist()] == [[-1, 1, 2], [0, 1, 2]]
    index = choose_donors([1, 9], [5, 5], donors=3, seed=0, pool=pool, same_length=True, strata="ba")
    assert index.tolist() == [[2, -1, -1], [1, -1, -1]]
    index = choose_donors([1, 9], donors=3, seed=0, pool=pool, keys=["y", "q"])
    assert [sorted(row) for row in index.tolist()] == [[-1, -1, 2], [0, 1, 2]]
    with pytest.raises(PromptError, match="the lengths of the pool are needed and missing; give lengths"):
        choose_donors([1], [5], donors=1, seed=0, same_length=True, pool=DonorPool([2]))
    with pytest.raises(PromptError, match="prompt 0: the donor pool is empty"):
        choose_donors([1], donors=1, seed=0, pool=DonorPool([]))


class Element:
    """As an element of a tensor: equal ones have different hashes."""

    def __init__(self, value):
        self.value = value

    def item(self):
        return self.value


@pytest.mark.parametrize("kind", [np.asarray, lambda values: [Element(value) for value in values]])
def test_targets_may_be_arrays_or_tensors(kind):
    targets = [7, 7, 8, 9, 5, 7]
    assert choose_donors(kind(targets), kind(targets), donors=3, seed=np.int64(0)).tolist() == PINNED


def test_no_donor_says_why():
    with pytest.raises(PromptError, match=r"prompt 0 'Big Ben is in': there is no other prompt .* \(zero, mean\)"):
        choose_donors([1], donors=1, seed=0, names=["Big Ben is in"])
    with pytest.raises(PromptError) as caught:
        choose_donors([1, 1, 2, 3], [5, 5, 6, 6], donors=2, seed=0, same_length=True)
    assert str(caught.value) == (
        "prompt 0: has no eligible donor: of 3 other prompts, 1 with the same target, 2 with another length; "
        "give more prompts, loosen the rule, or ablate by zero or mean"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"donors": 0}, "donors must be a whole number of at least 1, got 0"),
        ({"donors": 1.5}, "donors must be a whole number"),
        ({"donors": True}, "donors must be a whole number"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"same_length": True}, "the lengths of the prompts are needed and missing"),
        ({"lengths": [1]}, "3 targets but 1 lengths of the prompts"),
        ({"strata": [1]}, "3 targets but 1 strata of the prompts"),
        ({"targets": []}, "no prompts were given"),
        ({"targets": [1, None, 2]}, "some target of the prompts is missing"),
        ({"rows": [3]}, "there is no prompt 3"),
        ({"rows": [-1]}, "there is no prompt -1"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(PromptError, match=words):
        choose_donors(**{"targets": [1, 2, 3], "donors": 1, "seed": 0, **arguments})
