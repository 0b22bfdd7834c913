"""Files that graphs are written to and read from."""

import json
import shutil
import subprocess

import networkx
import pytest

from causalnet.errors import GraphError
from causalnet.graph import Block, CausalGraph

BLOCKS = [Block(0, heads=2, window=3), Block(1, parallel=True, mixer="recurrent"), Block(2, heads=2, heads_sum=False)]
NASTY = 'a "b" \\N <c>&amp;]]> \x00\x0b\u2028 \ud800 é 注 </graphml>'


@pytest.fixture
def graph() -> CausalGraph:
    return CausalGraph.from_blocks(BLOCKS, name=NASTY, meta={NASTY: NASTY})


def forms(graph: CausalGraph) -> dict[str, CausalGraph]:
    return {
        "layer": graph,
        "head": graph.with_heads(),
        "one layer's heads": graph.with_heads([2]),
        "spine": graph.spine(),
        "resid": graph.with_resid(1),
        "unrolled": graph.unroll(range(2, 5)),
        "resid at a position": graph.unroll(3).with_resid(2, positions=[1]),
        "mutilated": graph.do(["mlp[0]", "embed"], ["attn[0] -> logits", "embed -> mlp[0]"]),
        "mutilated spine": graph.with_heads().spine().unroll(2).do("attn[0]@1"),
        "cut": graph.remove_edges(["attn[0] -> mlp[1]"]),
    }


@pytest.mark.parametrize("form", list(forms(CausalGraph.from_blocks(BLOCKS))))
def test_round_trips(graph, form):
    here = forms(graph)[form]
    for there in (CausalGraph.from_json(here.to_json()), CausalGraph.from_graphml(here.to_graphml())):
        assert there == here
        assert there.blocks == here.blocks
        assert (there.name, there.meta) == (NASTY, {NASTY: NASTY})
        assert there.intervened_nodes == here.intervened_nodes
        assert there.severed_edges == here.severed_edges
        # What was read is as small as what was written: the stages are found again.
        assert there.extra == here.extra
        assert there.missing == here.missing
        assert there.without_do() == here.without_do()
    other = forms(graph)["head" if form == "layer" else "layer"]
    assert CausalGraph.from_json(other.to_json()) != here


def test_bytes_are_the_same_every_time(graph):
    for write in (CausalGraph.to_json, CausalGraph.to_graphml, CausalGraph.to_dot):
        again = CausalGraph.from_blocks(BLOCKS, name=NASTY, meta={NASTY: NASTY})
        for form, here in forms(graph).items():
            assert write(here) == write(forms(again)[form])
            assert write(here).isascii() or write is CausalGraph.to_dot


def test_other_tools_read_the_attributes(graph):
    marked = graph.with_heads([0]).unroll(2).do("mlp[1]@1")
    for found in (
        networkx.parse_graphml(marked.to_graphml()),
        networkx.node_link_graph(json.loads(marked.to_json()), edges="edges"),
        marked.nx,
    ):
        assert isinstance(found, networkx.DiGraph)
        assert list(found) == [str(node) for node in marked.nodes]
        assert set(found.edges) == {(str(a), str(b)) for a, b in marked.edges()}
        assert found.nodes["attn[0].head[1]@1"] == {
            "kind": "head", "layer": 0, "head": 1, "position": 1,
            "block": "sequential", "mixer": "attention", "window": 3,
        }  # fmt: skip
        assert found.nodes["mlp[1]@1"] == {
            "kind": "mlp", "layer": 1, "position": 1, "block": "parallel", "intervened": True,
        }  # fmt: skip
        assert found.nodes["norm@0"] == {"kind": "norm", "position": 0}


def test_dot_on_paper():
    graph = CausalGraph.from_blocks([Block(0, attn=False)], name='say "hi" \\').do("mlp[0]")
    assert graph.to_dot() == (
        "digraph causalnet {\n"
        '  graph [label="say \\"hi\\" \\\\", granularity="layer", rankdir="BT"];\n'
        '  "embed" [kind="embed"];\n'
        '  "mlp[0]" [kind="mlp", layer="0", block="sequential", intervened="true"];\n'
        '  "norm" [kind="norm"];\n'
        '  "logits" [kind="logits"];\n'
        '  "embed" -> "norm";\n'
        '  "mlp[0]" -> "norm";\n'
        '  "embed" -> "logits";\n'
        '  "mlp[0]" -> "logits";\n'
        '  "norm" -> "logits";\n'
        '  "embed" -> "mlp[0]" [severed="true", style="dashed", constraint="false"];\n'
        "}\n"
    )


@pytest.mark.skipif(shutil.which("dot") is None, reason="the Graphviz program is not installed")
def test_graphviz_reads_the_dot_text(graph):
    for here in forms(graph).values():
        text = here.to_dot().encode("utf-8", "replace")
        done = subprocess.run(["dot", "-Tplain"], input=text, capture_output=True, check=True)
        assert done.stderr == b""
        lines = done.stdout.decode().splitlines()
        assert sum(line.startswith("node ") for line in lines) == len(here)
        edges = here.number_of_edges + len(here.severed_edges)
        assert sum(line.startswith("edge ") for line in lines) == edges


def test_foreign_files_need_no_header():
    graph = CausalGraph.from_edges(["embed", "mlp[0]", "logits"], ["embed -> mlp[0]", "mlp[0] -> logits"])
    bare = networkx.DiGraph([("embed", "mlp[0]"), ("mlp[0]", "logits")])
    assert CausalGraph.from_graphml("\n".join(networkx.generate_graphml(bare))) == graph
    assert CausalGraph.from_json(json.dumps(networkx.node_link_data(bare, edges="edges"))) == graph


def changed(**changes) -> str:
    data = json.loads(CausalGraph.from_blocks([Block(0)]).do("mlp[0]").to_json())
    for key, value in changes.items():
        if key in data:
            data[key] = value
        else:
            data["graph"]["causalnet"][key] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "node-link JSON: must be an object"),
        ("{}", "no 'nodes'"),
        ('{"nodes": []}', "no 'edges'"),
        ('{"nodes": 1, "edges": []}', "'nodes': must be a list"),
        ('{"nodes": [1], "edges": []}', "node number 0: must be an object"),
        ('{"nodes": [{"id": 1}], "edges": []}', "'id': must be a text"),
        ('{"nodes": [{"id": "<script>"}], "edges": []}', "'<script>' is not a node"),
        ('{"nodes": [{"id": "attn[' + "9" * 9 + ']"}], "edges": []}', "at most 10000 layers"),
        ('{"nodes": [{"id": "embed"}, {"id": "embed"}], "edges": []}', "listed twice"),
        ('{"nodes": [{"id": "attn[0]"}, {"id": "attn[00]"}], "edges": []}', "listed twice"),
        ('{"nodes": [{"id": "attn[0]", "layer": 1}], "edges": []}', "its layer is given as 1"),
        ('{"nodes": [{"id": "embed"}], "edges": [{"source": "embed", "target": "norm"}]}', "norm is not a node"),
        ('{"nodes": [{"id": "embed"}], "edges": [{"source": "embed", "target": "embed"}]}', "cycle"),
        ('{"nodes": [{"id": "embed"}], "edges": [["embed", "norm"]]}', "edge number 0: must be an object"),
        ('{"directed": false, "nodes": [], "edges": []}', "directed"),
        ('{"multigraph": true, "nodes": [], "edges": []}', "parallel edges"),
        (changed(version=2), "version 2; this causalnet reads"),
        (changed(format="other"), "'other' version 1"),
        (changed(blocks=[{"layer": 0, "widnow": 2}]), "unknown entry 'widnow'"),
        (changed(blocks=[{"layer": 0, "window": 0}]), "at least 1"),
        (changed(blocks=[{"layer": 0, "window": "2"}]), "whole number"),
        (changed(blocks=[{"layer": "0"}]), "whole number"),
        (changed(blocks=[]), "has 0 layers"),
        (changed(blocks=7), "'blocks': must be a list"),
        (changed(name=7), "'name': must be a text"),
        (changed(meta=[]), "'meta': must be an object"),
        (changed(meta={"a": 1}), "text to text"),
        (changed(intervened=["mlp[4]"]), r"no node mlp\[4\]"),
        (changed(set_edges=[["embed", "attn[3]"]]), r"no node attn\[3\]"),
        (changed(set_edges=[["norm", "embed"]]), "not an edge"),
        (changed(severed=[["embed"]]), "two ends"),
        (changed(graph=[]), "'graph': must be an object"),
    ],
)
def test_json_that_cannot_be_read(text, message):
    with pytest.raises(GraphError, match=message):
        CausalGraph.from_json(text)


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]><graphml>&b;</graphml>'
HEAD = '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("<graphml>", "cannot be read"),
        (BOMB, "entity is declared"),
        (f'{HEAD}<graph edgedefault="undirected"><node id="embed"/></graph></graphml>', "directed"),
        (f'{HEAD}<graph edgedefault="directed"><node id="x"/></graph></graphml>', "'x' is not a node"),
        (f'{HEAD}<graph edgedefault="directed"><edge source="embed" target="norm"/></graph></graphml>', None),
        (f'{HEAD}<graph edgedefault="directed"><node id="norm"><data key="d"/></node></graph></graphml>', "cannot be"),
        (f"{HEAD}</graphml>", "cannot be read"),
        (b"<graphml/>", "give the text"),
    ],
)
def test_graphml_that_cannot_be_read(text, message):
    if message is None:
        assert CausalGraph.from_graphml(text).has_edge("embed", "norm")
        return
    with pytest.raises(GraphError, match=message):
        CausalGraph.from_graphml(text)


def test_graphml_with_a_broken_header(graph):
    text = CausalGraph.from_blocks([Block(0)]).to_graphml()
    assert "causalnet.graph" in text
    with pytest.raises(GraphError, match="is not JSON"):
        CausalGraph.from_graphml(text.replace('{"format"', '{{"format"').replace("{&quot;format", "{{&quot;format"))
