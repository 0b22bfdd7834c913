"""The report: complete in itself, true to the summary, and safe whatever the prompts hold."""

import json
import re
import time
from html.parser import HTMLParser

import pytest

from causalnet.draw import Arm, read_run, report
from causalnet.effects import schema
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
    page = Reader()
    page.feed(path.read_text(encoding="utf-8"))
    return page


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


def test_nothing_becomes_markup(nasty_page, nasty):
    page = read(nasty_page)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    text = "".join(page.text)
    assert text.count(nasty) > 25  # heading, model, prompts, findings, comparison


def test_nothing_is_loaded(nasty_page):
    page = read(nasty_page)
    text = nasty_page.read_text(encoding="utf-8")
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    for name, value in page.attributes:
        if name in ("href", "xlink:href", "src", "action"):
            assert value.startswith(("#", "data:image/png;base64,")), value
    assert "@import" not in text
    assert re.search(r"Content-Security-Policy\" content=\"default-src 'none'", text)
    assert not re.search(r"url\((?!#)", text)


def test_ids_are_unique_and_links_have_targets(nasty_page):
    page = read(nasty_page)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for name, value in page.attributes if name in ("href", "xlink:href") and value.startswith("#")}
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
    assert page.tags.count("svg") == 10


def test_two_models_stand_side_by_side(tmp_path, make_sweep, make_summary):
    arms = [arm(make_sweep, make_summary, name) for name in ("plain", "dropped")]
    rows = [{"name": "attn[2]", "slope_difference": 0.25, "slope_difference_ci": [0.125, 0.375], "p_holm": 0.01}]
    path = report(arms, tmp_path / "report.html", comparison={"findings": ["They differ."], "nodes": rows})
    text = "".join(read(path).text)
    assert "They differ." in text
    assert "+0.250" in text
    assert "[+0.125, +0.375]" in text
    assert "Comparison" in text
    assert 'class="arms two"' in path.read_text()


def test_without_a_graph_or_findings_the_page_still_stands(tmp_path, make_sweep, make_summary):
    data = make_sweep(donors=1)
    path = report(Arm("bare", data, {"nodes": make_summary(data)["nodes"]}), tmp_path / "report.html")
    text = "".join(read(path).text)
    assert "by zero (zero ablation)" in text
    assert "donor means of TE" in text


def test_without_graphviz_the_page_says_how_to_get_it(tmp_path, monkeypatch, make_sweep, make_summary):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = report(arm(make_sweep, make_summary), tmp_path / "report.html")
    assert "apt install graphviz" in "".join(read(path).text)


def test_a_page_is_small_and_made_in_time(tmp_path, make_sweep, make_summary):
    data = make_sweep(12, prompts=1000, donors=15)
    graph = CausalGraph.from_blocks([Block(layer) for layer in range(12)])
    one = Arm("plain", data, make_summary(data), graph)
    start = time.process_time()
    path = report(one, tmp_path / "report.html")
    assert time.process_time() - start < 8
    assert path.stat().st_size < 3_000_000


def test_a_run_folder_is_read(tmp_path, make_sweep, make_summary):
    for name in ("plain", "dropped"):
        one = arm(make_sweep, make_summary, prompts=8)
        schema.save(one.data, tmp_path / name / "effects.zarr")
        (tmp_path / name / "summary.json").write_text(json.dumps(one.summary | {"findings": [f"Found in {name}."]}))
        (tmp_path / name / "graph.json").write_text(one.graph.to_json())
    (tmp_path / "comparison.json").write_text(json.dumps({"arms": ["plain", "dropped"]}))
    arms, comparison = read_run(tmp_path)
    assert [one.name for one in arms] == ["plain", "dropped"]
    assert comparison == {"arms": ["plain", "dropped"]}
    assert arms[0].graph == CausalGraph.from_blocks([Block(layer) for layer in range(6)], name="synthetic")
    path = report(tmp_path)
    assert path == tmp_path / "report.html"
    assert "Found in dropped." in "".join(read(path).text)
    assert report(tmp_path / "plain") == tmp_path / "plain" / "report.html"


def test_bad_input_is_refused(tmp_path, make_sweep, make_summary):
    with pytest.raises(InputError, match="no result"):
        report([], tmp_path / "report.html")
    one = arm(make_sweep, make_summary)
    with pytest.raises(InputError, match="no path"):
        report(one)
    with pytest.raises(InputError, match="same name"):
        report([one, one], tmp_path / "report.html")
    with pytest.raises(DataError, match="no run is here"):
        report(tmp_path)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        report(tmp_path)
