"""The compile-time check: the compiled form must reproduce the real model.

On random tokens it is measured that every layer's change is the sum of its contributions (residual
closure), that every mechanism reads the residual stream where the graph says and nothing besides (read
points), that positions are crossed in mixers only and inside their windows, and that the model's own
logits are the sum of direct effects and constants (readout closure).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from causalnet.errors import CompileError
from causalnet.model.mechanism import Layer, Mechanism, Mechanisms
from causalnet.model.observe import Natural, held, observe, random_ids
from causalnet.model.probe import hooked
from causalnet.model.readout import Directions

__all__ = ["CheckReport", "Misfit", "Natural", "check", "observe", "tolerance_of"]

_LONGEST = 40
"""Windows up to this many positions are measured, not believed."""

_UNITS = 8
"""Units of the last place by which a sum of many terms may be off."""


@dataclass(frozen=True)
class Misfit:
    """One measured closure: what was compared, in which layer, and the relative size of the misfit."""

    what: str
    layer: int | None
    size: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the misfit is within the tolerance (a NaN never is)."""
        return self.size <= self.tolerance

    def __str__(self) -> str:
        """Say what misses, where and by how much."""
        where = "" if self.layer is None else f" in layer {self.layer}"
        return f"{self.what}{where} misses by {self.size:.2e} (relative; tolerance {self.tolerance:.0e})"


@dataclass(frozen=True)
class CheckReport:
    """Every closure of one model.

    Attributes
    ----------
    model
        Name of the model.
    rows
        One :class:`Misfit` per closure.
    found
        How the structure was found: ``"record"`` or ``"discovery"``.
    """

    model: str
    rows: tuple[Misfit, ...]
    found: str = "record"

    @property
    def holds(self) -> bool:
        """Whether every closure holds."""
        return all(row.holds for row in self.rows)

    @property
    def worst(self) -> Misfit:
        """The closure closest to (or farthest beyond) its tolerance."""
        return max(self.rows, key=lambda row: row.size / row.tolerance if row.size == row.size else float("inf"))

    @property
    def summary(self) -> tuple[Misfit, ...]:
        """The worst row of each kind of closure, in the order in which they were measured."""
        worst: dict[str, Misfit] = {}
        for row in self.rows:
            key = row.what.replace(f"[{row.layer}]", "")
            if key not in worst or not row.size <= worst[key].size:
                worst[key] = row
        return tuple(worst.values())

    @property
    def misfit(self) -> str:
        """The first closure that fails, as a message; empty where all hold."""
        failed = next((row for row in self.rows if not row.holds), None)
        if failed is None:
            return ""
        return (
            f"{self.model}: the compiled form (by {self.found}) does not reproduce the model: {failed}; where weights "
            "are quantised, sharded or patched, load the model as it was trained, in float32"
        )

    def raise_on_misfit(self) -> None:
        """Raise a :class:`CompileError` that names the first closure that fails."""
        if self.misfit:
            raise CompileError(self.misfit)


@torch.no_grad()
def check(mechanisms: Mechanisms, *, tokens: int = 12, prompts: int = 2, seed: int = 0) -> CheckReport:
    """Measure every closure of a compiled model on random tokens.

    Parameters
    ----------
    mechanisms
        The compiled model.
    tokens, prompts, seed
        Size and seed of the random token ids; longer where that shows a sliding window.

    Returns
    -------
    CheckReport
        Relative misfits, with a tolerance that follows from the dtype.

    Examples
    --------
    >>> from causalnet.model.compile import compile_model
    >>> from causalnet.model.small import small_model
    >>> report = check(compile_model(small_model("llama")))
    >>> report.holds, report.rows[0].what
    (True, 'the sum of the contributions')
    """
    windows = [block.window for block in mechanisms.graph.blocks if block.window is not None]
    if windows and max(windows) <= _LONGEST:
        tokens = max(tokens, max(windows) + 4)
    ids = random_ids(mechanisms, prompts=prompts, tokens=tokens, seed=seed)
    natural = observe(mechanisms, ids)
    tolerance = tolerance_of(mechanisms, ids)
    rows: list[Misfit] = []
    for layer in mechanisms.layers:
        rows.extend(_layer_rows(layer, natural, tolerance))
    rows.extend(_readout_rows(mechanisms, natural, tolerance))
    rows.extend(_crossing_rows(mechanisms, natural, tolerance))
    rows.extend(_stream_rows(mechanisms, natural, tolerance))
    return CheckReport(mechanisms.name, tuple(rows), mechanisms.found)


def tolerance_of(mechanisms: Mechanisms, ids: torch.Tensor) -> float:
    """Return the relative misfit that the dtype explains.

    float32: 2e-5; float64: 1e-9, or 1e-6 where some module computes in float32 (that is measured);
    float16: 2e-2; bfloat16: 1e-1, a few units of their last place each.
    """
    known = {torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
    if mechanisms.dtype != torch.float64:
        return known.get(mechanisms.dtype, 1e-1)
    return 1e-6 if _rounds_to_single(mechanisms, ids) else 1e-9


def _rounds_to_single(mechanisms: Mechanisms, ids: torch.Tensor) -> bool:
    """Whether the logits of a float64 model move in float32 steps when the embeddings move by 1e-9."""
    generator = torch.Generator().manual_seed(3)
    seen: list[torch.Tensor] = []
    for step in (0.0, 1e-9, 2e-9):

        def nudge(hidden: torch.Tensor, step: float = step) -> torch.Tensor:
            noise = torch.randn(hidden.shape, generator=generator.manual_seed(3), dtype=hidden.dtype)
            return hidden + step * hidden.abs().mean() * noise.to(hidden.device)

        with hooked() as hooks:
            hooks.on_input(mechanisms.layers[0].module, nudge)
            seen.append(mechanisms.hf(input_ids=ids, use_cache=False).logits)
    if seen[0].dtype != torch.float64:
        return True
    # In float64 the response to so small a step is linear to 1e-16; float32 anywhere leaves 1e-8.
    bend = (seen[2] - 2 * seen[1] + seen[0]).abs().max() / seen[0].abs().max().clamp_min(1e-30)
    return bool(bend > 1e-12)


def _layer_rows(layer: Layer, natural: Natural, tolerance: float) -> list[Misfit]:
    before, after = natural.streams[layer.index], natural.streams[layer.index + 1]
    total = sum((natural.contributions[str(part.node)].to(before.device) for part in layer), before)
    rows = [Misfit("the sum of the contributions", layer.index, _relative(total, after), tolerance)]
    for part in layer:
        name = str(part.node)
        if name in natural.reads:
            expected = before
            if part.node.kind == "mlp" and not layer.parallel and layer.attn is not None:
                expected = before + natural.contributions[str(layer.attn.node)].to(before.device)
            misfit = _relative(natural.reads[name], expected)
            rows.append(Misfit(f"what {name} reads", layer.index, misfit, tolerance))
        if name in natural.heads and part.out is not None:
            misfit = _relative(_sum_of_heads(part, natural.heads[name][0]), natural.heads[name][1])
            rows.append(Misfit(f"the sum of the heads of {name}", layer.index, misfit, tolerance))
    return rows


def _sum_of_heads(part: Mechanism, fed: torch.Tensor) -> torch.Tensor:
    """Add the heads' slices, each through its own rows of the output projection, and the bias."""
    out = part.out
    assert out is not None, "heads are told apart by the output projection"
    assert part.heads is not None, "an output projection is kept only with its heads"
    weight: torch.Tensor = out.weight  # type: ignore[assignment]
    matrix = weight.T if isinstance(out, torch.nn.Linear) else weight
    slices = fed.flatten(0, -2).unflatten(-1, (part.heads, -1)).transpose(0, 1)
    total = (slices @ matrix.unflatten(0, (part.heads, -1))).sum(0).reshape(*fed.shape[:-1], -1)
    bias = getattr(out, "bias", None)
    return total if bias is None else total + bias


def _readout_rows(mechanisms: Mechanisms, natural: Natural, tolerance: float) -> list[Misfit]:
    readout = mechanisms.readout
    z = natural.streams[-1].to(readout.weight.device)
    precap = readout.precap_logits(z)
    rows = [Misfit("the readout of the final stream", None, _relative(readout.cap(precap), natural.logits), tolerance)]
    last = z[:, -1]
    tokens = precap[:, -1].argmax(-1)
    directions = readout.directions(tokens)
    sigma = readout.norm.sigma(last)
    every = [natural.streams[0], *natural.contributions.values()]
    parts = [value[:, -1].to(z.device) for value in every]
    split = sum((directions.direct(part, sigma) for part in parts), directions.constant)
    wide = precap[:, -1].to(directions.weight.dtype)
    centred = (wide - wide.mean(-1, keepdim=True)).gather(-1, tokens[:, None])[:, 0]
    size = max(float(wide.abs().max()), _rounding(directions, parts, sigma, mechanisms, tolerance) / tolerance, 1e-30)
    misfit = float((split - centred).abs().max()) / size
    rows.append(Misfit("direct effects plus constants", None, misfit, tolerance))
    return rows


def _rounding(
    directions: Directions, parts: Sequence[torch.Tensor], sigma: torch.Tensor, mechanisms: Mechanisms, tolerance: float
) -> float:
    """Return the logit that rounding alone can leave where all terms of a sum cancel.

    Rounding errors add up like independent numbers, each of the size of a product ``contribution · weight``.  In a
    model whose logits say something this lies far below what the tolerance allows them.
    """
    squares = sum(((part.to(directions.weight.dtype) * directions.weight) ** 2).sum(-1) for part in parts)
    squares = squares / sigma.to(directions.weight.dtype) ** 2 + directions.constant**2
    # A float64 model with modules that compute in float32 rounds as they do.
    dtype = torch.float32 if tolerance > 1e-9 and mechanisms.dtype == torch.float64 else mechanisms.dtype
    return _UNITS * torch.finfo(dtype).eps * float(squares.max()) ** 0.5


def _noise(like: torch.Tensor, seed: int) -> torch.Tensor:
    """Return random numbers of the size of a stream."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
    return noise * like.to(torch.float32).square().mean().sqrt().to(like)


def _crossing_rows(mechanisms: Mechanisms, natural: Natural, tolerance: float) -> list[Misfit]:
    """Change what every mechanism reads at position 0 of prompt 0, and see how far it carries."""
    first = torch.zeros_like(natural.streams[0])
    first[0, 0] = _noise(natural.streams[0], 1)[0, 0]
    parts = [part for layer in mechanisms.layers for part in layer]
    change = {str(part.node): first for part in parts}
    seen = held(mechanisms, natural, change)
    rows = []
    for part in parts:
        name, layer = str(part.node), part.node.layer
        if part.reader is None:
            continue
        moved = _moved(seen.contributions[name], natural.contributions[name])
        rows.append(Misfit(f"{name}: prompts are independent", layer, float(moved[1:].amax()), tolerance))
        if part.node.kind == "mlp":
            rows.append(Misfit(f"{name} crosses no positions", layer, float(moved[0, 1:].amax()), tolerance))
            continue
        window = mechanisms.graph.blocks[layer or 0].window
        if window is not None and window < moved.shape[1]:
            rows.append(Misfit(f"{name} sees its window only", layer, float(moved[0, window:].amax()), tolerance))
    last = natural.ids.clone()
    last[:, -1] = (last[:, -1] + 1) % last.max().clamp_min(2)
    later = mechanisms.hf(input_ids=last, use_cache=False).logits[:, :-1]
    size = float(_moved(later, natural.logits[:, :-1]).amax()) if later.shape[1] else 0.0
    rows.append(Misfit("no position reads a later one", None, size, tolerance))
    return rows


def _stream_rows(mechanisms: Mechanisms, natural: Natural, tolerance: float) -> list[Misfit]:
    """See that nothing reaches a layer but the residual stream: neither tokens nor other layers' states."""
    depth = len(mechanisms.layers)
    size = dict.fromkeys(range(depth), 0.0)
    other = natural.ids.flip(0).roll(1, dims=1) if natural.ids.shape[0] > 1 else natural.ids.roll(1, dims=1)
    seen = held(mechanisms, natural, {}, ids=other)
    _note(size, seen, natural, range(depth), mechanisms)
    noise = _noise(natural.streams[0], 2)
    for bit in range((depth - 1).bit_length()):
        # Counted from the top, an earlier layer has a one at the first bit in which it differs from a later
        # one, so that some pass changes the earlier and holds the later.
        shifted = [index for index in range(depth) if (depth - 1 - index) >> bit & 1]
        seen = held(mechanisms, natural, {}, enter=dict.fromkeys(shifted, noise))
        _note(size, seen, natural, [index for index in range(depth) if index not in shifted], mechanisms)
    return [Misfit("what a layer reads beside the stream", index, size[index], tolerance) for index in range(depth)]


def _note(size: dict[int, float], seen: Natural, natural: Natural, layers: object, mechanisms: Mechanisms) -> None:
    for index in layers:  # type: ignore[attr-defined]
        for part in mechanisms.layers[index]:
            name = str(part.node)
            moved = float(_moved(seen.contributions[name], natural.contributions[name]).amax())
            size[index] = max(size[index], moved)


def _moved(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return by how much [prompt, position] two tensors differ, relative to the size of the second."""
    wide = torch.promote_types(one.dtype, torch.float32)
    one = one.to(other.device)
    size = other.to(wide).abs().mean().clamp_min(1e-30)
    return (one.to(wide) - other.to(wide)).abs().amax(-1) / size


def _relative(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference, each relative to its own value and the ordinary size of its vector.

    A few huge coordinates (massive activations) must not hide a misfit in all the others.
    """
    wide = torch.promote_types(one.dtype, torch.float32)
    a, b = one.to(other.device, wide).reshape(other.shape), other.to(wide)
    size = b.abs() + b.abs().mean(-1, keepdim=True)
    return float(((a - b).abs() / size.clamp_min(1e-30)).max())
