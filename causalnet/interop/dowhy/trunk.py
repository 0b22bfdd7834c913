"""The modules of a compiled model, each called by itself with what its parents wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from causalnet.graph import Node
from causalnet.model.mechanism import Layer, Mechanism, Mechanisms
from causalnet.model.probe import Hooks, hidden_of, hooked, with_hidden

__all__ = ["Trunk"]


@dataclass(eq=False)
class Trunk:
    """A model as functions from the values of a node's parents to its value, prompt by prompt.

    A layer is called as the model calls it: masks, positions and whatever else it is given are recorded in
    one forward per prompt.  Values are [position, width]; of ``logits`` [position, vocab], of ``norm``
    [position, 1].

    Parameters
    ----------
    mechanisms
        The model.
    """

    mechanisms: Mechanisms
    ids: list[tuple[int, ...]] = field(default_factory=list)
    embeds: list[torch.Tensor] = field(default_factory=list)
    calls: list[list[tuple[tuple, dict[str, Any]]]] = field(default_factory=list)

    def add(self, ids: Sequence[int]) -> int:
        """Record the calls of one more prompt, and return its number."""
        found: list[tuple[tuple, dict[str, Any]]] = []

        def record(args: tuple, kwargs: dict[str, Any]) -> None:
            found.append((args, dict(kwargs)))

        with torch.no_grad(), hooked() as hooks:
            for layer in self.mechanisms.layers:
                hooks.on_call(layer.module, record)
            self.mechanisms.hf(input_ids=torch.tensor([list(ids)], device=self.mechanisms.device), use_cache=False)
        self.ids.append(tuple(ids))
        self.embeds.append(hidden_of(*found[0])[0])
        self.calls.append(found)
        return len(self.ids) - 1

    def release(self, length: int) -> None:
        """Forget every prompt after the first ``length``."""
        del self.ids[length:], self.embeds[length:], self.calls[length:]

    def value(self, node: Node, prompt: int, parents: Mapping[Node, torch.Tensor]) -> torch.Tensor:
        """Compute a node's value from those of its parents, and from nothing else."""
        with torch.no_grad():
            if node.kind == "bias":
                return self._bias(node, prompt)
            if node.kind in ("norm", "logits"):
                return self._readout(node, parents)
            stream = self._sum({one: value for one, value in parents.items() if not _beside(one, node)})
            if node.kind == "resid":
                return stream
            assert node.layer is not None
            own = {one: value for one, value in parents.items() if _beside(one, node)}
            layer = self.mechanisms.layers[node.layer]
            if node.kind == "attn" and own:  # a norm comes after the heads, so the attention gathers them
                heads = [own[Node("head", node.layer, head)] for head in range(len(own) - 1)]
                given = Given(heads=torch.cat(heads, -1), bias=own[Node("bias", node.layer)])
                return _run(layer, self.calls[prompt], None, given)[node]
            if node.kind == "mlp" and layer.attn is not None and not layer.parallel:
                attn = self._sum(own) if own else torch.zeros_like(stream)
                return _run(layer, self.calls[prompt], stream, Given(attn=attn))[node]
            return _run(layer, self.calls[prompt], stream)[node]

    def contribution(self, node: Node, value: torch.Tensor) -> torch.Tensor:
        """Return what a node adds to the residual stream [position, d_model]: of a head, its projection."""
        if node.kind != "head":
            return value
        part = self.mechanisms.mechanism(node)
        assert part.out is not None and node.head is not None
        width = value.shape[-1]
        padded = value.new_zeros((*value.shape[:-1], (part.heads or 1) * width))
        padded[..., node.head * width : (node.head + 1) * width] = value
        # The same call without the head is the projection's bias, whatever the class of the module.
        return (part.out.forward(padded) - part.out.forward(torch.zeros_like(padded))) * part.scale

    def _sum(self, parts: Mapping[Node, torch.Tensor]) -> torch.Tensor:
        """Add contributions in the order in which the model writes them."""
        total: Any = None
        for node in sorted(parts, key=lambda one: one.sort_key):
            value = self.contribution(node, parts[node])
            total = value if total is None else total + value.to(total.device)
        return total

    def _bias(self, node: Node, prompt: int) -> torch.Tensor:
        part = self.mechanisms.mechanism(node)
        assert part.out is not None
        bias = getattr(part.out, "bias", None)
        like = self.embeds[prompt]
        return torch.zeros_like(like) if bias is None else (bias * part.scale).expand_as(like).clone()

    def _readout(self, node: Node, parents: Mapping[Node, torch.Tensor]) -> torch.Tensor:
        readout = self.mechanisms.readout
        stream = self._sum({one: value for one, value in parents.items() if one.kind != "norm"})
        if node.kind == "norm":
            return readout.norm.sigma(stream).unsqueeze(-1)
        sigma = next((value[:, 0] for one, value in parents.items() if one.kind == "norm"), None)
        return readout.cap(readout.precap_logits(stream.unsqueeze(0), sigma))[0]


def _beside(parent: Node, node: Node) -> bool:
    """Whether a parent is the attention (or a part of it) of the node's own layer."""
    return parent.layer == node.layer and parent.kind in ("attn", "head", "bias") and node.kind in ("attn", "mlp")


@dataclass(frozen=True, eq=False)
class Given:
    """What a layer's attention is made to be: its contribution, or what its output projection reads and adds."""

    attn: torch.Tensor | None = None
    heads: torch.Tensor | None = None
    bias: torch.Tensor | None = None


def _run(
    layer: Layer, calls: list[tuple[tuple, dict[str, Any]]], stream: torch.Tensor | None, given: Given | None = None
) -> dict[Node, torch.Tensor]:
    """Call one layer on a residual stream (None: the recorded one) and return the value of each of its nodes."""
    given = Given() if given is None else given
    found: dict[Node, torch.Tensor] = {}
    args, kwargs = calls[layer.index]
    if stream is not None:
        old = hidden_of(args, kwargs)
        args, kwargs = with_hidden(args, kwargs, stream.to(old).view(old.shape))
    with hooked() as hooks:
        for part in layer:
            if part.node.kind == "attn" and part.out is not None:
                _on_heads(hooks, part, found, given)
            _on_contribution(hooks, part, found, given.attn if part.node.kind == "attn" else None)
        layer.module(*args, **kwargs)
    return found


def _on_heads(hooks: Hooks, part: Mechanism, found: dict[Node, torch.Tensor], given: Given) -> None:
    def read(hidden: torch.Tensor) -> torch.Tensor | None:
        flat = hidden.reshape(-1, hidden.shape[-1]) if given.heads is None else given.heads
        width = flat.shape[-1] // (part.heads or 1)
        for head in range(part.heads or 1):
            found[Node("head", part.node.layer, head)] = flat[:, head * width : (head + 1) * width]
        return None if given.heads is None else given.heads.view(hidden.shape)

    def add_bias(output: torch.Tensor) -> torch.Tensor | None:
        if given.bias is None:
            return None
        own = getattr(part.out, "bias", None)
        change = given.bias / part.scale - (0 if own is None else own)
        return output + change.view(output.shape)

    assert part.out is not None
    hooks.on_input(part.out, read)
    hooks.on_output(part.out, add_bias)


def _on_contribution(
    hooks: Hooks, part: Mechanism, found: dict[Node, torch.Tensor], given: torch.Tensor | None
) -> None:
    beside: list[torch.Tensor] = []

    def also(scale: float) -> Any:
        def keep(output: torch.Tensor) -> None:
            beside.append(output.reshape(-1, output.shape[-1]) * scale)

        return keep

    def source(output: torch.Tensor) -> torch.Tensor | None:
        value = output.reshape(-1, output.shape[-1]) * part.scale
        rest = sum(beside[1:], beside[0]) if beside else None
        found[part.node] = value if rest is None else value + rest
        if given is None:
            return None
        return ((given if rest is None else given - rest) / part.scale).view(output.shape)

    for module, scale in part.also:
        hooks.on_output(module, also(scale))
    # Where the projection is the source itself, its bias is set before the contribution is read.
    hooks.on_output(part.source, source)
