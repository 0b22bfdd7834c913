"""Pictures of causal graphs and of results: drawings, plots, and the report.

Nothing heavy is imported until something is drawn.
"""

from causalnet.draw.compensation import best_layer, ce_vs_direct, compare, coupling, donor_convergence, slopes
from causalnet.draw.layers import draw
from causalnet.draw.plots import drop_vs_direct, example, impact, waterfall
from causalnet.draw.render import Drawing, GraphvizMissingError
from causalnet.draw.report import Arm, Run, Variant, read_run, report
from causalnet.draw.responses import by_responder_kind, explained, variants
from causalnet.draw.routes import effect_routes
from causalnet.draw.style import save

__all__ = [
    "Arm",
    "Drawing",
    "GraphvizMissingError",
    "Run",
    "Variant",
    "best_layer",
    "by_responder_kind",
    "ce_vs_direct",
    "compare",
    "coupling",
    "donor_convergence",
    "draw",
    "drop_vs_direct",
    "effect_routes",
    "example",
    "explained",
    "impact",
    "read_run",
    "report",
    "save",
    "slopes",
    "variants",
    "waterfall",
]
