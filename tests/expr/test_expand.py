"""What a sentence means on a graph: expansions worked out by hand."""

import pytest

from causalnet.errors import ExpressionError, UnknownNodeError
from causalnet.expr import (
    DE,
    LAST,
    MEAN,
    NATURAL,
    RESAMPLE,
    TE,
    ZERO,
    InWorld,
    Range,
    Site,
    World,
    attn,
    compile_queries,
    compile_query,
    last,
    mean,
    mlp,
    parse,
    resample,
    zero,
)
from causalnet.expr.conflicts import meet
from causalnet.expr.positions import At, Span
from causalnet.graph import Block, CausalGraph, Node

SEQUENTIAL = CausalGraph.from_blocks([Block(layer, heads=2) for layer in range(3)])
PARALLEL = CausalGraph.from_blocks([Block(layer, heads=2, parallel=True) for layer in range(3)])
NORMED = CausalGraph.from_blocks([Block(layer, heads=2, heads_sum=False) for layer in range(3)])
UNEVEN = CausalGraph.from_blocks([Block(0), Block(1, attn=False), Block(2, mlp=False)])
CHAIN = CausalGraph.from_edges(
    ["embed", "mlp[0]", "mlp[1]", "norm", "logits"],
    ["embed -> mlp[0]", "mlp[0] -> mlp[1]", "mlp[1] -> norm", "mlp[1] -> logits", "norm -> logits"],
)

# Of the sequential graph everything after attn[1]: mlp[1], attn[2], mlp[2], norm.
WORLDS = [
    (SEQUENTIAL, "attn[1]@last = resample", ["attn[1]@last = resample"]),
    (
        SEQUENTIAL,
        "attn[1]@last = resample, desc(attn[1]) = natural",
        ["attn[1]@last = resample", "mlp[1] = natural", "attn[2] = natural", "mlp[2] = natural", "norm = natural"],
    ),
    (
        PARALLEL,
        "attn[1]@last = resample, desc(attn[1]) = natural",
        ["attn[1]@last = resample", "attn[2] = natural", "mlp[2] = natural", "norm = natural"],
    ),
    (
        SEQUENTIAL,
        "desc(attn[2]) = under do(attn[2]@last = resample)",
        ["mlp[2] = under do(attn[2]@last = resample)", "norm = under do(attn[2]@last = resample)"],
    ),
    (SEQUENTIAL, "anc(mlp[0]) = natural", ["embed = natural", "attn[0] = natural"]),
    (SEQUENTIAL, "between(attn[1], mlp[2]) = zero", ["mlp[1] = zero", "attn[2] = zero"]),
    (SEQUENTIAL, "attn[1:] = mean", ["attn[1] = mean", "attn[2] = mean"]),
    (SEQUENTIAL, "attn[-2:9] = mean", ["attn[1] = mean", "attn[2] = mean"]),
    (SEQUENTIAL, "mlp[-1] = mean", ["mlp[2] = mean"]),
    (SEQUENTIAL, "attn[:] - attn[1] = mean", ["attn[0] = mean", "attn[2] = mean"]),
    (SEQUENTIAL, "(desc(attn[1]) & mlp[:]) = mean", ["mlp[1] = mean", "mlp[2] = mean"]),
    (SEQUENTIAL, "(embed | mlp[1])@3:6 = mean", ["embed@3:6 = mean", "mlp[1]@3:6 = mean"]),
    (SEQUENTIAL, "(embed@0 | mlp[1]) = mean", ["embed@0 = mean", "mlp[1] = mean"]),
    # heads: the layer is their sum and a bias
    (SEQUENTIAL, "attn[1].head[0] = mean", ["attn[1].head[0] = mean"]),
    (SEQUENTIAL, "attn[1].head[:] = mean", ["attn[1].head[0] = mean", "attn[1].head[1] = mean"]),
    (
        SEQUENTIAL,
        "attn[1].head[0] = mean, attn[1:] = zero",
        ["attn[1].head[0] = mean", "attn[1].head[1] = zero", "attn[1].bias = zero", "attn[2] = zero"],
    ),
    (
        SEQUENTIAL,
        "attn[1].head[1] = zero, desc(attn[1]) = natural",
        ["attn[1].head[1] = zero", "mlp[1] = natural", "attn[2] = natural", "mlp[2] = natural", "norm = natural"],
    ),
    (
        SEQUENTIAL,
        "attn[2].head[1] = zero, attn[2].head[0] = under do(attn[1] = zero)",
        ["attn[2].head[0] = under do(attn[1] = zero)", "attn[2].head[1] = zero"],
    ),
    # a vector is written once, whatever the number of heads; what is linear is written to each
    (
        SEQUENTIAL,
        'attn[1] = value("v"), mlp[2] = under do(attn[1].head[0] = zero)',
        [
            "attn[1].head[0] = zero",
            "attn[1].head[1] = zero",
            'attn[1].bias = value("v")',
            "mlp[2] = under do(attn[1].head[0] = zero)",
        ],
    ),
    (
        SEQUENTIAL,
        'attn[1] = add("v", 2), mlp[2] = under do(attn[1].head[0] = zero)',
        ['attn[1].bias = add("v", 2.0)', "mlp[2] = under do(attn[1].head[0] = zero)"],
    ),
    (
        SEQUENTIAL,
        "attn[1] = scale(2), mlp[2] = under do(attn[1].head[0] = zero)",
        [
            "attn[1].head[0] = scale(2.0)",
            "attn[1].head[1] = scale(2.0)",
            "attn[1].bias = scale(2.0)",
            "mlp[2] = under do(attn[1].head[0] = zero)",
        ],
    ),
    # where a norm comes after the heads, attn[l] stays a node
    (NORMED, "attn[1] = zero, attn[2].head[0] = mean", ["attn[1] = zero", "attn[2].head[0] = mean"]),
    # residual streams are set by name only
    (SEQUENTIAL, "resid[2]@0 = mean", ["resid[2]@0 = mean"]),
    (
        SEQUENTIAL,
        "resid[3] = mean, desc(mlp[1]) = natural",
        ["attn[2] = natural", "mlp[2] = natural", "resid[3] = mean", "norm = natural"],
    ),
    (SEQUENTIAL, "desc(resid[2]) = natural", ["attn[2] = natural", "mlp[2] = natural", "norm = natural"]),
    # precedence: explicit, slice, computed; then head, layer; then named position, every position
    (SEQUENTIAL, "mlp[:] = zero, mlp[1] = mean", ["mlp[0] = zero", "mlp[1] = mean", "mlp[2] = zero"]),
    (SEQUENTIAL, "mlp[1] = mean, mlp[1:] = zero", ["mlp[1] = mean", "mlp[2] = zero"]),
    (SEQUENTIAL, "desc(attn[2]) = natural, mlp[2:] = zero", ["mlp[2] = zero", "norm = natural"]),
    (SEQUENTIAL, "mlp[1] = mean, mlp[1]@last = zero", ["mlp[1] = mean", "mlp[1]@last = zero"]),
    (SEQUENTIAL, "mlp[1] = mean, mlp[1:]@last = zero", ["mlp[1] = mean", "mlp[2]@last = zero"]),
    (SEQUENTIAL, "mlp[1]@last = mean, mlp[1:] = zero", ["mlp[1] = zero", "mlp[1]@last = mean", "mlp[2] = zero"]),
    (SEQUENTIAL, "mlp[1]@0 = mean, mlp[1]@last = zero", ["mlp[1]@last = zero", "mlp[1]@0 = mean"]),
    (SEQUENTIAL, "mlp[1]@3:6 = mean, mlp[1:]@4 = zero", ["mlp[1]@3:6 = mean", "mlp[2]@4 = zero"]),
    (
        SEQUENTIAL,
        "attn[1].head[0] = mean, attn[1] = zero",
        ["attn[1].head[0] = mean", "attn[1].head[1] = zero", "attn[1].bias = zero"],
    ),
    (
        SEQUENTIAL,
        "attn[:].head[0] = mean, attn[1] = zero",
        [
            "attn[0].head[0] = mean",
            "attn[1].head[0] = zero",
            "attn[1].head[1] = zero",
            "attn[1].bias = zero",
            "attn[2].head[0] = mean",
        ],
    ),
    # the same hard value said twice is no tie
    (SEQUENTIAL, "mlp[1:] = zero, mlp[:2] = zero", ["mlp[0] = zero", "mlp[1] = zero", "mlp[2] = zero"]),
    (SEQUENTIAL, "mlp[2] = natural, mlp[2] = natural", ["mlp[2] = natural"]),
    # edges
    (SEQUENTIAL, "attn[1]@last -> mlp[2] = zero", ["attn[1]@last -> mlp[2] = zero"]),
    (
        SEQUENTIAL,
        "embed -> norm = mean, norm -> logits = natural",
        ["embed -> norm = mean", "norm -> logits = natural"],
    ),
    (
        SEQUENTIAL,
        "mlp[1] -> desc(mlp[1]) = mean",
        ["mlp[1] -> attn[2] = mean", "mlp[1] -> mlp[2] = mean", "mlp[1] -> norm = mean"],
    ),
    (
        SEQUENTIAL,
        "(attn[0] | mlp[0]) -> mlp[1:] = zero",
        ["attn[0] -> mlp[1] = zero", "attn[0] -> mlp[2] = zero", "mlp[0] -> mlp[1] = zero", "mlp[0] -> mlp[2] = zero"],
    ),
    (SEQUENTIAL, "mlp[0] -> attn[2].head[1] = zero", ["mlp[0] -> attn[2].head[1] = zero"]),
    (
        SEQUENTIAL,
        "mlp[0] -> attn[2] = zero, attn[2].head[1] -> logits = zero",
        ["mlp[0] -> attn[2].head[0] = zero", "mlp[0] -> attn[2].head[1] = zero", "attn[2].head[1] -> logits = zero"],
    ),
    (
        SEQUENTIAL,
        'attn[1] -> logits = value("v"), attn[1].head[0] -> norm = zero',
        [
            "attn[1].head[0] -> norm = zero",
            *(
                "attn[1].head[0] -> logits = zero",
                "attn[1].head[1] -> logits = zero",
                'attn[1].bias -> logits = value("v")',
            ),
        ],
    ),
    (
        NORMED,
        "mlp[0] -> attn[2] = zero, attn[2].head[1] = mean",
        ["mlp[0] -> attn[2].head[0] = zero", "attn[2].head[1] = mean"],
    ),
    (UNEVEN, "attn[:] = zero", ["attn[0] = zero", "attn[2] = zero"]),
    (CHAIN, "desc(mlp[0]) = natural", ["mlp[1] = natural", "norm = natural"]),
]


def world_of(text, graph, read="logit(target)"):
    return compile_query(parse(f"E[{read} | do({text})]"), graph).worlds[-1]


@pytest.mark.parametrize(("graph", "text", "writes"), WORLDS, ids=[text for _, text, _ in WORLDS])
def test_expansion(graph, text, writes):
    found = [f"{site} = {value}" for site, value in world_of(text, graph).writes]
    assert sorted(found) == sorted(writes)


ALONG = [
    # one edge of two: the direct one
    (SEQUENTIAL, "attn[2] = zero along attn[2] -> logits", ["attn[2] -> logits = zero"]),
    # through an MLP: what the MLP sends elsewhere stays natural
    (
        SEQUENTIAL,
        "attn[1]@last = zero along attn[1] -> mlp[1] -> logits",
        [
            *("attn[1]@last -> mlp[1] = zero", "mlp[1] -> attn[2] = natural", "mlp[1] -> mlp[2] = natural"),
            "mlp[1] -> norm = natural",
        ],
    ),
    # all paths from mlp[2] is the total effect
    (
        SEQUENTIAL,
        "mlp[2] = zero along (mlp[2] -> logits | mlp[2] -> norm -> logits)",
        ["mlp[2] -> norm = zero", "mlp[2] -> logits = zero"],
    ),
    # stages may be sets; the edge mlp[1] -> attn[2] belongs to no path, so it stays natural
    (
        SEQUENTIAL,
        "attn[1] = zero along attn[1] -> (mlp[1] | attn[2]) -> logits",
        [
            *("attn[1] -> mlp[1] = zero", "attn[1] -> attn[2] = zero"),
            *("mlp[1] -> attn[2] = natural", "mlp[1] -> mlp[2] = natural", "mlp[1] -> norm = natural"),
            *("attn[2] -> mlp[2] = natural", "attn[2] -> norm = natural"),
        ],
    ),
    # beside another assignment the start's own other edges are written too: it may have been moved
    (
        SEQUENTIAL,
        "mlp[2] = zero along mlp[2] -> logits, embed = mean",
        ["embed = mean", "mlp[2] -> norm = natural", "mlp[2] -> logits = zero"],
    ),
    # heads of attn[2] receive; heads and bias of attn[1] send
    (
        SEQUENTIAL,
        "attn[1].head[0] = mean along attn[1].head[0] -> attn[2].head[1] -> logits",
        [
            "attn[1].head[0] -> attn[2].head[1] = mean",
            *("attn[2].head[1] -> mlp[2] = natural", "attn[2].head[1] -> norm = natural"),
        ],
    ),
    (
        CHAIN,
        "embed = zero along embed -> mlp[0] -> mlp[1] -> logits",
        ["embed -> mlp[0] = zero", "mlp[1] -> norm = natural"],
    ),
]


@pytest.mark.parametrize(("graph", "text", "writes"), ALONG, ids=lambda one: one if isinstance(one, str) else "")
def test_paths(graph, text, writes):
    found = [f"{site} = {value}" for site, value in world_of(text, graph).writes]
    assert sorted(found) == sorted(writes)


def test_paths_through_heads_that_are_normed():
    text = "mlp[1] = mean along mlp[1] -> attn[2] -> logits, embed -> attn[2].head[1] = zero"
    found = [f"{site} = {value}" for site, value in world_of(text, NORMED).writes]
    assert "mlp[1] -> attn[2].head[0] = mean" in found
    assert "mlp[1] -> attn[2].head[1] = mean" in found
    assert "attn[2] -> mlp[2] = natural" in found
    assert not [write for write in found if write.startswith(("attn[2] -> logits", "attn[2].head[0] ->"))]
    assert "mlp[1] -> logits = natural" in found  # not alone, so its own other edges are held


def test_a_path_may_end_where_the_outcome_reads():
    text = "attn[1] = zero along attn[1] -> mlp[2]"
    assert [str(site) for site in world_of(text, SEQUENTIAL, "direct(mlp[2])").sites] == ["attn[1] -> mlp[2]"]
    with pytest.raises(ExpressionError, match="not downstream"):
        world_of(text, SEQUENTIAL)


CONSISTENT = [
    "mlp[0] -> logits",
    "mlp[0] -> mlp[1] -> logits | mlp[0] -> mlp[1] -> mlp[2] -> logits",
    "mlp[0] -> (mlp[1] | attn[2]) -> mlp[2] -> logits | mlp[0] -> logits",
    # every path over three nodes
    "mlp[0] -> logits | mlp[0] -> mlp[1] -> logits | mlp[0] -> mlp[2] -> logits | mlp[0] -> mlp[1] -> mlp[2] -> logits",
]
INCONSISTENT = [
    ("mlp[0] -> mlp[1] -> mlp[2] -> logits | mlp[0] -> mlp[2] -> norm -> logits", "mlp[0] -> mlp[2] -> logits"),
    (
        "mlp[0] -> mlp[1] -> logits | mlp[0] -> attn[1] -> mlp[1] -> norm -> logits",
        "mlp[0] -> mlp[1] -> norm -> logits",
    ),
    (
        "mlp[0] -> attn[1] -> mlp[2] -> logits | mlp[0] -> mlp[1] -> mlp[2] -> norm -> logits",
        "mlp[0] -> attn[1] -> mlp[2] -> norm -> logits",
    ),
]


@pytest.mark.parametrize("paths", CONSISTENT)
def test_consistent_paths(paths):
    world_of(f"mlp[0] = zero along ({paths})", SEQUENTIAL)


@pytest.mark.parametrize(("paths", "extra"), INCONSISTENT)
def test_inconsistent_paths_are_refused_and_the_extra_path_named(paths, extra):
    with pytest.raises(ExpressionError) as caught:
        world_of(f"mlp[0] = zero along ({paths})", SEQUENTIAL)
    assert f"also make the path {extra}," in str(caught.value)
    # Each refusal names one path; adding them one by one ends in a set that can be told apart.
    for _ in range(4):
        paths += f" | {extra}"
        try:
            world_of(f"mlp[0] = zero along ({paths})", SEQUENTIAL)
        except ExpressionError as error:
            extra = str(error).split("also make the path ")[1].split(",")[0]
            assert extra not in paths.split(" | ")
        else:
            return
    raise AssertionError(paths)


def test_path_sets_of_one_do_are_checked_together():
    own = "mlp[0] = zero along mlp[0] -> mlp[1] -> logits"
    with pytest.raises(ExpressionError, match=r"path mlp\[0\] -> mlp\[1\] -> mlp\[2\] -> logits"):
        world_of(f"{own}, attn[1] = zero along attn[1] -> mlp[1] -> mlp[2] -> logits", SEQUENTIAL)
    world_of(f"{own}, attn[1] = zero along attn[1] -> mlp[2] -> logits", SEQUENTIAL)


def test_long_chains_of_stages_are_checked_without_listing_paths():
    blocks = CausalGraph.from_blocks([Block(layer) for layer in range(40)])
    stages = " -> ".join(f"(attn[{layer}] | mlp[{layer}])" for layer in range(1, 40))
    world = world_of(f"embed = zero along embed -> {stages} -> logits", blocks)  # 2**39 paths
    assert Site(Node("embed"), None, Node("mlp", 1)) in world.sites


def test_worlds_are_distinct_and_sorted_by_nesting():
    query = parse("IE(mlp[1] = zero) - E[kl | do(mlp[1] = zero)] + E[kl] - TE(mlp[1] = zero; prob(target))")
    compiled = compile_query(query, SEQUENTIAL)
    worlds = compiled.worlds
    assert worlds[0] == World()
    assert len(set(worlds)) == len(worlds) == 3
    for number, world in enumerate(worlds):
        assert all(worlds.index(inner) < number for inner in world.nested)
    read = [
        (str(one.outcome), one.world, weight) for one, weight in zip(compiled.readings, compiled.weights, strict=True)
    ]
    assert read == [
        ("logit(target)", 2, 1.0),
        ("logit(target)", 0, -1.0),
        ("kl", 1, -1.0),
        ("kl", 0, 1.0),
        ("prob(target)", 1, -1.0),
        ("prob(target)", 0, 1.0),
    ]


def test_queries_of_one_call_share_worlds():
    s = attn[1] @ last << resample
    sweep = [TE(s), DE(s), parse("CE(attn[1]@last = resample)"), parse("NORM(attn[1]@last = resample)")]
    compiled = compile_queries(sweep, SEQUENTIAL)
    assert len(compiled[0].worlds) == 4
    assert all(one.worlds is compiled[0].worlds for one in compiled)
    total = dict.fromkeys(compiled[0].readings, 0.0)
    for sign, one in zip((1, -1, -1, -1), compiled, strict=True):
        for reading, weight in zip(one.readings, one.weights, strict=True):
            total[reading] = total.get(reading, 0.0) + sign * weight
    assert set(total.values()) == {0.0}


def test_heads_named_in_one_query_are_nodes_in_all_of_a_call():
    layer, head = compile_queries([TE(attn[1] << zero), TE(attn[1].head[0] << zero)], SEQUENTIAL)
    assert layer.graph == head.graph == SEQUENTIAL.with_heads([1])
    assert [str(site) for site in layer.worlds[1].sites] == ["attn[1].head[0]", "attn[1].head[1]", "attn[1].bias"]


def test_a_graph_of_heads_needs_no_refining():
    graph = CausalGraph.from_blocks([Block(0, heads=2)], granularity="head")
    compiled = compile_query(TE(attn[0] << zero), graph)
    assert compiled.graph is graph
    assert len(compiled.worlds[1]) == 3


def test_worlds_can_be_written_by_hand():
    s = (Site(Node("attn", 1), LAST), RESAMPLE)
    held = [(Site(Node(kind, layer)), NATURAL) for kind, layer in [("mlp", 2), ("mlp", 1), ("attn", 2), ("norm", None)]]
    compiled = compile_query(DE(attn[1] @ last << resample), SEQUENTIAL)
    assert compiled.worlds[1] == World((*held, s))
    indirect = parse("IE(attn[1]@last = resample)").worlds(SEQUENTIAL)
    assert indirect[2] == World(tuple((site, InWorld(World((s,)))) for site, _ in held))
    assert hash(compiled.worlds[1]) == hash(World((s, *reversed(held))))


def test_no_computed_set_holds_the_outcome():
    held = compile_query(parse("DE(attn[0] = mean; direct(mlp[2]))"), SEQUENTIAL).worlds[1]
    assert Node("mlp", 2) not in held.nodes
    assert Node("norm") in held.nodes
    assert Node("norm") not in compile_query(parse("DE(attn[0] = mean; sigma)"), SEQUENTIAL).worlds[1].nodes


def test_estimands_of_the_norm():
    assert compile_query(parse("DE(norm = mean)"), SEQUENTIAL).worlds[1].writes == ((Site(Node("norm")), MEAN),)
    assert compile_query(parse("IE(norm = mean)"), SEQUENTIAL).weights == (0.0,)  # nothing downstream: Y - Y


def test_estimands_may_hold_what_a_path_goes_through():
    direct = compile_query(parse("DE(mlp[1] = zero along mlp[1] -> mlp[2] -> logits)"), SEQUENTIAL)
    assert {str(value) for value in direct.worlds[1].values} == {"natural"}
    held = compile_query(parse("CE(mlp[1] = zero along mlp[1] -> norm -> logits)"), SEQUENTIAL)
    assert Node("norm") in held.worlds[1].nodes


def test_direct_reads_contributions():
    def nodes(text, graph=SEQUENTIAL):
        return [
            str(node) for node in compile_query(parse(f"E[direct({text}) | do(embed = zero)]"), graph).readings[0].nodes
        ]

    assert nodes("attn[2]") == ["attn[2]"]
    assert nodes("attn[2].head[1]") == ["attn[2].head[1]"]
    assert nodes("(attn[1] | attn[1].head[0])") == ["attn[1].head[0]", "attn[1].head[1]", "attn[1].bias"]
    assert nodes("desc(mlp[1])") == ["attn[2]", "mlp[2]"]
    with pytest.raises(ExpressionError, match="several streams"):
        nodes("resid[1:]")
    assert nodes("resid[1]") == ["embed", "attn[0]", "mlp[0]"]
    assert nodes("resid[3]") == [str(node) for node in SEQUENTIAL.contributors]
    assert nodes("attn[2]", NORMED) == ["attn[2]"]


def test_mutilated_graphs():
    cut = parse("TE(mlp[1] = zero)").graph(SEQUENTIAL)
    assert cut.intervened_nodes == {Node("mlp", 1)}
    assert cut.parents("mlp[1]") == frozenset()
    edge = parse("TE(mlp[1] -> mlp[2] = zero)").graph(SEQUENTIAL)
    assert not edge.has_edge("mlp[1]", "mlp[2]")
    assert edge.has_edge("mlp[1]", "norm")
    assert parse("TE(mlp[1] = scale(2))").graph(SEQUENTIAL) == SEQUENTIAL  # a soft value cuts nothing
    assert parse("E[kl]").graph(SEQUENTIAL) == SEQUENTIAL
    indirect = parse("IE(mlp[2] = zero)")
    assert indirect.graph(SEQUENTIAL).intervened_nodes == {Node("norm")}
    assert indirect.graph(SEQUENTIAL, world=1).intervened_nodes == {Node("mlp", 2)}
    with pytest.raises(ExpressionError, match="worlds 0 to 2"):
        indirect.graph(SEQUENTIAL, world=3)
    assert Node("resid", 1) in parse("TE(resid[1]@0 = zero)").graph(SEQUENTIAL).nodes


def test_explain_says_what_was_overridden():
    query = parse("E[logit(target) | do(attn[1].head[0] = mean, attn[1] = zero, mlp[1]@last = zero, mlp[1] = mean)]")
    said = query.explain(SEQUENTIAL)
    assert "attn[1].head[0]: 'attn[1].head[0] = mean' overrides 'attn[1] = zero'" in said
    assert "mlp[1]@last: 'mlp[1]@last = zero' overrides 'mlp[1] = mean' there" in said
    nested = parse("E[kl | do(mlp[2] = under do(mlp[1:] = zero, mlp[1] = mean))]").explain(SEQUENTIAL)
    assert "under do(mlp[1:] = zero, mlp[1] = mean): mlp[1]: 'mlp[1] = mean' overrides 'mlp[1:] = zero'" in nested
    assert "Overridden" not in parse("TE(mlp[1] = zero)").explain(SEQUENTIAL)


@pytest.mark.parametrize("name", ["TE", "NDE", "NIE", "TDE", "TIE", "CE", "NORM"])
def test_what_a_named_estimand_adds_gives_way_without_a_word(name):
    joint = parse(f"{name}(attn[0]@last = zero, attn[2] = zero)")
    assert compile_query(joint, SEQUENTIAL).overridden == ()
    assert "Overridden" not in joint.explain(SEQUENTIAL)
    edge = parse(f"{name}(attn[1]@last -> mlp[1] = zero, attn[1]@last = mean)")
    assert not [one for one in compile_query(edge, SEQUENTIAL).overridden if "natural" in one]
    # What was written stands in every world, or in the world that values are taken from.
    twice = compile_query(parse(f"{name}(attn[0] = zero, attn[0]@last = mean)"), SEQUENTIAL).overridden
    assert {one.removeprefix("under do(attn[0] = zero, attn[0]@last = mean): ") for one in twice} == {
        "attn[0]@last: 'attn[0]@last = mean' overrides 'attn[0] = zero' there"
    }
    inner = "mlp[1]: 'mlp[1] = mean' overrides 'mlp[1:] = zero'"
    nested = compile_query(parse(f"{name}(mlp[1] = under do(mlp[1:] = zero, mlp[1] = mean))"), SEQUENTIAL).overridden
    assert nested and all(one.endswith(inner) for one in nested)


def test_the_null_intervention_is_allowed():
    assert world_of("mlp[1] = natural", SEQUENTIAL) == World(((Site(Node("mlp", 1)), NATURAL),))
    assert world_of("mlp[1] = under do(mlp[1] = zero)", SEQUENTIAL).depth == 2


def test_positions_that_meet():
    assert meet(None, At(3))
    assert meet(At(3), At(3))
    assert meet(At(3), At(4)) is False
    assert meet(At(-1), At(3)) is None
    assert meet(Range(3, 6), At(6)) is False
    assert meet(Range(-3, None), At(-1))
    assert meet(Range(-3, -1), At(-1)) is False
    assert meet(Range(None, 3), At(2))
    assert meet(Range(None, 3), At(3)) is False
    assert meet(Range(2, None), At(1)) is False
    assert meet(Range(None, -2), At(-1)) is False
    assert meet(Range(None, -2), At(0)) is None
    assert meet(Span("a"), Span("b")) is None
    assert meet(Span("a"), Span("a"))


def test_a_soft_value_said_twice_is_a_tie():
    with pytest.raises(ExpressionError, match="set twice"):
        world_of("mlp[1] = scale(0.5), mlp[1] = scale(0.5)", SEQUENTIAL)


def test_an_unrolled_graph_is_refused():
    with pytest.raises(ExpressionError, match="unrolled"):
        compile_query(TE(mlp[0] << mean), SEQUENTIAL.unroll(2))


def test_undecided_positions_are_left_to_the_run():
    world = world_of("mlp[1]@subject = zero, mlp[1]@last = mean", SEQUENTIAL)
    assert world.values == (MEAN, ZERO)


def test_a_hand_made_graph_without_its_logits():
    graph = CausalGraph.from_edges(["embed", "mlp[0]"], ["embed -> mlp[0]"])
    with pytest.raises(UnknownNodeError, match="no such node"):
        compile_query(TE(mlp[0] << mean), graph)
