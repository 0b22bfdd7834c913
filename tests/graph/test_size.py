"""Large graphs stay small: what is counted is work and memory, never time."""

import subprocess
import sys
import tracemalloc

import pytest

from causalnet.errors import GraphError
from causalnet.graph import Block, CausalGraph, Node, layout
from causalnet.graph.structure import Wave

LAYERS, HEADS = 80, 64


@pytest.fixture(scope="module")
def large() -> CausalGraph:
    return CausalGraph.from_blocks([Block(layer, heads=HEADS) for layer in range(LAYERS)], granularity="head")


def closed_form(layers: int, heads: int) -> int:
    """Count the edges of a sequential graph with heads and a bias per layer by hand."""
    width = heads + 1
    into_mixers = sum(heads * (1 + layer * (width + 1)) for layer in range(layers))
    into_mlps = sum(1 + layer * (width + 1) + width for layer in range(layers))
    return into_mixers + into_mlps + 2 * (1 + layers * (width + 1)) + 1


def test_edges_are_counted_not_stored(large):
    assert large.number_of_edges == closed_form(LAYERS, HEADS) == 13_577_363
    assert closed_form(1, 1) == len(list(CausalGraph.from_blocks([Block(0, heads=1)]).with_heads().edges()))
    assert len(large) == LAYERS * (HEADS + 2) + 3
    # norm -> logits is the only edge that the stages do not imply.
    assert len(large.extra) == 1
    assert not large.missing
    structure = large._live
    assert len(structure.down.members) <= 2 * LAYERS + 2
    assert len(structure.up.members) <= 3 * LAYERS + 1


def test_memory_of_a_large_graph():
    tracemalloc.start()
    try:
        graph = CausalGraph.from_blocks([Block(at, heads=HEADS) for at in range(LAYERS)], granularity="head")
        assert len(graph.descendants("embed")) == len(graph) - 1 - LAYERS  # all but the biases, which are constants
        assert graph.is_d_separated("attn[5].head[0]", "attn[5].head[1]", graph.parents("attn[5].head[0]"))
        graph.remove_edges(["embed -> mlp[70]"]).do("attn[3]").descendants("mlp[1]")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 30e6


def test_a_sweep_meets_classes_not_edges(large, monkeypatch):
    side = large._live.down
    asked = []
    plain = side.ranges
    monkeypatch.setattr(side, "ranges", lambda key: asked.append(key) or plain(key))
    found = Wave(side).flood([large._index[large.resolve("embed")[0]]])
    assert len(found) == len(large) - 1 - LAYERS
    assert len(asked) == len(set(asked)) <= 3 * LAYERS + 1


def test_the_first_query_makes_a_slot_per_layer_and_hashes_each_node_once(monkeypatch):
    graph = CausalGraph.from_blocks([Block(at, heads=HEADS) for at in range(LAYERS)], granularity="head")
    made, hashed = [], []
    stages, plain = layout._stages, Node.__hash__
    monkeypatch.setattr(layout, "_stages", lambda node, *more: made.append(node) or stages(node, *more))
    monkeypatch.setattr(Node, "__hash__", lambda node: hashed.append(1) or plain(node))
    assert len(graph.descendants("attn[0].head[5]")) == len(graph) - 1 - LAYERS - HEADS
    # Heads, bias and MLP of each layer; embed, norm, logits.
    assert len(made) == 3 * LAYERS + 3
    # Besides: the node that was named, and what it does not reach.
    assert len(hashed) <= len(graph) + LAYERS + HEADS + 10


def test_surgery_on_a_large_graph_stores_what_was_cut(large):
    cut = large.remove_edges(["attn[3] -> mlp[3]"])
    assert len(cut.missing) == HEADS + 1
    hard = large.do("attn[70]")
    assert not hard.missing
    assert len(hard.severed_edges) == HEADS * (1 + 70 * (HEADS + 2))
    assert hard.number_of_edges == large.number_of_edges - len(hard.severed_edges)


@pytest.mark.parametrize(
    "write",
    [lambda graph: graph.nx, CausalGraph.to_nx, CausalGraph.to_json, CausalGraph.to_graphml, CausalGraph.to_dot],
)
def test_a_million_edges_are_listed_only_on_demand(large, write):
    with pytest.raises(GraphError, match=r"13,577,363 edges; spine\(\) is its sparse form, dense=True"):
        write(large)


def test_dense_lists_them_all():
    graph = CausalGraph.from_blocks([Block(at, heads=100) for at in range(15)], granularity="head")
    assert graph.number_of_edges > 1_000_000
    with pytest.raises(GraphError, match="dense=True"):
        _ = graph.nx
    assert graph.to_nx(dense=True).number_of_edges() == graph.number_of_edges == closed_form(15, 100)
    with pytest.raises(GraphError, match="more than a million"):
        _ = graph.do(list(graph.nodes)).severed_edges


def test_the_spine_of_a_large_graph_is_small_and_goes_round(large):
    spine = large.spine()
    # Per layer: stream -> heads, MLP and next stream; heads, bias -> MLP and next stream; MLP -> next stream.
    assert spine.number_of_edges == LAYERS * (HEADS + 2 * (HEADS + 1) + 3) + 4
    again = CausalGraph.from_json(spine.to_json())
    assert again == spine
    assert again.without_resid() == large


def test_a_sparse_circuit_of_a_large_graph_is_kept_as_its_edges(large):
    edges = [("embed", "attn[3].head[5]"), ("attn[3].head[5]", "mlp[60]"), ("mlp[60]", "logits")]
    circuit = CausalGraph.from_edges(large.nodes, edges)
    assert circuit.number_of_edges == len(circuit.extra) == 3
    assert circuit.ancestors("logits") == set(circuit.resolve(["embed", "attn[3].head[5]", "mlp[60]"]))
    assert circuit.unroll(2).number_of_edges == 3 + 2 + 2
    with pytest.raises(GraphError, match="do not follow a residual stream"):
        circuit.spine()


def test_graphs_need_no_torch():
    heavy = "{'torch', 'transformers', 'dowhy', 'matplotlib'}"
    code = f"import sys, causalnet.graph; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
