"""What a run holds: bounded by ``memory`` however many prompts and donors there are, and nothing after it.

Bytes are those of the tensors that are alive, counted after every operation: no clock, no allocator, no garbage
collector plays a part.
"""

import gc
import weakref
from contextlib import contextmanager

import engine_models as models
import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Gemma2Config

from causalnet.engine import bank, batching, readings
from causalnet.engine.bank import Wanted, fill_bank
from causalnet.engine.batching import Naturals
from causalnet.engine.budget import budget_of
from causalnet.engine.inputs import Inputs
from causalnet.engine.natural import kept_of, run_natural
from causalnet.engine.plan import Reading, plan
from causalnet.engine.readings import Tokens, World0, read
from causalnet.engine.run import run
from causalnet.engine.wave import Wave
from causalnet.expr.outcomes import TARGET, Outcome
from causalnet.expr.positions import LAST, Range, Span
from causalnet.expr.refs import Component
from causalnet.expr.values import MEAN, RESAMPLE, ZERO, Noise, Patch
from causalnet.expr.world import Site, World
from causalnet.graph import Node
from causalnet.model.compile import compile_model

LOGIT = Outcome("logit", (TARGET,))
LENGTH = 12
MEMORY = 1 << 17
DRAWS = 2
FEW, MANY = 2, 40


class Held(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, those of the model left out."""

    def __init__(self, mechanisms):
        super().__init__()
        weights = [*mechanisms.hf.parameters(), *mechanisms.hf.buffers()]
        self.left_out = {tensor.untyped_storage()._cdata for tensor in weights}
        self.known, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.left_out and storage._cdata not in self.known:
                    self.known[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    @property
    def now(self):
        # A weak reference keeps the number of its storage, so that no other one takes it.
        self.known = {number: found for number, found in self.known.items() if not found[0].expired()}
        return sum(size for _, size in self.known.values())


@contextmanager
def held(mechanisms):
    """Count what is held, where nothing that is let go waits for the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        with Held(mechanisms) as counter:
            yield counter
    finally:
        gc.enable()


def nodes_of(mechanisms):
    return [Node(kind, layer) for layer in range(mechanisms.graph.layers) for kind in ("attn", "mlp")]


def asked(mechanisms, value, where, prompts, pool=None):
    """Return a plan that sets every mechanism in turn, and its inputs."""
    ids = models.random_ids(models.VOCAB, (LENGTH,) * prompts, 0)
    donors = np.random.default_rng(0).integers(0, pool or prompts, (prompts, DRAWS))
    inputs = Inputs(
        ids,
        pool=None if pool is None else Inputs(models.random_ids(models.VOCAB, (LENGTH,) * pool, 1)),
        donors=donors if value == RESAMPLE else None,
        pairs={"other": Inputs(models.random_ids(models.VOCAB, (LENGTH,) * prompts, 2))},
        draws=DRAWS,
    )
    asked = [Reading(World(((Site(node, where), value),)), LOGIT) for node in nodes_of(mechanisms)]
    return plan(mechanisms.graph, (), asked, inputs.shape, draws=inputs.count), inputs


def donated(mechanisms, value, where, inputs):
    """Return the bytes of the values that donors, pairs and means give: they are held as long as the run."""
    tokens = LENGTH if where is None else 1
    one = len(nodes_of(mechanisms)) * tokens * mechanisms.width * 4
    if value == RESAMPLE:
        return one * len(np.unique(inputs.donors))
    return one * {MEAN: 3, Patch("other"): len(inputs.ids)}.get(value, 0)  # totals are in float64


def check_memory(mechanisms, value, where, prompts, pool=None):
    planned, inputs = asked(mechanisms, value, where, prompts, pool)
    with held(mechanisms) as counter:
        run(mechanisms, planned, inputs, memory=MEMORY)
        left = counter.now
    assert counter.peak <= MEMORY + donated(mechanisms, value, where, inputs)
    assert left == 0


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        ("gpt2", ZERO, LAST), ("gpt2", ZERO, None), ("gpt2", Patch("other"), LAST), ("gpt2", MEAN, None),
        ("llama", RESAMPLE, LAST), ("llama", Noise(1.0), LAST), ("bloom", ZERO, LAST),
    ],
    ids=str,
)  # fmt: skip
def test_memory_is_kept_to_however_many_prompts_there_are(name, value, where):
    check_memory(models.tiny(name, dtype=torch.float32), value, where, MANY)


@pytest.mark.parametrize("where", [LAST, None], ids=str)
@pytest.mark.parametrize("value", [RESAMPLE, MEAN, Noise(1.0)], ids=str)
def test_memory_is_kept_to_however_large_the_donor_pool_is(value, where):
    check_memory(models.tiny("gpt2", dtype=torch.float32), value, where, FEW, MANY)


def test_only_what_is_looked_at_is_kept():
    """One node at the last position: its contribution and two streams at one column, keys and values before it."""
    mechanisms = models.tiny("gpt2", dtype=torch.float32)
    node = Node("mlp", 1)
    planned, inputs = asked(mechanisms, ZERO, LAST, FEW)
    one = plan(mechanisms.graph, (), [r for r in planned.readings if r.world.sites[0].node == node], inputs.shape)
    (natural,) = (natural for _, natural in Naturals(mechanisms, one, inputs, budget_of(mechanisms)).each())
    columns, cached = 3, 2 * mechanisms.graph.layers * (LENGTH - 1)
    assert natural.bytes == FEW * (columns + cached) * mechanisms.width * 4
    assert set(natural.contributions) == {node}
    held_by = [*natural.streams, *natural.contributions.values()]
    held_by += [tensor for layer in natural.cache.layers for tensor in layer.recorded]
    assert sum(tensor.untyped_storage().nbytes() for tensor in held_by) == natural.bytes, "copies, not views of more"
    # Where no prefix is shared none is kept.
    planned, inputs = asked(mechanisms, ZERO, None, FEW)
    one = plan(mechanisms.graph, (), [r for r in planned.readings if r.world.sites[0].node == node], inputs.shape)
    (natural,) = (natural for _, natural in Naturals(mechanisms, one, inputs, budget_of(mechanisms)).each())
    assert natural.bytes == FEW * columns * LENGTH * mechanisms.width * 4


@pytest.mark.parametrize("value", [ZERO, RESAMPLE, MEAN, Patch("other")], ids=str)
def test_a_natural_run_is_gone_before_the_next_is_made(value, monkeypatch):
    mechanisms = models.tiny("gpt2", dtype=torch.float32)
    made, alive = [], []

    def counted(*args, **more):
        alive.append(sum(one() is not None for one in made))
        natural = run_natural(*args, **more)
        made.append(weakref.ref(natural))
        return natural

    for module in (bank, batching):
        monkeypatch.setattr(module, "run_natural", counted)
    planned, inputs = asked(mechanisms, value, LAST, 5)
    gc.disable()
    try:
        run(mechanisms, planned, inputs, memory=1)
    finally:
        gc.enable()
    assert alive == [0] * (5 if value == ZERO else 10 if value != RESAMPLE else 5 + len(np.unique(inputs.donors)))


def test_natural_runs_that_are_kept_for_the_waves_are_let_go_one_by_one(monkeypatch):
    mechanisms = models.tiny("gpt2", dtype=torch.float32)
    made, alive = [], []
    call = Wave.run

    def noted(*args, **more):
        natural = run_natural(*args, **more)
        made.append(weakref.ref(natural))
        return natural

    def counted(self):
        alive.append(sum(one() is not None for one in made))
        return call(self)

    monkeypatch.setattr(batching, "run_natural", noted)
    monkeypatch.setattr(Wave, "run", counted)
    inputs = Inputs(models.random_ids(models.VOCAB, (5, 6, 7), 0), donors=np.array([[1], [2], [0]]))
    reading = Reading(World(((Site(Node("mlp", 0), LAST), RESAMPLE),)), LOGIT)
    run(mechanisms, plan(mechanisms.graph, (), [reading], inputs.shape), inputs)
    assert len(made) == 3
    assert alive == [3, 2, 1]


def test_donors_that_nobody_drew_are_not_run():
    mechanisms = models.tiny("gpt2")
    planned, inputs = asked(mechanisms, RESAMPLE, LAST, FEW, MANY)
    seen = []
    handle = mechanisms.layers[0].mlp.module.register_forward_pre_hook(lambda _m, args: seen.append(args[0].shape))
    try:
        run(mechanisms, planned, inputs)
    finally:
        handle.remove()
    whole = [shape[0] for shape in seen if shape[1] == LENGTH]
    assert whole == [len(np.unique(inputs.donors)), FEW]


# -- means and standard deviations, block by block -------------------------------------------------------------


@pytest.fixture(scope="module")
def pooled():
    """Return a pool of one length with a span in different places, what is wanted of it, and its natural run.

    In float64: sums in another order would differ in its last bits, which rounding to float32 hides.
    """
    mechanisms = models.tiny("gpt2")
    spans = tuple({"subject": (index % 3, index % 3 + 1 + index % 2)} for index in range(MANY))
    inputs = Inputs(models.random_ids(models.VOCAB, (LENGTH,) * MANY, 1), spans=spans)
    keys = frozenset((node, where) for node in nodes_of(mechanisms) for where in (LAST, Span("subject"), Range(0, 3)))
    kept = kept_of((node for node, _ in keys), mechanisms.graph.layers)
    return mechanisms, inputs, keys, run_natural(mechanisms, torch.tensor(inputs.ids), kept)


def filled(pooled, step):
    """Return the bank that is filled from one natural run in blocks of some prompts."""
    mechanisms, inputs, keys, natural = pooled
    blocks = [slice(start, min(start + step, MANY)) for start in range(0, MANY, step)]
    runs = ((range(MANY)[block], natural.part(block)) for block in blocks)
    wanted = Wanted(tuple(range(MANY)), keys, keys, keys)
    return fill_bank(mechanisms, inputs, wanted, budget_of(mechanisms), runs)


@pytest.mark.parametrize("step", [1, 7])
def test_means_and_spreads_have_the_same_bits_whatever_the_blocks(pooled, step):
    """The runs are the same, so nothing but the order of the sums could differ."""
    whole, cut = filled(pooled, MANY), filled(pooled, step)
    assert whole.spreads == cut.spreads
    for key in pooled[2]:
        assert torch.equal(whole.means[key], cut.means[key])
        assert torch.equal(whole.values[key], cut.values[key])


def test_means_and_spreads_are_those_of_all_values(pooled):
    _, inputs, keys, natural = pooled
    found = filled(pooled, 7)
    for node, where in keys:
        every = [natural.contributions[node][i, list(inputs.columns(i, where))] for i in range(MANY)]
        assert found.spreads[node, where] == pytest.approx(float(torch.cat(every).std()), rel=1e-12)
        for place in range(max(map(len, every))):
            mean = torch.stack([value[place] for value in every if len(value) > place]).mean(0)
            assert torch.allclose(found.means[node, where][place], mean, rtol=0, atol=1e-12)


# -- logits ----------------------------------------------------------------------------------------------------

CURVED = [
    *(Outcome(name, (TARGET,)) for name in ("logprob", "prob", "rank", "top1")),
    Outcome("entropy"),
    Outcome("kl"),
]
ROWS = 4  # of a piece


@pytest.fixture(scope="module", params=[None, 3.0], ids=["plain", "softcap"])
def wordy(request):
    """Return a model whose logits are much wider than anything else in it."""
    sizes = {"vocab_size": 1 << 13, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    config = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 32, "head_dim": 8}
    config = Gemma2Config(**sizes, **config, final_logit_softcapping=request.param)
    return compile_model(models.randomise(models.build(config, dtype=torch.float32)), name="wordy")


@pytest.mark.parametrize("outcome", CURVED, ids=str)
@pytest.mark.parametrize("value", [ZERO, Noise(1.0)], ids=str)
def test_logits_are_made_some_rows_at_a_time(outcome, value, wordy, monkeypatch):
    piece = ROWS * (1 << 13) * 4
    monkeypatch.setattr(readings, "_PIECE", {"cpu": piece})
    draws = 1 if value == ZERO else 3 * ROWS
    inputs = Inputs(models.random_ids(1 << 13, (LENGTH,) * 12, 0), draws=draws, targets=tuple(range(12)))
    asked = [Reading(World(((Site(Node("mlp", 1), LAST), value),)), outcome)]
    planned = plan(wordy.graph, (), asked, inputs.shape, draws=inputs.count)
    with held(wordy) as counter:
        found = run(wordy, planned, inputs, memory=MEMORY)
    assert counter.peak <= MEMORY + 6 * piece
    # The products of four rows and of all round alike or nearly so.
    monkeypatch.setattr(readings, "_PIECE", {"cpu": 1 << 30})
    whole = run(wordy, planned, inputs, memory=1 << 30)
    assert np.isfinite(found[asked[0]]).all() and found[asked[0]].shape == (12, draws)
    assert found[asked[0]] == pytest.approx(whole[asked[0]], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("outcome", CURVED, ids=str)
@pytest.mark.parametrize("rows", [1, 2, 5, 7, 14])
def test_pieces_of_prompts_and_draws_are_put_back_in_place(outcome, rows, monkeypatch):
    readout = models.tiny("gemma2").readout
    stream = torch.randn(5, 3, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    natural = World0(stream[:, 0] + 1, Tokens(readout.precap_logits(stream[:, 1]).argmax(-1)))
    whole = read(readout, outcome, stream, natural)
    assert whole.shape == (5, 3) and len(whole.unique()) > 1
    monkeypatch.setattr(readings, "_PIECE", {"cpu": rows * models.VOCAB * 8})
    memo = {}
    assert torch.allclose(read(readout, outcome, stream, natural, memo=memo), whole, rtol=1e-12, atol=1e-13)
    assert "logits" not in memo, "what does not fit into a piece is not kept"


def test_the_natural_world_differs_from_itself_by_nothing_however_it_is_cut(monkeypatch):
    readout = models.tiny("gpt2", dtype=torch.float32).readout
    stream = torch.randn(7, 32, generator=torch.Generator().manual_seed(0))
    natural = World0(stream, Tokens(torch.zeros(7, dtype=torch.long)))
    for rows in (1, 3, 100):
        monkeypatch.setattr(readings, "_PIECE", {"cpu": rows * models.VOCAB * 4})
        assert not read(readout, Outcome("kl"), stream.unsqueeze(1), natural).any()


# -- results ---------------------------------------------------------------------------------------------------


def results(mechanisms, lengths, values, memory):
    ids, pool = (models.random_ids(models.VOCAB, lengths, seed) for seed in (0, 1))
    donors = np.array([[(prompt + 1) % len(lengths)] for prompt in range(len(lengths))])
    inputs = Inputs(ids, pool=Inputs(pool), donors=donors, draws=1)
    node, found = Node("attn", 1), []
    for value in values:  # one world at a time: waves are as wide under any budget
        readings = [
            Reading(World(((Site(node, LAST), value),)), outcome, nodes)
            for outcome, nodes in ((LOGIT, ()), (Outcome("direct", (TARGET,), Component.of(node)), (node,)))
        ]
        trace = run(mechanisms, plan(mechanisms.graph, (), readings, inputs.shape), inputs, memory=memory)
        found += [trace[reading] for reading in readings]
    return np.stack(found)


VALUES = (RESAMPLE, MEAN, Noise(1.0), ZERO)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_results_have_the_same_bits_under_any_budget_where_the_shapes_are_the_same(name):
    """Prompts that all differ in length run alone under any budget: every product has the same shape."""
    mechanisms, lengths = models.tiny(name, dtype=torch.float32), tuple(range(3, 15))
    ample, tight = (results(mechanisms, lengths, VALUES, memory) for memory in (None, 1))
    assert (ample == tight).all()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_results_agree_to_rounding_where_a_budget_changes_the_shapes(name):
    """Matrix products round differently for different numbers of rows, so blocks of prompts differ in last bits."""
    mechanisms, lengths = models.tiny(name, dtype=torch.float32), (LENGTH,) * 12
    ample = results(mechanisms, lengths, VALUES, None)
    for memory in (1, 1 << 15):
        assert np.abs(results(mechanisms, lengths, VALUES, memory) - ample).max() <= 2e-5 * np.abs(ample).max()
