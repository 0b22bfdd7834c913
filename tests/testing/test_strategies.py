"""What the strategies draw is legal, and varied enough to be worth drawing."""

import networkx
import numpy as np
import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from causalnet.effects.asking import unit_effects
from causalnet.engine.plan import plan
from causalnet.errors import UnsupportedModelError
from causalnet.expr import Noise, compile_query, parse
from causalnet.graph import CausalGraph
from causalnet.testing import strategies
from causalnet.testing.lab import Unit, lab_of
from causalnet.testing.motifs import MOTIFS

some = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@some
@given(strategies.graphs(positions=3, surgery=True))
def test_graphs_are_acyclic_and_survive_exchange(graph):
    assert networkx.is_directed_acyclic_graph(graph.nx)
    assert CausalGraph.from_json(graph.to_json()) == graph


@pytest.mark.parametrize(
    "wanted",
    [
        lambda graph: graph.granularity == "head",
        lambda graph: any(not block.heads_sum for block in graph.blocks),
        lambda graph: any(block.window == 1 for block in graph.blocks),
        lambda graph: bool(graph.missing),
        lambda graph: len(graph.positions) == 3,
    ],
    ids=["heads", "gathered", "window", "missing edge", "positions"],
)
def test_graphs_are_of_every_form(wanted):
    assert wanted(find(strategies.graphs(positions=3, surgery=True), wanted))


@some
@given(graph=strategies.graphs(), data=st.data())
def test_worlds_can_be_planned(graph, data):
    offer = strategies.Offer(resid=data.draw(st.booleans()))
    found = data.draw(strategies.readings(graph, offer))
    lab = lab_of(strategies.tiny_model("gpt2"))
    shape = lab.inputs(Unit()).shape
    planned = plan(graph, [one.world for one in found], found, shape, draws=2)
    assert set(planned.readings) == set(found)


def test_worlds_are_of_every_kind():
    graph = CausalGraph.from_blocks(strategies.tiny_model("gpt2").graph.blocks)
    seen = {"depth": 0, "noise": 0, "edges": 0, "streams": 0, "outcomes": set()}

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(found=strategies.readings(graph), whole=strategies.worlds(graph, strategies.Offer(whole=True)))
    def collect(found, whole):
        worlds, sites = [one.world for one in found], [site for one in found for site in one.world.sites]
        seen["depth"] = max(seen["depth"], *(world.depth for world in worlds))
        seen["noise"] += any(world.uses(Noise) for world in worlds)
        seen["edges"] += any(site.receiver is not None for site in sites)
        seen["streams"] += any(site.node.kind == "resid" for site in sites)
        seen["outcomes"] |= {one.outcome.name for one in found}
        assert not whole.uses(Noise)

    collect()
    assert seen["depth"] >= 2
    assert min(seen["noise"], seen["edges"], seen["streams"]) > 0
    assert len(seen["outcomes"]) > 6


@some
@given(graph=strategies.graphs(heads=False), data=st.data())
def test_do_expressions_mean_something(graph, data):
    query = data.draw(strategies.do_expressions(graph, strategies.Offer(resid=False)))
    assert parse(str(query)) == query
    assert len(compile_query(query, graph).worlds) > 1


@some
@given(sentence=strategies.sentences())
def test_sentences_are_one_language(sentence):
    assert parse(sentence.text) == sentence.query


@some
@given(network=st.one_of(strategies.field_networks(), strategies.linear_networks()), data=st.data())
def test_networks_answer_interventions(network, data):
    lab = lab_of(network)
    (s,) = data.draw(strategies.assignments(network.graph, lab.offer))
    found = unit_effects(network, {"TE": parse(f"TE({s})")})["TE"]
    assert found.shape[0] == len(network.prompts)
    assert np.isfinite(found).all()


@some
@given(data=st.data())
def test_do_expressions_are_answered_by_tiny_transformers(data):
    model = data.draw(strategies.tiny_models("gpt2", "llama"))
    lab = lab_of(model)
    query = data.draw(strategies.do_expressions(model.graph, lab.offer))
    assert np.isfinite(unit_effects(lab.scm(Unit()), {"effect": query})["effect"]).all()


@some
@given(strategies.linear_models())
def test_linear_models_have_closed_forms(model):
    from causalnet.graph import Node

    zero = np.zeros(model.embed.shape[1])
    effects = model.closed_form((1, 2, 3), {(Node("attn", 0), 2): zero})
    assert abs(effects["TE"] - effects["DE"] - effects["CE"] - effects["NORM"]) < 1e-10


def test_motifs():
    for name in (*MOTIFS, "overdetermined"):
        assert find(strategies.motif_networks(), lambda network, name=name: network.graph.name == name)


def test_tiny_models_are_made_once():
    assert strategies.tiny_model("gpt2") is strategies.tiny_model("gpt2")
    assert str(strategies.tiny_model("gpt2", dtype="float32").dtype) == "torch.float32"
    with pytest.raises(UnsupportedModelError):
        strategies.tiny_model("mamba")


@settings(max_examples=10, deadline=None)
@given(strategies.prompts(strategies.tiny_model("gpt2")))
def test_prompts_fit_their_model(inputs):
    from causalnet.engine.inputs import check

    model = strategies.tiny_model("gpt2")
    world = parse('E[logit(target) | do(attn[0]@last = resample, mlp[0]@subject = mean, embed = patch("corrupt"))]')
    worlds = compile_query(world, model.graph).worlds
    check(model, plan(model.graph, worlds, (), inputs.shape, draws=inputs.count), inputs)
