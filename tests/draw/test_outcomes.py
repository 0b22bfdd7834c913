"""Sweeps of other outcomes: their own words and units everywhere, and no picture of responders that there are not."""

import shutil

import numpy as np
import pytest
from matplotlib.text import Text

from causalnet import draw
from causalnet.draw.display import dataset_html
from causalnet.effects import findings, summarise
from causalnet.effects.schema import sweep_dataset
from causalnet.errors import InputError
from causalnet.graph import Block, CausalGraph

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WHOLE = {
    "ce_vs_direct": draw.ce_vs_direct,
    "best_layer": draw.best_layer,
    "slopes": draw.slopes,
    "explained": draw.explained,
    "impact": lambda data, _: draw.impact(data),
    "donor_convergence": lambda data, _: draw.donor_convergence(data),
    "drop_vs_direct": lambda data, _: draw.drop_vs_direct(data),
    "waterfall": lambda data, _: draw.waterfall(data),
}
SINGLE = {"coupling": draw.coupling, "by_responder_kind": draw.by_responder_kind, "example": draw.example}


def reread(data, outcome, curved):
    """The same numbers as if another outcome had been read."""
    names = [] if curved else data["responder"].values.tolist()
    kept = {name: data[name].values for name in ("te", "de", "ce", "norm", "clean_direct", "clean_logit", "target_id")}
    return sweep_dataset(
        **kept, delta_de=data["delta_de"].values[..., : len(names)],
        clean_responder=data["clean_responder"].values[:, : len(names)], target=data["target"].values.tolist(),
        text=data["text"].values.tolist(), nodes=data["node"].values.tolist(), responders=names,
        donor_index=data["donor_index"].values, model="synthetic", ablation="resample",
        expression=f"TE(attn[0]@last = resample; {outcome})",
        run={"versions": {}, "seed": 0, "dtype": "float32", "device": "cpu", "arguments": {}},
    )  # fmt: skip


@pytest.fixture(scope="module")
def curved(make_sweep):
    return reread(make_sweep(prompts=32), "logprob(target)", True)


@pytest.fixture(scope="module")
def contrast(make_sweep):
    return reread(make_sweep(prompts=32), "logit_diff(3, 5)", False)


def written_in(axes):
    figure = (axes if not isinstance(axes, list) else axes[0]).figure
    return [one.get_text() for one in figure.findobj(Text)]


@pytest.mark.parametrize("name", WHOLE)
def test_figures_of_a_curved_outcome_are_in_its_units(curved, name, tmp_path):
    summary = summarise(curved, bootstrap=49, permutations=49)
    axes = WHOLE[name](curved, summary)
    words = " ".join(written_in(axes))
    assert "nats" in words and "logprob(target)" in words and "logit" not in words.replace("logprob", "")
    assert "CE\n(all later)" in words or name != "waterfall"
    assert draw.save(axes, tmp_path / "figure.svg").stat().st_size > 2000


@pytest.mark.parametrize("name", SINGLE)
def test_figures_of_single_responders_are_refused_without_any(curved, name):
    with pytest.raises(InputError, match=r"compensatory effect on logprob\(target\) is no sum over responders"):
        SINGLE[name](curved)


def test_a_contrast_is_named_and_keeps_its_responders(contrast):
    assert "logit_diff(3, 5) (logits)" in written_in(draw.impact(contrast))
    assert "effect on logit_diff(3, 5) (logits)" in written_in(draw.waterfall(contrast))
    assert any("raises logit_diff(3, 5)" in text.replace("\n", " ") for text in written_in(draw.impact(contrast)))
    draw.coupling(contrast)
    assert not any("target" in sentence for sentence in findings(summarise(contrast, bootstrap=49, permutations=49)))


def test_variants_of_mixed_units_say_so(make_sweep, curved):
    both = {"logit": summarise(make_sweep(prompts=32), bootstrap=49, permutations=49)}
    both["logprob"] = summarise(curved, bootstrap=49, permutations=49)
    axes = draw.variants("outcome", both, ("te", "slope"))
    assert [axis.get_ylabel() for axis in axes[:2]] == ["TE (each in its own units)", "slope of CE on direct effect"]
    alike = draw.variants("outcome", {"a": both["logprob"], "b": both["logprob"]}, ("te",))
    assert alike[0].get_ylabel() == "TE (nats)"


def test_the_graph_has_no_arrows_and_says_why(curved, contrast):
    graph = CausalGraph.from_blocks([Block(layer) for layer in range(6)])
    dot = draw.draw(graph, curved, node="attn[2]").dot
    assert "no arrows: the compensation in logprob(target) is no sum over responders" in dot
    assert "in the natural world, nats" in dot and 'class="flow"' not in dot and "class=flow" not in dot
    dot = draw.draw(graph, contrast, node="attn[2]").dot
    assert "no arrows" not in dot and "class=flow" in dot and " logits" in dot


def test_a_notebook_shows_the_units(curved):
    assert "logprob(target), nats" in dataset_html(curved)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt install chromium)")
def test_the_page_follows_the_outcome_that_is_chosen(make_sweep, curved, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    data = make_sweep(prompts=32)
    told = {name: summarise(one, bootstrap=49, permutations=49) for name, one in (("main", data), ("log", curved))}
    arm = draw.Arm("plain", data, told["main"], CausalGraph.from_blocks([Block(layer) for layer in range(6)]))
    run = draw.Run((arm,), None, {"outcome": [draw.Variant("logprob_target", told["log"], curved)]})
    path = draw.report(run, tmp_path / "report.html")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(path.as_uri())
        seen = lambda id: page.is_visible(f"#{id}")  # noqa: E731
        parts = ("responders", "coupling", "responder-table")
        assert all(map(seen, parts)) and not seen("whole")
        assert "changes the target's logit by" in page.inner_text("#said")
        page.select_option("#set", "1")
        assert not any(map(seen, parts))
        assert "in logprob(target) is known as a whole" in page.inner_text("#whole")
        assert "changes logprob(target) by" in page.inner_text("#said")
        assert page.inner_text("#leaders") == ""
        assert "effect (nats)" in page.text_content("#sum") and "logprob(target) (nats)" in page.text_content("#impact")
        assert "CEMLP" not in page.text_content("#sum").replace("\n", "").replace(" ", "")
        assert page.locator("#graph path.flow").count() == 0 and page.locator("#graph .box.faded").count() == 0
        hint = page.get_attribute('#graph .box[data-node="mlp[4]"]', "aria-label")
        assert " nats, nothing ablated" in hint and "not known by itself" in hint
        place = told["log"]["nodes"][curved["node"].values.tolist().index("attn[3]")]
        page.click('#graph .box[data-node="attn[3]"]')
        shown = f"{abs(place['te']):.2f}"
        assert shown in page.inner_text("#said")
        page.select_option("#quantity-0", "te")
        assert "TE (each in its own units)" in page.text_content("#family-0")
        assert "logprob_target (nats)" in page.inner_text("#family-legend-0")
        page.select_option("#set", "0")
        assert all(map(seen, parts)) and not seen("whole")
        browser.close()
    assert not problems
    assert np.isfinite(place["te"])
