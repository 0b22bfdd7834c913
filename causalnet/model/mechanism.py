"""The compiled model: every node of the graph bound to the real module that computes it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from causalnet.graph import CausalGraph, Node
from causalnet.model.readout import Readout
from causalnet.model.record import text_config

__all__ = ["Layer", "Mechanism", "Mechanisms"]


@dataclass(frozen=True, eq=False)
class Mechanism:
    """One contribution to the residual stream and the modules behind it.

    Parameters
    ----------
    node
        ``attn[l]`` or ``mlp[l]``.
    module
        What computes it; None where it is not a module of its own.
    source
        The module whose output, times ``scale``, is the contribution.
    norm
        The norm through which it reads the residual stream, or None.
    norm_shared
        Whether that norm also feeds the other mechanism of the layer.
    out
        Output projection whose input [..., heads · head_dim] is the concatenation of the heads.
    heads
        Number of heads; None where they cannot be told apart.
    heads_sum
        Whether the contribution is the sum of the heads' and a bias; False where a norm comes after
        them.
    scale
        Contribution divided by the output of ``source``.
    mixer
        For ``attn[l]``: ``attention``, ``convolution`` or ``recurrent``; empty for ``mlp[l]``.
    cached
        Whether keys and values are all that it needs of earlier positions; where not, it is computed
        over the whole prefix.
    also
        Further modules whose outputs, each times its factor, belong to the contribution.  They are
        called before ``source``.
    """

    node: Node
    module: nn.Module | None
    source: nn.Module
    norm: nn.Module | None = None
    norm_shared: bool = False
    out: nn.Module | None = None
    heads: int | None = None
    scale: float = 1.0
    mixer: str = "attention"
    heads_sum: bool = True
    cached: bool = True
    also: tuple[tuple[nn.Module, float], ...] = ()

    @property
    def reader(self) -> nn.Module | None:
        """The module whose input is the residual stream that the mechanism reads."""
        return self.norm if self.norm is not None else self.module

    @property
    def takes_residual(self) -> bool:
        """Whether ``module`` is given the residual stream to add (BLOOM), ``source`` lying inside it."""
        return self.module is not None and self.source is not self.module and _inside(self.source, self.module)


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer: the module, its mechanisms in the order in which they are computed."""

    index: int
    module: nn.Module
    attn: Mechanism | None
    mlp: Mechanism | None
    parallel: bool

    def __iter__(self) -> Iterator[Mechanism]:
        return (part for part in (self.attn, self.mlp) if part is not None)


@dataclass(frozen=True, eq=False)
class Mechanisms:
    """A Hugging Face model as the mechanisms of a structural causal model.

    Attributes
    ----------
    hf
        The model itself, never changed.
    graph
        Its causal graph.
    layers
        Its layers, in order.
    readout
        Final norm, unembedding, logit scale.
    found
        How the structure was found: ``"record"`` or ``"discovery"``.
    """

    hf: nn.Module
    graph: CausalGraph
    layers: tuple[Layer, ...]
    readout: Readout
    found: str = "record"
    name: str = ""

    @property
    def config(self) -> Any:
        """The model's text config."""
        return text_config(self.hf.config)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Dtype of the residual stream."""
        return self.readout.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device on which token ids enter."""
        return self.hf.get_input_embeddings().weight.device  # type: ignore[operator, union-attr, return-value]

    @property
    def vocab(self) -> int:
        """Number of token ids that the model takes."""
        return self.hf.get_input_embeddings().weight.shape[0]  # type: ignore[operator, union-attr, index, return-value]

    @property
    def width(self) -> int:
        """Size of the residual stream, d_model."""
        return self.readout.weight.shape[1]

    @property
    def context(self) -> int | None:
        """Longest prompt that the model takes, where its config says."""
        for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"):
            value = getattr(self.config, name, None)
            if isinstance(value, int) and value > 0:
                return value
        return None

    def mechanism(self, node: Node) -> Mechanism:
        """Return the mechanism of an ``attn``, ``head``, ``bias`` or ``mlp`` node."""
        layer = self.layers[node.layer or 0]
        part = layer.mlp if node.kind == "mlp" else layer.attn
        assert part is not None, f"{node} is in the graph, so its layer computes it"
        return part


def _inside(one: nn.Module, other: nn.Module) -> bool:
    return any(one is module for module in other.modules())
