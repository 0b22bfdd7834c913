"""The compile-time check: the compiled form must reproduce the real model.

Three things are measured on random tokens: every layer's change is the sum of its contributions
(residual closure), every mechanism reads the residual stream where the graph says (read points), and
the model's own logits are the sum of direct effects and constants (readout closure).
"""

from dataclasses import dataclass

import torch

from causalnet.errors import CompileError
from causalnet.model.mechanism import Layer, Mechanism, Mechanisms
from causalnet.model.probe import hooked

__all__ = ["CheckReport", "Misfit", "Natural", "check", "observe"]


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


@dataclass(frozen=True)
class CheckReport:
    """Every closure of one model."""

    model: str
    rows: tuple[Misfit, ...]

    @property
    def holds(self) -> bool:
        """Whether every closure holds."""
        return all(row.holds for row in self.rows)

    @property
    def worst(self) -> Misfit:
        """The closure closest to (or farthest beyond) its tolerance."""
        return max(self.rows, key=lambda row: row.size / row.tolerance if row.size == row.size else float("inf"))

    def raise_on_misfit(self) -> None:
        """Raise a :class:`CompileError` that names the first closure that fails."""
        for row in self.rows:
            if not row.holds:
                where = "" if row.layer is None else f" in layer {row.layer}"
                raise CompileError(
                    f"{self.model}: the compiled form does not reproduce the model: {row.what}{where} misses by "
                    f"{row.size:.2e} (relative; tolerance {row.tolerance:.0e})"
                )


@dataclass(frozen=True, eq=False)
class Natural:
    """What one plain forward pass showed: contributions and reads by node name, streams by layer."""

    logits: torch.Tensor
    streams: tuple[torch.Tensor, ...]
    contributions: dict[str, torch.Tensor]
    reads: dict[str, torch.Tensor]


def observe(mechanisms: Mechanisms, ids: torch.Tensor) -> Natural:
    """Run the plain forward on ids [prompt, position] and record streams, contributions and reads."""
    entering: dict[int, torch.Tensor] = {}
    leaving: dict[int, torch.Tensor] = {}
    outputs: dict[str, torch.Tensor] = {}
    reads: dict[str, torch.Tensor] = {}

    def keep(store: dict, key: object) -> object:
        def hook(value: torch.Tensor) -> None:
            store[key] = value.detach().clone()

        return hook

    with hooked() as hooks, torch.no_grad():
        for layer in mechanisms.layers:
            hooks.on_input(layer.module, keep(entering, layer.index))  # type: ignore[arg-type]
            hooks.on_output(layer.module, keep(leaving, layer.index))  # type: ignore[arg-type]
            for part in layer:
                hooks.on_output(part.source, keep(outputs, str(part.node)))  # type: ignore[arg-type]
                reader = part.norm if part.norm is not None else part.module
                if reader is not None:
                    hooks.on_input(reader, keep(reads, str(part.node)))  # type: ignore[arg-type]
        logits = mechanisms.hf(ids, use_cache=False).logits
    missing = [str(part.node) for layer in mechanisms.layers for part in layer if str(part.node) not in outputs]
    if missing or len(entering) != len(mechanisms.layers):
        raise CompileError(f"{mechanisms.name}: these mechanisms were never called: {', '.join(missing) or 'layers'}")
    shape = entering[0].shape
    contributions = {}
    for layer in mechanisms.layers:
        for part in layer:
            contributions[str(part.node)] = _contribution(part, layer, outputs, entering).view(shape)
    streams = (*(entering[index] for index in range(len(mechanisms.layers))), leaving[len(mechanisms.layers) - 1])
    return Natural(logits, streams, contributions, {name: value.view(shape) for name, value in reads.items()})


def _contribution(
    part: Mechanism, layer: Layer, outputs: dict[str, torch.Tensor], entering: dict[int, torch.Tensor]
) -> torch.Tensor:
    """Turn a source's output into what is added to the residual stream."""
    raw = outputs[str(part.node)]
    if not part.adds_residual:
        return raw * part.scale
    before = entering[layer.index]
    if part.node.kind == "mlp" and not layer.parallel and layer.attn is not None:
        before = outputs[str(layer.attn.node)]
    return raw.view(before.shape) - before


@torch.no_grad()
def check(mechanisms: Mechanisms, *, tokens: int = 12, prompts: int = 2, seed: int = 0) -> CheckReport:
    """Measure every closure of a compiled model on random tokens.

    Parameters
    ----------
    mechanisms
        The compiled model.
    tokens, prompts, seed
        Size and seed of the random token ids.

    Returns
    -------
    CheckReport
        Relative misfits, with a tolerance that follows from the dtype.
    """
    generator = torch.Generator().manual_seed(seed)
    vocab = mechanisms.readout.weight.shape[0]
    length = tokens if mechanisms.context is None else min(tokens, mechanisms.context)
    ids = torch.randint(0, vocab, (prompts, length), generator=generator).to(mechanisms.device)
    seen = observe(mechanisms, ids)
    tolerance = {torch.float64: 1e-5, torch.float32: 2e-5, torch.float16: 2e-2}.get(mechanisms.dtype, 1e-1)
    rows: list[Misfit] = []
    for layer in mechanisms.layers:
        rows.extend(_layer_rows(layer, seen, tolerance))
    rows.extend(_readout_rows(mechanisms, seen, tolerance))
    return CheckReport(mechanisms.name, tuple(rows))


def _layer_rows(layer: Layer, seen: Natural, tolerance: float) -> list[Misfit]:
    before, after = seen.streams[layer.index], seen.streams[layer.index + 1]
    total = sum((seen.contributions[str(part.node)] for part in layer), before)
    rows = [Misfit("the sum of the contributions", layer.index, _relative(total, after, after), tolerance)]
    for part in layer:
        if str(part.node) not in seen.reads:
            continue
        expected = before
        if part.node.kind == "mlp" and not layer.parallel and layer.attn is not None:
            expected = before + seen.contributions[str(layer.attn.node)]
        misfit = _relative(seen.reads[str(part.node)], expected, expected)
        rows.append(Misfit(f"what {part.node} reads", layer.index, misfit, tolerance))
    return rows


def _readout_rows(mechanisms: Mechanisms, seen: Natural, tolerance: float) -> list[Misfit]:
    readout = mechanisms.readout
    z = seen.streams[-1]
    precap = readout.precap_logits(z)
    rows = [Misfit("the readout of the final stream", None, _relative(readout.cap(precap), seen.logits), tolerance)]
    last = z[:, -1]
    tokens = precap[:, -1].argmax(-1)
    directions = readout.directions(tokens)
    sigma = readout.norm.sigma(last)
    parts = [seen.streams[0][:, -1], *(value[:, -1] for value in seen.contributions.values())]
    split = sum((directions.direct(part, sigma) for part in parts), directions.constant)
    wide = precap[:, -1].to(directions.weight.dtype)
    centred = (wide - wide.mean(-1, keepdim=True)).gather(-1, tokens[:, None])[:, 0]
    rows.append(Misfit("direct effects plus constants", None, _relative(split, centred), tolerance))
    return rows


def _relative(one: torch.Tensor, other: torch.Tensor, scale: torch.Tensor | None = None) -> float:
    """Return the largest absolute difference relative to the largest magnitude."""
    wide = torch.promote_types(one.dtype, torch.float32)
    size = (other if scale is None else scale).to(wide).abs().max().clamp_min(1e-30)
    return float((one.to(wide) - other.to(wide)).abs().max() / size)
