"""The numbers that summaries and comparisons start from: a sweep averaged over its donors."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from causalnet.effects.statistics.donors import donor_mean
from causalnet.effects.words import words_of
from causalnet.graph.node import Node

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "FRACTIONS",
    "GROUPS",
    "PARTS",
    "blocks",
    "by_kind",
    "cells",
    "closure",
    "group",
    "kind",
    "prompt_means",
    "response_means",
    "self_repair",
]

# What a node's total effect consists of, and what is made of it.
PARTS = ("te", "de", "ce", "ce_attn", "ce_mlp", "norm", "self_repair")
# Those that are given as shares of what an ablation removes directly.
FRACTIONS = ("self_repair", "ce", "ce_attn", "ce_mlp", "norm")
GROUPS = ("all", "attn", "mlp")
_BY_KIND = ("ce_attn", "ce_mlp")
_BLOCK = 1 << 24  # bytes of changes of direct effects that are held at a time


def self_repair(ds: "xr.Dataset") -> "xr.DataArray":
    """Self-repair of every cell: TE − DE, computed as CE + NORM.

    Parameters
    ----------
    ds
        A sweep's result.

    Returns
    -------
    xarray.DataArray
        [prompt, node, donor], in the outcome's units; positive where the rest of the network gives back of it.

    References
    ----------
    Rushing and Nanda (2024), arXiv 2402.15390.
    """
    return (ds["ce"] + ds["norm"]).rename("self_repair").assign_attrs(units=ds["ce"].attrs["units"])


def kind(name: str) -> str:
    """Return ``attn`` for an attention layer or a part of one, ``mlp`` for an MLP, else the node's own kind.

    Examples
    --------
    >>> kind("attn[3].head[1]"), kind("mlp[0]")
    ('attn', 'mlp')
    """
    own = Node.parse(name).kind
    return "attn" if own in ("attn", "head", "bias") else own


def by_kind(parts: Sequence[str], ds: "xr.Dataset") -> tuple[str, ...]:
    """Return which parts a sweep has: attention's and MLPs' shares of CE only where CE is a sum over responders."""
    kept = words_of(ds).by_responder
    return tuple(name for name in parts if kept or name not in _BY_KIND)


def blocks(ds: "xr.Dataset") -> Iterator[slice]:
    """Yield blocks of prompts whose changes of direct effects are few enough to be held: a store may be larger."""
    delta = ds["delta_de"]
    # Where nobody responds, the effects themselves are what there is.
    step = max(1, _BLOCK // max(1, max(delta.nbytes, ds["te"].nbytes) // max(1, delta.shape[0])))
    for first in range(0, delta.shape[0], step):
        yield slice(first, first + step)


def cells(ds: "xr.Dataset") -> dict[str, np.ndarray]:
    """Every part [prompt, node, donor] in float64; NaN where a prompt has fewer donors."""
    found = [_cells(ds, block) for block in blocks(ds)]
    return {name: np.concatenate([one[name] for one in found]) for name in PARTS}


def _cells(ds: "xr.Dataset", block: slice) -> dict[str, np.ndarray]:
    found = {name: ds[name][block].values.astype(np.float64) for name in ("te", "de", "ce", "norm")}
    kinds = np.array([kind(name) for name in ds["responder"].values.tolist()])
    delta = ds["delta_de"][block].values
    for one in ("attn", "mlp"):
        found[f"ce_{one}"] = delta[..., kinds == one].sum(-1, dtype=np.float64)
    found["self_repair"] = found["ce"] + found["norm"]
    return {name: found[name] for name in PARTS}


def prompt_means(ds: "xr.Dataset") -> dict[str, np.ndarray]:
    """Every part's donor mean [prompt, node], and ``clean``, the clean direct effect, in float64."""
    found = [{name: donor_mean(values) for name, values in _cells(ds, block).items()} for block in blocks(ds)]
    means = {name: np.concatenate([one[name] for one in found]) for name in PARTS}
    return {**means, "clean": ds["clean_direct"].values.astype(np.float64)}


def response_means(ds: "xr.Dataset") -> np.ndarray:
    """Donor mean of each responder's change of direct effect [prompt, node, responder], in float32."""
    shape = tuple(ds.sizes[name] for name in ("prompt", "node", "responder"))
    found = np.zeros(shape, dtype=np.float32)
    if shape[2]:
        for block in blocks(ds):
            found[block] = donor_mean(ds["delta_de"][block].values, axis=2)
    return found


def group(nodes: Sequence[str], which: str) -> np.ndarray:
    """Return which nodes belong to a group: ``all``, ``attn`` or ``mlp``."""
    return np.array([which in ("all", kind(name)) for name in nodes])


def closure(ds: "xr.Dataset") -> tuple[float, float]:
    """Largest closure residual, absolute and relative, over prompts, nodes and donors.

    Returns
    -------
    tuple of float
        In the outcome's units, and as the share of the larger of the clean |outcome| and |DE| + Σ|ΔDE| + |NORM| of
        the same cell (|CE| where it is no sum over responders).
    """
    largest = relative = 0.0
    for block in blocks(ds):
        residual = np.abs(ds["residual"][block].values.astype(np.float64))
        parts = np.abs(ds["de"][block].values.astype(np.float64)) + np.abs(ds["norm"][block].values.astype(np.float64))
        response = ds["delta_de"][block].values if ds.sizes["responder"] else ds["ce"][block].values[..., None]
        parts += np.abs(response).sum(-1, dtype=np.float64)
        size = np.fmax(parts, np.abs(ds["clean_logit"][block].values.astype(np.float64))[:, None, None])
        share = np.divide(residual, size, out=np.zeros_like(residual), where=size > 0)
        largest, relative = max(largest, float(np.nanmax(residual))), max(relative, float(np.nanmax(share)))
    return largest, relative
