"""nnsight: a trace of all prompts × donors for each node; outputs are assigned and saved in order of computation."""

import nnsight
import numpy as np
import torch
from task import Node, Steps, Task, reach

__all__ = ["prepare"]


def prepare(task: Task) -> Steps:
    """Wrap the model; a trace reads and writes ``.output``."""
    model, donated = nnsight.NNsight(task.model), {}
    envoys = {node: reach(model, task.path(node)) for node in task.nodes}

    def output(node: Node) -> torch.Tensor:
        found = envoys[node].output
        return found[0] if node[0] == "attn" else found

    def first() -> None:
        with torch.no_grad(), model.trace(task.ids):
            seen = nnsight.save({})
            for node in task.nodes:
                seen[node] = output(node)[:, -1].clone()
        donated.update(seen)

    def each(node: Node, batch: slice) -> tuple[np.ndarray, np.ndarray]:
        ids, donors = task.rows(batch)
        with torch.no_grad(), model.trace(ids):
            seen = nnsight.save({})
            for other in task.nodes:
                if other == node:
                    output(other)[:, -1] = donated[node][donors]
                seen[other] = output(other)[:, -1].clone()
            logits = model.output.logits[:, -1].save()
        return task.readout.read(task, batch, node, logits, seen)

    return Steps(first, each)
