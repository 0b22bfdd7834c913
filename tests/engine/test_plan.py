"""The planner: pure, printable, and as small as it says."""

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from causalnet.engine.plan import Reading, Shape, connected, draws_of, needs, plan, trunk_of
from causalnet.errors import ExpressionError, InputError, UnknownNodeError
from causalnet.expr.outcomes import TARGET, Outcome
from causalnet.expr.positions import LAST, At, Range, Span
from causalnet.expr.refs import Component
from causalnet.expr.values import NATURAL, RESAMPLE, ZERO, InWorld, Noise, Scale
from causalnet.expr.world import NATURAL_WORLD, Site, World
from causalnet.graph import Block, CausalGraph, Node

LOGIT = Outcome("logit", (TARGET,))
LAYERS = 4
GRAPH = CausalGraph.from_blocks([Block(layer, heads=2) for layer in range(LAYERS)])
PARALLEL = CausalGraph.from_blocks([Block(layer, parallel=True) for layer in range(LAYERS)])


def do(*writes):
    return World(tuple((Site(*place) if isinstance(place, tuple) else Site(place), value) for place, value in writes))


def attn(layer):
    return Node("attn", layer)


def mlp(layer):
    return Node("mlp", layer)


def planned(*worlds, graph=GRAPH, lengths=(6,), draws=1, spans=(), outcome=LOGIT):
    return plan(graph, worlds, [Reading(world, outcome) for world in worlds], Shape(lengths, spans), draws=draws)


def joins(world, graph=GRAPH, length=6):
    """Return where the lane of a world starts and joins."""
    ((start, lanes),) = planned(world, graph=graph, lengths=(length,)).buckets[0].waves
    return start, next(lane.join for lane in lanes if lane.world == world)


def test_planning_knows_no_torch():
    code = "import sys; import causalnet.engine.plan, causalnet.engine.inputs; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_plan_is_printed_with_what_it_costs():
    text = str(planned(do(((attn(1), LAST), RESAMPLE)), do(((mlp(0), At(2)), ZERO)), lengths=(6, 8, 6), draws=3))
    assert "3 prompts in 2 buckets" in text
    assert "3 worlds" in text
    assert "12 rows" in text
    assert "% of one full forward per row" in text
    assert "from position 5 on" in text
    assert "from position 2 on" in text


def test_equal_worlds_are_planned_once_and_inner_worlds_before_outer_ones():
    inner = do(((attn(0), LAST), RESAMPLE))
    same = do(((attn(0), LAST), RESAMPLE))
    outer = do((mlp(1), InWorld(inner)))
    outermost = do((mlp(2), InWorld(outer)))
    found = planned(outermost, outer, same, inner)
    assert found.worlds == (NATURAL_WORLD, inner, outer, outermost)
    assert [len(lanes) for _, lanes in found.buckets[0].waves] == [3]


def test_worlds_of_readings_need_not_be_listed():
    world = do(((attn(0), LAST), ZERO))
    found = plan(GRAPH, (), [Reading(world, LOGIT)], Shape((6,)))
    assert found.worlds == (NATURAL_WORLD, world)


def test_worlds_that_differ_in_the_readout_only_share_a_lane():
    free = do(((attn(1), LAST), ZERO))
    frozen = do(((attn(1), LAST), ZERO), (Node("norm"), NATURAL))
    edge = do(((attn(1), LAST), ZERO), ((mlp(0), None, Node("logits")), ZERO))
    found = planned(free, frozen, edge)
    assert trunk_of(frozen) == trunk_of(edge) == free
    assert found.rows == 1
    assert planned(do((Node("norm"), NATURAL))).rows == 0


# -- what a lane computes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("world", "start", "join"),
    [
        (do(((Node("embed"), LAST), ZERO)), 5, 0),
        (do(((attn(1), LAST), ZERO)), 5, 3),  # after the attention of layer 1, before its MLP
        (do(((mlp(1), LAST), ZERO)), 5, 4),
        (do(((mlp(LAYERS - 1), LAST), ZERO)), 5, 2 * LAYERS),  # nothing reads it but the readout
        (do((attn(1), ZERO)), 0, 3),
        (do(((attn(1), At(2)), ZERO)), 2, 3),
        (do(((attn(1), Range(2, 4)), ZERO), ((mlp(3), At(1)), ZERO)), 1, 3),
        (do(((mlp(2), LAST), NATURAL)), 5, 2 * LAYERS),  # natural where everything is natural
        (do(((attn(1), LAST), ZERO), (mlp(1), NATURAL), (attn(2), NATURAL)), 5, 5),  # frozen until mlp[2]
        (do((mlp(1), NATURAL), (Node("head", 0, 1), NATURAL), ((attn(2), At(4)), ZERO)), 4, 5),
        (do((mlp(3), InWorld(do(((attn(1), At(3)), ZERO))))), 3, 8),  # under do(…): nothing differs before 3
        (do(((attn(1), LAST), ZERO), ((mlp(1), LAST), NATURAL)), 5, 4),
        (do(((mlp(1), LAST), Scale(2.0))), 5, 4),  # soft, of a value that is natural
        (do(((Node("head", 1, 0), LAST), ZERO)), 5, 2),  # a head is set inside its attention
        (do(((attn(0), At(3), mlp(2)), ZERO)), 3, 5),  # an edge is set where it is read
        (do(((attn(0), At(3), attn(2)), ZERO)), 3, 4),
        (do(((attn(0), At(3), Node("head", 2, 1)), ZERO)), 3, 4),
        (do(((Node("resid", 2), At(4)), ZERO)), 4, 4),
        (do(((Node("resid", LAYERS), At(4)), ZERO)), 4, 2 * LAYERS),
        (do((Node("embed"), ZERO), (Node("resid", 0), NATURAL)), 0, 2 * LAYERS),
    ],
    ids=str,
)
def test_where_a_lane_starts_and_joins(world, start, join):
    assert joins(world) == (start, join)


def test_a_parallel_mlp_does_not_read_its_own_attention():
    assert joins(do(((attn(1), LAST), ZERO)), PARALLEL) == (5, 4)
    assert joins(do(((attn(1), LAST), ZERO)), GRAPH) == (5, 3)


def test_tokens_of_small_cases_by_hand():
    # Six tokens, four layers: a full forward computes 24 token-layers.
    found = planned(do(((mlp(0), LAST), ZERO)))
    assert (found.rows, found.tokens, found.full_tokens) == (1, 3, 24)
    found = planned(do(((mlp(0), At(2)), ZERO)))
    assert (found.rows, found.tokens) == (1, 4 * 3)
    found = planned(do(((attn(0), LAST), RESAMPLE)), draws=5, lengths=(6, 6, 6))
    assert (found.rows, found.full_tokens) == (15, 15 * 24)
    assert found.tokens == 15 * 7 // 2  # half of layer 0, and three layers, for one token
    found = planned(do(((mlp(LAYERS - 1), LAST), ZERO)))
    assert (found.rows, found.tokens) == (1, 0)
    assert planned().tokens == 0
    assert planned().share == 0.0


def test_a_sweep_at_the_last_position_costs_one_token_per_row():
    nodes = [node for node in GRAPH.contributors if node.kind in ("attn", "mlp")]
    found = planned(*(do(((node, LAST), RESAMPLE)) for node in nodes), lengths=(16,), draws=15)
    assert found.rows == 15 * 2 * LAYERS
    layers = sum(LAYERS - node.layer - (0.5 if node.kind == "attn" else 1.0) for node in nodes)
    assert found.tokens == int(15 * layers)
    assert found.share < 1 / 16
    ((start, lanes),) = found.buckets[0].waves
    assert start == 15
    assert found.buckets[0].first == 15
    assert [lane.join for lane in lanes] == sorted(lane.join for lane in lanes)


def test_prompts_are_grouped_by_length_and_by_where_the_spans_of_the_query_lie():
    spans = ({"a": (0, 2)}, {"a": (1, 3)}, {"a": (0, 2)}, {"a": (0, 2), "b": (3, 4)})
    asked = do(((attn(0), Span("a")), ZERO))
    assert [b.prompts for b in planned(asked, lengths=(6, 6, 6, 7), spans=spans).buckets] == [(0, 2), (1,), (3,)]
    other = do(((attn(0), At(1)), ZERO))
    assert [b.prompts for b in planned(other, lengths=(6, 6, 6, 7), spans=spans).buckets] == [(0, 1, 2), (3,)]


def test_nothing_before_what_is_read_or_written_is_recorded():
    assert planned(do(((attn(0), At(4)), ZERO))).buckets[0].first == 4
    early = Outcome("logit", (TARGET,), None, At(2))
    assert planned(do(((attn(0), At(4)), ZERO)), outcome=early).buckets[0].first == 2
    assert planned(do(((attn(0), At(1), Node("logits")), ZERO))).buckets[0].first == 1


# -- worlds and their draws ----------------------------------------------------------------------------------


def test_draws_are_counted_through_inner_worlds():
    drawn, fixed = do(((attn(0), LAST), RESAMPLE)), do(((attn(0), LAST), ZERO))
    assert [draws_of(world, 7) for world in (drawn, fixed, do((mlp(0), Noise(1.0))))] == [7, 1, 7]
    assert draws_of(do((mlp(1), InWorld(do((mlp(0), InWorld(drawn)))))), 7) == 7
    assert draws_of(do((mlp(1), InWorld(fixed))), 7) == 1


def test_worlds_that_take_values_from_each_other_stay_together():
    inner, apart = do(((attn(0), LAST), ZERO)), do(((mlp(0), At(1)), ZERO))
    outer = do(((mlp(1), LAST), InWorld(inner)))
    norm = do(((mlp(2), LAST), ZERO), (Node("norm"), InWorld(inner)))
    assert set(needs(norm)) == {inner, do(((mlp(2), LAST), ZERO))}
    lanes = [lane for _, wave in planned(inner, apart, outer, norm).buckets[0].waves for lane in wave]
    groups = [{lane.world for lane in block} for block in connected(lanes, [inner, apart, outer, norm])]
    assert sorted(map(len, groups)) == [1, 3]
    assert {apart} in groups
    # Together they begin at the earliest position that one of them writes.
    early = do(((mlp(2), LAST), InWorld(inner)), ((mlp(1), At(1)), ZERO))
    assert [start for start, _ in planned(inner, early).buckets[0].waves] == [1]


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(st.data())
def test_plans_of_random_worlds_are_consistent(data):
    import engine_models as models
    import engine_worlds as worlds

    mechanisms = models.tiny(data.draw(st.sampled_from(["llama", "neox-parallel", "olmo2"])))
    case = data.draw(worlds.cases(mechanisms.graph))
    inputs = models.inputs_for(mechanisms)
    found = case.plan(inputs)
    assert found.tokens <= found.full_tokens
    place = {world: index for index, world in enumerate(found.worlds)}
    assert len(place) == len(found.worlds)
    assert all(place[inner] < place[world] for world in found.worlds for inner in world.nested)
    assert sorted(prompt for bucket in found.buckets for prompt in bucket.prompts) == list(range(len(inputs.ids)))
    for bucket in found.buckets:
        lanes = [lane for _, wave in bucket.waves for lane in wave]
        assert {lane.world for lane in lanes} == {trunk_of(world) for world in found.worlds} - {NATURAL_WORLD}
        for start, wave in bucket.waves:
            assert all(column >= start for lane in wave for write in lane.writes for column in write.columns)
            assert [lane.join for lane in wave] == sorted(lane.join for lane in wave)
            assert bucket.first <= start
    assert str(found)


# -- what cannot be planned ----------------------------------------------------------------------------------

MIXED = CausalGraph.from_blocks(
    [Block(0, heads=2), Block(1, attn=False), Block(2, mlp=False, heads=2, heads_sum=False)]
)


@pytest.mark.parametrize(
    ("site", "message"),
    [
        (Site(attn(4)), r"attn\[4\].*there is no attn\[4\].*layers run from 0 to 3"),
        (Site(Node("resid", 5)), r"there is no resid\[5\].*0 to 4"),
        (Site(Node("head", 1, 2)), r"there is no attn\[1\].head\[2\].*heads run from 0 to 1"),
        (Site(attn(0), LAST, mlp(9)), r"there is no mlp\[9\]"),
    ],
    ids=str,
)
def test_unknown_nodes(site, message):
    with pytest.raises(UnknownNodeError, match=message):
        planned(World(((site, ZERO),)))


@pytest.mark.parametrize(
    ("site", "message"),
    [
        (Site(attn(1)), r"layer 1 has no attention"),
        (Site(mlp(2)), r"layer 2 has no MLP"),
        (Site(Node("head", 1, 0)), r"layer 1 has no attention"),
    ],
    ids=str,
)
def test_nodes_that_a_layer_does_not_have(site, message):
    with pytest.raises(UnknownNodeError, match=message):
        planned(World(((site, ZERO),)), graph=MIXED)
    with pytest.raises(UnknownNodeError, match="no heads that can be told apart"):
        planned(World(((Site(Node("bias", 0)), ZERO),)), graph=PARALLEL)


@pytest.mark.parametrize(
    ("sender", "receiver", "graph"),
    [
        (mlp(2), attn(1), GRAPH),
        (mlp(1), attn(1), GRAPH),
        (mlp(1), mlp(1), GRAPH),
        (attn(1), attn(1), GRAPH),
        (attn(1), Node("head", 1, 0), GRAPH),
        (attn(1), Node("bias", 2), GRAPH),
        (attn(1), Node("resid", 2), GRAPH),
        (Node("resid", 1), mlp(2), GRAPH),
        (Node("norm"), mlp(2), GRAPH),
        (Node("logits"), Node("norm"), GRAPH),
        (attn(1), Node("embed"), GRAPH),
        (attn(1), mlp(1), PARALLEL),
        (Node("head", 2, 0), Node("logits"), MIXED),
    ],
    ids=str,
)
def test_edges_that_do_not_exist(sender, receiver, graph):
    with pytest.raises(ExpressionError, match=r"the graph has no edge"):
        planned(World(((Site(sender, LAST, receiver), ZERO),)), graph=graph)


def test_every_edge_of_the_graph_can_be_planned():
    for graph in (GRAPH, PARALLEL, MIXED, GRAPH.with_heads(range(LAYERS)), MIXED.with_heads([0, 2])):
        for receiver in graph.nodes:
            for sender in graph.parents(receiver):
                gathered = sender.kind in ("head", "bias") and receiver.kind == "attn"
                if not gathered:
                    planned(World(((Site(sender, LAST, receiver), ZERO),)), graph=graph)


def test_outcomes_are_not_set_and_only_contributions_have_direct_effects():
    with pytest.raises(ExpressionError, match="logits is what outcomes read"):
        planned(World(((Site(Node("logits")), ZERO),)))
    direct = Reading(NATURAL_WORLD, Outcome("direct", (TARGET,), Component.of(attn(0))), (Node("norm"),))
    with pytest.raises(ExpressionError, match=r"direct\(norm\).*adds nothing"):
        plan(GRAPH, (), [direct], Shape((6,)))


@pytest.mark.parametrize("position", [At(6), At(-7), Range(4, 8)], ids=str)
def test_positions_that_a_prompt_does_not_have_name_the_prompt(position):
    with pytest.raises(InputError, match=rf"prompt 1: position {position} does not exist in a prompt of 6 tokens"):
        planned(do(((attn(0), position), ZERO)), lengths=(9, 6, 9))


def test_spans_that_a_prompt_does_not_have_name_the_prompt():
    spans = ({"subject": (0, 2)}, {"subjects": (0, 2)})
    with pytest.raises(KeyError, match=r"prompt 1: no span named 'subject'; did you mean 'subjects'"):
        planned(do(((attn(0), Span("subject")), ZERO)), lengths=(6, 6), spans=spans)


def test_an_outcome_is_read_at_one_token():
    wide = Outcome("logit", (TARGET,), None, Span("subject"))
    with pytest.raises(InputError, match=r"prompt 0: .*is read at one position, but @subject names 2"):
        planned(do(((attn(0), LAST), ZERO)), spans=({"subject": (0, 2)},), outcome=wide)


def test_positions_that_meet_in_a_prompt_name_the_prompt():
    world = do(((attn(0), At(2)), ZERO), ((attn(0), LAST), RESAMPLE))
    planned(world, lengths=(6,))
    with pytest.raises(RuntimeError, match=r"prompt 1: attn\[0\]@last and attn\[0\]@2 both write position 2"):
        planned(world, lengths=(6, 3))
