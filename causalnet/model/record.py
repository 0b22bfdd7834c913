"""Family records: where the mechanisms of a Hugging Face architecture live.

A record is data: paths inside the model, and the few conventions that differ between families.
It is never believed: :mod:`causalnet.model.check` holds every compiled model against the real one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Family", "Part", "Window"]


@dataclass(frozen=True, slots=True)
class Window:
    """How far back a mixer sees: a config field, and the layers to which it applies.

    Parameters
    ----------
    size
        Config field that holds the number of positions, the own one included.
    kinds
        Config field that lists the kinds of layers; empty where every layer has the window.
    kind
        The kind of layer that has it.
    """

    size: str
    kinds: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """One mechanism of a layer (its attention or its MLP), as paths inside the layer.

    Parameters
    ----------
    module
        The module that computes the mechanism; empty when it has none of its own (OPT's MLP).
    source
        The module whose output is the contribution, when that is not ``module`` itself: a norm after
        the mechanism, OPT's ``fc2``, the projection inside a module that adds the residual (BLOOM).
    also
        Further modules whose outputs belong to the contribution (a shared expert added by the layer).
    norm
        The norm through which it reads the residual stream; empty when it reads it directly.
    out
        For attention, the output projection: its input is the concatenation of the heads.
    heads
        Config field that holds the number of heads; empty where there are none to tell apart.
    scale
        Contribution divided by the output of ``source``: a number, the name of a config field
        (Granite's ``residual_multiplier``), or a function of the config.
    mixer
        For a token mixer: ``attention``, ``convolution`` or ``recurrent``.
    window
        The window of the mixer; None for the rule that most configs follow (``sliding_window`` with
        ``layer_types``).
    classes
        Class names of the module to which the part applies; empty for any.
    """

    module: str = ""
    source: str = ""
    also: tuple[str, ...] = ()
    norm: str = ""
    out: str = ""
    heads: str = "num_attention_heads"
    scale: float | str | Callable[[Any], float] = 1.0
    mixer: str = "attention"
    window: Window | None = None
    classes: tuple[str, ...] = ()


ATTENTION = Part("self_attn", norm="input_layernorm", out="o_proj")
MLP = Part("mlp", norm="post_attention_layernorm")


@dataclass(frozen=True, slots=True)
class Family:
    """The record of one architecture.

    Parameters
    ----------
    model_types
        The ``config.model_type`` values that it covers.
    layers
        Path of the list of layers from the model.
    norm
        Path of the final norm from the model.
    attn, mlp
        The two mechanisms of a layer.  Where layers differ, the alternatives: the first whose modules
        a layer has applies to it; a layer may have none.
    parallel
        Whether the MLP does not read the attention of its own layer: a constant, or a function of
        the config.
    logit_scale
        Factor between ``head(norm(z))`` and the model's logits: a number, the name of a config field
        to multiply with, that name after a ``/`` to divide by, or a function of the config.
    softcap
        Config field that holds a final soft-cap of the logits, if any.
    when
        Whether the record applies to a config of these types; several records may share a type.
    """

    model_types: tuple[str, ...]
    layers: str = "model.layers"
    norm: str = "model.norm"
    attn: tuple[Part, ...] = (ATTENTION,)
    mlp: tuple[Part, ...] = (MLP,)
    parallel: bool | Callable[[Any], bool] = False
    logit_scale: float | str | Callable[[Any], float] = 1.0
    softcap: str = ""
    when: Callable[[Any], bool] = field(default=lambda config: True)

    def is_parallel(self, config: Any) -> bool:
        """Return whether blocks of a model with this config are parallel."""
        return self.parallel(config) if callable(self.parallel) else self.parallel
