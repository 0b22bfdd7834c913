"""Joint sets on a real transformer, by full forwards: natural effects from two worlds' contributions and scales."""

import dataclasses

import numpy as np
import pytest

from causalnet.effects.asking import PromptedModel, unit_effects
from causalnet.effects.estimands import natural_effects
from causalnet.engine.plain import run_plain
from causalnet.engine.plan import Reading, plan
from causalnet.expr import (
    CE,
    NATURAL_WORLD,
    NORM,
    TARGET,
    Outcome,
    attn,
    compile_query,
    embed,
    last,
    mean,
    mlp,
    patch,
    pos,
    resample,
    sigma,
    zero,
)
from causalnet.expr.refs import Component


@dataclasses.dataclass(frozen=True, eq=False)
class Plain:
    """The model on its prompts, answered by one full forward per world and unit."""

    model: PromptedModel

    @property
    def graph(self):
        return self.model.graph

    def read(self, readings):
        worlds = [reading.world for reading in readings if reading.world != NATURAL_WORLD]
        inputs = self.model.inputs
        planned = plan(self.graph, list(dict.fromkeys(worlds)), list(readings), inputs.shape, draws=inputs.count)
        found = run_plain(self.model.mechanisms, planned, inputs)
        return {reading: found[reading] for reading in readings}


# What is set, and which contributors are set at the position that is read.
SETS = {
    "one after the other": ([attn[0] @ last << resample, mlp[1] @ last << zero], {"attn[0]", "mlp[1]"}),
    "everywhere": ([attn[0] << resample, attn[1] << mean], {"attn[0]", "attn[1]"}),
    "a set": ([(attn[0] | mlp[0] | attn[2]) @ last << zero], {"attn[0]", "mlp[0]", "attn[2]"}),
    "a slice": ([attn[0:3] @ last << mean], {"attn[0]", "attn[1]", "attn[2]"}),
    "positions": ([attn[0] @ pos[1] << patch("corrupt"), attn[1] @ last << zero], {"attn[1]"}),
    "earlier": ([mlp[0] @ pos[1] << zero, attn[1] @ pos[2] << mean], set()),
    "named twice": ([attn[0:3] @ last << zero, attn[1] @ pos[1] << mean], {"attn[0]", "attn[1]", "attn[2]"}),
    "a slice and one of its nodes": ([attn[0:2] << zero, attn[1] @ pos[1] << mean], {"attn[0]", "attn[1]"}),
    "with an edge": ([attn[0] @ last << zero, attn[1] >> mlp[2] << mean], {"attn[0]"}),
    "embedding": ([embed @ pos[2:] << patch("corrupt"), mlp[1] @ last << zero], {"embed", "mlp[1]"}),
}


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
@pytest.mark.parametrize("which", SETS)
def test_joint_sets_by_contributions(prompted, kind, which):
    s, x = SETS[which]
    model = prompted(kind)
    scm = Plain(model)
    nodes = [node for node in model.graph.contributors if node.kind in ("embed", "attn", "mlp")]
    names = [str(node) for node in nodes]
    compiled = compile_query(natural_effects(*s)["TE"], model.graph)
    worlds = {"x": NATURAL_WORLD, "x'": compiled.worlds[compiled.readings[0].world]}
    # Read as they are: a query refuses what is not downstream.
    reads = {(at, str(node)): Reading(world, Outcome("direct", (TARGET,), Component.of(node)), (node,))
             for at, world in worlds.items() for node in nodes}  # fmt: skip
    reads |= {(at, "norm"): Reading(world, sigma) for at, world in worlds.items()}
    values = scm.read(list(reads.values()))
    found = {key: values[reading] for key, reading in reads.items()}

    def y(of_x, of_m):
        """Y with X's contributions of one world, and every other one and the norm of another; less its constant."""
        parts = [found[of_x if name in x else of_m, name] for name in names]
        return sum(parts) * found["x", "norm"] / found[of_m, "norm"]

    xx, xm, mx, mm = y("x", "x"), y("x'", "x"), y("x", "x'"), y("x'", "x'")
    wanted = {"TE": mm - xx, "NDE": xm - xx, "NIE": mx - xx, "TDE": mm - mx, "TIE": mm - xm}
    frozen = sum(found["x'", name] for name in names) - sum(found["x", name] for name in names) + xx
    wanted |= {"CE": frozen - xm, "NORM": mm - frozen}
    queries = natural_effects(*s) | {"CE": CE(*s), "NORM": NORM(*s)}
    for by in (scm, model):
        e = unit_effects(by, queries)
        for name, table in wanted.items():
            np.testing.assert_allclose(e[name], table, atol=1e-9, rtol=0, err_msg=name)
    assert np.abs(wanted["NIE"]).max() > 1e-4
