"""The law of the engine: every planned result equals the plain full forward with hooks."""

from pathlib import Path

import engine_models as models
import engine_worlds as worlds
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from causalnet.engine.inputs import Inputs
from causalnet.engine.plan import Reading
from causalnet.expr.outcomes import TARGET, Outcome
from causalnet.expr.positions import LAST, At
from causalnet.expr.values import NATURAL, ZERO, InWorld, Scale
from causalnet.expr.world import NATURAL_WORLD, Site, World
from causalnet.graph import Node
from causalnet.model.compile import compile_model
from causalnet.model.families import records

STORIES = Path(__file__).parents[3] / "shared" / "models" / "stories260K"


def some(examples):
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
    )


@pytest.mark.parametrize("name", models.CONFIGS)
@some(14)
@given(data=st.data())
def test_random_interventions_in_float64(name, data):
    mechanisms = models.tiny(name)
    case = data.draw(worlds.cases(mechanisms.graph))
    worlds.check_against_plain(mechanisms, case, models.inputs_for(mechanisms), models.tolerance(mechanisms))


@pytest.mark.slow
@pytest.mark.parametrize("name", models.CONFIGS)
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data())
def test_many_random_interventions_in_float64(name, data):
    mechanisms = models.tiny(name)
    case = data.draw(worlds.cases(mechanisms.graph, most=6))
    worlds.check_against_plain(mechanisms, case, models.inputs_for(mechanisms), models.tolerance(mechanisms))


@pytest.mark.parametrize("name", ["llama", "gpt2", "neox-parallel", "gemma2", "mixtral", "bloom"])
@some(8)
@given(data=st.data())
def test_random_interventions_in_float32(name, data):
    mechanisms = models.tiny(name, torch.float32)
    case = data.draw(worlds.cases(mechanisms.graph))
    worlds.check_against_plain(mechanisms, case, models.inputs_for(mechanisms), 2e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["llama", "mistral-window", "neox-parallel", "falcon", "opt"])
@some(5)
@given(data=st.data())
def test_attention_implementations(name, attention, data):
    mechanisms = models.tiny(name, torch.float64, attention)
    assert mechanisms.config._attn_implementation == attention
    case = data.draw(worlds.cases(mechanisms.graph))
    worlds.check_against_plain(mechanisms, case, models.inputs_for(mechanisms), models.tolerance(mechanisms))


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
@some(8)
@given(data=st.data())
def test_a_graph_of_heads(name, data):
    mechanisms = models.tiny(name, granularity="head")
    case = data.draw(worlds.cases(mechanisms.graph))
    worlds.check_against_plain(mechanisms, case, models.inputs_for(mechanisms), models.tolerance(mechanisms))


GALLERY = Path(__file__).parents[2] / "graphs"
FAMILIES = sorted(path.stem for path in GALLERY.glob("*.dot"))
"""Every family that compiles has its graph in the gallery."""


@pytest.mark.parametrize("family", FAMILIES)
@some(2)
@given(data=st.data())
def test_every_family_that_compiles(family, data):
    mechanisms = models.small(family)
    case = data.draw(worlds.cases(mechanisms.graph))
    inputs = models.inputs_for(mechanisms, lengths=(7, 9, 9, 7))  # longer than the windows of small copies
    exact = mechanisms.dtype == torch.float64
    worlds.check_against_plain(mechanisms, case, inputs, models.tolerance(mechanisms) if exact else 2e-5)


def test_the_gallery_holds_every_recorded_family():
    recorded = {record.model_types[0] for record in records()}
    # Pure state-space trunks are refused with a reason: nothing in them is attention or an MLP.
    assert recorded - set(FAMILIES) == {"mamba", "rwkv"}


@pytest.mark.skipif(not STORIES.exists(), reason=f"{STORIES} is not here")
@some(6)
@given(data=st.data())
def test_a_trained_model(data):
    mechanisms = _stories()
    case = data.draw(worlds.cases(mechanisms.graph))
    worlds.check_against_plain(mechanisms, case, models.inputs_for(mechanisms), 2e-5)


def _stories():
    if "stories" not in _LOADED:
        from transformers import AutoModelForCausalLM

        _LOADED["stories"] = compile_model(AutoModelForCausalLM.from_pretrained(STORIES).eval())
    return _LOADED["stories"]


_LOADED = {}


# -- cases that chance finds seldom ------------------------------------------------------------------------

EMBED, NORM, LOGITS = Node("embed"), Node("norm"), Node("logits")


def attn(layer):
    return Node("attn", layer)


def mlp(layer):
    return Node("mlp", layer)


def resid(layer):
    return Node("resid", layer)


def head(layer, number):
    return Node("head", layer, number)


def do(*writes):
    return World(tuple((Site(*place) if isinstance(place, tuple) else Site(place), value) for place, value in writes))


def unmoved(*layers):
    """Hold everything in some layers at its natural value."""
    return tuple((node, NATURAL) for layer in layers for node in (attn(layer), mlp(layer)))


LATE = do((mlp(0), ZERO), *unmoved(1, 2))
EARLY = do((mlp(1), ZERO))
HARD = {
    "a soft stream on a stream that was just set": do((EMBED, ZERO), (resid(0), Scale(2.0))),
    "a soft stream above set mechanisms": do((EMBED, ZERO), *unmoved(0), (resid(1), Scale(2.0))),
    "the stream of a world that is never computed": do((resid(1), InWorld(LATE))),
    "the last stream of a world that is never computed": do((attn(0), ZERO), (resid(3), InWorld(LATE))),
    "the stream of a world that joins later": do((EMBED, Scale(0.5)), (resid(2), InWorld(EARLY))),
    "the stream of a world that joins in the same layer": do((resid(1), InWorld(do((mlp(0), ZERO))))),
    "an edge into the logits moves only the numerator": do(((attn(2), LAST, LOGITS), ZERO)),
    "an edge into the norm moves only the scale": do(((attn(2), LAST, NORM), ZERO)),
    "the logits read another scale than the norm has": do(((NORM, None, LOGITS), NATURAL), (attn(0), ZERO)),
    "the norm of a world whose readout is set": do(
        (NORM, InWorld(do((attn(1), ZERO), ((mlp(2), None, NORM), Scale(3.0)))))
    ),
    "a head that sends": do(((head(0, 1), None, mlp(1)), ZERO), ((head(1, 2), LAST, LOGITS), Scale(2.0))),
    "a head that reads": do(((EMBED, None, head(1, 1)), ZERO)),
    "heads that read different things": do(
        ((attn(0), None, head(1, 0)), ZERO), ((mlp(0), LAST, head(1, 1)), Scale(2.0)), ((EMBED, None, head(1, 3)), ZERO)
    ),
    "a head from head to head": do(((head(0, 1), At(0), head(2, 3)), ZERO)),
    "a bias": do((Node("bias", 1), Scale(3.0))),
    "a bias that sends": do(((Node("bias", 0), None, attn(1)), ZERO), ((Node("bias", 1), None, NORM), ZERO)),
}
OUTCOMES = tuple(Outcome(name, (TARGET,) * (name == "logit")) for name in ("logit", "sigma", "entropy"))


def _meant(name, world):
    """Return whether a model has what a world writes: heads that a norm gathers send nothing by themselves."""
    return name != "olmo2" or not any(site.node.kind in ("head", "bias") and site.receiver for site in world.sites)


@pytest.mark.parametrize(
    ("what", "name"),
    [(what, name) for what in HARD for name in ("llama", "gpt2", "neox-parallel", "olmo2") if _meant(name, HARD[what])],
)
def test_seldom_cases(what, name):
    mechanisms = models.tiny(name)
    world = HARD[what]
    readings = [Reading(world, outcome) for outcome in OUTCOMES]
    readings += [Reading(world, Outcome("direct", (TARGET,), _OF), (node,)) for node in _direct_nodes(name)]
    # The inner worlds are read too: they must not be disturbed by being looked into.
    readings += [Reading(inner, OUTCOMES[0]) for inner in world.nested]
    case = worlds.Case(mechanisms.graph, tuple(readings))
    worlds.check_against_plain(mechanisms, case, models.inputs_for(mechanisms), models.tolerance(mechanisms))


_OF = models.reference(Node("attn", 0))


def _direct_nodes(name):
    heads = () if name == "olmo2" else (head(1, 1), Node("bias", 1))
    return (EMBED, attn(1), mlp(2), *heads)


def test_heads_under_a_norm_can_be_asked_of_a_world_in_which_their_attention_is_set():
    mechanisms = models.tiny("olmo2")
    inner = do((EMBED, ZERO), *unmoved(0, 1, 2))
    world = do((head(1, 0), InWorld(inner)))
    dead = do((head(1, 0), ZERO), (attn(1), NATURAL))
    case = worlds.Case(mechanisms.graph, (Reading(world, OUTCOMES[0]), Reading(dead, OUTCOMES[0])))
    worlds.check_against_plain(mechanisms, case, models.inputs_for(mechanisms), models.tolerance(mechanisms))


@pytest.mark.parametrize("name", models.CONFIGS)
def test_the_natural_world_is_the_model(name):
    mechanisms = models.tiny(name)
    inputs = models.inputs_for(mechanisms, lengths=(5, 9, 9, 5))
    readings = tuple(Reading(NATURAL_WORLD, Outcome("logprob", (7,), None, place)) for place in (LAST, At(0), At(-2)))
    case = worlds.Case(mechanisms.graph, readings)
    found = models.run(mechanisms, case.plan(inputs), inputs)
    for prompt, ids in enumerate(inputs.ids):
        with torch.no_grad():
            log_p = mechanisms.hf(torch.tensor([ids])).logits[0].log_softmax(-1)
        for reading, place in zip(readings, (-1, 0, -2), strict=True):
            assert found[reading][prompt, 0] == pytest.approx(float(log_p[place, 7]), rel=models.tolerance(mechanisms))


def test_inputs_can_be_imported_from_both_rooms_of_the_engine():
    from causalnet.engine import sources

    assert sources.Inputs is Inputs
