"""What one layer is made of, found by probing it.

Nothing is known of the layer but that it maps a residual stream to the next one.  Its contributions are
the submodules whose outputs sum to the layer's change; which of them sees which, through which module
each reads the stream and which crosses positions is told by changing one thing and looking at the rest.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import torch
from torch import nn

from causalnet.errors import UnsupportedModelError
from causalnet.model.probe import hidden_of, hooked, with_hidden

__all__ = ["Anatomy", "Call", "Found", "dissect"]

_MOST = 4
"""Most submodules whose outputs may sum to a layer's change."""


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


@dataclass(frozen=True)
class Found:
    """One mechanism of a layer, as paths inside it, and what was measured of it."""

    sources: tuple[str, ...]
    scales: tuple[float, ...]
    module: str
    reader: str
    crosses: bool
    window: int | None = None
    out: str = ""
    heads: int | None = None
    heads_sum: bool = True


@dataclass(frozen=True)
class Anatomy:
    """The mechanisms of one layer; ``parallel`` if the MLP does not read the mixer."""

    attn: Found | None
    mlp: Found | None
    parallel: bool


@dataclass(eq=False)
class Seen:
    """What one call of the layer showed: its output, and input and output of its submodules by path."""

    out: torch.Tensor
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)


Change = Callable[[torch.Tensor], torch.Tensor]


def dissect(call: Call, where: str) -> Anatomy:
    """Find the mechanisms of a layer from one captured call.

    Parameters
    ----------
    call
        A call of the layer with at least two prompts and eight positions.
    where
        How messages name the layer.

    Raises
    ------
    UnsupportedModelError
        If the layer's change is not a sum of outputs of its submodules, or something crosses positions,
        prompts or layers where no mixer is.
    """
    return _Probe(call, where).anatomy()


class _Probe:
    """The experiments on one layer."""

    def __init__(self, call: Call, where: str) -> None:
        self.call, self.where = call, where
        self.paths = {path: module for path, module in call.module.named_modules() if path}
        self.x = call.hidden
        self.natural = self.run()
        self.tiny = 1e-7 if self.x.dtype == torch.float64 else 2e-3
        generator = torch.Generator().manual_seed(1)
        self.noise = torch.randn(self.x.shape, generator=generator, dtype=torch.float64).to(self.x)
        self.noise *= self.x.square().mean().sqrt()

    # -- running the layer ---------------------------------------------------------------------------

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

    # -- which outputs sum to the change -----------------------------------------------------------

    def anatomy(self) -> Anatomy:
        """Run every experiment."""
        terms = self.terms()
        crossing = {path: self.crosses(path, terms) for path in terms}
        mixers = {path: c for path, c in terms.items() if crossing[path]}
        others = {path: c for path, c in terms.items() if not crossing[path]}
        self.refuse_chain(mixers, mixing=True)
        self.refuse_chain(others, mixing=False)
        parallel = True
        if mixers and others:
            parallel = not self.reaches(mixers, others)
            if self.reaches(others, mixers):
                raise self.refusal("its token mixer reads the MLP of the same layer; the graph has the mixer first")
        self.refuse_leaks(mixers)
        after = {} if parallel else mixers
        return Anatomy(
            self.describe(mixers, {}, others, crosses=True) if mixers else None,
            self.describe(others, after, mixers, crosses=False) if others else None,
            parallel=parallel and bool(mixers) and bool(others),
        )

    def candidates(self) -> dict[str, torch.Tensor]:
        """Return outputs that could be terms, one path for all that are proportional.

        Of those it is the outermost module around the one that was done first: ``self_attn`` for its own
        output projection and for a dropout that comes after it.
        """
        groups: list[list[str]] = []
        for path in self.natural.outputs:  # in the order in which modules were done
            output = self.like(self.natural.outputs[path])
            if output is None or not bool(output.abs().max() > 0) or not output.isfinite().all():
                continue
            for group in groups:
                if _proportional(output, self.like(self.natural.outputs[group[0]]), self.tiny):
                    group.append(path)
                    break
            else:
                groups.append([path])
        chosen = [min((path for path in group if f"{group[0]}.".startswith(f"{path}.")), key=len) for group in groups]
        ordered = [path for path in self.paths if path in chosen]
        return {path: self.stream_of(self.natural, path) for path in ordered}

    def terms(self) -> dict[str, float]:
        """Return the submodules, and factors, whose outputs sum to the layer's change."""
        change = self.natural.out - self.x
        candidates = self.candidates()
        for size in range(1, _MOST + 1):
            for paths in combinations(candidates, size):
                factors = self.solve([candidates[path] for path in paths], change)
                if factors is None:
                    continue
                terms = dict(zip(paths, factors, strict=True))
                if all(self.adds(path, terms) for path in paths):
                    return terms
            if size >= 2 and len(candidates) > 40:
                break
        raise self.refusal(self.why_not(candidates))

    def solve(self, outputs: list[torch.Tensor], change: torch.Tensor) -> list[float] | None:
        """Return the factors with which outputs sum to the change, None where they do not."""
        matrix = torch.stack([output.flatten() for output in outputs], -1).double()
        target = change.flatten().double()
        factors = torch.linalg.lstsq(matrix, target[:, None]).solution[:, 0]
        rest = (matrix @ factors - target).abs().max()
        if not bool(rest <= self.tiny * target.abs().max().clamp_min(1e-30)) or not bool((factors.abs() > 1e-6).all()):
            return None
        return factors.tolist()

    def adds(self, path: str, terms: dict[str, float]) -> bool:
        """Whether a change of this output alone arrives in the stream with its factor, the others held."""
        held = {other: _constant(self.natural.outputs[other]) for other in terms if other != path}
        seen = self.run(outputs={**held, path: self.shifted(self.noise)})
        return self.same(seen.out - self.natural.out, terms[path] * self.noise)

    def shifted(self, by: torch.Tensor) -> Change:
        """Return a change that adds a stream to an output of any shape of that size."""
        return lambda value: value + by.reshape(value.shape)

    def why_not(self, candidates: dict[str, torch.Tensor]) -> str:
        """Say why no outputs sum to the layer's change."""
        tried = f"tried the outputs of {', '.join(list(candidates)[:8])}{', …' if len(candidates) > 8 else ''}"
        for path, output in candidates.items():
            if self.same(output, self.natural.out):
                return (
                    f"what leaves it is the output of its {path}, so no residual stream passes through it "
                    f"(a post-norm trunk); contributions do not sum to the logits there ({tried})"
                )
        for size in range(1, 3):
            for paths in combinations(candidates, size):
                factors = self.solve([self.x, *(candidates[path] for path in paths)], self.natural.out)
                if factors is not None:
                    return (
                        f"it multiplies the residual stream by {factors[0]:.8g} before it adds {' and '.join(paths)}, "
                        "so what earlier layers wrote does not reach the readout as it was written"
                    )
        return f"no submodule outputs sum to the change that it makes to the residual stream ({tried})"

    # -- which sees which -------------------------------------------------------------------------

    def hold(self, terms: dict[str, float]) -> dict[str, Change]:
        """Hold outputs at their natural values."""
        return {path: _constant(self.natural.outputs[path]) for path in terms}

    def crosses(self, path: str, terms: dict[str, float]) -> bool:
        """Whether this output, the other terms held, depends on other positions of the stream."""
        hidden = self.x.clone()
        hidden[0, 0] += self.noise[0, 0]
        seen = self.run(hidden, outputs=self.hold({p: c for p, c in terms.items() if p != path}))
        moved = self.moved(self.stream_of(seen, path), self.stream_of(self.natural, path))
        if moved[1:].any():
            raise self.refusal(f"its {path} mixes the prompts of a batch (routing over the batch?)")
        return bool(moved[0, 1:].any())

    def stream_of(self, seen: Seen, path: str) -> torch.Tensor:
        value = self.like(seen.outputs[path])
        assert value is not None, "only outputs of the stream's size become terms"
        return value

    def reaches(self, causes: dict[str, float], effects: dict[str, float]) -> bool:
        """Whether changing one group of outputs changes another group's."""
        seen = self.run(outputs={path: self.shifted(self.noise) for path in causes})
        return any(
            bool(self.moved(self.stream_of(seen, path), self.stream_of(self.natural, path)).any()) for path in effects
        )

    def refuse_chain(self, group: dict[str, float], *, mixing: bool) -> None:
        """Refuse several terms of one kind that read each other: they would be one node with two reads."""
        for path in group:
            rest = {other: c for other, c in group.items() if other != path}
            if rest and self.reaches({path: 1.0}, rest):
                mix = " and all mix positions" if mixing else ""
                raise self.refusal(
                    f"{', '.join(group)} add to the residual stream one after the other{mix}; a layer is expressed as "
                    "one token mixer followed by one MLP that mixes no positions"
                )

    def refuse_leaks(self, mixers: dict[str, float]) -> None:
        """Refuse a mixer that looks ahead."""
        hidden = self.x.clone()
        hidden[0, -1] += self.noise[0, -1]
        seen = self.run(hidden)
        if self.moved(seen.out, self.natural.out)[0, :-1].any():
            names = ", ".join(mixers) or "module"
            raise self.refusal(f"its {names} reads later positions, so the model is not a causal language model")

    # -- where and how a mechanism reads ---------------------------------------------------------

    def describe(
        self, terms: dict[str, float], after: dict[str, float], others: dict[str, float], *, crosses: bool
    ) -> Found:
        """Find reader, module, heads and window of one group of terms, which reads the stream after others."""
        read = self.x
        for path, factor in after.items():
            read = read + factor * self.stream_of(self.natural, path)
        reader = self.reader(terms, after, others, read)
        module = self.module_of(terms, reader)
        window = self.window(terms, reader) if crosses else None
        # The last one called comes first: only then is the whole contribution known.
        order = [path for path in reversed(self.natural.outputs) if path in terms]
        scales = tuple(terms[path] for path in order)
        found = Found(tuple(order), scales, module, "" if reader == module else reader, crosses, window)
        if not crosses or len(terms) > 1 or not module:
            return found
        return self.with_heads(found)

    def reader(
        self, terms: dict[str, float], after: dict[str, float], others: dict[str, float], read: torch.Tensor
    ) -> str:
        """Find the one module through which terms read the stream."""
        if after:
            first, *rest = after
            outputs = {first: self.shifted(self.noise / after[first]), **self.hold(dict.fromkeys(rest, 1.0))}
            real = self.run(outputs=outputs)
        else:
            real = self.run(self.x + self.noise, outputs=self.hold(others))
        tried = []
        for path in self.paths:  # outer modules first
            if path not in self.natural.inputs or not self.same(self.like(self.natural.inputs[path]), read):
                continue
            tried.append(path)
            seen = self.run(inputs={path: self.shifted(self.noise)}, outputs=self.hold({**after, **others}))
            if all(self.same(self.stream_of(seen, term), self.stream_of(real, term)) for term in terms):
                return path
        names = ", ".join(terms)
        if not tried:
            raise self.refusal(f"no module inside it reads the residual stream for {names}")
        raise self.refusal(
            f"{names} reads more than the residual stream of one place: replacing what {', '.join(tried)} reads does "
            "not account for it"
        )

    def module_of(self, terms: dict[str, float], reader: str) -> str:
        """Find the module that computes a mechanism: it reads the stream, or is given what the reader returns."""
        given = self.like(self.natural.outputs.get(reader))
        for path in (path for term in terms for path in self.chain(term)):
            own = self.like(self.natural.inputs.get(path))
            if path == reader or (own is not None and given is not None and self.same(own, given)):
                return path
        return ""

    def chain(self, term: str) -> Iterator[str]:
        """Yield the modules that may compute a term: those around it, or around what feeds it if it is a norm."""
        if not self.is_norm(term):
            yield from self.around(term)
            return
        fed = self.natural.inputs[term]
        for path, value in self.natural.outputs.items():
            if value.shape == fed.shape and self.same(value, fed):
                yield from self.around(path)

    def is_norm(self, path: str) -> bool:
        """Whether a module has no matrices and returns the same for twice its input."""
        if path not in self.natural.inputs or any(p.dim() > 1 for p in self.paths[path].parameters()):
            return False
        doubled = self.run(inputs={path: lambda value: 2 * value}).outputs.get(path)
        natural = self.natural.outputs[path]
        return doubled is not None and bool((doubled - natural).abs().max() <= 1e-2 * natural.abs().max())

    def around(self, path: str) -> Iterator[str]:
        steps = path.split(".")
        return (".".join(steps[:size]) for size in range(1, len(steps) + 1))

    def window(self, terms: dict[str, float], reader: str) -> int | None:
        """Measure how many positions a mixer sees; None if all that there are."""
        length = self.x.shape[1]
        first = self.noise * 0
        first[:, 0] = self.noise[:, 0]
        seen = self.run(inputs={reader: self.shifted(first)})
        reached = 0
        for term in terms:
            # Exactly: what decays over positions becomes small, what is masked stays as it is.
            moved = (self.stream_of(seen, term) != self.stream_of(self.natural, term)).any(-1).any(0)
            reached = max(reached, 1 + int(moved.nonzero().max()) if moved.any() else 0)
        return None if reached >= length else reached

    def with_heads(self, found: Found) -> Found:
        """Find the output projection and measure how many heads it joins."""
        source = self.stream_of(self.natural, found.sources[0])
        raw = self.like(self.natural.outputs.get(found.module))
        for path, module in reversed(self.paths.items()):
            if not path.startswith(f"{found.module}.") or path not in self.natural.outputs:
                continue
            weight = getattr(module, "weight", None)
            output, fed = self.like(self.natural.outputs[path]), self.natural.inputs.get(path)
            if not isinstance(weight, torch.Tensor) or weight.dim() != 2 or fed is None:
                continue
            sums = _proportional(output, source, self.tiny)
            if sums or _proportional(output, raw, self.tiny):
                heads = self.count_heads(found.module, path)
                return replace(found, out=path, heads=heads, heads_sum=sums)
        return found

    def count_heads(self, mixer: str, out: str) -> int | None:
        """Count the blocks of the projection's input that can be changed one at a time, from inside the mixer."""
        natural = self.natural.inputs[out]
        width = natural.shape[-1]
        smallest = width
        generator = torch.Generator().manual_seed(2)
        for path, value in self.natural.outputs.items():
            inside = path.startswith(f"{mixer}.") and path != out and not path.startswith(f"{out}.")
            if not inside or not value.is_floating_point() or value.dim() < 2:
                continue
            for spot in torch.randint(0, value[0].numel() // value.shape[1] or 1, (12,), generator=generator).tolist():
                seen = self.run(outputs={path: _poke(spot)})
                fed = seen.inputs.get(out)
                if fed is None or fed.shape != natural.shape:
                    continue
                size = natural.abs().mean()
                changed = ((fed - natural).abs() > self.tiny * size).reshape(-1, width).any(0)
                smallest = min(smallest, _block(changed, width))
        return width // smallest if smallest < width else None

    def refusal(self, why: str) -> UnsupportedModelError:
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


def _constant(value: torch.Tensor) -> Change:
    # Cloned, for some layers add to an output in place (Falcon).
    return lambda now: value.reshape(now.shape).clone()


def _poke(spot: int) -> Change:
    """Return a change of one coordinate at every position, whatever the layout after [prompt, ...]."""

    def change(value: torch.Tensor) -> torch.Tensor:
        flat = value.clone()
        rows = flat.reshape(flat.shape[0], -1, flat.shape[-1]) if flat.dim() > 2 else flat
        rows[..., spot % rows.shape[-1]] += 3.0 * rows.abs().mean() + 0.1
        return rows.reshape(value.shape)

    return change


def _block(changed: torch.Tensor, width: int) -> int:
    """Return the size of the aligned block that holds exactly the changed coordinates, else the whole width.

    A single coordinate tells nothing: a change of one value moves the same coordinate of what it is mixed into.
    """
    where = changed.nonzero()[:, 0]
    if len(where) < 2:
        return width
    low, high = int(where.min()), int(where.max()) + 1
    size = high - low
    return size if size == len(where) and width % size == 0 and low % size == 0 else width


def _proportional(one: torch.Tensor | None, other: torch.Tensor | None, tiny: float) -> bool:
    """Whether two tensors are equal up to one positive or negative factor."""
    if one is None or other is None or one.shape != other.shape:
        return False
    a, b = one.double().flatten(), other.double().flatten()
    square = float(b @ b)
    if square == 0.0:
        return not bool(a.any())
    rest = a - (float(a @ b) / square) * b
    return float(rest.abs().max()) <= tiny * max(float(a.abs().max()), 1e-30)
