"""pyvene: an interchange intervention from donors to prompts for each node; outputs by collect interventions."""

import numpy as np
import pyvene
import torch
from task import Node, Steps, Task

__all__ = ["prepare"]

_COMPONENT = {"attn": "attention_output", "mlp": "mlp_output"}


def prepare(task: Task) -> Steps:
    """Build an intervenable model for each node; it runs the donors itself, as sources."""
    count = len(task.nodes)

    def each(node: Node, batch: slice) -> tuple[np.ndarray, np.ndarray]:
        ids, donors = task.rows(batch)
        places = [{"layer": node[1], "component": _COMPONENT[node[0]], "intervention_type": pyvene.VanillaIntervention}]
        for kind, layer in task.nodes:
            collect = {"layer": layer, "component": _COMPONENT[kind]}
            places.append(collect | {"intervention_type": pyvene.CollectIntervention})
        intervenable = pyvene.IntervenableModel(places, model=task.model)
        last = [[task.tokens - 1]] * len(ids)
        with torch.no_grad():
            (_, collected), output = intervenable(
                base={"input_ids": ids},
                sources=[{"input_ids": task.ids[donors]}] + [None] * count,
                unit_locations={"sources->base": ([last] + [None] * count, [last] * (count + 1))},
            )
        seen = dict(zip(task.nodes, collected, strict=True))
        return task.readout.read(task, batch, node, output.logits[:, -1], seen)

    return Steps(each=each)
