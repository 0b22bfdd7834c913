"""Faults that a causal engine could have, each planted by patching, and the laws that catch them.

``python tests/testing/faults.py`` tries every law on every fault and prints the table in Markdown.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch

from causalnet.engine import plain, plan, readings, sources
from causalnet.engine.inputs import Inputs
from causalnet.engine.plain import _Forward
from causalnet.engine.sources import Sources
from causalnet.expr import estimands, world
from causalnet.expr.assign import Do
from causalnet.expr.positions import At, indices
from causalnet.expr.values import Natural, Scale
from causalnet.expr.world import NATURAL_WORLD
from causalnet.graph import CausalGraph, Node
from causalnet.testing import LAWS, check_laws
from causalnet.testing.strategies import tiny_model

SEED, CASES, FEW = 11, 24, 6


@dataclass(frozen=True)
class Fault:
    """A fault: in words, how it is planted, and the laws that must catch it."""

    words: str
    plant: Callable[[], Any]
    caught_by: tuple[str, ...]

    def fails(self, law: str, cases: int = CASES, *, shrink: bool = False):
        """Try a law while the fault is there; return what was tried."""
        with self.plant() as model:
            return check_laws(model, laws=[law], cases=cases, seed=SEED, shrink=shrink)[law]


def fault(words: str, *caught_by: str) -> Callable[[Callable[[], Iterator[Any]]], Fault]:
    def make(plant: Callable[[], Iterator[Any]]) -> Fault:
        return Fault(words, contextlib.contextmanager(plant), caught_by)

    return make


def with_blocks(family: str, **change: Any) -> Any:
    model = tiny_model(family)
    return replace(model, graph=CausalGraph.from_blocks([replace(one, **change) for one in model.graph.blocks]))


@fault("a sequential block is taken for parallel", "locality", "edges", "positions")
def sequential_as_parallel():
    yield with_blocks("gpt2", parallel=True)


@fault("a parallel block is taken for sequential", "edges", "positions")
def parallel_as_sequential():
    yield with_blocks("gptj", parallel=False)


@fault("the graph lacks edges", "rule_3", "edges")
def missing_edge():
    model = tiny_model("gpt2")
    yield replace(model, graph=model.graph.remove_edges(["embed -> mlp[1]", "attn[0] -> mlp[1]", "attn[0] -> mlp[0]"]))


@fault("an attention's bias is drawn as if it read the stream", "edges")
def reading_bias():
    model = tiny_model("gpt2")
    graph = model.graph.with_heads([0, 1])
    into = [f"{node} -> attn[1].bias" for node in graph.parents("attn[1].head[0]")]
    yield replace(model, graph=graph.add_edges(["embed -> attn[0].bias", *into]))


@fault("a window is taken for shorter than it is", "locality")
def short_window():
    yield with_blocks("gpt2", window=2)


@fault("a hook does not fire and says that it did", "effectiveness", "out_edges", "plan")
def silent_hook():
    apply = _Forward._apply

    def idle(self, node, value):
        return value if apply(self, node, value) is not value and node.kind == "mlp" else apply(self, node, value)

    with patch.object(_Forward, "_apply", idle):
        yield tiny_model("gpt2")


@fault("donors are redrawn for every world", "composition", "effectiveness", "plan")
def redrawn_donors():
    calls, donated = [0], Sources._donated

    def redrawn(self, key, prompts, draws):
        calls[0] += 1
        turned = [(prompt + calls[0]) % 2 + 2 * (prompt // 2) for prompt in prompts]
        return donated(self, key, turned, draws)

    with patch.object(Sources, "_donated", redrawn):
        yield tiny_model("gpt2")


@fault("the norm is frozen at this world's run, not at the natural one", "effectiveness", "screening", "plan")
def norm_of_this_world():
    value = _Forward._value

    def own(self, node, site, what, column, current):
        frozen = isinstance(what, Natural) and node.kind == "norm"
        return current if frozen else value(self, node, site, what, column, current)

    with patch.object(_Forward, "_value", own):
        yield tiny_model("gpt2")


@fault("a planned run ignores that the norm is set", "plan")
def planned_norm():
    read = readings.read

    def unset(readout, outcome, stream, natural, sigma=None, memo=None):
        return read(readout, outcome, stream, natural, None, memo)

    from causalnet.engine import chunk

    with patch.object(chunk, "read", unset):
        yield tiny_model("gpt2")


@fault("a position is off by one", "effectiveness", "plan")
def shifted_position():
    ground = world.ground

    def shifted(one, length, spans=None, *, where=""):
        table = ground(one, length, spans, where=where)
        return {
            key: {min(column + (site.position is not None), length - 1): (site, value)
                  for column, (site, value) in row.items()}
            for key, row in table.items()
        }  # fmt: skip

    def safe(self, node, site, what, column, current):
        return value(self, node, site, what, min(column, len(self.inputs.ids[self.prompt]) - 1), current)

    value = _Forward._value
    where = plain.indices

    def found(position, length, spans=None, *, where_=where, **more):
        columns = where_(position, length, spans, **more)
        return columns if position is None else tuple(min(column + 1, length - 1) for column in columns)

    with patch.object(plain, "ground", shifted), patch.object(plain, "indices", found):
        yield tiny_model("gpt2")


@fault("positions of longer prompts are counted from the padded end", "effectiveness")
def padded_position():
    columns = Inputs.columns

    def padded(self, prompt, position, where=""):
        found = columns(self, prompt, position, where)
        long = len(self.ids[prompt]) > min(map(len, self.ids))
        from_the_end = isinstance(position, At) and position.index < 0
        return tuple(max(column - 1, 0) for column in found) if long and from_the_end else found

    with patch.object(Inputs, "columns", padded):
        yield tiny_model("gpt2")


@fault("heads leak into each other", "locality", "positions")
def leaking_heads():
    apply = _Forward._apply

    def leaking(self, node, value):
        before = None if not node.head else self.table.get((Node("head", node.layer, node.head - 1), None))
        new = apply(self, node, value)
        if before is None:
            return new
        new = new.clone()
        new[list(before)] = 0.9 * new[list(before)]
        return new

    with patch.object(_Forward, "_apply", leaking):
        yield tiny_model("gpt2")


@fault("a write is applied twice", "effectiveness", "plan")
def applied_twice():
    apply = _Forward._apply
    with patch.object(_Forward, "_apply", lambda self, node, value: apply(self, node, apply(self, node, value))):
        yield tiny_model("gpt2")


@fault("a soft value is computed from the natural world", "effectiveness", "plan")
def soft_of_natural():
    value = _Forward._value

    def natural(self, node, site, what, column, current):
        if not what.hard and NATURAL_WORLD in self.done and node in self.done[NATURAL_WORLD].values:
            current = self.done[NATURAL_WORLD].values[node][column]
        return value(self, node, site, what, column, current)

    with patch.object(_Forward, "_value", natural):
        yield tiny_model("gpt2")


@fault("an edge is set for later MLPs too", "out_edges", "plan")
def edge_for_all():
    shift = _Forward._edge_shift

    def every(self, receiver):
        own = shift(self, receiver)
        for other in {to for _, to in self.table if to not in (None, receiver)}:
            known = all(one in self.out.values for one, to in self.table if to == other)
            if known and other.kind == receiver.kind == "mlp":
                more = shift(self, other)
                own = more if own is None else own + more
        return own

    with patch.object(_Forward, "_edge_shift", every):
        yield tiny_model("gpt2")


@fault("an edge adds its value and does not take the old one away", "composition", "effectiveness", "out_edges")
def edge_added():
    value = _Forward._value

    def added(self, node, site, what, column, current):
        new = value(self, node, site, what, column, current)
        return new + current if site.receiver is not None and site.receiver.kind == "mlp" else new

    with patch.object(_Forward, "_value", added):
        yield tiny_model("gpt2")


@contextlib.contextmanager
def hooked(module: torch.nn.Module, change: Callable[[Any, torch.Tensor], torch.Tensor]) -> Iterator[None]:
    def hook(_module, given, output):
        first = output[0] if isinstance(output, tuple) else output
        new = change(given, first)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@fault("attention sees the next token", "locality", "positions")
def looking_ahead():
    model = tiny_model("gpt2")
    with hooked(model.hf.transformer.h[0].attn, lambda _, out: out + 0.1 * out.roll(-1, 1)):
        yield model


@fault("an MLP reads the position before its own", "locality", "positions")
def shifted_mlp():
    model = tiny_model("gpt2")
    with hooked(model.hf.transformer.h[1].mlp, lambda _, out: out + 0.1 * out.roll(1, 1)):
        yield model


@fault("a layer reads an earlier one beside the residual stream", "screening", "rule_3")
def beside_the_stream():
    model, seen = tiny_model("gpt2"), []
    first, second = model.hf.transformer.h[:2]

    def keep(_, out):
        seen[:] = [out]
        return out

    def leak(_, out):
        # A planned run gives the later layer fewer positions than the earlier one.
        return out + 0.1 * seen[0] if seen and seen[0].shape == out.shape else out

    with hooked(first.attn, keep), hooked(second.mlp, leak):
        yield model


@fault("the natural run rounds the readout", "null")
def rounded_readout():
    norm = _Forward._at_norm

    def rounded(self, output):
        new = norm(self, output)
        return (output if new is None else new).float().to(output.dtype)

    with patch.object(_Forward, "_at_norm", rounded):
        yield tiny_model("gpt2")


@fault("of two values for one place the last wins, in silence", "sets")
def silent_ties():
    def last_wins(one, length, spans=None, *, where=""):
        table: dict = {}
        for site, value in one.writes:
            for index in indices(site.position, length, spans, where=where):
                table.setdefault((site.node, site.receiver), {})[index] = (site, value)
        return table

    with patch.object(plain, "ground", last_wins), patch.object(plan, "ground", last_wins):
        yield tiny_model("gpt2")


@fault("a planned world joins the batch a layer too late", "plan")
def late_joining():
    join = plan.join

    def late(graph, *more):
        return min(join(graph, *more) + 2, 2 * graph.layers)

    with patch.object(plan, "join", late):
        yield tiny_model("gpt2")


@fault("noise is drawn anew for every batch", "batch", "plan")
def noise_by_batch():
    noise = Sources._noise
    calls = [0]

    def anew(self, write, value, prompts, draws, current):
        calls[0] += 1
        return noise(replace(self, inputs=replace(self.inputs, seed=calls[0])), write, value, prompts, draws, current)

    with patch.object(Sources, "_noise", anew):
        yield tiny_model("gpt2")


@fault("means depend on the size of the chunk", "batch")
def means_by_chunk():
    fetch = sources.Sources.fetch

    def by_chunk(self, write, current, prompts, draws):
        return fetch(self, write, current, prompts, draws) * (1 + 0.01 * len(prompts))

    with patch.object(Sources, "fetch", by_chunk):
        yield tiny_model("gpt2")


@fault("CE does not hold the norm", "identities", "closed_form")
def loose_compensation():
    rules = dict(estimands.ESTIMANDS)
    worlds, *rest = rules["CE"]
    changed = (lambda do: (do, worlds(do)[1]), *rest)
    with patch.dict(estimands.ESTIMANDS, {"CE": changed}):
        yield tiny_model("gpt2")


@fault("the direct effect is read at the norm of the ablated run", "identities", "closed_form")
def direct_at_moved_norm():
    rules = dict(estimands.ESTIMANDS)

    def loose(do: Do):
        held, natural = rules["NDE"][0](do)
        assert held is not None
        below = held.assignments[-1]
        return Do((*held.assignments[:-1], replace(below, target=below.target - estimands_norm()))), natural

    changed = {name: (loose, *rules[name][1:]) for name in ("DE", "NDE", "PDE")}
    with patch.dict(estimands.ESTIMANDS, changed):
        yield tiny_model("gpt2")


def estimands_norm():
    from causalnet.expr import norm

    return norm


@fault("numbers are printed to three digits", "language")
def short_numbers():
    with patch.object(Scale, "__str__", lambda self: f"scale({self.factor:.3g})"):
        yield tiny_model("gpt2")


@fault("intervals are too narrow", "coverage")
def narrow_intervals():
    from causalnet.effects import statistics

    honest = statistics.mean_interval
    narrow = lambda data, *, level, **more: honest(data, level=level - 0.1, **more)  # noqa: E731
    with patch.object(statistics, "mean_interval", narrow):
        yield None


FAULTS = tuple(one for one in list(globals().values()) if isinstance(one, Fault))


def able(law: str, model: Any) -> bool:
    return model is not None or LAWS[law].needs == "nothing"


def table(cases: int = CASES, few: int = FEW, laws: Sequence[str] = tuple(LAWS)) -> str:
    """Try laws on every fault and return the table in Markdown.

    Where a law need not catch a fault few cases are tried, so that an empty cell says little.
    """
    lines = ["| fault | " + " | ".join(f"`{name}`" for name in laws) + " |", "|---" * (len(laws) + 1) + "|"]
    for one in FAULTS:
        cells = []
        for law in laws:
            with one.plant() as model:
                possible = able(law, model)
            count = cases if law in one.caught_by else few
            cells.append("fails" if possible and not one.fails(law, count).holds else "")
        lines.append(f"| {one.words} | " + " | ".join(cells) + " |")
        print(one.words, file=sys.stderr, flush=True)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
