"""What a notebook shows: true to the object, and every text escaped."""

import re
from html.parser import HTMLParser

import pytest

from causalnet.draw.display import dataset_html, graph_html, plan_html, query_html, result_html
from causalnet.effects.result import Result
from causalnet.errors import DataError
from causalnet.expr import parse
from causalnet.graph import Block, CausalGraph


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(html):
    """Return the tags and the text; fail where tags do not match or a script could run."""
    page = Reader()
    page.feed(html)
    assert page.open == []
    assert not {"script", "img", "iframe", "link", "style", "object"} & set(page.tags)
    return page.tags, page.text


def graph(layers=3, name="toy"):
    return CausalGraph.from_blocks([Block(layer) for layer in range(layers)], name=name)


def test_a_graph_is_drawn(nasty):
    tags, text = read(graph_html(graph(name=nasty)))
    assert "CausalGraph(" in text
    assert "svg" in tags or "apt install graphviz" in text
    assert nasty.split()[0] in text
    tags, text = read(graph_html(graph(2).unroll(3)))
    assert "embed@2" in text or "svg" not in tags


def test_a_graph_that_cannot_be_drawn_is_put_in_words(monkeypatch, tmp_path):
    tags, text = read(graph_html(graph(201)))
    assert "svg" not in tags
    assert "201 layers" in text
    monkeypatch.setenv("PATH", str(tmp_path))
    tags, text = read(graph_html(graph()))
    assert "svg" not in tags
    assert "apt install graphviz" in text


def test_a_query_is_explained():
    query = parse("E[logit(target) | do(attn[5]@last = resample)] - E[logit(target)]")
    tags, text = read(query_html(query))
    assert str(query) in text
    assert "the attention of layer 5 at the last position" in text
    assert text.count(str(query)) == 1
    assert "code" in tags


def test_a_plan_says_what_share_is_computed():
    from causalnet.engine.plan import Reading, Shape, plan

    asked = parse("TE(attn[2]@last = zero)").compile(graph())
    readings = [Reading(asked.worlds[one.world], one.outcome) for one in asked.readings]
    made = plan(asked.graph, asked.worlds, readings, Shape((5, 5, 7)))
    _, text = read(plan_html(made))
    assert f"{100 * made.share:.1f} % of one full forward" in text
    assert f"{made.rows:,}" in text
    assert re.search(r"prompts\s*3", text)


def test_a_result_shows_value_interval_and_prompts(nasty):
    values = [float(one) for one in range(20)]
    result = Result(
        "E[entropy]", 9.5, 1.25, (7.0, 12.0), 0.95, 20, "nats", values, [[one] for one in values], range(20),
        (nasty, *map(str, range(19))), notes=(nasty,),
    )  # fmt: skip
    _, text = read(result_html(result))
    assert "+9.50 ± 1.25 nats" in text
    assert "+7.00 to +12.00" in text
    assert text.count(nasty) >= 2
    assert "the first 12 of 20 prompts" in text
    assert "+11.000" in text
    assert "+12.000" not in text


def test_a_result_of_one_prompt_has_no_interval():
    nan = float("nan")
    result = Result("E[entropy]", -1.0, nan, (nan, nan), 0.95, 1, "nats", [-1.0], [[-1.0]], (0,), ("a",))
    _, text = read(result_html(result))
    assert "−1.00 nats" in text
    assert "interval" not in text.split("how")[0]


def test_a_sweep_is_a_table_of_means(make_sweep, nasty):
    data = make_sweep(model=nasty)
    _, text = read(dataset_html(data))
    clean = data["clean_direct"].mean("prompt")
    best = str(data["node"].values[int(abs(clean.values).argmax())])
    assert text.index(best) == min(text.index(str(name)) for name in data["node"].values)
    assert f"{float(data['te'].sel(node=best).mean()):+.3f}".replace("-", "−") in text
    assert nasty in text
    assert "n = 40 prompts" in text
    with pytest.raises(DataError, match="no te"):
        dataset_html(data.drop_vars("te"))
