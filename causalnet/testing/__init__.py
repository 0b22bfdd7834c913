"""Networks with known answers, strategies, and the laws of structural causal models: for our tests and for users'.

>>> from causalnet.testing import check_laws
>>> from causalnet.testing.finite import field_network
>>> check_laws(field_network(length=5), laws=["composition"], cases=3).holds
True
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from causalnet.testing.estimators import DecompositionReport, check_decomposition
    from causalnet.testing.laws import LAWS, Case, Finding, Law, law
    from causalnet.testing.report import LawReport, check_laws

__all__ = [
    "LAWS",
    "Case",
    "DecompositionReport",
    "Finding",
    "Law",
    "LawReport",
    "check_decomposition",
    "check_laws",
    "law",
]

# Read when they are first asked for: pytest imports this room in every run, for the plugin.
_WHERE = {
    "causalnet.testing.estimators": ("DecompositionReport", "check_decomposition"),
    "causalnet.testing.laws": ("LAWS", "Case", "Finding", "Law", "law"),
    "causalnet.testing.report": ("LawReport", "check_laws"),
}


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            from importlib import import_module

            return getattr(import_module(module), name)
    raise AttributeError(f"module 'causalnet.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
