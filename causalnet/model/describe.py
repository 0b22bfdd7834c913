"""One line about a compiled model: the kind of its blocks, where the norms sit, how far it looks back."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from causalnet.model.mechanism import Mechanism, Mechanisms

__all__ = ["Portrait", "portrait", "table"]


@dataclass(frozen=True)
class Portrait:
    """What a table of families says of one.

    Attributes
    ----------
    family
        ``config.model_type``.
    block
        ``sequential``, ``parallel, one norm``, ``parallel, two norms``, or ``one mechanism per layer``.
    norm
        ``pre``, ``post`` or ``sandwich``, and the kind of the final norm.
    mixers
        Kinds of token mixers, in the order of the layers.
    windows
        Windows of the layers, ``full`` where there is none.
    heads
        Number of heads, ``-`` where they cannot be told apart.
    found
        ``record`` or ``discovery``.
    """

    family: str
    block: str
    norm: str
    mixers: str
    windows: str
    heads: str
    found: str


def portrait(mechanisms: Mechanisms) -> Portrait:
    """Describe a compiled model in one row.

    Examples
    --------
    >>> from causalnet.model.compile import compile_model
    >>> from causalnet.model.small import small_model
    >>> portrait(compile_model(small_model("cohere"))).block
    'parallel, one norm'
    """
    blocks = [block for block in mechanisms.graph.blocks if block.attn]
    parts = [part for layer in mechanisms.layers for part in layer]
    kind = "LayerNorm" if mechanisms.readout.norm.centred else "RMSNorm"
    return Portrait(
        family=mechanisms.config.model_type,
        block=_join(_block(mechanisms)),
        norm=f"{_join(_place(part) for part in parts)}, {kind}",
        mixers=_join(block.mixer for block in blocks),
        windows=_join("full" if block.window is None else str(block.window) for block in blocks),
        heads=_join("-" if block.heads is None else str(block.heads) for block in blocks),
        found=mechanisms.found,
    )


def table(portraits: Iterable[Portrait]) -> list[dict[str, str]]:
    """Return portraits as rows of a table, by family."""
    return [asdict(row) for row in sorted(portraits, key=lambda row: row.family)]


def _block(mechanisms: Mechanisms) -> list[str]:
    words = []
    for layer in mechanisms.layers:
        if layer.attn is None or layer.mlp is None:
            words.append("one mechanism per layer")
        elif layer.parallel:
            words.append("parallel, one norm" if layer.attn.norm_shared else "parallel, two norms")
        else:
            words.append("sequential")
    return words


def _place(part: Mechanism) -> str:
    before = part.norm is not None
    after = part.module is not None and part.source is not part.module and not part.takes_residual and not part.also
    return "sandwich" if before and after else "post" if after else "pre" if before else "none"


def _join(words: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(words))
