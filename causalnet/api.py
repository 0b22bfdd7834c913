"""The face of causalnet: :func:`compile` and the model that it returns."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from causalnet.graph import CausalGraph
    from causalnet.model.check import CheckReport
    from causalnet.model.mechanism import Mechanisms

__all__ = ["CausalModel", "check", "compile"]


@dataclass(frozen=True, eq=False)
class CausalModel:
    """A language model as a structural causal model: its graph, its mechanisms and its tokenizer."""

    mechanisms: "Mechanisms"
    tokenizer: Any = None

    @property
    def graph(self) -> "CausalGraph":
        """The causal graph."""
        return self.mechanisms.graph

    def check(self) -> "CheckReport":
        """Hold the compiled form against the real model."""
        from causalnet.model.check import check as measure

        return measure(self.mechanisms)


def compile(model: Any, *, granularity: str = "layer", tokenizer: Any = None) -> CausalModel:
    """Compile a causal language model into its causal graph and mechanisms."""
    from causalnet.model.compile import compile_model
    from causalnet.model.load import load_model, load_tokenizer

    if isinstance(model, str | Path):
        tokenizer = load_tokenizer(model) if tokenizer is None else tokenizer
        model = load_model(model)
    return CausalModel(compile_model(model, granularity=granularity), tokenizer)


def check(model: Any) -> "CheckReport":
    """Compile a model and measure every closure."""
    return compile(model).check()
