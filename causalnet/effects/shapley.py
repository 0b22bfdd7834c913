"""Who compensates, without a readout that is linear: Shapley values of the responders.

Players are the mediators of X, the final norm among them.  ``v(S)`` is the effect of the intervention when only
the players in S may respond and all others are held at their natural values, so ``v(∅)`` is the natural direct
effect and ``v(all)`` the total one.  The shares sum to TE − NDE in every unit, whatever the outcome.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from causalnet.effects.asking import Scm
from causalnet.effects.estimands import LOGIT
from causalnet.effects.places import Intervention, intervention
from causalnet.engine.plan import Reading
from causalnet.errors import ExpressionError, InputError, explain
from causalnet.expr import NATURAL, Assignment, Outcome, Site, World
from causalnet.graph import Node

__all__ = ["Game", "Shares", "Solver", "compensation_game", "compensation_shapley", "exact", "permutations"]

Solver = Callable[[Callable[[np.ndarray], np.ndarray], int], np.ndarray]
"""From ``value`` and the number of players to shares [unit, player] (or [player], for a single unit).

``value`` takes who may respond, 0 or 1 per player, and returns [unit]; for several coalitions
[coalition, player] at once it returns [coalition, unit], which is cheaper.
"""


@dataclass(frozen=True, eq=False)
class Game:
    """The compensation game of one intervention: its players and what each coalition is worth.

    Call it with a coalition [player] or several [coalition, player] of zeros and ones.

    Attributes
    ----------
    scm, outcome
        The model on its prompts, and Y.
    made
        The intervention, expanded.
    players
        The nodes of every player, by name.
    held
        Nodes that never respond.
    """

    scm: Scm
    outcome: Outcome
    made: Intervention
    players: Mapping[str, tuple[Node, ...]]
    held: tuple[Node, ...] = ()

    def world(self, mask: Sequence[int] | np.ndarray) -> World:
        """Return the world in which the players of a coalition respond and all others are natural."""
        still = [node for on, nodes in zip(mask, self.players.values(), strict=True) if not on for node in nodes]
        writes = [(Site(node, self.made.positions_of(node)), NATURAL) for node in (*self.held, *still)]
        return World((*self.made.world.writes, *writes))

    def values(self, masks: np.ndarray) -> np.ndarray:
        """Return the effect [coalition, prompt, draw] of the intervention for every coalition, in one plan."""
        natural = Reading(World(), self.outcome)
        readings = [Reading(self.world(mask), self.outcome) for mask in masks]
        found = self.scm.read(list(dict.fromkeys([natural, *readings])))
        widest = max(found[reading].shape[1] for reading in readings)
        return np.stack([np.broadcast_to(found[one] - found[natural], (len(found[one]), widest)) for one in readings])

    def __call__(self, mask: np.ndarray) -> np.ndarray:
        """Return what coalitions are worth, [unit] or [coalition, unit]."""
        masks = np.asarray(mask)
        found = self.values(np.atleast_2d(masks))
        flat = found.reshape(len(found), -1)
        return flat if masks.ndim == 2 else flat[0]


@dataclass(frozen=True, eq=False)
class Shares:
    """How much of the compensation each player carries.

    Attributes
    ----------
    players
        The nodes of every player, by name.
    values
        Shares [prompt, draw, player], in the outcome's units; positive where the outcome rises.
    standard_error
        Of each share over the sampled permutations; 0 where it is exact, NaN where a solver does not say.
    direct
        v(∅) [prompt, draw]: the natural direct effect.
    total
        v(all) [prompt, draw]: the total effect (with the norm held: DE + CE).
    method
        ``exact``, ``permutations`` or ``solver``.
    coalitions
        How many distinct coalitions were run.
    """

    players: Mapping[str, tuple[Node, ...]]
    values: np.ndarray
    standard_error: np.ndarray
    direct: np.ndarray
    total: np.ndarray
    method: str
    coalitions: int

    @property
    def residual(self) -> np.ndarray:
        """Σ shares − (v(all) − v(∅)) [prompt, draw]: rounding, or what a solver left out."""
        return self.values.sum(-1) - (self.total - self.direct)

    def mean(self) -> dict[str, float]:
        """Return the mean share of each player over prompts and draws."""
        means = np.nanmean(np.nanmean(self.values, axis=1), axis=0)
        return dict(zip(self.players, means.tolist(), strict=True))

    def __str__(self) -> str:
        lines = [
            f"{name:>16}  {share:+.4f}" for name, share in sorted(self.mean().items(), key=lambda one: -abs(one[1]))
        ]
        return "\n".join(
            [f"compensation by {len(self.players)} players ({self.method}), sum of shares = TE − NDE", *lines]
        )


def compensation_game(
    scm: Scm,
    *s: Assignment,
    outcome: Outcome = LOGIT,
    players: Mapping[str, Sequence[Node]] | None = None,
    norm: Literal["player", "held"] = "player",
) -> Game:
    """Set up the game whose Shapley values :func:`compensation_shapley` returns.

    Raises
    ------
    ExpressionError
        If the intervention cannot be meant.
    InputError
        If a player's node is no mediator, or belongs to two players.
    """
    made = intervention(scm.graph, s, outcome)
    mediators = made.responders
    held = tuple(node for node in mediators if node.kind == "norm") if norm == "held" else ()
    free = [node for node in mediators if node not in held]
    if players is None:
        chosen = {str(node): (node,) for node in free}
    else:
        chosen = {name: tuple(nodes) for name, nodes in players.items()}
        given = [node for nodes in chosen.values() for node in nodes]
        for node in given:
            if node not in free or given.count(node) > 1:
                what = f"{node} is no mediator of {made.world}" if node not in free else f"{node} is in two players"
                raise InputError(explain(what, legal=map(str, free), got=str(node)))
        if rest := tuple(node for node in free if node not in given):
            chosen["rest"] = rest
    if not chosen:
        raise ExpressionError(explain(f"nothing responds to {made.world}", mend="set an earlier node"))
    return Game(scm, outcome, made, chosen, held)


def compensation_shapley(
    scm: Scm,
    *s: Assignment,
    outcome: Outcome = LOGIT,
    players: Mapping[str, Sequence[Node]] | None = None,
    norm: Literal["player", "held"] = "player",
    exact_up_to: int = 10,
    samples: int = 64,
    seed: int = 0,
    solver: Solver | None = None,
) -> Shares:
    """Attribute TE − NDE to the nodes that respond.

    Parameters
    ----------
    scm
        The model on its prompts.
    s
        The intervention.
    outcome
        Any outcome, curved or not.
    players
        Groups of mediators by name, such as layers; mediators in none of them are one more player, ``rest``.
        Default: every mediator is a player of its own.
    norm
        ``player``: the final norm is one of the players (its share is not the NORM term).  ``held``: it keeps its
        natural value throughout, and the shares sum to CE.
    exact_up_to
        With so many players or fewer every coalition is run, 2ⁿ in one plan; with more, permutations are sampled.
    samples, seed
        How many permutations (the same for every unit), and their seed.
    solver
        Another solver; then ``exact_up_to``, ``samples`` and ``seed`` say nothing.

    Returns
    -------
    Shares

    Raises
    ------
    InputError
        If players are wrong, or a solver returns another shape.

    Notes
    -----
    A player is a node at every position from the intervention's on.

    References
    ----------
    Shapley (1953).  Castro, Gómez and Tejada, Polynomial calculation of the Shapley value based on sampling (2009).

    Examples
    --------
    >>> from causalnet.expr import attn, zero
    >>> from causalnet.testing.motifs import motif
    >>> found = compensation_shapley(motif("self_repair"), attn[0] << zero)
    >>> {name: float(share) + 0.0 for name, share in found.mean().items()}, found.method
    ({'mlp[0]': 2.0, 'norm': 0.0}, 'exact')
    """
    game = compensation_game(scm, *s, outcome=outcome, players=players, norm=norm)
    count = len(game.players)
    if solver is not None:
        known: dict[bytes, np.ndarray] = {}

        def value(mask: np.ndarray) -> np.ndarray:
            masks = np.atleast_2d(np.asarray(mask)).astype(bool)
            new = [one for one in np.unique(masks, axis=0) if one.tobytes() not in known]
            if new:
                known.update(zip((one.tobytes() for one in new), game(np.array(new)), strict=True))
            found = np.stack([known[one.tobytes()] for one in masks])
            return found if np.ndim(mask) == 2 else found[0]

        ends = game.values(np.array([[0] * count, [1] * count]))
        shares = _shaped(np.asarray(solver(value, count)), ends[0], count)
        unknown = np.full_like(shares, np.nan)
        return Shares(game.players, shares, unknown, ends[0], ends[1], "solver", len(known))
    find = exact if count <= exact_up_to else lambda one: permutations(one, samples=samples, seed=seed)
    return find(game)


def _shaped(shares: np.ndarray, direct: np.ndarray, players: int) -> np.ndarray:
    if shares.size != direct.size * players or shares.shape[-1:] != (players,):
        raise InputError(f"the solver returned shares of shape {shares.shape}; legal: ({direct.size}, {players})")
    return shares.reshape(*direct.shape, players)


def exact(game: Game) -> Shares:
    """Return exact Shapley values: every one of the 2ⁿ coalitions is run, all in one plan."""
    count = len(game.players)
    masks = np.array(list(itertools.product([0, 1], repeat=count)))
    worth = game.values(masks)  # [coalition, prompt, draw], the first player the highest bit
    sizes = masks.sum(1)
    weights = np.array(
        [1.0 / (count * math.comb(count - 1, size)) if size < count else 0.0 for size in range(count + 1)]
    )
    shares = []
    for player in range(count):
        without = np.flatnonzero(masks[:, player] == 0)
        gain = worth[without + (1 << (count - 1 - player))] - worth[without]
        shares.append(np.tensordot(weights[sizes[without]], gain, axes=1))
    values = np.stack(shares, -1)
    return Shares(game.players, values, np.zeros_like(values), worth[0], worth[-1], "exact", len(masks))


def permutations(game: Game, *, samples: int = 64, seed: int = 0) -> Shares:
    """Return Shapley values over sampled orders of the players, with the standard error of each share.

    The orders are the same for every unit; each order's gains sum to v(all) − v(∅), so the shares do as well.

    Raises
    ------
    InputError
        If fewer than two orders are asked for: their spread gives the error.
    """
    if samples < 2:
        raise InputError(f"{samples} sampled order{'s' * (samples != 1)}: at least 2 are needed for a standard error")
    count = len(game.players)
    rng = np.random.default_rng(seed)
    orders = np.array([rng.permutation(count) for _ in range(samples)])
    chains = np.zeros((samples, count + 1, count), dtype=np.int64)
    for step in range(count):
        chains[:, step + 1] = chains[:, step]
        chains[np.arange(samples), step + 1, orders[:, step]] = 1
    masks, where = np.unique(chains.reshape(-1, count), axis=0, return_inverse=True)
    worth = game.values(masks)
    along = worth[where.reshape(samples, count + 1)]  # [order, step, prompt, draw]
    gains = np.diff(along, axis=1)
    by_player = np.empty((samples, count, *worth.shape[1:]))
    by_player[np.arange(samples)[:, None], orders] = gains
    values = np.moveaxis(by_player.mean(0), 0, -1)
    error = np.moveaxis(by_player.std(0, ddof=1), 0, -1) / math.sqrt(samples)
    return Shares(game.players, values, error, along[0, 0], along[0, -1], "permutations", len(masks))
