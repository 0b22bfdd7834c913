"""Compensation Shapley: against all orders by brute force, its axioms, its sum, its sampling error."""

import itertools
import math

import numpy as np
import pytest

from causalnet.effects.asking import unit_effects
from causalnet.effects.estimands import natural_effects
from causalnet.effects.shapley import compensation_game, compensation_shapley, exact, permutations
from causalnet.errors import ExpressionError, InputError
from causalnet.expr import CE, NORM, attn, kl, last, logit, logprob, mlp, pos, resample, target, zero
from causalnet.graph import Block, CausalGraph, Node
from causalnet.testing.finite import field_network
from causalnet.testing.linear import linear_model
from causalnet.testing.motifs import motif
from causalnet.testing.networks import Network

IDS = ((1, 2, 3), (4, 5, 6))
DONORS = np.array([[1, 1], [0, 0]])
S = [attn[0] @ last << resample]


def brute_force(game):
    """The mean over all orders of what each player adds when it joins those before it."""
    count = len(game.players)
    total = 0.0
    for order in itertools.permutations(range(count)):
        mask, before = np.zeros(count, dtype=int), game.values(np.zeros((1, count), dtype=int))[0]
        gains = [None] * count
        for player in order:
            mask[player] = 1
            after = game.values(mask[None])[0]
            gains[player], before = after - before, after
        total = total + np.stack(gains, -1)
    return total / math.factorial(count)


@pytest.mark.parametrize("outcome", [logit(target), logprob(target), kl])
@pytest.mark.parametrize("norm", ["player", "held"])
def test_against_every_order(outcome, norm):
    scm = linear_model(2, eps=1e-5, seed=2).network(IDS, DONORS)
    game = compensation_game(scm, *S, outcome=outcome, norm=norm)
    assert len(game.players) == (4 if norm == "player" else 3)
    found = exact(game)
    np.testing.assert_allclose(found.values, brute_force(game), atol=1e-12)
    assert np.abs(found.values).max() > 1e-2


def test_against_every_order_in_a_curved_network():
    # Polynomials of the field's network, over small real numbers: strong interactions.
    game = compensation_game(curved(), attn[0] << zero)
    np.testing.assert_allclose(exact(game).values, brute_force(game), rtol=1e-12)


def curved():
    graph = CausalGraph.from_blocks([Block(0), Block(1)])
    a0, m0, a1, m1 = (Node(kind, layer) for layer in (0, 1) for kind in ("attn", "mlp"))
    embed, norm, logits = Node("embed"), Node("norm"), Node("logits")

    def total(read):
        return sum(value for node, value in read.items() if node != norm)

    mechanisms = {
        embed: lambda read, u: u,
        a0: lambda read, u: 2.0 * read[embed],
        m0: lambda read, u: read[a0] ** 2 - read[embed],
        a1: lambda read, u: read[m0] * read[a0],
        m1: lambda read, u: read[a1] * read[m0] - read[a0],
        norm: lambda read, u: 1.0 + total(read) ** 2,
        logits: lambda read, u: np.concatenate([total(read), -total(read)], 1) / read[norm],
    }
    return Network(graph, mechanisms, [np.array([[0.7]]), np.array([[1.3]])], targets=(0, 0))


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama"])
@pytest.mark.parametrize("which", ["last", "earlier", "everywhere", "joint", "edge", "head"])
def test_shares_sum_to_the_total_less_the_direct_effect(prompted, kind, which):
    s = {
        "last": [attn[1] @ last << resample],
        "earlier": [attn[1] @ pos[-2] << zero],
        "everywhere": [mlp[1] << resample],
        "joint": [attn[1] @ last << zero, attn[2] @ last << resample],
        "edge": [attn[1] @ last >> mlp[2] << zero],
        "head": [attn[1].head[0] @ last << resample],
    }[which]
    tolerance = 1e-9 if kind != "llama" else 1e-5
    for outcome in (logit(target), logprob(target)):
        found = compensation_shapley(prompted(kind), *s, outcome=outcome)
        e = unit_effects(prompted(kind), natural_effects(*s, outcome=outcome))
        np.testing.assert_allclose(found.direct, e["NDE"], atol=tolerance)
        np.testing.assert_allclose(found.total, e["TE"], atol=tolerance)
        np.testing.assert_allclose(found.values.sum(-1), e["TE"] - e["NDE"], atol=tolerance)
        assert np.abs(found.residual).max() < 1e-12
        assert found.method == "exact"
        assert found.coalitions == 2 ** len(found.players)


def test_the_norms_share_is_not_the_norm_term(prompted):
    scm = prompted("gpt2")
    s = attn[1] @ last << resample
    found = compensation_shapley(scm, s)
    term = unit_effects(scm, {"NORM": NORM(s)})["NORM"]
    share = found.values[..., list(found.players).index("norm")]
    assert np.abs(share - term).min() > 1e-6


def test_with_the_norm_held_they_sum_to_ce(prompted):
    scm, s = prompted("gpt2"), attn[1] @ last << resample
    found = compensation_shapley(scm, s, norm="held")
    ce = unit_effects(scm, {"CE": CE(s)})["CE"]
    assert "norm" not in found.players
    np.testing.assert_allclose(found.values.sum(-1), ce, atol=1e-12)


def test_known_answers():
    # One responder carries all of it.
    for name in ("erasure", "self_repair"):
        found = compensation_shapley(motif(name), attn[0] << zero)
        np.testing.assert_allclose(found.values[:, 0], [[1, 0], [2, 0], [3, 0]], atol=1e-12)
    # Two in a row: neither carries anything without the other, so each gets half.
    nodes = ["embed", "attn[0]", "mlp[0]", "attn[1]", "norm", "logits"]
    edges = ["embed -> attn[0]", "attn[0] -> mlp[0]", "mlp[0] -> attn[1]", "attn[1] -> logits", "norm -> logits"]
    graph = CausalGraph.from_edges(nodes, [*edges, "attn[1] -> norm"], blocks=[Block(0), Block(1, mlp=False)])
    copy = {child: (lambda read, u, parent=parent: read[parent])
            for parent, child in ((Node("embed"), Node("attn", 0)), (Node("attn", 0), Node("mlp", 0)),
                                  (Node("mlp", 0), Node("attn", 1)))}  # fmt: skip
    rest = {
        Node("embed"): lambda read, u: u,
        Node("norm"): lambda read, u: np.ones((len(u), 1)),
        Node("logits"): lambda read, u: np.concatenate([read[Node("attn", 1)], -read[Node("attn", 1)]], 1),
    }
    scm = Network(graph, copy | rest, [np.array([[2.0]])], targets=(0,))
    found = compensation_shapley(scm, attn[0] << zero)
    np.testing.assert_allclose(found.values[0, 0], [-1.0, -1.0, 0.0], atol=1e-12)


def test_a_player_that_nobody_hears_gets_nothing():
    # The network is linear and its norm frozen: the norm never moves.
    found = compensation_shapley(linear_model(2, seed=3).network(IDS, DONORS), *S)
    assert np.abs(found.values[..., list(found.players).index("norm")]).max() < 1e-12


def test_groups(prompted):
    scm = prompted("gpt2")
    late = {"layer 2": [Node("attn", 2), Node("mlp", 2)]}
    found = compensation_shapley(scm, attn[1] @ last << zero, players=late)
    assert list(found.players) == ["layer 2", "rest"]
    assert [str(node) for node in found.players["rest"]] == ["mlp[1]", "norm"]
    assert np.abs(found.residual).max() < 1e-12
    with pytest.raises(InputError, match="no mediator"):
        compensation_shapley(scm, attn[1] @ last << zero, players={"early": [Node("mlp", 0)]})
    with pytest.raises(InputError, match="two players"):
        compensation_shapley(scm, attn[1] @ last << zero, players={"a": late["layer 2"], "b": late["layer 2"]})
    with pytest.raises(ExpressionError):
        compensation_shapley(motif("load_bearing"), mlp[0] << zero, norm="held")


def test_sampling_is_unbiased_and_says_how_far_off_it_is():
    game = compensation_game(curved(), attn[0] << zero)
    truth = exact(game).values
    found = permutations(game, samples=400, seed=1)
    assert found.method == "permutations"
    np.testing.assert_allclose(found.values.sum(-1), found.total - found.direct, rtol=1e-12)
    scores = (found.values - truth) / found.standard_error
    assert np.abs(scores).max() < 4
    assert (found.standard_error > 0).all()
    # The error falls as 1/√orders, and over seeds the scores spread as it says.
    few = [permutations(game, samples=50, seed=seed) for seed in range(60)]
    spread = np.std([one.values for one in few], axis=0)
    claimed = np.mean([one.standard_error for one in few], axis=0)
    np.testing.assert_allclose(claimed / spread, 1.0, atol=0.35)
    with pytest.raises(InputError, match="at least 2"):
        permutations(game, samples=1)


def test_many_players_are_sampled(prompted):
    found = compensation_shapley(prompted("gpt2"), attn[0] @ last << zero, exact_up_to=3, samples=8)
    assert found.method == "permutations"
    assert found.coalitions < 2 ** len(found.players)
    assert np.abs(found.residual).max() < 1e-12


def test_another_solver(prompted):
    scm, s = prompted("gpt2"), attn[1] @ last << resample
    truth = compensation_shapley(scm, s)

    def solve(value, players):
        # By permutations, one coalition at a time: as a solver would that knows nothing of batches.
        total = 0.0
        orders = list(itertools.permutations(range(players)))
        for order in orders:
            mask = np.zeros(players)
            gains = []
            for player in order:
                before = value(mask.copy())
                mask[player] = 1
                gains.append((player, value(mask.copy()) - before))
            total = total + np.stack([gain for _, gain in sorted(gains, key=lambda one: one[0])], -1)
        return total / len(orders)

    found = compensation_shapley(scm, s, solver=solve)
    assert found.method == "solver"
    np.testing.assert_allclose(found.values, truth.values, atol=1e-12)
    assert np.isnan(found.standard_error).all()
    with pytest.raises(InputError, match="shape"):
        compensation_shapley(scm, s, solver=lambda value, players: np.zeros((1, players + 1)))


def test_it_prints(prompted):
    text = str(compensation_shapley(prompted("gpt2"), attn[1] @ last << zero))
    assert "4 players (exact)" in text
    assert "mlp[1]" in text


def test_units_without_a_donor_are_left_out():
    scm = linear_model(2, eps=1e-5).network(IDS, np.array([[1, 1], [0, -1]]))
    found = compensation_shapley(scm, *S)
    assert np.isnan(found.values[1, 1]).all()
    assert np.isfinite(found.values[0]).all()
    assert all(np.isfinite(list(found.mean().values())))


def test_a_field_needs_a_division_that_it_has():
    # Coalitions are worth whole numbers there; only the weights are fractions.
    game = compensation_game(field_network(2), attn[0] @ last << resample)
    worth = game.values(np.array([[0, 0, 0, 0], [1, 1, 1, 1]]))
    e = unit_effects(field_network(2), natural_effects(attn[0] @ last << resample))
    np.testing.assert_array_equal(worth[0], e["NDE"])
    np.testing.assert_array_equal(worth[1], e["TE"])
