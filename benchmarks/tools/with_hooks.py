"""Plain PyTorch hooks: one full forward of all prompts × donors for each node."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from task import Node, Steps, Task, reach

__all__ = ["prepare", "prepare_last"]


def prepare(task: Task, **forward_arguments: Any) -> Steps:
    """Set an output in a forward hook; keep every output in the same forward."""
    model, donated = task.model, {}
    modules = {node: reach(model, task.path(node)) for node in task.nodes}

    def hook(node: Node, seen: dict[Node, torch.Tensor], value: torch.Tensor | None) -> Callable:
        def change(_module: Any, _args: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            if value is not None:
                hidden[:, -1] = value
            seen[node] = hidden[:, -1].clone()
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return change

    def forward(ids: torch.Tensor, which: Node | None = None, value: torch.Tensor | None = None) -> tuple:
        seen: dict[Node, torch.Tensor] = {}
        handles = [
            module.register_forward_hook(hook(node, seen, value if node == which else None))
            for node, module in modules.items()
        ]
        try:
            with torch.no_grad():
                return model(ids, **forward_arguments).logits[:, -1], seen
        finally:
            for handle in handles:
                handle.remove()

    def first() -> None:
        donated.update(forward(task.ids)[1])

    def each(node: Node, batch: slice) -> tuple[np.ndarray, np.ndarray]:
        ids, donors = task.rows(batch)
        logits, seen = forward(ids, node, donated[node][donors])
        return task.readout.read(task, batch, node, logits, seen)

    return Steps(first, each)


prepare_last = partial(prepare, logits_to_keep=1)
"""The same, asking the model for the last position's logits alone."""
