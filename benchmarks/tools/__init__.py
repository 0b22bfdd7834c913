"""The tools that are compared: one file each, written as the tool's own documentation would."""

from dataclasses import dataclass

__all__ = ["TOOLS", "Tool"]


@dataclass(frozen=True)
class Tool:
    """How a tool is called in the table, what has to be installed for it, and where it is written down."""

    title: str
    needs: str
    module: str
    function: str = "prepare"


TOOLS = {
    "causalnet": Tool("causalnet", "causalnet", "with_causalnet"),
    "hooks": Tool("plain hooks", "torch", "with_hooks"),
    "hooks-last": Tool("plain hooks, last position's logits only", "torch", "with_hooks", "prepare_last"),
    "nnsight": Tool("nnsight", "nnsight", "with_nnsight"),
    "transformer_lens": Tool("TransformerLens", "transformer_lens", "with_transformer_lens"),
    "pyvene": Tool("pyvene", "pyvene", "with_pyvene"),
}
"""By the name used on the command line."""
