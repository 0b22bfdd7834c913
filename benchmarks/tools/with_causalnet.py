"""causalnet: the whole sweep as one plan."""

import numpy as np
from task import Steps, Task

from causalnet.effects.sweep import cells, plan_sweep
from causalnet.engine.plan import Reading
from causalnet.engine.run import run
from causalnet.engine.sources import Inputs
from causalnet.expr.outcomes import TARGET, Outcome
from causalnet.expr.refs import Component
from causalnet.expr.values import RESAMPLE
from causalnet.expr.world import NATURAL_WORLD
from causalnet.graph import Node
from causalnet.model.compile import compile_model

__all__ = ["prepare"]


def prepare(task: Task) -> Steps:
    """Compile the model; a sweep is planned and run."""
    mechanisms = compile_model(task.model, name=task.shape)
    nodes = [Node(*node) for node in task.nodes]
    inputs = Inputs(tuple(map(tuple, task.ids.tolist())), donors=task.donor_index)

    def whole() -> tuple[np.ndarray, np.ndarray]:
        found = cells(mechanisms.graph, nodes, RESAMPLE)
        trace = run(mechanisms, plan_sweep(mechanisms, found, inputs), inputs)
        outcome = Outcome("logit", (TARGET,))
        clean = trace[Reading(NATURAL_WORLD, outcome)][:, None]
        total = np.stack([trace[Reading(cell.world, outcome)] for cell in found], 1) - clean
        direct = np.full((*total.shape, len(nodes)), np.nan, np.float32)
        for row, cell in enumerate(found):
            for node in (cell.node, *cell.responders):
                reading = Reading(cell.world, Outcome("direct", (TARGET,), Component.of(node)), (node,))
                direct[:, row, :, nodes.index(node)] = trace[reading]
        return total, direct

    return Steps(whole=whole)
