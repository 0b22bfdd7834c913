"""One layer under experiment: called again and again, with this or that inside it changed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from causalnet.errors import UnsupportedModelError
from causalnet.model.probe import hidden_of, hooked, with_hidden

__all__ = ["Call", "Change", "LayerProbe", "Seen", "constant", "proportional"]


@dataclass(frozen=True, eq=False)
class Call:
    """One captured call of a layer: what it was given, so that it can be called again."""

    module: nn.Module
    args: tuple
    kwargs: dict[str, Any]

    @property
    def hidden(self) -> torch.Tensor:
        """The residual stream [prompt, position, d_model] that entered."""
        return hidden_of(self.args, self.kwargs)


@dataclass(eq=False)
class Seen:
    """What one call of the layer showed: its output, and input and output of its submodules by path."""

    out: torch.Tensor
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)


Change = Callable[[torch.Tensor], torch.Tensor]
"""What is done to an input or output of a module while the layer runs."""


class LayerProbe:
    """A layer, what it did naturally, and the means to make it do something else.

    Attributes
    ----------
    paths
        Submodules by path, outer ones first.
    x
        The residual stream [prompt, position, d_model] that entered.
    natural
        What the layer did with it.
    noise
        A random stream of the same size, for changes.
    tiny
        Relative difference up to which two values count as equal.
    """

    def __init__(self, call: Call, where: str) -> None:
        self.call, self.where = call, where
        self.paths = {path: module for path, module in call.module.named_modules() if path}
        self.x = call.hidden
        self.natural = self.run()
        self.tiny = 1e-7 if self.x.dtype == torch.float64 else 2e-3
        generator = torch.Generator().manual_seed(1)
        self.noise = torch.randn(self.x.shape, generator=generator, dtype=torch.float64).to(self.x)
        self.noise *= self.x.square().mean().sqrt()

    def run(
        self,
        hidden: torch.Tensor | None = None,
        *,
        outputs: dict[str, Change] | None = None,
        inputs: dict[str, Change] | None = None,
    ) -> Seen:
        """Call the layer again, with some outputs or inputs of its submodules changed."""
        args, kwargs = self.call.args, self.call.kwargs
        if hidden is not None:
            args, kwargs = with_hidden(args, kwargs, hidden)
        calls: dict[str, int] = {}
        seen = Seen(self.x)
        with hooked() as hooks, torch.no_grad():
            for path, change in (outputs or {}).items():
                hooks.on_output(self.paths[path], change)
            for path, change in (inputs or {}).items():
                hooks.on_input(self.paths[path], change)
            for path, module in self.paths.items():
                hooks.on_any(module, _keep(seen, calls, path))
            out = self.call.module(*args, **kwargs)
        seen.out = (out[0] if isinstance(out, tuple) else out).clone()
        # A module that is called twice has no one output; it cannot stand for a contribution.
        for path, count in calls.items():
            if count > 1:
                seen.inputs.pop(path, None)
                seen.outputs.pop(path, None)
        return seen

    def like(self, value: torch.Tensor | None) -> torch.Tensor | None:
        """Return a tensor of the stream's size in the stream's shape, None for any other."""
        if value is None or value.numel() != self.x.numel() or value.shape[-1] != self.x.shape[-1]:
            return None
        return value.reshape(self.x.shape)

    def moved(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return where [prompt, position] two streams differ by more than rounding."""
        size = other.abs().mean().clamp_min(1e-30)
        return (one - other).abs().amax(-1) > self.tiny * size

    def same(self, one: torch.Tensor | None, other: torch.Tensor) -> bool:
        """Whether two tensors are equal to rounding."""
        if one is None or one.shape != other.shape:
            return False
        return bool((one - other).abs().max() <= 1e-2 * self.tiny * other.abs().max().clamp_min(1e-30) + 1e-30)

    def shifted(self, by: torch.Tensor) -> Change:
        """Return a change that adds a stream to an output of any shape of that size."""
        return lambda value: value + by.reshape(value.shape)

    def hold(self, terms: dict[str, float]) -> dict[str, Change]:
        """Hold outputs at their natural values."""
        return {path: constant(self.natural.outputs[path]) for path in terms}

    def stream_of(self, seen: Seen, path: str) -> torch.Tensor:
        """Return the output of a submodule in the stream's shape."""
        value = self.like(seen.outputs[path])
        assert value is not None, "only outputs of the stream's size become terms"
        return value

    def refusal(self, why: str) -> UnsupportedModelError:
        """Return the error that names the layer and says why it cannot be expressed."""
        return UnsupportedModelError(f"{self.where} ({type(self.call.module).__name__}): {why}")


def _keep(seen: Seen, calls: dict[str, int], path: str) -> Callable[[tuple, dict, Any], None]:
    def keep(args: tuple, kwargs: dict, output: Any) -> None:
        calls[path] = calls.get(path, 0) + 1
        first = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(first, torch.Tensor):
            seen.outputs[path] = first.detach().clone()
        try:
            seen.inputs[path] = hidden_of(args, kwargs).detach().clone()
        except TypeError:
            return

    return keep


def constant(value: torch.Tensor) -> Change:
    """Return a change of an output to a fixed value."""
    # Cloned, for some layers add to an output in place (Falcon).
    return lambda now: value.reshape(now.shape).clone()


def proportional(one: torch.Tensor | None, other: torch.Tensor | None, tiny: float) -> bool:
    """Whether two tensors are equal up to one positive or negative factor."""
    if one is None or other is None or one.shape != other.shape:
        return False
    a, b = one.double().flatten(), other.double().flatten()
    square = float(b @ b)
    if square == 0.0:
        return not bool(a.any())
    rest = a - (float(a @ b) / square) * b
    return float(rest.abs().max()) <= tiny * max(float(a.abs().max()), 1e-30)
