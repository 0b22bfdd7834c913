"""What the graph must know about one layer of a transformer."""

from dataclasses import dataclass

from causalnet.errors import GraphError, explain

__all__ = ["MIXERS", "Block"]

MIXERS = ("attention", "convolution", "recurrent")


@dataclass(frozen=True)
class Block:
    """One layer: which modules it has, and what they read.

    Parameters
    ----------
    layer
        Layer, from 0.
    attn, mlp
        Whether the layer has a causal token mixer and an MLP.
    parallel
        True where ``mlp[l]`` reads the same residual stream as ``attn[l]`` (GPT-J, Falcon), so that
        ``attn[l] -> mlp[l]`` is no edge; False where it reads it after the attention was added.
    heads
        How many heads the mixer has; None where it has none that can be told apart.
    window
        How many positions the mixer sees, its own included (sliding-window attention, the kernel of a
        convolution); None: every earlier position.
    mixer
        How positions are crossed: ``attention``, ``convolution`` or ``recurrent``.
    heads_sum
        Whether the mixer's contribution is the sum of its heads' and a bias. False where a norm comes
        after them: heads then stay parents of ``attn[l]`` and only ``attn[l]`` contributes.

    Raises
    ------
    GraphError
        If the layer cannot exist.

    Examples
    --------
    >>> Block(0, parallel=True).kind
    'parallel'
    """

    layer: int
    attn: bool = True
    mlp: bool = True
    parallel: bool = False
    heads: int | None = None
    window: int | None = None
    mixer: str = "attention"
    heads_sum: bool = True

    def __post_init__(self) -> None:
        """Refuse layers that cannot exist."""
        where = f"block {self.layer}"
        for name, least in (("layer", 0), ("heads", 1), ("window", 1)):
            value = getattr(self, name)
            if value is None and name != "layer":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise GraphError(f"{where}: {name} is {value!r}; it must be a whole number of at least {least}")
        for name in ("attn", "mlp", "parallel", "heads_sum"):
            if not isinstance(getattr(self, name), bool):
                raise GraphError(f"{where}: {name} is {getattr(self, name)!r}; it must be True or False")
        if self.mixer not in MIXERS:
            what = f"unknown mixer {self.mixer!r}"
            raise GraphError(explain(what, where=where, legal=MIXERS, got=str(self.mixer)))
        if not (self.attn or self.mlp):
            raise GraphError(f"{where}: has neither a mixer nor an MLP, so it adds nothing to the residual stream")

    @property
    def kind(self) -> str:
        """``parallel`` or ``sequential``."""
        return "parallel" if self.parallel else "sequential"
