"""A model on prompts: every estimand in a line, labelled, and the same numbers as the queries that define it."""

import io

import numpy as np
import pytest

import causalnet as cn
from causalnet import CE, DE, NORM, TE, E, attn, desc, do, last, logit, mean, mlp, norm, resample, target, zero
from causalnet.effects import summarise, validate
from causalnet.effects.statistics import donor_convergence, ratio_interval
from causalnet.errors import DataError, ExpressionError, InputError, UnknownNameError
from causalnet.graph import Node

pytestmark = pytest.mark.filterwarnings("ignore::causalnet.effects.FewPromptsWarning")

S = attn[1] @ last << resample


@pytest.fixture(scope="module")
def on(small, prompts):
    return small.on(prompts, donors=2, seed=3)


def test_evaluate_is_the_short_form(small, prompts, on):
    short, long = small.evaluate(TE(S), prompts, donors=2, seed=3), on.evaluate(TE(S))
    assert short.units_table.tolist() == long.units_table.tolist()
    assert short.ci == long.ci and short.run == long.run
    several = on.evaluate([TE(S), "DE(attn[1]@last = resample)"])
    assert [one.expression for one in several] == [str(TE(S)), str(DE(S))]


def test_natural_effects(on, by_hand, small, prompts):
    found = on.natural_effects(S)
    assert list(found) == ["TE", "NDE", "NIE", "TDE", "TIE", "INTmed"]
    for name in ("TE", "NDE", "NIE", "TDE", "TIE"):
        table, _ = by_hand(small, f"{name}({S})", prompts, donors=2, seed=3)
        np.testing.assert_allclose(found[name].units_table, table[:, : found[name].units_table.shape[1]], atol=1e-6)
    value = {name: one.value for name, one in found.items()}
    assert value["TE"] == pytest.approx(value["NDE"] + value["TIE"], abs=1e-6)
    assert value["INTmed"] == pytest.approx(value["TE"] - value["NDE"] - value["NIE"], abs=1e-6)
    assert on.natural_effects(str(S))["TE"].value == value["TE"]


def test_four_way(on):
    found = on.four_way(S, held=[(desc(attn[1]) - norm) << mean])
    total = sum(found[name].units_table for name in ("CDE", "INTref", "INTmed", "PIE"))
    np.testing.assert_allclose(found["TE"].units_table, total, atol=1e-6)
    alone = on.controlled_direct(S, held=["(desc(attn[1]) - norm) = mean"])
    assert alone.units_table.tolist() == found["CDE"].units_table.tolist()


def test_paths(on, small):
    every = on.path_specific(S, edges=small.graph.edges())
    np.testing.assert_allclose(every.units_table, on.evaluate(TE(S)).units_table, atol=1e-5)
    one = on.path_specific(attn[1].head[0] @ last << zero, edges=["attn[1].head[0] -> logits"])
    direct = on.evaluate(DE(attn[1].head[0] @ last << zero))
    np.testing.assert_allclose(one.units_table, direct.units_table, atol=1e-5)


def test_interaction(on):
    found = on.interaction(attn[1] @ last << zero, mlp[2] @ last << zero)
    assert list(found) == ["joint", "attn[1]@last = zero", "mlp[2]@last = zero", "interaction"]
    assert found["interaction"].value == pytest.approx(
        found["joint"].value - found["attn[1]@last = zero"].value - found["mlp[2]@last = zero"].value, abs=1e-6
    )


@pytest.mark.parametrize("s", [[S], [attn[1] @ last << zero, mlp[2] @ last << resample]], ids=["one", "joint"])
def test_split(on, s):
    found = on.split(*s)
    te, de, ce, own = on.evaluate([TE(*s), DE(*s), CE(*s), NORM(*s)])
    for name, one in {"TE": te, "DE": de, "CE": ce, "NORM": own}.items():
        np.testing.assert_allclose(found[name].units_table, one.units_table, atol=1e-9)
        assert found[name].value == pytest.approx(one.value) and found[name].ci == pytest.approx(one.ci)
        assert found[name].donor_index.tolist() == one.donor_index.tolist()
        assert found[name].texts == one.texts and found[name].target_texts == one.target_texts
    responders = [name for name in found if name not in ("TE", "DE", "CE", "NORM", "self-repair")]
    assert responders == [str(node) for node in found.units.responders]
    np.testing.assert_allclose(sum(found[name].units_table for name in responders), ce.units_table, atol=1e-5)
    np.testing.assert_allclose(found["self-repair"].units_table, (te.units_table - de.units_table), atol=1e-9)
    assert np.nanmax(np.abs(found.units.residual)) < 1e-5
    assert "closure by two routes" in str(found)


def test_a_curved_outcome_splits_by_worlds(on):
    found = on.split(S, outcome=cn.logprob(target))
    assert list(found) == ["TE", "DE", "CE", "NORM", "self-repair"]
    assert found["TE"].units == cn.logprob(target).units and "by worlds alone" in str(found)


def test_self_repair(on):
    found = on.self_repair(S)
    back, lost = found["self-repair"].units_table, found["lost"].units_table
    assert found["pooled"].value == pytest.approx(np.nanmean(back, 1).sum() / np.nanmean(lost, 1).sum())
    interval = ratio_interval(np.nanmean(back, 1), np.nanmean(lost, 1), seed=3)
    assert found["pooled"].ci == pytest.approx((float(interval.low), float(interval.high)))
    assert found["mean of ratios"].value == pytest.approx(np.nanmean(np.nanmean(back / lost, 1)))
    assert "ratio of sums" in str(found)


def test_the_built_in_compensation_is_measured_from_the_face():
    from causalnet.testing.crafted import compensating_gpt2

    model = cn.compile(
        compensating_gpt2(0.7, layers=1), tokenizer=lambda text: {"input_ids": [ord(letter) - 97 for letter in text]}
    )
    texts = ["abc", "def", "ghi", "bdf", "hij", "klm", "aei", "mno", "cgk", "bfj"]
    on = model.on(texts)
    found = on.split(attn[0] @ last << zero)
    np.testing.assert_allclose(found["CE"].units_table, -0.7 * found["DE"].units_table, atol=1e-12)
    for share in (-found["CE"].value / found["DE"].value, -found["mlp[0]"].value / found["DE"].value):
        assert share == pytest.approx(0.70, abs=1e-12)
    data = on.compensation(zero)
    one = data.sel(node="attn[0]", responder="mlp[0]")
    np.testing.assert_allclose(one["delta_de"], found["mlp[0]"].units_table, atol=1e-6)


@pytest.mark.parametrize("pool", ["random", "conditional"])
def test_a_pool_that_is_a_sample(small, prompts, pool):
    on = small.on(prompts, donors=2, pool="random" if pool == "random" else None)
    found = on.self_repair(S)
    covers = "over prompts and donors" if pool == "random" else "conditional on the donor pool"
    assert {one.estimand for one in found.values()} == {covers}
    assert found["self-repair"].ci == on.evaluate(f"TE({S}) - DE({S})").ci
    low, high = found["pooled"].ci
    assert low < found["pooled"].value < high


def test_compensation_of_the_whole_graph(on):
    data = on.compensation()
    validate(data)
    assert data["te"].dims == ("prompt", "node", "donor") and len(data["node"]) == 8
    split = on.split(S)
    cell = data.sel(node="attn[1]")
    np.testing.assert_allclose(cell["te"], split["TE"].units_table, atol=1e-5)
    np.testing.assert_allclose(cell.sel(responder="mlp[2]")["delta_de"], split["mlp[2]"].units_table, atol=1e-5)
    assert data["donor_index"].values.tolist() == split["TE"].donor_index.tolist()
    assert {"p_null", "p_holm", "p_bh", "slope_ci"} <= set(summarise(data, bootstrap=99, permutations=99)["nodes"][0])
    few = on.compensation(zero, nodes=["attn[1]", Node("mlp", 2)])
    assert few["node"].values.tolist() == ["attn[1]", "mlp[2]"]
    with pytest.raises(InputError, match="every node"):
        on.compensation(cn.under(do(attn[0] << zero)))


def test_shapley(on):
    found = on.shapley(S)
    te, de = on.evaluate([TE(S), DE(S)])
    np.testing.assert_allclose(
        sum(one.units_table for one in found.values()), te.units_table - de.units_table, atol=1e-9
    )
    assert "exact, " in str(found) and found.units.method == "exact"
    grouped = on.shapley(S, players={"late": ["attn[3]", "mlp[3]"]}, norm="held")
    assert list(grouped) == ["late", "rest"]
    sampled = on.shapley(S, exact_up_to=2, samples=4)
    assert "standard error of a unit's share" in str(sampled)
    assert set(on.shapley(S, outcome=cn.kl)) == set(found)


def test_responsibility(on):
    held = on.evaluate(E[logit(target)]).values.min() - 1
    found = on.responsibility("attn[0:2]@last = zero", event=cn.Event(logit(target), above=float(held)))
    assert list(found) == ["attn[0]@last", "attn[1]@last"]
    assert all(0 <= one.value <= 1 for one in found.values())
    assert found.units.responsibility.shape[0] == 5
    with pytest.raises(InputError, match="true in no unit"):
        on.responsibility(attn[0] @ last << zero, event=cn.Event(logit(target), above=1e9))


@pytest.mark.parametrize("method", ["attribution patching", "integrated gradients", "AtP*"])
def test_approximations_stand_beside_the_exact(on, method):
    some = [attn[1] @ last << resample, mlp[2] @ last << zero]
    found = on.approximate(some, method=method, steps=3)
    np.testing.assert_allclose(found.exact[..., 0], on.evaluate(TE(some[0])).units_table, atol=1e-9)
    table = found.to_dataframe()
    assert table.columns.tolist() == ["exact", "estimate", "error", "self_repair"]
    assert table.index.tolist() == [str(one) for one in some]
    assert found.to_dataset()["estimate"].dims == ("prompt", "donor", "intervention")
    assert method.split()[0].casefold() in str(found).casefold()


def test_edges_and_every_layer_are_approximated(on):
    edges = on.approximate({"into": attn[0] @ last >> mlp[1] << resample, "out": "mlp[1]@last -> logits = zero"})
    assert edges.names == ("into", "out")
    assert len(on.approximate().names) == 8
    whole = {"a": attn[1] << resample, "b": mlp[0] << resample}
    with pytest.raises(InputError, match="method 'eap'"):
        on.approximate(whole, method="eap")


def test_tables(on, tmp_path):
    found = on.natural_effects(S)
    table = found.to_dataframe()
    assert table.loc["TE", "value"] == found["TE"].value and table.loc["NDE", "low"] == found["NDE"].ci[0]
    data = found.to_dataset()
    np.testing.assert_array_equal(data["NIE"].sel(prompt=1), found["NIE"].units_table[1])
    assert data["TE"].attrs["expression"] == str(TE(S))
    again = cn.Effects.load(found.save(tmp_path / "effects.json"))
    assert str(again) == str(found) and again["TIE"].run == found["TIE"].run
    lines = str(found).splitlines()
    assert lines[0] == str(S) and lines[1].split()[0] == "TE" and "95 % intervals (conditional" in lines[7]
    assert "<table" in found._repr_html_() and "attn[1]@last" in found._repr_html_()
    with pytest.raises(UnknownNameError, match="did you mean 'NDE'"):
        found["NDEE"]
    assert "NDE" in found and "nope" not in found and len(found) == 6
    with pytest.raises(DataError, match="schema"):
        cn.Effects.load(found["TE"].save(tmp_path / "one.json"))
    mixed = on.split(S).to_dataset()
    assert mixed["TE"].sizes["donor"] == mixed["DE"].sizes["donor"]


def test_one_result(on):
    found = on.evaluate(TE(S))
    table = found.to_dataframe()
    assert table.columns.tolist() == ["prompt", "text", "target", "donor", "donor_index", "value"]
    assert table["value"].tolist() == found.units_table[~np.isnan(found.units_table)].tolist()
    settled = found.convergence()
    assert settled.estimate.tolist() == donor_convergence(found.units_table).estimate.tolist()
    assert settled.estimate[-1] == pytest.approx(found.value)
    assert "<" in found._repr_html_() and "TE(attn[1]@last" in found._repr_html_()
    assert on.evaluate(TE(attn[1] @ last << zero)).to_dataframe()["donor_index"].tolist() == [-1] * 5


def test_rich_prints_the_same_words(on):
    from rich.console import Console

    for shown in (on.evaluate(TE(attn[0] @ last << zero)), on.natural_effects(attn[0] @ last << zero)):
        console = Console(record=True, width=300, file=io.StringIO())
        console.print(shown)
        assert [line.rstrip() for line in console.export_text().splitlines()] == str(shown).splitlines()


def test_what_cannot_be_asked(small, prompts, on):
    with pytest.raises(InputError, match="unknown option 'donor'"):
        small.on(prompts, donor=3)
    with pytest.raises(ExpressionError, match="nothing is set"):
        on.split()
    with pytest.raises(ExpressionError, match="sets nothing"):
        on.split(attn[1])
    two = small.on(["Mary saw Tom", "Ann met John", "the key to Rome", "the lamp in Paris"], same_target_donors=True)
    with pytest.raises(InputError, match="draw differently"):
        two.approximate([attn[1] << resample, S])
    assert repr(on) == "Prompted(llama: 5 prompts, target argmax)"


@pytest.mark.parametrize(
    "outcome", [cn.kl, cn.entropy, cn.rank(target), cn.prob(target), cn.logit_diff("Mary", "Tom")], ids=str
)
def test_every_estimand_of_any_outcome(small, prompts, outcome):
    on, s = small.on(prompts), mlp[1] @ last << zero
    e = {name: one.units_table for name, one in on.natural_effects(s, outcome=outcome).items()}
    split = {name: one.units_table for name, one in on.split(s, outcome=outcome).items()}
    parts = on.four_way(s, held=[(desc(mlp[1]) - norm) << mean], outcome=outcome)
    shares = on.shapley(s, outcome=outcome)
    every = on.path_specific(s, edges=small.graph.edges(), outcome=outcome)
    both = on.interaction(s, attn[2] @ last << zero, outcome=outcome)
    close = {"atol": 1e-5}
    np.testing.assert_allclose(e["TE"], e["NDE"] + e["TIE"], **close)
    np.testing.assert_allclose(e["TE"], split["DE"] + split["CE"] + split["NORM"], **close)
    np.testing.assert_allclose(e["TE"], sum(parts[name].units_table for name in list(parts)[1:]), **close)
    np.testing.assert_allclose(e["TE"] - e["NDE"], sum(one.units_table for one in shares.values()), **close)
    np.testing.assert_allclose(e["TE"], every.units_table, **close)
    np.testing.assert_allclose(e["TE"], both[str(s)].units_table, **close)
    units = {one.units for found in (parts, shares, both) for one in found.values()} | {every.units}
    assert units == {outcome.units}
    assert np.abs(e["TE"]).max() > 1e-4 or outcome.name == "rank"


def test_few_prompts_are_warned_of_at_the_line_that_asks(on):
    for ask in (lambda: on.evaluate(TE(S)), lambda: on.natural_effects(S), lambda: on.split(S)):
        with pytest.warns(cn.FewPromptsWarning) as told:
            ask()
        assert [one.filename for one in told] == [__file__]
