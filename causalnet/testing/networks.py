"""Structural causal models with any mechanisms, and the obvious way to run a world on them.

A :class:`Network` is a second implementation of ``do``: no plan, no cache, no transformer.  Every node is
computed in order from the values of its parents; a set node is not computed; a set edge hands its receiver
another value.  Values may be real, or whole numbers modulo a prime, where nothing rounds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from causalnet.engine.plan import Reading, draws_of
from causalnet.errors import InputError, InterventionError, UnknownNameError, explain
from causalnet.expr.outcomes import Outcome, Target, Token
from causalnet.expr.positions import indices
from causalnet.expr.values import (
    Add,
    Given,
    InWorld,
    Mean,
    Natural,
    Patch,
    ProjectOut,
    Resample,
    Scale,
    SiteValue,
    Zero,
)
from causalnet.expr.world import NATURAL_WORLD, Site, World, ground
from causalnet.graph import CausalGraph, Node

__all__ = ["Mechanism", "Network", "Values"]

Values = Mapping[Node, np.ndarray]
"""Value [position, width] of every node in one world of one unit."""

Mechanism = Callable[[Values, np.ndarray], np.ndarray]
"""From the values that a node reads, by parent, and the prompt [position, …] to the node's value [position, width]."""

Curve = Callable[[np.ndarray, np.ndarray, Sequence[int]], float]
"""From logits [vocab], natural logits [vocab] and token ids to an outcome."""


@dataclass(frozen=True, eq=False)
class Network:
    """A causal graph, a mechanism for every node, and the units that it is run on.

    Parameters
    ----------
    graph
        The graph, without positions and without ``resid``.
    mechanisms
        How each node is computed.  ``norm`` has width 1, ``logits`` one entry per token.
    prompts
        Exogenous input of each prompt, [position, …].
    donors
        Each prompt's donors [prompt, draw] among the prompts, -1 where there are fewer; None: no draws.
    spans
        Named spans of each prompt as half-open indices.
    targets
        Target token of each prompt; None: the natural world's most likely one.
    pairs
        Paired prompts by name, for ``patch("name")``.
    vectors
        Vectors [width] by name, for ``value``, ``add`` and ``project_out``.
    modulus
        A prime: values are whole numbers modulo it.  None: values are real.
    curves
        More outcomes, or others in place of the usual ones, by name.

    Examples
    --------
    >>> from causalnet.effects.asking import answer
    >>> from causalnet.expr import TE, attn, zero
    >>> from causalnet.testing.motifs import motif
    >>> answer(motif("load_bearing"), [TE(attn[0] << zero)])[0].tolist()
    [[-1.0], [-2.0], [-3.0]]
    """

    graph: CausalGraph
    mechanisms: Mapping[Node, Mechanism]
    prompts: Sequence[np.ndarray]
    donors: np.ndarray | None = None
    spans: Sequence[Mapping[str, tuple[int, int]]] = ()
    targets: Sequence[int] | None = None
    pairs: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    vectors: Mapping[str, np.ndarray] = field(default_factory=dict)
    modulus: int | None = None
    curves: Mapping[str, Curve] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [str(node) for node in self.graph.nodes if node not in self.mechanisms]
        if missing:
            raise InputError(explain(f"{missing[0]} has no mechanism", mend="give one for every node of the graph"))

    @property
    def draws(self) -> int:
        """Donors per prompt."""
        return 1 if self.donors is None else self.donors.shape[1]

    def read(self, readings: Sequence[Reading]) -> dict[Reading, np.ndarray]:
        """Return each reading's values [prompt, draw]; one column where its world draws nothing.

        Raises
        ------
        InputError
            If a value or an outcome has no meaning here (noise, or a curve modulo a prime).
        InterventionError
            If a world sets a node that the network does not have.
        """
        out = {one: np.full((len(self.prompts), draws_of(one.world, self.draws)), np.nan) for one in readings}
        for prompt in range(len(self.prompts)):
            fixed: dict[World, dict[Node, np.ndarray]] = {}
            for draw in range(self.draws):
                if self.donors is not None and self.donors[prompt, draw] < 0:
                    continue
                # Worlds without draws are computed once; the others anew for each donor.
                done = {world: found for world, found in fixed.items() if draws_of(world, self.draws) == 1}
                for reading, table in out.items():
                    column = draw if table.shape[1] > 1 else 0
                    table[prompt, column] = self._outcome(reading, prompt, draw, done)
                fixed = done
        return out

    def values(
        self, world: World = NATURAL_WORLD, prompt: int = 0, draw: int = 0, done: dict | None = None
    ) -> dict[Node, np.ndarray]:
        """Return the value [position, width] of every node in a world; ``done`` remembers worlds of this unit."""
        done = {} if done is None else done
        if world not in done:
            done[world] = self._run(self.prompts[prompt], world, prompt, draw, done)
        return done[world]

    # -- running a world -------------------------------------------------------------------------------

    def _run(self, given: np.ndarray, world: World, prompt: int, draw: int, done: dict) -> dict[Node, np.ndarray]:
        table = ground(world, len(given), self._span(prompt), where=f"prompt {prompt}")
        for node, receiver in table:
            if node not in self.graph or (receiver is not None and not self.graph.has_edge(node, receiver)):
                raise InterventionError(f"the network has no {node if receiver is None else f'{node} -> {receiver}'}")
        values: dict[Node, np.ndarray] = {}

        def written(value: np.ndarray, key: tuple[Node, Node | None]) -> np.ndarray:
            if key not in table:
                return value
            changed = value.copy()
            for column, (site, what) in table[key].items():
                changed[column] = self._value(site, what, column, value[column], prompt, draw, done)
            return self._reduced(changed)

        for node in self.graph.nodes:
            read = {other: written(values[other], (other, node)) for other in self.graph.parents(node)}
            values[node] = written(self.mechanisms[node](read, given), (node, None))
        return values

    def _value(
        self, site: Site, what: SiteValue, column: int, current: np.ndarray, prompt: int, draw: int, done: dict
    ) -> np.ndarray:
        """Return what a write puts at one position in place of ``current`` [width]."""
        node = site.node
        match what:
            case Zero():
                return np.zeros_like(current)
            case Natural():
                return self.values(NATURAL_WORLD, prompt, draw, done)[node][column]
            case InWorld():
                return self.values(what.world, prompt, draw, done)[node][column]
            case Resample():
                assert self.donors is not None, "draws come from donors"
                donor = int(self.donors[prompt, draw])
                return self._other(site, column, prompt, self.prompts[donor], self._span(donor))
            case Patch():
                if what.name not in self.pairs:
                    raise UnknownNameError(explain(f"no paired prompts named {what.name!r}", legal=self.pairs))
                return self._other(site, column, prompt, self.pairs[what.name][prompt], self._span(prompt))
            case Mean():
                return self._mean(site, column, prompt)
            case Scale():
                return current * self._number(what.factor)
            case Given() | Add() | ProjectOut():
                return self._with_vector(what, current)
        raise InputError(f"{site} = {what}: a network of this kind has no such value")

    def _other(
        self, site: Site, column: int, prompt: int, given: np.ndarray, spans: Mapping[str, tuple[int, int]]
    ) -> np.ndarray:
        """Return the node's natural value on another prompt, at the same position label."""
        place = indices(site.position, len(self.prompts[prompt]), self._span(prompt)).index(column)
        natural = self._run(given, NATURAL_WORLD, 0, 0, {})
        return natural[site.node][indices(site.position, len(given), spans)[place]]

    def _mean(self, site: Site, column: int, prompt: int) -> np.ndarray:
        place = indices(site.position, len(self.prompts[prompt]), self._span(prompt)).index(column)
        found = []
        for other, given in enumerate(self.prompts):
            at = indices(site.position, len(given), self._span(other))
            if place < len(at):
                found.append(self.values(NATURAL_WORLD, other)[site.node][at[place]])
        if self.modulus is None:
            return np.mean(found, axis=0)
        return np.sum(found, axis=0) % self.modulus * pow(len(found), -1, self.modulus)

    def _with_vector(self, what: Given | Add | ProjectOut, current: np.ndarray) -> np.ndarray:
        if what.name not in self.vectors:
            raise UnknownNameError(explain(f"no vector named {what.name!r}", legal=self.vectors, got=what.name))
        vector = self.vectors[what.name]
        if isinstance(what, Given):
            return vector
        if isinstance(what, Add):
            return current + self._number(what.factor) * vector
        if self.modulus is not None:
            raise InputError("project_out divides by a length, which a number modulo a prime has not")
        return current - vector * (current @ vector) / (vector @ vector)

    def _number(self, factor: float) -> float | int:
        if self.modulus is None:
            return factor
        if factor != int(factor):
            raise InputError(f"{factor} is no whole number, and values are whole numbers modulo {self.modulus}")
        return int(factor) % self.modulus

    def _reduced(self, value: np.ndarray) -> np.ndarray:
        return value if self.modulus is None else value % self.modulus

    def _span(self, prompt: int) -> Mapping[str, tuple[int, int]]:
        return self.spans[prompt] if self.spans else {}

    # -- reading ---------------------------------------------------------------------------------------

    def _outcome(self, reading: Reading, prompt: int, draw: int, done: dict) -> float:
        outcome = reading.outcome
        values, natural = (self.values(world, prompt, draw, done) for world in (reading.world, NATURAL_WORLD))
        at = indices(outcome.position, len(self.prompts[prompt]), self._span(prompt))[0]
        if outcome.name == "sigma":
            return float(values[Node("norm")][at, 0])
        own, base = values[Node("logits")][at], natural[Node("logits")][at]
        tokens = [self._token(token, base, prompt) for token in outcome.tokens]
        if outcome.name == "direct":
            return self._direct(reading, values, natural, prompt, tokens, at)
        return (
            self.contrast(own, tokens)
            if outcome.name not in self._curves(outcome)
            else float(self._curves(outcome)[outcome.name](own, base, tokens))
        )

    def contrast(self, logits: np.ndarray, tokens: Sequence[int]) -> float:
        """Return a logit [vocab] centred over the vocabulary, or the difference of two."""
        if len(tokens) == 2:
            return float(self._reduced(logits[tokens[0]] - logits[tokens[1]]))
        if self.modulus is None:
            return float(logits[tokens[0]] - logits.mean())
        mean = int(logits.sum()) * pow(len(logits), -1, self.modulus)
        return float((int(logits[tokens[0]]) - mean) % self.modulus)

    def _token(self, token: Token, natural: np.ndarray, prompt: int) -> int:
        if isinstance(token, Target):
            return int(natural.argmax()) if self.targets is None else self.targets[prompt]
        if not isinstance(token, int):
            raise InputError(f"{token!r} is no number of a token, and a network reads nothing else")
        return token

    def _direct(
        self, reading: Reading, values: Values, natural: Values, prompt: int, tokens: Sequence[int], at: int
    ) -> float:
        """Return what some nodes add to the target's logit at the natural norm, the readout being linear there."""
        node = Node("logits")
        nothing = {
            other: natural[other] if other.kind == "norm" else np.zeros_like(natural[other])
            for other in self.graph.parents(node)
        }
        some = {**nothing, **{other: values[other] for other in reading.nodes}}
        read = [self.mechanisms[node](parts, self.prompts[prompt])[at] for parts in (some, nothing)]
        return self.contrast(self._reduced(read[0] - read[1]), tokens)

    def _curves(self, outcome: Outcome) -> Mapping[str, Curve]:
        if self.modulus is None:
            return {**_CURVES, **self.curves}
        if outcome.name not in self.curves and outcome.name not in ("logit", "precap_logit", "logit_diff"):
            raise InputError(f"{outcome} is curved, and a number modulo {self.modulus} has no logarithm")
        return self.curves


def _log_p(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def _kl(logits: np.ndarray, natural: np.ndarray, tokens: Sequence[int]) -> float:
    own = _log_p(natural)
    return float((np.exp(own) * (own - _log_p(logits))).sum())


_CURVES: Mapping[str, Curve] = {
    "logprob": lambda logits, natural, tokens: _log_p(logits)[tokens[0]],
    "prob": lambda logits, natural, tokens: np.exp(_log_p(logits)[tokens[0]]),
    "rank": lambda logits, natural, tokens: (logits > logits[tokens[0]]).sum(),
    "top1": lambda logits, natural, tokens: not (logits > logits[tokens[0]]).any(),
    "entropy": lambda logits, natural, tokens: -(np.exp(_log_p(logits)) * _log_p(logits)).sum(),
    "kl": _kl,
}
