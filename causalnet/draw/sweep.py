"""A sweep's data set, reduced to what pictures need: means over donors, one row per prompt."""

import functools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from causalnet.effects.parts import blocks
from causalnet.effects.statistics import donor_mean
from causalnet.effects.words import OutcomeWords, words_of
from causalnet.errors import DataError, InputError, UnknownNodeError, explain
from causalnet.graph.node import Node

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Sweep", "as_sweep", "by_name", "interval", "responses"]

Array = NDArray[np.float64]
_EFFECTS = ("te", "de", "ce", "norm")
_NEEDED = (*_EFFECTS, "delta_de", "clean_direct", "clean_responder")
_ORDER = ("prompt", "node", "donor", "responder")


@dataclass(frozen=True, eq=False)
class Sweep:
    """Effects of ablating each node, averaged over donors.

    Parameters
    ----------
    data
        The data set it comes from.
    nodes, responders
        The ablated nodes and the components whose direct effects were followed.
    te, de, ce, norm, clean
        ``[prompt, node]``, in the outcome's units; effect = Y(do) − Y; ``clean`` is the node's own direct effect,
        unablated.
    delta_attn, delta_mlp
        ``[prompt, node]``: the part of ``ce`` that attention and MLP responders carry; 0 without responders.
    coupling, coupling_half, strength
        ``[node, responder]``: ΔDE averaged over prompts and donors; half the width of its 95 % t interval over
        prompts; the mean over prompts of its size.
    reached
        ``[node, responder]``: whether the responder answers on any prompt.
    clean_responder
        ``[prompt, responder]``: direct effects in the natural world.
    """

    data: "xr.Dataset"
    nodes: tuple[Node, ...]
    responders: tuple[Node, ...]
    te: Array
    de: Array
    ce: Array
    norm: Array
    clean: Array
    delta_attn: Array
    delta_mlp: Array
    coupling: Array
    coupling_half: Array
    strength: Array
    reached: NDArray[np.bool_]
    clean_responder: Array

    @property
    def prompts(self) -> int:
        """Return the number of prompts."""
        return self.te.shape[0]

    @property
    def widest(self) -> int:
        """Return how many responders answer the node that the most of them answer."""
        return int(self.reached.sum(axis=1).max(initial=0))

    @property
    def donors(self) -> int:
        """Return the size of the donor axis."""
        return int(self.data.sizes["donor"])

    @property
    def layers(self) -> int:
        """Return the number of layers that the nodes and responders span."""
        return 1 + max((node.layer for node in (*self.nodes, *self.responders) if node.layer is not None), default=-1)

    @property
    def ablation(self) -> str:
        """Return how nodes were ablated."""
        return str(self.data.attrs.get("ablation", "ablation"))

    @functools.cached_property
    def words(self) -> OutcomeWords:
        """Return in which words and units its numbers are told."""
        return words_of(self.data)

    @property
    def caption(self) -> str:
        """Return what every caption says: prompts, donors, ablation, outcome, units, sign."""
        donors = f", mean over {self.donors} donors" if self.donors > 1 else ""
        return f"n = {self.prompts} prompts{donors}; {self.ablation} ablation; {self.scale}; effect = Y(do) − Y"

    @property
    def scale(self) -> str:
        """Return the units, with the outcome where it is not the target's logit."""
        return self.words.unit if self.words.usual else f"{self.words.outcome}, {self.words.unit}"

    def need_responders(self, what: str) -> None:
        """Refuse a figure of single responders where the sweep has none.

        Raises
        ------
        InputError
            Saying why.
        """
        if not self.words.by_responder:
            why = f"the compensatory effect on {self.words.outcome} is no sum over responders"
            raise InputError(explain(f"{what} cannot be shown: {why}", mend="show its ce as a whole"))

    def of_kind(self, kind: str) -> list[int]:
        """Return the places of the attention (heads included) or MLP nodes on the node axis, in order of layer."""
        kinds = ("mlp",) if kind == "mlp" else ("attn", "head", "bias")
        found = [place for place, node in enumerate(self.nodes) if node.kind in kinds]
        return sorted(found, key=lambda place: self.nodes[place].sort_key)

    def place(self, node: Node | str) -> int:
        """Return the place of a node on the node axis.

        Raises
        ------
        UnknownNodeError
            If the sweep did not ablate that node.
        """
        name = str(node)
        names = [str(one) for one in self.nodes]
        if name not in names:
            raise UnknownNodeError(explain(f"node {name!r} was not ablated in this sweep", legal=names, got=name))
        return names.index(name)

    def strongest(self, kind: str | None = None) -> int:
        """Return the place of the node with the largest mean direct effect in the natural world."""
        places = self.of_kind(kind) if kind else list(range(len(self.nodes)))
        places = places or list(range(len(self.nodes)))
        return places[int(np.argmax(np.abs(self.clean.mean(axis=0)[places])))]


def as_sweep(data: "xr.Dataset | Sweep") -> Sweep:
    """Reduce a sweep data set (or return it, when it is reduced already).

    Raises
    ------
    DataError
        If a variable or dimension of the written schema is missing, or nothing was measured.
    """
    if isinstance(data, Sweep):
        return data
    missing = [name for name in _NEEDED if name not in data]
    if missing:
        raise DataError(explain(f"the result has no {', '.join(missing)}", mend="give the data set of a sweep"))
    if 0 in (data.sizes["prompt"], data.sizes["node"]):
        raise DataError("the result holds no prompt or no node")
    nodes = tuple(Node.parse(str(name)) for name in data["node"].values)
    responders = tuple(Node.parse(str(name)) for name in data["responder"].values)
    made = _reduced(data.transpose(*_ORDER), responders)
    return Sweep(
        data=data,
        nodes=nodes,
        responders=responders,
        clean=_plain(data, "clean_direct", "node"),
        clean_responder=_plain(data, "clean_responder", "responder"),
        **made,
    )


def _reduced(data: "xr.Dataset", responders: Sequence[Node]) -> dict[str, Any]:
    """Average over donors some prompts at a time, and keep of ΔDE what is told of all prompts together."""
    own = {
        "delta_attn": [node.kind in ("attn", "head", "bias") for node in responders],
        "delta_mlp": [node.kind == "mlp" for node in responders],
    }
    rows: dict[str, list[Array]] = {name: [] for name in (*_EFFECTS, *own)}
    count, shape = 0, (data.sizes["node"], len(responders))
    mean, centre, squares, strength = (np.zeros(shape) for _ in range(4))
    reached = np.zeros(shape, dtype=bool)
    for block in blocks(data):
        for name in _EFFECTS:
            rows[name].append(donor_mean(data[name][block].values, axis=2))
        delta = donor_mean(data["delta_de"][block].values, axis=2)
        for name, which in own.items():
            rows[name].append(delta[..., np.array(which, dtype=bool)].sum(axis=-1))
        mean += delta.sum(axis=0)
        delta = delta.astype(np.float32)
        strength += np.abs(delta).sum(axis=0, dtype=np.float64)
        reached |= delta.any(axis=0)
        # Mean and sum of squares about it, joined as Chan, Golub and LeVeque do (1983).
        here = delta.mean(axis=0, dtype=np.float64)
        squares += ((delta - here) ** 2).sum(axis=0)
        squares += (here - centre) ** 2 * (count * len(delta) / (count + len(delta)))
        count += len(delta)
        centre += (here - centre) * (len(delta) / count)
    return {name: np.concatenate(parts) for name, parts in rows.items()} | {
        "coupling": mean / count,
        "coupling_half": _half(squares, count),
        "strength": strength / count,
        "reached": reached,
    }


def responses(sweep: Sweep, chosen: NDArray[np.int64], prompts: int) -> NDArray[np.float32]:
    """Return the donor mean of ΔDE [prompt, node, place] of each node's chosen responders [node, place].

    Parameters
    ----------
    sweep
        The sweep; its data are read some prompts at a time.
    chosen
        Places of responders on their axis.
    prompts
        How many prompts, from the first.
    """
    data = sweep.data.transpose(*_ORDER).isel(prompt=slice(prompts))
    found = np.zeros((data.sizes["prompt"], *chosen.shape), dtype=np.float32)
    for block in blocks(data):
        delta = donor_mean(data["delta_de"][block].values, axis=2)
        found[block] = np.take_along_axis(delta, chosen[None], axis=2)
    return found


def _plain(data: "xr.Dataset", name: str, axis: Hashable) -> Array:
    return np.asarray(data[name].transpose("prompt", axis).values, dtype=np.float64)


@functools.cache
def _quantile(degrees: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, degrees))


def interval(values: Array) -> tuple[Array, Array]:
    """Return mean and half width of the 95 % t interval over prompts (the first axis); 0 for a single prompt."""
    count = values.shape[0]
    mean = values.mean(axis=0)
    return mean, _half(((values - mean) ** 2).sum(axis=0), count)


def _half(squares: Array, count: int) -> Array:
    """Return the half width of the interval of a mean from the sum of squares about it."""
    return np.zeros_like(squares) if count < 2 else _quantile(count - 1) * np.sqrt(squares / (count - 1) / count)


def by_name(summary: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    """Return the rows of a summary by node name; empty when there is no summary."""
    return {str(row["name"]): row for row in (summary or {}).get("nodes", ())}
