"""Plain forward passes that are looked at, and passes in which every mechanism is held apart.

``observe`` runs the model as it is.  ``held`` runs it with every mechanism reading what it read in an
observed pass, plus a change of one's choice, so that all mechanisms are tested one by one in one pass.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from causalnet.errors import CompileError
from causalnet.model.mechanism import Mechanism, Mechanisms
from causalnet.model.probe import Hooks, hooked

__all__ = ["Natural", "contributions_of", "held", "observe", "random_ids"]


@dataclass(frozen=True, eq=False)
class Natural:
    """What one plain forward pass showed.

    Attributes
    ----------
    ids
        Token ids [prompt, position].
    logits
        [prompt, position, vocab].
    streams
        Residual stream [prompt, position, d_model] entering each layer, and leaving the last.
    contributions, reads
        What each mechanism added, and the stream that it read, by node name.
    heads
        Input and output of the output projections, by node name.
    """

    ids: torch.Tensor
    logits: torch.Tensor
    streams: tuple[torch.Tensor, ...]
    contributions: dict[str, torch.Tensor]
    reads: dict[str, torch.Tensor]
    heads: dict[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(eq=False)
class _Store:
    entering: dict[int, torch.Tensor]
    leaving: dict[int, torch.Tensor]
    outputs: dict[Any, torch.Tensor]
    reads: dict[str, torch.Tensor]
    heads: dict[str, list[torch.Tensor]]


def random_ids(mechanisms: Mechanisms, *, prompts: int, tokens: int, seed: int) -> torch.Tensor:
    """Return random token ids [prompt, position], no longer than the model's context."""
    generator = torch.Generator().manual_seed(seed)
    length = tokens if mechanisms.context is None else min(tokens, mechanisms.context)
    vocab = min(mechanisms.readout.weight.shape[0], _embedded(mechanisms))
    return torch.randint(0, vocab, (prompts, length), generator=generator).to(mechanisms.device)


def _embedded(mechanisms: Mechanisms) -> int:
    weight = getattr(mechanisms.hf.get_input_embeddings(), "weight", None)  # type: ignore[operator]
    return weight.shape[0] if isinstance(weight, torch.Tensor) else mechanisms.readout.weight.shape[0]


def observe(mechanisms: Mechanisms, ids: torch.Tensor) -> Natural:
    """Run the plain forward on ids [prompt, position] and record streams, contributions and reads."""
    with hooked() as hooks, torch.no_grad():
        return _watched(mechanisms, ids, hooks)


def held(
    mechanisms: Mechanisms,
    natural: Natural,
    change: Mapping[str, torch.Tensor],
    *,
    enter: Mapping[int, torch.Tensor] | None = None,
    write: Mapping[str, torch.Tensor] | None = None,
    ids: torch.Tensor | None = None,
) -> Natural:
    """Run the model with streams and reads held at those of an observed pass.

    Parameters
    ----------
    mechanisms, natural
        The model, and the pass whose values are held.
    change
        By node name, what is added to the stream that the mechanism reads; where two mechanisms share
        their norm, to what both read.
    enter
        By layer, what is added to the stream that enters it.  Layers not named get the natural stream.
    write
        By node name, what is added to the output of the mechanism's source.
    ids
        Other token ids than those of the natural pass.
    """
    with hooked() as hooks, torch.no_grad():
        for layer in mechanisms.layers:
            hooks.on_input(layer.module, _replace(natural.streams[layer.index], (enter or {}).get(layer.index)))
            for part in layer:
                name = str(part.node)
                if name in change and part.reader is not None:
                    hooks.on_input(part.reader, _replace(natural.reads[name], change[name]))
                if write and name in write:
                    hooks.on_output(part.source, lambda out, by=write[name]: out + by.reshape(out.shape).to(out.device))
        return _watched(mechanisms, natural.ids if ids is None else ids, hooks)


def _replace(value: torch.Tensor, shift: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(given: torch.Tensor) -> torch.Tensor:
        new = value.clone() if shift is None else value + shift.to(value.device)
        return new.reshape(given.shape).to(given.device)

    return change


def _watched(mechanisms: Mechanisms, ids: torch.Tensor, hooks: Hooks) -> Natural:
    """Run the model with recording hooks after those that change something."""
    store = _Store({}, {}, {}, {}, {})
    for layer in mechanisms.layers:
        hooks.on_input(layer.module, _keep(store.entering, layer.index))
        hooks.on_output(layer.module, _keep(store.leaving, layer.index))
        for part in layer:
            name = str(part.node)
            hooks.on_output(part.source, _keep(store.outputs, name))
            for index, (module, _scale) in enumerate(part.also):
                hooks.on_output(module, _keep(store.outputs, (name, index)))
            if part.reader is not None:
                hooks.on_input(part.reader, _keep(store.reads, name))
            if part.out is not None:
                hooks.on_input(part.out, _append(store.heads, name))
                hooks.on_output(part.out, _append(store.heads, name))
    logits = mechanisms.hf(input_ids=ids, use_cache=False).logits
    missing = [str(part.node) for layer in mechanisms.layers for part in layer if str(part.node) not in store.outputs]
    if missing or len(store.entering) != len(mechanisms.layers):
        raise CompileError(f"{mechanisms.name}: these mechanisms were never called: {', '.join(missing) or 'layers'}")
    depth = len(mechanisms.layers)
    shape = store.entering[0].shape
    return Natural(
        ids,
        logits,
        (*(store.entering[index] for index in range(depth)), store.leaving[depth - 1]),
        contributions_of(mechanisms, store.outputs, store.entering),
        {name: value.reshape(shape) for name, value in store.reads.items()},
        {name: (pair[0], pair[1]) for name, pair in store.heads.items() if len(pair) == 2},
    )


def _keep(store: dict, key: Any) -> Callable[[torch.Tensor], None]:
    def hook(value: torch.Tensor) -> None:
        store[key] = value.detach().clone()

    return hook


def _append(store: dict[str, list[torch.Tensor]], key: str) -> Callable[[torch.Tensor], None]:
    def hook(value: torch.Tensor) -> None:
        store.setdefault(key, []).append(value.detach().clone())

    return hook


def contributions_of(
    mechanisms: Mechanisms, outputs: Mapping[Any, torch.Tensor], entering: Mapping[int, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Turn the outputs of sources into what was added to the residual stream, by node name."""
    parts = ((layer.index, part) for layer in mechanisms.layers for part in layer)
    return {str(part.node): _contribution(part, outputs, entering[index].shape) for index, part in parts}


def _contribution(part: Mechanism, outputs: Mapping[Any, torch.Tensor], shape: torch.Size) -> torch.Tensor:
    total = outputs[str(part.node)].reshape(shape) * part.scale
    for index, (_module, scale) in enumerate(part.also):
        total = total + outputs[str(part.node), index].reshape(shape) * scale
    return total
