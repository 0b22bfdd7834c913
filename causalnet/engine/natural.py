"""The natural run of one bucket of prompts of equal length, and the calls that its layers received.

Prompts are never padded: a bucket holds prompts of one length, so position ids and masks are those that
the model makes by itself.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from causalnet.engine.prefix import Rows, _PrefixCache, attending, prefix_cache
from causalnet.errors import InterventionError
from causalnet.graph import Node
from causalnet.model.mechanism import Layer, Mechanism, Mechanisms
from causalnet.model.probe import Hooks, hidden_of, hooked

__all__ = [
    "Call",
    "Kept",
    "Natural",
    "Suffix",
    "add_beside",
    "capture",
    "contribution",
    "head_contribution",
    "kept_of",
    "run_natural",
    "value_at",
]


@dataclass(frozen=True)
class Call:
    """The arguments, after the hidden states, with which the model calls one layer."""

    args: tuple
    kwargs: dict[str, Any]
    by_name: str | None = None
    grows: dict[int | str, int] = field(default_factory=dict)

    def __call__(self, layer: Layer, hidden: torch.Tensor) -> torch.Tensor:
        """Call the layer as the model does, on other hidden states [row, position, d_model]."""
        args, kwargs = self._for(hidden.shape[0]) if self.grows else (self.args, self.kwargs)
        if self.by_name is not None:
            out = layer.module(*args, **{**kwargs, self.by_name: hidden})
        else:
            out = layer.module(hidden, *args, **kwargs)
        return out[0] if isinstance(out, tuple) else out

    def _for(self, rows: int) -> tuple[tuple, dict[str, Any]]:
        """Repeat the arguments that are made for a number of rows (BLOOM's ALiBi, XGLM's mask) ``rows`` times."""

        def grown(key: int | str, given: Any) -> Any:
            if key not in self.grows:
                return given
            times = [1] * given.dim()
            times[self.grows[key]] = rows
            return given.repeat(times)

        args = tuple(grown(index, given) for index, given in enumerate(self.args))
        return args, {name: grown(name, given) for name, given in self.kwargs.items()}


@dataclass(frozen=True)
class Suffix:
    """How the model runs a suffix over a recorded prefix.

    Attributes
    ----------
    calls
        The call of each layer.
    shared
        For each layer, whether its attention can share the prefix without a copy.
    misfit
        By how much the natural suffix, run so, misses the natural world (relative).
    """

    calls: list[Call]
    shared: dict[int, bool]
    misfit: float


@dataclass(frozen=True)
class Kept:
    """What of a natural run is kept, because some world or outcome looks at it.

    Attributes
    ----------
    streams
        Layers whose entering residual stream is kept; the number of layers: the final stream.
    contributions
        Mechanisms whose contribution is kept.
    heads
        Layers whose heads are kept.
    """

    streams: frozenset[int]
    contributions: frozenset[Node]
    heads: frozenset[int]

    def bytes(self, mechanisms: Mechanisms, columns: int, upto: int) -> int:
        """Return what one prompt's natural run keeps of ``columns`` positions, and of ``upto`` keys and values.

        Keys and values, and heads, are taken to be as wide as the residual stream.
        """
        item = torch.empty(0, dtype=mechanisms.dtype).element_size()
        sites = len(self.streams) + len(self.contributions) + len(self.heads)
        return (sites * columns + 2 * len(mechanisms.layers) * upto) * mechanisms.width * item


def kept_of(nodes: Iterable[Node], layers: int) -> Kept:
    """Return what has to be kept of a model of some layers for the natural values of ``nodes``."""
    nodes = list(nodes)
    streams = {node.layer or 0 for node in nodes if node.kind in ("embed", "resid")}
    streams |= {layers for node in nodes if node.kind == "norm"}
    return Kept(
        frozenset(streams),
        frozenset(node for node in nodes if node.kind in ("attn", "mlp")),
        frozenset(node.layer for node in nodes if node.kind == "head" and node.layer is not None),
    )


@dataclass(eq=False)
class Natural:
    """What the natural world looks like in one bucket, from column ``first`` on, as far as it was asked for.

    Attributes
    ----------
    ids
        Token ids [prompt, position].
    first
        First position that is recorded.
    streams
        Residual stream entering each layer, and leaving the last: [prompt, column, d_model] each; no columns
        where it was not asked for.
    contributions
        Contribution [prompt, column, d_model] of the mechanisms that were asked for.
    heads
        Input [prompt, column, heads · head_dim] of the output projections that were asked for.
    cache
        Keys and values of the positions that rows share, or None where they share none.
    block
        Which prompts of the cache these are.
    suffixes
        How the model runs a suffix, by its first position.
    """

    ids: torch.Tensor
    first: int
    streams: list[torch.Tensor] = field(default_factory=list)
    contributions: dict[Node, torch.Tensor] = field(default_factory=dict)
    heads: dict[int, torch.Tensor] = field(default_factory=dict)
    cache: _PrefixCache | None = None
    block: slice = field(default_factory=lambda: slice(None))
    suffixes: dict[int, Suffix] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Memory that the run takes, keys and values included."""
        tensors = [*self.streams, *self.contributions.values(), *self.heads.values()]
        if self.cache is not None:
            tensors += [tensor for layer in self.cache.layers for tensor in layer.recorded]  # type: ignore[union-attr]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def part(self, block: slice) -> "Natural":
        """Return some of the prompts, as views; the cache is shared."""
        return Natural(
            self.ids[block],
            self.first,
            [stream[block] for stream in self.streams],
            {node: value[block] for node, value in self.contributions.items()},
            {layer: value[block] for layer, value in self.heads.items()},
            self.cache,
            slice((self.block.start or 0) + block.start, (self.block.start or 0) + block.stop),
        )

    @property
    def length(self) -> int:
        """Number of tokens of each prompt."""
        return self.ids.shape[1]


def contribution(part: Mechanism, output: torch.Tensor, beside: torch.Tensor | None = None) -> torch.Tensor:
    """Turn a source's output into what is added to the residual stream; ``beside`` is what other modules add."""
    out = output if part.scale == 1.0 else output * part.scale
    return out if beside is None else out + beside.reshape(out.shape)


def head_contribution(part: Mechanism, value: torch.Tensor, head: int) -> torch.Tensor:
    """Return the contribution [..., d_model] of one head from its slice [..., head_dim] before the projection."""
    assert part.out is not None, "a head is a node only where the output projection is known"
    weight: torch.Tensor = part.out.weight  # type: ignore[assignment]
    width = value.shape[-1]
    # nn.Linear stores [out, in], the Conv1D of GPT-2 [in, out].
    rows = slice(head * width, (head + 1) * width)
    matrix = weight[:, rows].T if isinstance(part.out, torch.nn.Linear) else weight[rows]
    out = value @ matrix
    return out if part.scale == 1.0 else out * part.scale


def value_at(mechanisms: Mechanisms, natural: Natural, node: Node, columns: Sequence[int]) -> torch.Tensor:
    """Return a node's natural value [prompt, column, width] in one bucket; a range of columns as a view."""
    at: list[int] | slice = [column - natural.first for column in columns]
    if isinstance(columns, range):
        at = slice(columns.start - natural.first, columns.stop - natural.first)
    if node.kind == "embed":
        return natural.streams[0][:, at]
    if node.kind == "resid":
        return natural.streams[node.layer or 0][:, at]
    if node.kind == "norm":
        return mechanisms.readout.norm.sigma(natural.streams[-1][:, at]).unsqueeze(-1)
    if node.kind == "head":
        assert node.layer is not None and node.head is not None
        every = natural.heads[node.layer][:, at]
        width = every.shape[-1] // (mechanisms.mechanism(node).heads or 1)
        return every[..., node.head * width : (node.head + 1) * width]
    if node.kind == "bias":
        part = mechanisms.mechanism(node)
        bias = getattr(part.out, "bias", None)
        shape = (natural.ids.shape[0], len(columns), natural.streams[0].shape[-1])
        return natural.streams[0].new_zeros(shape) if bias is None else (bias * part.scale).expand(shape)
    return natural.contributions[node][:, at]


def run_natural(mechanisms: Mechanisms, ids: torch.Tensor, kept: Kept, first: int = 0, *, upto: int = 0) -> Natural:
    """Run the plain forward on a bucket and record it.

    Parameters
    ----------
    mechanisms
        The compiled model.
    ids
        Token ids [prompt, position], no padding.
    kept
        What is kept of it.
    first
        First position whose streams, contributions and heads are kept.
    upto
        How many positions' keys and values are kept for rows to share.

    Raises
    ------
    InterventionError
        If a mechanism whose contribution is asked for was not called.
    """
    natural = Natural(ids, first)
    cache = prefix_cache(mechanisms, upto) if upto else None
    with hooked() as hooks, torch.no_grad():
        for layer in mechanisms.layers:
            hooks.on_input(layer.module, _keep_stream(natural, asked=layer.index in kept.streams))
            for part in layer:
                if part.node in kept.contributions:
                    _keep_contribution(natural, hooks, part)
            if layer.index in kept.heads and layer.attn is not None and layer.attn.out is not None:
                hooks.on_input(layer.attn.out, _keep_heads(natural, layer.index))
        last = mechanisms.layers[-1]
        hooks.on_output(last.module, _keep_stream(natural, asked=len(mechanisms.layers) in kept.streams))
        forward(mechanisms, ids, cache)
    missing = kept.contributions - natural.contributions.keys()
    if missing:
        node = min(missing, key=lambda node: node.sort_key)
        raise InterventionError(f"{node} was not called in the natural run; is the model compiled?")
    if cache is not None and cache.recorded():
        natural.cache = cache
    return natural


def _keep_stream(natural: Natural, *, asked: bool) -> Callable[[torch.Tensor], None]:
    def hook(hidden: torch.Tensor) -> None:
        # A stream that nobody looks at still says of which device, dtype and width it is.
        kept = hidden[:, natural.first :].clone() if asked else hidden.new_empty(hidden.shape[0], 0, hidden.shape[-1])
        natural.streams.append(kept)

    return hook


def _keep_contribution(natural: Natural, hooks: Hooks, part: Mechanism) -> None:
    beside: dict[Node, torch.Tensor] = {}

    def hook(output: torch.Tensor) -> None:
        value = contribution(part, output, beside.pop(part.node, None))
        natural.contributions[part.node] = value.reshape(*natural.ids.shape, -1)[:, natural.first :].clone()

    for module, scale in part.also:
        hooks.on_output(module, add_beside(beside, part.node, scale))
    hooks.on_output(part.source, hook)


def _keep_heads(natural: Natural, index: int) -> Callable[[torch.Tensor], None]:
    def hook(hidden: torch.Tensor) -> None:
        natural.heads[index] = hidden.reshape(*natural.ids.shape, -1)[:, natural.first :].clone()

    return hook


def add_beside(beside: dict[Node, torch.Tensor], node: Node, scale: float) -> Any:
    """Return a hook that adds up the outputs of the further modules of a contribution."""

    def hook(output: torch.Tensor) -> None:
        flat = output.reshape(-1, output.shape[-1]) * scale
        beside[node] = flat if node not in beside else beside[node] + flat

    return hook


def forward(mechanisms: Mechanisms, ids: torch.Tensor, cache: Any = None) -> None:
    """Run the model's trunk on ids [row, position], with a cache or without."""
    trunk = getattr(mechanisms.hf, "base_model", mechanisms.hf)
    if cache is None:
        trunk(input_ids=ids, use_cache=False)
    else:
        trunk(input_ids=ids, past_key_values=cache, use_cache=True)


def capture(mechanisms: Mechanisms, natural: Natural, start: int) -> Suffix:
    """Learn how the model calls its layers on the suffix that begins at ``start``.

    The model itself runs the natural suffix of one prompt over the recorded prefix, once alone and once
    doubled: what it passes to its layers (masks, positions, caches) is what every row will be called with,
    and what comes out must be the natural world again.
    """
    one, shared, first = _suffix_calls(mechanisms, natural, start, 1, {})
    two, _, second = _suffix_calls(mechanisms, natural, start, 2, shared)
    pairs = list(zip(one, two, strict=True))
    calls = [_call(alone, doubled) for alone, doubled in pairs]
    if not _broadcasts(mechanisms, natural, start, calls[0], hidden_of(*two[0]), shared):
        calls = [_call(alone, doubled, broadcast=False) for alone, doubled in pairs]
    wide = torch.promote_types(first.dtype, torch.float32)
    known = natural.streams[-1][:1, start - natural.first :].to(wide)
    misfit = torch.cat([first, second]).to(wide).sub(known).abs().max() / known.abs().max().clamp_min(1e-30)
    return Suffix(calls, shared, float(misfit))


def _suffix_calls(
    mechanisms: Mechanisms, natural: Natural, start: int, count: int, shared: dict[int, bool]
) -> tuple[list[tuple[tuple, dict[str, Any]]], dict[int, bool], torch.Tensor]:
    """Let the model run the first prompt's suffix ``count`` times over.

    Returns what its layers received, which of them can share the prefix, and the final stream.
    """
    got: list[tuple[tuple, dict[str, Any]]] = []
    final: list[torch.Tensor] = []
    suffix = natural.ids[:1, start:].repeat(count, 1)
    rows = _copies(natural, start, count, shared)
    with hooked() as hooks, torch.no_grad():
        for layer in mechanisms.layers:
            hooks.on_call(layer.module, lambda args, kwargs: got.append((args, kwargs)))
        hooks.on_output(mechanisms.layers[-1].module, lambda output: final.append(output))
        if natural.cache is None or start == 0:
            forward(mechanisms, suffix)
        else:
            with attending(mechanisms, natural.cache, rows):
                forward(mechanisms, suffix, natural.cache)
    return got, rows.shared, final[0]


def _copies(natural: Natural, start: int, count: int, shared: dict[int, bool]) -> Rows:
    """Return rows that are all the first prompt."""
    return Rows(
        start, torch.zeros(count, dtype=torch.long, device=natural.ids.device), slice(0, 1), shared=dict(shared)
    )


def _broadcasts(
    mechanisms: Mechanisms, natural: Natural, start: int, call: Call, two: torch.Tensor, shared: dict[int, bool]
) -> bool:
    """Return whether a layer takes two rows with the arguments of one; some check their mask's shape (XGLM)."""
    layer = mechanisms.layers[0]
    try:
        with torch.no_grad():
            if natural.cache is None or start == 0:
                call(layer, two)
            else:
                with attending(mechanisms, natural.cache, _copies(natural, start, 2, shared)):
                    call(layer, two)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, RuntimeError):
        return False
    return True


def _call(one: tuple[tuple, dict[str, Any]], two: tuple[tuple, dict[str, Any]], *, broadcast: bool = True) -> Call:
    """Separate the hidden states from the other arguments, and find those that grow with the batch.

    ``broadcast``: whether one row's arguments serve every row.
    """
    args, kwargs = one
    other, by_name = two[0], None
    if args and isinstance(args[0], torch.Tensor):
        args, other = args[1:], other[1:]
    else:
        tensors = {name: given for name, given in kwargs.items() if isinstance(given, torch.Tensor)}
        by_name = next(name for name, given in tensors.items() if given.dim() == 3)
        kwargs = {name: given for name, given in kwargs.items() if name != by_name}
    pairs: list[tuple[int | str, Any, Any]] = [
        (index, a, b) for index, (a, b) in enumerate(zip(args, other, strict=True))
    ]
    pairs += [(name, given, two[1][name]) for name, given in kwargs.items()]
    grows = {key: axis for key, a, b in pairs if (axis := _batch_axis(a, b, broadcast)) is not None}
    return Call(args, kwargs, by_name, grows)


def _batch_axis(one: Any, two: Any, broadcast: bool) -> int | None:
    """Return the axis of a tensor argument that holds the batch, if one row's cannot serve them all."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        for axis, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)):
            if b != a and (a != 1 or not broadcast):
                return axis
    return None
