import json

import numpy as np
import pytest

from causalnet.effects import FewPromptsWarning, compare, prompt_means, summarise
from causalnet.errors import DataError

FAST = {"bootstrap": 200, "permutations": 20}


def both(make_sweep, first, second):
    """Summaries and sweeps of two models, in the order that ``compare`` takes."""
    sweeps = [make_sweep(**first), make_sweep(**second)]
    summaries = [summarise(ds, **FAST) for ds in sweeps]
    return summaries[0], sweeps[0], summaries[1], sweeps[1]


def test_differences_are_second_minus_first(make_sweep):
    shared = {"prompts": 100, "noise": 0.2, "seed": 4}
    given = both(make_sweep, {**shared, "restored": 0.1}, {**shared, "restored": 0.6})
    found = compare(*given, names=("plain", "dropped"))
    json.dumps(found, allow_nan=False)
    assert (found["names"], found["difference"]) == (["plain", "dropped"], "dropped minus plain")
    assert (found["prompts"], found["same_target"], found["prompts_left_out"]) == (100, 100, [0, 0])
    node = found["nodes"][0]
    a, b = given[0]["nodes"][0], given[2]["nodes"][0]
    for key in ("te", "de", "ce", "ce_attn", "ce_mlp", "norm", "self_repair", "slope", "slope_repair", "pooled"):
        assert node[key] == pytest.approx(b[key] - a[key], abs=1e-6), key
        low, high = node[f"{key}_ci"]
        assert low <= node[key] <= high, key
    # The noise is the same in both, so the difference is exact although neither slope is.
    assert node["slope"] == pytest.approx(0.5, abs=1e-4)
    assert np.ptp(node["slope_ci"]) < 0.01 * np.ptp(a["slope_ci"])
    group = found["pooled"]["attn"]["self_repair"]
    expected = [one["pooled"]["attn"]["self_repair"] for one in (given[0], given[2])]
    assert group["values"] == pytest.approx(expected)
    assert group["difference"] == pytest.approx(expected[1] - expected[0])
    assert "larger in dropped than in plain at 3 of 4 nodes and smaller at 0" in found["findings"][0]
    assert found["findings"][1].startswith(
        "Of what ablating attention layers removes directly, plain and dropped return"
    )


def test_equal_models_do_not_differ(make_sweep):
    shared = {"prompts": 100, "noise": 1.0, "restored": 0.5}
    found = compare(*both(make_sweep, {**shared, "seed": 1}, {**shared, "seed": 2}), names=("plain", "dropped"))
    assert "no node's compensation slope differs between plain and dropped" in found["findings"][0]
    assert "no clear difference" in found["findings"][1]


def test_swapping_the_models_swaps_the_sign(make_sweep):
    given = both(make_sweep, {"prompts": 60, "restored": 0.1, "noise": 0.3}, {"prompts": 60, "noise": 0.3, "seed": 3})
    there, back = compare(*given), compare(*given[2:], *given[:2])
    for a, b in zip(there["nodes"], back["nodes"], strict=True):
        assert a["slope"] == pytest.approx(-b["slope"])
        assert a["te"] == pytest.approx(-b["te"])
    assert there["pooled"]["all"]["ce"]["difference"] == pytest.approx(-back["pooled"]["all"]["ce"]["difference"])


def test_prompts_are_matched_by_text_and_nodes_by_name(make_sweep):
    first = make_sweep(prompts=60, noise=0.3)
    second = first.isel(prompt=np.arange(50)[::-1], node=[2, 0])
    summaries = summarise(first, **FAST), summarise(second, **FAST)
    found = compare(summaries[0], first, summaries[1], second)
    assert (found["prompts"], found["prompts_left_out"]) == (50, [10, 0])
    assert [node["name"] for node in found["nodes"]] == ["attn[0]", "attn[1]"]
    for node in found["nodes"]:
        assert (node["te"], node["slope"]) == (0, 0)
        assert node["slope_p"] == 1
    means = prompt_means(first)["de"][:50, [0, 2]]
    assert found["pooled"]["attn"]["lost"] == pytest.approx([-means.sum(1).mean()] * 2)


def test_a_text_that_occurs_twice_is_matched_in_order(make_sweep):
    texts = ["same"] * 30 + [f"other {one}" for one in range(10)]
    ds = make_sweep(text=texts)
    summary = summarise(ds, **FAST)
    found = compare(summary, ds, summary, ds)
    assert found["prompts"] == found["same_target"] == 40


def test_what_cannot_be_compared_is_refused(make_sweep):
    first, second = make_sweep(), make_sweep(ablation="zero")
    summaries = summarise(first, **FAST), summarise(second, **FAST)
    with pytest.raises(DataError, match="differ in ablation: 'resample' and 'zero'"):
        compare(summaries[0], first, summaries[1], second)
    other = make_sweep(text=[f"x{one}" for one in range(40)])
    with pytest.raises(DataError, match="share no prompt"):
        compare(summaries[0], first, summaries[0], other)
    with pytest.raises(DataError, match="share no node"):
        compare(summaries[0], first.isel(node=[0]), summaries[0], first.isel(node=[1]))


def test_shares_of_nothing_are_not_compared(make_sweep):
    rng = np.random.default_rng(0)
    clean = rng.normal(0.0, 1.0, size=(60, 4))
    found = compare(*both(make_sweep, {"prompts": 60, "clean": clean}, {"prompts": 60, "clean": clean}))
    assert not found["pooled"]["attn"]["stable"]
    assert "no share is compared" in found["findings"][1]


@pytest.mark.parametrize("prompts", [1, 2, 4])
def test_few_prompts_warn_once_and_stay_finite(make_sweep, prompts):
    ds = make_sweep(prompts=prompts, ablation="zero")
    with pytest.warns(FewPromptsWarning):
        summary = summarise(ds, **FAST)
    with pytest.warns(FewPromptsWarning) as caught:
        found = compare(summary, ds, summary, ds)
    assert len(caught) == 1
    json.dumps(found, allow_nan=False)
    if prompts < 3:
        assert "too few to compare" in found["findings"][0]
