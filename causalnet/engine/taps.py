"""The hooks of a wave: where its writes enter the model's own modules, and where values are read off."""

from collections.abc import Sequence
from typing import Any

import torch

from causalnet.engine.heads import Heads
from causalnet.engine.lanes import Batch, Front
from causalnet.engine.natural import Suffix, add_beside, contribution
from causalnet.engine.plan import Lane, Write
from causalnet.engine.values import Values
from causalnet.errors import InterventionError
from causalnet.graph import Node
from causalnet.model.mechanism import Layer, Mechanism, Mechanisms
from causalnet.model.probe import Hooks, hidden_of, with_hidden

__all__ = ["Taps"]


class Taps:
    """What happens at each mechanism while a wave passes through it."""

    def __init__(self, mechanisms: Mechanisms, batch: Batch, values: Values, front: Front, how: Suffix) -> None:
        self.mechanisms, self.batch, self.values, self.front, self.how = mechanisms, batch, values, front, how
        self.heads = Heads(mechanisms, batch, values, front)
        self.beside: dict[Node, torch.Tensor] = {}

    def register(self, hooks: Hooks) -> None:
        """Register every hook that the wave needs."""
        for layer in self.mechanisms.layers:
            for part in layer:
                self._register_reads(hooks, layer, part)
            if layer.attn is not None and layer.attn.module is not None:
                self._register_mixer(hooks, layer, layer.attn, layer.attn.module)
            for part in layer:
                for module, scale in part.also:
                    hooks.on_output(module, add_beside(self.beside, part.node, scale))
                hooks.on_output(part.source, self._at_source(layer, part))

    def skips(self, layer: Layer) -> bool:
        """Return whether rows that join after the attention can be left out of it."""
        part = layer.attn
        return (
            self.front.entering < self.front.inside
            and part is not None
            and part.module is not None
            and not part.takes_residual
            and not part.also
            and not self.how.calls[layer.index].grows
        )

    def attending(self, layer: Layer) -> int:
        """Return how many rows the attention of a layer sees.

        Where no row needs it, the first lane's rows pass through it all the same (a module cannot run on
        nothing) and the result is thrown away.
        """
        if not self.skips(layer):
            return self.front.inside
        return self.front.entering or self.batch.prompts * self.batch.lanes[0].draws

    # -- reading -----------------------------------------------------------------------------------------

    def _register_reads(self, hooks: Hooks, layer: Layer, part: Mechanism) -> None:
        """Change what a mechanism reads, for lanes that set edges into it."""
        lanes = [lane for lane in self.batch.lanes if self.values.edges(lane, part.node)]
        if not lanes:
            return

        def through_norm(hidden: torch.Tensor) -> torch.Tensor:
            return self._corrected(lanes, part, hidden)

        def at_module(hidden: torch.Tensor) -> torch.Tensor:
            if part.norm is None:
                return self._corrected(lanes, part, hidden)
            assert self.front.hidden is not None, "a module is called inside its layer"
            changed = hidden.clone()
            read = self._corrected(lanes, part, self.front.hidden)
            for lane in lanes:
                rows = self.batch.rows[lane.world]
                if rows.start < hidden.shape[0]:
                    changed[rows] = part.norm.forward(read[rows])
            return changed

        if part.norm is not None and not part.norm_shared:
            hooks.on_input(part.norm, through_norm)
        elif part.module is not None:
            hooks.on_input(part.module, at_module)
        else:
            raise InterventionError(
                f"edges into {part.node} cannot be set: it has neither a norm nor a module of its own"
            )

    def _corrected(self, lanes: Sequence[Lane], part: Mechanism, hidden: torch.Tensor) -> torch.Tensor:
        """Return what the mechanism reads: r − a + v for every edge that is set."""
        changed = self.batch.flat(hidden).clone()
        for lane in lanes:
            if self.batch.rows[lane.world].start < changed.shape[0]:
                self.values.shift(lane, self.values.edges(lane, part.node), self.batch.of(changed, lane))
        return changed.view(hidden.shape)

    # -- attention ---------------------------------------------------------------------------------------

    def _register_mixer(self, hooks: Hooks, layer: Layer, part: Mechanism, module: torch.nn.Module) -> None:
        """Let rows that join after the attention skip it; write heads before the output projection."""

        def enter(args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
            if not self.skips(layer):
                return None
            return with_hidden(args, kwargs, hidden_of(args, kwargs)[: self.attending(layer)])

        def leave(output: torch.Tensor) -> torch.Tensor | None:
            if not self.skips(layer):
                return None
            full = output.new_zeros(self.front.inside, *output.shape[1:])
            full[: self.front.entering] = output[: self.front.entering]
            return full

        hooks.on_call(module, enter)
        if part.out is not None:
            self.heads.register(hooks, layer, part, lambda: self.front.entering if self.skips(layer) else None)
        hooks.on_output(module, leave)

    # -- writing -----------------------------------------------------------------------------------------

    def _at_source(self, layer: Layer, part: Mechanism) -> Any:
        place = 2 * layer.index + (part.node.kind == "mlp")

        def hook(output: torch.Tensor) -> torch.Tensor | None:
            if self.heads.looking:
                return None
            out = self.batch.flat(output)
            beside = self.beside.pop(part.node, None)
            beside = None if beside is None else beside.view(out.shape)
            lanes = [lane for lane in self.batch.in_order if lane.join <= 2 * layer.index + 1]
            given = [lane for lane in lanes if lane.join > place]
            if given or any(self.values.own(lane, part.node) for lane in lanes):
                out = out.clone()
            for lane in lanes:
                self._write_lane(lane, part, out, beside, given=lane.join > place)
                if (lane.world, part.node) in self.values.directs.watch.keep:
                    # At once: another lane may take its value from here in this very call.
                    self.values.keep(lane, part.node, self._contribution(lane, part, out, beside))
            self.values.directs.note_mechanism(lanes, part, out, beside)
            return None if out is output else out.view(output.shape)

        return hook

    def _contribution(
        self, lane: Lane, part: Mechanism, out: torch.Tensor, beside: torch.Tensor | None
    ) -> torch.Tensor:
        return contribution(part, self.batch.of(out, lane), None if beside is None else self.batch.of(beside, lane))

    def _write_lane(
        self, lane: Lane, part: Mechanism, out: torch.Tensor, beside: torch.Tensor | None, *, given: bool
    ) -> None:
        """Write one lane's values of a mechanism into the batch of its source's outputs."""
        writes: list[Write] = self.values.own(lane, part.node)
        if not writes and not given:
            return
        own = self.values.natural_of(part.node) if given else self._contribution(lane, part, out, beside)
        value = own.expand(-1, lane.draws, -1, -1).clone()
        for write in writes:
            at = self.batch.at(write)
            value[:, :, at] = self.values.of(lane, write, value[:, :, at])
        if beside is not None:
            value -= self.batch.of(beside, lane)
        self.batch.of(out, lane)[:] = value if part.scale == 1.0 else value / part.scale
