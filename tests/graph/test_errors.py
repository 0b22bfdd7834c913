"""Every refusal says what, where and what would have been legal."""

import copy
import pickle

import pytest

from causalnet.errors import GraphError, UnknownNodeError
from causalnet.graph import Block, CausalGraph, Edge, Node


@pytest.fixture
def graph() -> CausalGraph:
    return CausalGraph.from_blocks([Block(0, heads=2), Block(1)], name="toy", meta={"family": "none"})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda g: g.parents("attn[7]"), UnknownNodeError, r"no node attn\[7\].*legal: attn\[0\], attn\[1\]"),
        (lambda g: g.parents("atn[1]"), UnknownNodeError, "is not a node; legal"),
        (lambda g: g.descendants(["embed", "mlp[9]"]), UnknownNodeError, r"did you mean 'mlp\[0\]'|mlp\[1\]"),
        (lambda g: g.descendants("resid[1]"), UnknownNodeError, r"with_resid\(1\)"),
        (lambda g: g.descendants("attn[0].head[1]"), UnknownNodeError, r"with_heads\(\)"),
        (lambda g: g.descendants("attn[0]@3"), UnknownNodeError, r"unroll\(\)"),
        (lambda g: g.descendants(3), TypeError, "iterable"),
        (lambda g: g.descendants([3]), UnknownNodeError, "3 is not a node"),
        (lambda g: g.remove_edges(["mlp[1] -> attn[0]"]), GraphError, r"the edge is attn\[0\] -> mlp\[1\]"),
        (lambda g: g.remove_edges("embed -> mlp[1]"), GraphError, "a list of edges"),
        (lambda g: g.do(edges=["attn[0] -> attn[0]"]), GraphError, "is not an edge"),
        (lambda g: g.do(edges=["attn[0], attn[1]"]), GraphError, "write it as"),
        (lambda g: g.do(edges=[7]), GraphError, "7 is not an edge"),
        (lambda g: g.add_edges(["embed -> mlp[0]"]), GraphError, "already"),
        (lambda g: g.add_edges(["logits -> embed"]), GraphError, "cycle"),
        (lambda g: g.unroll(0), GraphError, "one or more consecutive"),
        (lambda g: g.unroll([0, 2]), GraphError, "consecutive"),
        (lambda g: g.unroll(2).unroll(2), GraphError, "unrolled already"),
        (lambda g: g.with_heads([1]), GraphError, "layer 1 has no heads"),
        (lambda g: g.with_resid(3), GraphError, r"from resid\[0\] to resid\[2\]"),
        (lambda g: g.with_resid(1, positions=[0]), GraphError, "unroll it first"),
        (lambda g: g.unroll(2).with_resid(1, positions=[4]), GraphError, "no position 4"),
        (lambda g: g.remove_edges(["embed -> norm"]).spine(), GraphError, "embed -> norm was cut"),
        (lambda g: g.do(edges=["embed -> mlp[1]"]).with_resid(1), GraphError, r"embed -> mlp\[1\] was cut"),
        (lambda g: g.spine().do("resid[1]").without_resid(), GraphError, r"resid\[1\] was set"),
        (lambda g: g.is_d_separated("embed", "norm", "embed"), GraphError, "embed lies in two"),
        (lambda g: CausalGraph.from_blocks([Block(1)]), GraphError, "numbered from 0"),
        (lambda g: CausalGraph.from_blocks([Block(0)], granularity="head"), GraphError, "none does"),
        (lambda g: CausalGraph.from_blocks([Block(0)], granularity="heads"), GraphError, "did you mean 'head'"),
        (lambda g: CausalGraph.from_blocks([Block(0)], meta={"a": 1}), GraphError, "text to text"),
        (lambda g: CausalGraph.from_edges(["embed", "embed"], []), GraphError, "listed twice"),
        (lambda g: CausalGraph.from_edges(["embed", "norm@1"], []), GraphError, "unroll all or none"),
        (lambda g: CausalGraph.from_edges(["embed"], ["embed -> norm"]), UnknownNodeError, "norm is not a node"),
        (lambda g: CausalGraph.from_edges(["attn[99999999]"], []), GraphError, "at most 10000 layers"),
        (lambda g: CausalGraph.from_edges(["mlp[0]"], [], blocks=[Block(0, mlp=False)]), GraphError, "has none"),
        (lambda g: CausalGraph.from_edges(["mlp[1]"], [], blocks=[Block(0)]), GraphError, "has 1 layers"),
        (lambda g: CausalGraph.from_edges(["embed"], []).readout, GraphError, "no logits node"),
        (lambda g: Block(0, window=0), GraphError, "block 0: window"),
        (lambda g: Block(0, mixer="atention"), GraphError, "did you mean 'attention'"),
        (lambda g: Block(0, attn=False, mlp=False), GraphError, "neither"),
        (lambda g: Block(0, parallel="yes"), GraphError, "True or False"),
        (lambda g: Node.parse("attn[" + "9" * 5000 + "]"), UnknownNodeError, "is not a node"),
        (lambda g: Node.parse("attn[٣]"), UnknownNodeError, "is not a node"),
    ],
)  # fmt: skip
def test_refusals(graph, call, error, message):
    with pytest.raises(error, match=message):
        call(graph)


def test_errors_are_builtins(graph):
    with pytest.raises(KeyError):
        graph.parents("mlp[5]")
    with pytest.raises(ValueError, match="already"):
        graph.add_edges(["embed -> mlp[0]"])


def test_frozen_hashable_and_copied(graph):
    with pytest.raises(AttributeError):
        graph.name = "other"
    cut = graph.do("mlp[0]", ["attn[0] -> norm"])
    for other in (pickle.loads(pickle.dumps(cut)), copy.deepcopy(cut)):
        assert other == cut
        assert hash(other) == hash(cut)
        assert other.severed_edges == cut.severed_edges
    assert graph != "graph"
    assert len({graph, cut, cut.without_do()}) == 2
    # A cached hash of texts would be wrong in another process.
    assert "_hash" not in cut.__getstate__()


def test_views_are_copies(graph):
    graph.meta["family"] = "other"
    assert graph.meta == {"family": "none"}
    graph.nx.remove_node("embed")
    assert "embed" in graph.nx
    assert "embed" in graph
    assert "resid[0]" not in graph
    assert "nonsense" not in graph
    assert Node("embed") in graph


def test_repr(graph):
    assert repr(graph) == "CausalGraph('toy', 2 layers, 7 nodes, 21 edges)"
    assert repr(graph.with_heads().unroll(2).do("embed@0")).endswith("granularity='head', 2 positions, do(embed@0))")


def test_edge_text():
    edge = Edge(Node("attn", 0), Node("mlp", 1))
    assert Edge.parse(str(edge)) == edge
    with pytest.raises(GraphError, match="not an edge"):
        Edge.parse("attn[0] mlp[1]")
