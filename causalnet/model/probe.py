"""The one place that registers hooks on a model, and the guarantee that none stays behind."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["Hooks", "hidden_of", "hooked", "with_hidden"]

_HIDDEN = ("hidden_states", "x", "hidden_state", "inputs")


def hidden_of(args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
    """Return the hidden states among the arguments of a module's call."""
    if args and isinstance(args[0], torch.Tensor):
        return args[0]
    for name in _HIDDEN:
        if isinstance(kwargs.get(name), torch.Tensor):
            return kwargs[name]
    raise TypeError(f"no hidden states among the arguments {[type(a).__name__ for a in args]} {sorted(kwargs)}")


def with_hidden(args: tuple, kwargs: dict[str, Any], hidden: torch.Tensor) -> tuple[tuple, dict[str, Any]]:
    """Return the arguments of a call with the hidden states replaced, wherever the same tensor is given.

    Some attentions are given it three times, as values, keys and queries (CTRL).
    """
    old = hidden_of(args, kwargs)
    return (
        tuple(hidden if given is old else given for given in args),
        {name: hidden if given is old else given for name, given in kwargs.items()},
    )


class Hooks:
    """Hooks that live as long as one ``with hooked() as hooks`` block."""

    def __init__(self) -> None:
        self._handles: list[Any] = []

    def on_output(self, module: nn.Module, change: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
        """Call ``change`` with the module's (first) output; what it returns, if not None, replaces it."""

        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            first = output[0] if isinstance(output, tuple | list) else output
            changed = change(first)
            if changed is None:
                return None
            return type(output)((changed, *output[1:])) if isinstance(output, tuple | list) else changed

        self._handles.append(module.register_forward_hook(hook))

    def on_call(
        self, module: nn.Module, change: Callable[[tuple, dict[str, Any]], tuple[tuple, dict[str, Any]] | None]
    ) -> None:
        """Call ``change`` with the arguments of the module's call; what it returns replaces them."""
        self._handles.append(
            module.register_forward_pre_hook(lambda _module, args, kwargs: change(args, kwargs), with_kwargs=True)
        )

    def on_any(self, module: nn.Module, look: Callable[[tuple, dict[str, Any], Any], None]) -> None:
        """Call ``look`` with arguments and output of every call of the module; nothing is changed."""

        def hook(_module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            look(args, kwargs, output)

        self._handles.append(module.register_forward_hook(hook, with_kwargs=True))

    def on_input(self, module: nn.Module, change: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
        """Call ``change`` with the hidden states that the module receives."""

        def hook(args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
            changed = change(hidden_of(args, kwargs))
            return None if changed is None else with_hidden(args, kwargs, changed)

        self.on_call(module, hook)

    def remove(self) -> None:
        """Remove every hook that was registered here."""
        while self._handles:
            self._handles.pop().remove()


@contextmanager
def hooked() -> Iterator[Hooks]:
    """Yield a :class:`Hooks`; whatever is raised inside, nothing stays on the model."""
    hooks = Hooks()
    try:
        yield hooks
    finally:
        hooks.remove()
