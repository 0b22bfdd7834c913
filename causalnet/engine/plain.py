"""The plain executor: one full forward per prompt, draw and world, with hooks.  Slow and obvious.

This is the reference: everything the planner does is held against it.  It shares nothing with the planned
run but the hooks and the values that donors bring.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from causalnet.engine.inputs import Inputs, check, check_tokens
from causalnet.engine.plan import Plan, Reading, Write, draws_of
from causalnet.engine.sources import Sources, build_sources
from causalnet.errors import InterventionError
from causalnet.expr.outcomes import Along, Outcome, Target
from causalnet.expr.positions import indices
from causalnet.expr.values import InWorld
from causalnet.expr.values import Natural as NaturalValue
from causalnet.expr.world import NATURAL_WORLD, World, ground
from causalnet.graph import Node
from causalnet.model.mechanism import Layer, Mechanism, Mechanisms
from causalnet.model.probe import Hooks, hidden_of, hooked, with_hidden

__all__ = ["Forward", "full_forward", "run_plain"]


@dataclass(eq=False)
class Forward:
    """Every value of one full forward of one prompt: by node, [position, width] each."""

    logits: torch.Tensor
    values: dict[Node, torch.Tensor] = field(default_factory=dict)
    normed: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    sigma: torch.Tensor | None = None


def run_plain(mechanisms: Mechanisms, plan: Plan, inputs: Inputs, *, lookup: Any = None) -> dict[Reading, np.ndarray]:
    """Answer a plan's readings by full forwards; same arguments and results as :func:`causalnet.engine.run.run`."""
    out = {}
    for reading in plan.readings:
        out[reading] = np.full((len(inputs.ids), draws_of(reading.world, plan.draws)), np.nan)
    check(mechanisms, plan, inputs)
    check_tokens(mechanisms, plan.readings, inputs.targets, lookup)
    with torch.no_grad():
        sources = build_sources(mechanisms, plan, inputs)
        for prompt in range(len(inputs.ids)):
            for draw in range(plan.draws):
                if inputs.donors is not None and inputs.donors[prompt, draw] < 0:
                    continue
                done: dict[World, Forward] = {}
                for world in plan.worlds:
                    if draw == 0 or draws_of(world, plan.draws) > 1:
                        done[world] = full_forward(mechanisms, inputs, sources, world, prompt, draw, done)
                    else:
                        done[world] = full_forward(mechanisms, inputs, sources, world, prompt, 0, done)
                for reading, table in out.items():
                    table[prompt, draw if table.shape[1] > 1 else 0] = _read(
                        mechanisms, inputs, reading, done, prompt, lookup
                    )
    return out


def full_forward(
    mechanisms: Mechanisms,
    inputs: Inputs,
    sources: Sources,
    world: World,
    prompt: int,
    draw: int,
    done: dict[World, Forward],
) -> Forward:
    """Run one world of one prompt by a full forward with hooks; ``done`` holds the worlds that it reads."""
    forward = _Forward(mechanisms, inputs, sources, world, prompt, draw, done)
    return forward.run()


class _Forward:
    def __init__(
        self,
        mechanisms: Mechanisms,
        inputs: Inputs,
        sources: Sources,
        world: World,
        prompt: int,
        draw: int,
        done: dict[World, Forward],
    ) -> None:
        self.mechanisms, self.inputs, self.sources = mechanisms, inputs, sources
        self.prompt, self.draw, self.done = prompt, draw, done
        length = len(inputs.ids[prompt])
        self.table = ground(world, length, inputs.span(prompt), where=f"prompt {prompt}")
        self.written: set[tuple[Node, Node | None]] = set()
        self.out = Forward(torch.empty(0))
        self.stream: torch.Tensor = torch.empty(0)
        self.beside: dict[Node, torch.Tensor] = {}
        self.by_head: dict[Node, torch.Tensor] = {}
        self.heads_seen: torch.Tensor | None = None

    def run(self) -> Forward:
        mechanisms, readout = self.mechanisms, self.mechanisms.readout
        ids = torch.tensor([self.inputs.ids[self.prompt]], device=mechanisms.device)
        with hooked() as hooks:
            for layer in mechanisms.layers:
                self._hook_layer(hooks, layer)
            hooks.on_output(mechanisms.layers[-1].module, self._at_end)
            hooks.on_output(readout.norm.module, self._at_norm)
            self.out.logits = mechanisms.hf(input_ids=ids, use_cache=False).logits[0]
        missed = set(self.table) - self.written
        if missed:
            raise InterventionError(f"these writes never fired: {', '.join(str(node) for node, _ in missed)}")
        return self.out

    # -- writing ---------------------------------------------------------------------------------------

    def _apply(self, node: Node, value: torch.Tensor) -> torch.Tensor:
        """Return a node's value [position, width] after this world's writes of it."""
        row = self.table.get((node, None))
        if row is None:
            return value
        self.written.add((node, None))
        changed = value.clone()
        for column, (site, what) in row.items():
            changed[column] = self._value(node, site, what, column, value[column])
        return changed

    def _value(self, node: Node, site: Any, what: Any, column: int, current: torch.Tensor) -> torch.Tensor:
        if isinstance(what, NaturalValue):
            return self.done[NATURAL_WORLD].values[node][column]
        if isinstance(what, InWorld):
            return self.done[what.world].values[node][column]
        offset = indices(site.position, len(self.inputs.ids[self.prompt]), self.inputs.span(self.prompt)).index(column)
        write = Write(site, what, (column,), (offset,))
        got = self.sources.fetch(write, current.view(1, 1, 1, -1), [self.prompt], slice(self.draw, self.draw + 1))
        return got.reshape(-1)

    def _edge_shift(self, receiver: Node) -> torch.Tensor | None:
        """Return the sum over edges into ``receiver`` of v − a, [position, d_model], or None."""
        shift = None
        for (sender, target), row in self.table.items():
            if target != receiver or sender.kind == "norm":
                continue
            self.written.add((sender, target))
            own = self.out.values[sender]
            change = torch.zeros_like(own)
            for column, (site, what) in row.items():
                change[column] = self._value(sender, site, what, column, own[column]) - own[column]
            if sender.kind == "head":
                change = _projected(self.mechanisms.mechanism(sender), change, sender.head or 0)
            shift = change if shift is None else shift + change
        return shift

    # -- hooks -----------------------------------------------------------------------------------------

    def _hook_layer(self, hooks: Hooks, layer: Layer) -> None:
        def enter(hidden: torch.Tensor) -> torch.Tensor:
            value = hidden[0]
            if layer.index == 0:
                value = self._apply(Node("embed"), value)
                self.out.values[Node("embed")] = value
            value = self._apply(Node("resid", layer.index), value)
            self.out.values[Node("resid", layer.index)] = value
            self.stream = value
            return value.unsqueeze(0)

        hooks.on_input(layer.module, enter)
        for part in layer:
            self._hook_read(hooks, layer, part)
            if part.out is not None and part.node.kind == "attn":
                if part.module is not None:
                    hooks.on_call(part.module, self._each_head_reads(layer, part))
                hooks.on_input(part.out, self._heads_hook(layer, part))
                hooks.on_output(part.out, self._bias_hook(layer, part))
            for module, scale in part.also:
                hooks.on_output(module, self._beside_hook(part, scale))
            hooks.on_output(part.source, self._source_hook(layer, part))

    def _hook_read(self, hooks: Hooks, layer: Layer, part: Mechanism) -> None:
        """Replace what a mechanism reads by norm(r − a + v)."""

        def read(hidden: torch.Tensor) -> torch.Tensor | None:
            shift = self._edge_shift(part.node)
            if shift is None:
                return None
            # The stream that this mechanism reads, rebuilt from the contributions so far.
            attn = self.out.values.get(Node("attn", layer.index))
            sees_attn = part.node.kind == "mlp" and not layer.parallel and attn is not None
            stream = self.stream + attn if sees_attn else self.stream  # type: ignore[operator]
            changed = (stream + shift).unsqueeze(0)
            if at_norm or part.norm is None:
                return changed.view(hidden.shape)
            return part.norm.forward(changed).view(hidden.shape)

        at_norm = part.norm is not None and not part.norm_shared
        where = part.norm if at_norm else part.module
        if where is not None:
            hooks.on_input(where, read)

    def _each_head_reads(self, layer: Layer, part: Mechanism) -> Any:
        """Run the attention once for every head into which an edge is set; that head is what it computes there."""

        def read(args: tuple, kwargs: dict[str, Any]) -> None:
            assert part.module is not None
            hidden = hidden_of(args, kwargs)
            for head in range(part.heads or 0):
                node = Node("head", layer.index, head)
                shift = self._edge_shift(node)
                if shift is None:
                    continue
                changed = (self.stream + shift).unsqueeze(0)
                changed = changed if part.norm is None else part.norm.forward(changed)
                given, named = with_hidden(args, kwargs, changed.view(hidden.shape))
                self.heads_seen = torch.empty(0)
                part.module.forward(*given, **named)
                self.by_head[node] = self._slice(self.heads_seen, part, head)
                self.heads_seen = None

        return read

    def _slice(self, hidden: torch.Tensor, part: Mechanism, head: int) -> torch.Tensor:
        flat = hidden.reshape(-1, hidden.shape[-1])
        width = hidden.shape[-1] // (part.heads or 1)
        return flat[:, head * width : (head + 1) * width]

    def _heads_hook(self, layer: Layer, part: Mechanism) -> Any:
        def hook(hidden: torch.Tensor) -> torch.Tensor | None:
            if self.heads_seen is not None:
                self.heads_seen = hidden
                return None
            pieces = []
            for head in range(part.heads or 1):
                node = Node("head", layer.index, head)
                read = self.by_head.get(node)
                value = self._apply(node, self._slice(hidden, part, head) if read is None else read)
                self.out.values[node] = value
                pieces.append(value)
            return torch.cat(pieces, -1).view(hidden.shape)

        return hook

    def _bias_hook(self, layer: Layer, part: Mechanism) -> Any:
        node = Node("bias", layer.index)

        def hook(output: torch.Tensor) -> torch.Tensor | None:
            if self.heads_seen is not None:
                return None
            flat = output.reshape(-1, output.shape[-1])
            bias = getattr(part.out, "bias", None)
            own = torch.zeros_like(flat) if bias is None else (bias * part.scale).expand_as(flat)
            self.out.values[node] = self._apply(node, own)
            if self.out.values[node] is own:
                return None
            return (flat + (self.out.values[node] - own) / part.scale).view(output.shape)

        return hook

    def _beside_hook(self, part: Mechanism, scale: float) -> Any:
        def hook(output: torch.Tensor) -> None:
            flat = output.reshape(-1, output.shape[-1]) * scale
            self.beside[part.node] = flat if part.node not in self.beside else self.beside[part.node] + flat

        return hook

    def _source_hook(self, layer: Layer, part: Mechanism) -> Any:
        def hook(output: torch.Tensor) -> torch.Tensor | None:
            if self.heads_seen is not None:
                return None
            flat = output.reshape(-1, output.shape[-1])
            beside = self.beside.get(part.node)
            value = flat * part.scale if beside is None else flat * part.scale + beside
            new = self._apply(part.node, value)
            self.out.values[part.node] = new
            if new is value:
                return None
            return ((new if beside is None else new - beside) / part.scale).view(output.shape)

        return hook

    def _at_end(self, output: torch.Tensor) -> torch.Tensor | None:
        final = Node("resid", len(self.mechanisms.layers))
        value = self._apply(final, output[0])
        self.out.values[final] = value
        return None if value is output[0] else value.unsqueeze(0)

    def _at_norm(self, output: torch.Tensor) -> torch.Tensor | None:
        """Rewrite the final norm: edges into logits and norm, and the norm's own scale."""
        norm = self.mechanisms.readout.norm
        z = self.out.values.get(Node("resid", len(self.mechanisms.layers)))
        if z is None:
            return None  # a norm without weights may serve the embeddings as well
        for_norm, own = self._edge_shift(Node("norm")), self._edge_shift(Node("logits"))
        scale = norm.sigma(z if for_norm is None else z + for_norm)
        scale = self._apply(Node("norm"), scale.unsqueeze(-1))
        self.out.values[Node("norm")] = scale
        self.out.normed = output.view(len(z), -1)
        if for_norm is None and own is None and not any(sender.kind == "norm" for sender, _ in self.table):
            return None
        # The edge norm -> logits: the logits read another scale than the norm has.
        for column, (site, what) in self.table.get((Node("norm"), Node("logits")), {}).items():
            self.written.add((Node("norm"), Node("logits")))
            scale = scale.clone()
            scale[column] = self._value(Node("norm"), site, what, column, scale[column])
        scale = scale[:, 0]
        wide = scale.dtype
        value = norm.centre((z if own is None else z + own).to(wide)) / scale.unsqueeze(-1)
        self.out.normed = (value * norm.gain.to(wide) + norm.bias.to(wide)).to(output.dtype)
        return self.out.normed.view(output.shape)


def _projected(part: Mechanism, value: torch.Tensor, head: int) -> torch.Tensor:
    """Return the contribution [..., d_model] of a head's value [..., head_dim], by the projection itself."""
    assert part.out is not None
    width = value.shape[-1]
    padded = value.new_zeros((*value.shape[:-1], (part.heads or 1) * width))
    padded[..., head * width : (head + 1) * width] = value
    bias = getattr(part.out, "bias", None)
    return (part.out.forward(padded) - (0 if bias is None else bias)) * part.scale


def _token(mechanisms: Mechanisms, inputs: Inputs, token: Any, natural: torch.Tensor, prompt: int, lookup: Any) -> int:
    if isinstance(token, Target):
        if inputs.targets is not None:
            return inputs.targets[prompt]
        return int(natural.argmax())
    return lookup(token) if isinstance(token, str) else int(token)


def _read(
    mechanisms: Mechanisms, inputs: Inputs, reading: Reading, done: dict[World, Forward], prompt: int, lookup: Any
) -> float:
    """Read an outcome off the model's own logits (``direct`` off the contributions)."""
    outcome, forward, natural = reading.outcome, done[reading.world], done[NATURAL_WORLD]
    length = len(inputs.ids[prompt])
    column = indices(outcome.position, length, inputs.span(prompt))[0]
    base = natural.logits[column]
    for one in outcome.tokens:
        if isinstance(one, Along):
            return _projection(mechanisms, reading, forward, natural, lookup.vectors[one.name], column)
    tokens = [_token(mechanisms, inputs, token, base, prompt, lookup) for token in outcome.tokens]
    if outcome.name == "direct":
        return _direct(mechanisms, reading.nodes, forward, natural, tokens[0], column)
    if outcome.name == "sigma":
        return float(forward.values[Node("norm")][column, 0])
    wide = torch.promote_types(base.dtype, torch.float32)
    return _curved(outcome, forward.logits[column].to(wide), base.to(wide), tokens, mechanisms)


def _projection(
    mechanisms: Mechanisms, reading: Reading, forward: Forward, natural: Forward, vector: torch.Tensor, column: int
) -> float:
    """Read the final norm's output along a vector; of ``direct``, what the nodes add to it at the natural scale."""
    norm = mechanisms.readout.norm
    unit = (vector / vector.norm()).to(norm.gain.dtype)
    if reading.outcome.name != "direct":
        return float((forward.normed[column].to(unit.dtype) * unit).sum())
    total = 0.0
    for node in reading.nodes:
        value = forward.values[node][column]
        if node.kind == "head":
            value = _projected(mechanisms.mechanism(node), value.unsqueeze(0), node.head or 0)[0]
        scaled = norm.centre(value.to(unit.dtype)) / natural.values[Node("norm")][column, 0] * norm.gain
        total += float((scaled * unit).sum())
    return total


def _direct(
    mechanisms: Mechanisms, nodes: Sequence[Node], forward: Forward, natural: Forward, token: int, column: int
) -> float:
    readout = mechanisms.readout
    directions = readout.directions(torch.tensor([token], device=readout.weight.device))
    sigma = natural.values[Node("norm")][column, 0]
    total = 0.0
    for node in nodes:
        value = forward.values[node][column]
        if node.kind == "head":
            value = _projected(mechanisms.mechanism(node), value.unsqueeze(0), node.head or 0)[0]
        total += float((value.to(directions.weight.dtype) * directions.weight[0]).sum() / sigma)
    return total


def _curved(
    outcome: Outcome, logits: torch.Tensor, natural: torch.Tensor, tokens: list[int], mechanisms: Mechanisms
) -> float:
    if logits.isnan().any():
        return float("nan")
    log_p = logits.log_softmax(-1)
    match outcome.name:
        case "logit":
            return float(logits[tokens[0]] - logits.mean())
        case "precap_logit":
            cap = mechanisms.readout.softcap
            raw = logits if cap is None else torch.atanh(logits / cap) * cap
            return float(raw[tokens[0]] - raw.mean())
        case "logit_diff":
            return float(logits[tokens[0]] - logits[tokens[1]])
        case "logprob":
            return float(log_p[tokens[0]])
        case "prob":
            return float(log_p[tokens[0]].exp())
        case "rank":
            return float((logits > logits[tokens[0]]).sum())
        case "top1":
            return float((logits > logits[tokens[0]]).sum() == 0)
        case "entropy":
            return float(-(log_p.exp() * log_p).sum())
        case "kl":
            base = natural.log_softmax(-1)
            return float((base.exp() * (base - log_p)).sum())
    raise InterventionError(f"the plain executor does not read {outcome.name}")
