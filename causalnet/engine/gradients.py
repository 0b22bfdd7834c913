"""Plain full forwards with gradients at the nodes and at what each mechanism reads.

For the approximations only: nothing here is planned, shared or cut short.  A :class:`Tape` is one forward of
rows of one length; outcomes are read off it and differentiated as often as wanted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from causalnet.engine.natural import add_beside, contribution, forward, head_contribution
from causalnet.engine.readings import World0, read
from causalnet.errors import InputError, explain
from causalnet.expr.outcomes import Outcome
from causalnet.graph import Node
from causalnet.model.mechanism import Layer, Mechanism, Mechanisms
from causalnet.model.probe import Hooks, hooked

__all__ = ["SMOOTH", "Place", "Tape", "record"]

SMOOTH = ("logit", "precap_logit", "logit_diff", "logprob", "prob", "entropy", "kl", "sigma")
"""The outcomes that have a gradient."""

Place = tuple[Node, Node | None]
"""A node, or with a receiver the edge into it."""

Sets = Mapping[Place, tuple[Sequence[int], torch.Tensor]]
"""What is set: columns, and values [row, column, width]."""


@dataclass(eq=False)
class Tape:
    """One differentiable forward of rows of one length.

    Attributes
    ----------
    mechanisms
        The model.
    written
        Every node's value [row, position, width] as others read it: contributions, heads before the output
        projection, and ``norm``, the final scale, with width 1.
    made
        Contributions before :attr:`dropped` takes effect: what a layer's own outputs send on.
    reads
        The residual stream [row, position, d_model] that each mechanism, the norm and the logits read.
    set_values
        What was set, by place.
    dropped
        Layer whose outputs pass no gradient on in the next :meth:`gradients`; None: all do.
    """

    mechanisms: Mechanisms
    written: dict[Node, torch.Tensor] = field(default_factory=dict)
    made: dict[Node, torch.Tensor] = field(default_factory=dict)
    reads: dict[Node, torch.Tensor] = field(default_factory=dict)
    set_values: dict[Place, torch.Tensor] = field(default_factory=dict)
    dropped: int | None = None

    def world0(self, column: int, tokens: Any) -> World0:
        """Return what readings need of this forward where it is the natural one."""
        stream = self.reads[Node("logits")].detach()[:, column]
        return World0(stream, tokens)

    def outcome(self, outcome: Outcome, column: int, natural: World0) -> torch.Tensor:
        """Read an outcome [row] at a position.

        Raises
        ------
        InputError
            If it has no gradient.
        """
        if outcome.name not in SMOOTH:
            what = f"{outcome} has no gradient"
            raise InputError(explain(what, legal=SMOOTH, mend="ask for a smooth outcome, or for the exact effect"))
        stream, sigma = self.reads[Node("logits")][:, column], self.written[Node("norm")][:, column, 0]
        return read(self.mechanisms.readout, outcome, stream.unsqueeze(1), natural, sigma.unsqueeze(1))[:, 0]

    def gradients(
        self, values: torch.Tensor, of: Sequence[torch.Tensor], *, drop: int | None = None
    ) -> list[torch.Tensor]:
        """Return the gradient of each row's value [row] with respect to that row of some tensors of the tape.

        Parameters
        ----------
        values
            An outcome read off this tape.
        of
            Tensors of :attr:`written`, :attr:`made`, :attr:`reads` or :attr:`set_values`.
        drop
            A layer whose attention and MLP pass no gradient on.
        """
        self.dropped = drop
        try:
            found = torch.autograd.grad(values.sum(), list(of), retain_graph=True, allow_unused=True)
        finally:
            self.dropped = None
        return [torch.zeros_like(one) if grad is None else grad for one, grad in zip(of, found, strict=True)]


def record(mechanisms: Mechanisms, ids: torch.Tensor, sets: Sets | None = None) -> Tape:
    """Run one full forward with hooks that keep what gradients are taken of.

    Parameters
    ----------
    mechanisms
        The compiled model.
    ids
        Token ids [row, position].
    sets
        Values that replace a node's own, or what one edge carries.

    Raises
    ------
    InputError
        If a place cannot be set here: a bias, a residual stream, or an edge into a single head.
    """
    for node, receiver in sets or {}:
        if node.kind in ("bias", "resid") or (receiver is not None and receiver.kind == "head"):
            raise InputError(f"gradients are not taken at {node if receiver is None else f'{node} -> {receiver}'}")
    recorder = _Recorder(Tape(mechanisms), sets or {}, tuple(ids.shape))
    with torch.enable_grad(), hooked() as hooks:
        for layer in mechanisms.layers:
            recorder.hook_layer(hooks, layer)
        hooks.on_output(mechanisms.layers[-1].module, recorder.at_end)
        forward(mechanisms, ids)
    missed = [str(node) for node, _ in recorder.sets if (node, _) not in recorder.tape.set_values]
    if missed:
        raise InputError(f"{missed[0]} is no node of this model, so nothing was set")
    return recorder.tape


@dataclass(eq=False)
class _Recorder:
    tape: Tape
    sets: Sets
    shape: tuple[int, ...]
    stream: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    beside: dict[Node, torch.Tensor] = field(default_factory=dict)

    def place(self, place: Place, own: torch.Tensor) -> torch.Tensor:
        """Return a place's value [row, position, width] with what is set in it."""
        if place not in self.sets:
            return own
        columns, values = self.sets[place]
        values = values.to(own).detach().requires_grad_()
        self.tape.set_values[place] = values
        changed = own.clone()
        changed[:, list(columns)] = values
        return changed

    def read_by(self, node: Node, stream: torch.Tensor) -> torch.Tensor:
        """Return the stream that a mechanism reads, with the edges that are set."""
        own = stream + 0.0  # a tensor of its own: gradients at it are those through this reader alone
        self.tape.reads[node] = own
        for sender, receiver in self.sets:
            if receiver == node:
                value = self.tape.written[sender]
                change = self.place((sender, receiver), value) - value
                if sender.kind == "head":
                    assert sender.head is not None
                    change = head_contribution(self.tape.mechanisms.mechanism(sender), change, sender.head)
                own = own + change
        return own

    def hook_layer(self, hooks: Hooks, layer: Layer) -> None:
        hooks.on_input(layer.module, self._entering(layer))
        for part in layer:
            self._hook_read(hooks, layer, part)
            if part.out is not None and part.node.kind == "attn":
                hooks.on_input(part.out, self._heads(layer, part))
            for module, scale in part.also:
                hooks.on_output(module, add_beside(self.beside, part.node, scale))
            hooks.on_output(part.source, self._source(layer, part))

    def _entering(self, layer: Layer) -> Callable[[torch.Tensor], torch.Tensor]:
        def hook(hidden: torch.Tensor) -> torch.Tensor:
            if layer.index == 0:
                embed = hidden.detach().requires_grad_() + 0.0
                self.tape.written[Node("embed")] = self.place((Node("embed"), None), embed)
                hidden = self.tape.written[Node("embed")]
            self.stream = hidden
            return hidden

        return hook

    def _hook_read(self, hooks: Hooks, layer: Layer, part: Mechanism) -> None:
        own_norm = part.norm is not None and not part.norm_shared
        where = part.norm if own_norm else part.module
        if where is None:
            return

        def hook(hidden: torch.Tensor) -> torch.Tensor:
            attn = self.tape.written.get(Node("attn", layer.index))
            sees_attn = part.node.kind == "mlp" and not layer.parallel and attn is not None
            stream = self.stream + attn if sees_attn else self.stream  # type: ignore[operator]
            own = self.read_by(part.node, stream)
            if not own_norm and part.norm is not None:
                own = part.norm.forward(own)
            return own.view(hidden.shape)

        hooks.on_input(where, hook)

    def _heads(self, layer: Layer, part: Mechanism) -> Callable[[torch.Tensor], torch.Tensor]:
        def hook(hidden: torch.Tensor) -> torch.Tensor:
            every = hidden.reshape(*self.shape, -1)
            pieces = []
            for head, own in enumerate(every.chunk(part.heads or 1, -1)):
                node = Node("head", layer.index, head)
                pieces.append(self.place((node, None), own + 0.0))
                self.tape.written[node] = pieces[-1]
            return torch.cat(pieces, -1).view(hidden.shape)

        return hook

    def _source(self, layer: Layer, part: Mechanism) -> Callable[[torch.Tensor], torch.Tensor]:
        def gate(grad: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(grad) if self.tape.dropped == layer.index else grad

        def hook(output: torch.Tensor) -> torch.Tensor:
            beside = self.beside.pop(part.node, None)
            own = contribution(part, output, beside).reshape(*self.shape, -1)
            self.tape.made[part.node] = own
            gated = own + 0.0
            if gated.requires_grad:
                gated.register_hook(gate)
            value = self.place((part.node, None), gated + 0.0)
            self.tape.written[part.node] = value
            back = value.reshape(output.shape)
            return (back if beside is None else back - beside.reshape(output.shape)) / part.scale

        return hook

    def at_end(self, output: torch.Tensor) -> None:
        """Read the final stream twice: for the norm's scale, and for what it divides."""
        norm = self.tape.mechanisms.readout.norm
        scaled = self.read_by(Node("norm"), output)
        sigma = norm.sigma(scaled).unsqueeze(-1)
        self.tape.written[Node("norm")] = self.place((Node("norm"), None), sigma + 0.0)
        final = self.read_by(Node("logits"), output)
        self.tape.reads[Node("logits")] = final
