import json
import warnings

import numpy as np
import pytest

from causalnet.effects import FewPromptsWarning, closure, findings, prompt_means, self_repair, summarise
from causalnet.errors import InputError, NonFiniteError

FAST = {"bootstrap": 200, "permutations": 99}
ISSUED = {"name", "de", "te", "ce", "ce_attn", "ce_mlp", "norm", "slope", "slope_ci", "r2", "p_null", "slope_lost"}


def by_name(summary):
    return {node["name"]: node for node in summary["nodes"]}


def numbers(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [one for entry in value for one in numbers(entry)]
    return [value] if isinstance(value, (int, float)) else []


def test_a_known_fraction_is_measured(make_sweep):
    """Zero ablation, and 70 % of every clean effect comes back by construction."""
    ds = make_sweep(ablation="zero", restored=0.7)
    summary = summarise(ds, wall_s=1.5, **FAST)
    assert (summary["model"], summary["prompts"], summary["donors"], summary["wall_s"]) == ("toy", 40, 0, 1.5)
    for name in ("attn[0]", "mlp[0]", "attn[1]"):
        node = by_name(summary)[name]
        assert set(node) >= ISSUED
        assert node["slope"] == pytest.approx(0.7, abs=1e-5)
        assert node["slope_lost"] == pytest.approx(0.7, abs=1e-5)
        assert node["r2"] == pytest.approx(1, abs=1e-5)
        assert node["slope_ci"] == pytest.approx([0.7, 0.7], abs=1e-3)
        assert node["p_null"] == pytest.approx(0.01)
        assert node["p_holm"] == pytest.approx(0.03)
        assert node["responders"][0]["name"] == "mlp[1]"
        assert node["ce_mlp"] == pytest.approx(node["ce"])
        assert node["ce_attn"] == 0


def test_a_node_without_responders_has_zeros(make_sweep):
    last = by_name(summarise(make_sweep(restored=0.7), **FAST))["mlp[1]"]
    for key in ("ce", "ce_attn", "ce_mlp", "slope", "r2", "slope_lost", "r2_lost", "intercept"):
        assert last[key] == 0, key
    for key in ("ce_ci", "slope_ci", "slope_lost_ci", "r2_ci"):
        assert last[key] == [0, 0], key
    assert (last["p_null"], last["p_holm"], last["p_bh"], last["responders"]) == (1, 1, 1, [])


def test_means_slopes_and_fractions_by_hand(make_sweep):
    ds = make_sweep(restored=0.4, noise=0.5, missing=[2, 7])
    summary = summarise(ds, **FAST)
    assert (summary["donors"], summary["donors_min"]) == (3, 2)
    assert summary["warnings"] == ["2 of 40 prompts had fewer than 3 eligible donors"]
    for place, node in enumerate(summary["nodes"]):
        mean = {
            key: np.array([np.nanmean(ds[key].values[prompt, place].astype(float)) for prompt in range(40)])
            for key in ("te", "de", "ce", "norm")
        }
        for key, values in mean.items():
            assert node[key] == pytest.approx(values.mean(), abs=1e-6)
        clean = ds["clean_direct"].values[:, place].astype(float)
        repair = mean["ce"] + mean["norm"]
        assert node["clean_direct"] == pytest.approx(clean.mean())
        assert node["self_repair"] == pytest.approx(repair.mean(), abs=1e-6)
        assert node["pooled"] == pytest.approx(repair.sum() / -mean["de"].sum(), abs=1e-6)
        assert node["slope"] == pytest.approx(np.polyfit(clean, mean["ce"], 1)[0], abs=1e-6)
        assert node["slope_lost"] == pytest.approx(np.polyfit(-mean["de"], mean["ce"], 1)[0], abs=1e-6)
        assert node["slope_repair"] == pytest.approx(np.polyfit(clean, repair, 1)[0], abs=1e-6)
        assert node["r2_te"] == pytest.approx(np.corrcoef(clean, mean["te"])[0, 1] ** 2, abs=1e-6)
        assert node["above_drop"] == pytest.approx((clean > -mean["te"]).mean())
        assert node["slope"] == pytest.approx(node["slope_ce_attn"] + node["slope_ce_mlp"], abs=1e-9)
        assert node["ce"] == pytest.approx(node["ce_attn"] + node["ce_mlp"], abs=1e-9)
        for key in [key for key in node if key.endswith("_ci")]:
            low, high = node[key]
            assert low <= node[key.removesuffix("_ci")] <= high, key
    means = prompt_means(ds)
    lost, repair = -means["de"][:, [0, 2]].sum(1), means["self_repair"][:, [0, 2]].sum(1)
    pooled = summary["pooled"]["attn"]
    assert pooled["nodes"] == 2
    assert pooled["lost"] == pytest.approx(lost.mean())
    assert pooled["self_repair"] == pytest.approx(repair.sum() / lost.sum())
    assert pooled["self_repair"] == pytest.approx(pooled["ce_attn"] + pooled["ce_mlp"] + pooled["norm"])
    pairs = means["de"] < 0
    expected = (means["self_repair"][pairs] > 0).mean()
    assert summary["pooled"]["all"]["repaired_pairs"] == pytest.approx(expected)


def test_heads_count_as_attention(make_sweep):
    nodes = ["attn[0].head[0]", "attn[0].bias", "mlp[0]", "mlp[1]"]
    delta = np.zeros((40, 4, 1, 4))
    delta[..., :2] = [1.0, 2.0]
    delta[..., 3] = 5.0
    zeros = np.zeros((40, 4, 1))
    ds = make_sweep(ablation="zero", nodes=nodes, responders=nodes, delta_de=delta, te=zeros + 8, de=zeros, norm=zeros)
    node = summarise(ds, **FAST)["nodes"][0]
    assert (node["ce_attn"], node["ce_mlp"]) == (3, 5)


def test_closure_is_relative_to_the_larger_scale(make_sweep):
    ds = make_sweep(ablation="zero", dtype="float64").copy(deep=True)
    for key in ("te", "de", "ce", "norm", "residual", "delta_de"):
        ds[key].values[:] = 0
    ds["clean_logit"].values[:] = 2.0
    ds["residual"].values[3, 1, 0] = -1e-6
    assert closure(ds) == (pytest.approx(1e-6), pytest.approx(5e-7))
    ds["de"].values[3, 1, 0], ds["norm"].values[3, 1, 0] = -3.0, 1.0
    ds["delta_de"].values[3, 1, 0, :2] = [4.0, -2.0]
    assert closure(ds) == (pytest.approx(1e-6), pytest.approx(1e-7))
    assert closure(make_sweep(missing=[3]))[1] < 1e-6


def test_self_repair_is_what_the_direct_effect_does_not_explain(make_sweep):
    ds = make_sweep(restored=0.3)
    np.testing.assert_allclose(self_repair(ds), ds["te"] - ds["de"], atol=1e-5)
    assert self_repair(ds).attrs["units"] == ds["te"].attrs["units"]


@pytest.mark.parametrize("prompts", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("constant", [False, True])
def test_every_number_is_finite_and_json(make_sweep, prompts, constant):
    clean = np.ones((prompts, 4)) if constant else None
    ds = make_sweep(prompts=prompts, ablation="zero", restored=0.5, clean=clean)
    with pytest.warns(FewPromptsWarning, match=f"^{prompts} prompt") as caught:
        summary = summarise(ds, **FAST)
    assert len(caught) == 1
    assert np.isfinite(numbers(json.loads(json.dumps(summary, allow_nan=False)))).all()
    assert str(prompts) in summary["warnings"][0]
    assert len(findings(summary)) == 5


def test_a_number_that_is_not_finite_is_refused(make_sweep):
    with pytest.raises(NonFiniteError, match=r"summary\.wall_s is inf"):
        summarise(make_sweep(), wall_s=float("inf"), **FAST)


def test_the_seed_decides(make_sweep):
    ds = make_sweep(noise=1.0)
    assert summarise(ds, seed=3, **FAST) == summarise(ds, seed=3, **FAST)
    assert (
        summarise(ds, seed=3, **FAST)["nodes"][0]["slope_ci"] != summarise(ds, seed=4, **FAST)["nodes"][0]["slope_ci"]
    )


def test_a_random_pool_widens_what_the_donors_move(make_sweep):
    rng = np.random.default_rng(0)
    ds = make_sweep(prompts=60, noise=0.1).copy(deep=True)
    ds["te"].values += 2 * rng.normal(size=60)[ds["donor_index"].values][:, None, :].astype(np.float32)
    fixed, moved = (summarise(ds, pool=pool, **FAST) for pool in ("conditional", "random"))
    assert (fixed["pool"], moved["pool"]) == ("conditional", "random")
    for a, b in zip(fixed["nodes"], moved["nodes"], strict=True):
        for key in ("te", "slope", "pooled", "slope_lost"):
            assert a[key] == pytest.approx(b[key], abs=1e-6), key
        assert np.ptp(b["te_ci"]) > 1.15 * np.ptp(a["te_ci"])


def test_a_random_pool_may_reach_beyond_the_subset(make_sweep):
    ds = make_sweep(prompts=60, missing=[4]).isel(prompt=slice(0, 40))
    assert (ds["donor_index"].values >= 40).any()
    assert summarise(ds, pool="random", **FAST)["nodes"][0]["te"] == pytest.approx(
        summarise(ds, **FAST)["nodes"][0]["te"]
    )


def test_pools_are_checked(make_sweep):
    with pytest.raises(InputError, match="unknown pool 'randm'; did you mean 'random'"):
        summarise(make_sweep(), pool="randm")
    with pytest.raises(InputError, match="zero draws no donors"):
        summarise(make_sweep(ablation="zero"), pool="random")


def test_findings_can_say_that_there_is_none(make_sweep):
    said = findings(summarise(make_sweep(prompts=100, noise=1.0), **FAST))
    assert said[0].startswith("No compensation: at none of 4 nodes (resample ablation, 100 prompts, 3 donors each)")


def test_findings_name_the_strongest_and_its_source(make_sweep):
    summary = summarise(make_sweep(prompts=100, restored=0.6, noise=0.1), **FAST)
    first, second, *_, last = findings(summary)
    best = max(summary["nodes"], key=lambda node: node["slope"])
    assert first.startswith("Compensation at 3 of 4 nodes")
    assert f"the steepest is {best['name']}, slope {best['slope']:.2f} (95 % interval" in first
    assert f"mean response {best['ce']:.2f}" in first
    assert "the largest part from mlp[1]" in first
    assert f"{100 * summary['pooled']['all']['self_repair']:.1f} %" in second
    assert "comes back" in second
    assert f"{summary['closure_max_abs']:.1e} logits" in last


def test_a_response_that_grows_but_takes_away_is_no_net_compensation(make_sweep):
    """Slope 0.6, but 2 logits below 0 throughout."""
    rng = np.random.default_rng(0)
    ds = make_sweep(prompts=100, restored=0.6, noise=0.1, clean=rng.normal(0.5, 1.0, size=(100, 4))).copy(deep=True)
    for key, columns in (("delta_de", np.s_[..., :-1, :, -1]), ("ce", np.s_[:, :-1]), ("te", np.s_[:, :-1])):
        ds[key].values[columns] -= 2
    first = findings(summarise(ds, **FAST))[0]
    assert first.startswith("No net compensation: at 3 of 4 nodes")
    assert "at none of them is it above 0 on average" in first


def test_findings_tell_breakage_from_repair(make_sweep):
    summary = summarise(make_sweep(prompts=100, restored=-0.6, noise=0.1), **FAST)
    first, second, *_, last = findings(summary)
    assert first.startswith("No compensation")
    assert "at 3 the response falls with it (breakage)" in first
    share = -100 * summary["pooled"]["all"]["self_repair"]
    assert f"{share:.1f} %" in second
    assert "is lost on top (breakage)" in second
    assert f"{100 * summary['pooled']['all']['repaired_pairs']:.1f} %" in last


def test_findings_refuse_a_share_of_nothing(make_sweep):
    rng = np.random.default_rng(0)
    ds = make_sweep(prompts=100, clean=rng.normal(0.0, 1.0, size=(100, 4)))
    assert "cannot be told from 0: no share of it is given" in findings(summarise(ds, **FAST))[1]


def test_findings_take_a_dataset_too(make_sweep):
    assert findings(make_sweep(restored=0.5))[0].startswith("Compensation at 3 of 4 nodes")


def test_enough_prompts_do_not_warn(make_sweep):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert summarise(make_sweep(prompts=30), **FAST)["warnings"] == []


def test_a_share_stays_between_0_and_1(make_sweep):
    """Repair in two of forty prompts, and in none but for rounding."""
    ds = make_sweep(ablation="zero").copy(deep=True)
    for key in ("ce", "norm", "residual", "delta_de"):
        ds[key].values[:] = 0
    ds["de"].values[:] = -1
    ds["norm"].values[:] = 1e-9
    ds["te"].values[:] = -1
    assert summarise(ds, **FAST)["pooled"]["all"]["repaired_pairs"] == 0
    ds["norm"].values[:2] = 0.5
    pooled = summarise(ds, **FAST)["pooled"]["all"]
    assert pooled["repaired_pairs"] == pytest.approx(0.05)
    low, high = pooled["repaired_pairs_ci"]
    assert 0 <= low < 0.05 < high <= 1


def test_findings_name_what_is_restored_and_where(make_sweep):
    """Eight layers: the later half gets back half of what it loses, the earlier half loses half as much again."""
    rng = np.random.default_rng(0)
    prompts, nodes = 60, [f"attn[{layer}]" for layer in range(8)]
    clean = rng.normal(2, 0.2, size=(prompts, 8))
    gain = np.where(np.arange(8) < 4, -0.5, 0.5)
    de, norm = -clean[..., None], 0.0 * clean[..., None]
    delta = (gain * clean)[..., None, None]
    arrays = {"de": de, "norm": norm, "delta_de": delta, "te": de + delta.sum(-1), "clean_direct": clean}
    given = {"nodes": nodes, "responders": ["mlp[7]"], "clean_responder": clean[:, :1]}
    ds = make_sweep(prompts=prompts, ablation="zero", **arrays, **given)
    _, _, restored, shape, _ = findings(summarise(ds, **FAST))
    assert restored.startswith(
        "Of the 8 nodes whose ablation clearly removes logit directly, TE − DE is above 0 (restored) at 4"
    )
    assert all(name in restored for name in nodes)
    assert "below 0 (breakage) at 4" in restored
    assert restored.endswith("at none it cannot be told from 0.")
    assert "holds: of the nodes" in shape
    assert (
        "4 of 4 in the later half of the 8 layers are restored and 0 break further; in the earlier half 0 of 4 and 4."
        in shape
    )
    turned = ds.copy(deep=True)
    turned["te"].values[:] = turned["te"].values[:, ::-1]
    for key in ("ce", "delta_de", "de", "clean_direct"):
        turned[key].values[:] = turned[key].values[:, ::-1]
    assert "does not hold: " in findings(summarise(turned, **FAST))[3]
    nothing = make_sweep(prompts=60, clean=rng.normal(0.0, 1.0, size=(60, 4)))
    assert findings(summarise(nothing, **FAST))[2].startswith("At no node can it be told")
