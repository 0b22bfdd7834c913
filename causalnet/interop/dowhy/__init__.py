"""DoWhy as a second opinion: an independent twin, a solver, estimates with refuters, tests of a circuit.

DoWhy is loaded when it is first used (2 to 3 seconds), never by importing this module.  It is not used for
what it is not made for: its general identification runs for exponential time on a layer graph, and its mediation
estimands are other ones than those of :mod:`causalnet.effects`.
"""

from causalnet.interop.dowhy.adjust import adjustment_set
from causalnet.interop.dowhy.change import unit_change
from causalnet.interop.dowhy.design import Design, Estimate, Refutation
from causalnet.interop.dowhy.dither import dithered
from causalnet.interop.dowhy.falsify import Falsification, falsify_circuit
from causalnet.interop.dowhy.randomised import RandomisedAblation
from causalnet.interop.dowhy.solver import shapley
from causalnet.interop.dowhy.twin import Twin, to_gcm

__all__ = [
    "Design",
    "Estimate",
    "Falsification",
    "RandomisedAblation",
    "Refutation",
    "Twin",
    "adjustment_set",
    "dithered",
    "falsify_circuit",
    "shapley",
    "to_gcm",
    "unit_change",
]
