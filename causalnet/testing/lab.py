"""What laws are tried on: a compiled model on random tokens, or a network, every value of every world in view.

Worlds are run by the plain executor, one full forward each: there a law can fail, while a planned run leaves
out what the graph says cannot change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.errors import InputError, explain
from causalnet.expr.positions import At, Position, Range
from causalnet.expr.values import SiteValue
from causalnet.expr.world import NATURAL_WORLD, Site, World
from causalnet.graph import CausalGraph, Node
from causalnet.testing.networks import Network
from causalnet.testing.strategies.worlds import Offer

if TYPE_CHECKING:
    from causalnet.effects.asking import Scm
    from causalnet.engine.inputs import Inputs
    from causalnet.engine.plan import Reading
    from causalnet.model.mechanism import Mechanisms

__all__ = ["Lab", "ModelLab", "NetworkLab", "Unit", "Values", "columns", "lab_of", "written"]

Values = Mapping[Node, np.ndarray]
"""Value [position, width] of every node in one world of one unit; ``logits`` among them."""

SHORTEST, _LONGEST = 5, 9
"""Lengths of drawn prompts; positions of drawn interventions need five tokens, windows of small models are six."""

_KEPT = 24
"""Natural runs that are kept: with all their values, those of a large model take room."""


@dataclass(frozen=True, slots=True)
class Unit:
    """The exogenous part of a case, small enough to be shrunk and to be written down.

    Parameters
    ----------
    length
        Tokens of the first prompts; the others have one more.
    seed
        Of tokens, paired prompts and vectors.
    mixed
        Whether each prompt has a donor of another length besides one of its own.
    """

    length: int = SHORTEST
    seed: int = 0
    mixed: bool = False


def columns(position: Position | None, length: int, spans: Mapping[str, tuple[int, int]]) -> list[int]:
    """Return the token indices of a position; written apart from the engine's, which laws are to hold to account.

    Examples
    --------
    >>> columns(At(-2), 5, {}), columns(Range(1, -1), 5, {})
    ([3], [1, 2, 3])
    """
    if position is None:
        return list(range(length))
    if isinstance(position, At):
        return [range(length)[position.index]]
    if isinstance(position, Range):
        return list(range(length))[position.start : position.stop]
    return list(range(*spans[position.name]))


def written(
    world: World, length: int, spans: Mapping[str, tuple[int, int]]
) -> dict[tuple[Node, Node | None, int], tuple[Site, SiteValue]]:
    """Return which write holds at each place (node, receiver, token index): a named position beats every position."""
    found: dict[tuple[Node, Node | None, int], tuple[Site, SiteValue]] = {}
    for named in (False, True):
        for site, value in world.writes:
            if (site.position is not None) == named:
                for column in columns(site.position, length, spans):
                    found[site.node, site.receiver, column] = (site, value)
    return found


@dataclass(eq=False)
class ModelLab:
    """A compiled model on random tokens.

    Parameters
    ----------
    mechanisms
        The model.

    Examples
    --------
    >>> from causalnet.model.compile import compile_model
    >>> from causalnet.model.small import small_model
    >>> lab = ModelLab(compile_model(small_model("gpt2")))
    >>> (natural,) = lab.values(Unit(), NATURAL_WORLD)
    >>> natural[Node("attn", 0)].shape, natural[Node("norm")].shape
    ((5, 64), (5, 1))
    """

    mechanisms: "Mechanisms"
    _inputs: dict[Unit, "Inputs"] = field(default_factory=dict, repr=False)
    _natural: dict[tuple[Unit, str, int], Any] = field(default_factory=dict, repr=False)
    _streams: dict[tuple[Unit, int], np.ndarray] = field(default_factory=dict, repr=False)
    exact = False

    def __post_init__(self) -> None:
        if self.longest < SHORTEST:
            what = f"the model takes {self.longest} tokens, and laws need prompts of {SHORTEST}"
            raise InputError(explain(what, where=self.name))

    @property
    def name(self) -> str:
        """The model's name."""
        return self.mechanisms.name

    @property
    def graph(self) -> CausalGraph:
        """The model's graph."""
        return self.mechanisms.graph

    @property
    def longest(self) -> int:
        """Length of the longest prompts that are drawn: those of one token more must fit as well."""
        context = self.mechanisms.context
        return _LONGEST if context is None else min(_LONGEST, context - 1)

    @property
    def offer(self) -> Offer:
        """What interventions can take values from."""
        return Offer(tokens=self.mechanisms.readout.weight.shape[0])

    @cached_property
    def tolerance(self) -> float:
        """Relative rounding that the model's dtype explains."""
        from causalnet.model.check import tolerance_of
        from causalnet.model.observe import random_ids

        return tolerance_of(self.mechanisms, random_ids(self.mechanisms, prompts=2, tokens=7, seed=0))

    @cached_property
    def _size(self) -> float:
        """Root mean square of the residual stream: the size of vectors that are set."""
        from causalnet.model.observe import observe, random_ids

        streams = observe(self.mechanisms, random_ids(self.mechanisms, prompts=2, tokens=7, seed=0)).streams
        return float(streams[len(streams) // 2].double().square().mean().sqrt())

    def inputs(self, unit: Unit) -> "Inputs":
        """Return four prompts of two lengths with donors, paired prompts, a span and a vector."""
        if unit not in self._inputs:
            self._inputs[unit] = self._made(unit)
        return self._inputs[unit]

    def _made(self, unit: Unit) -> "Inputs":
        import torch

        from causalnet.engine.inputs import Inputs

        rng = np.random.default_rng([unit.seed, unit.length])
        vocab = min(self.mechanisms.vocab, self.offer.tokens)
        lengths = (unit.length, unit.length, unit.length + 1, unit.length + 1)

        def ids() -> tuple[tuple[int, ...], ...]:
            return tuple(tuple(int(token) for token in rng.integers(0, vocab, length)) for length in lengths)

        spans = ({"subject": (1, 3)},) * 4
        donors = np.array([[1, 2], [0, 3], [3, 0], [2, 1]])
        vector = rng.normal(size=self.mechanisms.width) * self._size
        return Inputs(
            ids(),
            spans=spans,
            donors=donors if unit.mixed else donors[:, :1],
            pairs={"corrupt": Inputs(ids(), spans=spans)},
            vectors={"direction": torch.as_tensor(vector)},
            seed=unit.seed,
        )

    def spans(self, unit: Unit, prompt: int = 0) -> Mapping[str, tuple[int, int]]:
        """Return the named spans of a prompt."""
        return self.inputs(unit).span(prompt)

    def length(self, unit: Unit, prompt: int = 0) -> int:
        """Return the number of tokens of a prompt."""
        return len(self.inputs(unit).ids[prompt])

    def tokens(self, unit: Unit, prompt: int = 0) -> tuple[int, ...]:
        """Return the token ids of a prompt."""
        return self.inputs(unit).ids[prompt]

    def scm(self, unit: Unit) -> "Scm":
        """Return the model on the unit's prompts, for queries; it answers by planned runs."""
        from causalnet.effects.asking import PromptedModel

        return PromptedModel(self.mechanisms, self.inputs(unit))

    def values(self, unit: Unit, *worlds: World, prompt: int = 0, draw: int = 0) -> list[Values]:
        """Run worlds of one prompt and one donor by plain full forwards; return every node's value in each."""
        return self._values(unit, "", self.inputs(unit), worlds, prompt, draw)

    def elsewhere(self, unit: Unit, which: str, prompt: int) -> Values:
        """Return the natural values of a paired prompt."""
        return self._values(unit, which, self.inputs(unit).pairs[which], (NATURAL_WORLD,), prompt, 0)[0]

    def _values(
        self, unit: Unit, which: str, inputs: "Inputs", worlds: Sequence[World], prompt: int, draw: int
    ) -> list[Values]:
        import torch

        from causalnet.engine import plain, plan, sources
        from causalnet.engine.inputs import check

        planned = plan.plan(self.graph, worlds, (), inputs.shape, draws=inputs.count)
        check(self.mechanisms, planned, inputs)
        done = {}
        with torch.no_grad():
            made = sources.build_sources(self.mechanisms, planned, inputs)
            for world in planned.worlds:
                if world == NATURAL_WORLD and (unit, which, prompt) in self._natural:
                    done[world] = self._natural[unit, which, prompt]
                    continue
                done[world] = plain.full_forward(self.mechanisms, inputs, made, world, prompt, draw, done)
        self._natural[unit, which, prompt] = done[NATURAL_WORLD]
        if len(self._natural) > _KEPT:
            del self._natural[next(iter(self._natural))]
        return [_arrays(done[world]) for world in worlds]

    def read(self, unit: Unit, readings: Sequence["Reading"], *, memory: int | None = None) -> Mapping:
        """Read outcomes [prompt, draw] by a planned run."""
        from causalnet.engine import run

        return run.run(self.mechanisms, self._planned(unit, readings), self.inputs(unit), memory=memory).values

    def read_plainly(self, unit: Unit, readings: Sequence["Reading"]) -> Mapping:
        """Read outcomes [prompt, draw] by plain full forwards."""
        from causalnet.engine import plain

        return plain.run_plain(self.mechanisms, self._planned(unit, readings), self.inputs(unit))

    def _planned(self, unit: Unit, readings: Sequence["Reading"]) -> Any:
        from causalnet.engine import plan

        inputs = self.inputs(unit)
        worlds = [reading.world for reading in readings]
        return plan.plan(self.graph, worlds, list(readings), inputs.shape, draws=inputs.count)

    def untouched(self, unit: Unit, prompt: int = 0) -> np.ndarray:
        """Return the logits [position, vocab] of the model itself, with nothing of causalnet in between."""
        import torch

        ids = torch.tensor([self.tokens(unit, prompt)], device=self.mechanisms.device)
        with torch.no_grad():
            return _array(self.mechanisms.hf(input_ids=ids, use_cache=False).logits[0])

    def _stream(self, unit: Unit, prompt: int) -> np.ndarray:
        """Return the size [position] of the natural residual stream, its largest over layers."""
        if (unit, prompt) not in self._streams:
            (natural,) = self.values(unit, NATURAL_WORLD, prompt=prompt)
            sizes = [np.abs(value).max(-1) for key, value in natural.items() if key.kind == "resid"]
            self._streams[unit, prompt] = np.max(sizes, axis=0)
        return self._streams[unit, prompt]

    def gap(self, unit: Unit, node: Node, one: np.ndarray, other: np.ndarray, prompt: int = 0) -> np.ndarray:
        """Return how far two values [position, width] of a node are apart, [position], relative to their size.

        Contributions are measured against the residual stream that they are added to, which is what they round in.
        """
        if np.array_equal(one, other):
            return np.zeros(len(one))
        scale = np.maximum(np.abs(one).max(-1), np.abs(other).max(-1))
        if node.contributes and node.kind != "head":
            scale = np.maximum(scale, self._stream(unit, prompt))
        found = np.abs(one - other).max(-1) / np.maximum(scale, 1e-30)
        return np.where(np.isnan(found), np.inf, found)


def _array(tensor: Any) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()


def _arrays(forward: Any) -> Values:
    found = {node: _array(value) for node, value in forward.values.items()}
    return found | {Node("logits"): _array(forward.logits)}


@dataclass(eq=False)
class NetworkLab:
    """A network: the same questions, and no rounding where its numbers are whole.

    Parameters
    ----------
    network
        The network; its prompts have five positions or more.
    """

    network: Network
    _natural: dict[int, Values] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if min(len(one) for one in self.network.prompts) < SHORTEST:
            raise InputError(explain(f"laws need prompts of {SHORTEST} positions", where=self.name))

    @property
    def name(self) -> str:
        """Name of the network's graph."""
        return self.network.graph.name or "network"

    @property
    def graph(self) -> CausalGraph:
        """The network's graph."""
        return self.network.graph

    @property
    def exact(self) -> bool:
        """Whether nothing rounds."""
        return self.network.modulus is not None

    @property
    def tolerance(self) -> float:
        """Relative rounding that is allowed."""
        return 0.0 if self.exact else 1e-9

    @property
    def longest(self) -> int:
        """Networks have their own prompts, so no lengths are drawn."""
        return SHORTEST

    @cached_property
    def offer(self) -> Offer:
        """What interventions can take values from."""
        network = self.network
        tokens = self.values(Unit(), NATURAL_WORLD)[0][Node("logits")].shape[-1]
        names = tuple(network.pairs), tuple(network.vectors)
        return Offer(*names, bool(network.spans), False, self.exact, not self.exact, tokens, noise=False)

    def spans(self, unit: Unit, prompt: int = 0) -> Mapping[str, tuple[int, int]]:
        """Return the named spans of a prompt."""
        return self.network.spans[prompt] if self.network.spans else {}

    def length(self, unit: Unit, prompt: int = 0) -> int:
        """Return the number of positions of a prompt."""
        return len(self.network.prompts[prompt])

    def tokens(self, unit: Unit, prompt: int = 0) -> tuple[int, ...]:
        """Return a prompt's whole numbers."""
        return tuple(int(token) for token in np.ravel(self.network.prompts[prompt]))

    def scm(self, unit: Unit) -> "Scm":
        """Return the network."""
        return self.network

    def values(self, unit: Unit, *worlds: World, prompt: int = 0, draw: int = 0) -> list[Values]:
        """Run worlds of one prompt and one donor; return every node's value in each."""
        done: dict = {NATURAL_WORLD: self._natural[prompt]} if prompt in self._natural else {}
        found: list[Values] = [self.network.values(world, prompt, draw, done) for world in worlds]
        self._natural[prompt] = self.network.values(NATURAL_WORLD, prompt, draw, done)
        return found

    def elsewhere(self, unit: Unit, which: str, prompt: int) -> Values:
        """Return the natural values of a paired prompt."""
        pairs = replace(self.network, prompts=self.network.pairs[which])
        return pairs.values(NATURAL_WORLD, prompt)

    def untouched(self, unit: Unit, prompt: int = 0) -> np.ndarray:
        """Return the logits [position, vocab], the mechanisms called in order."""
        found: dict[Node, np.ndarray] = {}
        for node in self.graph.nodes:
            read = {other: found[other] for other in self.graph.parents(node)}
            found[node] = self.network.mechanisms[node](read, self.network.prompts[prompt])
        return found[Node("logits")]

    def gap(self, unit: Unit, node: Node, one: np.ndarray, other: np.ndarray, prompt: int = 0) -> np.ndarray:
        """Return how far two values [position, width] are apart, [position]; modulo a prime, 1 where they differ."""
        if self.exact:
            return (one != other).any(-1).astype(float)
        scale = np.maximum(np.maximum(np.abs(one).max(-1), np.abs(other).max(-1)), 1.0)
        return np.abs(one - other).max(-1) / scale


Lab = ModelLab | NetworkLab


def lab_of(model: Any) -> Lab:
    """Return what laws are tried on: of a model, compiled mechanisms, or a network.

    Raises
    ------
    InputError
        If it is none of these, or takes prompts that are too short.

    Examples
    --------
    >>> from causalnet.testing.finite import field_network
    >>> lab_of(field_network(length=5)).exact
    True
    """
    if isinstance(model, ModelLab | NetworkLab):
        return model
    if isinstance(model, Network):
        return NetworkLab(model)
    mechanisms = getattr(model, "mechanisms", model)
    if not hasattr(mechanisms, "readout"):
        what = f"laws are tried on a compiled model or a network, not on {type(model).__name__}"
        raise InputError(explain(what, mend="give causalnet.compile(model)"))
    return ModelLab(mechanisms)
