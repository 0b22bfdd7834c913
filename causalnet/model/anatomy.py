"""What one layer is made of, found by probing it.

Nothing is known of the layer but that it maps a residual stream to the next one.  Its contributions are
the submodules whose outputs sum to the layer's change; which of them sees which, through which module
each reads the stream and which crosses positions is told by changing one thing and looking at the rest.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

import torch

from causalnet.model.heads import count_heads
from causalnet.model.layer_probe import Call, LayerProbe, constant, proportional

__all__ = ["Anatomy", "Call", "Found", "dissect"]

_MOST = 4
"""Most submodules whose outputs may sum to a layer's change."""


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
    return _Dissection(call, where).anatomy()


class _Dissection(LayerProbe):
    """The experiments on one layer."""

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
                if proportional(output, self.like(self.natural.outputs[group[0]]), self.tiny):
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
        matrix = torch.stack([output.flatten() for output in outputs], -1).cpu().double()
        target = change.flatten().cpu().double()
        factors = torch.linalg.lstsq(matrix, target[:, None]).solution[:, 0]
        rest = (matrix @ factors - target).abs().max()
        if not bool(rest <= self.tiny * target.abs().max().clamp_min(1e-30)) or not bool((factors.abs() > 1e-6).all()):
            return None
        return factors.tolist()

    def each_coordinate(self, outputs: list[torch.Tensor], target: torch.Tensor) -> bool:
        """Whether, coordinate by coordinate, outputs sum to the target with some factors."""
        matrix = torch.stack([output.flatten(0, -2) for output in outputs], -1).cpu().double().transpose(0, 1)
        wanted = target.flatten(0, -2).cpu().double().T.unsqueeze(-1)
        factors = torch.linalg.lstsq(matrix, wanted).solution
        return bool((matrix @ factors - wanted).abs().max() <= self.tiny * wanted.abs().max())

    def adds(self, path: str, terms: dict[str, float]) -> bool:
        """Whether a change of this output alone arrives in the stream with its factor, the others held."""
        held = {other: constant(self.natural.outputs[other]) for other in terms if other != path}
        seen = self.run(outputs={**held, path: self.shifted(self.noise)})
        return self.same(seen.out - self.natural.out, terms[path] * self.noise)

    def why_not(self, candidates: dict[str, torch.Tensor]) -> str:
        """Say why no outputs sum to the layer's change."""
        tried = f"tried the outputs of {', '.join(list(candidates)[:8])}{', …' if len(candidates) > 8 else ''}"
        for path, output in candidates.items():
            if self.same(output, self.natural.out):
                return (
                    f"what leaves it is the output of its {path}, so no residual stream passes through it "
                    f"(a post-norm trunk); contributions do not sum to the logits there ({tried})"
                )
        out = self.natural.out
        for size in range(1, 4):
            for paths in combinations(candidates, size):
                outputs = [candidates[path] for path in paths]
                names = " and ".join(paths)
                factors = self.solve([self.x, *outputs], out)
                lost = f"before it adds {names}, so what earlier layers wrote does not reach the readout as written"
                if factors is not None:
                    return f"it multiplies the residual stream by {factors[0]:.8g} {lost}"
                if self.solve(outputs, out) is not None:
                    return (
                        f"what leaves it is the sum of {names}, without the stream that entered; contributions "
                        "of earlier layers do not sum to the logits"
                    )
                if size < 3 and self.each_coordinate([self.x, *outputs], out):
                    return f"it multiplies every coordinate of the residual stream by a number of its own {lost}"
        return f"no submodule outputs sum to the change that it makes to the residual stream ({tried})"

    # -- which sees which -------------------------------------------------------------------------

    def crosses(self, path: str, terms: dict[str, float]) -> bool:
        """Whether this output, the other terms held, depends on other positions of the stream."""
        hidden = self.x.clone()
        hidden[0, 0] += self.noise[0, 0]
        seen = self.run(hidden, outputs=self.hold({p: c for p, c in terms.items() if p != path}))
        moved = self.moved(self.stream_of(seen, path), self.stream_of(self.natural, path))
        if moved[1:].any():
            raise self.refusal(f"its {path} mixes the prompts of a batch (routing over the batch?)")
        return bool(moved[0, 1:].any())

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
            sums = proportional(output, source, self.tiny)
            if sums or proportional(output, raw, self.tiny):
                heads = count_heads(self, found.module, path)
                return replace(found, out=path, heads=heads, heads_sum=sums)
        return found
