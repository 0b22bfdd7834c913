"""A sweep's data set, reduced to what pictures need: means over donors, one row per prompt."""

import functools
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from causalnet.effects.statistics import donor_mean
from causalnet.effects.words import OutcomeWords, words_of
from causalnet.errors import DataError, InputError, UnknownNodeError, explain
from causalnet.graph.node import Node

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Sweep", "as_sweep", "by_name", "interval"]

Array = NDArray[np.float64]
_NEEDED = ("te", "de", "ce", "norm", "delta_de", "clean_direct", "clean_responder")


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
    coupling
        ``[node, responder]``: ΔDE averaged over prompts and donors.
    responses
        ``[prompt, node, responder]``: ΔDE averaged over donors, in single precision.
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
    responses: NDArray[np.float32]
    clean_responder: Array

    @property
    def prompts(self) -> int:
        """Return the number of prompts."""
        return self.te.shape[0]

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
    attention = np.array([node.kind in ("attn", "head", "bias") for node in responders], dtype=bool)
    mlp = np.array([node.kind == "mlp" for node in responders], dtype=bool)
    order = ("prompt", "node", "donor", "responder")
    split: list[tuple[Array, Array, Array]] = []
    responses = np.empty((data.sizes["prompt"], len(nodes), len(responders)), dtype=np.float32)
    for place in range(len(nodes)):  # one node at a time: the whole array may be larger than memory
        delta = donor_mean(data["delta_de"].isel(node=place).transpose("prompt", "donor", "responder").values, axis=1)
        split.append((delta[:, attention].sum(axis=1), delta[:, mlp].sum(axis=1), delta.mean(axis=0)))
        responses[:, place] = delta
    parts = {name: donor_mean(data[name].transpose(*order[:3]).values, axis=2) for name in ("te", "de", "ce", "norm")}
    return Sweep(
        data=data,
        nodes=nodes,
        responders=responders,
        clean=_plain(data, "clean_direct", "node"),
        clean_responder=_plain(data, "clean_responder", "responder"),
        delta_attn=np.stack([one[0] for one in split], axis=1),
        delta_mlp=np.stack([one[1] for one in split], axis=1),
        coupling=np.stack([one[2] for one in split], axis=0),
        responses=responses,
        **parts,
    )


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
    if count < 2:
        return mean, np.zeros_like(mean)
    return mean, _quantile(count - 1) * values.std(axis=0, ddof=1) / np.sqrt(count)


def by_name(summary: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    """Return the rows of a summary by node name; empty when there is no summary."""
    return {str(row["name"]): row for row in (summary or {}).get("nodes", ())}
