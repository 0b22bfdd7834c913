"""Family records: where the mechanisms of a Hugging Face architecture live.

A record is data: paths inside the model, and the few conventions that differ between families.
It is never believed: :mod:`causalnet.model.check` holds every compiled model against the real one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["Family", "Part", "Scale", "Window", "default_window", "factor_of", "field_of", "source_of", "text_config"]


Scale = float | str | Callable[[Any], float]
"""A factor: a number, a config field to multiply with, one to divide by (``/name``), a function of the config."""


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
    more
        Added to the field, where it does not count the own position.
    """

    size: str
    kinds: str = ""
    kind: str = ""
    more: int = 0


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
        Further modules whose outputs belong to the contribution (a shared expert that the layer adds),
        each with its scale.
    norm
        The norm through which it reads the residual stream; empty when it reads it directly.
    out
        For attention, the output projection: its input is the concatenation of the heads.
    heads
        Config field that holds the number of heads; empty where there are none to tell apart.
    scale
        Contribution divided by the output of ``source`` (Granite's ``residual_multiplier``).
    mixer
        For a token mixer: ``attention``, ``convolution`` or ``recurrent``.
    cached
        Whether keys and values are all that the mixer needs of earlier positions.
    window
        The window of the mixer; None for the rule that most configs follow (``sliding_window`` with
        ``layer_types``).
    classes
        Class names of the module, or of the layer, to which the part applies; empty for any.
    """

    module: str = ""
    source: str = ""
    also: tuple[tuple[str, Scale], ...] = ()
    norm: str = ""
    out: str = ""
    heads: str = "num_attention_heads"
    scale: Scale = 1.0
    mixer: str = "attention"
    cached: bool = True
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
        Factor between ``head(norm(z))`` and the model's logits.
    softcap
        Config field that holds a final soft-cap of the logits, if any.
    when
        Whether the record applies to a config of these types; several records may share a type.
    refuse
        Why a model with this config cannot be expressed, and what to do; empty where it can.
    """

    model_types: tuple[str, ...]
    layers: str = "model.layers"
    norm: str = "model.norm"
    attn: tuple[Part, ...] = (ATTENTION,)
    mlp: tuple[Part, ...] = (MLP,)
    parallel: bool | Callable[[Any], bool] = False
    logit_scale: Scale = 1.0
    softcap: str = ""
    when: Callable[[Any], bool] = field(default=lambda config: True)
    refuse: Callable[[Any], str] = field(default=lambda config: "")

    def is_parallel(self, config: Any) -> bool:
        """Return whether blocks of a model with this config are parallel."""
        return self.parallel(config) if callable(self.parallel) else self.parallel


def text_config(config: Any) -> Any:
    """Return the config of the text model, which may be inside a larger one."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def field_of(config: Any, name: str, layer: int | None = None) -> Any:
    """Return a config field, of one layer where layers differ; None where there is no such field."""
    if not name:
        return None
    if layer is not None and getattr(config, "is_heterogeneous", False):
        config = config.per_layer_config[layer]
    value = getattr(config, name, None)
    return value[layer] if isinstance(value, list | tuple) and layer is not None else value


def factor_of(config: Any, scale: Scale) -> float:
    """Return the number that a scale stands for."""
    if callable(scale):
        return float(scale(config))
    if not isinstance(scale, str):
        return float(scale)
    return 1.0 / float(field_of(config, scale[1:])) if scale.startswith("/") else float(field_of(config, scale))


def default_window(config: Any, layer: int) -> int | None:
    """Return the sliding window of a layer as most configs tell it, None where all earlier positions are seen."""
    window = field_of(config, "sliding_window", layer)
    if not isinstance(window, int) or window <= 0 or getattr(config, "use_sliding_window", True) is False:
        return None
    kind = field_of(config, "layer_types", layer)
    return window if kind in (None, "sliding_attention") else None


def source_of(record: Any) -> str:
    """Write a record (or a part of one) as the Python expression that makes it, defaults left out.

    Examples
    --------
    >>> print(source_of(Family(("llama",), norm="model.ln")))
    Family(("llama",), norm="model.ln")
    """
    if isinstance(record, str):
        return f'"{record}"'
    if isinstance(record, tuple):
        inside = ", ".join(source_of(item) for item in record)
        return f"({inside},)" if len(record) == 1 else f"({inside})"
    if not isinstance(record, Family | Part | Window):
        return repr(record)
    plain = {"Family": Family(()), "Part": Part(), "Window": Window("")}[type(record).__name__]
    words = []
    for entry in fields(record):
        value = getattr(record, entry.name)
        if value != getattr(plain, entry.name):
            text = source_of(value)
            words.append(text if entry.name in ("model_types", "module", "size") else f"{entry.name}={text}")
    return f"{type(record).__name__}({', '.join(words)})"
