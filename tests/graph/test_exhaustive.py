"""Every node, pair and small set of chosen graphs, one of each form, against networkx."""

import itertools

import networkx
import pytest

from causalnet.graph import Block, CausalGraph

THREE = [Block(0, heads=2, window=2), Block(1, parallel=True, heads=1, heads_sum=False), Block(2, window=3)]
TWO = [Block(0), Block(1, parallel=True)]
FORMS = {
    "layers": CausalGraph.from_blocks(THREE),
    "heads": CausalGraph.from_blocks(THREE, granularity="head"),
    "positions": CausalGraph.from_blocks(TWO).unroll(3),
    "windows": CausalGraph.from_blocks(THREE).unroll(4),
    "later positions": CausalGraph.from_blocks(THREE).unroll(range(5, 8)),
    "spine": CausalGraph.from_blocks(THREE).spine(),
    "resid": CausalGraph.from_blocks(THREE).with_resid([1, 3]),
    "spine over positions": CausalGraph.from_blocks(TWO).spine().unroll(3),
    "resid at a position": CausalGraph.from_blocks(THREE).unroll(3).with_resid(1, [1]).with_resid(2, [0, 1]),
    "cut": CausalGraph.from_blocks(THREE).remove_edges(["attn[0] -> mlp[0]", "embed -> attn[2]", "mlp[1] -> logits"]),
    "cut positions": CausalGraph.from_blocks(TWO).remove_edges(["attn[0] -> attn[1]", "embed -> mlp[1]"]).unroll(3),
    "mutilated": CausalGraph.from_blocks(THREE, granularity="head").do(["mlp[1]", "attn[0]"], ["embed -> norm"]),
    "mutilated positions": CausalGraph.from_blocks(TWO).unroll(3).do("attn[1]@2", ["attn[0]@0 -> mlp[0]@0"]),
}


def listed(graph: CausalGraph) -> networkx.DiGraph:
    copy = networkx.DiGraph()
    copy.add_nodes_from(graph.nodes)
    copy.add_edges_from((a, b) for a in graph.nodes for b in graph.nodes if graph.has_edge(a, b))
    return copy


@pytest.mark.parametrize("form", FORMS)
def test_every_node(form):
    graph = FORMS[form]
    brute = listed(graph)
    assert networkx.is_directed_acyclic_graph(brute)
    assert set(graph.edges()) == set(brute.edges)
    assert graph.number_of_edges == len(brute.edges)
    for node in graph.nodes:
        assert graph.parents(node) == set(brute.predecessors(node))
        assert graph.children(node) == set(brute.successors(node))
        assert graph.ancestors(node) == networkx.ancestors(brute, node)
        assert graph.descendants(node) == networkx.descendants(brute, node)


@pytest.mark.parametrize("form", FORMS)
def test_every_pair_taken_together(form):
    graph = FORMS[form]
    brute = listed(graph)
    down = {node: networkx.descendants(brute, node) for node in brute}
    up = {node: networkx.ancestors(brute, node) for node in brute}
    for pair in itertools.combinations(graph.nodes, 2):
        assert graph.descendants(pair) == (down[pair[0]] | down[pair[1]]) - set(pair)
        assert graph.ancestors(pair) == (up[pair[0]] | up[pair[1]]) - set(pair)


@pytest.mark.parametrize("form", FORMS)
def test_d_separation_given_nothing_one_node_and_the_parents(form):
    graph = FORMS[form]
    brute = listed(graph)
    places = range(len(graph))
    for a, b in itertools.combinations(places, 2):
        first, second = graph.nodes[a], graph.nodes[b]
        third = graph.nodes[(a * 7 + b * 3) % len(graph)]
        for given in (set(), {third}, set(graph.parents(first)), set(graph.parents(second)), graph.ancestors(second)):
            known = set(given) - {first, second}
            assert graph.is_d_separated(first, second, known) == networkx.is_d_separator(
                brute, {first}, {second}, known
            )
