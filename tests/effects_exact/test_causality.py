"""Actual causality: the motifs' known answers, the definition by brute force, and what a greedy search may claim."""

import itertools

import numpy as np
import pytest

from causalnet.effects.asking import answer
from causalnet.effects.causality import Cause, Event, actual_causes
from causalnet.engine.plan import Reading
from causalnet.errors import ExpressionError, InputError
from causalnet.expr import (
    NATURAL,
    TARGET,
    TE,
    E,
    Outcome,
    Site,
    World,
    attn,
    do,
    last,
    mlp,
    resample,
    top1,
    zero,
)
from causalnet.graph import Block, CausalGraph, Node
from causalnet.testing.linear import linear_model
from causalnet.testing.motifs import motif
from causalnet.testing.networks import Network

LOGIT = Outcome("logit", (TARGET,))
BOTH = (attn[0] | mlp[0]) << zero


def test_motifs():
    # u = 1 in the first prompt.  A compensated x is exposed by its smallest witness: the compensator, held.
    repaired = actual_causes(motif("self_repair"), BOTH, event=Event(LOGIT, above=0.5))
    assert repaired.exact
    assert repaired.causes[0, 0] == (Cause(("attn[0]",), ("mlp[0]",)),)
    np.testing.assert_array_equal(repaired.responsibility[:, 0], [[0.5, 0]] * 3)
    # Erasure keeps y at 0; with f held it would fall to -u.
    erased = actual_causes(motif("erasure"), BOTH, event=Event(LOGIT, above=-0.5))
    assert erased.causes[0, 0] == (Cause(("attn[0]",), ("mlp[0]",)),)
    # Load-bearing: no witness is needed.
    bearing = actual_causes(motif("load_bearing"), BOTH, event=Event(LOGIT, above=0.5))
    assert bearing.causes[1, 0] == (Cause(("attn[0]",)),)
    np.testing.assert_array_equal(bearing.responsibility[:, 0], [[1, 0]] * 3)
    # Passive redundancy: x is no cause at all, f is.
    passive = actual_causes(motif("passive_redundancy"), BOTH, event=Event(LOGIT, above=0.5))
    np.testing.assert_array_equal(passive.responsibility[:, 0], [[0, 1]] * 3)


def test_partial_repair_depends_on_the_threshold():
    # Without x, 70 % of y comes back: above half no witness is enough, below it the repair has to be held.
    strict = actual_causes(motif("partial_repair"), BOTH, event=Event(LOGIT, above=np.array([0.9, 1.8, 2.7])))
    lax = actual_causes(motif("partial_repair"), BOTH, event=Event(LOGIT, above=np.array([0.5, 1.0, 1.5])))
    np.testing.assert_array_equal(strict.responsibility[:, 0, 0], [1, 1, 1])
    np.testing.assert_array_equal(lax.responsibility[:, 0, 0], [0.5, 0.5, 0.5])


def test_a_redundant_node_is_exposed_by_its_joint_cause():
    found = actual_causes(motif("overdetermined"), attn[0:2] << zero, event=Event(LOGIT, above=0.5))
    assert found.causes[0, 0] == (Cause(("attn[0]", "attn[1]")),)
    np.testing.assert_array_equal(found.responsibility[:, 0], [[0.5, 0.5]] * 3)
    # Neither shows in any single effect.
    for table in answer(motif("overdetermined"), [TE(attn[0] << zero), TE(attn[1] << zero)]):
        np.testing.assert_array_equal(table, 0)
    with_writer = actual_causes(motif("overdetermined"), (attn[0:2] | mlp[1]) << zero, event=Event(LOGIT, above=0.5))
    np.testing.assert_array_equal(with_writer.responsibility[0, 0], [0.5, 0.5, 1.0])


def test_an_event_that_was_false_has_no_causes():
    found = actual_causes(motif("load_bearing"), BOTH, event=Event(LOGIT, above=1.5))
    assert np.isnan(found.responsibility[0]).all()  # y = u = 1
    np.testing.assert_array_equal(found.responsibility[1:, 0], [[1, 0]] * 2)
    assert (0, 0) not in found.causes


def random_network(seed):
    """A small network with thresholds, in which causes of every kind come up."""
    rng = np.random.default_rng(seed)
    graph = CausalGraph.from_blocks([Block(0), Block(1)])
    inner = [node for node in graph.nodes if node.kind in ("attn", "mlp")]
    weights = {node: {other: rng.choice([-2.0, -1.0, 0.0, 1.0, 2.0]) for other in graph.nodes} for node in graph.nodes}

    def rule(node):
        def compute(read, u):
            total = sum((weights[node][other] * value for other, value in read.items()), np.zeros((1, 1)))
            return np.where(total > 0, 1.0, -1.0) if node.kind == "attn" else np.clip(total, -2, 2)

        return compute

    mechanisms = {node: rule(node) for node in inner}
    mechanisms |= {
        Node("embed"): lambda read, u: u,
        Node("norm"): lambda read, u: 1.0 + np.abs(sum(read.values())) / 4,
        Node("logits"): lambda read, u: np.concatenate(
            [sum(sign * value for node, value in read.items() if node.kind != "norm") / read[Node("norm")]
             for sign in (1, -1)], 1
        ),
    }  # fmt: skip
    prompts = [np.array([[value]]) for value in rng.choice([-1.5, -0.5, 0.5, 1.5], 6)]
    return Network(graph, mechanisms, prompts, targets=(0,) * 6)


def by_definition(network, event, prompt):
    """AC1-AC3 word by word: every set of candidates, every witness among all other nodes."""
    names = ["attn[0]", "mlp[0]", "attn[1]", "mlp[1]", "norm"]
    nodes = [Node.parse(name) for name in names]

    def true(world):
        table = network.read([Reading(world, event.outcome)])[Reading(world, event.outcome)]
        return bool(event.holds(table)[prompt, 0])

    if not true(World()):
        return None
    able = {}
    for size in range(1, 5):
        for cause in itertools.combinations(range(4), size):
            rest = [n for n in range(5) if n not in cause]
            for held in range(len(rest) + 1):
                for witness in itertools.combinations(rest, held):
                    writes = [(Site(nodes[n]), zero) for n in cause] + [(Site(nodes[n]), NATURAL) for n in witness]
                    if cause not in able and not true(World(tuple(writes))):
                        able[cause] = len(witness)
    minimal = {one: size for one, size in able.items() if not any(set(other) < set(one) for other in able)}
    return [max((1 / (len(one) + size) for one, size in minimal.items() if n in one), default=0.0) for n in range(4)]


@pytest.mark.parametrize("seed", range(6))
def test_against_the_definition(seed):
    network = random_network(seed)
    event = Event(LOGIT, above=0.25)
    found = actual_causes(network, (attn[0:2] | mlp[0:2]) << zero, event=event)
    assert found.exact
    for prompt in range(2):
        wanted = by_definition(network, event, prompt)
        if wanted is None:
            assert np.isnan(found.responsibility[prompt]).all()
        else:
            np.testing.assert_allclose(found.responsibility[prompt, 0], wanted)


def test_the_random_networks_have_causes_of_every_kind():
    sizes = set()
    for seed in range(6):
        found = actual_causes(random_network(seed), (attn[0:2] | mlp[0:2]) << zero, event=Event(LOGIT, above=0.25))
        sizes |= {(len(one.nodes), len(one.witness)) for some in found.causes.values() for one in some}
    assert {(1, 0), (1, 1), (2, 0)} <= sizes


@pytest.mark.parametrize("seed", range(6))
def test_a_greedy_search_gives_lower_bounds(seed):
    network = random_network(seed)
    event = Event(LOGIT, above=0.25)
    candidates = (attn[0:2] | mlp[0:2]) << zero
    exact = actual_causes(network, candidates, event=event)
    greedy = actual_causes(network, candidates, event=event, most_worlds=1)
    assert not greedy.exact
    assert "lower bounds" in str(greedy)
    fine = ~np.isnan(exact.responsibility)
    assert (greedy.responsibility[fine] <= exact.responsibility[fine] + 1e-12).all()
    for unit, some in greedy.causes.items():
        for cause in some:
            if cause.certain:  # a true cause, though perhaps with a larger witness
                best = next(one for one in exact.causes[unit] if one.nodes == cause.nodes)
                assert len(cause.witness) >= len(best.witness)


def test_a_greedy_search_finds_what_the_motifs_hide():
    for name, above in (("self_repair", 0.5), ("erasure", -0.5)):
        found = actual_causes(motif(name), BOTH, event=Event(LOGIT, above=above), most_worlds=1)
        assert found.causes[0, 0] == (Cause(("attn[0]",), ("mlp[0]",)),)
    joint = actual_causes(motif("overdetermined"), attn[0:2] << zero, event=Event(LOGIT, above=0.5), most_worlds=1)
    assert joint.causes[0, 0] == (Cause(("attn[0]", "attn[1]"), (), certain=False),)
    np.testing.assert_array_equal(joint.responsibility, 0)  # not proven, so it counts for nothing


def test_a_real_model(prompted):
    scm = prompted("gpt2")
    nodes = [kind[layer] for layer in range(3) for kind in (attn, mlp)]
    found = actual_causes(scm, (attn[0:3] | mlp[0:3]) @ last << resample, witnesses=[])
    assert found.exact
    assert found.variables == tuple(f"{node}@last" for node in nodes)
    assert found.responsibility.shape == (4, 2, 6)
    # Responsibility 1 is what an ablation alone shows: another token becomes the most likely one.
    alone = answer(scm, [E[top1 | do(node @ last << resample)] for node in nodes])
    np.testing.assert_array_equal(found.responsibility == 1, np.stack(alone, -1) == 0)
    assert (found.responsibility == 1).any()
    assert ((found.responsibility > 0) & (found.responsibility < 1)).any()


def test_missing_donors_are_left_out():
    scm = linear_model(2, eps=1e-5).network([(1, 2), (3, 4)], np.array([[1, 1], [0, -1]]))
    found = actual_causes(scm, attn[0:2] @ last << resample, event=Event(LOGIT, above=-100.0))
    assert np.isnan(found.responsibility[1, 1]).all()
    np.testing.assert_array_equal(found.responsibility[0], 0)


def test_what_cannot_be_asked():
    network = random_network(0)
    with pytest.raises(ExpressionError, match="contrast"):
        actual_causes(network)
    with pytest.raises(ExpressionError, match="edge"):
        actual_causes(network, attn[0] >> mlp[1] << zero)
    with pytest.raises(InputError, match="downstream"):
        actual_causes(network, mlp[1] << zero, witnesses=[Node("attn", 0)])
