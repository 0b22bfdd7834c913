"""The implicit structure against networkx on graphs that are small enough to list."""

import networkx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from causalnet.graph import Block, CausalGraph, Edge, Node

MIXING = ("attn", "head", "bias")
# Machines are shared and slow at times; what is tested is the answer.
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def block_lists(draw, most=3):
    blocks = []
    for layer in range(draw(st.integers(0, most))):
        attn, mlp = draw(st.sampled_from([(True, True), (True, True), (True, False), (False, True)]))
        blocks.append(
            Block(
                layer,
                attn=attn,
                mlp=mlp,
                parallel=draw(st.booleans()),
                heads=draw(st.sampled_from([None, 1, 2])),
                window=draw(st.sampled_from([None, 1, 2])),
                mixer=draw(st.sampled_from(["attention", "convolution", "recurrent"])),
                heads_sum=draw(st.booleans()),
            )
        )
    return blocks


@st.composite
def graphs(draw, most=3, positions=3):
    """Graphs of every form: heads, positions, residual streams, surgery, interventions."""
    graph = CausalGraph.from_blocks(draw(block_lists(most)), name=draw(st.text(max_size=5)))
    if draw(st.booleans()):
        graph = graph.with_heads()
    if draw(st.booleans()):
        graph = graph.unroll(range(draw(st.integers(0, 2)), draw(st.integers(3, 2 + positions))))
    if draw(st.booleans()):
        layers = draw(st.sets(st.integers(0, graph.layers)))
        at = draw(st.sets(st.sampled_from(graph.positions), min_size=1)) if graph.positions else None
        graph = graph.with_resid(layers, at)
    edges = list(graph.edges())
    if edges and draw(st.booleans()):
        graph = graph.remove_edges(draw(st.lists(st.sampled_from(edges), max_size=4, unique=True)))
    if draw(st.booleans()):
        edges = list(graph.edges())
        hard = draw(st.lists(st.sampled_from(graph.nodes), max_size=2))
        graph = graph.do(hard, draw(st.lists(st.sampled_from(edges), max_size=3)) if edges else [])
    return graph


@st.composite
def hand_made(draw):
    """Graphs whose edges follow no stages."""
    names = ["embed", "attn[0]", "mlp[0]", "attn[1]", "attn[1].head[0]", "mlp[3]", "norm", "logits"]
    order = draw(st.permutations([Node.parse(name) for name in names]))
    pairs = [Edge(a, b) for at, a in enumerate(order) for b in order[at + 1 :]]
    return CausalGraph.from_edges(order, draw(st.lists(st.sampled_from(pairs), unique=True)))


def listed(graph: CausalGraph) -> networkx.DiGraph:
    """List the edges by asking for each pair, not by the graph's own listing."""
    copy = networkx.DiGraph()
    copy.add_nodes_from(graph.nodes)
    copy.add_edges_from((a, b) for a in graph.nodes for b in graph.nodes if graph.has_edge(a, b))
    return copy


def rank(node: Node, *, reads: bool, blocks) -> tuple[int, int]:
    """Return the moment of a node in words of layers: (layer, 0 stream, 1 mixer, 2 MLP)."""
    if node.layer is None:
        return (-1, 0) if node.kind == "embed" else (len(blocks), 1)
    if node.kind == "resid":
        return node.layer, 0
    if node.kind in MIXING:
        return node.layer, 1
    return node.layer, 1 if blocks[node.layer].parallel and reads else 2


def sees(source: Node, target: Node, blocks, nodes: set[Node]) -> bool:
    """Say in words of layers whether there is an edge: the definition, written a second time."""
    own = (source.layer, source.position) == (target.layer, target.position)
    if source.kind == "norm":
        return target.kind == "logits" and source.position == target.position
    gathered = source.kind in ("head", "bias") and Node("attn", source.layer, position=source.position) in nodes
    if gathered:
        return own and target.kind == "attn"
    if target.kind == "attn" and Node("bias", target.layer, position=target.position) in nodes:
        return False
    if source.kind == "logits" or target.kind in ("embed", "bias"):
        return False
    wrote, reads = rank(source, reads=False, blocks=blocks), rank(target, reads=True, blocks=blocks)
    if not wrote < reads:
        return False
    if source.position != target.position:
        window = blocks[target.layer].window if target.kind in MIXING and target.layer is not None else 1
        back = (target.position or 0) - (source.position or 0)
        if back < 0 or (window is not None and back >= window):
            return False
    return not any(
        other.kind == "resid"
        and other.position == source.position
        and wrote < rank(other, reads=True, blocks=blocks) < reads
        for other in nodes
    )


@relaxed
@given(block_lists(), st.booleans(), st.integers(0, 3), st.data())
def test_edges_are_those_of_the_definition(blocks, heads, positions, data):
    graph = CausalGraph.from_blocks(blocks)
    graph = graph.with_heads() if heads else graph
    graph = graph.unroll(positions) if positions else graph
    at = data.draw(st.sets(st.sampled_from(graph.positions), min_size=1)) if positions else None
    graph = graph.with_resid(data.draw(st.sets(st.integers(0, len(blocks)))), at)
    nodes = set(graph.nodes)
    expected = {Edge(a, b) for a in nodes for b in nodes if sees(a, b, blocks, nodes)}
    assert set(graph.edges()) == expected


@settings(relaxed, max_examples=200)
@given(st.one_of(graphs(), hand_made()), st.data())
def test_queries_are_those_of_networkx(graph, data):
    brute = listed(graph)
    assert list(networkx.topological_sort(brute)) is not None
    assert graph.number_of_edges == brute.number_of_edges()
    assert set(graph.edges()) == set(brute.edges)
    assert graph.nx.number_of_edges() == brute.number_of_edges()
    place = {node: at for at, node in enumerate(graph.nodes)}
    assert all(place[a] < place[b] for a, b in brute.edges)
    some = st.lists(st.sampled_from(graph.nodes), min_size=1, max_size=3, unique=True)
    x, y = data.draw(some), data.draw(some)
    down = set().union(*(networkx.descendants(brute, node) for node in x)) - set(x)
    up = set().union(*(networkx.ancestors(brute, node) for node in y)) - set(y)
    assert graph.descendants(x) == down
    assert graph.ancestors(y) == up
    assert graph.between(x, y) == down & up
    assert graph.mediators(x, y) == down & up
    assert graph.cone(x, y) == (down | set(x)) & (up | set(y))
    assert graph.parents(x[0]) == set(brute.predecessors(x[0]))
    assert graph.children(x[0]) == set(brute.successors(x[0]))
    if "logits" in graph and x[0].kind in MIXING:
        assert graph.mediators(x[0]) == graph.descendants(x[0]) & graph.ancestors("logits")


@settings(relaxed, max_examples=300)
@given(st.one_of(graphs(most=2, positions=2), hand_made()), st.data())
def test_d_separation_is_that_of_networkx(graph, data):
    sides = data.draw(st.lists(st.sampled_from("  xyzzz"), min_size=len(graph), max_size=len(graph)))
    x, y, z = ({node for node, side in zip(graph.nodes, sides, strict=True) if side == which} for which in "xyz")
    if x and y:
        assert graph.is_d_separated(x, y, z) == networkx.is_d_separator(listed(graph), x, y, z)


@relaxed
@given(st.data())
def test_separated_pairs_are_met(data):
    """Random triples are seldom separated in a dense graph: aim at those that are."""
    graph = data.draw(graphs(most=2, positions=1))
    node = data.draw(st.sampled_from(graph.nodes))
    parents = graph.parents(node)
    others = set(graph.nodes) - parents - graph.descendants(node) - {node}
    if others:
        assert graph.is_d_separated(node, others, parents)
        assert networkx.is_d_separator(listed(graph), {node}, others, set(parents))


@relaxed
@given(st.one_of(graphs(), hand_made()))
def test_exchange_gives_the_equal_graph(graph):
    for write, read in (("to_json", "from_json"), ("to_graphml", "from_graphml")):
        text = getattr(graph, write)()
        other = getattr(CausalGraph, read)(text)
        assert other == graph
        assert hash(other) == hash(graph)
        assert (other.name, other.blocks, other.notes) == (graph.name, graph.blocks, graph.notes)
        assert other.nodes == graph.nodes
        assert other.severed_edges == graph.severed_edges
        assert getattr(other, write)() == text
        assert other.to_dot() == graph.to_dot()


@relaxed
@given(graphs(), st.randoms())
def test_a_list_of_edges_gives_the_equal_graph(graph, random):
    graph = graph.without_do()
    nodes, edges = list(graph.nodes), list(graph.edges())
    random.shuffle(nodes)
    random.shuffle(edges)
    assert CausalGraph.from_edges(nodes, edges) == graph
    if edges:
        assert CausalGraph.from_edges(nodes, edges[1:]) != graph
        assert CausalGraph.from_edges(nodes, edges[1:]) == graph.remove_edges(edges[:1])
        assert graph.remove_edges(edges[:1]).add_edges(edges[:1]) == graph


@relaxed
@given(block_lists(), st.integers(1, 3), st.data())
def test_refinements_commute(blocks, positions, data):
    graph = CausalGraph.from_blocks(blocks)
    edges = data.draw(st.lists(st.sampled_from(list(graph.edges())), max_size=2))
    graph = graph.do(data.draw(st.lists(st.sampled_from(graph.nodes), max_size=2)), edges)
    unrolled = graph.unroll(positions)
    assert unrolled.with_heads() == graph.with_heads().unroll(positions)
    assert unrolled.without_do() == graph.without_do().unroll(positions)
    whole = graph.without_do()
    layer = data.draw(st.integers(0, len(blocks)))
    assert whole.with_resid(layer).unroll(positions) == whole.unroll(positions).with_resid(layer)
    assert whole.spine().unroll(positions) == whole.unroll(positions).spine()
    assert whole.with_heads().spine() == whole.spine().with_heads()
    assert whole.spine().without_resid() == whole
    assert whole.with_resid(layer).spine() == whole.spine()


@relaxed
@given(block_lists(), st.booleans(), st.data())
def test_heads_have_the_edges_that_surgery_left_to_their_attention(blocks, unrolled, data):
    graph = CausalGraph.from_blocks(blocks)
    graph = graph.unroll(2) if unrolled else graph
    some = st.lists(st.sampled_from(list(graph.edges())), max_size=6, unique=True)
    graph = graph.remove_edges(data.draw(some))
    graph = graph.do(data.draw(st.lists(st.sampled_from(graph.nodes), max_size=2)))
    fine = graph.with_heads()
    gathering = {node for node in fine.nodes if node.kind == "attn" and node in graph and node.layer is not None}
    gathering = {node for node in gathering if Node("bias", node.layer, position=node.position) in fine}

    def coarse(node):
        return Node("attn", node.layer, position=node.position) if node.kind in ("head", "bias") else node

    for a in fine.nodes:
        for b in fine.nodes:
            if coarse(a) in gathering and a not in gathering:
                expected = coarse(a) == b and b not in graph.intervened_nodes
            elif b in gathering or b.kind == "bias":
                expected = False
            elif coarse(b) in gathering:
                # The gathering attention may be set; its heads then still read what they read.
                expected = graph.without_do().has_edge(coarse(a), coarse(b))
            else:
                expected = graph.has_edge(coarse(a), coarse(b))
            assert fine.has_edge(a, b) == expected, (str(a), str(b))


@relaxed
@given(graphs(), st.data())
def test_interventions_commute_and_are_idempotent(graph, data):
    some = st.lists(st.sampled_from(graph.nodes), max_size=2)
    first, second = data.draw(some), data.draw(some)
    both = graph.do(first).do(second)
    assert both == graph.do(second).do(first) == graph.do([*first, *second])
    assert both.do(first) == both
    assert not any(both.parents(node) for node in [*first, *second])
    assert set(both.edges()) | both.severed_edges == set(graph.edges()) | graph.severed_edges
    assert not set(both.edges()) & both.severed_edges
    # What is not downstream of a set node has the parents that it had.
    for node in set(graph.nodes) - set(first) - set(second):
        assert both.parents(node) == graph.parents(node)


@relaxed
@given(block_lists(), st.integers(0, 2))
def test_the_spine_keeps_who_reaches_whom(blocks, positions):
    graph = CausalGraph.from_blocks(blocks)
    graph = graph.unroll(positions) if positions else graph
    spine = graph.spine()
    for node in graph.nodes:
        assert {other for other in spine.descendants(node) if other.kind != "resid"} == graph.descendants(node)


@relaxed
@given(graphs())
def test_names_read_back(graph):
    for node in graph.nodes:
        assert Node.parse(str(node)) == node
    for edge in graph.edges():
        assert Edge.parse(str(edge)) == edge


@relaxed
@given(block_lists(), st.integers(2, 4))
def test_laws_of_the_compiled_graph(blocks, positions):
    """Law 8: nothing before p, only mixers cross positions, heads of a layer do not reach each other."""
    graph = CausalGraph.from_blocks(blocks).with_heads().unroll(positions)
    for source, target in graph.edges():
        assert source.position is not None
        assert target.position is not None
        assert source.position <= target.position
        assert source.position == target.position or target.kind in MIXING
    flat = CausalGraph.from_blocks(blocks)
    for block in blocks:
        if block.attn and block.mlp:
            assert flat.has_edge(f"attn[{block.layer}]", f"mlp[{block.layer}]") != block.parallel
            assert (Node("mlp", block.layer) in flat.descendants(f"attn[{block.layer}]")) != block.parallel
    opened = flat.with_heads()
    for node in opened.nodes:
        if node.kind == "head":
            assert not {
                other for other in opened.descendants(node) if other.kind == "head" and other.layer == node.layer
            }
