"""The laws of interventions, on the plain executor, where they can fail."""

from dataclasses import replace

import engine_models as models
import numpy as np
import pytest
import torch

from causalnet.engine.plain import full_forward, run_plain
from causalnet.engine.plan import Reading, plan
from causalnet.engine.run import run
from causalnet.engine.sources import build_sources
from causalnet.errors import ExpressionError, InterventionError
from causalnet.expr.outcomes import TARGET, Outcome
from causalnet.expr.positions import LAST, At, Range
from causalnet.expr.values import MEAN, NATURAL, RESAMPLE, ZERO, Given, InWorld, Patch, Scale
from causalnet.expr.world import NATURAL_WORLD, Site, World
from causalnet.graph import Node

NAMES = ("llama", "gpt2", "neox-parallel", "mistral-window", "olmo2")
LOGIT = Outcome("logit", (TARGET,))
PROMPT = 1
LENGTH = 7
LENGTHS = (LENGTH,) * 3


def worlds_of(mechanisms, *worlds, prompt=PROMPT, draw=0):
    """Run worlds of one prompt by full forwards, the natural one and inner ones first; return all their values."""
    inputs = models.inputs_for(mechanisms, lengths=LENGTHS)
    planned = plan(mechanisms.graph, worlds, (), inputs.shape, draws=inputs.count)
    with torch.no_grad():
        sources = build_sources(mechanisms, planned, inputs)
        done = {}
        for world in planned.worlds:
            done[world] = full_forward(mechanisms, inputs, sources, world, prompt, draw, done)
    return done


def do(*writes):
    return World(tuple((Site(*place) if isinstance(place, tuple) else Site(place), value) for place, value in writes))


def mechanisms_of(graph):
    return [node for node in graph.nodes if node.kind in ("attn", "mlp")]


def same(one, other):
    return torch.equal(one, other)


def close(one, other, mechanisms):
    scale = max(1.0, float(other.abs().max()))
    return float((one - other).abs().max()) <= models.tolerance(mechanisms) * scale


# -- 1 to 3: nothing, the same, the value --------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_null_do_is_the_plain_forward(name):
    mechanisms = models.tiny(name)
    forward = worlds_of(mechanisms)[NATURAL_WORLD]
    with torch.no_grad():
        ids = torch.tensor([models.inputs_for(mechanisms, lengths=LENGTHS).ids[PROMPT]])
        assert same(forward.logits, mechanisms.hf(ids).logits[0])


@pytest.mark.parametrize("position", [None, LAST, Range(1, 3)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_setting_a_module_to_what_it_has_anyway_changes_no_bit(name, position):
    mechanisms = models.tiny(name)
    every = [*mechanisms_of(mechanisms.graph), Node("embed"), Node("resid", 1), Node("resid", 3), Node("head", 1, 2)]
    done = worlds_of(mechanisms, *(do(((node, position), NATURAL)) for node in every))
    for world, forward in done.items():
        assert same(forward.logits, done[NATURAL_WORLD].logits), str(world)


@pytest.mark.parametrize("name", NAMES)
def test_setting_anything_to_what_it_has_anyway_changes_nothing(name):
    mechanisms = models.tiny(name)
    edges = [(a, b) for b in mechanisms.graph.nodes for a in mechanisms.graph.parents(b)]
    natural = [do(((Node("norm"), None), NATURAL)), *(do(((a, None, b), NATURAL)) for a, b in edges)]
    zero = do(((Node("attn", 0), At(2)), ZERO))
    again = [do(*(((node, None), InWorld(zero)),)) for node in (*mechanisms_of(mechanisms.graph), Node("norm"))]
    merged = [World((*world.writes, *zero.writes)) for world in again if Node("attn", 0) not in world.nodes]
    done = worlds_of(mechanisms, *natural, *merged)
    for world in natural:
        assert close(done[world].logits, done[NATURAL_WORLD].logits, mechanisms), str(world)
    for world in merged:
        assert close(done[world].logits, done[zero].logits, mechanisms), str(world)


@pytest.mark.parametrize("name", NAMES)
def test_each_site_reads_its_value(name):
    mechanisms = models.tiny(name)
    inputs = models.inputs_for(mechanisms, lengths=LENGTHS)
    values = (ZERO, MEAN, RESAMPLE, Patch("other"), Given("one"), Scale(-0.5))
    for node in (*mechanisms_of(mechanisms.graph), Node("embed"), Node("resid", 2)):
        sets = {value: do(((node, At(3)), value)) for value in values}
        done = worlds_of(mechanisms, *sets.values())
        donor, natural = int(inputs.donors[PROMPT, 0]), done[NATURAL_WORLD].values[node]
        expected = {
            ZERO: torch.zeros(mechanisms.width, dtype=torch.float64),
            RESAMPLE: worlds_of(mechanisms, prompt=donor)[NATURAL_WORLD].values[node][3],
            Given("one"): inputs.vectors["one"],
            Scale(-0.5): -0.5 * natural[3],
        }
        for value, world in sets.items():
            found = done[world].values[node]
            if value in expected:
                assert found[3] == pytest.approx(expected[value], rel=1e-6, abs=1e-7)
            assert not close(found[3], natural[3], mechanisms)
            assert same(found[:3], natural[:3])


# -- 4 and 8: locality ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, "gemma2", "bloom", "mixtral", "cohere", "falcon", "opt"])
def test_what_is_no_descendant_keeps_its_value_and_what_is_one_moves(name):
    """On the graph unrolled over positions: windows, the direction of time, parallel blocks."""
    mechanisms = models.tiny(name)
    graph = mechanisms.graph.unroll(range(LENGTH))
    sources = [(node, at) for node in (*mechanisms_of(mechanisms.graph), Node("embed")) for at in (0, 3, LENGTH - 1)]
    sets = {place: do(((place[0], At(place[1])), Given("one"))) for place in sources}
    done = worlds_of(mechanisms, *sets.values())
    natural = done[NATURAL_WORLD].values
    for (node, at), world in sets.items():
        reached = graph.descendants(node.at(at)) | {node.at(at)}
        for other in (*mechanisms_of(mechanisms.graph), Node("embed"), Node("norm")):
            # Not bit for bit: experts multiply the tokens that they get together.
            gap = (done[world].values[other] - natural[other]).abs().amax(-1)
            moved = (gap > 1e-10).tolist()
            expected = [other.at(p) in reached for p in range(LENGTH)]
            assert moved == expected, f"{world} and {other}"


@pytest.mark.parametrize("name", ["llama", "gpt2", "neox-parallel"])
def test_heads_of_one_layer_do_not_reach_each_other(name):
    mechanisms = models.tiny(name)
    heads = [Node("head", 1, head) for head in range(4)]
    sets = {head: do((head, ZERO)) for head in heads}
    done = worlds_of(mechanisms, *sets.values())
    natural = done[NATURAL_WORLD].values
    for head, world in sets.items():
        assert [other for other in heads if not same(done[world].values[other], natural[other])] == [head]
        assert not same(done[world].values[Node("attn", 1)], natural[Node("attn", 1)])
        reads = not same(done[world].values[Node("mlp", 1)], natural[Node("mlp", 1)])
        assert reads == (name != "neox-parallel")


def test_an_edge_moves_its_receiver_alone():
    mechanisms = models.tiny("llama")
    sender = Node("attn", 0)
    for receiver in (Node("mlp", 0), Node("attn", 1), Node("mlp", 2), Node("norm")):
        world = do(((sender, None, receiver), ZERO))
        done = worlds_of(mechanisms, world)
        changed = {
            node
            for node, value in done[NATURAL_WORLD].values.items()
            if node.kind in ("attn", "mlp", "norm", "embed") and not same(done[world].values[node], value)
        }
        assert receiver in changed
        assert changed <= mechanisms.graph.descendants(receiver) | {receiver}


def test_a_head_that_reads_an_edge_is_the_only_one_to_move():
    mechanisms = models.tiny("llama")
    world = do(((Node("mlp", 0), None, Node("head", 1, 2)), ZERO))
    done = worlds_of(mechanisms, world)
    moved = [
        head
        for head in range(4)
        if not same(done[world].values[Node("head", 1, head)], done[NATURAL_WORLD].values[Node("head", 1, head)])
    ]
    assert moved == [2]


def test_an_edge_into_every_head_is_the_edge_into_the_attention():
    mechanisms = models.tiny("gpt2")
    whole = do(((Node("mlp", 0), None, Node("attn", 1)), ZERO))
    parts = do(*(((Node("mlp", 0), None, Node("head", 1, head)), ZERO) for head in range(4)))
    done = worlds_of(mechanisms, whole, parts)
    assert close(done[whole].logits, done[parts].logits, mechanisms)
    assert not close(done[whole].logits, done[NATURAL_WORLD].logits, mechanisms)


# -- 5: screening, and 9: sets -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_with_all_parents_set_nothing_else_reaches_a_node(name):
    mechanisms = models.tiny(name)
    graph = mechanisms.graph
    for node in (*mechanisms_of(graph), Node("norm")):
        screen = tuple(((parent, None), NATURAL) for parent in graph.parents(node))
        others = [other for other in mechanisms_of(graph) if other != node and other not in graph.parents(node)]
        if not others:
            continue
        world = do(*screen, *(((other, None), ZERO) for other in others))
        done = worlds_of(mechanisms, world)
        assert close(done[world].values[node], done[NATURAL_WORLD].values[node], mechanisms), f"{node} in {world}"


def test_hard_sets_on_disjoint_sites_commute_and_are_idempotent():
    mechanisms = models.tiny("gpt2")
    first, second = (Site(Node("attn", 0), At(2)), RESAMPLE), (Site(Node("mlp", 1), LAST), ZERO)
    assert World((first, second)) == World((second, first))
    both = World((first, second))
    again = World(tuple((site, InWorld(both)) for site, _ in both.writes))
    twice = World(tuple((site, InWorld(again)) for site, _ in both.writes))
    done = worlds_of(mechanisms, both, again, twice)
    assert same(done[both].logits, done[again].logits)
    assert same(done[both].logits, done[twice].logits)


def test_ties_are_refused():
    site = Site(Node("attn", 0), At(2))
    with pytest.raises(ExpressionError, match=r"writes attn\[0\]@2 twice"):
        World(((site, ZERO), (site, NATURAL)))
    met = World(((site, ZERO), (Site(Node("attn", 0), Range(1, 4)), NATURAL)))
    with pytest.raises(InterventionError, match=r"prompt 0: .* both write position 2"):
        worlds_of(models.tiny("gpt2"), met)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("position", [None, LAST, At(3)], ids=str)
def test_setting_all_edges_out_of_a_node_is_setting_the_node(name, position):
    mechanisms = models.tiny(name)
    graph = mechanisms.graph
    for node in (Node("embed"), Node("attn", 1), Node("mlp", 0)):
        whole = do(((node, position), Patch("other")))
        edges = do(*(((node, position, child), Patch("other")) for child in graph.children(node)))
        done = worlds_of(mechanisms, whole, edges)
        assert same(done[edges].values[node], done[NATURAL_WORLD].values[node])
        for other in (*mechanisms_of(graph), Node("norm")):
            if other != node:
                one, two = done[whole].values[other], done[edges].values[other]
                assert close(one, two, mechanisms), f"{node} {position} and {other}"
        assert close(done[whole].logits, done[edges].logits, mechanisms)


@pytest.mark.parametrize("name", ["llama", "gpt2", "neox-parallel"])
def test_heads_and_bias_together_are_the_attention(name):
    mechanisms = models.tiny(name)
    parts = [*(Node("head", 1, head) for head in range(4)), Node("bias", 1)]
    for value in (ZERO, RESAMPLE, Scale(0.3)):
        whole = do(((Node("attn", 1), At(3)), value))
        split = do(*(((part, At(3)), value) for part in parts))
        done = worlds_of(mechanisms, whole, split)
        assert close(done[whole].logits, done[split].logits, mechanisms)
        out = worlds_of(mechanisms, whole, split)
        assert close(out[whole].values[Node("attn", 1)], out[split].values[Node("attn", 1)], mechanisms)


# -- 10 and 11: batches, and what follows ---------------------------------------------------------------------


@pytest.mark.parametrize("executor", [run, run_plain])
@pytest.mark.parametrize("name", ["llama", "gpt2", "neox-parallel"])
def test_total_effects_split_along_worlds_in_worlds(name, executor):
    """TE = PDE + TIE = TDE + PIE, draw by draw; the effect back is the effect there, reversed."""
    mechanisms = models.tiny(name)
    inputs = models.inputs_for(mechanisms)
    node = Node("attn", 0)
    down = [
        other
        for other in (*mechanisms_of(mechanisms.graph), Node("norm"))
        if other in mechanisms.graph.descendants(node)
    ]
    both = do((node, RESAMPLE))
    direct = do((node, RESAMPLE), *((other, NATURAL) for other in down))
    indirect = do(*((other, InWorld(both)) for other in down))
    forced = do((node, RESAMPLE), *((other, InWorld(both)) for other in down))
    readings = [Reading(world, LOGIT) for world in (NATURAL_WORLD, both, direct, indirect, forced)]
    planned = plan(mechanisms.graph, (), readings, inputs.shape, draws=inputs.count)
    found = executor(mechanisms, planned, inputs)
    natural, total, pde, pie, again = (np.broadcast_to(found[reading], (5, 2)) for reading in readings)
    scale = models.tolerance(mechanisms) * np.abs(total).max()
    assert np.abs(again - total).max() <= scale
    te, nde, nie = total - natural, pde - natural, pie - natural
    tie, tde = total - pde, total - pie
    assert np.abs(te - nde - tie).max() <= 2 * scale
    assert np.abs(te - tde - nie).max() <= 2 * scale
    assert np.abs(te - nde - nie).max() > 1e-4, "what is no identity must not come out as one"


def test_worlds_of_one_batch_are_worlds_alone():
    mechanisms = models.tiny("gpt2")
    inputs = models.inputs_for(mechanisms)
    made = [do(((node, LAST), value)) for node in mechanisms_of(mechanisms.graph) for value in (ZERO, RESAMPLE)]
    readings = [Reading(world, LOGIT) for world in made]
    planned = plan(mechanisms.graph, (), readings, inputs.shape, draws=inputs.count)
    batch = run(mechanisms, planned, inputs)
    for reading in readings:
        alone = plan(mechanisms.graph, (), [reading], inputs.shape, draws=inputs.count)
        for executor in (run, run_plain):
            assert executor(mechanisms, alone, inputs)[reading] == pytest.approx(batch[reading], rel=1e-9, abs=1e-9)


def test_another_seed_is_other_noise_and_the_same_seed_the_same():
    from causalnet.expr.values import Noise

    mechanisms = models.tiny("gpt2")
    reading = Reading(do(((Node("mlp", 0), LAST), Noise(1.0))), LOGIT)
    seen = []
    for seed in (0, 0, 1):
        inputs = replace(models.inputs_for(mechanisms), seed=seed)
        planned = plan(mechanisms.graph, (), [reading], inputs.shape, draws=inputs.count)
        seen.append(run(mechanisms, planned, inputs)[reading])
    assert (seen[0] == seen[1]).all()
    assert (np.abs(seen[0] - seen[2]) > 1e-6).all()
