"""The drawn graph: what is in it, that it is deterministic, and that names stay text."""

import html
import itertools
import re
import shutil

import pytest

from causalnet.draw import Drawing, GraphvizMissingError, draw
from causalnet.draw.layout import arc, lay_out
from causalnet.draw.palette import diverging
from causalnet.draw.render import _warn_missing, escape_label
from causalnet.errors import GraphError, InputError, UnknownNodeError
from causalnet.graph import Block, CausalGraph

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="the Graphviz program is not installed")


def graph(layers=6, parallel=False, heads=None, name="toy", granularity="layer"):
    blocks = [Block(layer, parallel=parallel, heads=heads) for layer in range(layers)]
    return CausalGraph.from_blocks(blocks, name=name, granularity=granularity)


def attributes(dot, name):
    """Return the attributes of a node of the DOT text."""
    line = next(line for line in dot.splitlines() if re.match(rf'\s*"?{re.escape(name)}"? \[', line))
    return dict(re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|[^\s\]]+)', line))


def flows(dot):
    return re.findall(r'"?([\w\[\]]+)"? -> "?([\w\[\]]+)"? \[(?=[^\n]*class=flow)', dot)


def test_equal_inputs_give_equal_text(make_sweep):
    assert draw(graph(), make_sweep(), node="attn[3]").dot == draw(graph(), make_sweep(), node="attn[3]").dot


def test_the_order_of_the_nodes_in_a_result_does_not_matter(make_sweep):
    data = make_sweep()
    turned = data.isel(node=slice(None, None, -1), responder=slice(None, None, -1))
    assert draw(graph(), data, node="attn[3]").dot == draw(graph(), turned, node="attn[3]").dot


def test_sequential_and_parallel_blocks_stand_differently():
    sequential = lay_out([Block(0), Block(1)], [0, 0]).slots
    parallel = lay_out([Block(0, parallel=True), Block(1, parallel=True)], [0, 0]).slots
    assert sequential["mlp", 0].reads < sequential["attn", 0].writes  # reads below the place of addition
    assert parallel["mlp", 0].y == parallel["attn", 0].y
    assert parallel["mlp", 0].reads == parallel["attn", 0].reads
    assert parallel["mlp", 0].writes == parallel["attn", 0].writes
    # One ⊕ per layer in parallel blocks, two in sequential ones.
    assert draw(graph(4)).dot.count("shape=circle") == 8
    assert draw(graph(4, parallel=True)).dot.count("shape=circle") == 4


@pytest.mark.parametrize("parallel", [True, False, "mixed"])
@pytest.mark.parametrize("layers", [1, 2, 12, 41, 80])
def test_boxes_never_overlap(layers, parallel):
    kinds = [i % 3 == 0 if parallel == "mixed" else parallel for i in range(layers)]
    blocks = [Block(i, parallel=kind, attn=i % 5 != 4) for i, kind in enumerate(kinds)]
    layout = lay_out(blocks, [0] * layers)
    for column in ("attn", "mlp"):
        slots = [slot for (kind, _), slot in sorted(layout.slots.items()) if kind == column]
        slots.sort(key=lambda slot: -slot.y)
        for above, below in itertools.pairwise(slots):
            assert above.y - above.height / 2 - (below.y + below.height / 2) >= 6
    assert layout.ends["norm"] < min(slot.y - slot.height / 2 for slot in layout.slots.values())
    marks = sorted({slot.writes for slot in layout.slots.values()})
    assert all(b - a > 7 for a, b in itertools.pairwise(marks))  # the circles stand apart


@pytest.mark.parametrize("parallel", [True, False])
def test_arrows_cross_no_box(parallel):
    slots = lay_out([Block(layer, parallel=parallel) for layer in range(6)], [0] * 6).slots
    for start, source in slots.items():
        for end, target in slots.items():
            if end <= start or target.y >= source.y:
                continue
            points = arc(source, target)
            for piece in range(0, len(points) - 1, 3):
                a, b, c, d = points[piece : piece + 4]
                for step in range(1, 40):
                    t = step / 40
                    w = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
                    x, y = (sum(k * p[axis] for k, p in zip(w, (a, b, c, d), strict=True)) for axis in (0, 1))
                    for name, slot in slots.items():
                        inside = abs(x - slot.x) < slot.width / 2 and abs(y - slot.y) < slot.height / 2
                        assert not inside or name in (start, end), (start, end, name)


def test_fill_is_the_mean_direct_effect(make_sweep):
    data = make_sweep()
    dot = draw(graph(), data).dot
    mean = data["clean_direct"].mean("prompt").values.astype(float)
    for name, value in zip(data["node"].values, mean, strict=True):
        assert attributes(dot, str(name))["fillcolor"].strip('"') == diverging(value, abs(mean).max())
    assert diverging(0.0, 1.0) == "#ffffff"


def test_arrows_lead_to_the_strongest_responders(make_sweep):
    data = make_sweep()
    mean = data["delta_de"].sel(node="attn[2]").mean(["prompt", "donor"])
    strongest = mean.responder.values[abs(mean).argsort().values[::-1][:3]].tolist()
    drawn = flows(draw(graph(), data, node="attn[2]", arcs=3).dot)
    assert {source for source, _ in drawn} == {"attn[2]"}
    assert sorted(target for _, target in drawn) == sorted(strongest)


def test_one_prompt_is_not_the_mean(make_sweep):
    data = make_sweep()
    one = draw(graph(), data, node="attn[2]", prompt=4)
    assert one.dot != draw(graph(), data, node="attn[2]").dot
    assert f"TE {data.te.sel(node='attn[2]')[4].mean():+.2f}".replace("-", "−") in one.dot
    with pytest.raises(InputError, match="legal: 0 to 39"):
        draw(graph(), data, prompt=40)


def test_the_intervened_node_is_marked_and_what_cannot_respond_is_faded(make_sweep):
    drawing = draw(graph(), make_sweep(), node="attn[3]")
    ablated, before = attributes(drawing.dot, "attn[3]"), attributes(drawing.dot, "mlp[1]")
    assert ablated["peripheries"] == "2"
    assert "do(attn[3])" in ablated["label"]
    assert before["fontcolor"] == '"#5f6872"'
    assert drawing.dot.count("arrowhead=tee") == 1
    assert "cut by do(attn[3])" in drawing.dot


def test_do_and_removed_edges_of_the_graph_itself_are_drawn():
    changed = graph().remove_edges([("attn[0]", "mlp[2]")]).do("mlp[1]", edges=[("attn[1]", "attn[3]")])
    dot = draw(changed).dot
    assert "do(mlp[1])" in attributes(dot, "mlp[1]")["label"]
    assert "edges removed (dotted): 1" in dot
    assert "edges set by do (dashed): 1" in dot
    assert dot.count("class=cut") == 2


def crossings(dot, kind="across"):
    """Return (source, target) of the arrows between positions."""
    found = re.findall(rf'"?embed@(\d+)"? -> "?([\w\[\]]+)@(\d+)"? \[(?=[^\n]*class={kind})', dot)
    return {(int(source), name, int(target)) for source, name, target in found if source != target}


def test_positions_stand_beside_each_other_with_their_tokens(nasty):
    blocks = [Block(0), Block(1, parallel=True), Block(2, window=2)]
    unrolled = CausalGraph.from_blocks(blocks).unroll(4)
    dot = draw(unrolled, tokens=["The", " cat\n", nasty, "a very long token indeed"]).dot
    assert "“ cat⏎”" in dot
    assert "“a very long tok…”" in dot
    assert "<script" not in dot
    # Attention reads all earlier positions, or those in its window.
    every = {(s, f"attn[{layer}]", t) for layer in (0, 1) for t in range(4) for s in range(t)}
    assert crossings(dot) == every | {(s, "attn[2]", s + 1) for s in range(3)}
    for name in ("attn[0]@3", "mlp[2]@0"):
        assert attributes(dot, name)["label"].strip('"') == name.split("@")[0]
    places = {name: attributes(dot, name)["pos"].strip('"').split(",") for name in ("attn[0]@1", "mlp[0]@1",
              "attn[1]@1", "mlp[1]@1", "attn[0]@2")}  # fmt: skip
    assert places["attn[1]@1"][1] == places["mlp[1]@1"][1]  # parallel
    assert float(places["attn[0]@1"][1]) > float(places["mlp[0]@1"][1])  # sequential
    assert float(places["attn[0]@2"][0]) > float(places["attn[0]@1"][0])


def test_do_at_one_position_cuts_what_it_read(make_sweep):
    unrolled = graph(3).unroll(3)
    for drawing in (draw(unrolled, node="attn[1]@2"), draw(unrolled.do("attn[1]@2"))):
        dot = drawing.dot
        assert crossings(dot, "cut") == {(0, "attn[1]", 2), (1, "attn[1]", 2)}
        assert attributes(dot, "attn[1]@2")["peripheries"] == "2"
        assert attributes(dot, "mlp[1]@2")["penwidth"] == "1.6"
        assert attributes(dot, "mlp[1]@1")["fontcolor"] == '"#5f6872"'
        assert dot.count("arrowhead=tee") == 3
    heads = graph(2, heads=2, granularity="head").unroll(2)
    assert "do(attn[1])" in draw(heads, node="attn[1].head[0]@1").dot


@needs_dot
def test_a_graph_over_positions_is_rendered():
    assert draw(graph(2).unroll(3), tokens=["a", '"', "\\"]).svg().count("node attn") == 6


def test_what_does_not_fit_positions_is_refused(make_sweep):
    with pytest.raises(InputError, match="2 tokens were given for 3"):
        draw(graph(2).unroll(3), tokens=["a", "b"])
    with pytest.raises(InputError, match="without a result"):
        draw(graph(6).unroll(3), make_sweep())
    with pytest.raises(InputError, match="unroll it first"):
        draw(graph(2), tokens=["a"])
    with pytest.raises(InputError, match="unroll fewer"):
        draw(graph(80).unroll(40))
    with pytest.raises(UnknownNodeError, match="no node"):
        draw(graph(2).unroll(2), node="attn[0]@7")


def test_path_effects_are_the_arrows():
    effects = {"attn[0] -> mlp[1]": -0.5, "mlp[1] -> attn[3]": 0.25, "mlp[2] -> logits": 1.0}
    dot = draw(graph(), effects=effects).dot
    assert set(flows(dot)) == {("attn[0]", "mlp[1]"), ("mlp[1]", "attn[3]")}
    assert "attn[0] to mlp[1]: −0.500 logits" in dot
    assert "path effect along the arrow, logits; blue rises, orange falls; widest ±0.50" in dot
    with pytest.raises(GraphError, match="not an edge"):
        draw(graph(), effects={"mlp[1] -> attn[0]": 1.0})


def test_heads_are_folded_into_their_layer(make_sweep):
    folded = draw(graph(3, heads=8, granularity="head"), node="attn[1].head[2]").dot
    unfolded = draw(graph(3, heads=8, granularity="head"), node="attn[1].head[2]", fold=False).dot
    assert "do(attn[1].head[2])" in folded
    assert "attn[1].head[2]" in unfolded
    assert "head[7]" not in folded
    assert attributes(unfolded, "attn[1].head[2]")["penwidth"] == "2"


def test_a_layer_without_attention_has_no_box():
    dot = draw(CausalGraph.from_blocks([Block(0), Block(1, attn=False)])).dot
    assert '"mlp[1]"' in dot
    assert '"attn[1]"' not in dot


def test_unknown_nodes_and_formats_are_refused(make_sweep):
    with pytest.raises(UnknownNodeError, match=r"attn\[5\]"):
        draw(graph(), node="attn[55]")
    with pytest.raises(UnknownNodeError, match="was not ablated"):
        draw(graph(), make_sweep().isel(node=slice(0, 3)), node="attn[5]")
    with pytest.raises(InputError, match="did you mean 'svg'"):
        draw(graph(), format="svgg")


@needs_dot
def test_labels_are_text_whatever_they_hold(nasty):
    others = ('"quoted"', "back\\slash \\N \\l", "&lt;i&gt;", "a:b:c", "<<i>x</i>>", "ends in \\", "two\nlines")
    for name in (nasty, "<b>bold</b>", *others):
        drawing = draw(graph(2, name=name))
        svg = drawing.svg()
        assert "<script" not in svg
        assert "<img" not in svg
        assert "<b>" not in svg
        texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
        assert any(html.unescape(text).replace("\xa0", " ") == name.replace("\n", " ") for text in texts), (name, texts)


def test_escape_leaves_no_control_characters():
    assert escape_label("a\x00b\x1b") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"


@needs_dot
@pytest.mark.parametrize("suffix", ["svg", "png", "pdf", "dot"])
def test_every_format_is_written(tmp_path, suffix):
    magic = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF", "dot": b"digraph"}[suffix]
    drawing = draw(graph(2), path=tmp_path / "new" / f"graph.{suffix}")
    assert drawing.path == tmp_path / "new" / f"graph.{suffix}"
    assert drawing.path.read_bytes().startswith(magic)


def test_without_graphviz_dot_text_is_written_and_one_warning_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    _warn_missing.cache_clear()
    with pytest.warns(UserWarning, match="apt install graphviz"):
        drawing = draw(graph(2), path=tmp_path / "graph.svg")
    assert drawing.path == tmp_path / "graph.dot"
    assert drawing.path.read_text() == drawing.dot
    draw(graph(2), path=tmp_path / "second.svg")  # warnings are errors here: a second one would fail
    with pytest.raises(GraphvizMissingError, match="apt install graphviz"):
        drawing.svg()
    assert drawing._repr_mimebundle_() == {"text/plain": drawing.dot}


@needs_dot
def test_a_notebook_shows_the_picture():
    bundle = Drawing("digraph { a -> b }")._repr_mimebundle_()
    assert bundle["image/svg+xml"].startswith("<svg")


@needs_dot
@pytest.mark.parametrize("layers", [2, 12, 32, 80])
def test_no_text_leaves_the_picture(make_sweep, layers):
    data = make_sweep(layers, prompts=5, donors=2, model="m" * 80)
    picture = draw(graph(layers, name="a name " * 9), data, node=f"attn[{layers // 2}]").svg()
    left, top, width, height = map(float, re.search(r'viewBox="([^"]+)"', picture)[1].split())
    shift_x, shift_y = map(float, re.search(r"translate\(([-\d.]+)[ ,]([-\d.]+)\)", picture).groups())
    texts = re.findall(r'<text [^>]*?x="([-\d.]+)" y="([-\d.]+)"[^>]*font-size="([\d.]+)"[^>]*>([^<]*)</text>', picture)
    assert len(texts) > 2 * layers
    for x, y, size, text in texts:
        shown = html.unescape(text)
        # Helvetica is about half as wide as it is high, digits and capitals a little more.
        half = 0.25 * float(size) * len(shown)
        assert left <= float(x) + shift_x - half, shown
        assert float(x) + shift_x + half <= left + width, shown
        assert top <= float(y) + shift_y <= top + height, shown
    assert picture.count('class="node') >= 2 * layers
    assert len(picture) < 600_000
