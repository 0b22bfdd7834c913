"""Small graphs equal the ones on paper, edge by edge."""

import pytest

from causalnet.errors import GraphError, UnknownNodeError
from causalnet.graph import Block, CausalGraph, Edge, Node

SEQUENTIAL = """
embed -> attn[0]
embed -> mlp[0]
attn[0] -> mlp[0]
embed -> attn[1]
attn[0] -> attn[1]
mlp[0] -> attn[1]
embed -> mlp[1]
attn[0] -> mlp[1]
mlp[0] -> mlp[1]
attn[1] -> mlp[1]
embed -> norm
attn[0] -> norm
mlp[0] -> norm
attn[1] -> norm
mlp[1] -> norm
embed -> logits
attn[0] -> logits
mlp[0] -> logits
attn[1] -> logits
mlp[1] -> logits
norm -> logits
"""
NODES = ["embed", "attn[0]", "mlp[0]", "attn[1]", "mlp[1]", "norm", "logits"]


def lines(text: str) -> list[str]:
    return text.strip().splitlines()


def written(graph: CausalGraph) -> list[str]:
    return [str(edge) for edge in graph.edges()]


def test_two_sequential_layers():
    graph = CausalGraph.from_blocks([Block(0), Block(1)])
    assert [str(node) for node in graph.nodes] == NODES
    assert written(graph) == lines(SEQUENTIAL)
    assert graph.number_of_edges == 21
    assert graph == CausalGraph.from_edges(NODES, lines(SEQUENTIAL))


def test_two_parallel_layers_lack_exactly_the_edges_inside_a_block():
    graph = CausalGraph.from_blocks([Block(0, parallel=True), Block(1, parallel=True)])
    paper = [line for line in lines(SEQUENTIAL) if line not in ("attn[0] -> mlp[0]", "attn[1] -> mlp[1]")]
    assert written(graph) == paper
    assert graph == CausalGraph.from_edges(NODES, paper)
    assert graph != CausalGraph.from_blocks([Block(0), Block(1)])


def test_heads_have_the_edges_of_their_attention_and_its_bias_those_out_of_it():
    graph = CausalGraph.from_blocks([Block(0, heads=2), Block(1)], granularity="head")
    assert written(graph) == lines(
        """
embed -> attn[0].head[0]
embed -> attn[0].head[1]
embed -> mlp[0]
attn[0].head[0] -> mlp[0]
attn[0].head[1] -> mlp[0]
attn[0].bias -> mlp[0]
embed -> attn[1]
attn[0].head[0] -> attn[1]
attn[0].head[1] -> attn[1]
attn[0].bias -> attn[1]
mlp[0] -> attn[1]
embed -> mlp[1]
attn[0].head[0] -> mlp[1]
attn[0].head[1] -> mlp[1]
attn[0].bias -> mlp[1]
mlp[0] -> mlp[1]
attn[1] -> mlp[1]
embed -> norm
attn[0].head[0] -> norm
attn[0].head[1] -> norm
attn[0].bias -> norm
mlp[0] -> norm
attn[1] -> norm
mlp[1] -> norm
embed -> logits
attn[0].head[0] -> logits
attn[0].head[1] -> logits
attn[0].bias -> logits
mlp[0] -> logits
attn[1] -> logits
mlp[1] -> logits
norm -> logits
"""
    )
    assert graph.granularity == "head"


def test_heads_before_a_norm_only_feed_their_attention():
    graph = CausalGraph.from_blocks([Block(0, heads=2, heads_sum=False)], granularity="head")
    assert written(graph) == lines(
        """
embed -> attn[0].head[0]
embed -> attn[0].head[1]
attn[0].head[0] -> attn[0]
attn[0].head[1] -> attn[0]
attn[0].bias -> attn[0]
embed -> mlp[0]
attn[0] -> mlp[0]
embed -> norm
attn[0] -> norm
mlp[0] -> norm
embed -> logits
attn[0] -> logits
mlp[0] -> logits
norm -> logits
"""
    )
    assert [str(node) for node in graph.contributors] == ["embed", "attn[0]", "mlp[0]"]


def test_layers_without_a_mixer_or_an_mlp():
    graph = CausalGraph.from_blocks([Block(0, attn=False), Block(1, mlp=False)])
    assert [str(node) for node in graph.nodes] == ["embed", "mlp[0]", "attn[1]", "norm", "logits"]
    assert {str(node) for node in graph.parents("attn[1]")} == {"embed", "mlp[0]"}


def test_spine_of_a_sequential_and_a_parallel_layer():
    graph = CausalGraph.from_blocks([Block(0), Block(1, parallel=True)]).spine()
    assert written(graph) == lines(
        """
embed -> resid[0]
resid[0] -> attn[0]
resid[0] -> mlp[0]
attn[0] -> mlp[0]
resid[0] -> resid[1]
attn[0] -> resid[1]
mlp[0] -> resid[1]
resid[1] -> attn[1]
resid[1] -> mlp[1]
resid[1] -> resid[2]
attn[1] -> resid[2]
mlp[1] -> resid[2]
resid[2] -> norm
resid[2] -> logits
norm -> logits
"""
    )


def test_a_residual_stream_that_is_set_stands_between():
    graph = CausalGraph.from_blocks([Block(0), Block(1)]).with_resid(1)
    assert written(graph) == lines(
        """
embed -> attn[0]
embed -> mlp[0]
attn[0] -> mlp[0]
embed -> resid[1]
attn[0] -> resid[1]
mlp[0] -> resid[1]
resid[1] -> attn[1]
resid[1] -> mlp[1]
attn[1] -> mlp[1]
resid[1] -> norm
attn[1] -> norm
mlp[1] -> norm
resid[1] -> logits
attn[1] -> logits
mlp[1] -> logits
norm -> logits
"""
    )
    assert [str(node) for node in graph.contributors] == ["attn[1]", "mlp[1]"]
    assert not graph.do("resid[1]").mediators("attn[0]")


def test_unrolled_positions_are_crossed_only_into_the_mixer_and_inside_its_window():
    graph = CausalGraph.from_blocks([Block(0, window=2)]).unroll(3)
    across = [str(edge) for edge in graph.edges() if edge.source.position != edge.target.position]
    assert across == ["embed@0 -> attn[0]@1", "embed@1 -> attn[0]@2"]
    assert len(graph) == 15
    # 10 edges at each position, and the two above.
    assert graph.number_of_edges == 3 * 10 + 2
    assert str(graph.readout) == "logits@2"
    assert [str(node) for node in graph.contributors] == ["embed@2", "attn[0]@2", "mlp[0]@2"]
    assert {str(node) for node in graph.mediators("embed@0")} == set()
    assert {str(node) for node in graph.mediators("embed@1")} == {"attn[0]@2", "mlp[0]@2", "norm@2"}


def test_a_residual_stream_set_at_one_position_is_bypassed_at_others():
    graph = CausalGraph.from_blocks([Block(0), Block(1)]).unroll(2).with_resid(1, positions=[0])
    assert {str(node) for node in graph.parents("attn[1]@1")} == {
        "resid[1]@0", "embed@1", "attn[0]@1", "mlp[0]@1",
    }  # fmt: skip
    assert {str(node) for node in graph.parents("resid[1]@0")} == {"embed@0", "attn[0]@0", "mlp[0]@0"}
    assert {str(node) for node in graph.parents("attn[0]@1")} == {"embed@0", "embed@1"}


def test_do_cuts_what_was_set_and_remembers_it():
    graph = CausalGraph.from_blocks([Block(0), Block(1)])
    cut = graph.do("mlp[0]", edges=["attn[0] -> norm"])
    assert set(written(graph)) - set(written(cut)) == {
        "embed -> mlp[0]", "attn[0] -> mlp[0]", "attn[0] -> norm",
    }  # fmt: skip
    assert cut.intervened_nodes == {Node("mlp", 0)}
    assert cut.set_edges == {Edge.parse("attn[0] -> norm")}
    assert cut.severed_edges == set(graph.edges()) - set(cut.edges())
    assert cut.without_do() == graph
    assert cut.do("mlp[0]", edges=["attn[0] -> norm"]) == cut
    assert graph.do("embed") != graph
    wire = graph.do(edges=["norm -> logits"])
    assert wire.number_of_edges == len(list(wire.edges())) == 20


def test_an_edge_against_the_usual_order():
    nodes = ["embed", "attn[0]", "mlp[0]", "logits"]
    graph = CausalGraph.from_edges(nodes, ["embed -> mlp[0]", "mlp[0] -> attn[0]", "attn[0] -> logits"])
    assert [str(node) for node in graph.nodes] == ["embed", "mlp[0]", "attn[0]", "logits"]
    assert {str(node) for node in graph.mediators("embed")} == {"mlp[0]", "attn[0]"}
    with pytest.raises(GraphError, match=r"cycle: .*attn\[0\]"):
        graph.add_edges(["attn[0] -> mlp[0]"])


def test_a_residual_stream_in_a_graph_of_unusual_order():
    graph = CausalGraph.from_blocks([Block(0), Block(1)])
    graph = graph.remove_edges(["attn[0] -> mlp[0]"]).add_edges(["mlp[0] -> attn[0]"]).with_resid(1)
    assert [str(node) for node in graph.nodes][:4] == ["embed", "mlp[0]", "attn[0]", "resid[1]"]
    assert {str(node) for node in graph.parents("resid[1]")} == {"embed", "mlp[0]", "attn[0]"}


def test_an_edge_around_a_residual_stream_is_told_once_when_the_stream_is_no_node():
    graph = CausalGraph.from_blocks([Block(0), Block(1)])
    around = graph.with_resid(1).add_edges(["embed -> attn[1]"])
    assert around.has_edge("embed", "attn[1]")
    assert around.without_resid() == graph
    assert around.without_resid().number_of_edges == 21


def test_references_stand_for_what_they_are_made_of():
    graph = CausalGraph.from_blocks([Block(0, heads=2), Block(1, heads=2, heads_sum=False)], granularity="head")
    assert [str(node) for node in graph.resolve("attn[0]")] == ["attn[0].head[0]", "attn[0].head[1]", "attn[0].bias"]
    assert [str(node) for node in graph.resolve("attn[1]")] == ["attn[1]"]
    unrolled = graph.unroll(2)
    assert [str(node) for node in unrolled.resolve("attn[1]")] == ["attn[1]@0", "attn[1]@1"]
    assert str(unrolled.resolve("attn[0]@1")[0]) == "attn[0].head[0]@1"
    assert unrolled.do("attn[0]") == graph.do("attn[0]").unroll(2)
    with pytest.raises(UnknownNodeError, match="stands for 3 nodes"):
        graph.parents("attn[0]")


@pytest.mark.parametrize(
    ("reference", "names"),
    [
        ("attn[1:3]@last", ["attn[1]@2", "attn[2]@2"]),
        ("mlp[-1]@0:2", ["mlp[3]@0", "mlp[3]@1"]),
        ("mlp[:1]", ["mlp[0]@0", "mlp[0]@1", "mlp[0]@2"]),
        ("norm@-2", ["norm@1"]),
        ("embed@2", ["embed@2"]),
    ],
)
def test_select(reference, names):
    graph = CausalGraph.from_blocks([Block(layer) for layer in range(4)]).unroll(3)
    assert [str(node) for node in graph.select(reference)] == names


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("attn[4]", "run from 0 to 3"),
        ("attn[2:1]", "names no node"),
        ("attn", "cannot read"),
        ("norm[1]", "cannot read"),
        ("mlp[1].head[0]", "only attn"),
        ("attn[1].head[0]", "no number 0|names no node"),
        ("attn[1]@0", "no positions"),
        ("attn[1:2:3]", "neither a number nor a slice"),
    ],
)
def test_select_refuses(reference, message):
    graph = CausalGraph.from_blocks([Block(layer) for layer in range(4)])
    with pytest.raises(UnknownNodeError, match=message):
        graph.select(reference)


def test_select_heads():
    graph = CausalGraph.from_blocks([Block(0, heads=3), Block(1, heads=3)], granularity="head")
    assert [str(node) for node in graph.select("attn[1].head[-2:]")] == ["attn[1].head[1]", "attn[1].head[2]"]
    assert [str(node) for node in graph.select("attn[:].bias")] == ["attn[0].bias", "attn[1].bias"]
    assert len(graph.select("attn[0]")) == 4
