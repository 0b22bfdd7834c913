"""The same interventions through the engine and through implementations that no one here wrote.

Runs where nnsight, pyvene and TransformerLens are installed: ``make test-peers``.
"""

import importlib.util
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peers_models import FAMILIES, STORIES, fresh, nodes_of, reach
from peers_players import PEERS

from causalnet.engine.plan import Reading, plan
from causalnet.engine.run import run
from causalnet.engine.sources import Inputs
from causalnet.expr.outcomes import TARGET, Outcome
from causalnet.expr.positions import LAST, At, Range, indices
from causalnet.expr.refs import Component
from causalnet.expr.values import RESAMPLE, ZERO
from causalnet.expr.world import NATURAL_WORLD, Site, World
from causalnet.graph import Node
from causalnet.model.compile import compile_model

PLACES = (LAST, At(0), At(2), At(-3), Range(1, 4), Range(-2, None))
LENGTHS = (7, 9, 7, 6)
# Bounds on |difference| / max(1, |value|) in float64: where it is kept throughout, where a norm computes in float32
# whatever it is given (Llama, Gemma, OLMo), and where the peer computes such norms and rotations by code of its own.
_EXACT, _CAST, _OWN_CODE = 1e-9, 1e-6, 5e-6

if not any(map(importlib.util.find_spec, PEERS)):
    pytest.skip("no peer is installed here; make test-peers runs this elsewhere", allow_module_level=True)

PAIRS = [(peer, family) for peer in PEERS for family in FAMILIES]


def skip_unless_possible(peer, family):
    if importlib.util.find_spec(peer) is None:
        pytest.skip(f"{peer} is not installed here; make test-peers runs this in an environment of its own")
    if family == "stories260K" and not STORIES.exists():
        pytest.skip("the checkpoint stories260K is not beside the project")


def bound(peer, family):
    if FAMILIES[family].exact:
        return _EXACT
    return _OWN_CODE if peer == "transformer_lens" else _CAST


@cache
def compiled(family):
    return compile_model(fresh(family), name=family)


@pytest.fixture(scope="module")
def player(tmp_path_factory):
    """Return a function that gives the peer's model of a family, built once."""

    @cache
    def build(peer, family):
        return PEERS[peer](fresh(family), FAMILIES[family], tmp_path_factory.mktemp(peer))

    return build


def prompts(family, seed=0):
    """Return random prompts of several lengths, and two donors for each."""
    rng = np.random.default_rng(seed)
    vocab = compiled(family).vocab
    ids = tuple(tuple(int(token) for token in rng.integers(3, vocab, length)) for length in LENGTHS)
    others = [[other for other in range(len(ids)) if other != prompt] for prompt in range(len(ids))]
    return Inputs(ids, donors=np.stack([rng.permutation(row)[:2] for row in others]))


class Plainly:
    """Outcomes computed from a peer's logits and outputs, in plain numpy, from the model's parameters."""

    def __init__(self, family, ids):
        hf = fresh(family)
        norm, seen = reach(hf, FAMILIES[family].norm), []
        handle = norm.register_forward_hook(lambda _module, args, _output: seen.append(args[0][0, -1]))
        with torch.no_grad():
            logits = hf(torch.tensor([ids])).logits[0, -1].numpy()
        handle.remove()
        self.target, self.second = (int(token) for token in logits.argsort()[[-1, -2]])
        stream = seen[0].numpy()
        centred = isinstance(norm, torch.nn.LayerNorm)
        spread = stream - stream.mean() if centred else stream
        eps = getattr(norm, "variance_epsilon", None) or norm.eps
        self.sigma = np.sqrt(np.square(spread).mean() + eps)
        unembedding = hf.get_output_embeddings().weight.numpy()
        gain = norm.weight.numpy() + ("Gemma" in type(norm).__name__)
        weight = (unembedding[self.target] - unembedding.mean(0)) * gain
        self.weight = weight - weight.mean() if centred else weight
        self.natural = logits

    def read(self, outcome, of, logits, outputs):
        logits = logits.numpy()
        if outcome.name == "direct":
            return sum(float(outputs[node.kind, node.layer].numpy() @ self.weight / self.sigma) for node in of)
        if outcome.name == "logit":
            return float(logits[self.target] - logits.mean())
        if outcome.name == "logit_diff":
            return float(logits[self.target] - logits[5])
        log_p, log_q = (row - np.log(np.exp(row - row.max()).sum()) - row.max() for row in (self.natural, logits))
        assert outcome.name == "kl"
        return float((np.exp(log_p) * (log_p - log_q)).sum())


def outcomes(nodes):
    """Return every outcome that is compared: three of the whole model, and each node's direct effect."""
    yield Outcome("logit", (TARGET,)), ()
    yield Outcome("logit_diff", (TARGET, 5)), ()
    yield Outcome("kl"), ()
    for node in nodes:
        yield Outcome("direct", (TARGET,), Component.of(node)), (node,)


def compare(peer, family, forward, worlds):
    """Hold every outcome of every prompt, donor and world of the engine against the peer's."""
    mechanisms, inputs = compiled(family), prompts(family)
    nodes = [Node(kind, layer) for kind, layer in nodes_of(mechanisms.hf)]
    readings = [Reading(world, outcome, of) for world in (NATURAL_WORLD, *worlds) for outcome, of in outcomes(nodes)]
    trace = run(mechanisms, plan(mechanisms.graph, worlds, readings, inputs.shape, draws=inputs.count), inputs)
    limit = bound(peer, family)
    for prompt, ids in enumerate(inputs.ids):
        plainly = Plainly(family, ids)
        assert trace.targets[prompt] == plainly.target
        for world in (NATURAL_WORLD, *worlds):
            for draw in range(inputs.count if RESAMPLE in world.values else 1):
                donor = inputs.ids[inputs.donors[prompt, draw]] if RESAMPLE in world.values else None
                logits, outputs = forward(ids, moves(world, ids, donor), donor)
                for outcome, of in outcomes(nodes):
                    ours = trace[Reading(world, outcome, of)][prompt, draw]
                    theirs = plainly.read(outcome, of, logits, outputs)
                    assert ours == pytest.approx(theirs, rel=limit, abs=limit), f"{outcome} | {world}, prompt {prompt}"


def moves(world, ids, donor):
    """Return a world's writes as a peer takes them; positions align by label."""
    found = []
    for site, value in world.writes:
        positions = list(indices(site.position, len(ids)))
        sources = None if value == ZERO else list(indices(site.position, len(donor)))
        found.append((site.node.kind, site.node.layer, positions, sources))
    return found


@pytest.mark.parametrize(("peer", "family"), PAIRS)
def test_single_node(peer, family, player):
    """Every layer's attention and MLP, at the last position and at an earlier one, resampled and set to zero."""
    skip_unless_possible(peer, family)
    nodes = nodes_of(compiled(family).hf)
    last = [World(((Site(Node(*node), LAST), RESAMPLE),)) for node in nodes]
    earlier = [World(((Site(Node(*node), At(2)), RESAMPLE),)) for node in nodes[:4]]
    zero = [World(((Site(Node(*node), place), ZERO),)) for node in nodes[:4] for place in (LAST, At(-3))]
    compare(peer, family, player(peer, family), [*last, *earlier, *zero])


@pytest.mark.parametrize(("peer", "family"), PAIRS)
def test_several_nodes(peer, family, player):
    """Several nodes at once, each at positions of its own, drawn at random; donors joint for all of them."""
    skip_unless_possible(peer, family)
    nodes = nodes_of(compiled(family).hf)
    site = st.tuples(st.sampled_from(nodes), st.sampled_from(PLACES), st.sampled_from((RESAMPLE, RESAMPLE, ZERO)))

    @settings(max_examples=5, deadline=None, derandomize=True, database=None)
    @given(st.lists(site, min_size=2, max_size=4, unique_by=lambda one: one[0]))
    def check(sites):
        world = World(tuple((Site(Node(*node), place), value) for node, place, value in sites))
        compare(peer, family, player(peer, family), [world])

    check()


@pytest.mark.parametrize("peer", PEERS)
def test_can_fail(peer, player):
    """The comparison notices an intervention at the wrong position."""
    skip_unless_possible(peer, "gpt2-sequential")
    forward = player(peer, "gpt2-sequential")

    def shifted(ids, moved, donor):
        return forward(ids, [(kind, layer, [at - 1 for at in where], of) for kind, layer, where, of in moved], donor)

    world = World(((Site(Node("attn", 1), LAST), RESAMPLE),))
    with pytest.raises(AssertionError):
        compare(peer, "gpt2-sequential", shifted, [world])
