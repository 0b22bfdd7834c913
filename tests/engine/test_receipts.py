"""Nothing silent: every write leaves a receipt, nothing stays on the model, no number is made up."""

from dataclasses import replace

import engine_models as models
import numpy as np
import pytest
import torch

from causalnet.engine import natural, prefix
from causalnet.engine.plain import run_plain
from causalnet.engine.plan import Reading, plan
from causalnet.engine.run import run
from causalnet.errors import InputError, InterventionError, NonFiniteError, OutOfMemory
from causalnet.expr.outcomes import OUTCOMES, TARGET, Outcome
from causalnet.expr.positions import LAST, At
from causalnet.expr.refs import Component
from causalnet.expr.values import NATURAL, RESAMPLE, ZERO, Add, InWorld, Scale
from causalnet.expr.world import NATURAL_WORLD, Site, World
from causalnet.graph import Node
from causalnet.model.probe import Hooks

LOGIT = Outcome("logit", (TARGET,))
MIXED = World(((Site(Node("attn", 0), LAST), RESAMPLE), (Site(Node("embed"), At(1), Node("mlp", 1)), ZERO)))
READINGS = (
    Reading(NATURAL_WORLD, LOGIT),
    Reading(MIXED, LOGIT),
    Reading(World(((Site(Node("mlp", 2)), InWorld(MIXED)),)), LOGIT),
)


def planned_for(mechanisms, readings=READINGS, **more):
    inputs = models.inputs_for(mechanisms, **more)
    return plan(mechanisms.graph, (), readings, inputs.shape, draws=inputs.count), inputs


def state_of(mechanisms):
    """Return everything about a model that a run could leave changed."""
    modules = list(mechanisms.hf.modules())
    hooks = [
        len(table)
        for module in modules
        for table in (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
    ]
    found = {id(module.config): module.config for module in modules if hasattr(module, "config")}
    configs = [sorted((name, repr(value)) for name, value in vars(config).items()) for config in found.values()]
    own = [sorted(set(vars(module)) - {"forward"}) for module in modules]
    tensors = {name: value.clone() for name, value in mechanisms.hf.state_dict().items()}
    return (
        hooks,
        configs,
        own,
        tensors,
        prefix._ACTIVE.get(),
        [parameter.grad for parameter in mechanisms.hf.parameters()],
    )


def assert_untouched(before, mechanisms):
    after = state_of(mechanisms)
    assert sum(after[0]) == 0
    assert [before[index] for index in (0, 1, 2, 4, 5)] == [after[index] for index in (0, 1, 2, 4, 5)]
    assert before[3].keys() == after[3].keys()
    assert all(torch.equal(value, after[3][name]) for name, value in before[3].items())


@pytest.mark.parametrize("name", ["llama", "gpt2", "falcon", "mixtral"])
def test_a_run_leaves_nothing_behind(name):
    mechanisms = models.tiny(name)
    before = state_of(mechanisms)
    planned, inputs = planned_for(mechanisms)
    first = run(mechanisms, planned, inputs)
    assert_untouched(before, mechanisms)
    run_plain(mechanisms, planned, inputs)
    assert_untouched(before, mechanisms)
    again = run(mechanisms, planned, inputs)
    assert all((first[reading] == again[reading]).all() for reading in READINGS)


class Counted:
    """A module's forward that counts its calls and raises at one of them."""

    def __init__(self, module, error=None, at=-1):
        self.forward, self.error, self.at, self.calls = module.forward, error, at, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls - 1 == self.at:
            raise self.error
        return self.forward(*args, **kwargs)


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
@pytest.mark.parametrize("executor", [run, run_plain])
def test_nothing_is_left_behind_whatever_is_raised_wherever(executor, error, monkeypatch):
    mechanisms = models.tiny("llama")
    planned, inputs = planned_for(mechanisms, lengths=(5, 5, 5))
    before = state_of(mechanisms)
    module = mechanisms.layers[1].mlp.module
    counter = Counted(module)
    with monkeypatch.context() as patch:
        patch.setattr(module, "forward", counter)
        expected = executor(mechanisms, planned, inputs)
    assert counter.calls >= 4  # the natural run, two captures, a wave; or one plain forward each
    for at in range(counter.calls):
        with monkeypatch.context() as patch:
            patch.setattr(module, "forward", Counted(module, error, at))
            with pytest.raises(type(error)):
                executor(mechanisms, planned, inputs)
        assert_untouched(before, mechanisms)
    values = [
        found if executor is run_plain else found.values for found in (executor(mechanisms, planned, inputs), expected)
    ]
    assert all((values[0][reading] == values[1][reading]).all() for reading in READINGS)


def test_an_interrupted_progress_leaves_nothing_behind():
    mechanisms = models.tiny("llama")
    planned, inputs = planned_for(mechanisms)
    before = state_of(mechanisms)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(mechanisms, planned, inputs, progress=stop)
    assert_untouched(before, mechanisms)


@pytest.mark.parametrize("where", ["model", "dropout"])
def test_training_mode_is_refused(where):
    mechanisms = models.tiny("gpt2", torch.float32)
    planned, inputs = planned_for(mechanisms)
    module = mechanisms.hf if where == "model" else mechanisms.hf.transformer.drop
    module.train()
    try:
        for executor in (run, run_plain):
            with pytest.raises(InputError, match=r"training mode.*model\.eval\(\)"):
                executor(mechanisms, planned, inputs)
    finally:
        mechanisms.hf.eval()


# -- receipts ------------------------------------------------------------------------------------------------


def test_a_write_that_does_not_fire_is_an_error():
    """Lanes are forged to join after the mechanism that a write wants to reach."""
    mechanisms = models.tiny("llama")
    planned, inputs = planned_for(mechanisms)
    late = tuple(
        replace(bucket, waves=tuple(
            (start, tuple(replace(lane, join=6) for lane in lanes)) for start, lanes in bucket.waves
        ))
        for bucket in planned.buckets
    )  # fmt: skip
    with pytest.raises(InterventionError, match=r"embed@1 -> mlp\[1\] = zero .* fired 0 times"):
        run(mechanisms, replace(planned, buckets=late), inputs)


def test_a_write_that_fires_twice_is_an_error(monkeypatch):
    mechanisms = models.tiny("llama")
    planned, inputs = planned_for(mechanisms)
    call = natural.Call.__call__
    monkeypatch.setattr(natural.Call, "__call__", lambda self, *args: call(self, *args) * 0 + call(self, *args))
    with pytest.raises(InterventionError, match=r"fired 2 times"):
        run(mechanisms, planned, inputs)


@pytest.mark.parametrize("site", [Site(Node("attn", 0), LAST), Site(Node("embed"), At(1), Node("mlp", 1))], ids=str)
@pytest.mark.parametrize("executor", [run, run_plain])
def test_a_hook_that_is_lost_is_an_error(site, executor, monkeypatch):
    mechanisms = models.tiny("llama")
    planned, inputs = planned_for(mechanisms, (Reading(World(((site, ZERO),)), LOGIT),))
    lost = mechanisms.layers[0].attn.source if site.receiver is None else mechanisms.layers[1].mlp.norm
    for name in ("on_output", "on_input"):
        real = getattr(Hooks, name)
        keep = lambda self, module, change, real=real: None if module is lost else real(self, module, change)  # noqa: E731
        monkeypatch.setattr(Hooks, name, keep)
    with pytest.raises((InterventionError, KeyError)):
        executor(mechanisms, planned, inputs)


# -- numbers that are none -----------------------------------------------------------------------------------


def _overflowing(mechanisms, prompt):
    inputs = models.inputs_for(mechanisms)
    huge = torch.zeros(len(inputs.ids), mechanisms.width, dtype=torch.float64)
    huge[prompt] = 1e300
    return replace(inputs, vectors={"each": huge})


@pytest.mark.parametrize("outcome", sorted(OUTCOMES))
def test_an_outcome_that_is_not_finite_is_reported_with_prompt_and_world(outcome):
    mechanisms = models.tiny("gpt2")
    world = World(((Site(Node("mlp", 1), LAST), Add("each", 1e100)),))
    node = Node("mlp", 2)
    of, nodes = (Component.of(node), (node,)) if outcome == "direct" else (None, ())
    reading = Reading(world, Outcome(outcome, (TARGET, 7)[: OUTCOMES[outcome][0]], of), nodes)
    inputs = _overflowing(mechanisms, 3)
    planned = plan(mechanisms.graph, (), (reading,), inputs.shape, draws=inputs.count)
    with pytest.raises(NonFiniteError, match=r"prompt 3, .*do\(mlp\[1\]@last = add\(\"each\", 1e\+100\)\)"):
        run(mechanisms, planned, inputs)


def test_holes_of_missing_donors_are_not_taken_for_broken_numbers():
    mechanisms = models.tiny("gpt2")
    planned, inputs = planned_for(mechanisms)
    donors = inputs.donors.copy()
    donors[2, 1] = -1
    trace = run(mechanisms, planned, replace(inputs, donors=donors))
    assert np.isnan(trace[READINGS[1]]).sum() == 1


# -- memory --------------------------------------------------------------------------------------------------


class Cramped:
    """A module's forward with room for so many rows."""

    def __init__(self, module, rows):
        self.forward, self.rows, self.refused = module.forward, rows, 0

    def __call__(self, hidden, *args, **kwargs):
        if hidden.shape[0] > self.rows:
            self.refused += 1
            raise torch.OutOfMemoryError("no room")
        return self.forward(hidden, *args, **kwargs)


SINGLE = tuple(
    Reading(World(((Site(Node(kind, layer), LAST), value),)), LOGIT)
    for kind, layer, value in (
        ("attn", 0, RESAMPLE),
        ("mlp", 0, ZERO),
        ("attn", 1, Scale(2.0)),
        ("embed", None, NATURAL),
    )
)


@pytest.mark.parametrize(("rows", "refusals"), [(2, 10), (5, 3), (11, 1)])
def test_out_of_memory_halves_draws_then_worlds_then_prompts(rows, refusals, monkeypatch):
    mechanisms = models.tiny("llama")
    planned, inputs = planned_for(mechanisms, SINGLE, lengths=(6,) * 3, draws=3)
    expected = run(mechanisms, planned, inputs)
    module = mechanisms.layers[2].mlp.module
    cramped = Cramped(module, rows)
    monkeypatch.setattr(module, "forward", cramped)
    found = run(mechanisms, planned, inputs)
    assert cramped.refused >= refusals
    for reading in SINGLE:
        assert found[reading] == pytest.approx(expected[reading], rel=1e-6, abs=1e-6)


def test_out_of_memory_at_one_row_is_a_clear_error(monkeypatch):
    mechanisms = models.tiny("llama")
    before = state_of(mechanisms)
    planned, inputs = planned_for(mechanisms, SINGLE, lengths=(6,) * 3)
    module = mechanisms.layers[2].mlp.module
    with monkeypatch.context() as patch:
        patch.setattr(module, "forward", Cramped(module, 0))
        with pytest.raises(OutOfMemory, match=r"prompt 0: .*6 tokens does not fit into memory; use a smaller dtype"):
            run(mechanisms, planned, inputs)
    # The natural runs fit, and not even one row of a wave does.
    counter, limit = Counted(module), {"calls": 0}
    with monkeypatch.context() as patch:
        patch.setattr(module, "forward", counter)
        run(mechanisms, plan(mechanisms.graph, (), (Reading(NATURAL_WORLD, LOGIT),), inputs.shape), inputs)

    def later(hidden, *args, **kwargs):
        limit["calls"] += 1
        if limit["calls"] > counter.calls + 2:  # two captures
            raise torch.OutOfMemoryError("no room")
        return counter.forward(hidden, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, "forward", later)
        with pytest.raises(OutOfMemory, match=r"prompt 0: one draw of 1 worlds at 1 positions .*smaller dtype"):
            run(mechanisms, planned, inputs)
    assert_untouched(before, mechanisms)


def test_donors_that_do_not_fit_together_are_run_in_smaller_groups(monkeypatch):
    mechanisms = models.tiny("llama")
    planned, inputs = planned_for(mechanisms, SINGLE, lengths=(6,) * 4)
    pooled = replace(inputs, pool=replace(inputs, donors=None))
    expected = run(mechanisms, planned, pooled)
    module = mechanisms.layers[2].mlp.module
    monkeypatch.setattr(module, "forward", Cramped(module, 2))
    found = run(mechanisms, planned, pooled)
    for reading in SINGLE:
        assert found[reading] == pytest.approx(expected[reading], rel=1e-6, abs=1e-6)
