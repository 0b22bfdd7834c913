"""The report: complete in itself, true to the summary, and safe whatever the prompts hold."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from causalnet.draw import Arm, page, read_run, report
from causalnet.draw.payload import encode, prompt_budget
from causalnet.draw.sweep import as_sweep, interval, responses
from causalnet.effects import parts, schema
from causalnet.effects.opening import opened
from causalnet.errors import DataError, InputError
from causalnet.graph import Block, CausalGraph


class Reader(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text.append(data)


def read(path):
    found = Reader()
    found.feed(path.read_text(encoding="utf-8"))
    return found


def arm(make_sweep, make_summary, name="plain", texts=None, model="synthetic", prompts=30, **more):
    data = make_sweep(prompts=prompts, model=model, texts=texts, **more)
    graph = CausalGraph.from_blocks([Block(layer) for layer in range(6)], name=model)
    return Arm(name, data, make_summary(data), graph, ("What was found.",))


@pytest.fixture(scope="module")
def nasty_page(tmp_path_factory, make_sweep, make_summary, nasty):
    one = arm(make_sweep, make_summary, name=nasty, texts=[nasty] * 30, model=nasty)
    one.data["target"].values[:] = nasty
    path = tmp_path_factory.mktemp("report") / "report.html"
    two = arm(make_sweep, make_summary, name="other")
    return report([one, two], path, title=nasty, findings=[nasty], comparison={"findings": [nasty], nasty: nasty})


def shown(path):
    """Return the numbers that the page holds."""
    text = path.read_text(encoding="utf-8")
    start = text.index('id="numbers-data">') + len('id="numbers-data">')
    return json.loads(text[start : text.index("</script>", start)])


def unpacked(packed, *shape):
    kind, text = packed
    return np.frombuffer(base64.b64decode(text), dtype=f"<{kind}").reshape(shape)


def test_nothing_becomes_markup(nasty_page, nasty):
    page = read(nasty_page)
    assert page.tags.count("script") == 3  # the numbers, the library, the explorer
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    text = "".join(page.text)
    assert text.count(nasty) >= 7  # title, heading, model, finding, comparison, record
    assert shown(nasty_page)["sets"][0]["each"]["texts"] == [nasty] * 30


def test_nothing_is_loaded(nasty_page):
    page = read(nasty_page)
    text = nasty_page.read_text(encoding="utf-8")
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    for name, value in page.attributes:
        if name in ("href", "xlink:href", "src", "action"):
            assert value.startswith("#"), value
    assert "@import" not in text
    policy = next(value for _, value in page.attributes if "default-src" in str(value))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert not re.search(r"script-src[^;]*unsafe", policy)
    # Each script that may run is one of ours, by its hash.
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts]
    assert re.findall(r"'sha256-([^']+)'", policy) == hashes
    assert not re.search(r"\beval\(|new Function", text)


def test_ids_are_unique_and_links_have_targets(nasty_page):
    page = read(nasty_page)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for name, value in page.attributes if name == "href" and value.startswith("#")}
    assert targets <= set(ids)


def test_the_page_says_what_the_summary_says(tmp_path, make_sweep, make_summary):
    one = arm(make_sweep, make_summary)
    page = read(report(one, tmp_path / "report.html"))
    text = "".join(page.text)
    assert "What was found." in text
    assert "1.2e-06 logits (3.4e-07" in text
    row = one.summary["nodes"][4]
    assert row["name"] in text
    assert f"{row['te']:+.3f}".replace("-", "−") in text
    assert "resample ablation" in text


def test_means_are_exact_and_prompts_close(tmp_path, make_sweep, make_summary):
    one = arm(make_sweep, make_summary)
    held = shown(report(one, tmp_path / "report.html"))["sets"][0]
    mean = one.data[["te", "delta_de"]].mean("donor").astype(float)
    assert unpacked(held["mean"]["delta"], 12, 12) == pytest.approx(mean["delta_de"].mean("prompt").values, abs=1e-7)
    assert unpacked(held["mean"]["te"], 12) == pytest.approx(mean["te"].mean("prompt").values, abs=1e-7)
    each = held["each"]
    assert (each["prompts"], each["kept"]) == (30, 11)
    top = unpacked(each["top"], 12, 11)
    values = unpacked(each["delta"], 30, 12, 11) * unpacked(each["scale"]["delta"], 12)[:, None]
    largest = abs(mean["delta_de"]).max(["prompt", "responder"]).values
    for node in range(12):
        kept = top[node] >= 0
        wanted = mean["delta_de"].values[:, node][:, top[node][kept]]
        assert np.abs(values[:, node, kept] - wanted).max(initial=0) <= largest[node] / 65000 + 1e-7
        size = abs(mean["delta_de"].values[:, node]).mean(0)
        assert sorted(size[top[node][kept]], reverse=True) == pytest.approx(list(size[top[node][kept]]))


def test_numbers_are_those_of_all_prompts_however_they_are_cut(monkeypatch, make_sweep):
    data = make_sweep(prompts=23, seed=3)
    delta = data["delta_de"].values.astype(float).mean(2)
    whole = as_sweep(data)
    monkeypatch.setattr(parts, "_BLOCK", 5 * data["delta_de"].nbytes // 23)
    assert len(list(parts.blocks(data))) == 5
    cut = as_sweep(data.transpose("responder", "donor", "node", "prompt"))
    near = {"rtol": 1e-6, "atol": 1e-9}
    for sweep in (whole, cut):
        np.testing.assert_allclose(sweep.coupling, delta.mean(0), **near)
        np.testing.assert_allclose(sweep.coupling_half, interval(delta)[1], **near)
        np.testing.assert_allclose(sweep.strength, np.abs(delta).mean(0), **near)
        assert (sweep.reached == (delta != 0).any(0)).all()
        np.testing.assert_allclose(sweep.delta_mlp, delta[..., 1::2].sum(-1), **near)
        np.testing.assert_allclose(sweep.te, data["te"].values.astype(float).mean(-1), **near)
        chosen = np.argsort(-sweep.strength, axis=1)[:, :4]
        wanted = np.take_along_axis(delta, chosen[None], 2)[:17]
        np.testing.assert_allclose(responses(sweep, chosen, 17), wanted, **near)
    for name in ("delta_attn", "delta_mlp", "te", "de", "ce", "norm", "clean", "reached"):
        assert (getattr(whole, name) == getattr(cut, name)).all(), name
    alone = as_sweep(data.isel(prompt=[4]))
    assert not alone.coupling_half.any() and alone.prompts == 1


def test_a_store_that_is_left_on_disk_gives_the_same_page(tmp_path, monkeypatch, make_sweep, make_summary):
    monkeypatch.setattr(parts, "_BLOCK", 1 << 14)
    for name in ("plain", "dropped"):
        one = arm(make_sweep, make_summary, prompts=8, seed=len(name))
        variant = tmp_path / name / "variants" / "ablation" / "zero"
        for folder, data in ((tmp_path / name, one.data), (variant, make_sweep(prompts=8, donors=1))):
            schema.save(data, folder / "effects.zarr")
            (folder / "summary.json").write_text(json.dumps(make_summary(data)))
    # Four stores: together they fit, or none does.
    size = 4 * 6 * opened(tmp_path / "plain" / "effects.zarr").nbytes
    pages, held = [], []
    for memory in (size, 1):
        run = read_run(tmp_path, memory=memory)
        every = [run.arms[0], run.arms[1], *(one[0] for one in run.variants.values())]
        held.append([one.data["delta_de"].variable._in_memory for one in every])
        pages.append(report(tmp_path, tmp_path / "report.html", memory=memory).read_text(encoding="utf-8"))
    assert held == [[True] * 4, [False] * 4]
    assert pages[0] == pages[1]


def test_a_page_has_room_for_the_largest_responders_only(make_sweep):
    sweep = as_sweep(make_sweep(prompts=40))
    ((prompts, kept),) = prompt_budget([sweep], room=40 * 2 * (6 * 12 + 12 + 4 * 12))
    assert (prompts, kept) == (40, 4)
    ((prompts, kept),) = prompt_budget([sweep], room=20 * 2 * (6 * 12 + 12 + 3 * 12))
    assert (prompts, kept) == (20, 3)
    assert prompt_budget([sweep]) == [(40, 11)]


def test_what_is_left_out_is_said(tmp_path, monkeypatch, make_sweep, make_summary):
    monkeypatch.setattr(page, "prompt_budget", lambda sweeps: [(20, 3) for _ in sweeps])
    path = report(arm(make_sweep, make_summary), tmp_path / "report.html")
    text = "".join(read(path).text)
    assert "The first 20 of 30 prompts can be chosen." in text
    assert "the 3 responders with the largest mean |ΔDE|" in text
    assert "16 bits" in text


def test_two_models_stand_side_by_side(tmp_path, make_sweep, make_summary):
    arms = [arm(make_sweep, make_summary, name) for name in ("plain", "dropped")]
    rows = [{"name": "attn[2]", "slope": 0.25, "slope_ci": [0.125, 0.375], "slope_p_holm": 0.01}]
    path = report(arms, tmp_path / "report.html", comparison={"findings": ["They differ."], "nodes": rows})
    text = "".join(read(path).text)
    assert "They differ." in text
    assert "+0.250" in text
    assert "[+0.125, +0.375]" in text
    assert [one["name"] for one in shown(path)["sets"]] == ["plain", "dropped"]


def test_without_a_graph_or_findings_the_page_still_stands(tmp_path, make_sweep, make_summary):
    data = make_sweep(donors=1)
    path = report(Arm("bare", data, {"nodes": make_summary(data)["nodes"]}), tmp_path / "report.html")
    text = "".join(read(path).text)
    assert "by zero (zero ablation)" in text
    assert "donor means of TE" in text


def test_a_report_needs_no_graphviz_and_no_graph(tmp_path, monkeypatch, make_sweep, make_summary):
    monkeypatch.setenv("PATH", str(tmp_path))
    data = make_sweep(parallel=True)
    path = report(Arm("bare", data, make_summary(data)), tmp_path / "report.html")
    boxes = {box["name"]: box for box in shown(path)["sets"][0]["graph"]["boxes"]}
    assert len(boxes) == 12
    assert boxes["attn[2]"]["y"] == boxes["mlp[2]"]["y"]  # seen to be parallel: its MLP never responds


def test_a_page_is_small(tmp_path, make_sweep, make_summary):
    data = make_sweep(32, prompts=1209, donors=1, texts=["x" * 100] * 1209)
    graph = CausalGraph.from_blocks([Block(layer) for layer in range(32)])
    one = Arm("plain", data, make_summary(data), graph)
    path = report([one, replace(one, name="again")], tmp_path / "report.html")
    assert path.stat().st_size < 8_000_000
    assert "responders with the largest mean |ΔDE|" in "".join(read(path).text)


def test_nothing_in_the_numbers_ends_their_element():
    assert json.loads(encode({"a": "</script><!--\u2028&"})) == {"a": "</script><!--\u2028&"}
    assert not set("<>&\u2028") & set(encode({"</script>": "<!--\u2028&"}))
    with pytest.raises(ValueError, match="JSON"):
        encode([float("nan")])


def test_a_run_folder_is_read(tmp_path, make_sweep, make_summary):
    for name in ("plain", "dropped"):
        one = arm(make_sweep, make_summary, prompts=8)
        schema.save(one.data, tmp_path / name / "effects.zarr")
        (tmp_path / name / "summary.json").write_text(json.dumps(one.summary | {"findings": [f"Found in {name}."]}))
        (tmp_path / name / "graph.json").write_text(one.graph.to_json())
    (tmp_path / "comparison.json").write_text(json.dumps({"arms": ["plain", "dropped"]}))
    variant = tmp_path / "plain" / "variants" / "ablation" / "zero"
    variant.mkdir(parents=True)
    (variant / "summary.json").write_text(json.dumps(one.summary))
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "long_table.csv").write_text("node,slope\nattn[0],0.5\n")
    run = read_run(tmp_path)
    assert [one.name for one in run.arms] == ["plain", "dropped"]
    assert run.comparison == {"arms": ["plain", "dropped"]}
    assert run.arms[0].graph == CausalGraph.from_blocks([Block(layer) for layer in range(6)], name="synthetic")
    assert [one.label for one in run.variants["ablation (plain)"]] == ["zero"]
    assert run.tables == {"long_table": [["node", "slope"], ["attn[0]", "0.5"]]}
    path = report(tmp_path)
    assert path == tmp_path / "report.html"
    text = "".join(read(path).text)
    assert "Found in dropped." in text
    assert "Table: long table" in text
    assert report(tmp_path / "plain") == tmp_path / "plain" / "report.html"


def test_bad_input_is_refused(tmp_path, make_sweep, make_summary):
    with pytest.raises(InputError, match="no result"):
        report([], tmp_path / "report.html")
    one = arm(make_sweep, make_summary)
    with pytest.raises(InputError, match="no path"):
        report(one)
    with pytest.raises(InputError, match="same name"):
        report([one, one], tmp_path / "report.html")
    with pytest.raises(InputError, match="legal: 0 to 29"):
        report(one, tmp_path / "report.html", prompt=30)
    with pytest.raises(DataError, match="no run is here"):
        report(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        report(tmp_path / "nowhere")
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        report(tmp_path)
