"""The report in a real browser: what is shown after each choice is what the data set holds."""

import json
import shutil

import numpy as np
import pytest

from causalnet.draw import Arm, Run, Variant, report
from causalnet.draw.layout import arc, lay_out
from causalnet.effects.statistics import participation_ratio
from causalnet.graph import Block, CausalGraph

sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (Debian: apt install chromium), so no browser can be driven"
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


def written(value, digits=2):
    """Format a number as the page does."""
    text = f"{abs(float(value)):.{digits}f}"
    return text if float(text) == 0 else ("−" if value < 0 else "+") + text


def read(text):
    return float(text.replace("−", "-").replace("%", ""))


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def arms(make_sweep, make_summary, nasty):
    found = []
    for seed, name in enumerate(("plain", "dropped")):
        texts = [f"prompt number {one}" for one in range(29)] + [nasty]
        data = make_sweep(prompts=30, seed=seed, texts=texts, parallel=seed == 1)
        blocks = [Block(layer, parallel=seed == 1) for layer in range(6)]
        found.append(Arm(name, data, make_summary(data), CausalGraph.from_blocks(blocks), ("What was found.",)))
    return found


@pytest.fixture(scope="module")
def path(tmp_path_factory, arms, make_sweep, make_summary, nasty):
    zero = make_sweep(prompts=30, donors=1, seed=3)
    variants = {"ablation (dropped)": [Variant("zero", make_summary(zero), zero), Variant("mean", make_summary(zero))]}
    run = Run(
        tuple(arms), {"findings": ["They differ."]}, variants, {"long": [["node", nasty], ["attn[0]", "0.12345"]]}
    )
    return report(run, tmp_path_factory.mktemp("explorer") / "report.html", title=nasty)


@pytest.fixture
def opened(browser, path):
    """Return a function that opens the page; what it logs or asks for beside itself fails the test."""
    contexts, trouble = [], []

    def call(width=1280, scheme="light", file=path):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda request: trouble.append(request.url) if request.url != file.as_uri() else None)
        page.goto(file.as_uri())
        return page

    yield call
    for context in contexts:
        context.close()
    assert trouble == []


def means(data, node, prompt=None):
    one = data.sel(node=node).mean("donor")
    return one.mean("prompt") if prompt is None else one.isel(prompt=prompt)


def assert_shown(page, data, node, prompt=None):
    """Compare everything that the explorer shows of one ablation with the data set."""
    wanted = means(data, node, prompt)
    assert page.inner_text("#chosen").startswith(f"{node} ablated")
    said = page.inner_text("#said")
    assert f"logit by {written(wanted['te'])}" in said
    for word, name in (("direct", "de"), ("compensation", "ce"), ("norm", "norm")):
        assert f"{word} {written(wanted[name])}" in said
    assert page.text_content("#graph .ends").count(f"TE {written(wanted['te'])}") == 1
    rows = page.locator("#responder-table tbody tr")
    table = [[cell.strip() for cell in row.split("\t")] for row in rows.all_inner_texts()]
    shown = {row[0]: read(row[1]) for row in table}
    delta = wanted["delta_de"].astype(float)
    for name, value in zip(data["responder"].values, delta.values, strict=True):
        assert shown.get(str(name), 0.0) == pytest.approx(value, abs=0.0011), name
    sizes = [abs(value) for value in shown.values()]
    assert sizes == sorted(sizes, reverse=True)
    if len(sizes) and (prompt is None or len(sizes) == int((delta != 0).sum())):
        assert f"About {float(participation_ratio(delta.values)):.1f} responders" in page.inner_text("#leaders")
    label = page.get_attribute(f'.box[data-node="{node}"]', "aria-label")
    assert f"direct effect {written(wanted['clean_direct'], 3)}" in label or prompt is not None
    assert page.get_attribute(f'.box[data-node="{node}"]', "aria-pressed") == "true"


def test_a_click_ablates_a_node(opened, arms):
    page = opened()
    for node in ("mlp[1]", "attn[4]", "attn[0]"):
        page.click(f'.box[data-node="{node}"]')
        assert_shown(page, arms[0].data, node)


def test_arrows_lead_to_the_strongest_responders(opened, arms):
    page = opened()
    page.click('.box[data-node="attn[2]"]')
    delta = abs(means(arms[0].data, "attn[2]")["delta_de"])
    wanted = {str(name) for name in delta["responder"].values[(delta >= 0.05 * delta.max()).values]}
    shown = page.eval_on_selector_all("path.flow", "all => all.map(one => one.dataset.responder)")
    assert set(shown) <= wanted
    assert len(shown) == min(len(wanted), 10)
    assert page.locator(".wires g.cut").count() == 1
    # The arrow runs where the drawn graphs have it, y pointing down.
    slots = lay_out(arms[0].graph.blocks, [0] * 6).slots
    target = next(name for name in shown if name.startswith("attn"))
    drawn = page.get_attribute(f'path.flow[data-responder="{target}"]', "d")
    numbers = [float(one) for one in drawn.replace("M", "").replace("C", ",").split(",")]
    points = arc(slots["attn", 2], slots["attn", int(target[5:-1])], head=7)
    assert numbers == pytest.approx([value for x, y in points for value in (x, -y)], abs=0.01)


def test_the_slider_and_the_arrow_keys_go_through_the_layers(opened, arms):
    page = opened()
    page.click('.box[data-node="attn[1]"]')
    page.focus("#layer")
    page.keyboard.press("ArrowRight")
    assert_shown(page, arms[0].data, "attn[2]")
    page.keyboard.press("End")
    assert_shown(page, arms[0].data, "attn[5]")
    page.check("input[value=mlp]")
    assert_shown(page, arms[0].data, "mlp[5]")
    page.focus('.box[data-node="mlp[5]"]')
    for key, node in (("ArrowUp", "mlp[4]"), ("ArrowLeft", "attn[4]"), ("ArrowDown", "attn[5]"), ("Home", "attn[0]")):
        page.keyboard.press(key)
        assert_shown(page, arms[0].data, node)
        assert page.evaluate("document.activeElement.dataset.node") == node


def test_a_prompt_and_a_model_are_chosen(opened, arms):
    page = opened()
    page.click('.box[data-node="attn[3]"]')
    page.select_option("#prompt", "7")
    assert_shown(page, arms[0].data, "attn[3]", prompt=7)
    assert "“prompt number 7” → “out”" in page.inner_text("#prompt-text")
    page.click("#next")
    assert_shown(page, arms[0].data, "attn[3]", prompt=8)
    page.select_option("#set", label="dropped")
    assert_shown(page, arms[1].data, "attn[3]", prompt=8)
    page.select_option("#prompt", "")
    assert_shown(page, arms[1].data, "attn[3]")
    # In the parallel model the layer's own MLP does not respond.
    assert "not downstream" in page.get_attribute('.box[data-node="mlp[3]"]', "aria-label")


def test_a_variant_is_chosen_and_has_no_prompts(opened, arms, make_sweep):
    page = opened()
    page.select_option("#set", label="ablation (dropped): zero")
    page.click('.box[data-node="attn[2]"]')
    assert_shown(page, make_sweep(prompts=30, donors=1, seed=3), "attn[2]")
    assert page.is_disabled("#prompt")
    assert page.is_hidden("#scatter")
    page.select_option("#set", label="plain")
    assert page.is_visible("#scatter")
    wide = page.locator("#scatter").evaluate("place => place.clientWidth")
    assert page.locator("#scatter svg").get_attribute("width") == str(wide)
    assert page.locator("#family-legend-0 li").all_inner_texts() == ["main run", "zero", "mean"]
    head, zero = (page.locator("#variants tbody tr").nth(at).inner_text().split("\t") for at in (0, 1))
    best = max(arms[1].summary["nodes"], key=lambda row: row["slope"])
    assert [one.strip() for one in head[:5]] == ["main run", "12", "30", written(best["slope"], 3), best["name"]]
    assert zero[0].strip() == "zero"
    assert "0.1235" in page.locator("#numbers details .table").first.text_content()


def test_many_variants_have_one_colour_and_few_are_explored(opened, tmp_path, monkeypatch, arms, make_sweep):
    from causalnet.draw import page as module

    monkeypatch.setattr(module, "_VARIANT_BYTES", 9 * 12 * 12 * 2)
    data = make_sweep(prompts=30, donors=1, seed=3)
    many = {"strata": [Variant(f"relation={one}", arms[0].summary, data) for one in range(12)]}
    page = opened(file=report(Run((arms[0],), None, many), tmp_path / "report.html"))
    assert page.locator("#family-legend-0 li").all_inner_texts() == ["13 variants: the pointer names each"]
    assert page.locator("#set option").count() == 3
    assert "Of 12 variants 2 can be chosen; the others" in page.inner_text("#explore")
    assert page.locator("#variants tbody tr").count() == 13


def test_prompts_are_listed_sorted_and_chosen_from_the_list(opened, arms):
    page = opened()
    page.click("#prompts > summary")
    page.click("#prompt-table th:nth-child(5) button")
    effects = [read(one) for one in page.locator("#prompt-table tbody td:nth-child(5)").all_inner_texts()]
    node = page.get_attribute(".box.chosen", "data-node")
    wanted = arms[0].data["te"].sel(node=node).mean("donor").values
    assert effects == pytest.approx(sorted(wanted, reverse=True), abs=0.0011)
    page.click("#prompt-table th:nth-child(5) button")
    assert page.get_attribute("#prompt-table th:nth-child(5)", "aria-sort") == "ascending"
    page.click("#prompt-table tbody tr:first-child button")
    assert page.input_value("#prompt") == str(int(np.argmin(wanted)))


def test_a_table_is_copied_as_text(opened, arms):
    page = opened()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#numbers button.copy").first.click()
    page.wait_for_function("document.querySelector('#numbers button.copy').textContent === 'Copied'")
    lines = page.evaluate("navigator.clipboard.readText()").splitlines()
    row = arms[0].summary["nodes"][0]
    assert lines[0].split("\t")[:3] == ["node", "TE", "DE"]
    assert lines[1].split("\t")[:2] == ["attn[0]", f"{row['te']:+.3f}"]


def test_numbers_are_hinted_under_the_pointer(opened, arms):
    page = opened()
    page.click('.box[data-node="attn[2]"]')
    page.hover('.box[data-node="mlp[4]"]')
    delta = means(arms[0].data, "attn[2]")["delta_de"].sel(responder="mlp[4]")
    assert f"ΔDE {written(delta, 3)} logits when attn[2] is ablated" in page.inner_text("#hint")


def test_charts_choose_too(opened, arms):
    page = opened()
    dots = page.locator("#scatter circle")
    assert dots.count() == 30
    dots.nth(11).hover(force=True)
    dots.nth(11).click(force=True)
    chosen = int(page.input_value("#prompt"))
    assert dots.count() == 31
    direct = means(arms[0].data, page.get_attribute(".box.chosen", "data-node"), chosen)["clean_direct"]
    assert f"direct effect {written(direct, 3)} logits" in page.get_attribute(".box.chosen", "aria-label")
    page.select_option("#quantity", "r2")
    assert "R² of that fit" in page.inner_text("#layers")


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(opened, width):
    page = opened(width)
    page.click("#prompts > summary")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    # Charts are as wide as their place: none is cut off.
    wide = page.eval_on_selector_all(
        ".chart", "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.id)"
    )
    assert wide == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "dark")])
def test_there_is_no_serious_accessibility_fault(opened, scheme, width):
    axe = pytest.importorskip("axe_core_python.sync_playwright", reason="the package axe-core-python is not installed")
    page = opened(width, scheme)
    page.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true })")
    page.click('.box[data-node="attn[2]"]')
    found = axe.Axe().run(page, options={"resultTypes": ["violations"]})["violations"]
    serious = [(one["id"], [node["html"][:160] for node in one["nodes"][:3]]) for one in found
               if one["impact"] in ("serious", "critical")]  # fmt: skip
    assert serious == []


def test_the_theme_is_chosen_by_the_system_and_by_the_button(opened):
    page = opened(scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == "rgb(15, 20, 26)"
    page.click("#theme")
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    page.click("#theme")
    assert page.evaluate(paper) == "rgb(15, 20, 26)"


def test_texts_stay_texts(opened, nasty):
    page = opened()
    page.on("dialog", lambda dialog: pytest.fail("a prompt ran as script"))
    page.select_option("#prompt", "29")
    page.click("#prompts > summary")
    assert f"“{nasty}”" in page.text_content("#prompt-text")
    assert page.locator("#prompt-table td", has_text="alert(1)").first.text_content() == nasty
    assert page.title() == " ".join(nasty.split())
    assert page.locator("img").count() == 0
    assert page.evaluate("[...document.scripts].length") == 3
    page.locator("#scatter circle").last.hover(force=True)
    assert page.locator("body img, body iframe").count() == 0


def test_without_scripts_sentences_and_tables_stand(browser, path):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert "What was found." in page.inner_text("#overview")
    assert page.is_visible("#numbers table")
    assert page.is_hidden("#graph")
    context.close()


def test_heads_are_cells_of_their_layer(opened, tmp_path, make_sweep, make_summary):
    data = make_sweep(layers=3, prompts=12)
    names = {"attn[1]": "attn[1].head[0]", "attn[2]": "attn[1].head[1]"}
    node = [names.get(str(one), str(one)) for one in data["node"].values]
    data = data.assign_coords(node=node, responder=node)
    file = report(Arm("heads", data, make_summary(data)), tmp_path / "report.html")
    page = opened(file=file)
    page.click('.box[data-node="attn[1].head[0]"]')
    assert_shown(page, data, "attn[1].head[0]")
    page.keyboard.press("ArrowRight")
    assert_shown(page, data, "attn[1].head[1]")
    assert page.is_visible("#head")


def test_the_numbers_are_valid_json(path):
    text = path.read_text(encoding="utf-8")
    start = text.index('id="numbers-data">') + len('id="numbers-data">')
    data = json.loads(text[start : text.index("</script>", start)])
    assert [one["name"] for one in data["sets"]] == ["plain", "dropped", "ablation (dropped): zero"]
