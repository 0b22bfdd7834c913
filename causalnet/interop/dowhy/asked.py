"""One do-expression on the twin: worlds by DoWhy, outcomes off the tensors, sums unit by unit."""

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from causalnet.engine.inputs import Inputs
from causalnet.engine.plan import Reading
from causalnet.expr import NATURAL_WORLD, World
from causalnet.expr.outcomes import Target
from causalnet.expr.positions import indices
from causalnet.graph import Edge, Node
from causalnet.interop.dowhy.names import edge_id, node_id
from causalnet.interop.dowhy.outcomes import read
from causalnet.interop.dowhy.writes import Rows, Unit, Writer

if TYPE_CHECKING:
    import pandas as pd

    from causalnet.effects.prepare import Prepared
    from causalnet.interop.dowhy.twin import Twin

__all__ = ["Asked"]


class Asked:
    """A query that was prepared, on a twin whose graph has its nodes and edges.

    Parameters
    ----------
    twin
        The twin.
    ready
        The query with everything exogenous fixed.
    way
        ``interventional`` or ``counterfactual``.
    """

    def __init__(self, twin: "Twin", ready: "Prepared", way: Any) -> None:
        self.twin, self.way, self.lookup = twin, way, ready.lookup
        self.question = ready.questions[0]
        self.inputs: Inputs = ready.batches[0].inputs

    def table(self) -> np.ndarray:
        """Return Σ weight · reading [prompt, draw], NaN where a prompt has no donor for a draw."""
        donors = self.inputs.donors
        draws = 1 if donors is None else donors.shape[1]
        total = np.zeros((len(self.inputs.ids), draws))
        for draw in range(draws):
            frames: dict[World, pd.DataFrame] = {NATURAL_WORLD: self.twin.data}
            for world in self.question.compiled.worlds:
                if world not in frames:
                    frames[world] = self.twin.samples(self._interventions(world, draw, frames), way=self.way)
            for reading, weight in zip(self.question.readings, self.question.compiled.weights, strict=True):
                for prompt in range(len(total)):
                    total[prompt, draw] += weight * self._read(reading, prompt, frames)
        return total if donors is None else np.where(donors >= 0, total, np.nan)

    # -- writing ---------------------------------------------------------------------------------------

    def _interventions(
        self, world: World, draw: int, frames: "Mapping[World, pd.DataFrame]"
    ) -> dict[str, Callable[[float], float]]:
        keys: dict[str, Node | Edge] = {}
        for site in world.sites:
            if site.receiver is None:
                keys[node_id(site.node)] = site.node
            else:
                edge = Edge(site.node, site.receiver)
                keys[edge_id(edge)] = edge
        done = dict(frames)

        def change(key: Node | Edge, prompt: int, current: torch.Tensor) -> torch.Tensor:
            donor = -1 if self.inputs.donors is None else max(int(self.inputs.donors[prompt, draw]), 0)
            worlds = {one: partial(self.twin.value, frame, prompt) for one, frame in done.items()}
            return self.writer.written(world, key, Unit(prompt, donor, worlds), current)

        return {name: self.twin.setting(partial(change, key)) for name, key in keys.items()}

    @cached_property
    def writer(self) -> Writer:
        """Where the values of writes come from."""
        inputs = self.inputs
        own = Rows(inputs.ids, inputs.spans, lambda row, node: self.twin.value(self.twin.data, row, node))
        pool = own if inputs.pool is None else self._rows(inputs.pool)
        pairs = {name: self._rows(given) for name, given in inputs.pairs.items()}
        return Writer(own, pool, pairs, inputs.vectors)

    def _rows(self, given: Inputs) -> Rows:
        """Compute other prompts' natural values as the twin computes its own."""
        twin = self.twin
        handles = []
        for ids in given.ids:
            number = twin.trunk.add(ids)
            handles.append(twin.store.put(number, twin.trunk.embeds[number]))
        frame = twin.computed(handles)
        return Rows(given.ids, given.spans, lambda row, node: twin.value(frame, row, node))

    # -- reading ---------------------------------------------------------------------------------------

    def _read(self, reading: Reading, prompt: int, frames: "Mapping[World, pd.DataFrame]") -> float:
        outcome, inputs = reading.outcome, self.inputs
        column = indices(outcome.position, len(inputs.ids[prompt]), inputs.span(prompt), where=f"prompt {prompt}")[0]
        world = partial(self.twin.value, frames[reading.world], prompt)
        own = partial(self.twin.value, self.twin.data, prompt)
        tokens = [self._token(token, prompt, own(Node("logits"))[column]) for token in outcome.tokens]
        with torch.no_grad():
            return read(self.twin.trunk, outcome, reading.nodes, tokens, column, world, own)

    def _token(self, token: Any, prompt: int, natural: torch.Tensor) -> int:
        if not isinstance(token, Target):
            return self.lookup(token) if isinstance(token, str) else int(token)
        return int(natural.argmax()) if self.inputs.targets is None else int(self.inputs.targets[prompt])
